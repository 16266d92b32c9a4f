"""benchmarks/precision.py: smoothed losses, the rule, and a real training of a few steps."""

import math
from pathlib import Path

import pytest
import tiny

import prepare_data
from benchmarks import precision
from benchmarks.precision import compare, largest_difference, schedule, smoothed
from utils.config import load_config
from utils.safe.errors import InputError
from utils.safe.files import read_json

CONTROL = "fp32, channels_last"


def losses(**factors: float) -> dict[str, dict[str, list[float]]]:
    """50 and 10 falling losses; those of a way are `factor` times as large."""
    usual = {"warmup": [3 / (1 + i / 9) for i in range(50)], "carb": [5 - i / 9 for i in range(10)]}
    factors = {"fp32": 1.0, "bf16": 1.0, CONTROL: 1.0} | factors
    return {w: {s: [f * x for x in xs] for s, xs in usual.items()} for w, f in factors.items()}


def test_losses_are_smoothed_over_a_window() -> None:
    assert smoothed([1.0, 2.0, 3.0, 6.0], 2) == [1.5, 2.5, 4.5]
    assert smoothed([1.0, 3.0], 20) == [2.0]  # a short stage is one mean
    # Two steps that are wrong in opposite directions cancel out; one alone shows.
    assert largest_difference([1.0] * 4, [1.0, 1.1, 0.9, 1.0], 4) == pytest.approx(0)
    assert largest_difference([1.0] * 4, [1.0, 1.2, 1.0, 1.0], 2) == pytest.approx(0.1)


def test_bf16_is_allowed_within_one_percent_of_fp32() -> None:
    found = compare(losses(bf16=1.009))
    assert found["allowed"] and found["decided"]
    assert found["differences"]["bf16"]["warmup"] == pytest.approx(0.009)
    assert not compare(losses(bf16=0.989))["allowed"]
    for stage in ("warmup", "carb"):  # each counts by itself, at every step
        one = losses()
        one["bf16"][stage][4] *= 2
        assert not compare(one)["allowed"]
    nan = losses()
    nan["bf16"]["carb"][0] = math.nan
    assert not compare(nan)["allowed"]


def test_the_control_decides_nothing_but_is_told() -> None:
    found = compare(losses(**{CONTROL: 1.02}))
    assert found["allowed"] and not found["decided"]
    report = {"machine": {"cores": 2}, "losses": losses(), **found}
    assert "can't tell" in precision.table(report)


def test_the_schedule_has_the_share_of_the_warm_up() -> None:
    settings = schedule("demo/config.yaml", ["seed=3"], 200)
    assert settings == ["seed=3", "steps=200", "warmup_steps=160", "log_every=1"]
    assert "warmup_steps=7" in schedule("demo/config.yaml", ["carb=false"], 7)
    assert load_config("demo/config.yaml", settings).seed == 3


@pytest.mark.slow
def test_a_few_steps_are_trained_in_every_way(tmp_path: Path) -> None:
    tiny.make_cityscapes(tmp_path / "data")
    tiny.make_clip(tmp_path / "clip.pt")
    config = tiny.make_config(tmp_path)
    root, labels = str(tmp_path / "data"), str(tmp_path / "image_labels.json")
    prepare_data.main(["cityscapes", "--root", root, "--out", labels, "--splits", "train"])
    file = tmp_path / "precision.json"
    command = ["--config", str(config), "--steps", "4", "--window", "2", "--json", str(file)]
    try:
        precision.main(command)
        status = 0
    except SystemExit as stopped:
        status = stopped.code
    found = read_json(file)
    assert status == 1 - found["allowed"]
    assert list(found["losses"]) == list(precision.WAYS)
    assert [len(one) for one in found["losses"]["fp32"].values()] == [2, 2]
    assert found["losses"]["bf16"] != found["losses"]["fp32"]
    with pytest.raises(InputError, match="at least two windows"):
        precision.main([*command[:2], "--steps", "3", "--window", "2"])
