"""benchmarks/demo_profile.py on two scenes: its shares; the scripts are left as they were."""

from pathlib import Path

import pytest

import train_carb
import train_warmup
import utils.run
from benchmarks import demo_profile
from demo.make_scenes import write_dataset
from models.carb import CARBCriterion
from utils.run import Run
from utils.runlog import RunLog


def test_shares_of_both_scripts_add_up_and_the_scripts_are_left_as_they_were(
    tmp_path: Path,
) -> None:
    write_dataset(tmp_path / "data", {"train": 2, "val": 1})
    before = parts()
    found = demo_profile.profiles(tmp_path / "data", tmp_path / "runs", steps=1)
    assert before == parts() and found.keys() == {"train_warmup.py", "train_carb.py"}
    for shares in found.values():
        for kind in ("wall", "cpu"):
            assert shares[kind].keys() == {*demo_profile.PARTS}
            assert sum(shares[kind].values()) == pytest.approx(1)
            computing = {shares[kind][part] for part in (*demo_profile.COMPUTING, "loading")}
            assert min(computing) > 0 and shares[kind]["rest"] > -1e-3
    assert (tmp_path / "runs/carb/last.pt").exists()


def parts() -> tuple:
    """What the benchmark replaces for a while."""
    scripts = (
        (script.build_network, script.prepare_views, script.sgd_step)
        for script in (train_warmup, train_carb)
    )
    shared = Run.steps, Run.save, RunLog.add, utils.run.training_loader, CARBCriterion.__call__
    return *scripts, *shared, train_warmup.warmup_losses


def test_table_adds_up_what_computes() -> None:
    shares = dict.fromkeys(demo_profile.PARTS, 0.05) | {"network": 0.65}
    one = {"train_warmup.py": {"wall": shares, "cpu": shares}}
    text = demo_profile.table({"machine": {"cores": 2}, "steps": 3, "rounds": [one, one]})
    assert "| per cent of 3 steps | `train_warmup.py`, wall time |" in text
    assert "| network | 65.0 [65.0-65.0] |" in text
    assert "| CLIP, network and loss | **80.0 [80.0-80.0]** |" in text
