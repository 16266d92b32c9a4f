"""Fig. 7 and the failure gallery: what is drawn is what lies in the files."""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

from experiments.figures.commands import evaluation
from experiments.figures.galleries import chosen, open_split
from experiments.figures.qualitative import describe, draw, error_map, score
from experiments.figures.runs import Run, read_inputs
from utils.config import load_config
from utils.metrics import ConfusionMatrix
from utils.safe.errors import InputError

SIZE = (40, 320)  # drawn as it is in five columns
STEP = 320 + 6
COLORS = [[200, 0, 0], [0, 200, 0], [0, 0, 200]]
NAMES = [f"v{i}" for i in range(6)]


def save(path: Path, ids: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(ids, np.uint8)).save(path)


@pytest.fixture
def data(tmp_path) -> Path:
    """Six images; ground truth: road (0) on the left, sky (2) on the right, 4 rows without."""
    root = tmp_path / "data"
    for i, name in enumerate(NAMES):
        save(root / f"images/val/{name}.png", np.full((*SIZE, 3), 40 * i))
        truth = np.zeros(SIZE)
        truth[:, 160:] = 2
        truth[:4] = 255
        save(root / f"masks/val/{name}.png", truth)
    classes = [
        {"name": n, "color": c} for n, c in zip(("road", "pole", "sky"), COLORS, strict=True)
    ]
    (root / "classes.yaml").write_text(yaml.safe_dump({"classes": classes}))
    return root


def make_stage(folder: Path, data: Path, class_id: int | None, split: str = "val") -> None:
    """A run folder; its predictions are `class_id` everywhere."""
    values = load_config("configs/tiny_cpu.yaml").to_dict()
    values |= {"data_root": str(data), "class_file": str(data / "classes.yaml")}
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    if class_id is None:
        return
    for name in NAMES:
        save(folder / f"eval_{split}/predictions/{name}.png", np.full(SIZE, class_id))
    (folder / f"eval_{split}/metrics.json").write_text(json.dumps({"miou": class_id / 10}))


@pytest.fixture
def run(tmp_path, data) -> Run:
    make_stage(tmp_path / "demo/warmup", data, 1)
    make_stage(tmp_path / "demo/carb", data, 2)
    for name in NAMES:
        save(tmp_path / f"demo/masks_val/{name}.png", np.zeros(SIZE))
    (tmp_path / "demo/masks_val/score.json").write_text('{"miou": 0.07}')
    return read(tmp_path / "demo")


def read(*folders: Path) -> Run:
    return read_inputs([str(folder) for folder in folders])[0][0]


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def rows_of(image: np.ndarray, first: np.ndarray) -> int:
    """The row of pixels in which the panels begin: that of the first image."""
    return next(y for y in range(200) if np.array_equal(image[y, 6 : 6 + 320], first[0]))


def test_columns_are_the_files_in_order(run, tmp_path):
    fig7, _ = draw([run], "val", 3, tmp_path / "report")
    assert fig7.missing == () and len(fig7.images) == 1
    image = pixels(fig7.images[0])
    top = rows_of(image, np.zeros((*SIZE, 3)))
    for row, index in enumerate((0, 2, 4)):  # evenly spread over six
        panels = image[top + row * (40 + 6 + 28 + 6) :][:40]  # a line with its id above each
        panels = [panels[:, 6 + k * STEP :][:, :320] for k in range(5)]
        assert (panels[0] == 40 * index).all()
        assert (panels[1][:4] == 0).all()
        assert (panels[1][4:, :160] == COLORS[0]).all() and (panels[1][4:, 160:] == COLORS[2]).all()
        for panel, class_id in zip(panels[2:], (0, 1, 2), strict=True):
            assert (panel == COLORS[class_id]).all()
    below = image[top + 3 * 46 :]
    for color in (*COLORS, (0, 0, 0)):  # black: not labelled
        assert (below == color).all(-1).sum() > 200
    content = json.loads(fig7.data.read_text())
    assert content["images"] == ["v0", "v2", "v4"]
    assert [(c["title"], c["miou"]) for c in content["columns"]] == [
        ("CLIP pseudo-masks", 0.07),
        ("warm-up", 0.1),
        ("CARB", 0.2),
    ]


