"""Change of every class's IoU against a plain row: what each row of a suite keeps and loses."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datasets.labels import load_classes
from experiments.figures.runs import Suite
from experiments.figures.style import (
    COLOURS,
    GREY,
    WIDTH,
    Figure,
    plotting,
    save_data,
    save_figure,
)
from experiments.numbers import LEAST_IOU, class_pairs, lost_classes, mean_and_spread
from utils.config import load_config
from utils.safe.errors import InputError

_NAME, _TITLE = "rare_classes", "Classes that are kept and lost"
_BAR = 0.11  # inches


class Class(NamedTuple):
    name: str
    share: float  # of the labelled pixels, in percent
    is_small: bool


class Changes(NamedTuple):
    """One row: changes of IoU in points by class, means over the seeds; and what is lost."""

    label: str
    change: dict[str, float | None]
    lost: list[str]  # classes lost with any seed


def draw(suites: list[Suite], out: Path) -> list[Figure]:
    """A figure for each row `against` which others of its suite may lose classes."""
    figures = [
        _figure(suite, plain, others, out)
        for suite in suites
        for plain, others in suite.against.items()
    ]
    return [figure for figure in figures if figure]


def changes_of(rows: dict[str, dict[str, Any]], plain: str, others: list[str]) -> list[Changes]:
    """Of `others`, the rows of an ablation.json that share a seed and a class with `plain`."""
    usual, found = rows[plain]["metrics"], []
    for name in others:
        metrics = rows[name]["metrics"]
        pairs = [(one, usual[seed]) for seed, one in metrics.items() if seed in usual]
        by_seed = [class_pairs(*pair) for pair in pairs]
        names = list(dict.fromkeys(key for one in by_seed for key in one))
        change = {
            key: mean_and_spread(a - b for a, b in (one[key] for one in by_seed if key in one)).mean
            for key in names
        }
        lost = dict.fromkeys(key for pair in pairs for key in lost_classes(*pair))
        if change:
            found.append(Changes(name, change, [*lost]))
    return found


def classes_of(content: dict[str, Any], plain: str) -> list[Class]:
    """The classes by their share of the labelled pixels, the rarest first; small ones marked."""
    metrics = content["rows"][plain]["metrics"]
    rows = next(iter(metrics.values())).get("classes", {})
    try:
        table = load_classes(load_config(content.get("config", "")).class_file)
        small = dict(zip(table.names, table.small, strict=True))
    except InputError:  # the numbers are useful without the class file
        small = {}
    pixels = {name: row.get("ground_truth", 0) for name, row in rows.items()}
    whole = max(sum(pixels.values()), 1)
    found = [Class(key, 100 * n / whole, bool(small.get(key))) for key, n in pixels.items()]
    return sorted(found, key=lambda one: one.share)


def _figure(suite: Suite, plain: str, others: list[str], out: Path) -> Figure | None:
    content = suite.content
    rows = changes_of(content["rows"], plain, others)
    if not rows:
        return None
    name, title = f"{_NAME}_{suite.slug}{suite.group(plain)}", f"{_TITLE} ({suite.label})"
    classes = classes_of(content, plain)
    classes = [one for one in classes if any(one.name in row.change for row in rows)]
    caption = (
        f"IoU of every class minus that of {plain}, in points, means over the seeds; the rarest "
        f"class on top, with its share of the labelled pixels. x: lost with at least one seed, "
        f"that is below half of {plain}'s IoU, where that is at least {LEAST_IOU:g}."
    )
    caption += " Small classes are marked with a dot." * any(one.is_small for one in classes)
    content = {"suite": str(suite.folder), "against": plain}
    content |= {"classes": [one._asdict() for one in classes], "rows": [r._asdict() for r in rows]}
    images: tuple[Path, ...] = ()
    for i in range(0, len(rows), len(COLOURS)):
        part = f"_part{i // len(COLOURS) + 1}" * (i > 0)
        drawing = partial(_bars, rows[i : i + len(COLOURS)], classes, plain)
        images += save_figure(drawing, out, name + part)
    return Figure(name, title, caption, images, save_data(out, name, content))


def _bars(rows: list[Changes], classes: list[Class], plain: str, width: float) -> Any:
    columns = min(3, len(rows)) if width == WIDTH else 1  # of the legend
    group = max(_BAR * len(rows) + 0.08, 0.22)  # inches per class
    height = 0.8 + group * len(classes) + 0.2 * -(-len(rows) // columns)
    figure, axes = plotting().subplots(figsize=(width, height), layout="constrained")
    thick = _BAR / group
    for i, (row, colour) in enumerate(zip(rows, COLOURS, strict=False)):
        at = [y + (i - (len(rows) - 1) / 2) * thick for y in range(len(classes))]
        change = [row.change.get(one.name) or 0.0 for one in classes]
        axes.barh(at, change, thick * 0.92, color=colour, label=row.label)
        lost = [(x, y) for x, y, c in zip(change, at, classes, strict=True) if c.name in row.lost]
        for x, y in lost:
            axes.plot(x, y, marker="x", color="black", markersize=5, zorder=3)
    names = [f"{'● ' * c.is_small}{c.name} ({c.share:.2g} %)" for c in classes]
    axes.set_yticks(range(len(classes)), names)
    axes.axvline(0, color=GREY, linewidth=0.8)
    axes.set(xlabel=f"IoU minus that of {plain}, points", ylim=(len(classes) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper left", ncols=columns)
    return figure
