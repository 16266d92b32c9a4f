"""Measure the speed-up of two CPU processes over one, and the bytes sent per step.

Runs train_warmup.py with the demo's config on the same global batches, with one process and with
two, one thread each. Without `sync_region_stats` the log has the loss of rank 0's half of the
batch. With it, the log has the loss of the whole batch, which equals that of one process up to
rounding; training amplifies the difference from step to step.

    python -m benchmarks.scale [--json FILE] [--steps N]

Run it on an idle machine: other work slows down two processes more than one.
"""

import json
import statistics
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.inputs import CLASSES, OFFICIAL
from benchmarks.output import DEMO, describe, parser, train_warmup
from demo.make_scenes import write_dataset
from models.build import build_model
from utils.config import load_config
from utils.safe.errors import run_script
from utils.safe.files import write_json

OFFICIAL_PARAMETERS = 147.47e6  # the official all-reduce includes CLIP's
ONE: list[str] = []  # words after the interpreter
TWO = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
RUNS = {  # name: launcher, settings
    "1 process": (ONE, []),
    "2 processes": (TWO, []),
    "2 processes, sync": (TWO, ["sync_region_stats=true"]),
    "1 process, again": (ONE, []),  # differs from the first if the machine had other work
}


def main(argv: list[str]) -> None:
    command = parser(__doc__)
    command.add_argument("--steps", type=int, default=80, help="of each run, at least 20")
    arguments = command.parse_args(argv)
    if arguments.steps < 20:
        command.error("--steps: expected 20 or more")
    report = {"machine": describe("cpu"), "bytes_per_step": traffic()}
    for aspp, sent in report["bytes_per_step"].items():
        print(in_words(f"a step with ASPP {aspp} sends", sent), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "data", {"train": 30, "val": 1})
        losses = {}
        for name, (launcher, settings) in RUNS.items():
            lines = train(Path(folder), name, launcher, settings, arguments.steps)
            losses[name] = [line["loss"] for line in lines]
            report[name] = summary(lines, losses["1 process"], report.get("1 process"))
            print(in_words(name, report[name]), flush=True)
    if arguments.json:
        write_json(Path(arguments.json), report | {"losses": losses})


def train(
    folder: Path, name: str, launcher: list[str], settings: list[str], steps: int
) -> list[dict[str, Any]]:
    """Run train_warmup.py; gives the lines of its metrics.jsonl, one per step."""
    data, run = folder / "data", folder / name.replace(" ", "_")
    settings = [
        *settings,
        f"data_root={data}",
        f"image_labels={data / 'image_labels.json'}",
        f"clip_text={data / 'clip_text.pt'}",
        f"steps={steps + 1}",
        f"warmup_steps={steps}",
        f"checkpoint_every={steps}",
        "log_every=1",
    ]
    train_warmup(run, settings, launcher, OMP_NUM_THREADS="1")
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def summary(
    lines: list[dict[str, Any]], reference: list[float], one: dict[str, float] | None
) -> dict[str, float]:
    """Steps per second (median after ten steps), final loss (mean of the last ten steps), and the
    relative differences of the losses from one process, step by step."""
    losses = [line["loss"] for line in lines]
    batch_size = load_config(DEMO).batch_size
    different = [abs(a - b) / b for a, b in zip(losses, reference, strict=True)]
    rate = statistics.median(line["images_per_second"] for line in lines[10:]) / batch_size
    return {
        "steps_per_second": rate,
        "speed_up": rate / one["steps_per_second"] if one else 1.0,
        "final_loss": statistics.mean(losses[-10:]),
        "first_step_difference": different[0],
        "median_difference": statistics.median(different),
        "largest_difference": max(different),
    }


def in_words(name: str, numbers: dict[str, float]) -> str:
    return f"{name}: {', '.join(f'{key} {value:.5g}' for key, value in numbers.items())}"


def traffic() -> dict[str, dict[str, float]]:
    """Bytes exchanged in a training step of the full-size network, for both versions of ASPP."""
    result = {}
    for aspp, dilations in (("v2", "[6,12,18,24]"), ("v3", "[12,24,36]")):
        settings = [f"aspp={aspp}", f"aspp_dilations={dilations}"]
        config = load_config(OFFICIAL, settings)
        with torch.device("meta"):  # sizes only
            text = F.normalize(torch.empty(CLASSES, 512), dim=1)
            result[aspp] = network_traffic(build_model(config, CLASSES, text, False))
    return result


def network_traffic(model: nn.Module) -> dict[str, float]:
    """Bytes by purpose, and two counts. A batch norm of C channels gathers mean, inverse standard
    deviation and pixel count (2C+1) in the forward pass and adds up 2C sums in the backward pass.
    """
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    channels = [m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return {
        "parameters": parameters,
        "gradients": 4 * parameters,
        "official_gradients": 4 * OFFICIAL_PARAMETERS,
        "batch_norms": len(channels),
        "batch_norm": sum(4 * (2 * c + 1) + 4 * 2 * c for c in channels),
        "running_statistics": sum(
            b.numel() * 4 for n, b in model.named_buffers() if "running" in n
        ),
        # float64 sums and counts of two regions of two views (warm-up: half as much again)
        "criterion": 2 * 2 * 2 * 8,
    }


if __name__ == "__main__":
    run_script(main)
