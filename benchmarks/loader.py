"""Is the loader the limit of training? Images/s from JPEGs on disk, from memory, and of the loader.

    python -m benchmarks.loader --device cuda --data runs/street_data --json runs/loader.json

train_warmup.py and train_carb.py train on the images of benchmarks/street_data.py, with 8 workers;
their log gives images/s, without the first lines. Training from memory takes the steps of
train_carb.py on one batch that was loaded before. The loader is the limit where training from disk
reaches less than 95 % of training from memory. The files are in the system's cache after the first
epoch, so this measures decoding and augmentation, not the disk. --seconds: of CARB, after its
first log line.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks import street_data
from benchmarks.harness import parser, wait
from benchmarks.output import ROOT, describe, machine_line, publish
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
        report = measure(file, Path(scratch), arguments.device, arguments.seconds, arguments.quick)
    text = "\n\n".join([machine_line(report), *report["summary"]])
    publish(report, "", text, arguments)


def measure(
    file: Path, scratch: Path, device: str, seconds: float, quick: bool = False
) -> dict[str, Any]:
    """Images/s of both stages from disk, of the loader alone, and of CARB's steps from memory."""
    steps = 4 if quick else 30  # of the warm-up
    found = from_disk(file, scratch, device, seconds, [f"warmup_steps={steps}", f"steps={STEPS}"])
    ranks = setup(device)
    config = load_config(file).resolved(ranks.all_have_bf16)
    dataset = training_set(config, load_classes(config.class_file), ranks)
    batches = training_loader(dataset, config, ranks, 0, STEPS)
    short = min(seconds, 10.0)
    loaded = iter(batches)
    batch = next(loaded)
    found["loader"] = rate((config.batch_size for _ in loaded), short)
    del loaded  # ends the workers
    found["memory"] = rate(training(config, ranks, itertools.repeat(batch)), short, device)
    found |= {"workers": config.num_workers, "batch": config.batch_size}
    found |= {"precision": config.precision, "is_limit": found["carb"] < LIMIT * found["memory"]}
    return {"machine": describe(device)} | found | {"summary": [in_words(found)]}


def in_words(found: dict[str, Any]) -> str:
    return (
        f"images/s: {found['warmup']:.1f} (warm-up) and {found['carb']:.1f} (CARB) from JPEGs with "
        f"{found['workers']} workers, {found['memory']:.1f} (CARB) from memory, "
        f"{found['loader']:.1f} of the loader alone: the loader is "
        f"{'' if found['is_limit'] else 'not '}the limit"
    )


# --- from disk


def from_disk(
    file: Path, scratch: Path, device: str, seconds: float, settings: list[str]
) -> dict[str, float]:
    """Images/s of train_warmup.py and train_carb.py, by their logs; CARB is stopped."""
    command = ["--config", str(file), "--device", device]
    warmup, carb = scratch / "warmup", scratch / "carb"
    after = ["--set", *settings]
    _run(["train_warmup.py", *command, "--run-dir", str(warmup), *after], warmup, None)
    init = ["--init", str(warmup / "warmup.pt")]
    _run(["train_carb.py", *command, "--run-dir", str(carb), *init, *after], carb, seconds)
    return {run.name: logged_rate(read_log(run)) for run in (warmup, carb)}


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
