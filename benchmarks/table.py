"""The JSON file of benchmarks.run as Markdown tables, with what misses its target.

    python -m benchmarks.table benchmarks/results/cpu.json --write

--write puts them into benchmarks/RESULTS.md, between the marks of their device.
"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.page import fill
from benchmarks.run import COMPONENTS, measured
from utils.cli import path
from utils.safe.errors import InputError, run_script
from utils.safe.files import read_json

PAGE = Path(__file__).resolve().parent / "RESULTS.md"
NEAR = 0.2  # how far the published way may be from the authors' program


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
        fill(PAGE, section(report), markdown(report))
    print(markdown(report))


def _refuse_parts(report: dict[str, Any], file: Path) -> None:
    there = {entry["component"] for entry in report["results"] + report["sizes"]}
    lacking = [name for name in COMPONENTS if name not in there]
    if report["options"]["quick"] or lacking:
        what = f"lacks {', '.join(lacking)}" if lacking else "is of a --quick run"
        raise InputError(f"--write: {file} {what}; python -m benchmarks.run --json {file}")


def section(report: dict[str, Any]) -> str:
    """The name of the marks in RESULTS.md."""
    return f"benchmarks on {report['options']['device']}"


def markdown(report: dict[str, Any]) -> str:
    """Machine, times, sizes, notes, failures, and what was missed."""
    kind = "cpu" if report["options"]["device"] == "cpu" else "wall"
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    unit = "CPU-seconds" if kind == "cpu" else "seconds"
    results, sizes = report["results"], report["sizes"]
    lines = [f"*{machine}*"]
    if results:
        lines += [
            "",
            f"| | published, {unit} | against the authors' program | ours | ratio | target "
            "| ratio of wall time | agreement |",
            "|---|---|---|---|---|---|---|---|",
            *(_times(result, kind) for result in results),
        ]
    if sizes:
        lines += [
            "",
            "| | published | ours | ours / published | target |",
            "|---|---|---|---|---|",
            *(_sizes(size) for size in sizes),
        ]
    notes = [f"- {entry['name']}: {entry['note']}" for entry in results + sizes if entry["note"]]
    lines += ["", *notes] if notes else []
    lines += [f"\nFAILED: {failure['name']}: {failure['error']}" for failure in report["failures"]]
    return "\n".join([*lines, *_missed(results, sizes)])


def _times(result: dict[str, Any], kind: str) -> str:
    published, ours = (
        f"{way[kind]:.3g} [{way[kind + '_low']:.3g}-{way[kind + '_high']:.3g}]"
        for way in (result["published"], result["ours"])
    )
    ratio = f"**{result['ratio']:.2f}** [{result['ratio_low']:.2f}-{result['ratio_high']:.2f}]"
    deviation = _deviation(result)
    authors = "" if deviation is None else f"{deviation:+.0%}"
    return (
        f"| {result['name']} | {published} | {authors} | {ours} | {ratio} | {_target(result, '≥')} "
        f"| {result['ratio_wall']:.2f} | {result['agreement']} |"
    )


def _sizes(size: dict[str, Any]) -> str:
    published, ours = (measured(size, way) for way in ("published", "ours"))
    return (
        f"| {size['name']} | {published} | {ours} | **{size['ratio']:.3f}** "
        f"| {_target(size, '≤')} |"
    )


def _target(entry: dict[str, Any], sign: str) -> str:
    if entry["target"] is None:
        return ""
    return f"{sign} {entry['target']:g} {'met' if _met(entry, sign) else '**missed**'}"


def _met(entry: dict[str, Any], sign: str) -> bool:
    ratio, target = entry["ratio"], entry["target"]
    return target is None or (ratio >= target if sign == "≥" else ratio <= target)


def _deviation(result: dict[str, Any]) -> float | None:
    """Of the published way's CPU-seconds from those measured of the authors' program."""
    expected = result["expected_seconds"]
    return None if expected is None else result["published"]["cpu"] / expected - 1


def _missed(results: list[dict[str, Any]], sizes: list[dict[str, Any]]) -> list[str]:
    """Two sentences: on targets, and on the published way's cost."""
    missed = [
        f"{entry['name']} ({entry['ratio']:.3g} in place of {sign} {entry['target']:g})"
        for entries, sign in ((results, "≥"), (sizes, "≤"))
        for entry in entries
        if not _met(entry, sign)
    ]
    lines = [f"\n**Targets missed:** {', '.join(missed) or 'none'}."]
    near, far = {}, {}
    for result in results:
        deviation = _deviation(result)
        if deviation is not None:
            kind = near if abs(deviation) <= NEAR else far
            kind.setdefault(result["name"].split(",")[0], []).append(deviation)
    if near or far:
        lines.append(
            f"\nThe published way within {NEAR:.0%} of the authors' program: "
            f"**not met** by {_ranges(far)}; met by {_ranges(near)}."
        )
    return lines


def _ranges(deviations: dict[str, list[float]]) -> str:
    texts = []
    for name, values in deviations.items():
        least, most = (f"{value:+.0%}" for value in (min(values), max(values)))
        texts.append(f"{name} ({least if least == most else f'{least} to {most}'})")
    return ", ".join(texts) or "none"


if __name__ == "__main__":
    run_script(main)
