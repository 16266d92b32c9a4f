"""Shared parts of the benchmarks: command line, machine, training runs, tables."""

import argparse
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from experiments.figures.readme import fill_readme
from utils.cli import path
from utils.run_folder import git
from utils.safe.errors import InputError
from utils.safe.files import write_json

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "benchmarks" / "RESULTS.md"
DEMO = ROOT / "demo" / "config.yaml"


# --- command line


def parser(description: str | None, rounds: int = 0) -> argparse.ArgumentParser:
    """Parser with --json and, if `rounds` (the default) is given, --rounds and --write."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    result.add_argument(
        "--json", type=path, metavar="FILE", help="write machine and results to FILE"
    )
    if rounds:
        result.add_argument("--rounds", type=positive, default=rounds, help=f"default: {rounds}")
        result.add_argument("--write", action="store_true", help="replace the table of RESULTS.md")
    else:
        result.set_defaults(write=False)  # for `publish`
    return result


def positive(text: str) -> int:
    """The `type` of an argument that is a number of at least 1."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return int(text)


def save(report: dict[str, Any], arguments: Any) -> None:
    """Write `report` with --json: after each number, so that a stopped run leaves what it has."""
    if arguments.json:
        write_json(Path(arguments.json), report)


def publish(report: dict[str, Any], section: str, text: str, arguments: Any) -> None:
    """Print `text`; write `report` with --json, and `text` into RESULTS.md with --write."""
    save(report, arguments)
    if arguments.write:
        fill_readme(PAGE, {section: text})
    print(text)


# --- machine


def describe(device: str) -> dict[str, str | int | float]:
    """The machine of a benchmark: numbers of different machines are not comparable."""
    machine = {
        "cpu": cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 0,
        "load_average": round(os.getloadavg()[0], 2),
        "threads": torch.get_num_threads(),
        "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", ""),
        "torch": torch.__version__,
        "python": sys.version.split()[0],
        "commit": git("rev-parse", "--short", "HEAD") + "+changes" * bool(git("status", "--short")),
    }
    if device.startswith("cuda"):
        machine |= {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda or ""}
    return machine


def cpu_model(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Name of the CPU, with family, model and stepping on Linux: a hypervisor may say "AMD EPYC"
    only."""
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    # Values of the last processor: all are of the same kind.
    found = {key.strip(): value.strip() for key, value in pairs}
    name = found.get("model name") or platform.processor() or platform.machine()
    kinds = {"family": "cpu family", "model": "model", "stepping": "stepping"}
    known = [f"{kind} {found[key]}" for kind, key in kinds.items() if key in found]
    return f"{name} ({' '.join(known)})" if known else name


def machine_line(report: dict[str, Any]) -> str:
    """Markdown: the machine of a report, above its tables."""
    return f"*{', '.join(f'{key} {value}' for key, value in report['machine'].items())}*"


# --- runs of training


def train_warmup(
    run: Path,
    settings: Sequence[str],
    launcher: Sequence[str] = (),
    **environment: str,
) -> None:
    """Run train_warmup.py with the demo's config and run folder `run`; see `run_python`.

    launcher: words between Python and the script.
    """
    words = ["train_warmup.py", "--config", str(DEMO), "--device", "cpu", "--run-dir", str(run)]
    command = [*launcher, *words, "--set", *settings]
    run_python(command, os.environ | environment)


def run_python(words: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
    """Run Python with these arguments, as a separate process in the repository root.

    Raises InputError with the end of its error output when it fails.
    """
    done = subprocess.run(
        [sys.executable, *words], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise InputError(f"python {' '.join(words)} failed:\n{done.stderr[-2000:]}")


def child_seconds(run: Callable[[], None]) -> float:
    """User and system CPU-seconds of the processes that `run` starts and waits for."""
    import resource  # Windows has none

    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


# --- numbers in words


def spread(values: Sequence[float], form: str = ".3g") -> str:
    """Median, lowest and highest value as text; a single value alone."""
    if len(values) == 1:
        return f"{values[0]:{form}}"
    return ranged(statistics.median(values), min(values), max(values), form)


def ranged(middle: float, low: float, high: float, form: str = ".3g") -> str:
    """Three numbers as "2.5 [2.1-3.3]"."""
    return f"{middle:{form}} [{low:{form}}-{high:{form}}]"


def cells(entry: dict[str, Any], device: str) -> list[str]:
    """Name, official way, ours, ratio and target of an entry of `results` or `sizes`."""
    ways = [way_in_words(entry, way, device) for way in ("official", "ours")]
    if "agreement" in entry:
        ratio = ranged(entry["ratio"], entry["ratio_low"], entry["ratio_high"], ".2f")
    else:
        ratio = f"{entry['ratio']:.3f}"
    if entry.get("failed"):
        return [entry["name"], *ways, ratio, "check FAILED"]
    if entry["target"] is None:
        return [entry["name"], *ways, ratio, ""]
    reached = verdict(targets_of(entry)[0])
    return [entry["name"], *ways, ratio, f"{target_in_words(entry)} {reached}"]


def way_in_words(entry: dict[str, Any], way: str, device: str) -> str:
    """Seconds (for the official way with its deviation from the official program), or bytes."""
    if "agreement" not in entry:
        low, high = entry[f"{way}_low"], entry[f"{way}_high"]
        numbers = (entry[way], low, high)
        text = f"{entry[way]:.1f}" if low == high else ranged(*numbers, ".1f")
        return f"{text} {entry['unit']}"
    kind = "cpu" if device == "cpu" else "wall"
    text = ranged(*(entry[way][kind + end] for end in ("", "_low", "_high")))
    if way == "official" and entry["expected_seconds"] is not None:
        text += f" ({entry['official']['cpu'] / entry['expected_seconds'] - 1:+.0%})"
    return text


def target_in_words(entry: dict[str, Any]) -> str:
    """'≥ 1.6' for a ratio of times, '≤ 0.42' for a ratio of sizes."""
    return f"{'≥' if 'agreement' in entry else '≤'} {entry['target']:g}"


def met(entry: dict[str, Any]) -> bool:
    """Whether an entry reaches its target, which a failed check does not; true without a target."""
    return entry["target"] is None or targets_of(entry)[0]["met"]


# --- targets


def target(
    name: str, value: float, least: float | None = None, most: float | None = None
) -> dict[str, Any]:
    """A target in a JSON file: `value` has to be at least `least`, or at most `most`."""
    reached = value >= least if least is not None else value <= most
    return {"name": name, "value": value, "least": least, "most": most, "met": reached}


def targets_of(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets of an entry, that of its ratio first; a failed check meets none."""
    side = "least" if "agreement" in entry else "most"
    found = list(entry.get("targets", []))
    if entry["target"] is not None:
        found.insert(0, target("ratio", entry["ratio"], **{side: entry["target"]}))
    failed = entry.get("failed", False)
    return [
        one | {"name": f"{entry['name']}: {one['name']}", "met": one["met"] and not failed}
        for one in found
    ]


def verdict(one: dict[str, Any]) -> str:
    return "met" if one["met"] else "MISSED"


def at_most(value: float, most: float) -> str:
    """'≤ 0.3 met', or MISSED."""
    return f"≤ {most:g} {verdict(target('', value, most=most))}"
