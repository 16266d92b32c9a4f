"""Teachers side by side: scores, time and memory of their masks, and the masks of some images.

They are the rows of masks of a suite (experiments/suites/cityscapes_readouts.yaml). Where it also
trains (cityscapes_teachers.yaml), rows are named "<teacher>, masks" and "<teacher>, <network>". The
chart needs matplotlib.
"""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from experiments.figures.galleries import Column, chosen, compared, open_split, save_gallery
from experiments.figures.runs import Suite
from experiments.figures.style import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    WIDTH,
    Figure,
    Missing,
    count,
    markdown,
    plotting,
    save_data,
    save_figure,
)
from experiments.numbers import MEASURES, Scores, percent, scores_of, spread
from utils.config import config_from_dict
from utils.safe.errors import InputError
from utils.safe.files import read_json

_MOST = 5  # teachers side by side: with image and ground truth, seven panels fill a page
_STYLES = {"mIoU": (BLUE, "o"), "small": (ORANGE, "s"), "large": (GREEN, "^")}


class Teacher(NamedTuple):
    """A row of masks."""

    name: str
    folder: Path
    scores: Scores
    seconds: float | None  # per image
    memory: float | None  # GiB at the peak
    cost: dict[str, Any]  # cost.json


def draw(suites: Sequence[Suite], images: int | Sequence[str], out: Path) -> list[Figure]:
    """A chart with a table, and masks side by side, of each suite that has rows of masks.

    images: ids to show, or the number of evenly spaced ones.
    """
    figures = []
    for suite in suites:
        if teachers := read_teachers(suite):
            label = f": {suite.label}" * (len(suites) > 1)
            figures.append(scores_and_cost(teachers, suite, f"Teachers{label}", out))
            figures.append(
                side_by_side(teachers, suite, f"Masks of the teachers{label}", images, out)
            )
    return figures


def read_teachers(suite: Suite) -> list[Teacher]:
    """The scored rows of masks, in the order of the suite."""
    found = []
    for name, row in suite.content["rows"].items():
        if row["stage"] != "masks" or not row["metrics"]:
            continue
        score = next(iter(row["metrics"].values()))
        cost = score.get("cost", {})
        seconds, memory = (_number(cost, key) for key in ("seconds_per_image", "peak_memory"))
        folder = suite.run_folder(name, 0)
        memory = None if memory is None else memory / 2**30
        name = name.removesuffix(", masks")
        found.append(Teacher(name, folder, scores_of(score), seconds, memory, cost))
    return found


def _number(cost: Any, key: str) -> float | None:
    value = cost.get(key) if isinstance(cost, dict) else None
    if not isinstance(value, int | float | None):
        raise InputError(f"cost.json: expected a number as '{key}', found {value}")
    return value


def scores_and_cost(teachers: list[Teacher], suite: Suite, title: str, out: Path) -> Figure:
    """mIoU of all, small and large classes, time per image and peak memory: chart and table."""
    name = f"teachers_{suite.slug}"
    values = [t._asdict() | {"folder": str(t.folder)} for t in teachers]
    return Figure(
        name,
        title,
        f"Masks of '{suite.content.get('split')}' made with each image's labels. Cost: "
        f"{_measured(teachers)}.",
        images=save_figure(lambda width: _chart(teachers, width), out, name),
        data=save_data(out, name, {"suite": str(suite.folder), "teachers": values}),
        tables=(table(teachers), *filter(None, [table_of_networks(suite)])),
    )


def table(teachers: list[Teacher]) -> str:
    """Markdown: mIoU in %, time per image and peak memory of each teacher."""
    rows = [
        [
            teacher.name,
            *map(percent, teacher.scores.values()),
            "-" if teacher.seconds is None else f"{teacher.seconds:.3g}",
            "-" if teacher.memory is None else f"{teacher.memory:.2f}",
        ]
        for teacher in teachers
    ]
    return markdown(["teacher", *MEASURES, "seconds an image", "peak memory, GiB"], rows)


def table_of_networks(suite: Suite) -> str:
    """Markdown: mIoU in % of each teacher's masks and of what learned from it; empty without."""
    if not suite.trains:
        return ""
    found: dict[str, dict[str, str]] = {}
    for name, row in suite.content["rows"].items():
        teacher, _, what = name.rpartition(", ")
        mean, std = (row[key].get("mIoU") for key in ("mean", "std"))
        text = spread(mean, std) if row["seeds"] else "not run"
        found.setdefault(teacher, {})[what] = text
    columns = dict.fromkeys(what for cells in found.values() for what in cells)
    rows = [[name, *(cells.get(what, "") for what in columns)] for name, cells in found.items()]
    return markdown(["mIoU, %", *columns], rows)


