"""The report's section of methods that make masks from maps: maps, masks, thresholds."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_run

import report
from experiments.figures.cams import draw, shaded
from experiments.figures.galleries import open_split
from experiments.figures.runs import read_inputs
from utils.config import load_config
from utils.safe.errors import InputError

CURVE = [{"threshold": t / 10, "miou": t / 20, "mean_precision": 0.5} for t in range(1, 5)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Results of a suite: CAM with maps, + both without."""
    config = tiny_run.make_run(tmp_path) / "warmup/config.yaml"
    rows = {}
    for name, slug, options in (
        ("CAM", "cam", ["--without", "rcm", "mam"]),
        ("+ both", "both", []),
    ):
        masks = tmp_path / f"suite/{slug}_3/masks_train"
        for k in range(tiny_run.COUNT):
            tiny_run.save(masks / f"t{k}.png", np.full(tiny_run.SIZE, k % 3))
        made_from = {"class_names": ["road", "pole", "sky"], "threshold": 0.25}
        (masks / "meta.json").write_text(json.dumps({"made_from": made_from}))
        (masks.parent / "config.yaml").write_bytes(config.read_bytes())
        scores = {"miou": 0.3, "num_images": tiny_run.COUNT, "thresholds": CURVE}
        rows[name] = {"stage": "support_net", "options": options, "settings": {}}
        rows[name] |= {"seeds": {"3": {"mIoU": 30.0}}, "mean": {"mIoU": 30.0}, "std": {}}
        rows[name]["metrics"] = {"3": scores, "4": scores}
    for k in range(tiny_run.COUNT):
        save_maps(tmp_path / f"suite/cam_3/masks_train/cams/t{k}.npz")
    content = {"rows": rows, "settings": {}, "split": "train", "config": "c.yaml"}
    (tmp_path / "suite/ablation.json").write_text(json.dumps(content | {"suite": "s.yaml"}))
    return tmp_path / "suite"


def save_maps(file: Path) -> None:
    """Of road: 1 in the left half; of sky: 0.5 in the right half."""
    maps = np.zeros((2, *tiny_run.SIZE), np.float16)
    maps[0, :, :16], maps[1, :, 16:] = 1, 0.5
    file.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(file, classes=np.array([0, 2]), cams=maps)


def drawn(folder: Path) -> list:
    return draw(read_inputs([str(folder)])[1], 2, folder / "out")


def test_gallery_and_the_command_for_missing_maps(folder: Path) -> None:
    figure = drawn(folder)[1]
    (gallery,) = figure.galleries
    masks = ["CAM: mask\nmIoU 30.0", "+ both: mask\nmIoU 30.0"]
    assert gallery.titles == ["image", "ground truth", "CAM: maps", *masks]
    (missing,) = figure.missing
    run = folder / "both_3"
    expected = f"--config {run}/config.yaml --run-dir {run} --split train --out {run}/masks_train"
    assert missing.command == f"python -m baselines.support_net {expected} --save-cams"

    for k in range(tiny_run.COUNT):
        save_maps(run / f"masks_train/cams/t{k}.npz")
    figure = drawn(folder)[1]
    assert figure.missing == () and "+ both: maps" in figure.galleries[0].titles


def test_maps_are_shown_in_the_colour_of_their_class(folder: Path) -> None:
    split_data = open_split(load_config(folder / "cam_3/config.yaml"), "train")
    file = folder / "cam_3/masks_train/cams/t0.npz"
    found = shaded(split_data, "t0", file)
    palette = split_data.classes.palette
    assert (found[:, :16] == palette[0]).all()
    grey = shaded(split_data, "t0", file_without_maps(folder))
    assert (grey == grey[..., :1]).all()
    mixed = 0.5 * grey[:, 16:].astype(float) + 0.5 * palette[2]
    assert np.abs(found[:, 16:] - mixed).max() <= 1
    file.write_bytes(b"PK damaged")
    with pytest.raises(InputError, match=r"t0\.npz: expected maps and classes"):
        shaded(split_data, "t0", file)


def file_without_maps(folder: Path) -> Path:
    file = folder / "none.npz"
    np.savez_compressed(file, classes=np.zeros(0, int), cams=np.zeros((0, *tiny_run.SIZE)))
    return file


def test_chart_of_the_thresholds(folder: Path) -> None:
    figure = drawn(folder)[0]
    assert figure.images[0].is_file() and "(dotted)" in figure.caption
    curves = json.loads(figure.data.read_text())["curves"]
    assert curves == {"CAM": [CURVE, CURVE], "+ both": [CURVE, CURVE]}


def test_without_a_background_there_is_no_chart(folder: Path) -> None:
    content = json.loads((folder / "ablation.json").read_text())
    for row in content["rows"].values():
        for score in row["metrics"].values():
            del score["thresholds"]
    (folder / "ablation.json").write_text(json.dumps(content))
    (figure,) = drawn(folder)
    assert figure.galleries


def test_other_suites_have_no_such_figures(folder: Path, tmp_path: Path) -> None:
    content = json.loads((folder / "ablation.json").read_text())
    for row in content["rows"].values():
        row["stage"] = "warmup"
    (folder / "ablation.json").write_text(json.dumps(content))
    assert drawn(folder) == []


def test_report(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "report"
    report.main([str(folder), "--out", str(out), "--images", "1", "--only", "cams"])
    assert "2 figures drawn, 1 command missing" in capsys.readouterr().out
    assert "--save-cams" in (out / "report.md").read_text(encoding="utf-8")


def test_maps_of_the_working_size_cover_the_image(folder: Path) -> None:
    """SEAM, say, saves them smaller than the image."""
    small = np.zeros((1, 4, 6), np.float16)
    small[0, :, :3] = 1
    file = folder / "small.npz"
    np.savez_compressed(file, classes=np.array([0]), cams=small)
    split = open_split(load_config(folder / "cam_3/config.yaml"), "train")
    picture = shaded(split, "t0", file)
    assert picture.shape == (*tiny_run.SIZE, 3)
    assert (picture[:, 0] == split.classes.palette[0]).all()
    assert not (picture[:, -1] == split.classes.palette[0]).all()


def test_a_first_row_without_training_has_no_config(folder: Path) -> None:
    (folder / "cam_3/config.yaml").unlink()
    (folder / "cam_3").rename(folder / "cam_0")  # one for all seeds
    path = folder / "ablation.json"
    content = json.loads(path.read_text())
    content["rows"]["CAM"] |= {"stage": "prior", "options": [], "settings": {"image_size": None}}
    path.write_text(json.dumps(content))
    for file in (folder / "cam_0/masks_train/cams").glob("*.npz"):
        file.unlink()
    figure = drawn(folder)[1]
    (gallery,) = figure.galleries
    assert gallery.titles[:3] == ["image", "ground truth", "CAM: mask\nmIoU 30.0"]
    command = figure.missing[0].command
    assert command.startswith("python -m baselines.prior --config c.yaml --set image_size=null")
