"""experiments/figures/curves.py: the numbers of metrics.jsonl are those that are drawn."""

import json
from itertools import pairwise
from pathlib import Path

import pytest

from experiments.figures import curves
from experiments.figures.curves import draw
from experiments.figures.panels import thin
from experiments.figures.runs import Suite, read_inputs
from experiments.figures.style import WIDTH
from utils.config import load_config, save_config

CONFIG = "demo/config.yaml"  # 12 classes, CARB from step 960
KNOWN = {"lr": 0.1, "loss": 1.0, "images_per_second": 8.0}


def line(step: int, consistent: float = 0.5, **more: object) -> dict:
    share = [0.0] * 12
    share[0], share[4], share[5] = 0.7, 0.2, 0.1  # road, pole, traffic light
    content = {"step": step, "loss_consistent": 0.25, "loss_inconsistent": 2.0}
    return KNOWN | content | {"consistent_fraction": consistent, "class_share": share} | more


def write_stage(folder: Path, lines: list[dict], seed: int = 0, carb: bool = True) -> None:
    folder.mkdir(parents=True)
    save_config(load_config(CONFIG, [f"seed={seed}", f"carb={carb}"]), folder / "config.yaml")
    (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(one)}\n" for one in lines))


def drawn(figure) -> dict[tuple[str, str, str], list[list[float]]]:
    """(panel, curve, quantity) -> its points, as they lie beside the image."""
    curves = json.loads(figure.data.read_text())["curves"]
    return {(c["panel"], c["curve"], c["quantity"]): c["points"] for c in curves}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """RUN/{warmup,carb}; the warm-up went on beyond CARB's start."""
    folder = tmp_path / "demo"
    write_stage(folder / "warmup", [line(480, 0.6), line(960, 0.7), line(1200, 0.9)])
    write_stage(folder / "carb", [line(1080, 0.75, w=0.125), line(1200, 0.8, balance=0.0625)])
    return folder


