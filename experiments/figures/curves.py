"""Fig. 5 of the paper (losses and areas of the two regions, w), training curves and speed.

All are read from metrics.jsonl. The runs that were given share their figures, each suite has its
own; the seeds of a suite's row are one curve, their mean, in a band from the least to the greatest.
"""

from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from datasets.labels import load_classes
from experiments.figures.panels import Panel, Track, grid, styles, thin
from experiments.figures.runs import Run, Suite, run_of, run_of_row
from experiments.figures.style import (
    BLUE,
    GREEN,
    NARROW,
    ORANGE,
    Figure,
    Missing,
    save_data,
    save_figure,
)
from utils.safe.errors import InputError


class Curve(NamedTuple):
    """A run, or the runs of a row: lines of metrics.jsonl, one list for each seed."""

    label: str
    logs: list[list[dict[str, Any]]]
    start: int | None  # of CARB


class Quantity(NamedTuple):
    """What is drawn of a log line; `colour` is for a single curve, several have one each."""

    name: str
    key: str
    factor: float = 1
    colour: str = BLUE
    style: str = "-"


_CONSISTENT = Quantity("consistent region", "consistent_fraction", 100)
_REGIONS = {
    "(a) loss": (
        Quantity("consistent region", "loss_consistent"),
        Quantity("inconsistent region", "loss_inconsistent", 1, ORANGE, "--"),
    ),
    "(b) area, %": (
        _CONSISTENT,
        Quantity("inconsistent region", "inconsistent_fraction", 100, ORANGE, "--"),
    ),
    "weight w": (Quantity("weight w", "w", 1, GREEN),),
}
_TRAINING = {
    "loss": (Quantity("", "loss"),),
    "consistent area, %": (_CONSISTENT._replace(name=""),),
    "predicted as a small class, %": (Quantity("", "small_share", 100),),
}
_THROUGHPUT = {
    "learning rate": (Quantity("", "lr"),),
    "images per second": (Quantity("", "images_per_second"),),
    "peak memory, GiB": (Quantity("", "max_memory_mib", 1 / 1024),),
}


def draw(runs: list[Run], suites: list[Suite], out: Path) -> list[Figure]:
    """Fig. 5, training curves and speed: of all runs together and of each suite."""
    figures = []
    if runs or not suites:
        curves = [curve_of(run.label, [run]) for run in runs]
        figures += _three(curves, curves, "", "", out, named=len(runs) + len(suites) > 1)
    for suite in suites:
        curves = suite_curves(suite)
        chosen = run_of(suite)
        label = chosen.label.rpartition(", seed ")[0] if chosen else ""
        # of a suite's many rows one with CARB, and before it the one that is the same without
        shown = [curve for curve in curves if label in (curve.label, f"{curve.label} + CARB")]
        figures += _three(shown, curves, f"_{suite.slug}", f" ({suite.label})", out)
    return figures


def suite_curves(suite: Suite) -> list[Curve]:
    """A curve for each row. A warm-up that rows share is drawn once, in the row without CARB."""
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
    """Of runs that differ in the seed only. Lines get the inconsistent and the small share."""
    last = runs[0].last
    try:
        small = load_classes(last.config.class_file).small
    except InputError:  # a run of another machine
        small = ()
    # Run.log is of the warm-up and CARB
    logs = [[_with_shares(line, small) for line in run.log or run.last.log] for run in runs]
    start = last.config.warmup_steps if "carb" in runs[0].stages else None
    return Curve(label, logs, start)


def points(curve: Curve, quantity: Quantity) -> list[tuple[float, ...]]:
    """(step, mean, least, greatest) over the seeds, at the steps that all of them have logged."""
    key, factor = quantity.key, quantity.factor
    each = [
        {line["step"]: factor * line[key] for line in log if line.get(key) is not None}
        for log in curve.logs
    ]
    steps = sorted(set.intersection(*map(set, each)))
    values = {step: [one[step] for one in each] for step in steps}
    return thin([(s, sum(v) / len(v), min(v), max(v)) for s, v in values.items()])


