"""What the checks of the input cost at the start of a training on very many images.

    python -m benchmarks.start --json benchmarks/results/start.json --write

Makes the images (--images, of 64x48 pixels) and their labels in a temporary folder, starts
train_warmup.py with the demo's config for one step, and takes the checks by themselves: matching of
labels and images over all splits, what labels can teach, settings that can't be meant, and the
fingerprint by which a run knows its data again. CPU-seconds, medians of --rounds; in brackets the
lowest and the highest. --write puts the table into benchmarks/RESULTS.md.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import describe
from benchmarks.page import fill
from benchmarks.table import PAGE
from datasets import open_dataset
from datasets.doctor.label_check import check_trainable
from datasets.doctor.plausible import implausible
from datasets.fingerprint import fingerprint
from datasets.image_labels import read_image_labels
from datasets.labels import load_classes
from datasets.split_labels import labels_of_split
from datasets.training import TrainingSet, build_transform
from utils.cli import path
from utils.collection import collection_paused
from utils.config import load_config
from utils.safe.errors import run_script
from utils.safe.files import write_json

ROOT = Path(__file__).resolve().parent.parent


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=path, metavar="FILE", help="write machine and results there")
    parser.add_argument("--write", action="store_true", help="replace the table of RESULTS.md")
    arguments = parser.parse_args(argv)
    if min(arguments.images, arguments.rounds) < 1:
        parser.error("expected --images and --rounds of at least 1")
    report: dict[str, Any] = {"machine": describe("cpu"), "images": arguments.images}
    with TemporaryDirectory() as folder:
        settings = make_data(Path(folder), arguments.images)
        report["rounds"] = [
            {"start": start(Path(folder), settings), "checks": checks(settings)}
            for _ in range(arguments.rounds)
        ]
    text = table(report)
    if arguments.json:
        write_json(Path(arguments.json), report)
    if arguments.write:
        fill(PAGE, "start", text)
    print(text)


def make_data(root: Path, num_images: int) -> list[str]:
    """Images, labels and classes below `root`; the overrides of the demo's config for them."""
    classes = ROOT / "demo/classes.yaml"
    rng = np.random.default_rng(0)
    for split, count in (("train", num_images), ("val", max(1, num_images // 100))):
        folder = root / "images" / split
        folder.mkdir(parents=True)
        first = folder / f"{split}_000000.jpg"
        Image.fromarray(rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)).save(first)
        for i in range(1, count):
            (folder / f"{split}_{i:06d}.jpg").write_bytes(first.read_bytes())
    labels = {f"train_{i:06d}": sorted({i % 12, i % 7, 3}) for i in range(num_images)}
    (root / "labels.json").write_text(json.dumps(labels), encoding="utf-8")
    return [
        f"data_root={root}",
        f"class_file={classes}",
        f"image_labels={root / 'labels.json'}",
        f"clip_text={root / 'text.pt'}",
        *("steps=1", "carb=false", "warmup_steps=1", "checkpoint_every=1", "log_every=1"),
    ]


def start(folder: Path, settings: list[str]) -> float:
    """CPU-seconds of a training of one step, in a process of its own."""
    run = folder / f"run_{time.time_ns()}"
    command = [sys.executable, ROOT / "train_warmup.py", "--config", ROOT / "demo/config.yaml"]
    command += ["--set", *settings, "--run-dir", run, "--device", "cpu"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def checks(settings: list[str]) -> dict[str, float]:
    """CPU-seconds of each check; of the labels, what it takes beyond reading them."""
    config = load_config(ROOT / "demo/config.yaml", settings)
    classes = load_classes(config.class_file)
    dataset = open_dataset(config.dataset, config.data_root)
    images = dataset.images("train")
    source = config.image_labels
    read_only = collection_paused()(read_image_labels)  # as labels_of_split reads them
    _, read = timed(lambda: read_only(source, len(classes), classes.names))
    labels, matched = timed(lambda: labels_of_split(dataset, "train", source, classes, images))
    samples = TrainingSet(images, labels, len(classes), build_transform(config))
    return {
        "labels of the split": matched - read,
        "what labels teach": timed(lambda: check_trainable(classes, labels))[1],
        "settings": timed(lambda: implausible(config, len(images)))[1],
        "fingerprint": timed(lambda: fingerprint(classes, samples))[1],
    }


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    before = time.process_time()
    return call(), time.process_time() - before


def table(report: dict[str, Any]) -> str:
    """Markdown: the machine, the checks, the whole start and what the checks add to it."""
    rounds = report["rounds"]
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    lines = [f"*{machine}*", "", f"| {report['images']} images | CPU-s |", "|---|---|"]
    for name in rounds[0]["checks"]:
        lines.append(f"| {name} | {spread([one['checks'][name] for one in rounds])} |")
    lines.append(f"| the whole start, one step | {spread([one['start'] for one in rounds])} |")
    added = [sum(one["checks"].values()) for one in rounds]
    shares = [a / (one["start"] - a) for a, one in zip(added, rounds, strict=True)]
    lines.append(f"| checks / the start without them | **{spread(shares)}** |")
    return "\n".join(lines)


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} [{min(values):.3g} to {max(values):.3g}]"


if __name__ == "__main__":
    run_script(main)
