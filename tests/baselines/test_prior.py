"""baselines/prior.py: the class of each image with the most pixels in train."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from test_support_net import SIZE, make_data

from baselines import prior
from datasets.folder import Folder
from utils.safe.errors import InputError

IMAGES = {"a": [0, 1], "b": [1, 2], "v1": [0, 2], "v2": [2]}  # shares: 1/4, 1/2, 1/4


def masks_of(folder: Path, *more: str) -> dict[str, np.ndarray]:
    command = ["--config", str(folder / "config.yaml"), "--out", str(folder / "masks"), *more]
    prior.main([*command, "--device", "cpu"])
    files = sorted((folder / "masks").glob("*.png"))
    return {file.stem: np.asarray(Image.open(file)) for file in files}


def test_each_image_has_its_class_that_is_most_frequent_in_train(tmp_path: Path) -> None:
    folder = make_data(tmp_path, ["road", "car", "pole"], IMAGES)
    found = masks_of(folder, "--split", "val", "--score")
    made_from = json.loads((folder / "masks/meta.json").read_text())["made_from"]
    assert made_from["shares"] == pytest.approx([0.25, 0.5, 0.25])
    assert found.keys() == {"v1", "v2"}
    assert np.array_equal(found["v1"], np.zeros(SIZE)) and (found["v2"] == 2).all()
    score = json.loads((folder / "masks/score.json").read_text())
    assert score["num_images"] == 2 and score["classes"]["pole"]["accuracy"] == pytest.approx(2 / 3)
    assert masks_of(folder, "--split", "val").keys() == found.keys()  # resumed


def test_a_background_is_in_every_image(tmp_path: Path) -> None:
    folder = make_data(tmp_path, ["background", "car", "pole"], IMAGES)
    found = masks_of(folder, "--split", "val")
    assert (found["v1"] == 0).all() and (found["v2"] == 0).all()


def test_without_ground_truth_there_is_no_prior(tmp_path: Path, monkeypatch) -> None:
    folder = make_data(tmp_path, ["road", "car", "pole"], IMAGES)
    monkeypatch.setattr(Folder, "ground_truth", lambda *_: {})
    with pytest.raises(InputError, match="have no ground truth.*the prior is counted in it"):
        masks_of(folder)
    assert not (folder / "masks").exists()
