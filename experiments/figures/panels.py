"""Curves over training steps, in panels that share a legend. Drawing needs matplotlib."""

from collections.abc import Collection, Sequence
from itertools import product
from typing import Any, NamedTuple

from experiments.figures.style import BLUE, COLOURS, WIDTH, plotting

_START = {"color": "0.45", "linestyle": ":", "linewidth": 1.2}
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
_MOST_POINTS = 100  # points of a curve: more would be noise at the size of a panel

Points = list[tuple[float, ...]]  # (step, mean, least, greatest) over the seeds


class Curve(NamedTuple):
    """A run, or the runs of a row: lines of metrics.jsonl, one list for each seed."""

    label: str
    logs: list[list[dict[str, Any]]]
    start: int | None  # first step of CARB


class Quantity(NamedTuple):
    """A value of the log lines."""

    name: str
    key: str
    factor: float = 1
    colour: str = BLUE  # of a single curve; several curves have a colour each
    style: str = "-"
    from_zero: bool = True  # start the axis at 0, so that differences don't look exaggerated


class Panels(NamedTuple):
    """Panels to draw."""

    # title, (points, style) of each curve, whether the axis starts at 0
    panels: list[tuple[str, list[tuple[Points, dict[str, Any]]], bool]]
    legend: dict[str, dict[str, Any]]  # label -> style
    starts: Collection[int]  # first steps of CARB
    content: list[dict[str, Any]]  # for a JSON file: panel, curve, quantity, points


def points(curve: Curve, quantity: Quantity) -> Points:
    """Points at the steps that all seeds have logged, thinned out by `thin`."""
    key, factor = quantity.key, quantity.factor
    each = [
        {line["step"]: factor * line[key] for line in log if line.get(key) is not None}
        for log in curve.logs
    ]
    steps = sorted(set.intersection(*map(set, each)))
    values = {step: [one[step] for one in each] for step in steps}
    return thin([(s, sum(v) / len(v), min(v), max(v)) for s, v in values.items()])


def thin(points: Sequence[tuple[float, ...]]) -> Points:
    """At most _MOST_POINTS means of neighbouring points."""
    size = max(1, -(-len(points) // _MOST_POINTS))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [tuple(sum(v) / len(v) for v in zip(*group, strict=True)) for group in groups]


def arrange(curves: Sequence[Curve], quantities: dict[str, tuple[Quantity, ...]]) -> Panels:
    """Panels by title, without those for which no curve has a value.

    Each curve has a colour (and dashes from the eighth label on); of a single curve, each quantity
    has its own.
    """
    every = [quantity for group in quantities.values() for quantity in group]
    curves = [curve for curve in curves if any(points(curve, quantity) for quantity in every)]
    several = len(curves) > 1
    colours = {
        label: {"color": COLOURS[i % len(COLOURS)], "linestyle": _DASHES[i // len(COLOURS) % 3]}
        for i, label in enumerate(dict.fromkeys(curve.label for curve in curves))
    }
    panels, content, legend = [], [], {}
    for title, group in quantities.items():
        tracks = []
        for curve, quantity in product(curves, group):
            if not (found := points(curve, quantity)):
                continue
            style = {"color": quantity.colour, "linestyle": quantity.style}
            if several:
                dash = {"linestyle": quantity.style} if len(group) > 1 else {}
                style = colours[curve.label] | dash
            tracks.append((found, style))
            what = {"panel": title, "curve": curve.label, "quantity": quantity.name}
            content.append(what | {"points": found})
            if quantity.name and (not several or len(group) > 1):
                colour = "0.2" if several else quantity.colour
                legend[quantity.name] = {"color": colour, "linestyle": quantity.style}
        panels += [(title, tracks, group[0].from_zero)] if tracks else []
    starts = {curve.start for curve in curves if curve.start is not None}
    return Panels(panels, (colours if several else {}) | legend, starts, content)


def grid(shown: Panels, width: float = WIDTH, xlabel: str = "step") -> Any:
    """A figure of one or more panels; dotted lines mark the starts of CARB.

    In a narrow figure the panels are stacked. The x axis of a panel whose curves all begin after
    CARB's start begins there.
    """
    pyplot = plotting()
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    panels, legend, starts, _ = shown
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    columns = columns if width == WIDTH else 1
    rows = -(-len(panels) // columns)
    lines = [Line2D([], [], label=label, **style) for label, style in legend.items()]
    lines += [Line2D([], [], label="CARB starts", **_START)] if starts else []
    longest = max((len(line.get_label()) for line in lines), default=0)
    # A page holds about 110 letters side by side.
    fitting = max(1, min(len(lines), int(110 * width / WIDTH) // (6 + longest)))
    height = 2.3 * rows + 0.5 + 0.17 * max(0, -(-len(lines) // fitting) - 2)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(width, height), layout="constrained", squeeze=False
    )
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    last = max(found[-1][0] for _, tracks, _ in panels for found, _ in tracks)
    for ax, (title, tracks, from_zero) in zip(axes.flat, panels, strict=False):
        for found, style in tracks:
            _draw(ax, found, style)
        for start in sorted(starts):
            ax.axvline(start, **_START)
        begin = min(found[0][0] for found, _ in tracks)
        left = max((start for start in starts if start <= begin), default=0)
        ax.set(title=title, xlim=(left, last) if left < last else None)
        if last >= 10_000:  # "16k": longer labels would overlap
            ax.xaxis.set_major_locator(MaxNLocator(6))
            ax.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
        if from_zero:
            ax.set_ylim(bottom=0)
    figure.supxlabel(xlabel, fontsize=9)
    if lines:
        figure.legend(handles=lines, loc="outside upper center", ncols=fitting, handlelength=2.6)
    return figure


def _draw(ax: Any, found: Points, style: dict[str, Any]) -> None:
    steps, values, least, greatest = zip(*found, strict=True)
    marker = "." if len(steps) == 1 else None  # a line of one point is invisible
    ax.plot(steps, values, linewidth=1.4, marker=marker, **style)
    if least != greatest:
        ax.fill_between(steps, least, greatest, color=style["color"], alpha=0.18, linewidth=0)
