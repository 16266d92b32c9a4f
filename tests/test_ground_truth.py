"""Settings that make a score say nothing are told before training and beside the score."""

import numpy as np
import pytest
import torch

from datasets.doctor.label_check import check_some_masks, check_trainable
from datasets.files import File
from datasets.labels import ClassTable, default_palette
from utils.ground_truth import absent_note, truth_notes
from utils.metrics import ConfusionMatrix
from utils.safe.errors import InputError, InputNote, InputWarning

NAMES = ("sky", "road", "car", "tree", "pole")


def classes(count: int) -> ClassTable:
    return ClassTable(NAMES[:count], tuple((n,) for n in NAMES[:count]), default_palette(count))


@pytest.mark.parametrize(
    ("pixels", "ignored", "note"),
    [
        ([9], 0, "there is only one class"),
        ([0, 0], 9, "255 .* everywhere: there is nothing to score"),
        ([9, 0], 4, "only the values 0 and 255: .* where white means road, save it as 1"),
        ([0, 9, 0], 4, "has no class but road"),
        ([9, 0], 0, "has no class but sky"),
    ],
)
def test_ground_truth_that_tells_nothing(pixels, ignored, note):
    (found,) = truth_notes(pixels, ignored, NAMES[: len(pixels)], "val")
    with pytest.raises(InputError, match=note):
        raise InputError(found)


def test_nothing_of_ordinary_ground_truth():
    assert truth_notes([5, 6, 0], 3, NAMES[:3], "val") == []
    assert absent_note([5, 6], NAMES[:2], "val") == absent_note([0, 0], NAMES[:2], "val") == []
    (note,) = absent_note([5, 0, 0], NAMES[:3], "val")
    assert note.startswith("no pixel of road, car in the ground truth of val")


def test_notes_beside_the_score():
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([0, 1, 1]), torch.tensor([0, 0, 255]))
    binary, absent = matrix.notes(NAMES[:2], "val")
    assert "only the values 0 and 255" in binary and "no pixel of road" in absent
    matrix.update(torch.tensor([1]), torch.tensor([1]))
    assert matrix.notes(NAMES[:2], "val") == []
    other = ConfusionMatrix(2)
    other.update(torch.tensor([0, 1]), torch.tensor([1, 0]))
    (note,) = other.notes(NAMES[:2], "val")
    assert note.startswith("no pixel is right: ")


def test_labels_to_train_on(recwarn):
    check_trainable(classes(5), {"a": (0, 1, 2), "b": (2, 3, 4)})
    assert not recwarn
    with pytest.warns(InputNote, match=r"same labels \(every class\)"):  # few may be everywhere
        check_trainable(classes(2), {"a": (0, 1), "b": (0, 1)})
    with pytest.raises(InputError, match=r"there is only one class.*add a class for the rest"):
        check_trainable(classes(1))
    with pytest.raises(InputError, match="labels of all 2 training images are empty"):
        check_trainable(classes(5), {"a": (), "b": ()})
    every = dict.fromkeys("abc", (0, 1, 2, 3, 4))
    for labels, message in (
        (every, r"all 3 training images have the same labels \(every class\)"),
        ({"a": (0, 1), "b": (0, 1)}, r"same labels \(sky, road\)"),
        ({"a": (0, 1, 2), "b": (3,)}, "no training image has pole"),
        (every | {"d": ()}, "labels of 1 of 4 training images are empty .the first is 'd'"),
    ):
        with pytest.warns(InputWarning, match=message):
            check_trainable(classes(5), labels)


def test_some_of_the_masks_are_looked_at_before_training(recwarn):
    files = {f"m{i}": File(f"m{i}") for i in range(100)}
    read = []

    def mask(file: File) -> np.ndarray:
        read.append(file)
        return np.array([[0, 255]], np.uint8)

    with pytest.warns(InputWarning, match=r"trained on holds only .* \(found in 16 of 100 masks\)"):
        check_some_masks(files, mask, classes(2))
    assert len({*read}) == 16 and read[-1].path > "m9"
    recwarn.clear()
    check_some_masks(files, lambda file: np.array([[0, 1]], np.uint8), classes(2))
    assert not recwarn
