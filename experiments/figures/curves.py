"""Fig. 5 of the paper (losses and areas of the two regions, w), training curves and speed.

All are read from metrics.jsonl. Runs share their figures, each suite has its own. The seeds of a
suite's row are one curve: their mean, in a band from the least to the greatest value.
"""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from datasets.labels import load_classes
from experiments.figures.panels import Curve, Quantity, arrange, grid
from experiments.figures.runs import Run, Suite, run_of, run_of_row
from experiments.figures.style import GREEN, ORANGE, Figure, Missing, save_data, save_figure
from utils.safe.errors import InputError

_CONSISTENT = Quantity("consistent region", "consistent_fraction", 100)
WEIGHT = {"weight w": (Quantity("weight w", "w", 1, GREEN),)}
AREAS = {
    "consistent area, %": (_CONSISTENT._replace(name=""),),
    "predicted as a small class, %": (Quantity("", "small_share", 100),),
}
_REGIONS = {
    "(a) loss": (
        Quantity("consistent region", "loss_consistent"),
        Quantity("inconsistent region", "loss_inconsistent", 1, ORANGE, "--"),
    ),
    "(b) area, %": (
        _CONSISTENT,
        Quantity("inconsistent region", "inconsistent_fraction", 100, ORANGE, "--"),
    ),
} | WEIGHT
_FIG5 = Figure(
    "fig5_regions",
    "Fig. 5: losses and areas of the two regions",
    "Consistent region: the pixels of the global view where pseudo-mask and prediction agree. "
    "w: the weight of the inconsistent region's loss in CARB.",
)
_TRAINING = Figure(
    "training_curves", "Training curves", "Small classes: those that the class file marks as small."
)
_SPEED = Figure(
    "throughput",
    "Learning rate and speed",
    "Images per second of all processes together; peak memory, if logged, of one GPU.",
    folded=True,
)
_QUANTITIES = {
    _FIG5: _REGIONS,
    _TRAINING: {"loss": (Quantity("", "loss"),)} | AREAS,
    _SPEED: {
        "learning rate": (Quantity("", "lr"),),
        "images per second": (Quantity("", "images_per_second"),),
        "peak memory, GiB": (Quantity("", "max_memory_mib", 1 / 1024),),
    },
}


def draw(runs: list[Run], suites: list[Suite], out: Path) -> list[Figure]:
    """Fig. 5, training curves and speed, for all runs together and for each suite."""
    figures = []
    if runs or not suites:
        curves = [curve_of(run.label, [run]) for run in runs]
        figures += _three(curves, curves, "", "", out, named=len(runs) + len(suites) > 1)
    for suite in suites:
        curves = suite_curves(suite)
        chosen = run_of(suite)
        label = chosen.label.rpartition(", seed ")[0] if chosen else ""
        # Of a suite's many rows: one with CARB, and the row without CARB of equal settings.
        shown = [curve for curve in curves if label in (curve.label, f"{curve.label} + CARB")]
        figures += _three(shown, curves, f"_{suite.slug}", f" ({suite.label})", out)
    return figures


def suite_curves(suite: Suite) -> list[Curve]:
    """A curve for each row. A warm-up shared by rows is drawn once, in the row without CARB."""
    curves = []
    rows = {
        name: [run for seed in row["seeds"] if (run := run_of_row(suite, name, seed))]
        for name, row in suite.content["rows"].items()
    }
    drawn = {run.folder for runs in rows.values() for run in runs}
    for name, runs in rows.items():
        if not runs:
            continue
        curve = curve_of(name, runs)
        warmups = {run.stages["warmup"].folder for run in runs if "warmup" in run.stages}
        if curve.start is not None and warmups <= drawn:
            logs = [[line for line in log if line["step"] >= curve.start] for log in curve.logs]
            curve = curve._replace(logs=logs)
        drawn |= warmups
        curves.append(curve)
    return curves


def curve_of(label: str, runs: Sequence[Run]) -> Curve:
    """The curve of runs that differ only in the seed, with the values of `with_shares`."""
    last = runs[0].last
    try:
        small = load_classes(last.config.class_file).small
    except InputError:  # the class file of a run from another machine is missing
        small = ()
    # Run.log holds warm-up and CARB, not full supervision.
    logs = [with_shares(run.log or run.last.log, small) for run in runs]
    start = last.config.warmup_steps if "carb" in runs[0].stages else None
    return Curve(label, logs, start)


def with_shares(log: list[dict[str, Any]], small: Sequence[bool]) -> list[dict[str, Any]]:
    """Log lines plus the area of the inconsistent region and the small classes' share, 0..1."""
    lines = []
    for line in log:
        more = {}
        if "consistent_fraction" in line:
            more["inconsistent_fraction"] = 1 - line["consistent_fraction"]
        shares = line.get("class_share") or ()  # baselines/supervised.py has none
        if any(small) and len(shares) == len(small):
            more["small_share"] = sum(s for s, k in zip(shares, small, strict=True) if k)
        lines.append(line | more)
    return lines


def _three(
    regions: list[Curve], curves: list[Curve], slug: str, of: str, out: Path, named: bool = False
) -> list[Figure]:
    """The three figures; `named`: the caption names the run of a single curve."""
    seeds = max((len(curve.logs) for curve in curves), default=1)
    note = " Neighbouring log lines are averaged."
    if seeds > 1:
        note += f" Mean over {seeds} seeds; the band reaches from the least to the greatest."
    figures = []
    for figure, quantities in _QUANTITIES.items():
        panels = arrange(regions if figure is _FIG5 else curves, quantities)
        figure = figure._replace(name=figure.name + slug, title=figure.title + of)
        if panels.content:
            labels = {entry["curve"] for entry in panels.content}
            run = f" Run: {min(labels)}." * (named and len(labels) == 1)
            figure = figure._replace(
                caption=figure.caption + note + run,
                images=save_figure(partial(grid, panels), out, figure.name),
                data=save_data(out, figure.name, {"curves": panels.content}),
            )
        else:
            what = f"log lines in metrics.jsonl with {', '.join(quantities)}, as training writes"
            missing = (Missing(what, "bash run_demo.sh"),)
            figure = figure._replace(caption="", missing=missing)
        figures.append(figure)
    return figures
