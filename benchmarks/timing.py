"""Two ways of computing the same thing, timed in alternation in one process."""

import gc
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch

Way = Callable[[], Any]


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    device: str = "cpu"
    quick: bool = False


@dataclass(frozen=True)
class Case:
    """One comparison.

    `check` proves on fresh random inputs that both ways compute the same, raises AssertionError
    where they do not, and returns a sentence with the tolerance and what was found. `published` and
    `ours` do the work once. `target` is the least ratio published / ours, `None` where there is
    none. `expected_seconds` is what the authors' own program was measured to take of this, in
    CPU-seconds on two cores. `rounds` is how often each is timed, after one untimed call, and
    `units` how many units of work one call does: times are given for one. `note` says more about a
    result, for instance how far from the machine's limit it is.
    """

    name: str
    check: Callable[[], str]
    published: Way
    ours: Way
    target: float | None = None
    expected_seconds: float | None = None
    rounds: int = 5
    units: int = 1
    note: "Callable[[Result], str] | None" = None


@dataclass(frozen=True)
class Times:
    """Seconds of one way: median, lowest and highest, of CPU time (all threads) and of wall."""

    cpu: float
    cpu_low: float
    cpu_high: float
    wall: float
    wall_low: float
    wall_high: float


@dataclass(frozen=True)
class Result:
    """What one comparison gave; `ratio` is by CPU time on the CPU and by wall time on a GPU."""

    name: str
    agreement: str
    published: dict[str, float]
    ours: dict[str, float]
    ratio: float
    ratio_low: float
    ratio_high: float
    ratio_wall: float
    target: float | None
    expected_seconds: float | None
    unit: str = "s"
    note: str = ""


@dataclass(frozen=True)
class Size:
    """Bytes, not seconds: `target` is the most that ours / published may be.

    Medians, with the lowest and the highest where there are several measurements.
    """

    name: str
    published: float
    ours: float
    unit: str
    target: float | None = None
    note: str = ""
    published_low: float | None = None
    published_high: float | None = None
    ours_low: float | None = None
    ours_high: float | None = None

    @classmethod
    def of(
        cls,
        name: str,
        published: list[float],
        ours: list[float],
        unit: str,
        target: float | None = None,
        note: str = "",
    ) -> "Size":
        """That of several measurements."""
        medians = statistics.median(published), statistics.median(ours)
        ranges = min(published), max(published), min(ours), max(ours)
        return cls(name, *medians, unit, target, note, *ranges)

    @property
    def ratio(self) -> float:
        return self.ours / self.published


def compare(case: Case, options: Options) -> Result:
    """Check, then time published, ours, published, ours, ...; ratios are taken round by round."""
    agreement = case.check()
    gc.collect()
    ways = (case.published, case.ours)
    for way in ways:
        _time(way, options.device, 1)
    rounds = max(2, case.rounds // 2) if options.quick else case.rounds
    samples = [[_time(way, options.device, case.units) for way in ways] for _ in range(rounds)]
    published, ours = (_times([pair[i] for pair in samples]) for i in (0, 1))
    by_cpu = [theirs[0] / own[0] for theirs, own in samples]
    by_wall = [theirs[1] / own[1] for theirs, own in samples]
    ratios = by_cpu if options.device == "cpu" else by_wall
    result = Result(
        case.name,
        agreement,
        asdict(published),
        asdict(ours),
        statistics.median(ratios),
        min(ratios),
        max(ratios),
        statistics.median(by_wall),
        case.target,
        case.expected_seconds,
    )
    return replace(result, note=case.note(result)) if case.note else result


def _time(way: Way, device: str, units: int) -> tuple[float, float]:
    """(CPU seconds of all threads, wall seconds) of one of the `units` of work that `way` does."""
    wait(device)
    cpu, wall = time.process_time(), time.perf_counter()
    way()
    wait(device)
    return (time.process_time() - cpu) / units, (time.perf_counter() - wall) / units


def wait(device: str) -> None:
    """Until the GPU has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def _times(samples: list[tuple[float, float]]) -> Times:
    cpu, wall = zip(*samples, strict=True)
    return Times(
        statistics.median(cpu), min(cpu), max(cpu), statistics.median(wall), min(wall), max(wall)
    )
