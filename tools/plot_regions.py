"""Losses of the two regions, w and the consistent area over training: the paper's Fig. 5.

    python -m tools.plot_regions runs/cityscapes/warmup runs/cityscapes/carb --out regions.png

Takes run folders whose steps follow each other; of overlapping runs the later one counts.
Needs matplotlib (pip install matplotlib).
"""

import argparse
import json
from pathlib import Path

from utils.errors import InputError, run_script


def read_lines(folders: list[str]) -> list[dict]:
    """The log lines of all folders by step; a later folder replaces steps of an earlier one."""
    by_step: dict[int, dict] = {}
    for folder in folders:
        path = Path(folder) / "metrics.jsonl"
        if not path.is_file():
            raise InputError(f"no metrics.jsonl in {folder}; give run folders of train_*.py")
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        first = min((line["step"] for line in lines), default=0)
        by_step = {step: line for step, line in by_step.items() if step < first}
        by_step |= {line["step"]: line for line in lines}
    if not by_step:
        raise InputError(f"no log lines in {', '.join(folders)}")
    return [by_step[step] for step in sorted(by_step)]


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("runs", nargs="+")
    parser.add_argument("--out", default="regions.png")
    arguments = parser.parse_args(argv)
    lines = read_lines(arguments.runs)
    try:
        import matplotlib
    except ImportError:
        raise InputError("this figure needs matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    blue, orange, green = "#0072b2", "#d55e00", "#009e73"
    figure, (losses, areas) = pyplot.subplots(1, 2, figsize=(9, 2.9), layout="constrained")

    def curve(axes, key: str, label: str, color: str) -> None:
        points = [(line["step"], line[key]) for line in lines if key in line]
        axes.plot(*zip(*points, strict=True), label=label, color=color, linewidth=1.6)

    curve(losses, "loss_inconsistent", "inconsistent, $L_i$", orange)
    curve(losses, "loss_consistent", "consistent, $L_c$", blue)
    losses.set(xlabel="step", ylabel="cross-entropy", ylim=(0, None))
    curve(areas, "consistent_fraction", "consistent area", blue)
    if any("balance" in line for line in lines):
        start = max((line["step"] for line in lines if "balance" not in line), default=0)
        curve(areas, "balance", "weight $w$", green)
        for axes in (losses, areas):
            axes.axvline(start, color="0.4", linestyle="--", linewidth=1)
    areas.set(xlabel="step", ylabel="share, weight", ylim=(0, 1))
    for axes in (losses, areas):
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(arguments.out, dpi=150)
    print(f"written to {arguments.out}")


if __name__ == "__main__":
    run_script(main)
