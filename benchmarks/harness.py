"""Two ways of computing the same thing, checked against each other and timed in alternation."""

import argparse
import functools
import gc
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import output
from utils.distributed import setup
from utils.safe.errors import run_script
from utils.safe.files import write_json

Way = Callable[..., Any]
Entry = dict[str, Any]  # of a comparison in the JSON file


@dataclass(frozen=True)
class Options:
    """What the command line asks for."""

    device: str = "cpu"
    quick: bool = False


@dataclass(frozen=True)
class Case:
    """One comparison of times.

    `check` compares both ways on fresh random inputs, raises AssertionError where they differ, and
    returns a sentence with the tolerance and what was found. `published` and `ours` do the work
    once. `target` is the least ratio published / ours, `None` where there is none.
    `expected_seconds` is what the official program was measured to take of this, in CPU-seconds
    on two cores. `rounds` is how often each is timed, after one untimed call, and `units` how many
    units of work one call does: times are given for one. `note` says more about a result, for
    instance how far from the machine's limit it is.
    """

    name: str
    check: Callable[[], str]
    published: Way
    ours: Way
    target: float | None = None
    expected_seconds: float | None = None
    rounds: int = 5
    units: int = 1
    note: Callable[[Entry], str] | None = None


@dataclass(frozen=True)
class Size:
    """One comparison of bytes, a number for each measurement of a way.

    `target` is the most that ours / published, of the medians, may be.
    """

    name: str
    published: Sequence[float]
    ours: Sequence[float]
    unit: str
    target: float | None = None
    note: str = ""

    def entry(self) -> Entry:
        """Medians, with the lowest and the highest, and the ratio of the medians."""
        medians = _range("published", self.published) | _range("ours", self.ours)
        return asdict(self) | medians | {"ratio": medians["ours"] / medians["published"]}


Maker = Callable[[Options], list[Case] | list[Size]]


# --- measuring


def compare(case: Case, options: Options) -> Entry:
    """Check, then time published, ours, published, ours, ...; ratios are taken round by round.

    Gives seconds of `published` and `ours` and the `ratio` published / ours, which is by CPU time
    on the CPU and by wall time on a GPU: medians, with the lowest and the highest.
    """
    agreement = case.check()
    gc.collect()
    ways = (case.published, case.ours)
    for way in ways:
        _time(way, options.device, 1)
    rounds = max(2, case.rounds // 2) if options.quick else case.rounds
    samples = [[_time(way, options.device, case.units) for way in ways] for _ in range(rounds)]
    published, ours = zip(*samples, strict=True)
    by_cpu, by_wall = (
        [theirs[kind] / own[kind] for theirs, own in samples] for kind in ("cpu", "wall")
    )
    entry = {
        "name": case.name,
        "agreement": agreement,
        "published": _seconds(published),
        "ours": _seconds(ours),
        **_range("ratio", by_cpu if options.device == "cpu" else by_wall),
        "ratio_wall": statistics.median(by_wall),
        "target": case.target,
        "expected_seconds": case.expected_seconds,
        "unit": "s",
    }
    return entry | {"note": case.note(entry) if case.note else ""}


def _time(way: Way, device: str, units: int) -> dict[str, float]:
    """CPU-seconds of all threads and wall seconds of one of the `units` of work that `way` does."""
    wait(device)
    cpu, wall = time.process_time(), time.perf_counter()
    way()
    wait(device)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {"cpu": cpu / units, "wall": wall / units}


def _seconds(samples: Sequence[dict[str, float]]) -> dict[str, float]:
    """cpu, cpu_low, cpu_high, and the same of wall."""
    cpu, wall = ([sample[kind] for sample in samples] for kind in ("cpu", "wall"))
    return _range("cpu", cpu) | _range("wall", wall)


def _range(name: str, values: Sequence[float]) -> dict[str, float]:
    """Median, lowest and highest, as they stand in the JSON file."""
    return {
        name: statistics.median(values),
        f"{name}_low": min(values),
        f"{name}_high": max(values),
    }


def wait(device: str) -> None:
    """Until the GPU has done what it was given."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def on_one_thread(way: Way) -> Way:
    """`way` with torch held to one thread while it runs, as in a data-loader worker."""

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
    """--json, --device and --quick."""
    result = output.parser(description)
    result.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    result.add_argument("--quick", action="store_true", help="smaller sizes, some without targets")
    return result


def main_of(cases: Maker) -> None:
    """The command line of a single component, the module of `cases`."""
    module = sys.modules[cases.__module__]
    name = Path(str(module.__file__)).stem
    run_script(lambda argv: run({name: cases}, parser(module.__doc__).parse_args(argv)))


def run(components: dict[str, Maker], arguments: argparse.Namespace) -> None:
    """Measure each component, print the results, and write them to the file of --json.

    Exit status 1 where a pair did not agree or a component could not run; the others still do.
    """
    setup(arguments.device)  # refuses what is not there
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
    print(LINE.format("", "published", "ours", "ratio", "target"))
    for component, make in components.items():
        try:
            _measure(component, make(options), options, report)
        except Exception as error:  # whatever ends one component, the others still run
            traceback.print_exc()
            _fail(component, error, report)
    report["wall_seconds"] = round(time.perf_counter() - start, 1)
    print(f"{report['wall_seconds']:g} s in all")
    if arguments.json:
        write_json(Path(arguments.json), report)
        print(f"written: {arguments.json}")
    failures = report["failures"]
    if failures:
        print(f"{len(failures)} FAILED: {', '.join(failure['name'] for failure in failures)}")
        sys.exit(1)


def _measure(
    component: str, found: list[Case | Size], options: Options, report: dict[str, Any]
) -> None:
    """Add the component's results, or how its checks failed, to `report`."""
    while found:  # a case is let go before the next one starts: some are big
        item = found.pop(0)
        try:
            is_size = isinstance(item, Size)
            entry = item.entry() if is_size else compare(item, options)
        except AssertionError as error:
            _fail(item.name, error, report)
            continue
        report["sizes" if is_size else "results"].append({"component": component} | entry)
        lines = [LINE.format(*output.cells(entry, options.device))]
        lines += filter(None, (entry.get("agreement"), entry["note"]))
        print("\n    ".join(lines), flush=True)


def _fail(name: str, error: Exception, report: dict[str, Any]) -> None:
    report["failures"].append({"name": name, "error": f"{type(error).__name__}: {error}"})
    print(f"{name}\n    FAILED: {error}", flush=True)


LINE = "{:<44} {:>26} {:>26} {:>20}  {}"