def test_other_runs_are_further_columns_and_many_go_to_a_second_image(run, data, tmp_path):
    others = []
    for i in range(3):
        make_stage(tmp_path / f"other_{i}", data, i)
        others.append(read(tmp_path / f"other_{i}"))
    fig7, _ = draw([run, *others], "val", 1, tmp_path / "report")
    assert [p.name for p in fig7.images] == ["fig7_qualitative.png", "fig7_qualitative_part2.png"]
    titles = [c["title"] for c in json.loads(fig7.data.read_text())["columns"]]
    assert titles == ["CLIP pseudo-masks", "warm-up", "CARB", "other_0", "other_1", "other_2"]
    second = pixels(fig7.images[1])
    colors = [second[second.shape[0] // 2, x] for x in range(10, second.shape[1], 20)]
    assert [c.tolist() for c in colors if c.tolist() in COLORS[1:]][-1] == COLORS[2]


def test_pseudo_masks_of_a_suite_lie_one_level_up(data, tmp_path):
    make_stage(tmp_path / "suite/base_0", data, 1)
    for name in NAMES:
        save(tmp_path / f"suite/pseudo_masks_val/{name}.png", np.zeros(SIZE))
    fig7, _ = draw([read(tmp_path / "suite/base_0")], "val", 1, tmp_path / "report")
    columns = json.loads(fig7.data.read_text())["columns"]
    assert [c["label_maps"] for c in columns] == [
        str(tmp_path / "suite/pseudo_masks_val"),
        str(tmp_path / "suite/base_0/eval_val/predictions"),
    ]


def test_what_is_missing_comes_with_its_command(data, tmp_path):
    make_stage(tmp_path / "my run/warmup", data, None)
    fig7, failures = draw([read(tmp_path / "my run")], "val", 2, tmp_path / "report")
    assert fig7.images == () and fig7.data is None
    folder = shlex.quote(str(tmp_path / "my run"))[1:-1]
    assert [m.command for m in fig7.missing] == [
        f"python gen_clip_masks.py --config '{folder}/warmup/config.yaml' --split val "
        f"--out '{folder}/masks_val' --score",
        f"python eval.py --ckpt '{folder}/warmup/last.pt' --split val --save-predictions",
    ]
    assert failures.missing == (fig7.missing[1],) and failures.images == ()


def test_one_missing_prediction_is_missing(run, tmp_path):
    (run.stages["carb"].predictions("val") / "v5.png").unlink()
    fig7, failures = draw([run], "val", ["v0", "v1"], tmp_path / "report")
    assert fig7.missing == () and "evenly" not in fig7.caption  # v5 is not shown
    assert len(failures.missing) == 1  # but may be the worst
    fig7, _ = draw([run], "val", ["v5"], tmp_path / "report")
    assert [m.what for m in fig7.missing] == [f"predictions of {run.last.folder} on 'val'"]
    assert len(json.loads(fig7.data.read_text())["columns"]) == 2


def test_an_evaluation_is_repeated_as_it_was(run):
    stage = run.last
    inference = {"scales": [0.75, 1.0], "flip": True, "window": [512, 512], "stride": None}
    scores = {"val": {"inference": inference | {"precision": "bf16"}}}
    command = evaluation(stage._replace(scores=scores), "val")
    assert command.removeprefix(f"python eval.py --ckpt {stage.checkpoint} ") == (
        "--split val --save-predictions --scales 0.75 1.0 --window 512 512 "
        "--flip --bf16 --overwrite"
    )


def test_data_that_is_not_there_or_has_no_such_image_is_said(run, data, tmp_path):
    (figure,) = draw([run], "val", ["v9"], tmp_path / "report")
    assert "no image v9; ids look like v0" in figure.missing[0].what
    data.rename(tmp_path / "moved")
    (figure,) = draw([run], "val", 2, tmp_path / "report")
    assert str(data) in figure.missing[0].what and figure.images == ()


def test_two_data_sets_are_two_figures(run, data, tmp_path):
    other = tmp_path / "other_data"
    shutil.copytree(data, other)
    make_stage(tmp_path / "second", other, 1)
    figures = draw([run, read(tmp_path / "second")], "val", 1, tmp_path / "report")
    assert [f.name for f in figures] == [
        "fig7_qualitative",
        "failures",
        "fig7_qualitative_2",
        "failures_2",
    ]
    titles = [f.title for f in figures if f.name.startswith("fig7")]
    assert titles == [f"Fig. 7: qualitative results ({name})" for name in ("data", "other_data")]
    assert len({p for f in figures for p in f.images}) == 4


def test_without_ground_truth_the_figure_has_no_such_column(run, data, tmp_path):
    for file in (data / "masks/val").iterdir():
        file.unlink()
    (data / "masks/val").rmdir()
    (data / "masks").rmdir()
    fig7, failures = draw([run], "val", 1, tmp_path / "report")
    image = pixels(fig7.images[0])
    top = rows_of(image, np.zeros((*SIZE, 3)))
    assert image[top, 6 + STEP].tolist() == COLORS[0]  # the pseudo-mask
    assert failures.missing[0].what == "ground truth of 'val'"


def test_images_are_spread_evenly(data, run):
    split_data = open_split(run.last.config, "val")
    assert chosen(split_data, 4) == ["v0", "v1", "v3", "v4"]
    assert chosen(split_data, 99) == NAMES and chosen(split_data, ["v3"]) == ["v3"]


# ---------------------------------------------------------------- failures


def test_failures_are_the_worst_first_with_number_and_confusion(run, tmp_path):
    folder = run.last.predictions("val")
    for i, name in enumerate(NAMES):  # v0 is right but for nothing, v5 wrong on 50 columns
        prediction = np.zeros(SIZE)
        prediction[:, 160:] = 2
        prediction[:, : 10 * i] = 1
        save(folder / f"{name}.png", prediction)
    _, figure = draw([run], "val", 2, tmp_path / "report")
    content = json.loads(figure.data.read_text())
    assert [row["image"] for row in content["images"]] == NAMES[::-1]
    # v5: 50 of road's 160 columns are called pole; classes 0, 1, 2
    worst = content["images"][0]
    assert worst["miou"] == pytest.approx((110 / 160 + 0 + 1) / 3)
    assert (worst["truth"], worst["prediction"]) == ("road", "pole")
    assert worst["share"] == pytest.approx(50 / 320)
    assert content["images"][-1] == {"image": "v0", "miou": 1.0}

    image = pixels(figure.images[0])
    top = next(y for y in range(300) if (image[y, 6:326] == 40 * 5).all())
    panels = [image[top : top + 40, 6 + k * STEP :][:, :320] for k in range(4)]
    assert (panels[2][:, :50] == COLORS[1]).all() and (panels[2][:, 160:] == COLORS[2]).all()
    assert (panels[3][:4] == 0).all()  # not labelled
    assert (panels[3][4:, :50] == (0xD5, 0x5E, 0x00)).all()
    assert (panels[3][4:, 50:] == 128 + 40 * 5 // 2).all()
    # the second row is v4, under a line of text of its own
    second = next(y for y in range(top + 40, 500) if (image[y, 6:326] == 40 * 4).all())
    assert second > top + 40 + 6 + 12
    assert (image[second + 46 :] == (0xD5, 0x5E, 0x00)).all(-1).sum() > 200  # legend


def test_score_is_that_of_the_confusion_matrix(run):
    split_data = open_split(run.last.config, "val")
    rng = np.random.default_rng(0)
    truth, prediction = rng.integers(0, 3, (2, *SIZE)).astype(np.uint8)
    truth[0] = 255
    save(Path(split_data.ground_truth["v0"].path), truth)
    save(run.last.predictions("val") / "v0.png", prediction)
    found = score(split_data, "v0", run.last.predictions("val"))
    matrix = ConfusionMatrix(3)
    matrix.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    assert found["miou"] == matrix.miou()
    pairs = [(g, p) for g in range(3) for p in range(3) if g != p]
    counts = {(g, p): ((truth == g) & (prediction == p)).sum() for g, p in pairs}
    g, p = max(counts, key=counts.get)
    names = ("road", "pole", "sky")
    assert (found["truth"], found["prediction"]) == (names[g], names[p])
    assert found["share"] == counts[g, p] / (truth != 255).sum()


def test_an_image_without_labels_is_no_failure_and_a_wrong_size_is_said(run, tmp_path):
    split_data = open_split(run.last.config, "val")
    save(Path(split_data.ground_truth["v3"].path), np.full(SIZE, 255))
    _, figure = draw([run], "val", 9, tmp_path / "report")
    assert "v3" not in [row["image"] for row in json.loads(figure.data.read_text())["images"]]
    save(run.last.predictions("val") / "v1.png", np.zeros((3, 4)))
    with pytest.raises(InputError, match=r"v1\.png does not fit .*one shape.*--overwrite"):
        draw([run], "val", 2, tmp_path / "report")


def test_words_for_a_confusion():
    found = {"truth": "pole", "prediction": "tree", "share": 0.257}
    assert describe(found) == "pole taken for tree on 26 % of the pixels"
    assert describe(found | {"share": 0.0004}) == "pole taken for tree on 0.04 % of the pixels"
    assert describe({"miou": 1.0}) == "no pixel is wrong"


def test_error_map_marks_wrong_pixels_only():
    image = np.array([[[0, 0, 0], [255, 255, 255], [10, 20, 30], [9, 9, 9]]], np.uint8)
    shown = error_map(image, np.array([[0, 1, 1, 255]]), np.array([[0, 1, 0, 0]]))
    assert shown.tolist() == [[[128] * 3, [255] * 3, [0xD5, 0x5E, 0], [0, 0, 0]]]


def test_needs_no_matplotlib():
    """run_demo.sh ends with demo/report.py, where requirements.txt alone is installed."""
    code = "import sys; sys.modules['matplotlib'] = None; import demo.report; "
    code += "import experiments.figures.qualitative"
    subprocess.run([sys.executable, "-c", code], check=True)
