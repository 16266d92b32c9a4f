"""Measure training alone and beside another torch process, for three policies of OpenMP waiting.

    python -m benchmarks.busy --json benchmarks/results/busy.json --write

A waiting thread spins for long ("default"), sleeps at once ("passive"), or spins briefly before it
sleeps ("ours", utils/threads.py). The other process trains the same network, the demo's, with the
default policy. The six situations alternate, --rounds times; numbers are medians with the lowest
and the highest in brackets. --write puts the table into benchmarks/RESULTS.md. load_average shows
how much other work the machine had at the start.
"""

import json
import os
import subprocess
import sys
import time
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks.output import DEMO, ROOT, describe, machine_line, parser, publish, spread
from experiments.figures.style import markdown
from models.build import build_model
from utils.config import load_config
from utils.safe.errors import InputError, run_script
from utils.threads import WAITING

POLICIES = {"default": {}, "passive": {"OMP_WAIT_POLICY": "PASSIVE"}, "ours": WAITING}
# torch is imported first, so that importing this package sets the policy too late.
COMMAND = [sys.executable, "-c", "import sys, torch, benchmarks.busy as b; b.train(sys.argv[1])"]
SECONDS = 8.0  # of training in each situation
LONG = 600.0  # seconds: longest time of the other process


def main(argv: list[str]) -> None:
    arguments = parser(__doc__, rounds=5).parse_args(argv)
    report: dict[str, Any] = {"machine": describe("cpu"), "rounds": []}
    del report["machine"]["omp_wait_policy"]  # it is this process's, not the measured ones'
    for _ in range(arguments.rounds):
        report["rounds"].append(
            {
                f"{place}, {policy}": measure(policy, place == "beside", SECONDS)
                for place in ("alone", "beside")
                for policy in POLICIES
            }
        )
    publish(report, "busy machine", table(report), arguments)


def train(seconds: str) -> None:
    """Train in this process; print a line when warm, then {images/s, CPU-ms/image} as JSON."""
    config = load_config(DEMO)
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
    """Result of one training, alone or beside a training with the default policy."""
    other = _start("default", LONG) if beside else None
    try:
        if other:
            other.stdout.readline()  # wait until it is warm
        output, _ = _start(policy, seconds).communicate()
    finally:
        if other:
            other.kill()
            other.communicate()
    lines = output.splitlines()
    if len(lines) != 2:
        raise InputError(f"the training with policy '{policy}' failed; see its error above")
    return json.loads(lines[1])


def _start(policy: str, seconds: float) -> subprocess.Popen:
    unset = ("OMP_WAIT_POLICY", "OMP_NUM_THREADS", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in unset}
    environment |= POLICIES[policy]
    return subprocess.Popen(
        [*COMMAND, str(seconds)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )


def table(report: dict[str, Any]) -> str:
    """Markdown: the machine, a row per situation, and the ratio ours / default over the rounds."""
    rounds, rows = report["rounds"], []
    for name in rounds[0]:
        keys = ("images_per_second", "cpu_ms_per_image")
        rows.append([name, *(spread([one[name][key] for one in rounds]) for key in keys)])
    for place in ("alone", "beside"):
        ways = (f"{place}, ours", f"{place}, default")
        rates = [[one[way]["images_per_second"] for way in ways] for one in rounds]
        ratios = spread([ours / default for ours, default in rates])
        rows.append([f"{place}, ours / default", f"**{ratios}**", ""])
    head = ["situation", "images/s", "CPU-ms an image"]
    return f"{machine_line(report)}\n\n{markdown(head, rows)}"


if __name__ == "__main__":
    run_script(main)
