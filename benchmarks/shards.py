"""Compare tar shards with files: images per second of one core, and the seconds of a start.

    python -m benchmarks.shards --json benchmarks/results/shards.json --write

Reading: training samples (`TrainingSet`, crop 512x512) of --pictures JPEGs of 1024x512 pixels, in a
random order, in one thread; and reading their bytes alone. Files and shards take turns, and the
share of one run is what counts: all is in the system's cache, so no disk is compared. Start:
listing --images small images in --shards shards, the first time, which reads all headers and
writes the index, and later; beside it the same images as files. Numbers are medians of --rounds,
the lowest and the highest in brackets. --write puts the table into benchmarks/RESULTS.md.
"""

import io
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.output import describe, machine_line, parser, positive, publish, spread
from datasets import open_dataset
from datasets.tar_index import INDEX
from datasets.training import TrainingSet
from datasets.transforms import TrainTransform
from experiments.figures.style import markdown
from utils.batches import Draw
from utils.safe.errors import run_script
from utils.safe.tar_file import END, tar_entry

SIZE, CROP, RATIOS = (512, 1024), (512, 512), (0.5, 2.0)
KINDS = ("files", "shards")


def main(argv: list[str]) -> None:
    command = parser(__doc__, rounds=3)
    command.add_argument("--images", type=positive, default=100_000)
    command.add_argument("--shards", type=positive, default=100)
    command.add_argument("--pictures", type=positive, default=64)
    arguments = command.parse_args(argv)
    torch.set_num_threads(1)
    report: dict[str, Any] = {"machine": describe("cpu")}
    report |= {key: getattr(arguments, key) for key in ("images", "shards", "pictures")}
    with TemporaryDirectory(prefix="carb-benchmark-") as folder:
        small, large = Path(folder, "small"), Path(folder, "large")
        make_data(small, arguments.images, arguments.shards, (48, 64))
        make_data(large, arguments.pictures, min(4, arguments.pictures), SIZE)
        report["rounds"] = [
            {"start": starts(small), "reading": rates(large)} for _ in range(arguments.rounds)
        ]
    publish(report, "shards", table(report), arguments)


def make_data(root: Path, number: int, shards: int, size: tuple[int, int]) -> None:
    """Write root/files and root/shards with the same `number` images, a few of them different."""
    numbers, contents = np.random.default_rng(0), []
    for _ in range(min(number, 16)):
        smooth = numbers.integers(0, 256, (size[0] // 16, size[1] // 16, 3), dtype=np.uint8)
        pixels = np.array(Image.fromarray(smooth).resize(size[::-1], Image.Resampling.BICUBIC))
        noise = numbers.integers(0, 24, (*size, 1), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels // 2 + noise).save(buffer, "JPEG", quality=90)
        contents.append(buffer.getvalue())
    images = root / "files/images/train"
    images.mkdir(parents=True)
    (root / "shards").mkdir()
    for shard in range(shards):
        with (root / f"shards/train-{shard:06d}.tar").open("wb") as tar:
            for i in range(shard * number // shards, (shard + 1) * number // shards):
                content = contents[i % len(contents)]
                tar.write(tar_entry(f"{i:08d}.jpg", content))
                (images / f"{i:08d}.jpg").write_bytes(content)
            tar.write(END)


def starts(root: Path) -> dict[str, float]:
    """CPU-seconds of listing the images with their sizes, as a run does when it starts."""

    def listed(kind: str) -> float:
        before = time.process_time()
        for file in open_dataset("folder", root / kind).images("train").values():
            file.size()
        return time.process_time() - before

    (root / "shards" / INDEX).unlink(missing_ok=True)
    first = listed("shards")
    return {"files": listed("files"), "shards, first": first, "shards": listed("shards")}


def rates(root: Path) -> dict[str, float]:
    """Images per CPU-second of samples and of reading alone, by kind."""
    found: dict[str, float] = {}
    for kind in KINDS:
        images = open_dataset("folder", root / kind).images("train")
        names = dict.fromkeys(images, (0,))
        samples = TrainingSet(images, names, 1, TrainTransform(SIZE, RATIOS, CROP))
        order = random.Random(0).sample(range(len(images)), len(images))
        files = [*images.values()]
        found[f"samples, {kind}"] = rate(lambda i, s=samples: s[Draw(i, i)], order)
        found[f"bytes, {kind}"] = rate(lambda i, f=files: f[i].read(), order * 20)
    return found


def rate(read: Callable[[int], Any], order: list[int]) -> float:
    before = time.process_time()
    for i in order:
        read(i)
    return len(order) / (time.process_time() - before)


def table(report: dict[str, Any]) -> str:
    """Markdown: the machine; a row for each measurement with files, shards and their ratio."""
    head = ["", "files", "shards", "shards / files"]
    return f"{machine_line(report)}\n\n{markdown(head, [*rows(report)])}"


def rows(report: dict[str, Any]) -> Iterator[list[str]]:
    start, reading = ([one[part] for one in report["rounds"]] for part in ("start", "reading"))
    many = f"{report['images']} images in {report['shards']} shards"
    for name, key in ((f"start, {many}, CPU-s", "shards"), ("the first start", "shards, first")):
        yield _row(name, [one["files"] for one in start], [one[key] for one in start])
    for what in ("samples", "bytes"):
        files, shards = ([one[f"{what}, {kind}"] for one in reading] for kind in KINDS)
        yield _row(f"{what}, images/s of a core", files, shards)


def _row(name: str, files: list[float], shards: list[float]) -> list[str]:
    shares = [b / a for a, b in zip(files, shards, strict=True)]
    return [name, spread(files), spread(shards), f"**{spread(shares)}**"]


if __name__ == "__main__":
    run_script(main)
