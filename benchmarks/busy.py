"""The demo's network trained alone and beside another torch process, by how OpenMP threads wait.

    python -m benchmarks.busy --json benchmarks/results/busy.json --write

By default a thread that waits spins for long, passive ones sleep at once, and those of
utils/threads.py ("ours") spin for a short while before they sleep. The other process
is of this benchmark too, trains the same, and spins as a program without such a setting does. The
six situations take turns, --rounds times; numbers are medians, in brackets the lowest and the
highest. --write puts the table into benchmarks/RESULTS.md. Other work on the machine blurs what
"alone" means: load_average says how much there was at the start.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.machine import describe
from benchmarks.page import fill
from benchmarks.table import PAGE
from models.build import build_model
from utils.cli import path
from utils.config import load_config
from utils.safe.errors import InputError, run_script
from utils.safe.files import write_json
from utils.threads import WAITING

ROOT = Path(__file__).resolve().parent.parent
POLICIES = {"default": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}, "ours": WAITING}
# torch comes first: what importing this package sets is too late for it.
COMMAND = [sys.executable, "-c", "import sys, torch, benchmarks.busy as b; b.train(sys.argv[1])"]
LONG = 600.0  # seconds, at most, of the other process


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="of the six situations")
    parser.add_argument("--seconds", type=float, default=8.0, help="of training in each")
    parser.add_argument("--json", type=path, metavar="FILE", help="write machine and results there")
    parser.add_argument("--write", action="store_true", help="replace the table of RESULTS.md")
    arguments = parser.parse_args(argv)
    if arguments.rounds < 1 or not 0 < arguments.seconds <= LONG:
        parser.error(f"expected --rounds of at least 1 and --seconds of 0 to {LONG:g}")
    report: dict[str, Any] = {"machine": describe("cpu"), "rounds": []}
    del report["machine"]["omp_wait_policy"]  # this process's
    for _ in range(arguments.rounds):
        report["rounds"].append(
            {
                f"{place}, {policy}": measure(policy, place == "beside", arguments.seconds)
                for place in ("alone", "beside")
                for policy in POLICIES
            }
        )
    text = table(report)
    if arguments.json:
        write_json(Path(arguments.json), report)
    if arguments.write:
        fill(PAGE, "busy machine", text)
    print(text)


def train(seconds: str) -> None:
    """In a process of its own: prints a line once it is warm, then {images/s, CPU-ms/image}."""
    config = load_config(ROOT / "demo/config.yaml")
    torch.manual_seed(0)
    model = build_model(config, 12, F.normalize(torch.randn(12, 64), dim=1), pretrained=False)
    optimizer = torch.optim.SGD(model.parameters(), config.lr)
    image = torch.randn(config.batch_size, 3, *config.crop_size)
    labels = torch.randint(0, 12, (config.batch_size, *config.crop_size))

    def step() -> None:
        logits = F.interpolate(model(image), config.crop_size, mode="bilinear")
        optimizer.zero_grad()
        F.cross_entropy(logits, labels).backward()
        optimizer.step()

    step()
    print("warm", flush=True)
    images, start, cpu = 0, time.perf_counter(), time.process_time()
    while (passed := time.perf_counter() - start) < float(seconds):
        step()
        images += config.batch_size
    used = (time.process_time() - cpu) / images * 1000
    print(json.dumps({"images_per_second": images / passed, "cpu_ms_per_image": used}), flush=True)


def measure(policy: str, beside: bool, seconds: float) -> dict[str, float]:
    """One training with that policy, alone or beside another of the default policy."""
    other = _start("default", LONG) if beside else None
    try:
        if other:
            other.stdout.readline()  # it is warm
        output, _ = _start(policy, seconds).communicate()
    finally:
        if other:
            other.kill()
            other.communicate()
    lines = output.splitlines()
    if len(lines) != 2:
        raise InputError(f"the training of {policy} ended early; its error stands above")
    return json.loads(lines[1])


def _start(policy: str, seconds: float) -> subprocess.Popen:
    unset = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= POLICIES[policy]
    return subprocess.Popen(
        [*COMMAND, str(seconds)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )


def table(report: dict[str, Any]) -> str:
    """Markdown: the machine, a row a situation, and ours / default round by round."""
    rounds = report["rounds"]
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    lines = [f"*{machine}*", "", "| situation | images/s | CPU-ms an image |", "|---|---|---|"]
    for name in rounds[0]:
        rates, used = (
            _spread([one[name][key] for one in rounds])
            for key in ("images_per_second", "cpu_ms_per_image")
        )
        lines.append(f"| {name} | {rates} | {used} |")
    for place in ("alone", "beside"):
        ways = (f"{place}, ours", f"{place}, default")
        rates = [[one[way]["images_per_second"] for way in ways] for one in rounds]
        ratios = _spread([ours / default for ours, default in rates])
        lines.append(f"| {place}, ours / default | **{ratios}** | |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} [{min(values):.3g}-{max(values):.3g}]"


if __name__ == "__main__":
    run_script(main)