def _with_shares(line: dict[str, Any], small: Sequence[bool]) -> dict[str, Any]:
    more = {}
    if "consistent_fraction" in line:
        more["inconsistent_fraction"] = 1 - line["consistent_fraction"]
    if any(small) and len(line.get("class_share", ())) == len(small):
        more["small_share"] = sum(s for s, k in zip(line["class_share"], small, strict=True) if k)
    return line | more


def _three(
    regions: list[Curve],
    curves: list[Curve],
    slug: str,
    of: str,
    out: Path,
    named: bool = False,
) -> list[Figure]:
    """`named`: a single curve's run is named, as there are others."""
    seeds = max((len(curve.logs) for curve in curves), default=1)
    band = f" Mean over {seeds} seeds; the band reaches from the least to the greatest."
    note = " Neighbouring log lines are averaged." + band * (seeds > 1)
    of_regions = (
        "Consistent region: the pixels of the global view on which pseudo-mask and prediction "
        f"agree. w: the weight that CARB gives the inconsistent region's loss.{note}"
    )
    of_training = f"Small classes are those that the class file marks.{note}"
    of_speed = (
        "Images per second of all processes together; peak memory, where it is logged, of one "
        f"GPU.{note}"
    )
    texts = ("fig5_regions", "Fig. 5: losses and areas of the two regions", of_regions)
    fig5, training, speed = (
        _figure((f"{name}{slug}", f"{title}{of}", caption), shown, panels, out, named)
        for (name, title, caption), shown, panels in (
            (texts, regions, _REGIONS),
            (("training_curves", "Training curves", of_training), curves, _TRAINING),
            (("throughput", "Learning rate and speed", of_speed), curves, _THROUGHPUT),
        )
    )
    return [fig5, training, speed._replace(folded=True)]


def _figure(
    texts: tuple[str, str, str],
    curves: list[Curve],
    panels: dict[str, tuple[Quantity, ...]],
    out: Path,
    named: bool,
) -> Figure:
    """One picture; colours tell the curves apart, or where there is one only its quantities."""
    name, title, caption = texts
    every = [quantity for quantities in panels.values() for quantity in quantities]
    curves = [curve for curve in curves if any(points(curve, quantity) for quantity in every)]
    colours = styles([curve.label for curve in curves])
    shown, content = [], []
    for heading, quantities in panels.items():
        tracks = []
        for curve, quantity in product(curves, quantities):
            found = points(curve, quantity)
            style = {"color": quantity.colour, "linestyle": quantity.style}
            if len(curves) > 1:
                dash = {"linestyle": quantity.style} if len(quantities) > 1 else {}
                style = colours[curve.label] | dash
            tracks.append(Track(found, style))
            what = {"panel": heading, "curve": curve.label, "quantity": quantity.name}
            content += [what | {"points": found}] if found else []
        shown.append(Panel(heading, tracks))
    if not content:
        what = f"log lines with {', '.join(panels)}; a training writes them into metrics.jsonl"
        return Figure(name, title, "", missing=(Missing(what, "bash run_demo.sh"),))
    drawn = {entry["quantity"] for entry in content}
    of_quantities = {
        q.name: {"color": q.colour if len(curves) == 1 else "0.2", "linestyle": q.style}
        for quantities in panels.values()
        for q in quantities
        if q.name in drawn and q.name and (len(curves) == 1 or len(quantities) > 1)
    }
    legend = (colours if len(curves) > 1 else {}) | of_quantities
    starts = {curve.start for curve in curves if curve.start is not None}
    narrow = grid(shown, legend, starts, width=NARROW)
    picture = save_figure(grid(shown, legend, starts), out, name, narrow)
    caption += f" Run: {curves[0].label}." * (named and len(curves) == 1)
    return Figure(name, title, caption, picture, save_data(out, name, {"curves": content}))
