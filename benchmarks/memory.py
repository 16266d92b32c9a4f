"""Peak memory of a CARB training step, each way in processes of its own, after two steps.

The median of three processes and their range: on a CPU the peak depends on which thread freed what.

CPU: peak resident memory; the whole of it, and what the steps add to what the process holds before
the first. GPU: the most memory that tensors took.
"""

import json
import statistics
import subprocess
import sys
from pathlib import Path

import torch

from benchmarks.step_ways import our_way, published_way, setting
from benchmarks.timing import Options, Size
from benchmarks.train_step import BF16, FP32

OURS = {"fp32": FP32, "bf16": BF16}
TARGET = 0.6
STEPS = 2  # the second also holds the optimizer's momentum while it runs


def sizes(options: Options) -> list[Size]:
    published = _processes("published", options)
    found = []
    for name in ["bf16"] if options.quick else OURS:
        own = _processes(name, options)
        target = TARGET if name == "bf16" and not options.quick else None
        before = [statistics.median(run["before"] for run in runs) for runs in (published, own)]
        note = "{:.0f} MiB before the first step, the published way, {:.0f} MiB ours".format(
            *before
        )
        peaks = [[run["peak"] for run in runs] for runs in (published, own)]
        found.append(Size.of(f"peak memory, {name}", *peaks, "MiB", target, note))
        added = [[run["peak"] - run["before"] for run in runs] for runs in (published, own)]
        found.append(Size.of(f"peak memory added by the step, {name}", *added, "MiB"))
    return found


def _processes(way: str, options: Options) -> list[dict[str, float]]:
    """What `measure` gives of `way` in each of several processes."""
    return [_in_process(way, options) for _ in range(1 if options.quick else 3)]


def _in_process(way: str, options: Options) -> dict[str, float]:
    """MiB before the first step and at the peak of `way`, in a fresh process."""
    command = [sys.executable, "-m", "benchmarks.memory", "--way", way, "--device", options.device]
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(
        command + ["--quick"] * options.quick, cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, f"{' '.join(command)} failed:\n{done.stderr}"
    return json.loads(done.stdout.splitlines()[-1])


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


def _main(arguments: list[str]) -> None:
    from benchmarks.run import parser

    command = parser(__doc__)
    command.add_argument("--way", choices=["published", *OURS], help="measure one way, here")
    parsed = command.parse_args(arguments)
    print(json.dumps(measure(parsed.way, Options(parsed.device, parsed.quick))))


if __name__ == "__main__":
    if "--way" in sys.argv:
        _main(sys.argv[1:])
    else:
        from benchmarks.run import main_of

        main_of(sizes)
