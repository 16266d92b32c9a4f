"""Confusion matrix and per-class bars: numbers drawn are the numbers of metrics.json."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from experiments.figures import classes
from experiments.figures.classes import draw, percent_of_rows
from experiments.figures.runs import Run, read_inputs
from experiments.figures.style import COLOURS, WIDTH
from utils.config import load_config
from utils.metrics import ConfusionMatrix
from utils.safe.errors import InputError

to_hex = pytest.importorskip("matplotlib.colors").to_hex

NAMES = ("road", "pole", "sky", "train")
COUNTS = [[60, 2, 2, 0], [3, 1, 0, 0], [0, 0, 32, 0], [0, 0, 0, 0]]  # no train


def matrix_of(counts: list[list[int]], other: int = 0) -> ConfusionMatrix:
    matrix = ConfusionMatrix(len(counts))
    matrix.counts[:-1] = torch.tensor(counts)
    matrix.counts[-1, 0] = other
    return matrix


def make_stage(folder: Path, scores: dict | None) -> None:
    values = load_config("configs/tiny_cpu.yaml").to_dict()
    class_file = folder.parent / "classes.yaml"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(values | {"class_file": str(class_file)}))
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    if scores is not None:
        (folder / "eval_val").mkdir()
        (folder / "eval_val/metrics.json").write_text(json.dumps(scores))


@pytest.fixture
def make(tmp_path):
    (tmp_path / "classes.yaml").write_text(
        yaml.safe_dump({"classes": ["road", {"name": "pole", "small": True}, "sky", "train"]})
    )

    def make(name: str, scores: dict | None) -> Run:
        make_stage(tmp_path / name, scores)
        return read_inputs([str(tmp_path / name)])[0][0]

    return make


@pytest.fixture
def drawn(monkeypatch) -> list:
    """The matplotlib figures that are saved, as wide as a page."""
    kept = []
    save = classes.save_figure

    def keep(draw, *others, **options):
        kept.append(draw(WIDTH))
        return save(draw, *others, **options)

    monkeypatch.setattr(classes, "save_figure", keep)
    return kept


def test_metrics_json_holds_the_counts():
    matrix = matrix_of(COUNTS)
    assert matrix.to_dict(NAMES)["confusion"] == COUNTS
    matrix = matrix_of(COUNTS, other=7)  # ids that are no class: one more row
    content = json.loads(json.dumps(matrix.to_dict(NAMES)))
    assert content["confusion"] == [*COUNTS, [7, 0, 0, 0]]
    counts = np.array(content["confusion"])
    assert [row["predicted"] for row in content["classes"].values()] == counts.sum(0).tolist()
    assert [row["ground_truth"] for row in content["classes"].values()] == [64, 4, 32, 0]
    one = ConfusionMatrix(2)
    one.update(torch.tensor([1]), torch.tensor([0]))
    assert one.to_dict(("a", "b"))["confusion"] == [[0, 1], [0, 0]]  # [truth][prediction]


def test_percent_of_rows_by_hand():
    percent = percent_of_rows(np.array([[3, 1], [0, 0]]))
    np.testing.assert_array_equal(percent, [[75, 25], [np.nan, np.nan]])


def test_confusion_shows_each_share_of_half_a_percent_and_more(make, drawn, tmp_path):
    run = make("run", matrix_of(COUNTS, other=5).to_dict(NAMES))
    figure = draw([run], "val", tmp_path / "report")[0]
    (axes,) = drawn[0].axes
    shown = {tuple(map(int, t.get_position())): t.get_text() for t in axes.texts}
    assert shown == {  # (column, row)
        (0, 0): "94",
        (1, 0): "3",
        (2, 0): "3",
        (0, 1): "75",
        (1, 1): "25",
        (2, 2): "100",
        (0, 4): "100",
    }
    assert [t.get_text() for t in axes.get_yticklabels()] == [*NAMES, "other ids"]
    assert [t.get_text() for t in axes.get_xticklabels()] == list(NAMES)
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "ground truth")
    assert "Not in the ground truth (grey): train." in figure.caption
    data = json.loads(figure.data.read_text())
    assert data["pixels"] == [*COUNTS, [5, 0, 0, 0]]
    assert (data["rows_ground_truth"], data["columns_prediction"]) == (
        [*NAMES, "other ids"],
        list(NAMES),
    )
    assert [p.suffix for p in figure.images] == [".png"]
    assert figure.images[0].with_suffix(".svg").is_file()


@pytest.mark.parametrize("count", [12, 19, 25])
def test_numbers_and_names_fit_with_any_number_of_classes(make, monkeypatch, tmp_path, count):
    drawn = []  # not saved: that would leave the places of another resolution
    monkeypatch.setattr(classes, "save_figure", lambda draw, *_, **__: drawn.append(draw(WIDTH)))
    rng = np.random.default_rng(0)
    counts = rng.integers(1, 100, (count, count)).tolist()
    names = [f"a long class name {k}" for k in range(count)]
    run = make("run", matrix_of(counts).to_dict(names))
    classes.draw_confusion(run, "val", tmp_path / "report")
    figure, (axes,) = drawn[0], drawn[0].axes
    figure.canvas.draw()
    cell = axes.transData.transform([(1, 0)])[0, 0] - axes.transData.transform([(0, 0)])[0, 0]
    assert len(axes.texts) == sum(v >= 0.5 for v in percent_of_rows(np.array(counts)).ravel())
    for text in axes.texts:
        box = text.get_window_extent()
        assert box.width < 0.95 * cell and box.height < 0.8 * cell
        # 900 pixels for 9 inches: at least 8 pixels of letter
        assert text.get_fontsize() / 72 * 100 >= 8
    for label in (*axes.get_xticklabels(), *axes.get_yticklabels()):
        box = label.get_window_extent()
        assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= figure.bbox.x1


def test_colours_fall_evenly_in_lightness():
    rgb = classes.colour_map()(np.linspace(0, 1, 21))[:, :3]
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    lightness = 116 * np.cbrt(linear @ [0.2126, 0.7152, 0.0722]) - 16
    steps = -np.diff(lightness)
    assert lightness[0] == pytest.approx(100) and (steps > 0).all()
    assert steps.max() < 1.6 * steps.mean() and steps.min() > 0.5 * steps.mean()


@pytest.mark.parametrize("scores", [None, {"without": "confusion"}])
def test_scores_or_confusion_missing_names_the_evaluation(make, tmp_path, scores):
    if scores:
        scores = matrix_of(COUNTS).to_dict(NAMES)
        del scores["confusion"]  # as older versions wrote it
    run = make("run", scores)
    figures = draw([run], "val", tmp_path / "report")
    checkpoint = tmp_path / "run/last.pt"
    command = f"python eval.py --ckpt {checkpoint} --split val --save-predictions"
    command += " --overwrite" * bool(scores)
    assert [m.command for m in figures[0].missing] == [command] and figures[0].images == ()
    if scores:  # the bars need no more than the old file has
        assert figures[1].missing == () and len(figures[1].images) == 1
    else:
        assert figures[1].missing[0].command == command and figures[1].images == ()
    assert draw([], "val", tmp_path / "report") == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("classes", None, "expected 'confusion'"),
        ("classes", {}, "expected 'confusion'"),
        ("confusion", [[1, 2], [3]], "expected 'confusion'"),
        ("confusion", [["a"]], "expected 'confusion'"),
        ("miou", "x", "expected 'miou'"),
        ("classes", dict.fromkeys(NAMES, 3), "expected 'miou'"),
        ("classes", {name: {"iou": 0.5} for name in NAMES}, "expected 'miou'"),
        ("classes", {n: {"iou": "x", "ground_truth": 1} for n in NAMES}, "expected 'miou'"),
    ],
)
def test_scores_that_are_not_of_eval_are_refused_with_the_command(make, tmp_path, key, value, said):
    run = make("run", matrix_of(COUNTS).to_dict(NAMES) | {key: value})
    with pytest.raises(InputError, match=rf"metrics\.json: {said}.*python eval\.py .*--overwrite"):
        draw([run], "val", tmp_path / "report")


def test_bars_are_the_ious_sorted_by_frequency(make, drawn, tmp_path):
    first = matrix_of(COUNTS)
    second = matrix_of([[64, 0, 0, 0], [0, 4, 0, 0], [30, 0, 2, 0], [0, 0, 0, 0]])
    runs = [make(f"run_{i}", m.to_dict(NAMES)) for i, m in enumerate((first, second))]
    figure = draw(runs, "val", tmp_path / "report")[1]
    (axes,) = drawn[1].axes
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert labels == ["road (64.0 %)", "sky (32.0 %)", "● pole (4.0 %)", "train (0 %)"]
    order = [0, 2, 1, 3]
    bars = axes.containers
    assert len(bars) == 2
    for container, matrix, colour in zip(bars, (first, second), COLOURS, strict=False):
        widths = [bar.get_width() for bar in container]
        np.testing.assert_allclose(widths, 100 * matrix.iou().numpy()[order])
        assert {to_hex(bar.get_facecolor()) for bar in container} == {colour}
    numbers = [f"{100 * iou:.1f}" for iou in (60 / 67, 32 / 34, 1 / 6)]
    assert [t.get_text() for t in axes.texts][:4] == [*numbers, "–"]
    (legend,) = drawn[1].legends
    assert [t.get_text() for t in legend.get_texts()] == [
        f"run_{i} (mIoU {100 * m.miou():.1f})" for i, m in enumerate((first, second))
    ]
    data = json.loads(figure.data.read_text())["classes"]
    assert [row["class"] for row in data] == ["road", "sky", "pole", "train"]
    assert [row["small"] for row in data] == [False, False, True, False]
    assert data[0]["iou"] == {"run_0": 60 / 67, "run_1": 64 / 94}
    assert data[3]["iou"] == {"run_0": None, "run_1": None}
    assert [row["percent_of_pixels"] for row in data] == [64, 32, 4, 0]
    assert "marked with a dot" in figure.caption


def test_all_stages_of_a_run_have_bars(make, tmp_path):
    scores = matrix_of(COUNTS).to_dict(NAMES)
    (tmp_path / "demo").mkdir()
    (tmp_path / "demo/classes.yaml").write_text((tmp_path / "classes.yaml").read_text())
    for stage in ("warmup", "carb"):
        make_stage(tmp_path / "demo" / stage, scores)
    (run,) = read_inputs([str(tmp_path / "demo")])[0]
    figure = draw([run], "val", tmp_path / "report")[1]
    row = json.loads(figure.data.read_text())["classes"][0]
    assert list(row["iou"]) == ["demo: warm-up", "demo: CARB"]
    # of a row of Table 1 that has no CARB
    plain = run.stages["warmup"]
    plain = plain._replace(config=dataclasses.replace(plain.config, carb=False))
    run = run._replace(stages=run.stages | {"warmup": plain})
    figure = draw([run], "val", tmp_path / "report")[1]
    row = json.loads(figure.data.read_text())["classes"][0]
    assert list(row["iou"]) == ["demo: without CARB", "demo: CARB"]


def test_more_runs_than_colours_go_to_a_second_image(make, drawn, tmp_path):
    scores = matrix_of(COUNTS).to_dict(NAMES)
    runs = [make(f"run_{i}", scores) for i in range(len(COLOURS) + 2)]
    figure = draw(runs, "val", tmp_path / "report")[1]
    assert [p.name for p in figure.images] == ["class_iou.png", "class_iou_part2.png"]
    assert [len(f.axes[0].containers) for f in drawn[1:]] == [len(COLOURS), 2]


def test_runs_of_other_classes_are_another_figure_and_a_lost_class_file_marks_none(make, tmp_path):
    runs = [make("a", matrix_of(COUNTS).to_dict(NAMES))]
    runs.append(make("b", matrix_of([[5, 1], [1, 5]]).to_dict(("cat", "dog"))))
    (tmp_path / "classes.yaml").unlink()
    figures = draw(runs, "val", tmp_path / "report")
    assert [f.name for f in figures] == ["confusion", "class_iou", "class_iou_2"]
    assert "dot" not in figures[1].caption
    assert [r["class"] for r in json.loads(figures[2].data.read_text())["classes"]] == [
        "cat",
        "dog",
    ]
