"""Peak memory of two CARB training steps, each way in separate processes.

Median and range of three processes: on a CPU the peak depends on which thread frees which memory.
CPU: peak resident memory, and its increase over the memory before the first step. GPU: peak memory
of tensors, of which bf16 may take MOST_GB. --quick: bf16 alone, in one process each way.
"""

import statistics
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context

import torch

from benchmarks import output
from benchmarks.harness import Options, Size, main_of
from benchmarks.step_ways import official_way, our_way, setting
from benchmarks.train_step import BF16, FP32
from utils.cost import resident

OURS = {"fp32": FP32, "bf16": BF16}
TARGET = 0.6
MOST_GB = 40.0  # on a GPU, of the paper's step in bf16
STEPS = 2  # the second step also holds the optimizer's momentum


def cases(options: Options) -> list[Size]:
    official = _processes("official", options)
    found = []
    for name in ["bf16"] if options.quick else OURS:
        both = official, _processes(name, options)
        target = TARGET if name == "bf16" and not options.quick else None
        before = [statistics.median(run["before"] for run in runs) for runs in both]
        note = "MiB before the first step: official {:.0f}, ours {:.0f}".format(*before)
        peaks = [[run["peak"] for run in runs] for runs in both]
        targets = []
        if name == "bf16" and options.device.startswith("cuda"):
            gigabytes = statistics.median(peaks[1]) * 2**20 / 1e9
            targets = [output.target("GB", gigabytes, most=MOST_GB)]
            note += f"; {gigabytes:.1f} GB, <= {MOST_GB:g} GB {output.verdict(targets[0])}"
        found.append(Size(f"peak memory, {name}", *peaks, "MiB", target, note, targets))
        added = [[run["peak"] - run["before"] for run in runs] for runs in both]
        found.append(Size(f"peak memory added by the step, {name}", *added, "MiB"))
    return found


def _processes(way: str, options: Options) -> list[dict[str, float]]:
    """Results of `measure`, each from a new process."""
    found = []
    for _ in range(1 if options.quick else 3):
        with ProcessPoolExecutor(1, get_context("spawn")) as process:
            found.append(process.submit(measure, way, options).result())
    return found


def measure(way: str, options: Options) -> dict[str, float]:
    """MiB of this process before the first step and at the peak of the first `STEPS`."""
    device, size = options.device, replace(setting(options), steps=1)  # in one call
    if way == "official":
        step = official_way(size, True, device)
    else:
        step = our_way(size, True, device, **OURS[way])
    on_gpu = device.startswith("cuda")
    before = torch.cuda.memory_allocated() / 2**20 if on_gpu else resident("VmRSS") / 2**20
    for _ in range(STEPS):
        step()
    peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else resident("VmHWM") / 2**20
    return {"before": before, "peak": peak}


if __name__ == "__main__":
    main_of(cases)
