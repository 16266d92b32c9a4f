"""Run the benchmarks: the published way beside ours, each pair proved equal before it is timed.

On the CPU, seconds are CPU-seconds of all threads, so that other work on the machine counts little;
on a GPU they are wall-clock seconds. Ratios are published / ours for times and ours / published for
sizes. Exit status 1 where a pair did not agree or a component could not run.
"""

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.machine import describe
from benchmarks.timing import Case, Options, Result, Size, compare
from utils.cli import path
from utils.distributed import setup
from utils.safe.errors import InputError, run_script
from utils.safe.files import write_json

# Each has `cases`, `sizes` or both.
COMPONENTS = {
    "clip_mask": "benchmarks.clip_mask",
    "loss_block": "benchmarks.loss_block",
    "train_step": "benchmarks.train_step",
    "data_pipeline": "benchmarks.data_pipeline",
    "evaluation": "benchmarks.evaluation",
    "memory": "benchmarks.memory",
    "checkpoint_size": "benchmarks.checkpoint_size",
}
Maker = Callable[[Options], list[Case] | list[Size]]


def parser(description: str | None) -> argparse.ArgumentParser:
    """The arguments of every benchmark."""
    arguments = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    arguments.add_argument(
        "--quick", action="store_true", help="smaller sizes, without targets where they are"
    )
    arguments.add_argument(
        "--json", type=path, metavar="FILE", help="write machine and results there"
    )
    return arguments


def main(argv: list[str]) -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help=f"one of {', '.join(COMPONENTS)}; repeatable",
    )
    arguments.add_argument("--list", action="store_true", help="name the components and stop")
    parsed = arguments.parse_args(argv)
    if parsed.list:
        print("\n".join(COMPONENTS))
        return
    names = parsed.only or list(COMPONENTS)
    for name in names:
        if name not in COMPONENTS:
            raise InputError(f"--only {name}: expected one of {', '.join(COMPONENTS)}")
    _run({name: partial(_makers, COMPONENTS[name]) for name in names}, parsed)


def main_of(*makers: Maker) -> None:
    """The command line of one component, which makes its cases or sizes by `makers`."""
    module = sys.modules[makers[0].__module__]
    name = Path(str(module.__file__)).stem

    def one(argv: list[str]) -> None:
        _run({name: lambda: list(makers)}, parser(module.__doc__).parse_args(argv))

    run_script(one)


def _makers(module_name: str) -> list[Maker]:
    module = import_module(module_name)
    return [getattr(module, name) for name in ("cases", "sizes") if hasattr(module, name)]


def _run(components: dict[str, Callable[[], list[Maker]]], parsed: argparse.Namespace) -> None:
    setup(parsed.device)  # refuses what is not there
    options = Options(parsed.device, parsed.quick)
    report: dict[str, Any] = {
        "machine": describe(options.device),
        "options": asdict(options),
        "results": [],
        "sizes": [],
        "failures": [],
    }
    start = time.perf_counter()
    print("\n".join(f"{key}: {value}" for key, value in report["machine"].items()))
    print(LINE.format("", "published", "ours", "ratio", "target"))
    for component, makers in components.items():
        try:
            for make in makers():
                _run_one(component, make(options), options, report)
        except Exception as error:  # whatever ends one component, the others still run
            traceback.print_exc()
            _fail(component, error, report)
    report["wall_seconds"] = round(time.perf_counter() - start, 1)
    print(f"{report['wall_seconds']:g} s in all")
    if parsed.json:
        write_json(Path(parsed.json), report)
        print(f"written: {parsed.json}")
    failures = report["failures"]
    if failures:
        print(f"{len(failures)} FAILED: {', '.join(failure['name'] for failure in failures)}")
        sys.exit(1)


def _run_one(
    component: str, found: list[Case | Size], options: Options, report: dict[str, Any]
) -> None:
    """Add the component's results, or how its checks failed, to `report`."""
    while found:  # a case is let go before the next one starts: some are big
        item = found.pop(0)
        if isinstance(item, Size):
            report["sizes"].append({"component": component, "ratio": item.ratio} | asdict(item))
            print(size_text(item), flush=True)
            continue
        try:
            result = compare(item, options)
        except AssertionError as error:
            _fail(item.name, error, report)
            continue
        report["results"].append({"component": component} | asdict(result))
        print(result_text(result, options.device), flush=True)


def _fail(name: str, error: Exception, report: dict[str, Any]) -> None:
    report["failures"].append({"name": name, "error": f"{type(error).__name__}: {error}"})
    print(f"{name}\n    FAILED: {error}", flush=True)


LINE = "{:<44} {:>26} {:>26} {:>20}  {}"


def result_text(result: Result, device: str) -> str:
    kind = "cpu" if device == "cpu" else "wall"
    published, ours = (
        f"{_short(way[kind])} [{_short(way[kind + '_low'])}-{_short(way[kind + '_high'])}] s"
        for way in (result.published, result.ours)
    )
    ratio = f"{result.ratio:.2f} [{result.ratio_low:.2f}-{result.ratio_high:.2f}]"
    target = ""
    if result.target is not None:
        target = f">= {result.target:g} {'met' if result.ratio >= result.target else 'MISSED'}"
    lines = [LINE.format(result.name, published, ours, ratio, target), result.agreement]
    if result.expected_seconds is not None:
        deviation = result.published[kind] / result.expected_seconds - 1
        lines.append(
            f"published: {deviation:+.0%} of the {result.expected_seconds:g} CPU-s measured of the "
            "authors' program"
        )
    return "\n    ".join(line for line in [*lines, result.note] if line)


def size_text(size: Size) -> str:
    target = ""
    if size.target is not None:
        target = f"<= {size.target:g} {'met' if size.ratio <= size.target else 'MISSED'}"
    published, ours = (measured(asdict(size), way) for way in ("published", "ours"))
    text = LINE.format(size.name, published, ours, f"{size.ratio:.3f}", target)
    return f"{text}\n    {size.note}" if size.note else text


def measured(size: dict[str, Any], way: str) -> str:
    """The median and, of several measurements, the range of one `way`."""
    low, high = size.get(f"{way}_low"), size.get(f"{way}_high")
    spread = "" if low == high else f" [{low:.1f}-{high:.1f}]"
    return f"{size[way]:.1f}{spread} {size['unit']}"


def _short(seconds: float) -> str:
    return f"{seconds:.3g}"


if __name__ == "__main__":
    run_script(main)
