"""models/pamr.py, windows and template experts against the authors' code, on every key."""

import re

import pytest
import torch
from conftest import GOLDENS, load_golden

from models.pamr import affinities, local_std, pamr

PAMR = "teachers/pamr.npz"


def cases(name):
    """The case names that a file lists, for parametrize; "none" where there is no such file."""
    if GOLDENS is None or not (GOLDENS / name).is_file():
        return ["none"]
    return load_golden(name)["cases"].tolist()


class Golden:
    """A case of a file, or the whole of a file without cases; remembers which keys were read."""

    def __init__(self, name, case=None):
        self.file = load_golden(name)
        self.prefix = f"{case}/" if case else ""
        self.unread = {key for key in self.file.files if key.startswith(self.prefix)}

    def __contains__(self, key):
        return self.prefix + key in self.file.files

    def __getitem__(self, key):
        self.unread.discard(self.prefix + key)
        return torch.from_numpy(self.file[self.prefix + key])

    def number(self, key):
        return self[key].item()


def assert_near(ours, theirs, name):
    """Within 1e-5 of the largest absolute value, or 1e-5 where that is below 1."""
    tolerance = 1e-5 * max(1.0, theirs.abs().max().item())
    assert ours.shape == theirs.shape, name
    difference = (ours.double() - theirs.double()).abs().max().item()
    assert difference <= tolerance, f"{name}: {difference} > {tolerance}"


@pytest.mark.parametrize("case", cases(PAMR))
def test_golden_pamr(case):
    golden = Golden(PAMR, case)
    image, scores = golden["img"], golden["scores"]
    steps, dilations = golden.number("steps"), golden["dilations"].tolist()
    assert_near(pamr(image, scores, steps, dilations), golden["out"], "out")
    assert_near(pamr(image, scores, 1, dilations), golden["after_one_step"], "after_one_step")
    for key, function in (("std", local_std), ("weights", affinities)):
        if key in golden:
            assert_near(function(image, dilations), golden[key], key)
    assert golden.unread == set()


def test_golden_pamr_no_key_is_left_out():
    names = "|".join(map(re.escape, cases(PAMR)))
    left = [key for key in load_golden(PAMR).files if not re.match(rf"cases$|({names})/", key)]
    assert left == []
