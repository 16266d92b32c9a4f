"""Profile training steps with torch.profiler: the kernels that take longest, and idle time.

    python -m benchmarks.profile_step --device cuda --json runs/profile.json

The dual CARB step of benchmarks/step_ways.py (GPU: batch 8 of 512x1024, bf16, channels_last,
ASPP-V3), a local view an image, after steps that are not profiled. Idle is the time between the
first and the last kernel in which no kernel ran; a copy or a fill of memory is a kernel here. On a
CPU the operators with the most time of their own stand for kernels, and idle time is unknown. Peak
memory is that of torch's tensors on the GPU. The file is written after the steps without the
profiler, and after those with it.
"""

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from benchmarks.harness import Options, parser, wait
from benchmarks.memory import MOST_GB
from benchmarks.output import describe, machine_line, publish, save, target
from benchmarks.step_ways import our_way, setting
from benchmarks.train_step import BF16
from experiments.figures.style import markdown
from utils.distributed import setup
from utils.safe.errors import run_script

TOP = 25
STEPS = 3  # that are profiled
LONGEST = 90  # letters of a kernel's name in the table


class Kernel(NamedTuple):
    """One run of a kernel; times in microseconds."""

    name: str
    start: float
    end: float


def main(argv: list[str]) -> None:
    arguments = parser(__doc__).parse_args(argv)
    setup(arguments.device)  # refuses a missing device
    options = Options(arguments.device, arguments.quick)
    report: dict[str, Any] = {"machine": describe(options.device)}
    for found in measure(options):
        report |= found
        save(report, arguments)
    publish(report, "", table(report), arguments)


def measure(options: Options) -> Iterator[dict[str, Any]]:
    """Milliseconds of a step and peak memory; then, profiled, also its kernels and idle share."""
    device, on_gpu = options.device, options.device.startswith("cuda")
    size = replace(setting(options), steps=STEPS if on_gpu else 1, local_view_per="image")
    way = our_way(replace(size, aspp="v3"), True, device, **BF16)
    way()  # CUDA chooses its kernels by the sizes, which are those of the steps that follow
    wait(device)
    start = time.perf_counter()
    way()
    wait(device)
    plain = (time.perf_counter() - start) / size.steps
    peak = torch.cuda.max_memory_allocated() / 1e9 if on_gpu else None
    found: dict[str, Any] = {"steps": size.steps, "batch": size.batch}
    found |= {"milliseconds": 1000 * plain, "peak_memory_gb": peak, "targets": []}
    if on_gpu:
        found["targets"] = [target("peak memory in GB, ASPP-V3", peak, most=MOST_GB)]
    yield found | {"summary": summary(found)}
    activities = [ProfilerActivity.CPU, *[ProfilerActivity.CUDA] * on_gpu]
    start = time.perf_counter()
    with profile(activities=activities) as profiler:
        way()
        wait(device)
    found["milliseconds_profiled"] = 1000 * (time.perf_counter() - start) / size.steps
    if on_gpu:
        kernels = [
            Kernel(event.name, event.time_range.start, event.time_range.end)
            for event in profiler.events()
            if event.device_type == DeviceType.CUDA and not event.is_user_annotation
        ]
        found |= {"idle": idle_share(kernels), "kernels": longest(kernels, size.steps)}
    else:
        own = {one.key: (one.self_cpu_time_total, one.count) for one in profiler.key_averages()}
        found |= {"idle": None, "kernels": rows(own, size.steps)}
    yield found | {"summary": summary(found)}


def idle_share(kernels: Iterable[Kernel]) -> float | None:
    """Share of the time from the first to the last kernel in which none ran; None without any."""
    ordered = sorted(kernels, key=lambda kernel: kernel.start)
    if not ordered:
        return None
    first = until = ordered[0].start
    busy = 0.0
    for kernel in ordered:  # kernels of several streams overlap
        busy += max(0.0, kernel.end - max(kernel.start, until))
        until = max(until, kernel.end)
    return 1 - busy / (until - first) if until > first else 0.0


def longest(kernels: Iterable[Kernel], steps: int) -> list[dict[str, Any]]:
    """`rows` of all runs of each kernel."""
    total: dict[str, tuple[float, int]] = defaultdict(lambda: (0.0, 0))
    for kernel in kernels:
        microseconds, count = total[kernel.name]
        total[kernel.name] = microseconds + kernel.end - kernel.start, count + 1
    return rows(total, steps)


def rows(total: dict[str, tuple[float, int]], steps: int) -> list[dict[str, Any]]:
    """The TOP names by time: milliseconds and calls of a step, and the share of all time.

    `total`: name -> microseconds and calls in `steps` steps.
    """
    whole = sum(t for t, _ in total.values()) or 1.0
    ordered = sorted(total.items(), key=lambda item: -item[1][0])[:TOP]
    return [
        {"name": name, "ms": t / steps / 1000, "calls": n / steps, "share": t / whole}
        for name, (t, n) in ordered
    ]


def summary(found: dict[str, Any]) -> list[str]:
    """What the profile shows, in sentences."""
    lines = [f"a step of batch {found['batch']} takes {found['milliseconds']:.1f} ms"]
    if found["peak_memory_gb"] is not None:
        lines.append(f"peak memory of tensors: {found['peak_memory_gb']:.1f} GB")
    if "kernels" not in found:
        return lines
    shown = sum(kernel["share"] for kernel in found["kernels"])
    lines.append(
        f"under the profiler it takes {found['milliseconds_profiled']:.1f} ms; the "
        f"{len(found['kernels'])} longest kernels take {shown:.0%} of the time of all"
    )
    if found["idle"] is not None:
        lines.append(f"no kernel ran for {found['idle']:.1%} of the time, under the profiler")
    return lines


def table(report: dict[str, Any]) -> str:
    """Markdown: the machine, the summary, a row per kernel."""
    cells = [
        [f"{k['ms']:.3f}", f"{k['calls']:g}", f"{k['share']:.1%}", f"`{k['name'][:LONGEST]}`"]
        for k in report["kernels"]
    ]
    head = ["ms a step", "calls a step", "share", "kernel"]
    return "\n\n".join([machine_line(report), *report["summary"], markdown(head, cells)])


if __name__ == "__main__":
    run_script(main)
