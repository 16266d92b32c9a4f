"""utils/threads.py: every script sets how threads wait before torch can read it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from utils.threads import WAITING

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = sorted(
    str(path.relative_to(ROOT).with_suffix("")).replace(os.sep, ".")
    for folder in ("", "scripts", "baselines", "experiments", "demo", "tests/fuzz", "benchmarks")
    for path in (ROOT / folder).glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)
# Ends the import at torch, which takes seconds.
PROBE = """
import importlib, os, sys
class Probe:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            found = map(os.environ.get, ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"))
            print("torch finds", *found, flush=True)
            os._exit(0)
sys.meta_path.insert(0, Probe())
importlib.import_module(sys.argv[1])
"""


def waiting(script: str, **variables: str) -> str:
    environment = {k: v for k, v in os.environ.items() if k not in WAITING} | variables
    done = subprocess.run(
        [sys.executable, "-c", PROBE, script],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_all_scripts_are_looked_at():
    assert {"eval", "prepare_data", "train_carb", "scripts.config_key"} <= {*SCRIPTS}


@pytest.mark.parametrize("script", SCRIPTS)
def test_threads_wait_asleep_in_every_script(script):
    assert waiting(script) in ("torch finds PASSIVE 1000", "")  # "": a script without torch


def test_the_users_own_choice_stays():
    assert waiting("eval", OMP_WAIT_POLICY="ACTIVE") == "torch finds ACTIVE None"
    assert waiting("eval", GOMP_SPINCOUNT="7") == "torch finds PASSIVE 7"