def test_what_is_drawn_of_a_run_is_what_it_logged(run, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    regions, training, throughput = draw(*read_inputs([str(run)]), tmp_path / "out")
    points = drawn(regions)
    area = [[480, 60], [960, 70], [1080, 75], [1200, 80]]  # mean, least and greatest are the same
    for region, values in (("consistent", area), ("inconsistent", [[s, 100 - v] for s, v in area])):
        found = points["(b) area, %", "demo", f"{region} region"]
        assert found == [pytest.approx([s, v, v, v]) for s, v in values]
    assert [p[1] for p in points["(a) loss", "demo", "inconsistent region"]] == [2.0] * 4
    assert points["weight w", "demo", "weight w"] == [[1080, *[0.125] * 3], [1200, *[0.0625] * 3]]
    assert regions.name == "fig5_regions" and "demo" not in regions.caption

    points = drawn(training)
    assert list(points) == [
        (panel, "demo", "")
        for panel in (
            "loss",
            "consistent area, %",
            "predicted as a small class, %",
        )
    ]
    small = points["predicted as a small class, %", "demo", ""]
    assert [p[1] for p in small] == pytest.approx([30.0] * 4)
    # no memory was logged
    assert [panel for panel, *_ in drawn(throughput)] == ["learning rate", "images per second"]
    assert [f.folded for f in (regions, training, throughput)] == [False, False, True]
    for figure in (regions, training, throughput):
        [image] = figure.images
        assert image.is_file() and image.with_suffix(".svg").is_file() and not figure.missing


def test_the_start_of_carb_is_marked_and_the_regions_are_told_apart(run, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    svg = draw(*read_inputs([str(run)]), tmp_path)[0].images[0].with_suffix(".svg").read_text()
    for label in (
        "consistent region",
        "inconsistent region",
        "weight w",
        "CARB starts",
        "(a) loss",
    ):
        assert svg.count(f"<!-- {label} -->") == 1 + (label == "weight w")  # once, and a title
    assert svg.count("stroke: #d55e00") >= 3  # the inconsistent loss and area, and the legend


def test_several_runs_have_a_colour_each(run, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    write_stage(tmp_path / "plain", [line(100), line(1200)], carb=False)
    write_stage(tmp_path / "supervised", [KNOWN | {"step": 600, "max_memory_mib": 2048}])
    (tmp_path / "supervised/command.txt").write_text("baselines/supervised.py\n")
    inputs = [str(run), str(tmp_path / "plain"), str(tmp_path / "supervised")]
    regions, training, throughput = draw(*read_inputs(inputs), tmp_path / "out")
    assert {curve for _, curve, _ in drawn(regions)} == {"demo", "plain"}
    points = drawn(training)
    assert points["loss", "supervised", ""] == [[600, 1, 1, 1]]
    assert ("predicted as a small class, %", "supervised", "") not in points
    points = drawn(throughput)
    assert points["peak memory, GiB", "supervised", ""] == [[600, 2, 2, 2]]
    svg = training.images[0].with_suffix(".svg").read_text()
    for colour, label in (("#0072b2", "demo"), ("#d55e00", "plain"), ("#009e73", "supervised")):
        assert f"stroke: {colour}" in svg and svg.count(f"<!-- {label} -->") == 1


def test_steps_of_a_long_training_do_not_run_into_each_other(tmp_path, monkeypatch) -> None:
    """Fig. 5 at the paper's 30 000 steps; a run that logged no regions is not in its legend."""
    pytest.importorskip("matplotlib")
    write_stage(tmp_path / "long", [line(s, w=0.1) for s in range(1000, 30001, 1000)])
    write_stage(tmp_path / "supervised", [KNOWN | {"step": 600}])
    kept = []

    def keep(draw, out, name):
        kept.append(draw(WIDTH))
        return ()

    monkeypatch.setattr(curves, "save_figure", keep)
    inputs = [str(tmp_path / "long"), str(tmp_path / "supervised")]
    draw(*read_inputs(inputs), tmp_path / "out")
    for figure in kept:
        figure.canvas.draw()
        for ax in figure.axes:
            labels = [text for text in ax.get_xticklabels() if text.get_text()]
            boxes = [text.get_window_extent() for text in labels]
            assert labels[-1].get_text() == "30k" and len(boxes) > 4
            assert all(a.x1 + 3 < b.x0 for a, b in pairwise(boxes))
    [legend] = kept[0].legends
    assert "supervised" not in [text.get_text() for text in legend.get_texts()]
    assert "supervised" in [text.get_text() for text in kept[1].legends[0].get_texts()]


def test_of_a_suite_seeds_are_a_mean_and_a_shared_warm_up_is_drawn_once(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    rows = {"Dual": ("warmup", "dual"), "Dual + CARB": ("carb", "dual_carb")}
    for seed, area in ((0, 0.6), (1, 0.8)):
        steps = (480, 960, 1200)
        write_stage(tmp_path / f"dual_{seed}", [line(s, area) for s in steps], seed, carb=False)
        # seed 1 was logged less often: of the curve are the steps of both
        late = [line(s, area, w=0.1 * (1 + seed)) for s in ((1080, 1200), (1200,))[seed]]
        write_stage(tmp_path / f"dual_carb_{seed}", late, seed)
    content = {
        name: {"stage": stage, "seeds": {"0": {}, "1": {}}} for name, (stage, _) in rows.items()
    }
    suite = Suite("a suite", tmp_path, {"rows": content})
    regions, training, throughput = draw([], [suite], tmp_path / "out")
    assert [f.name for f in (regions, training, throughput)] == [
        f"{name}_a_suite" for name in ("fig5_regions", "training_curves", "throughput")
    ]
    points = drawn(training)
    assert points["consistent area, %", "Dual", ""] == [
        pytest.approx([step, 70, 60, 80]) for step in (480, 960, 1200)
    ]
    # of the row with CARB what differs from the other
    steps = [p[0] for p in points["consistent area, %", "Dual + CARB", ""]]
    assert steps == [960, 1200]
    assert drawn(regions)["weight w", "Dual + CARB", "weight w"] == [
        pytest.approx([1200, 0.15, 0.1, 0.2])
    ]
    assert "Mean over 2 seeds" in regions.caption


def test_without_a_log_it_is_said_what_makes_one(tmp_path) -> None:
    suite = Suite("bare", tmp_path, {"rows": {"Dual": {"stage": "warmup", "seeds": {"0": {}}}}})
    figures = draw([], [suite], tmp_path)
    assert [len(f.missing) for f in figures] == [1, 1, 1] and not any(f.images for f in figures)
    for figure in figures:
        assert Path(figure.missing[0].command.split()[-1]).is_file()


def test_a_long_log_is_thinned_out_by_means() -> None:
    points = thin([(step, 2.0 * step) for step in range(1, 301)])
    assert len(points) == 100 and points[0] == (2, 4) and points[-1] == (299, 598)
    assert thin([(1, 5.0)]) == [(1, 5.0)] and thin([]) == []
