"""Is the loader the limit of training? Images/s from JPEGs on disk, from memory, and of the loader.

    python -m benchmarks.loader --device cuda --data runs/street_data --json runs/loader.json

train_warmup.py and train_carb.py train on the images of benchmarks/street_data.py, with 8 workers;
their log gives images/s, without the first lines. Training from memory takes the steps of
train_carb.py on one batch that was loaded before. The loader is the limit where training from disk
reaches less than 95 % of training from memory and the loader alone is hardly faster than that; with
a faster loader the time is lost elsewhere, e.g. in copies, or to workers on the cores that training
needs. The files are in the system's cache after the first epoch, so this measures decoding and
augmentation, not the disk. --seconds: of CARB, after its first log line. The file is written after
each number.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks import street_data
from benchmarks.harness import parser, wait
from benchmarks.output import ROOT, describe, machine_line, publish, save
from datasets.labels import load_classes
from datasets.training import training_set
from models.build import (
    build_criterion,
    build_model,
    build_network,
    build_optimizer,
    build_sampler,
    build_teacher,
    build_text,
)
from models.training import sgd_step
from models.views import prepare_views
from utils.batches import training_loader
from utils.cli import number, path
from utils.config import Config, load_config
from utils.distributed import Ranks, setup
from utils.safe.errors import InputError, run_script

LIMIT = 0.95  # of the rate from memory
STEPS = 10**6  # never reached
UNTIMED = 3  # steps, in which kernels are loaded
START = 240.0  # seconds that a script may take to its first log line


def main(argv: list[str]) -> None:
    command = parser(__doc__)
    command.add_argument("--data", type=path, help="folder of benchmarks.street_data; made here")
    command.add_argument("--seconds", type=number(3600), default=60.0, help="default: 60")
    arguments = command.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="carb-benchmark-") as scratch:
        data = Path(arguments.data or scratch)
        file = street_data.write(data, arguments.quick)
        report = {"machine": describe(arguments.device), "summary": []}
        options = arguments.device, arguments.seconds, arguments.quick
        for found in measure(file, Path(scratch), *options):
            report |= found | {"summary": in_words(found)}
            save(report, arguments)
    publish(report, "", "\n\n".join([machine_line(report), *report["summary"]]), arguments)


def measure(
    file: Path, scratch: Path, device: str, seconds: float, quick: bool = False
) -> Iterator[dict[str, Any]]:
    """What was found so far, after each number of images/s.

    Keys warmup and carb (from disk), loader (alone), memory (CARB's steps), and whether is_limit.
    """
    ranks = setup(device)  # refuses a missing device
    config = load_config(file).resolved(ranks.all_have_bf16)
    found: dict[str, Any] = {"workers": config.num_workers, "batch": config.batch_size}
    found["precision"] = config.precision
    steps = 4 if quick else 30  # of the warm-up
    settings = [f"warmup_steps={steps}", f"steps={STEPS}"]
    for stage, one in from_disk(file, scratch, device, seconds, settings):
        found[stage] = one
        yield found
    dataset = training_set(config, load_classes(config.class_file), ranks)
    batches = training_loader(dataset, config, ranks, 0, STEPS)
    short = min(seconds, 10.0)
    loaded = iter(batches)
    batch = next(loaded)
    found["loader"] = rate((config.batch_size for _ in loaded), short)
    yield found
    del loaded  # ends the workers
    found["memory"] = rate(training(config, ranks, itertools.repeat(batch)), short, device)
    yield found | {"is_limit": is_limit(found)}


def is_slower(found: dict[str, Any]) -> bool:
    """Whether training from disk is slower than from memory."""
    return found["carb"] < LIMIT * found["memory"]


def is_limit(found: dict[str, Any]) -> bool:
    """Whether the loader is why: a loader that is faster than training has batches ready."""
    return is_slower(found) and found["loader"] < found["memory"] / LIMIT


def in_words(found: dict[str, Any]) -> list[str]:
    """A sentence for each number of images/s, then what limits training."""
    what = {
        "warmup": "warm-up from JPEGs with {workers} workers",
        "carb": "CARB from JPEGs with {workers} workers",
        "loader": "the loader alone",
        "memory": "CARB from memory",
    }
    lines = [
        f"{text.format(**found)}: {found[k]:.1f} images/s" for k, text in what.items() if k in found
    ]
    if "is_limit" not in found:
        return lines
    if found["is_limit"] or not is_slower(found):
        return [*lines, f"the loader is {'' if found['is_limit'] else 'not '}the limit"]
    lost = 1 - found["carb"] / found["memory"]
    return [
        *lines,
        f"the loader is not the limit, but training from JPEGs is {lost:.0%} slower than from "
        "memory: the time is lost elsewhere (copies, workers on the cores that training needs)",
    ]


# --- from disk


def from_disk(
    file: Path, scratch: Path, device: str, seconds: float, settings: list[str]
) -> Iterator[tuple[str, float]]:
    """Stage and images/s of train_warmup.py and train_carb.py, by their logs; CARB is stopped."""
    command = ["--config", str(file), "--device", device]
    warmup, carb = scratch / "warmup", scratch / "carb"
    after = ["--set", *settings]
    _run(["train_warmup.py", *command, "--run-dir", str(warmup), *after], warmup, None)
    yield "warmup", logged_rate(read_log(warmup))
    init = ["--init", str(warmup / "warmup.pt")]
    _run(["train_carb.py", *command, "--run-dir", str(carb), *init, *after], carb, seconds)
    yield "carb", logged_rate(read_log(carb))


def _run(words: list[str], run: Path, seconds: float | None) -> None:
    """Run a training script, to its end or for `seconds` after its first log line.

    Raises InputError when it fails.
    """
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    with (run.parent / f"{run.name}.log").open("w+", encoding="utf-8") as log:
        process = subprocess.Popen(
            [sys.executable, *words], cwd=ROOT, env=environment, stdout=log, stderr=log
        )
        try:
            if seconds is not None:
                end = time.perf_counter() + START
                while process.poll() is None and not read_log(run) and time.perf_counter() < end:
                    time.sleep(0.05)
                end = time.perf_counter() + seconds
                while process.poll() is None and time.perf_counter() < end:
                    time.sleep(0.05)
                process.terminate()
            status = process.wait(START)
        finally:
            process.kill()
        if status not in ((0,) if seconds is None else (0, 143)):
            log.seek(0)
            raise InputError(f"{' '.join(words)} failed:\n{log.read()[-2000:]}")


def read_log(run: Path) -> list[dict[str, Any]]:
    """The whole lines of a run's metrics.jsonl; none before it exists."""
    file = run / "metrics.jsonl"
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def logged_rate(lines: list[dict[str, Any]]) -> float:
    """Mean images/s of the lines after the first two, in which kernels are loaded and tuned.

    Raises InputError where there are none.
    """
    rates = [line["images_per_second"] for line in lines[2:]]
    if not rates:
        raise InputError(f"only {len(lines)} log lines in the given time; raise --seconds")
    return len(rates) / sum(1 / one for one in rates)  # lines have as many images


# --- in this process


def training(config: Config, ranks: Ranks, batches: Iterable[dict[str, Any]]) -> Iterable[int]:
    """The steps of train_carb.py on `batches`, from random weights; yields their images."""
    classes = load_classes(config.class_file)
    text = build_text(config, classes)
    model = build_model(config, len(classes), text, pretrained=False).to(ranks.device)
    optimizer, criterion = build_optimizer(config, model), build_criterion(config)
    teacher, sampler = build_teacher(config, classes, ranks.device), build_sampler(config)
    network = build_network(model, config, ranks)
    for step, batch in enumerate(batches):
        views = prepare_views(batch, step, config, ranks, teacher, sampler)
        losses = criterion(network(views.image, step), views)
        sgd_step(losses["loss"], optimizer, 1e-4)
        yield len(batch["image"])


def rate(work: Iterable[int], seconds: float, device: str = "cpu", untimed: int = UNTIMED) -> float:
    """Images/s of `work`, which yields numbers of images, for `seconds` after `untimed` items."""
    work, images = iter(work), 0
    for _ in range(untimed):
        next(work)
    wait(device)
    start = time.perf_counter()
    for count in work:
        images += count
        if images % (8 * count) == 0:  # a GPU works behind the host
            wait(device)
        if time.perf_counter() - start >= seconds:
            break
    wait(device)
    return images / (time.perf_counter() - start)


if __name__ == "__main__":
    run_script(main)
