"""experiments/figures/class_curves.py: the classes of a suite, from the log to the drawing."""

import json
from pathlib import Path

import pytest
from test_curves import KNOWN, drawn

from experiments.figures.class_curves import draw, most_changed, with_classes
from experiments.figures.panels import Curve
from experiments.figures.runs import read_inputs
from utils.config import load_config, save_config

CONFIG = "demo/config.yaml"
ROWS = {"Dual": {}, "CARB": {}, "Agreement": {"region_balance": "class_agreement"}}


def by_class(fence: float, others: float) -> list[float]:
    """Values of the 12 classes of the demo; fence is the fourth."""
    return [fence if i == 3 else others for i in range(12)]


def metrics(fence: float) -> dict:
    classes = {"road": {"iou": 0.7}, "fence": {"iou": fence}, "car": {"iou": None}}
    return {"miou": 0.3, "classes": classes}


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A plain row, CARB with one w, and a row whose classes have weights of their own."""
    out, rows = tmp_path / "runs/balance", {}
    fences = {"Dual": 0.2, "CARB": 0.05, "Agreement": 0.21}
    logged = {
        "Dual": {},
        "CARB": {"w": 0.25},
        "Agreement": {"w": 0.25, "class_w": by_class(0.5, 0.1)},
    }
    for name, settings in ROWS.items():
        stage = "warmup" if name == "Dual" else "carb"
        folder = out / f"{name.lower()}_0"
        folder.mkdir(parents=True)
        keys = [f"{key}={value}" for key, value in settings.items()] + [f"carb={stage == 'carb'}"]
        save_config(load_config(CONFIG, keys), folder / "config.yaml")
        shares = {"class_mask": by_class(0.1, 0.0), "class_consistent": by_class(0.02, 0.0)}
        line = KNOWN | {"step": 1000} | shares | logged[name]
        (folder / "metrics.jsonl").write_text(json.dumps(line) + "\n")
        found = {"mIoU": 30.0, "small": None, "large": None}
        rows[name] = {"stage": stage, "settings": settings, "seeds": {"0": found}, "mean": found}
        rows[name] |= {"std": found, "metrics": {"0": metrics(fences[name])}}
    content = {"rows": rows, "config": CONFIG, "split": "val", "settings": {}, "contrasts": {}}
    content |= {"against": {"Dual": ["CARB", "Agreement"]}, "seeds": [0]}
    content["pseudo_masks"] = {"miou": 0.3, "classes": {"fence": {"precision": 0.125}}}
    (out / "ablation.json").write_text(json.dumps(content))
    return out


def test_shares_and_weights_of_the_class_that_is_lost(suite: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    (figure,) = draw(read_inputs([str(suite)])[1], tmp_path / "out")
    points = {key: value[0][1] for key, value in drawn(figure).items()}
    share, weight = (
        "fence (masks right: 12%):\nconsistent, % of its masks",
        "fence: weight where inconsistent",
    )
    assert points.pop((share, "Dual", "")) == pytest.approx(20)
    assert points[share, "CARB", ""] == points[share, "Agreement", ""] == pytest.approx(20)
    assert points[weight, "CARB", ""] == 0.25 and points[weight, "Agreement", ""] == 0.5
    assert (weight, "Dual", "") not in points
    # no mask of the line has another class: no share, but a weight
    assert {panel.partition(" ")[0].strip(":") for panel, *_ in points} == {"fence", "road"}
    assert "against Dual" in figure.caption and figure.images[0].is_file()


def test_the_worst_class_comes_first() -> None:
    rows = {"A": metrics(0.3), "B": metrics(0.2), "C": metrics(0.6)}
    rows["B"]["classes"]["road"] = {"iou": 0.65}
    rows = {name: {"metrics": {"0": one}} for name, one in rows.items()}
    assert most_changed(rows, "A", ["B", "C"]) == ["fence", "road"]
    assert most_changed(rows, "A", []) == []


def test_confidence_has_no_weight_of_a_class_and_old_logs_have_nothing() -> None:
    curve = Curve("x", [[{"step": 1, "w": 0.5}]], None)
    assert with_classes(curve, ["road"], {"region_balance": "confidence"}) == curve
    assert with_classes(curve, ["road"], {}).logs == [[{"step": 1, "w": 0.5, "weight road": 0.5}]]
    strange = Curve("x", [[{"step": 1, "class_mask": [0.5, 0.5], "class_consistent": [0.1]}]], None)
    assert with_classes(strange, ["road", "car"], {}) == strange
