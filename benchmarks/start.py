"""Measure the cost of the input checks at the start of training on very many images.

    python -m benchmarks.start --json benchmarks/results/start.json --write

Writes images (--images, of 64x48 pixels) and labels to a temporary folder, runs train_warmup.py
with the demo's config for one step, and then each check alone: matching of labels and images over
all splits, labels that teach nothing, implausible settings, and the fingerprint of the data.
Numbers are CPU-seconds: medians of --rounds with the lowest and the highest in brackets. --write
puts the table into benchmarks/RESULTS.md.
"""

import json
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.output import (
    DEMO,
    ROOT,
    child_seconds,
    describe,
    machine_line,
    parser,
    positive,
    publish,
    spread,
    train_warmup,
)
from datasets import open_dataset
from datasets.doctor.label_check import check_trainable
from datasets.doctor.plausible import implausible
from datasets.fingerprint import fingerprint
from datasets.image_labels import read_image_labels
from datasets.labels import load_classes
from datasets.split_labels import labels_of_split
from datasets.training import TrainingSet, build_transform
from experiments.figures.style import markdown
from utils.collection import collection_paused
from utils.config import load_config
from utils.safe.errors import run_script


def main(argv: list[str]) -> None:
    command = parser(__doc__, rounds=3)
    command.add_argument("--images", type=positive, default=100_000)
    arguments = command.parse_args(argv)
    report: dict[str, Any] = {"machine": describe("cpu"), "images": arguments.images}
    with TemporaryDirectory() as folder:
        settings = make_data(Path(folder), arguments.images)
        report["rounds"] = [
            {"start": start(Path(folder), settings), "checks": checks(settings)}
            for _ in range(arguments.rounds)
        ]
    publish(report, "start", table(report), arguments)


def make_data(root: Path, num_images: int) -> list[str]:
    """Write images and labels below `root`; gives the overrides of the demo's config for them."""
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
    """CPU-seconds of a training of one step, in a separate process."""
    return child_seconds(lambda: train_warmup(folder / f"run_{time.time_ns()}", settings))


def checks(settings: list[str]) -> dict[str, float]:
    """CPU-seconds of each check; for labels without the time of reading them."""
    config = load_config(DEMO, settings)
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
    """Markdown: the machine, the checks, the whole start, and the share that the checks add."""
    rounds = report["rounds"]
    rows = [[name, spread([one["checks"][name] for one in rounds])] for name in rounds[0]["checks"]]
    rows.append(["the whole start, one step", spread([one["start"] for one in rounds])])
    added = [sum(one["checks"].values()) for one in rounds]
    shares = [a / (one["start"] - a) for a, one in zip(added, rounds, strict=True)]
    rows.append(["checks / the start without them", f"**{spread(shares)}**"])
    head = [f"{report['images']} images", "CPU-s"]
    return f"{machine_line(report)}\n\n{markdown(head, rows)}"


if __name__ == "__main__":
    run_script(main)
