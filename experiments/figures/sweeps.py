"""Fig. 6 of the paper, patch sizes and fixed weights, and its sweep over resize ratios."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from experiments.figures.runs import Suite
from experiments.figures.scored_runs import PAPER, exclusion_reason, is_a_sweep, read_scored_runs
from experiments.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    WIDTH,
    YELLOW,
    Figure,
    Missing,
    plotting,
    save_data,
    save_figure,
)
from experiments.methods import METHODS
from experiments.numbers import MEASURES

_LEAST = 3  # the fewest rows of a sweep
_CITYSCAPES = "python -m experiments.ablation experiments/suites/cityscapes_{0}.yaml --out "
_CITYSCAPES += "runs/cityscapes_{0}"
_DEMO = "SUITE=demo_{0} bash scripts/demo_ablation.sh"

Rows = dict[str, dict[str, Any]]  # name of a row -> its settings


class Line(NamedTuple):
    """One line of the plot."""

    label: str
    rows: dict[float, str]  # place on the x axis -> name of a row
    colour: str
    marker: str = "o"  # "*" marks single points, other markers are joined by a line


class Sweep(NamedTuple):
    xlabel: str
    lines: list[Line]
    level: tuple[str, str] | None = None  # label and row of a horizontal line

    @property
    def places(self) -> dict[str, float]:
        """Row -> its place on the x axis."""
        return {name: x for line in self.lines for x, name in line.rows.items()}


class Kind(NamedTuple):
    """A kind of sweep."""

    name: str
    title: str
    keys: tuple[str, ...]  # the config keys that it changes
    sort: Callable[[Rows], Sweep]  # takes rows that differ only in `keys`
    what: str  # "patch sizes"
    suite: str  # name of the shipped suite, without its prefix
    on_demo: str = _DEMO  # command


def find(suite: Suite, kind: Kind) -> list[Sweep]:
    """The sweeps of a kind over the scored rows of a suite."""
    groups: dict[str, Rows] = {}
    for name, row in suite.content["rows"].items():
        others = {key: value for key, value in row["settings"].items() if key not in kind.keys}
        if row["seeds"] and row["stage"] not in ("supervised", *METHODS):
            same = json.dumps([row["stage"], others], sort_keys=True)
            groups.setdefault(same, {})[name] = row["settings"]
    sweeps = [kind.sort(rows) for rows in groups.values()]
    return [sweep for sweep in sweeps if len(sweep.places) >= _LEAST]


def patch_sizes(rows: Rows) -> Sweep:
    """Lines of patches whose one side is the longest of all; x is the other side. Smaller squares
    are stars."""
    sizes = {name: tuple(s["patch_size"]) for name, s in rows.items() if "patch_size" in s}
    long = max((side for size in sizes.values() for side in size), default=0)
    tall = {width: name for name, (height, width) in sizes.items() if height == long}
    wide = {height: name for name, (height, width) in sizes.items() if width == long}
    squares = {h: name for name, (h, w) in sizes.items() if h == w < long}
    lines = [
        Line(f"tall, {long} x n", tall, BLUE),
        Line(f"wide, n x {long}", wide, ORANGE, "s"),
        Line("square, n x n", squares, YELLOW, "*"),
    ]
    return Sweep("n in pixels; height x width of the patch", lines)


def fixed_weights(rows: Rows) -> Sweep:
    weights = {name: s.get("region_weight", "adaptive") for name, s in rows.items()}
    fixed = {weight: name for name, weight in weights.items() if weight != "adaptive"}
    adaptive = [name for name, weight in weights.items() if weight == "adaptive"]
    level = ("adaptive w", adaptive[0]) if adaptive else None
    return Sweep("weight w of the inconsistent region", [Line("fixed w", fixed, BLUE)], level)


def resize_ratios(rows: Rows) -> Sweep:
    ratios = {name: s["local_resize"] for name, s in rows.items() if "local_resize" in s}
    fixed = {low: name for name, (low, high) in ratios.items() if low == high}
    drawn = [(f"drawn from U[{a:g}, {b:g}]", n) for n, (a, b) in ratios.items() if a < b]
    level = drawn[0] if drawn else None
    return Sweep("resize ratio of the local view", [Line("fixed ratio", fixed, BLUE)], level)


KINDS = (
    Kind(
        "fig6a_patch_size",
        "Fig. 6 (a): patch size of the local view",
        ("patch_size",),
        patch_sizes,
        "patch sizes",
        "patch_size",
    ),
    Kind(
        "fig6b_weight",
        "Fig. 6 (b): fixed weight against the adaptive one",
        ("region_weight",),
        fixed_weights,
        "weights",
        "weight",
        "bash scripts/demo_ablation.sh",
    ),
    Kind(
        "resize_ratio",
        "Resize ratio of the local view",
        ("local_resize",),
        resize_ratios,
        "ratios",
        "resize_ratio",
    ),
)


def draw(suites: list[Suite], out: Path) -> list[Figure]:
    """A figure for each sweep of each suite; for a missing kind, the commands that run it."""
    figures = []
    for kind in KINDS:
        found = [(suite, sweep) for suite in suites for sweep in find(suite, kind)]
        for i, (suite, sweep) in enumerate(found):
            several = f"_{i}" * ([other for other, _ in found].count(suite) > 1)
            figures.append(_figure(suite, sweep, kind, several, out))
        if not found:
            missing = (
                Missing(f"{kind.what} on Cityscapes", _CITYSCAPES.format(kind.suite)),
                Missing(f"{kind.what} on the demo's scenes", kind.on_demo.format(kind.suite)),
            )
            figures.append(Figure(kind.name, kind.title, "", missing=missing))
    return figures


def _figure(suite: Suite, sweep: Sweep, kind: Kind, number: str, out: Path) -> Figure:
    rows, stated = suite.content["rows"], _stated(suite, kind)
    name = "_".join([kind.name, suite.slug]) + number
    data = {"suite": str(suite.folder), "x": sweep.xlabel, "paper": stated}
    shown = [*sweep.places, *([sweep.level[1]] if sweep.level else [])]
    data["rows"] = {
        row: {"x": sweep.places.get(row)}
        | {k: rows[row][k] for k in ("settings", "mean", "std", "seeds")}
        for row in shown
    }
    seeds = sorted({seed for row in shown for seed in rows[row]["seeds"]}, key=int)
    spread = ", mean and sample standard deviation over the seeds" * (len(seeds) > 1)
    caption = (
        f"{suite.content.get('config')}, split {suite.content.get('split')}, seed"
        f"{'s' * (len(seeds) > 1)} {', '.join(seeds)}{spread}."
    )
    if stated:
        caption += f" Grey: what the paper states ({stated['place']})."
    images = save_figure(partial(_panels, sweep, rows, stated), out, name)
    title = f"{kind.title} ({suite.label})"
    return Figure(name, title, caption, images, save_data(out, name, data))


def _panels(sweep: Sweep, rows: dict[str, Any], stated: dict[str, Any], width: float) -> Any:
    """Panels of the mIoU of all, small and large classes."""
    means = [rows[name]["mean"] for name in sweep.places]
    measures = [m for m in MEASURES if any(mean.get(m) is not None for mean in means)]
    pyplot = plotting()
    beside = len(measures) if width == WIDTH else 1  # number of panels side by side
    size = (width, 3.2 if width == WIDTH else 2.4 * len(measures) + 0.8)
    figure, axes = pyplot.subplots(
        len(measures) // beside, beside, figsize=size, layout="constrained", squeeze=False
    )
    for ax, measure in zip(axes.flat, measures, strict=True):
        for line in sweep.lines:
            _plot(ax, line, rows, measure)
        if sweep.level:
            _plot_level(ax, sweep.level, rows, measure)
        if measure == "mIoU":
            _plot_stated(ax, stated)
        ax.set_title("mIoU, %" if measure == "mIoU" else f"mIoU of the {measure} classes, %")
        places = sorted(set(sweep.places.values()))
        if len(places) <= 5:
            ax.set_xticks(places, [f"{x:g}" for x in places])
        ax.margins(x=0.08, y=0.12)
    figure.supxlabel(sweep.xlabel, fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    columns = len(labels) if width == WIDTH else 1
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)
    return figure


def _plot(ax: Any, line: Line, rows: dict[str, Any], measure: str) -> None:
    """Plot means, with standard deviations as error bars; stars are not joined."""
    found = {x: rows[row] for x, row in sorted(line.rows.items())}
    found = {x: row for x, row in found.items() if row["mean"].get(measure) is not None}
    if not found:
        return
    star = line.marker == "*"
    spreads = [row["std"].get(measure) or 0 for row in found.values()]
    ax.errorbar(
        list(found),
        [row["mean"][measure] for row in found.values()],
        spreads if any(spreads) else None,
        color=line.colour,
        marker=line.marker,
        markersize=13 if star else 5,
        markeredgecolor="black" if star else line.colour,
        markeredgewidth=0.6,
        linestyle="none" if star else "-",
        linewidth=1.4,
        capsize=3,
        zorder=4 if star else 3,
        label=line.label,
    )


def _plot_level(ax: Any, level: tuple[str, str], rows: dict[str, Any], measure: str) -> None:
    """Plot a horizontal line, with its standard deviation as a band."""
    label, row = level
    mean, std = (rows[row][key].get(measure) for key in ("mean", "std"))
    if mean is None:
        return
    ax.axhline(mean, color=GREEN, linewidth=1.4, label=label, zorder=1)
    if std is not None:
        ax.axhspan(mean - std, mean + std, color=GREEN, alpha=0.15, linewidth=0)


def _stated(suite: Suite, kind: Kind) -> dict[str, Any]:
    """The paper's numbers, if the suite follows the paper except for the keys of the sweep."""
    stated = PAPER.get(kind.name, {})
    runs = read_scored_runs([], [suite])
    reasons = {exclusion_reason(run) for run in runs}
    places = {(run.config.dataset, run.metrics.get("split")) for run in runs}
    good = all(not reason or is_a_sweep(reason) for reason in reasons)
    return stated if good and places == {(stated.get("dataset"), stated.get("split"))} else {}


def _plot_stated(ax: Any, stated: dict[str, Any]) -> None:
    if not stated:
        return
    x, y = zip(*stated["points"], strict=True)
    style = {"color": GREY, "zorder": 2}
    ax.plot(x, y, marker="D", markerfacecolor="white", linestyle="none", label="paper", **style)
    if "adaptive" in stated:
        ax.axhline(stated["adaptive"], linestyle=":", label="paper, adaptive w", **style)
