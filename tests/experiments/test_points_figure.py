"""The report's section of points: pseudo-masks over training, made once more from checkpoints."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_run

import report
from datasets.files import File, read_image
from experiments.figures.points import checkpoints, draw, painted, parts_of
from experiments.figures.runs import read_inputs
from models.point_masks import Parts
from utils.safe.errors import InputError

STEPS = 10  # masks are used from step 2 on


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that kept checkpoints, all with the same random weights, on images with two points."""
    points = tmp_path / "points.json"
    entries = {f"t{i}": [[i, 5, "road"], [20, 12, 2]] for i in range(tiny_run.COUNT)}
    points.write_text(json.dumps(entries))
    changes = {"classifier": "conv", "carb": False, "steps": STEPS, "image_size": [12, 16]}
    folder = tiny_run.make_run(tmp_path, points=str(points), **changes) / "warmup"
    (folder / "warmup.pt").rename(folder / "last.pt")
    for step in (1, 3, 5, 8, 10):
        shutil.copy(folder / "last.pt", folder / f"step_{step:06d}.pt")
    (folder / "command.txt").write_text("-m baselines.points --config c.yaml\n")
    write_parts(folder, Parts())
    return folder


def write_parts(folder: Path, parts: Parts) -> None:
    (folder / "inputs.json").write_text(json.dumps({"options": parts._asdict()}))


def drawn(run: Path) -> list:
    return draw(read_inputs([str(run)])[0], [], 2, run / "out")


def test_gallery(run: Path) -> None:
    (figure,) = drawn(run)
    assert figure.missing == () and figure.images[0].is_file()
    (gallery,) = figure.galleries
    masks = [f"pseudo-mask\nstep {step}" for step in (3, 8, 10)]
    expected = ["image", "points", *masks, "prediction\nstep 10", "ground truth"]
    assert gallery.titles == expected and gallery.notes == ["t0", "t3"]
    assert json.loads(figure.data.read_text())["steps"] == [3, 8, 10]


def test_checkpoints_from_before_the_masks_are_left_out(run: Path) -> None:
    (read,) = read_inputs([str(run)])[0]
    assert list(checkpoints(read, Parts())) == [3, 8, 10]
    assert list(checkpoints(read, Parts(discs=3))) == [1, 5, 10]  # from the start
    for file in run.glob("step_*.pt"):
        file.unlink()
    assert checkpoints(read, Parts()) == {10: run / "last.pt"}
    (figure,) = drawn(run)
    assert "--keep-checkpoints" in figure.missing[0].what and figure.galleries


def test_only_runs_with_masks_are_drawn(run: Path) -> None:
    (read,) = read_inputs([str(run)])[0]
    assert parts_of(read) == Parts()
    write_parts(run, Parts(masks=False))
    assert drawn(run) == []
    write_parts(run, Parts(discs=2.0))
    assert len(drawn(run)) == 1
    (run / "inputs.json").write_text('{"options": {"masks": true}}')
    with pytest.raises(InputError, match="expected options"):
        drawn(run)
    (run / "inputs.json").write_text("{}")
    assert drawn(run) == []
    write_parts(run, Parts())
    (run / "last.pt").unlink()
    (figure,) = drawn(run)
    assert figure.absent


def test_dots_are_in_the_colour_of_the_class_at_the_point(run: Path) -> None:
    image = read_image(File(str(run.parents[1] / "data/images/train/t0.png")))
    palette = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    found = painted(image, np.array([[7, 5, 2], [20, 12, 1]]), palette)
    assert tuple(found[5, 7]) == (0, 0, 255) and tuple(found[12, 20]) == (0, 255, 0)
    assert tuple(found[5, 9]) == (255, 255, 255)  # the rim
    assert np.array_equal(found[20:], image[20:])


def test_report(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    out = tmp_path / "report"
    report.main([str(run), "--out", str(out), "--images", "1", "--only", "points"])
    assert "1 figure drawn, 0 commands missing" in capsys.readouterr().out
    assert "pseudo-mask" in (out / "index.html").read_text(encoding="utf-8")
