"""Comparison and alternating timing of two ways to compute the same result."""

import argparse
import contextlib
import functools
import gc
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import output
from utils.distributed import setup
from utils.safe.errors import run_script

Way = Callable[..., Any]
Entry = dict[str, Any]  # of a comparison in the JSON file


@dataclass(frozen=True)
class Options:
    """Options of the command line."""

    device: str = "cpu"
    quick: bool = False


@dataclass(frozen=True)
class Case:
    """One comparison of times.

    `check` compares both ways on new random inputs: it raises AssertionError if they differ, else
    returns a sentence with the difference and the tolerance. It runs without TF32, the timing with
    torch's defaults.
    """

    name: str
    check: Callable[[], str]
    official: Way  # does the work once
    ours: Way
    target: float | None = None  # least ratio official / ours
    expected_seconds: float | None = None  # CPU-seconds of the official program on two cores
    rounds: int = 5  # timed calls of each way, after one untimed call
    units: int = 1  # units of work in one call; times are given per unit
    more: Callable[[Entry], Entry] | None = None  # fields of a result, e.g. note and `targets`


@dataclass(frozen=True)
class Size:
    """One comparison of sizes."""

    name: str
    official: Sequence[float]  # a value per measurement
    ours: Sequence[float]
    unit: str
    target: float | None = None  # largest ratio ours / official of the medians
    note: str = ""
    targets: Sequence[Entry] = ()  # others, by `output.target`

    def entry(self) -> Entry:
        """Medians, with the lowest and the highest, and the ratio of the medians."""
        medians = _range("official", self.official) | _range("ours", self.ours)
        return asdict(self) | medians | {"ratio": medians["ours"] / medians["official"]}


Maker = Callable[[Options], list[Case] | list[Size]]


# --- measuring


def compare(case: Case, options: Options) -> Entry:
    """Check, then time official, ours, official, ours, ...; each round has its own ratio.

    Gives medians, lowest and highest of the seconds of `official` and `ours`, and of the `ratio`
    official / ours: CPU time on the CPU, wall time on a GPU. `failed`: whether the check failed;
    `agreement` then says how.
    """
    failed = False
    try:
        with without_tf32():
            agreement = case.check()
    except AssertionError as error:
        agreement, failed = str(error), True
    gc.collect()
    ways = (case.official, case.ours)
    for way in ways:
        timed(way, options.device, 1)
    rounds = max(2, case.rounds // 2) if options.quick else case.rounds
    samples = [[timed(way, options.device, case.units) for way in ways] for _ in range(rounds)]
    official, ours = zip(*samples, strict=True)
    by_cpu, by_wall = (
        [first[kind] / second[kind] for first, second in samples] for kind in ("cpu", "wall")
    )
    entry = {
        "name": case.name,
        "agreement": agreement,
        "failed": failed,
        "official": _seconds(official),
        "ours": _seconds(ours),
        **_range("ratio", by_cpu if options.device == "cpu" else by_wall),
        "ratio_wall": statistics.median(by_wall),
        "target": case.target,
        "expected_seconds": case.expected_seconds,
        "unit": "s",
        "note": "",
    }
    return entry | (case.more(entry) if case.more else {})


def timed(way: Way, device: str, units: int) -> dict[str, float]:
    """CPU-seconds of all threads and wall seconds of `way`, per unit of work."""
    wait(device)
    cpu, wall = time.process_time(), time.perf_counter()
    way()
    wait(device)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu / units, "wall": wall / units}


def _seconds(samples: Sequence[dict[str, float]]) -> dict[str, float]:
    """Keys cpu, cpu_low, cpu_high, wall, wall_low, wall_high."""
    cpu, wall = ([sample[kind] for sample in samples] for kind in ("cpu", "wall"))
    return _range("cpu", cpu) | _range("wall", wall)


def _range(name: str, values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest value under the keys of the JSON file."""
    return {
        name: statistics.median(values),
        f"{name}_low": min(values),
        f"{name}_high": max(values),
    }


def wait(device: str) -> None:
    """Wait until the GPU has finished its work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """On a GPU float32 is float32 here: TF32, torch's default in convolutions, has 10 bits."""
    places = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = False
        yield
    finally:
        for place, allowed in zip(places, before, strict=True):
            place.allow_tf32 = allowed


def on_one_thread(way: Way) -> Way:
    """`way` with torch limited to one thread, as in a data-loader worker."""

    @functools.wraps(way)
    def limited(*arguments):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return way(*arguments)
        finally:
            torch.set_num_threads(threads)

    return limited


# --- running


def parser(description: str | None) -> argparse.ArgumentParser:
    """Parser with --json, --device and --quick."""
    result = output.parser(description)
    result.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    result.add_argument("--quick", action="store_true", help="smaller sizes, some without targets")
    return result


def main_of(cases: Maker) -> None:
    """Run the command line of a single component, the module of `cases`."""
    module = sys.modules[cases.__module__]
    name = Path(str(module.__file__)).stem
    run_script(lambda argv: run({name: cases}, parser(module.__doc__).parse_args(argv)))


def run(components: dict[str, Maker], arguments: argparse.Namespace) -> None:
    """Measure each component, print the results, and write them to the file of --json.

    Exits with status 1 if two results differ or a component can't run; the others still run.
    """
    setup(arguments.device)  # refuses a missing device
    options = Options(arguments.device, arguments.quick)
    report: dict[str, Any] = {
        "machine": output.describe(options.device),
        "options": asdict(options),
        "results": [],
        "sizes": [],
        "failures": [],
    }
    start = time.perf_counter()
    print(output.machine_line(report))
    print(LINE.format("", "official", "ours", "ratio", "target"))

    def save() -> None:  # after each result: a stopped run leaves what it has measured
        report["wall_seconds"] = round(time.perf_counter() - start, 1)
        output.save(report, arguments)

    for component, make in components.items():
        try:
            _measure(component, make(options), options, report, save)
        except Exception as error:  # the other components still run
            traceback.print_exc()
            _fail(component, error, report)
        save()
    print(f"{report['wall_seconds']:g} s in all")
    if arguments.json:
        print(f"written: {arguments.json}")
    failures = report["failures"]
    if failures:
        print(f"{len(failures)} FAILED: {', '.join(failure['name'] for failure in failures)}")
        sys.exit(1)


def _measure(
    component: str,
    found: list[Case | Size],
    options: Options,
    report: dict[str, Any],
    save: Callable[[], None],
) -> None:
    """Add the component's results to `report`, and what failed; a failed check is timed too."""
    while found:  # frees each case before the next one starts: some are big
        item = found.pop(0)
        try:
            is_size = isinstance(item, Size)
            entry = item.entry() if is_size else compare(item, options)
        except Exception as error:  # the other cases still run
            traceback.print_exc()
            _fail(item.name, error, report)
            save()
            continue
        report["sizes" if is_size else "results"].append({"component": component} | entry)
        lines = [LINE.format(*output.cells(entry, options.device))]
        lines += filter(None, (entry.get("agreement"), entry["note"]))
        print("\n    ".join(lines), flush=True)
        if entry.get("failed"):
            report["failures"].append({"name": item.name, "error": entry["agreement"]})
        save()


def _fail(name: str, error: Exception, report: dict[str, Any]) -> None:
    report["failures"].append({"name": name, "error": f"{type(error).__name__}: {error}"})
    print(f"{name}\n    FAILED: {error}", flush=True)


LINE = "{:<44} {:>26} {:>26} {:>20}  {}"
