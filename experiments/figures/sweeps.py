"""Fig. 6 of the paper, patch sizes and fixed weights, and its sweep over resize ratios."""

from pathlib import Path
from typing import Any

from experiments.figures.cells import PAPER, is_a_sweep, read_cells, why_not
from experiments.figures.runs import Suite
from experiments.figures.style import (
    GREEN,
    GREY,
    NARROW,
    WIDTH,
    Figure,
    Missing,
    plotting,
    save_data,
    save_figure,
)
from experiments.figures.sweep_rows import KINDS, Kind, Line, Sweep, find
from experiments.numbers import MEASURES


def draw(suites: list[Suite], out: Path) -> list[Figure]:
    """A figure for each sweep of each suite; for a kind that no suite has, what runs it."""
    figures = []
    for kind in KINDS:
        found = [(suite, sweep) for suite in suites for sweep in find(suite, kind)]
        for i, (suite, sweep) in enumerate(found):
            several = f"_{i}" * ([other for other, _ in found].count(suite) > 1)
            figures.append(_figure(suite, sweep, kind, several, out))
        if not found:
            missing = tuple(Missing(what, command) for what, command in kind.commands.items())
            figures.append(Figure(kind.name, kind.title, "", missing=missing))
    return figures


def _figure(suite: Suite, sweep: Sweep, kind: Kind, number: str, out: Path) -> Figure:
    rows, stated = suite.content["rows"], _stated(suite, kind)
    wide, narrow = (_panels(sweep, rows, stated, width) for width in (WIDTH, NARROW))
    placed = {name: x for line in sweep.lines for x, name in line.rows.items()}
    name = "_".join([kind.name, suite.slug]) + number
    data = {"suite": str(suite.folder), "x": sweep.xlabel, "paper": stated}
    shown = [*placed, *([sweep.level[1]] if sweep.level else [])]
    data["rows"] = {
        row: {"x": placed.get(row)}
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
    picture = save_figure(wide, out, name, narrow)
    title = f"{kind.title} ({suite.label})"
    return Figure(name, title, caption, picture, save_data(out, name, data))


def _panels(sweep: Sweep, rows: dict[str, Any], stated: dict[str, Any], width: float) -> Any:
    """A panel each for the mIoU of all, of the small and of the large classes."""
    placed = {name: x for line in sweep.lines for x, name in line.rows.items()}
    measures = [m for m in MEASURES if any(rows[n]["mean"].get(m) is not None for n in placed)]
    pyplot = plotting()
    beside = len(measures) if width == WIDTH else 1  # else below each other
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
        places = sorted(set(placed.values()))
        if len(places) <= 5:
            ax.set_xticks(places, [f"{x:g}" for x in places])
        ax.margins(x=0.08, y=0.12)
    figure.supxlabel(sweep.xlabel, fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    columns = len(labels) if width == WIDTH else 1
    figure.legend(handles, labels, loc="outside upper center", ncols=columns)
    return figure


def _plot(ax: Any, line: Line, rows: dict[str, Any], measure: str) -> None:
    """Means with the standard deviation as bars; a star stands alone."""
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
    """A horizontal line with a band of the standard deviation."""
    label, row = level
    mean, std = (rows[row][key].get(measure) for key in ("mean", "std"))
    if mean is None:
        return
    ax.axhline(mean, color=GREEN, linewidth=1.4, label=label, zorder=1)
    if std is not None:
        ax.axhspan(mean - std, mean + std, color=GREEN, alpha=0.15, linewidth=0)


def _stated(suite: Suite, kind: Kind) -> dict[str, Any]:
    """The paper's numbers, where the suite ran as the paper did but for what the sweep changes."""
    stated = PAPER.get(kind.name, {})
    cells = read_cells([], [suite])
    reasons = {why_not(cell) for cell in cells}
    places = {(cell.config.dataset, cell.metrics.get("split")) for cell in cells}
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
