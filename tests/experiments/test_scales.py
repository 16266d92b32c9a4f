"""Fig. 3: which masks are shown, which images, what is said of them."""

import json
import shlex
from dataclasses import replace

import numpy as np
import pytest
import tiny_run
from PIL import Image
from read_run import read_run

import gen_clip_masks
from experiments.figures.runs import Run
from experiments.figures.scales import WAYS, draw
from utils.config import PRESETS, load_config
from utils.safe.errors import InputError

SCORES = {  # mIoU of all, small, large
    "": (0.30, 0.10, 0.50),
    "_ratio2": (0.35, 0.20, 0.40),
    "_grid2x2": (0.32, 0.15, None),
    "_ratio2_grid2x2": (0.36, 0.25, 0.45),
}
# Rows of 24 that one of the masks has and the others have not.
CHANGED = {"t0": 2, "t1": 12, "t2": 0, "t3": 24, "t4": 1, "t5": 6}


@pytest.fixture
def run(tmp_path) -> Run:
    return read_run(tiny_run.make_run(tmp_path))


def make_masks(run: Run, *suffixes: str, prefix: str = "masks_train", **changes: object) -> None:
    """Folders as gen_clip_masks.py writes them; the last one differs from the others."""
    for way in WAYS:
        if way.suffix not in suffixes:
            continue
        folder = run.folder / f"{prefix}{way.suffix}"
        for name, rows in CHANGED.items():
            mask = np.zeros(tiny_run.SIZE)
            mask[: rows * (way.suffix == suffixes[-1])] = 1
            tiny_run.save(folder / f"{name}.png", mask)
        made_from = {"split": "train", "ratio": [way.ratio], "grid": way.grid, "flip": False}
        (folder / "meta.json").write_text(json.dumps({"made_from": made_from | changes}))
        values = dict(zip(("miou", "miou_small", "miou_large"), SCORES[way.suffix], strict=True))
        (folder / "score.json").write_text(json.dumps(values | {"classes": {}}))


def test_those_whose_masks_differ_most_are_shown(run, tmp_path):
    make_masks(run, *SCORES)
    figure = draw(run, "train", 3, tmp_path / "out")[0]
    assert figure.missing == ()
    content = json.loads(figure.data.read_text())
    assert content["differing_pixels"] == {"t3": 1.0, "t1": 0.5, "t5": 0.25}
    assert "among 6 evenly spaced ones, those whose masks differ on most pixels" in figure.caption
    assert "Small classes: pole." in figure.caption
    assert [tuple(way.values())[-3:] for way in content["masks"]] == list(SCORES.values())
    with Image.open(figure.images[0]) as image:
        assert image.width > 6 * tiny_run.SIZE[1]  # six columns
        pixels = np.array(image)
    # The last column: the first row is wholly of class 1, the second one in its upper half.
    right = pixels[:, -40]
    counts = [int((right == color).all(1).sum()) for color in ((128, 0, 0), (0, 128, 0))]
    assert counts[1] == pytest.approx(counts[0] * 1.75 / 1.25, rel=0.05)


def test_a_teacher_that_resizes_itself_has_no_such_figure(run, tmp_path):
    make_masks(run, *SCORES)
    for preset in ("strong", "clearclip"):
        (stage,) = run.stages.values()
        config = replace(stage.config, teacher=PRESETS["teacher"][preset])
        other = run._replace(stages={"warmup": stage._replace(config=config)})
        (figure,) = draw(other, "train", 3, tmp_path / "out")
        assert not figure.images and [missing.command for missing in figure.missing] == [""]
        assert "resizes images or cuts windows itself" in figure.missing[0].what


def test_table(run, tmp_path):
    make_masks(run, *SCORES)
    lines = draw(run, "train", 1, tmp_path / "out")[0].tables[0].splitlines()
    assert lines[0] == "| pseudo-masks | mIoU | small classes | large classes |"
    assert lines[2:] == [
        "| (a) original | 30.0 | 10.0 | 50.0 |",
        "| (b) resize ratio 2 | 35.0 | 20.0 | 40.0 |",
        "| (c) 2x2 crops | 32.0 | 15.0 | - |",
        "| (d) both | 36.0 | 25.0 | 45.0 |",
    ]