def _measured(teachers: list[Teacher]) -> str:
    """Where time and memory were measured."""
    costs = [teacher.cost for teacher in teachers if teacher.seconds is not None]
    if not costs:
        return "not measured"
    on_cpu = [cost.get("device") == "cpu" for cost in costs]
    places = dict.fromkeys(
        f"{count(cost.get('threads'), 'thread')} of a CPU" if cpu else str(cost.get("device"))
        for cost, cpu in zip(costs, on_cpu, strict=True)
    )
    kinds = ["of the process"] * any(on_cpu) + ["of tensors on the GPU"] * (not all(on_cpu))
    images = dict.fromkeys(str(cost.get("images")) for cost in costs)
    return (
        f"median time over {' or '.join(images)} images, reading left out, and peak memory "
        f"{' or '.join(kinds)}, on {' or '.join(places)}"
    )


def _chart(teachers: list[Teacher], width: float) -> Any:
    """Three panels over the same rows; below each other in a narrow figure."""
    pyplot = plotting()
    costs = {
        "seconds an image": [t.seconds for t in teachers],
        "peak memory, GiB": [t.memory for t in teachers],
    }
    costs = {name: values for name, values in costs.items() if any(values)}
    wide, number, rows = width == WIDTH, 1 + len(costs), range(len(teachers))
    layout: dict[str, Any] = {"nrows": number}
    if wide:
        layout = {"ncols": number, "width_ratios": [2.2, *[1] * len(costs)], "sharey": True}
    names = [teacher.name if wide else textwrap.fill(teacher.name, 20) for teacher in teachers]
    lines = sum(name.count("\n") / 2 + 1 for name in names)
    height = (0.24 * lines + 0.9) * (1 if wide else number)
    figure, axes = pyplot.subplots(
        figsize=(width, height), layout="constrained", squeeze=False, **layout
    )
    for row in rows:
        values = [value for value in teachers[row].scores.values() if value is not None]
        if values:
            axes.flat[0].plot([min(values), max(values)], [row, row], color="0.8", zorder=1)
    for measure, (colour, marker) in _STYLES.items():
        points = [(teacher.scores[measure], row) for row, teacher in enumerate(teachers)]
        points = [point for point in points if point[0] is not None]
        if points:
            label = "all classes" if measure == "mIoU" else measure
            axes.flat[0].scatter(*zip(*points, strict=True), 26, colour, marker, label=label)
    axes.flat[0].set_title("mIoU, %")
    for ax, (name, values) in zip(axes.flat[1:], costs.items(), strict=True):
        bars = ax.barh(rows, [value or 0 for value in values], 0.6, color=GREY)
        digits = [".2g" if (value or 0) < 10 else ".0f" for value in values]
        texts = ["-" if v is None else f"{v:{d}}" for v, d in zip(values, digits, strict=True)]
        ax.bar_label(bars, texts, padding=3, fontsize=8)
        ax.set_title(name)
        ax.margins(x=0.3)
    for ax in axes.flat:
        ax.set_yticks(rows, names)
        ax.set_ylim(len(teachers) - 0.5, -0.5)
        low, high = ax.get_xlim()
        ax.set_xlim(min(low, 0) if ax is axes.flat[0] else 0, high)
    figure.legend(loc="outside upper center", ncols=3)
    return figure


def side_by_side(
    teachers: list[Teacher], suite: Suite, title: str, images: int | Sequence[str], out: Path
) -> Figure:
    """Rows of image, ground truth and the masks of a few teachers; as many galleries as needed."""
    name = f"teachers_{suite.slug}_masks"
    figure = Figure(name, title, "")
    here = [teacher for teacher in teachers if (teacher.folder / "meta.json").is_file()]
    if not here:
        return figure._replace(missing=(Missing(f"the masks of {suite.folder}: no folder here"),))
    meta = here[0].folder / "meta.json"
    config = config_from_dict(read_json(meta).get("config", {}), str(meta))
    try:
        split_data = open_split(config, str(suite.content.get("split")))
        shown = chosen(split_data, images)
    except InputError as error:
        return figure._replace(missing=(Missing(f"the images of {suite.label}: {error}"),))
    number = -(-len(here) // _MOST)
    parts = [here[i * len(here) // number : (i + 1) * len(here) // number] for i in range(number)]
    galleries, paths = [], []
    for i, part in enumerate(parts, 1):
        columns = [Column(t.name, t.folder, (t.scores["mIoU"] or 0) / 100) for t in part]
        paths.append(out / f"{name}{f'_{i}' * (number > 1)}.png")
        galleries.append(save_gallery(paths[-1], compared(split_data, shown, columns)))
    rule = "evenly spaced" if isinstance(images, int) else "as asked for"
    caption = (
        f"Masks made with each image's labels; mIoU in % over the whole split. Images: {rule}."
    )
    return figure._replace(
        caption=caption,
        images=tuple(paths),
        galleries=tuple(galleries),
        data=save_data(out, name, {"images": shown, "folders": [str(t.folder) for t in here]}),
    )
