"""learning_curves.py: what is scored, what is not scored again, and the files it leaves."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
from PIL import Image
from read_run import read_run

import eval as evaluation
import prepare_data
import train_carb
import train_warmup
from datasets.labels import ClassTable
from experiments import learning_curves
from experiments.learning_curves import panels_of
from utils.safe.errors import InputError


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """base/: 8 steps without CARB; carb/: from its 4th step on with CARB. A checkpoint every 2."""
    folder = tmp_path_factory.mktemp("curves")
    tiny.make_cityscapes(folder / "data")
    tiny.make_clip(folder / "clip.pt")
    config = tiny.make_config(folder, views="dual")
    root, labels = str(folder / "data"), str(folder / "image_labels.json")
    prepare_data.main(["cityscapes", "--root", root, "--out", labels, "--splits", "train", "val"])
    arguments = ["--config", str(config), "--device", "cpu", "--keep-checkpoints"]
    base, carb = folder / "base", folder / "carb"
    train_warmup.main([*arguments, "--set", "carb=false", "--run-dir", str(base)])
    train_carb.main([*arguments, "--init", str(base / "warmup.pt"), "--run-dir", str(carb)])
    return folder


@pytest.fixture
def counted(monkeypatch) -> list[str]:
    """The checkpoints that were scored, as run/file."""
    found, real = [], learning_curves.load_trained

    def load(path, *arguments, **keywords):
        found.append(f"{Path(path).parent.name}/{Path(path).name}")
        return real(path, *arguments, **keywords)

    monkeypatch.setattr(learning_curves, "load_trained", load)
    return found


def start(out: Path, *runs: Path, options: tuple[str, ...] = ()) -> list[dict]:
    """The runs of curves.json."""
    arguments = [*map(str, runs), "--split", "val", "--out", str(out), "--device", "cpu", *options]
    learning_curves.main(arguments)
    return json.loads((out / "curves.json").read_text())["runs"]


def test_curves_are_the_numbers_of_eval(trained, tmp_path) -> None:
    pytest.importorskip("matplotlib")
    out, labels = tmp_path / "out", ("--labels", "Dual", "Dual + CARB")
    base, carb = start(out, trained / "base", trained / "carb", options=labels)
    assert [point["step"] for point in base["points"]] == [2, 4, 6, 8]
    assert [point["step"] for point in carb["points"]] == [6, 8]
    assert [point["epoch"] for point in base["points"]] == [1, 2, 3, 4]  # 8 images, 4 a step
    assert (base["carb_start"], carb["carb_start"]) == (None, 4)
    assert (base["label"], carb["label"]) == ("Dual", "Dual + CARB")
    for run, step in ((base, 2), (carb, 6)):
        file = Path(run["folder"]) / f"step_{step:06d}.pt"
        evaluation.main(["--ckpt", str(file), "--out", str(tmp_path / "eval"), "--overwrite"])
        metrics = json.loads((tmp_path / "eval" / "metrics.json").read_text())
        point = next(p for p in run["points"] if p["step"] == step)
        for key in ("miou", "miou_small", "miou_large"):
            assert point[key] == metrics[key] and 0 <= point[key] <= 1
        assert point["iou"] == {n: c["iou"] for n, c in metrics["classes"].items()}

    with (out / "curves.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [(row["label"], int(row["step"])) for row in rows] == [
        *(("Dual", step) for step in (2, 4, 6, 8)),
        *(("Dual + CARB", step) for step in (6, 8)),
    ]
    assert float(rows[4]["miou_small"]) == carb["points"][0]["miou_small"]
    first = carb["points"][0]["iou"]
    assert {name: rows[4][f"IoU {name}"] for name in first} == {
        name: "" if value is None else str(value) for name, value in first.items()
    }
    with Image.open(out / "curves.png") as image:
        pixels = {tuple(c) for c in np.asarray(image.convert("RGB")).reshape(-1, 3)}
    assert {(0, 114, 178), (213, 94, 0)} <= pixels  # a line of each run


def test_only_new_checkpoints_are_scored_again(trained, tmp_path, counted) -> None:
    base, carb = (shutil.copytree(trained / name, tmp_path / name) for name in ("base", "carb"))
    late = (carb / "step_000008.pt").rename(tmp_path / "late.pt")
    (carb / "step_000009.pt.77.tmp").write_bytes(b"being written")
    before = start(tmp_path / "out", base, carb)
    assert len(counted) == 5
    counted.clear()
    assert start(tmp_path / "out", base, carb) == before and counted == []
    late.rename(carb / "step_000008.pt")
    after = start(tmp_path / "out", base, carb)
    assert counted == ["carb/step_000008.pt"]
    assert [len(run["points"]) for run in after] == [4, 2]
    counted.clear()
    shutil.copyfile(base / "step_000004.pt", base / "step_000002.pt")  # another file in its place
    again = start(tmp_path / "out", base, carb)
    assert counted == ["base/step_000002.pt"]
    assert again[0]["points"][0]["miou"] == again[0]["points"][1]["miou"]


def test_a_stop_loses_nothing_and_another_split_is_scored_anew(
    trained, tmp_path, monkeypatch, counted
) -> None:
    real = learning_curves.score

    def stopping(run, step, *arguments):
        if step == 6:
            raise KeyboardInterrupt
        return real(run, step, *arguments)

    monkeypatch.setattr(learning_curves, "score", stopping)
    with pytest.raises(KeyboardInterrupt):
        start(tmp_path, trained / "base")
    monkeypatch.setattr(learning_curves, "score", real)
    start(tmp_path, trained / "base")
    assert counted == [f"base/step_{step:06d}.pt" for step in (2, 4, 6, 8)]
    counted.clear()
    start(tmp_path, trained / "base", options=("--split", "train"))
    assert len(counted) == 4


def test_a_folder_with_both_stages_is_one_run(trained, tmp_path) -> None:
    """Of a warm-up that went on without CARB only the steps before CARB count."""
    shutil.copytree(trained / "base", tmp_path / "both" / "warmup")
    shutil.copytree(trained / "carb", tmp_path / "both" / "carb")
    [run] = start(tmp_path / "out", tmp_path / "both")
    files = [Path(point["scored"][0]).parent.name for point in run["points"]]
    assert [point["step"] for point in run["points"]] == [2, 4, 6, 8]
    assert files == ["warmup", "warmup", "carb", "carb"]
    read = learning_curves.read_run(read_run(tmp_path / "both"), "both", None, [])
    assert ["w" in line for line in read.log] == [False] * 4 + [True] * 4


def test_without_matplotlib_the_numbers_are_written_all_the_same(
    trained, tmp_path, monkeypatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match="pip install matplotlib"):
        start(tmp_path, trained / "carb")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["curves.csv", "curves.json"]


def test_what_cannot_be_used_is_said(trained, tmp_path) -> None:
    with pytest.raises(InputError, match="was not written by train_"):
        start(tmp_path, trained / "data")
    bare = shutil.copytree(trained / "carb", tmp_path / "bare")
    for file in bare.glob("step_*.pt"):
        file.unlink()
    with pytest.raises(InputError, match="--keep-checkpoints"):
        start(tmp_path, bare)
    with pytest.raises(InputError, match="no ground truth"):
        start(tmp_path, trained / "carb", options=("--split", "test"))
    (tmp_path / "curves.json").write_text("{")
    with pytest.raises(InputError, match="delete it"):
        start(tmp_path, trained / "carb")
    with pytest.raises(SystemExit):
        start(tmp_path, trained / "carb", options=("--labels", "one", "two"))


def test_panels_hold_what_was_logged() -> None:
    """No small class, no w: no such panels; a long log is thinned out by means."""
    names, colors = ("road", "pole"), np.zeros((2, 3), np.uint8)
    point = {"step": 300, "miou": 0.5, "miou_small": None, "miou_large": None}
    runs = [{"label": "a", "split": "val", "points": [point], "carb_start": None}]
    log = [
        {"step": s, "consistent_fraction": s / 300, "class_share": [0.75, 0.25]}
        for s in range(1, 301)
    ]
    plain = ClassTable(names, (("road",), ("pole",)), colors)

    def panels(log: list[dict], classes: ClassTable) -> dict[str, list[tuple]]:
        return {one["panel"]: one["points"] for one in panels_of(runs, [log], classes).content}

    found = panels(log, plain)
    assert found["mIoU on val, %"] == [(300, 50, 50, 50)]
    assert list(found) == ["mIoU on val, %", "consistent area, %"]
    area = found["consistent area, %"]
    assert len(area) == 100 and area[0] == pytest.approx((2, *[200 / 300] * 3))
    found = panels(log, replace(plain, small=(False, True)))
    assert found["predicted as a small class, %"][7] == (23, 25, 25, 25)
    assert list(panels([{"step": 1, "loss": 1.0}], plain)) == ["mIoU on val, %"]
