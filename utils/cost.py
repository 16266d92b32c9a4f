"""Time and peak memory of the work on each item of a loop."""

import contextlib
import statistics
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import torch

from utils.distributed import Ranks
from utils.safe.files import write_json

Item = TypeVar("Item")


def measured(items: Iterable[Item], file: Path, ranks: Ranks) -> Iterator[Item]:
    """Yield the items; after the last one, rank 0 writes what its own items took to `file`.

    The time of an item runs until the next one is asked for; the first is left out, as it loads and
    tunes kernels, so that a loop over one item writes nothing. Waiting for the items is not
    counted. The body must wait for the GPU.
    """
    _reset_peak(ranks)
    seconds = []
    for item in items:
        start = time.perf_counter()
        yield item
        seconds.append(time.perf_counter() - start)
    if not (ranks.is_main and seconds[1:]):
        return
    content = {"images": len(seconds) - 1, "seconds_per_image": statistics.median(seconds[1:])}
    content |= {"peak_memory": _peak_memory(ranks), "device": ranks.device_name}
    write_json(file, content | {"threads": torch.get_num_threads(), "processes": ranks.world_size})


def _reset_peak(ranks: Ranks) -> None:
    """Forget the peak of what was done before, such as CLIP's text tower."""
    if ranks.on_cuda:
        torch.cuda.reset_peak_memory_stats(ranks.device)
    with contextlib.suppress(OSError):  # Linux only, and not everywhere allowed
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def _peak_memory(ranks: Ranks) -> int | None:
    """Bytes: on a GPU of torch's tensors, else of the whole process; None where not known."""
    return torch.cuda.max_memory_allocated(ranks.device) if ranks.on_cuda else resident("VmHWM")


def resident(key: str) -> int | None:
    """Bytes of this process in memory: now (VmRSS) or at the peak (VmHWM); None but on Linux.

    Not from getrusage, whose peak includes the parent process.
    """
    status = Path("/proc/self/status")
    lines = status.read_text(encoding="utf-8").splitlines() if status.is_file() else []
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith(f"{key}:")), None)
