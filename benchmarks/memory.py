"""Peak memory of a CARB training step, each way in processes of its own, after two steps.

The median of three processes and their range: on a CPU the peak depends on which thread freed what.

CPU: peak resident memory; the whole of it, and what the steps add to what the process holds before
the first. GPU: the most memory that tensors took.
"""

import statistics
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from benchmarks.harness import Options, Size, main_of
from benchmarks.step_ways import our_way, published_way, setting
from benchmarks.train_step import BF16, FP32

OURS = {"fp32": FP32, "bf16": BF16}
TARGET = 0.6
STEPS = 2  # the second also holds the optimizer's momentum while it runs


def cases(options: Options) -> list[Size]:
    published = _processes("published", options)
    found = []
    for name in ["bf16"] if options.quick else OURS:
        both = published, _processes(name, options)
        target = TARGET if name == "bf16" and not options.quick else None
        theirs, own = (statistics.median(run["before"] for run in runs) for runs in both)
        note = f"{theirs:.0f} MiB before the first step, the published way, {own:.0f} MiB ours"
        peaks = [[run["peak"] for run in runs] for runs in both]
        found.append(Size(f"peak memory, {name}", *peaks, "MiB", target, note))
        added = [[run["peak"] - run["before"] for run in runs] for runs in both]
        found.append(Size(f"peak memory added by the step, {name}", *added, "MiB"))
    return found


def _processes(way: str, options: Options) -> list[dict[str, float]]:
    """What `measure` gives of `way`, each time in a fresh process."""
    found = []
    for _ in range(1 if options.quick else 3):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found.append(process.submit(measure, way, options).result())
    return found


def measure(way: str, options: Options) -> dict[str, float]:
    """In this process: MiB before the first step and at the peak of the first `STEPS`."""
    device = options.device
    if way == "published":
        step = published_way(setting(options), True, device)
    else:
        step = our_way(setting(options), True, device, **OURS[way])
    on_gpu = device.startswith("cuda")
    before = torch.cuda.memory_allocated() / 2**20 if on_gpu else _resident("VmRSS")
    for _ in range(STEPS):
        step()
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else _resident("VmHWM")
    return {"before": before, "peak": peak}


def _resident(key: str) -> float:
    """MiB, now (VmRSS) or at most so far (VmHWM).

    Not getrusage: its peak counts the parent process from before the new program was started.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024
    raise AssertionError(f"no {key} in /proc/self/status")


if __name__ == "__main__":
    main_of(cases)
