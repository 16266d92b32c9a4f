"""utils/schedule.py against the authors' learning rates."""

import re

import numpy as np
import pytest
from conftest import load_golden

from utils.schedule import poly_lr


def test_golden_poly_lr() -> None:
    golden = load_golden("poly_lr.npz")
    base, minimum, power = (float(golden[key]) for key in ("base_lr", "min_lr", "power"))
    asserted = {"base_lr", "min_lr", "power"}
    for key in golden.files:
        if match := re.fullmatch(r"lr_(\d+)", key):
            steps = golden[f"iters_{match[1]}"]
            ours = [poly_lr(int(s), int(match[1]), base, minimum, power) for s in steps]
            np.testing.assert_allclose(ours, golden[key], rtol=1e-12)
            asserted |= {key, f"iters_{match[1]}"}
    assert asserted == set(golden.files)


def test_ends() -> None:
    assert poly_lr(0, 10, 0.5, 0.1, 0.9) == pytest.approx(0.5)
    assert poly_lr(10, 10, 0.5, 0.1, 0.9) == pytest.approx(0.1)
    assert poly_lr(5, 10, 0.5, 0.1, 1.0) == pytest.approx(0.3)
