"""Curves over the steps of training, panel by panel under one legend. Needs matplotlib."""

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

from experiments.figures.style import COLOURS, WIDTH, plotting

_START = {"color": "0.45", "linestyle": ":", "linewidth": 1.2}
_DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)))
_MOST_POINTS = 100  # of a curve: more is noise at the size of a panel


class Track(NamedTuple):
    """A curve: (step, value) or, with a band, (step, value, least, greatest)."""

    points: Sequence[tuple[float, ...]]
    style: dict[str, Any]


class Panel(NamedTuple):
    """`from_zero`: the axis starts at 0, or the values would seem to differ more than they do."""

    title: str
    tracks: list[Track]
    from_zero: bool = True


def styles(labels: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Label -> its colour, from the eighth on dashed."""
    return {
        label: {"color": COLOURS[i % len(COLOURS)], "linestyle": _DASHES[i // len(COLOURS) % 3]}
        for i, label in enumerate(dict.fromkeys(labels))
    }


def thin(points: Sequence[tuple[float, ...]]) -> list[tuple[float, ...]]:
    """Means of neighbours, so many that at most _MOST_POINTS are left."""
    size = max(1, -(-len(points) // _MOST_POINTS))
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [tuple(sum(v) / len(v) for v in zip(*group, strict=True)) for group in groups]


def grid(
    panels: Sequence[Panel],
    legend: dict[str, dict[str, Any]],
    starts: Collection[int] = (),
    xlabel: str = "step",
    width: float = WIDTH,
) -> Any:
    """A figure of the panels that have a value (one has); CARB's `starts` are dotted.

    Panels stand below each other where the figure is narrow. One whose curves all begin after
    CARB's start begins there.
    """
    pyplot = plotting()
    from matplotlib.lines import Line2D
    from matplotlib.ticker import MaxNLocator

    panels = [panel for panel in panels if any(track.points for track in panel.tracks)]
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    columns = columns if width == WIDTH else 1
    rows = -(-len(panels) // columns)
    lines = [Line2D([], [], label=label, **style) for label, style in legend.items()]
    lines += [Line2D([], [], label="CARB starts", **_START)] if starts else []
    longest = max((len(line.get_label()) for line in lines), default=0)
    # about 110 letters side by side on a page
    fitting = max(1, min(len(lines), int(110 * width / WIDTH) // (6 + longest)))
    height = 2.3 * rows + 0.5 + 0.17 * max(0, -(-len(lines) // fitting) - 2)
    figure, axes = pyplot.subplots(
        rows, columns, figsize=(width, height), layout="constrained", squeeze=False
    )
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    last = max(t.points[-1][0] for panel in panels for t in panel.tracks if t.points)
    for ax, panel in zip(axes.flat, panels, strict=False):
        for track in panel.tracks:
            _draw(ax, track)
        for start in sorted(starts):
            ax.axvline(start, **_START)
        begin = min(track.points[0][0] for track in panel.tracks if track.points)
        left = max((start for start in starts if start <= begin), default=0)
        ax.set(title=panel.title, xlim=(left, last) if left < last else None)
        if last >= 10_000:  # long labels run into each other: 16k
            ax.xaxis.set_major_locator(MaxNLocator(6))
            ax.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
        if panel.from_zero:
            ax.set_ylim(bottom=0)
    figure.supxlabel(xlabel, fontsize=9)
    if lines:
        figure.legend(handles=lines, loc="outside upper center", ncols=fitting, handlelength=2.6)
    return figure


def _draw(ax: Any, track: Track) -> None:
    if not track.points:
        return
    steps, values, *band = zip(*track.points, strict=True)
    marker = "." if len(steps) == 1 else None  # a line of one point is not seen
    ax.plot(steps, values, linewidth=1.4, marker=marker, **track.style)
    if band and any(low < high for low, high in zip(*band, strict=True)):
        ax.fill_between(steps, *band, color=track.style["color"], alpha=0.18, linewidth=0)
