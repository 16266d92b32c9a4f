"""figures/sweeps.py: which rows of a suite are a sweep, and the numbers drawn of them."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from experiments.figures.runs import Suite
from experiments.figures.sweeps import KINDS, draw, find
from experiments.numbers import summary
from experiments.suite_file import read_suite
from utils.config import save_config

NAMES = [kind.name for kind in KINDS]


def suite(folder: Path, path: str, mious: list[list[float]], images: int = 0) -> Suite:
    """ablation.json of a shipped suite with these scores by row and seed; with `images` also the
    run folders, scored on so many."""
    read = read_suite(path, [])
    rows = {}
    for row, values in zip(read.rows.values(), mious, strict=True):
        scores = {
            str(seed): {"mIoU": v, "small": v / 2, "large": None} for seed, v in enumerate(values)
        }
        config = read.config_of(row, 0)
        metrics = {"step": config.steps, "split": "val", "num_images": images, "miou": 0.5}
        settings = {"stage": row.stage, "settings": row.settings, "metrics": {"0": metrics}}
        rows[row.name] = settings | summary(scores)
        if images:
            stage = folder / row.folder(0)
            stage.mkdir(parents=True)
            save_config(config, stage / "config.yaml")
            (stage / "metrics.jsonl").write_text('{"step": 1}\n')
    return Suite("sweep", folder, {"rows": rows, "config": read.config, "split": "val"})


def data(figure) -> dict:
    return json.loads(figure.data.read_text())


def test_patch_sizes(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    scores = [[40 + i, 41 + i, 42 + i] for i in range(8)]
    given = suite(tmp_path, "demo/suites/demo_patch_size.yaml", scores)
    [sweep] = find(given, KINDS[0])
    tall, wide, square = sweep.lines
    assert tall.rows == {32: "128x32", 64: "128x64", 96: "128x96", 128: "128x128"}
    assert wide.rows == {128: "128x128", 96: "96x128", 64: "64x128", 32: "32x128"}
    assert square.rows == {64: "64x64"} and square.marker == "*" and sweep.level is None

    figures = draw([given], tmp_path / "out")
    assert [bool(figure.images) for figure in figures] == [True, False, False]
    content = data(figures[0])
    assert figures[0].name == "fig6a_patch_size_sweep" and content["paper"] == {}
    row = content["rows"]["128x64"]
    assert row["x"] == 64 and row["mean"] == {"mIoU": 42, "small": 21, "large": None}
    assert row["std"]["mIoU"] == pytest.approx(1) and len(content["rows"]) == 8
    assert "mean and sample standard deviation" in figures[0].caption
    svg = figures[0].images[0].with_suffix(".svg").read_text()
    for label in ("tall, 128 x n", "wide, n x 128", "square, n x n", "mIoU, %"):
        assert svg.count(f"<!-- {label} -->") == 1
    assert "large classes" not in svg  # without a value no panel
    with Image.open(figures[0].images[0]) as image:
        pixels = {tuple(c) for c in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    assert {(0, 114, 178), (213, 94, 0), (230, 159, 0)} <= pixels


def test_fixed_weights_lie_against_the_adaptive_one(tmp_path) -> None:
    pytest.importorskip("matplotlib")
    scores = [[float(30 + i)] for i in range(11)]
    given = suite(tmp_path, "demo/suites/demo_ablation.yaml", scores)
    [sweep] = find(given, KINDS[1])  # Base + CARB and Local + CARB are no part of it
    assert sweep.lines[0].rows == {w: f"Dual, fixed w = {w:g}" for w in (0, 0.1, 0.5, 1)}
    assert sweep.level == ("adaptive w", "Dual + CARB")
    assert find(given, KINDS[0]) == find(given, KINDS[2]) == []
    figure = draw([given], tmp_path / "out")[1]
    rows = data(figure)["rows"]
    assert rows["Dual + CARB"]["x"] is None and rows["Dual + CARB"]["mean"]["mIoU"] == 35
    assert rows["Dual, fixed w = 0.5"]["x"] == 0.5 and figure.caption.endswith("seed 0.")


def test_resize_ratios_lie_against_the_random_one(tmp_path) -> None:
    given = suite(tmp_path, "demo/suites/demo_resize_ratio.yaml", [[40.0]] * 6)
    [sweep] = find(given, KINDS[2])
    ratios = (0.5, 0.75, 1, 1.5, 2)
    assert sweep.lines[0].rows == {ratio: f"Ratio {ratio:g}" for ratio in ratios}
    assert sweep.level == ("drawn from U[1, 2]", "Ratio U[1, 2]")


def test_rows_without_scores_and_pairs_are_no_sweep(tmp_path) -> None:
    scores = [[40.0], [41.0], *([[]] * 6)]
    given = suite(tmp_path, "demo/suites/demo_patch_size.yaml", scores)
    assert find(given, KINDS[0]) == []


@pytest.mark.parametrize(
    ("path", "kind", "images", "stated"),
    [
        ("experiments/suites/cityscapes_weight.yaml", 1, 500, [[0.1, 51.06]]),
        ("experiments/suites/cityscapes_resize_ratio.yaml", 2, 500, [[1.0, 52.1]]),
        ("experiments/suites/cityscapes_weight.yaml", 1, 20, None),  # some images of val only
        ("demo/suites/demo_ablation.yaml", 1, 100, None),
    ],
)
def test_the_papers_numbers_are_marked_on_the_papers_data_only(
    tmp_path, path, kind, images, stated
) -> None:
    pytest.importorskip("matplotlib")
    scores = [[50.0 + i] for i in range(len(read_suite(path, []).rows))]
    figure = draw([suite(tmp_path, path, scores, images)], tmp_path / "out")[kind]
    assert data(figure)["paper"].get("points") == stated
    svg = figure.images[0].with_suffix(".svg").read_text()
    assert ("<!-- paper -->" in svg) == bool(stated) == ("the paper states" in figure.caption)


def test_what_is_missing_names_shipped_suites(tmp_path) -> None:
    figures = draw([], tmp_path)
    assert [figure.name for figure in figures] == NAMES
    for figure, kind in zip(figures, KINDS, strict=True):
        assert len(figure.missing) == 2
        for missing in figure.missing:
            words = shlex.split(missing.command)
            name = words[0].partition("=")[2] or "demo_ablation"
            path = next((w for w in words if w.endswith(".yaml")), f"demo/suites/{name}.yaml")
            scores = [[1.0]] * len(read_suite(path, []).rows)
            assert find(suite(tmp_path, path, scores), kind)  # what it runs is such a sweep
