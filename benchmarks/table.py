"""The JSON file of benchmarks.run as Markdown tables: python -m benchmarks.table FILE"""

import argparse
from pathlib import Path
from typing import Any

from benchmarks.run import measured
from utils.errors import run_script
from utils.files import read_json


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path, help="written by benchmarks.run --json")
    print(markdown(read_json(parser.parse_args(argv).file)))


def markdown(report: dict[str, Any]) -> str:
    """Machine, times, sizes and failures."""
    kind = "cpu" if report["options"]["device"] == "cpu" else "wall"
    machine = ", ".join(f"{key} {value}" for key, value in report["machine"].items())
    unit = "CPU-seconds" if kind == "cpu" else "seconds"
    lines = [
        f"*{machine}*",
        "",
        f"| | published, {unit} | ours | ratio | target | ratio of wall time | agreement |",
        "|---|---|---|---|---|---|---|",
        *(_times(result, kind) for result in report["results"]),
        "",
        "| | published | ours | ours / published | target |",
        "|---|---|---|---|---|",
        *(_sizes(size) for size in report["sizes"]),
        *(f"\nFAILED: {failure['name']}: {failure['error']}" for failure in report["failures"]),
    ]
    return "\n".join(lines)


def _times(result: dict[str, Any], kind: str) -> str:
    published, ours = (
        f"{way[kind]:.3g} [{way[kind + '_low']:.3g}-{way[kind + '_high']:.3g}]"
        for way in (result["published"], result["ours"])
    )
    ratio = f"**{result['ratio']:.2f}** [{result['ratio_low']:.2f}-{result['ratio_high']:.2f}]"
    target = "" if result["target"] is None else f"≥ {result['target']:g}"
    return (
        f"| {result['name']} | {published} | {ours} | {ratio} | {target} "
        f"| {result['ratio_wall']:.2f} | {result['agreement']} |"
    )


def _sizes(size: dict[str, Any]) -> str:
    target = "" if size["target"] is None else f"≤ {size['target']:g}"
    published, ours = (measured(size, way) for way in ("published", "ours"))
    return f"| {size['name']} | {published} | {ours} | **{size['ratio']:.3f}** | {target} |"


if __name__ == "__main__":
    run_script(main)
