"""Own data in folders: names of splits, and what is beside the folders that are read."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets import open_dataset
from utils.safe.errors import InputError, InputNote


def make(root: Path, *paths: str) -> Path:
    for path in paths:
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((4, 4), np.uint8)).save(root / path)
    return root


def listed(root: Path) -> dict[str, tuple[list[str], list[str]]]:
    """Split -> ids of images and of masks."""
    dataset = open_dataset("folder", root)
    return {s: (list(dataset.images(s)), list(dataset.ground_truth(s))) for s in dataset.splits()}


@pytest.mark.parametrize(
    "paths",
    [
        (
            "images/training/a.jpg",
            "images/validation/b.jpg",
            "masks/train/a.png",
            "masks/val/b.png",
        ),
        ("Images/Train/a.jpg", "Images/Valid/b.jpg", "Masks/TRAINING/a.png", "Masks/dev/b.tif"),
        ("image/train/a.jpg", "image/dev/b.jpg", "mask/training/a.png", "mask/valid/b.bmp"),
        (
            "images/ｔｒａｉｎ/a.jpg",
            "images/valid/b.jpg",
            "masks/train/a.png",
            "masks/ｖａｌ/b.png",
        ),
    ],
)
def test_splits_by_the_names_of_other_tools(tmp_path, recwarn, paths):
    assert listed(make(tmp_path, *paths)) == {"train": (["a"], ["a"]), "val": (["b"], ["b"])}
    assert {warning.category for warning in recwarn} == {InputNote}
    assert re.search("'(validation|valid|dev)' is read as 'val'", str(recwarn[0].message).lower())


@pytest.mark.parametrize(
    "paths",
    [
        ("images/berlin/a.jpg", "images/paris/b.jpg"),
        ("images/trains/a.jpg", "images/test_site/b.jpg"),  # railways; one site
        ("images/valencia/a.jpg", "images/tester/b.jpg"),
        ("images/rain/a.jpg", "images/latest/b.jpg"),
        ("images/trail/a.jpg", "images/delft/b.jpg"),
        ("images/de/a.jpg", "images/tr/b.jpg"),  # countries
        ("images/fold0/a.jpg", "images/fold1/b.jpg"),
        ("images/训练/a.jpg", "images/验证/b.jpg"),
        ("images/trainieren/a.jpg", "images/testen/b.jpg"),
        ("images/a.jpg", "images/sub/b.jpg", "images/.ipynb_checkpoints/a.jpg"),
    ],
)
def test_folders_that_are_no_splits(tmp_path, recwarn, paths):
    splits = listed(make(tmp_path, *paths))
    assert list(splits) == ["train"] and len(splits["train"][0]) == 2
    (told,) = {str(warning.message) for warning in recwarn}
    assert {warning.category for warning in recwarn} == {InputNote}
    assert re.search("no split folders .*images: the images of .* are all read as 'train'", told)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (("images/train2017/a.jpg", "images/val2017/b.jpg"), "train2017.*only train, val and test"),
        (("images/train_images/a.jpg",), "train_images: such names mean splits"),
        (("images/val-set/a.jpg", "images/x/a.jpg"), "val-set: such names mean splits"),
        (("images/train_berlin/a.jpg", "images/val_paris/b.jpg"), "train_berlin and .*val_paris"),
        (("images/val/a.jpg", "images/valid/b.jpg"), "are both the split 'val'; put"),
        (("images/train/a.jpg", "images/Train/b.jpg"), "are both the split 'train'; put"),
        (("images/10k/train/a.jpg", "images/10k/val/b.jpg"), "10k/(train|val): .* too deep"),
        (("images/train/test/a.jpg",), "train/test: .* too deep"),
        (("images/trn/a.jpg", "images/vld/b.jpg"), "trn and .*vld: such names mean splits"),
        (("images/tr/a.jpg", "images/te/b.jpg"), "te and .*tr: such names mean splits"),
        (("images/trian/a.jpg", "images/vaild/b.jpg"), "trian and .*vaild: such names mean splits"),
        (("images/b/train_images/a.jpg", "images/b/val_images/b.jpg"), "b/train_images and .*val_"),
        (("images/x/trainset/a.jpg", "images/x/valset/b.jpg"), "x/trainset and .*valset"),
        (("images/x/trian/a.jpg", "images/x/vaild/b.jpg"), "x/trian and .*vaild"),
        (("train/images/a.jpg", "train/masks/a.png"), "train seems to be a split: move its images"),
        (("img/a.jpg", "image/b.jpg"), "image and img are ambiguous"),
        (("JPEGImages/a.jpg",), "no folder .*images; expected"),
    ],
)
def test_splits_that_are_not_understood(tmp_path, paths, message):
    make(tmp_path, *paths)
    with pytest.raises(InputError, match=f"(?s){message}.*"):
        listed(tmp_path)


@pytest.mark.parametrize(
    ("paths", "messages"),
    [
        (("images/train/a.jpg", "images/b.jpg"), ["images has 1 .jpg file not read .b.jpg."]),
        (("images/train/a.jpg", "images/minival/b.jpg"), ["minival with 1 .jpg file is not read"]),
        (("images/a.jpg", "img/a.jpg"), ["img is not read: images are read from"]),
        (("images/a.jpg", "annotations/a.png", "annotations/b.png"),
         ["annotations has 2 .png files not read: ground truth belongs in .*masks"]),
        (("images/val/a.jpg", "SegmentationClass/a.png"), ["SegmentationClass has 1 .png file"]),
        (("images/val/a.jpg", "masks/a.png"), ["masks has 1 .png file not read.*masks/val"]),
        (("images/val/a.jpg", "masks/train/a.png", "masks/val2/a.png"), ["val2 has 1 .png file"]),
        (("images/train/a.jpg", "masks/val/a.png"), []),
        (("images/a.jpg", "masks/.keep.png", "labels/a.png"), ["labels has 1 .png file"]),
        (("images/a.jpg", "GT_masks/a.png", "labelIds/b/a.png"), ["GT_masks has", "labelIds has"]),
        (("images/a.jpg", "clip_masks_2/a.png", "mine_vis/a.png", "mine/a.png"), []),
    ],
)  # fmt: skip
def test_what_is_beside_and_not_read(tmp_path, recwarn, paths, messages):
    make(tmp_path, *paths)
    own = {"mine/meta.json": '{"made_from": {}}', f"cached/{'0a' * 16}.npy": ""}
    for other, text in own.items():
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text(text)
    listed(tmp_path)
    found = list(dict.fromkeys(str(warning.message) for warning in recwarn))
    assert len(found) == len(messages)
    assert all(map(re.search, messages, found)), found


def test_a_warning_carries_the_folder_that_it_tells_of(tmp_path, recwarn):
    root = make(tmp_path / "x has 2 y", "images/val/a.jpg", "images/b.jpg", "masks/a.png")
    listed(root)
    assert {warning.message.place for warning in recwarn} == {root / "images", root / "masks"}
