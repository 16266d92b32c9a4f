"""Files of experiments: nothing in them is executed, and no name leads elsewhere."""

import json
import re
from pathlib import Path

import pytest
import test_security
from hypothesis import given, settings
from hypothesis import strategies as st
from test_security import FORMS, check_refused
from tiny_run import make_run

import report
from experiments import learning_curves, region_quality
from experiments.figures.commands import evaluation as evaluation_command
from experiments.figures.runs import read_inputs
from experiments.object_labels import read_voc
from experiments.suite_file import Row
from utils.safe.errors import InputError

world = test_security.world
READERS = {
    "a kept checkpoint": ("run/step_000002.pt", learning_curves, ("run", "--out", "new")),
    "region_quality --ckpt": ("x.pt", region_quality, ("--ckpt", "x.pt")),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("reader", READERS)
def test_a_pickle_with_code_is_refused_unread(world, tmp_path, monkeypatch, reader, form):
    check_refused(world, tmp_path, monkeypatch, READERS[reader], form)


@settings(max_examples=200, deadline=None)
@given(st.text(), st.integers(0, 2**31))
def test_the_name_of_a_row_makes_a_folder_beside_the_others(name: str, seed: int) -> None:
    folder = Row(name, "carb", {}).folder(seed)
    assert Path(folder).parts == (folder,) and folder not in (".", "..")
    assert re.fullmatch(r"[a-z0-9._-]+", folder)


def test_lists_of_images_name_no_files_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "ImageSets/Segmentation").mkdir(parents=True)
    (tmp_path / "secret.xml").write_text("<annotation/>")
    for line in ("../secret", "/etc/passwd", "../../Annotations/../secret"):
        (tmp_path / "ImageSets/Segmentation/train.txt").write_text(f"{line}\n")
        with pytest.raises(InputError, match="Annotations"):
            read_voc(tmp_path)


def test_numbers_of_a_run_are_no_arguments(tmp_path: Path) -> None:
    """report.py --make runs eval.py as metrics.json says that it was run."""
    run = make_run(tmp_path)
    (tmp_path / "run/warmup/eval_val").mkdir()
    for key, value in (
        ("scales", ["1.0", "--export-submission", "/tmp/escaped"]),
        ("scales", "--out"),
        ("window", ["--out", "/tmp/escaped"]),
        ("stride", [1, "--bf16"]),
        ("scales", {"--out": 1}),
    ):
        scores = {"miou": 0.5, "classes": {}, "inference": {key: value}}
        (tmp_path / "run/warmup/eval_val/metrics.json").write_text(json.dumps(scores))
        with pytest.raises(InputError, match=r"metrics\.json.*inference"):
            evaluation_command(read_inputs([str(run)])[0][0].last, "val")


def test_a_suite_hands_no_command_to_make(tmp_path: Path) -> None:
    """ablation.json holds its command: for the reader, not to be run."""
    row = {"stage": "carb", "settings": {}, "seeds": {}, "mean": {}, "std": {}, "metrics": {}}
    content = {"command": "python eval.py --ckpt x.pt --out /tmp/escaped --overwrite"}
    content |= {"suite": "s.yaml", "config": "c.yaml", "split": "val", "rows": {"a": row}}
    content |= {"contrasts": {}, "settings": {}, "pseudo_masks": None}
    (tmp_path / "ablation.json").write_text(json.dumps(content))
    arguments = report.parse([str(tmp_path), "--out", str(tmp_path / "out")])
    figures, _ = report.draw(arguments, *read_inputs([str(tmp_path)]), tmp_path / "out")
    assert report.makeable(figures) == []
