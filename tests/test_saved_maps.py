"""datasets/saved_maps.py: maps of an earlier method, read back; other data and damage refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datasets.saved_maps import SavedMaps, save_maps
from utils.safe.errors import InputError

DATA = {"dataset": "folder", "split": "train", "class_names": ["a", "b", "c"], "num_images": 2}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Maps of the image t0, which has the classes 0 and 2, and of t/1, which has none."""
    (tmp_path / "meta.json").write_text(json.dumps({"made_from": DATA | {"method": "cam"}}))
    cams = torch.arange(24).reshape(3, 2, 4) / 32
    save_maps(tmp_path / "cams/t0.npz", cams, torch.tensor([1, 0, 1]), 0)
    save_maps(tmp_path / "cams/t/1.npz", cams, torch.zeros(3), 0)
    return tmp_path


def test_maps_are_read_back(folder: Path) -> None:
    maps = SavedMaps(folder, ["t0", "t/1"], DATA, 0)
    cams, present = maps.read("t0")
    assert present.tolist() == [1, 0, 1] and cams.dtype == torch.float32
    expected = torch.arange(24).reshape(3, 2, 4) / 32
    assert torch.equal(cams[[0, 2]], expected[[0, 2]]) and not cams[1].any()
    cams, present = maps.read("t/1")
    assert cams.shape == (3, 2, 4) and not cams.any() and not present.any()


def test_the_background_has_no_map(tmp_path: Path) -> None:
    (tmp_path / "meta.json").write_text(json.dumps({"made_from": DATA}))
    save_maps(tmp_path / "cams/t0.npz", torch.ones(2, 1, 1), torch.tensor([0, 1]), 1)
    with np.load(tmp_path / "cams/t0.npz") as file:
        assert file["classes"].tolist() == [2]
    assert SavedMaps(tmp_path, ["t0"], DATA, 1).read("t0")[1].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"class_names": ["a", "b", "d"]}, r"other data \(class_names: .*'c'.* -> .*'d'"),
        ({"split": "val"}, "other data .split: train -> val.*baselines.cam --save-cams"),
        ({"num_images": 3}, "other data .num_images"),
    ],
)
def test_maps_of_other_data_are_refused(folder: Path, change: dict, told: str) -> None:
    with pytest.raises(InputError, match=told):
        SavedMaps(folder, ["t0"], DATA | change, 0)


def test_a_folder_without_maps_is_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="1 of 2 images have no maps, the first is .*t5.npz"):
        SavedMaps(folder, ["t0", "t5"], DATA, 0)
    with pytest.raises(InputError, match="has no meta.json; expected the folder that"):
        SavedMaps(folder / "cams", ["t0"], DATA, 0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"PK\x03\x04 rubbish",
        {"cams": np.zeros((1, 2, 2))},
        {"cams": np.zeros((1, 2, 2)), "classes": np.array([7])},
        {"cams": np.zeros((1, 2, 2)), "classes": np.array([0, 1])},
        {"cams": np.zeros((1, 2, 2)), "classes": np.array([-1])},
        {"cams": np.array([[object()]]), "classes": np.array([0])},
        {"cams": np.array("x"), "classes": np.array(["x"])},
    ],
)
def test_damaged_maps_give_one_message(folder: Path, content: bytes | dict) -> None:
    file = folder / "cams/t0.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.savez(file, **content)
    with pytest.raises(InputError, match="t0.npz can't be read .*remove it"):
        SavedMaps(folder, ["t0"], DATA, 0).read("t0")
