"""Two trainings on one GPU at once, which then works on them in turns: is anything gained?

    python -m benchmarks.shared_gpu --device cuda --json runs/shared_gpu.json

The CARB steps of benchmarks/loader.py from memory with half the batch size, so that both fit: by
one process, then by two at once, without MPS. Two gain where one leaves the GPU idle. Both time the
same seconds: each waits until the other has taken its first steps. The file is written after each
of the two measurements.
"""

import contextlib
import subprocess
import sys
import tempfile
from itertools import repeat
from pathlib import Path
from typing import Any

from benchmarks import street_data
from benchmarks.harness import parser, wait
from benchmarks.loader import UNTIMED, rate, training
from benchmarks.output import ROOT, describe, machine_line, publish, save
from datasets.labels import load_classes
from datasets.training import training_set
from utils.batches import training_loader
from utils.cli import number, path
from utils.config import load_config
from utils.distributed import setup
from utils.safe.errors import InputError, run_script

READY = "ready\n"
MARK = "images per second: "


def main(argv: list[str]) -> None:
    command = parser(__doc__)
    command.add_argument("--data", type=path, help="folder of benchmarks.street_data; made here")
    command.add_argument("--seconds", type=number(3600), default=10.0, help="default: 10")
    command.add_argument("--one", action="store_true", help="train, as one of the processes")
    arguments = command.parse_args(argv)
    if arguments.one:
        print(f"{MARK}{train(Path(arguments.data), arguments.device, arguments.seconds)}")
        return
    setup(arguments.device)  # refuses a missing device
    with tempfile.TemporaryDirectory(prefix="carb-benchmark-") as scratch:
        data = Path(arguments.data or scratch)
        street_data.write(data, arguments.quick)
        report: dict[str, Any] = {"machine": describe(arguments.device)}
        for processes, key in ((1, "alone"), (2, "two")):
            report[key] = together(processes, data, arguments.device, arguments.seconds)
            report["summary"] = in_words(report)
            save(report, arguments)
    publish(report, "", "\n\n".join([machine_line(report), *report["summary"]]), arguments)


def in_words(report: dict[str, Any]) -> list[str]:
    """The rates found so far: of one process, then of two."""
    [alone] = report["alone"]
    if "two" not in report:
        return [f"images/s: {alone:.1f} alone"]
    both = sum(report["two"])
    gain = both / alone - 1
    return [f"images/s: {alone:.1f} alone, {both:.1f} of two processes at once ({gain:+.0%})"]


def train(data: Path, device: str, seconds: float) -> float:
    """Images/s of CARB's steps on one batch of half the size."""
    ranks, file = setup(device), data / "config.yaml"
    half = max(1, load_config(file).batch_size // 2)
    config = load_config(file, [f"batch_size={half}", "num_workers=0"])
    config = config.resolved(ranks.all_have_bf16)
    dataset = training_set(config, load_classes(config.class_file), ranks)
    batch = next(iter(training_loader(dataset, config, ranks, 0, 1)))
    steps = iter(training(config, ranks, repeat(batch)))
    for _ in range(UNTIMED):
        next(steps)
    wait(device)
    print(READY, end="", flush=True)
    sys.stdin.readline()  # until the other is ready too
    return rate(steps, seconds, device, untimed=0)


def together(processes: int, data: Path, device: str, seconds: float) -> list[float]:
    """Images/s of `processes` trainings at once. Raises InputError when one fails."""
    words = ["-m", "benchmarks.shared_gpu", "--one", "--device", device, "--data", str(data)]
    command: list[Any] = [sys.executable, *words, "--seconds", str(seconds)]
    kwargs = {"cwd": ROOT, "stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    started = [subprocess.Popen(command, **kwargs) for _ in range(processes)]
    try:
        for process in started:
            while process.stdout.readline() not in (READY, ""):  # "": it has failed
                pass
        for process in started:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write("\n")
                process.stdin.flush()
        outputs = [process.communicate()[0] for process in started]
    finally:
        for process in started:
            process.kill()
    if any(process.returncode for process in started):
        raise InputError("a training failed; see its error above")
    return [float(output.rpartition(MARK)[2]) for output in outputs]


if __name__ == "__main__":
    run_script(main)
