"""What two CPU processes gain over one, and what a step sends between processes.

Runs train_warmup.py of the demo (synthetic scenes, miniature CLIP) on the same global batches by
one process and by two of one thread each. Without `sync_region_stats` the log has the loss of rank
0's half of the batch, with it that of the whole: then two processes are one up to rounding, which
training magnifies from step to step.

    python -m benchmarks.scale [--json FILE] [--steps N]

The machine must be idle: with other work on the cores two processes look slower than they are.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.machine import describe
from demo.make_scenes import write_dataset
from models.build import build_model
from utils.cli import path
from utils.config import load_config
from utils.safe.errors import InputError, run_script
from utils.safe.files import write_json

PUBLISHED_PARAMETERS = 147.47e6  # the authors' all-reduce includes CLIP's
ONE = [sys.executable]
TWO = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
RUNS = {  # name: launcher, settings
    "1 process": (ONE, []),
    "2 processes": (TWO, []),
    "2 processes, sync": (TWO, ["sync_region_stats=true"]),
    "1 process, again": (ONE, []),  # other work on the machine shows here
}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=80, help="of each run, at least 20")
    parser.add_argument("--json", type=path, metavar="FILE", help="write machine and results there")
    arguments = parser.parse_args(argv)
    if arguments.steps < 20:
        parser.error("--steps: expected 20 or more")
    report = {"machine": describe("cpu"), "bytes_per_step": traffic()}
    print(traffic_text(report["bytes_per_step"]), flush=True)
    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "data", {"train": 30, "val": 1})
        losses = {}
        for name, (launcher, settings) in RUNS.items():
            lines = train(Path(folder), name, launcher, settings, arguments.steps)
            losses[name] = [line["loss"] for line in lines]
            report[name] = summary(lines, losses["1 process"], report.get("1 process"))
            print(run_text(name, report[name]), flush=True)
    if arguments.json:
        write_json(Path(arguments.json), report | {"losses": losses})


def train(
    folder: Path, name: str, launcher: list[str], settings: list[str], steps: int
) -> list[dict[str, Any]]:
    """Run train_warmup.py; the lines of its metrics.jsonl, one a step."""
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
    command = [*launcher, "train_warmup.py", "--config", "demo/config.yaml", "--device", "cpu"]
    command += ["--run-dir", str(run), *(part for each in settings for part in ("--set", each))]
    done = subprocess.run(
        command,
        cwd=Path(__file__).resolve().parent.parent,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise InputError(f"{name}: {' '.join(command)} failed:\n{done.stderr[-2000:]}")
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def summary(
    lines: list[dict[str, Any]], reference: list[float], one: dict[str, float] | None
) -> dict[str, float]:
    """Steps per second (median step, after ten), final loss (mean of the last ten steps) and how
    the losses differ, step by step and relatively, from those of one process.
    """
    losses = [line["loss"] for line in lines]
    batch_size = load_config("demo/config.yaml").batch_size
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


def run_text(name: str, run: dict[str, float]) -> str:
    if name == "1 process":
        return (
            f"{name:<18} {run['steps_per_second']:6.2f} steps/s  final loss {run['final_loss']:.4f}"
        )
    return (
        f"{name:<18} {run['steps_per_second']:6.2f} steps/s  speed-up {run['speed_up']:.2f}  "
        f"final loss {run['final_loss']:.4f}  loss differs from one process's by "
        f"{run['first_step_difference']:.2%} in the first step, {run['median_difference']:.2%} "
        f"median, {run['largest_difference']:.2%} at most"
    )


def traffic(num_classes: int = 19) -> dict[str, dict[str, float]]:
    """Bytes that a training step exchanges, of the network at real size with either ASPP."""
    result = {}
    for aspp, dilations in (("v2", "[6,12,18,24]"), ("v3", "[12,24,36]")):
        settings = [f"aspp={aspp}", f"aspp_dilations={dilations}"]
        config = load_config("configs/official/cityscapes.yaml", settings)
        with torch.device("meta"):  # sizes only
            text = F.normalize(torch.empty(num_classes, 512), dim=1)
            result[aspp] = network_traffic(build_model(config, num_classes, text, False))
    return result


def network_traffic(model: nn.Module) -> dict[str, float]:
    """All in bytes, but the counts. A batch norm of C channels gathers mean, inverse deviation and
    pixel count (2C+1) going forward and adds up 2C sums going back.
    """
    parameters = sum(p.numel() for p in model.parameters() if p.requires_grad)
    channels = [m.num_features for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    return {
        "parameters": parameters,
        "gradients": 4 * parameters,
        "published_gradients": 4 * PUBLISHED_PARAMETERS,
        "batch_norms": len(channels),
        "batch_norm": sum(4 * (2 * c + 1) + 4 * 2 * c for c in channels),
        "running_statistics": sum(
            b.numel() * 4 for n, b in model.named_buffers() if "running" in n
        ),
        # float64 sums and counts of two regions of two views (warm-up: half as much again)
        "criterion": 2 * 2 * 2 * 8,
    }


def traffic_text(networks: dict[str, dict[str, float]]) -> str:
    lines = ["Sent between processes in a step (ResNet-50, 19 classes):"]
    for aspp, sent in networks.items():
        lines.append(
            f"  ASPP {aspp}: gradients of {sent['parameters'] / 1e6:.2f} M parameters "
            f"{sent['gradients'] / 1e6:.1f} MB ({sent['published_gradients'] / 1e6:.1f} MB of "
            f"{PUBLISHED_PARAMETERS / 1e6:.2f} M the published way, "
            f"{sent['published_gradients'] / sent['gradients']:.2f}x); SyncBN "
            f"{sent['batch_norm'] / 1e3:.0f} kB in {sent['batch_norms']} layers; running "
            f"statistics {sent['running_statistics'] / 1e3:.0f} kB; losses with sync "
            f"{sent['criterion']} bytes"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
