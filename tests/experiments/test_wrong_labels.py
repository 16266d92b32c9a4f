"""wrong_labels.py: how many labels are missing and wrong, which images stay as they are."""

import json
from pathlib import Path

import pytest
import torch

from experiments import wrong_labels
from experiments.wrong_labels import spoil
from utils.safe.errors import InputError
from utils.seed import generator

CLASSES = "classes: [road, tree, car]\n"


def test_shares_are_the_probabilities():
    labels = torch.arange(40_000).reshape(10_000, 4) % 4 < 2
    found = spoil(labels, 0.2, 0.1, generator(3))
    assert (labels & ~found).sum() / labels.sum() == pytest.approx(0.2, abs=0.05)
    assert (~labels & found).sum() / (~labels).sum() == pytest.approx(0.1, abs=0.01)
    assert torch.equal(found, spoil(labels, 0.2, 0.1, generator(3)))
    assert not torch.equal(found, spoil(labels, 0.2, 0.1, generator(4)))
    assert torch.equal(labels, spoil(labels, 0, 0, generator(3)))


def test_an_image_keeps_one_of_its_labels():
    labels = torch.tensor([[True, False, True], [False, False, False]])
    found = spoil(labels.repeat(500, 1), 1.0, 0.0, generator(0)).reshape(500, 2, 3)
    assert (found[:, 0].sum(1) == 1).all() and not found[:, 0, 1].any()
    assert not found[:, 1].any(), "an image without labels stays without"
    assert found[:, 0, 0].any() and found[:, 0, 2].any(), "which one is left to chance"


def make(folder: Path) -> list[str]:
    (folder / "classes.yaml").write_text(CLASSES)
    (folder / "labels.json").write_text(json.dumps({"a": [0, 2], "b": [1]}))
    files = [str(folder / name) for name in ("labels.json", "classes.yaml", "worse.json")]
    return [files[0], "--class-file", files[1], "--out", files[2]]


def test_command_writes_a_label_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    wrong_labels.main([*make(tmp_path), "--wrong", "1"])
    assert json.loads((tmp_path / "worse.json").read_text()) == {"a": [0, 1, 2], "b": [0, 1, 2]}
    assert "2 images; of 1.50 labels an image 0.00 are missing, 1.50 are wrong" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--missing or --wrong"),
        (["--wrong", "1"], "worse.json"),
        (["--wrong", "1", "--seed", "-1"], "--seed is a whole number of at least 0, found -1"),
    ],
)
def test_nothing_to_do_and_nothing_replaced(tmp_path: Path, options: list[str], message: str):
    command = make(tmp_path)
    (tmp_path / "worse.json").write_text("mine")
    with pytest.raises(InputError, match=message):
        wrong_labels.main([*command, *options])
    assert (tmp_path / "worse.json").read_text() == "mine"
