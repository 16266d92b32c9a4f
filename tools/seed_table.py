"""Mean and spread over seeds of the val mIoU of runs named <row>_<seed>.

    python -m tools.seed_table runs/camvid_small

Prints a Markdown table of the rows, and the difference of `carb` and `base` seed by seed.
"""

import json
import re
import statistics
from collections import defaultdict
from pathlib import Path

from utils.errors import InputError, run_script


def read_scores(folder: Path, split: str = "val") -> dict[str, dict[str, float]]:
    """{row: {seed: mIoU in %}} from <folder>/<row>_<seed>/eval_<split>/metrics.json."""
    rows: dict[str, dict[str, float]] = defaultdict(dict)
    for path in sorted(folder.glob(f"*/eval_{split}/metrics.json")):
        run = path.parent.parent.name
        match = re.fullmatch(r"(.+)_(\d+)", run)
        row, seed = match.groups() if match else (run, "0")
        rows[row][seed] = 100 * json.loads(path.read_text(encoding="utf-8"))["miou"]
    if not rows:
        raise InputError(f"no */eval_{split}/metrics.json in {folder}; run eval.py on its runs")
    return rows


def spread(values: list[float]) -> str:
    """Mean and, for several values, sample standard deviation."""
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def main(argv: list[str]) -> None:
    if len(argv) != 1:
        raise InputError("usage: python -m tools.seed_table FOLDER_OF_RUNS")
    rows = read_scores(Path(argv[0]))
    print("| row | val mIoU | per seed |\n|---|---|---|")
    for row, scores in rows.items():
        seeds = ", ".join(f"{scores[s]:.1f}" for s in sorted(scores, key=int))
        print(f"| {row} | {spread(list(scores.values()))} | {seeds} |")
    shared = sorted(rows["base"].keys() & rows["carb"].keys(), key=int)
    if shared:
        gains = [rows["carb"][seed] - rows["base"][seed] for seed in shared]
        print(f"| carb - base | {spread(gains)} | {', '.join(f'{g:+.1f}' for g in gains)} |")


if __name__ == "__main__":
    run_script(main)