def test_images_asked_for_are_shown_in_their_order(run, tmp_path):
    make_masks(run, *SCORES)
    figure = draw(run, "train", ["t5", "t0"], tmp_path / "out")[0]
    assert list(json.loads(figure.data.read_text())["differing_pixels"]) == ["t5", "t0"]
    assert "Images shown: as asked for." in figure.caption


def test_one_folder_alone_selects_nothing(run, tmp_path):
    make_masks(run, "_ratio2")
    figure = draw(run, "train", 2, tmp_path / "out")[0]
    assert list(json.loads(figure.data.read_text())["differing_pixels"]) == ["t0", "t3"]
    assert len(figure.missing) == 3 and len(figure.images) == 1
    assert "Images shown: evenly spaced." in figure.caption


def test_commands_of_what_is_missing_make_what_the_figure_reads(run, tmp_path, monkeypatch):
    """Each command, as gen_clip_masks.py reads it, names the folder, the ratio and the grid."""
    figure = draw(run, "train", 2, tmp_path / "out")[0]
    assert figure.images == () and not (tmp_path / "out").exists()
    assert [m.what for m in figure.missing] == [f"masks of 'train', {way.title}" for way in WAYS]
    for way, missing in zip(WAYS, figure.missing, strict=True):
        python, script, *arguments = shlex.split(missing.command)
        assert (python, script) == ("python", "gen_clip_masks.py")
        given = gen_clip_masks.parse_arguments(arguments)
        assert given.out == str(run.masks("train", way.suffix))
        assert (given.split, given.ratio, given.grid) == ("train", [way.ratio], way.grid)
        assert given.score and load_config(given.config) == run.last.config


def test_without_ground_truth_masks_are_shown_without_scores(run, tmp_path):
    make_masks(run, *SCORES)
    for path in [*tmp_path.glob("data/masks/train/*"), *run.folder.glob("*/score.json")]:
        path.unlink()
    figure = draw(run, "train", 1, tmp_path / "out")[0]
    assert figure.tables == () and figure.missing == () and len(figure.images) == 1
    (run.folder / "masks_train/meta.json").unlink()
    assert "--score" not in draw(run, "train", 1, tmp_path / "out")[0].missing[0].command


def test_masks_of_a_suite_lie_beside_its_runs(run):
    stage = run._replace(folder=run.folder / "warmup")
    assert stage.masks("val", WAYS[1].suffix) == run.folder / "warmup/masks_val_ratio2"
    (run.folder / "ablation.json").write_text("{}")
    assert stage.masks("val") == run.folder / "pseudo_masks_val"
    assert stage.masks("val", WAYS[1].suffix) == run.folder / "pseudo_masks_val_ratio2"
    (run.folder / "masks_val_ratio2").mkdir()
    assert stage.masks("val", WAYS[1].suffix) == run.folder / "masks_val_ratio2"


@pytest.mark.parametrize("change", [{"ratio": [1.5]}, {"flip": True}, {"clip_model": "other"}])
def test_masks_of_another_making_are_refused(run, tmp_path, change):
    make_masks(run, "", "_grid2x2")
    make_masks(run, "_ratio2", **change)
    with pytest.raises(InputError, match=f"masks_train_ratio2 are not .*{next(iter(change))}"):
        draw(run, "train", 1, tmp_path / "out")


def test_older_masks_have_no_precision_noted(run, tmp_path):
    make_masks(run, "")
    make_masks(run, "_ratio2", precision="fp32")
    assert len(draw(run, "train", 1, tmp_path / "out")[0].missing) == 2
    make_masks(run, "_ratio2", precision="bf16")
    with pytest.raises(InputError, match="precision"):
        draw(run, "train", 1, tmp_path / "out")


def test_a_data_set_that_is_not_there(run, tmp_path):
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    figure = draw(run, "train", 1, tmp_path / "out")[0]
    assert "no folder" in figure.missing[0].what and figure.missing[0].command == ""
