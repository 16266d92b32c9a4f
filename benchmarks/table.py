"""Print a JSON file of benchmarks.run as Markdown tables, with the targets that were missed.

    python -m benchmarks.table benchmarks/results/cpu.json --write

--write puts the tables into benchmarks/RESULTS.md, between the markers of their device.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.output import PAGE, cells, machine_line, met, target_in_words
from benchmarks.run import COMPONENTS
from experiments.figures.readme import fill_readme
from experiments.figures.style import markdown as table
from utils.cli import path
from utils.safe.errors import InputError, run_script
from utils.safe.files import read_json


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=path, help="written by benchmarks.run --json")
    parser.add_argument("--write", action="store_true", help="replace the tables of RESULTS.md")
    arguments = parser.parse_args(argv)
    report = read_json(Path(arguments.file))
    if arguments.write:
        _refuse_parts(report, arguments.file)
        fill_readme(PAGE, {section(report): markdown(report)})
    print(markdown(report))


def _refuse_parts(report: dict[str, Any], file: str) -> None:
    measured = {entry["component"] for entry in report["results"] + report["sizes"]}
    missing = [name for name in COMPONENTS if name not in measured]
    if report["options"]["quick"] or missing:
        what = f"lacks {', '.join(missing)}" if missing else "is of a --quick run"
        raise InputError(f"--write: {file} {what}; python -m benchmarks.run --json {file}")


def section(report: dict[str, Any]) -> str:
    """Name of the markers in RESULTS.md."""
    return f"benchmarks on {report['options']['device']}"


def markdown(report: dict[str, Any]) -> str:
    """Machine, times, sizes, notes, failures, and missed targets."""
    device, results, sizes = report["options"]["device"], report["results"], report["sizes"]
    unit = "CPU-seconds" if device == "cpu" else "seconds"
    head = ["", f"official, {unit} (against the official program)", "ours", "ratio", "target"]
    head += ["ratio of wall time", "agreement"]
    rows = [[*cells(e, device), f"{e['ratio_wall']:.2f}", e["agreement"]] for e in results]
    parts = [machine_line(report)]
    parts += [table(head, rows)] if results else []
    head = ["", "official", "ours", "ours / official", "target"]
    parts += [table(head, [cells(entry, device) for entry in sizes])] if sizes else []
    entries = results + sizes
    parts += ["\n".join(f"- {e['name']}: {e['note']}" for e in entries if e["note"])]
    parts += [f"FAILED: {failure['name']}: {failure['error']}" for failure in report["failures"]]
    missed = [
        f"{entry['name']} ({entry['ratio']:.3g} instead of {target_in_words(entry)})"
        for entry in entries
        if not met(entry)
    ]
    parts.append(f"**Targets missed:** {', '.join(missed) or 'none'}.")
    return "\n\n".join(filter(None, parts))


if __name__ == "__main__":
    run_script(main)
