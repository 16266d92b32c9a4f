"""utils/checkpoint.py: written whole, read safely, refused with a reason."""

import pickle
import random
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch

from utils import run
from utils.checkpoint import (
    load_checkpoint,
    load_optimizer,
    load_training_checkpoint,
    load_weights,
    save_checkpoint,
)
from utils.config import load_config
from utils.distributed import Ranks
from utils.run import Run
from utils.safe.errors import InputError
from utils.safe.tensors import read_tensors


class Trap:
    """Unpickling one would make a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def whole_content() -> dict:
    """Everything that utils/run.py saves."""
    return {
        "stage": "carb",
        "step": 4,
        "model": {"w": torch.randn(3)},
        "optimizer": {"state": {}, "param_groups": []},
        "criterion": [{"queue_consistent": [0.5], "queue_inconsistent": []}],
        "world_size": 1,
        "config": {"lr": 0.1},
        "class_names": ["road"],
        "palette": [[0, 128, 255]],
    }


def test_round_trip(tmp_path) -> None:
    content = whole_content()
    save_checkpoint(tmp_path / "run" / "last.pt", content)
    loaded = load_training_checkpoint(tmp_path / "run" / "last.pt")
    assert torch.equal(loaded["model"]["w"], content["model"]["w"])
    assert loaded["criterion"] == content["criterion"] and loaded["format"] == 1
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["last.pt"]


def test_a_failed_write_keeps_the_previous_checkpoint(tmp_path) -> None:
    save_checkpoint(tmp_path / "last.pt", {"step": 1})
    with pytest.raises((AttributeError, pickle.PicklingError)):
        save_checkpoint(tmp_path / "last.pt", {"step": lambda: 2})
    assert load_checkpoint(tmp_path / "last.pt")["step"] == 1
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("hard_links", [True, False])
def test_the_previous_checkpoint_is_kept(tmp_path, monkeypatch, hard_links) -> None:
    last, previous = tmp_path / "last.pt", tmp_path / "previous.pt"

    def refuse(*_):
        raise PermissionError("no hard links on this disk")

    if not hard_links:
        monkeypatch.setattr(Path, "hardlink_to", refuse)
    for step in range(1, 5):
        save_checkpoint(last, {"step": step}, previous)
        assert load_checkpoint(last)["step"] == step
        assert not previous.exists() if step == 1 else load_checkpoint(previous)["step"] == step - 1
    assert sorted(tmp_path.iterdir()) == [last, previous]
    previous.unlink()
    previous.hardlink_to(last) if hard_links else None  # killed between the two renames
    save_checkpoint(last, {"step": 5}, previous)
    assert [load_checkpoint(path)["step"] for path in (last, previous)] == [5, 4]
    assert sorted(tmp_path.iterdir()) == [last, previous]


@pytest.mark.parametrize("place", [0.1, 0.5, 0.9])
def test_one_changed_bit_is_found(tmp_path, place) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, whole_content() | {"model": {"w": torch.randn(10000)}})
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= 4
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"last\.pt: the checkpoint can't be read: .*damaged"):
        load_training_checkpoint(path)


def test_a_missing_or_cut_file_is_named(tmp_path) -> None:
    with pytest.raises(InputError, match="no checkpoint at"):
        load_checkpoint(tmp_path / "last.pt")
    path = tmp_path / "cut.pt"
    save_checkpoint(path, {"model": {"w": torch.randn(1000)}})
    path.write_bytes(path.read_bytes()[:1500])
    with pytest.raises(InputError, match=r"cut\.pt: the checkpoint can't be read: the file is cut"):
        load_checkpoint(path)


def test_code_in_a_checkpoint_is_not_executed(tmp_path) -> None:
    target = tmp_path / "made"
    torch.save({"model": Trap(str(target))}, tmp_path / "trap.pt")
    with pytest.raises(InputError, match="more than tensors") as error:
        load_checkpoint(tmp_path / "trap.pt")
    assert "weights_only" not in str(error.value)  # torch's text advises to load it unsafely
    assert not target.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", ["new.pt", "old.pt", "rows.npy"])
def test_damaged_files_are_read_or_refused(tmp_path, name) -> None:
    path = tmp_path / name
    if name == "rows.npy":
        np.save(path, np.ones((3, 2), np.float32))
    else:
        content = {"model": {"w": torch.ones(3, 2)}, "step": 4, "names": ["a", "b"]}
        torch.save(content, path, _use_new_zipfile_serialization=name == "new.pt")
    whole = path.read_bytes()
    assert read_tensors(path, "the file") is not None
    rng = random.Random(0)
    refused = 0
    for i in range(100):
        damaged = bytearray(whole)
        if i % 2:
            del damaged[rng.randrange(len(whole)) :]
        else:
            for _ in range(8):
                damaged[rng.randrange(len(whole))] ^= rng.randrange(1, 256)
        path.write_bytes(damaged)
        try:
            read_tensors(path, "the file")
        except InputError as error:  # nothing else may come out
            assert str(error).startswith(f"{path}: the file can't be read: ")
            assert "weights_only" not in str(error) and "pickle" not in str(error)
            refused += 1
    assert refused > 50


def test_a_folder_in_place_of_a_file_is_refused(tmp_path) -> None:
    with pytest.raises(InputError, match="can't be read: Is a directory"):
        read_tensors(tmp_path, "the file")


def test_a_foreign_checkpoint_is_explained(tmp_path) -> None:
    torch.save({"meta": {}, "state_dict": {}}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"eval\.py with --config"):
        load_training_checkpoint(tmp_path / "other.pth")
    torch.save({"format": 1, "model": 3}, tmp_path / "other.pth")
    with pytest.raises(InputError, match="was not written by this program"):
        load_training_checkpoint(tmp_path / "other.pth")


@pytest.mark.parametrize(
    "key, wrong",
    [
        ("stage", 3),
        ("step", -1),
        ("step", True),
        ("step", 4.0),
        ("model", [1]),
        ("optimizer", None),
        ("criterion", []),
        ("criterion", [{}, {}]),
        ("criterion", [{"queue_consistent": [0.5]}]),
        ("criterion", [{"queue_consistent": [1], "queue_inconsistent": [torch.ones(2)]}]),
        ("world_size", 0),
        ("config", "lr: 1"),
        ("class_names", []),
        ("class_names", ["a", 1]),
        ("class_names", ["a"] * 256),
        ("palette", [[0, 0, 256]]),
        ("palette", [[0, 0]]),
        ("palette", 7),
        ("format", 2),
    ],
)
def test_content_of_another_kind_is_named(tmp_path, key, wrong) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, whole_content() | {key: wrong})
    foreign = key in ("format", "model")
    message = "was not written by" if foreign else f"'{key}' in the checkpoint must be"
    with pytest.raises(InputError, match=rf"last\.pt.*{message}"):
        load_training_checkpoint(path)
    if key != "format":
        save_checkpoint(path, {k: v for k, v in whole_content().items() if k != key})
        with pytest.raises(InputError, match=rf"last\.pt.*({key}|not written by)"):
            load_training_checkpoint(path)


def test_momentum_of_another_network_is_refused() -> None:
    weights = [torch.nn.Parameter(torch.ones(2, 3)), torch.nn.Parameter(torch.ones(4))]
    optimizer = torch.optim.SGD(weights, 0.1, 0.9, weight_decay=0.5)
    good = {0: {"momentum_buffer": torch.ones(2, 3)}, 1: {"momentum_buffer": None}}
    groups = [{"params": [0, 1], "lr": "evil", "momentum": 7}]
    load_optimizer(optimizer, {"state": good, "param_groups": groups}, "last.pt")
    assert torch.equal(optimizer.state[weights[0]]["momentum_buffer"], torch.ones(2, 3))
    assert optimizer.param_groups[0]["momentum"] == 0.9  # what the config says
    for wrong in (
        None,
        {2: good[0]},
        {"a": good[0]},
        {0: torch.ones(2, 3)},
        {0: {"momentum_buffer": torch.ones(3, 2)}},
        {0: {"momentum_buffer": "much"}},
    ):
        with pytest.raises(InputError, match=r"last\.pt holds the optimizer of another network"):
            load_optimizer(optimizer, {"state": wrong}, "last.pt")


def test_weights_that_do_not_fit_are_listed() -> None:
    model = torch.nn.Linear(3, 2)
    state = {"weight": torch.zeros(2, 4), "extra": torch.zeros(1)}
    with pytest.raises(InputError, match="extra") as error:
        load_weights(model, state, "file.pt")
    with pytest.raises(InputError, match=r"weight \(missing\)"):
        load_weights(model, {"weight": [1.0], "bias": torch.zeros(2)}, "file.pt")
    assert "bias (missing)" in str(error.value) and "(2, 4) in the file" in str(error.value)


def test_machines_that_see_different_checkpoints_do_not_start(tmp_path, monkeypatch) -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    monkeypatch.setattr(run, "gather_objects", lambda own: [own, ("last.pt", 400)])
    ranks = Ranks(0, 2, torch.device("cpu"))
    with pytest.raises(InputError, match=r"different checkpoints in .*: None, \('last.pt', 400\)"):
        Run(
            Namespace(run_dir=tmp_path, overwrite=False),
            load_config("configs/tiny_cpu.yaml"),
            ranks,
            stage="warmup",
            end=8,
            classes=None,
            inputs=lambda: None,
            parts={"model": model, "optimizer": optimizer},
        )


def test_a_checkpoint_from_before_the_log_was_kept(tmp_path) -> None:
    save_checkpoint(tmp_path / "last.pt", whole_content())
    assert load_training_checkpoint(tmp_path / "last.pt")["log"] == {}
    wrong = {"sums": {"loss": 3.0}, "num_steps": 1, "seconds": 1.0}
    save_checkpoint(tmp_path / "last.pt", whole_content() | {"log": wrong})
    with pytest.raises(InputError, match="'log' in the checkpoint must be"):
        load_training_checkpoint(tmp_path / "last.pt")
