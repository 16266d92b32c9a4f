"""The IoU of every class in all runs, and the confusion matrix of the first."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.labels import load_classes
from experiments.figures.commands import evaluation, not_evaluated
from experiments.figures.runs import Run, Stage, data_set
from experiments.figures.style import (
    BLUE,
    COLOURS,
    GREY,
    SKY,
    WIDTH,
    Figure,
    plotting,
    save_data,
    save_figure,
)
from utils.safe.errors import InputError

_BARS = Figure("class_iou", "IoU of every class", "")
_CONFUSION = Figure("confusion", "Confusion matrix", "")
_BAR = 0.13  # inches
_VALUE = (int, float, type(None))  # None: a class that occurs nowhere has no IoU


class Scored(NamedTuple):
    """A stage with its numbers on one split."""

    label: str
    stage: Stage
    scores: dict[str, Any]  # metrics.json


class Class(NamedTuple):
    name: str
    share: float  # of the labelled pixels, in percent
    is_small: bool


def draw(runs: list[Run], split: str, out: Path) -> list[Figure]:
    """The confusion matrix of the first run's last stage; IoU bars of all scored stages."""
    return [draw_confusion(runs[0], split, out), *_draw_all_bars(runs, split, out)] if runs else []


def _draw_all_bars(runs: list[Run], split: str, out: Path) -> list[Figure]:
    """One figure for each set of classes among the runs."""
    missing = tuple(
        not_evaluated(run.last, split, "the scores") for run in runs if split not in run.last.scores
    )
    groups: dict[tuple[str, ...], list[Scored]] = {}
    for scored in scored_stages(runs, split):
        groups.setdefault(tuple(scored.scores["classes"]), []).append(scored)
    figures = []
    for number, group in enumerate(groups.values(), 1):
        name = _BARS.name + (f"_{number}" if number > 1 else "")
        of = f" ({data_set(group[0].stage.config)})" * (len(groups) > 1)
        figure = draw_bars(group, split, out, name)
        figures.append(figure._replace(title=figure.title + of))
    first, *others = figures or [_BARS]
    return [first._replace(missing=missing), *others]


def scored_stages(runs: list[Run], split: str) -> list[Scored]:
    """Every scored stage, labelled "RUN: STAGE" if its run has several stages."""
    found = []
    for run in runs:
        for title, stage in run.titled.items():
            label = run.label if len(run.stages) == 1 else f"{run.label}: {title}"
            if split in stage.scores:
                check(stage, split)
                found.append(Scored(label, stage, stage.scores[split]))
    return found


def check(stage: Stage, split: str) -> None:
    """Raise InputError when scores lack the values to plot: another version's, or edited."""
    scores = stage.scores[split]
    rows = scores.get("classes")
    good = isinstance(rows, dict) and rows and isinstance(scores.get("miou", ""), _VALUE)
    for row in rows.values() if good else ():
        good &= isinstance(row, dict) and isinstance(row.get("iou", ""), _VALUE)
        good &= isinstance(row, dict) and isinstance(row.get("ground_truth"), int)
    if not good:
        raise InputError(
            f"{stage.folder}/eval_{split}/metrics.json: expected 'miou', and 'iou' and "
            "'ground_truth' for each of 'classes'; write it again: "
            f"{evaluation(stage, split)}"
        )


def draw_bars(scored: list[Scored], split: str, out: Path, name: str) -> Figure:
    """IoU bars, classes by their share of the labelled pixels; as many images as needed."""
    try:
        table = load_classes(scored[0].stage.config.class_file)
        small = dict(zip(table.names, table.small, strict=True))
    except InputError:  # the numbers are useful without the class file
        small = {}
    pixels = {key: row["ground_truth"] for key, row in scored[0].scores["classes"].items()}
    whole = max(sum(pixels.values()), 1)
    classes = [Class(key, 100 * n / whole, bool(small.get(key))) for key, n in pixels.items()]
    classes.sort(key=lambda one: -one.share)
    images: tuple[Path, ...] = ()
    for i in range(0, len(scored), len(COLOURS)):
        drawing = partial(_draw_bars, scored[i : i + len(COLOURS)], classes)
        part = f"_part{i // len(COLOURS) + 1}" * (i > 0)
        images += save_figure(drawing, out, name + part)
    caption = f"IoU in % on '{split}'; classes by their share of the labelled pixels (in brackets)."
    caption += " Small classes are marked with a dot." * any(one.is_small for one in classes)
    content = [
        {"class": key, "percent_of_pixels": share, "small": is_small}
        | {"iou": {one.label: one.scores["classes"][key]["iou"] for one in scored}}
        for key, share, is_small in classes
    ]
    data = save_data(out, name, {"split": split, "classes": content})
    return Figure(name, _BARS.title, caption, images, data)


def _draw_bars(scored: list[Scored], classes: list[Class], width: float) -> Any:
    pyplot = plotting()
    columns = min(3, len(scored)) if width == WIDTH else 1  # of the legend
    group = _BAR * len(scored) + 0.1  # inches per class
    height = 0.8 + max(group, 0.22) * len(classes) + 0.2 * -(-len(scored) // columns)
    figure, axes = pyplot.subplots(figsize=(width, height), layout="constrained")
    thick = _BAR / max(group, 0.22)
    places = np.arange(len(classes))
    for i, (one, colour) in enumerate(zip(scored, COLOURS, strict=False)):
        rows = one.scores["classes"]
        iou = 100 * np.array([rows[shown.name]["iou"] for shown in classes], float)  # None: NaN
        at = places + (i - (len(scored) - 1) / 2) * thick
        miou = one.scores["miou"]
        label = one.label if miou is None else f"{one.label} (mIoU {100 * miou:.1f})"
        axes.barh(at, iou, thick * 0.92, color=colour, label=label)
        for y, value in zip(at, iou, strict=True):
            text = "–" if np.isnan(value) else f"{value:.1f}"
            where = 0.4 if np.isnan(value) else value + 0.4
            size = 7 if width == WIDTH else 8.5
            axes.text(where, y, text, va="center", fontsize=size, color=GREY)
    axes.set_yticks(places, [f"{'● ' * c.is_small}{c.name} ({_share(c.share)})" for c in classes])
    limit = 105 if width == WIDTH else 118
    axes.set(xlabel="IoU in %", xlim=(0, limit), ylim=(len(classes) - 0.5, -0.5))
    axes.tick_params(axis="y", length=0)
    figure.legend(loc="outside upper left", ncols=columns)
    return figure


def _share(percent: float) -> str:
    return f"{percent:.1f} %" if percent >= 0.1 else f"{percent:.2g} %"


def draw_confusion(run: Run, split: str, out: Path) -> Figure:
    """The confusion matrix of a run's last stage: each row of ground truth sums to 100 %."""
    stage = run.last
    scores = stage.scores.get(split, {})
    if "confusion" not in scores:
        return _CONFUSION._replace(missing=(not_evaluated(stage, split, "the confusion matrix"),))
    names = list(scores["classes"]) if isinstance(scores.get("classes"), dict) else []
    try:
        counts = np.array(scores["confusion"], np.int64)
    except (ValueError, TypeError, OverflowError):
        counts = np.zeros(0, np.int64)
    if not names or counts.shape not in [(len(names) + more, len(names)) for more in (0, 1)]:
        raise InputError(
            f"{stage.folder}/eval_{split}/metrics.json: expected 'confusion', a row of pixel "
            f"counts for each of 'classes'; write it again: {evaluation(stage, split)}"
        )
    row_names = [*names, *["other ids"] * (len(counts) - len(names))]
    drawing = partial(_draw_matrix, percent_of_rows(counts), row_names, names)
    absent = [name for name, row in zip(row_names, counts, strict=True) if not row.any()]
    note = f" Not in the ground truth (grey): {', '.join(absent)}." if absent else ""
    content = {
        "run": str(stage.folder),
        "split": split,
        "rows_ground_truth": row_names,
        "columns_prediction": names,
        "pixels": counts.tolist(),
    }
    return _CONFUSION._replace(
        caption=f"{stage.folder} on '{split}': share in % of each class's pixels (row) that is "
        f"predicted as each class (column). Empty: less than half a percent.{note}",
        images=save_figure(drawing, out, _CONFUSION.name, for_phones=False),
        data=save_data(out, _CONFUSION.name, content),
    )


def percent_of_rows(counts: np.ndarray) -> np.ndarray:
    """(R,K) pixel counts -> (R,K) percent of each row; NaN for a row without pixels."""
    sums = counts.sum(1, keepdims=True)
    return np.where(sums > 0, 100 * counts / np.maximum(sums, 1), np.nan)


def colour_map() -> Any:
    """White to dark blue in even steps of CIE lightness, which also works in print."""
    from matplotlib.colors import LinearSegmentedColormap

    places = ((0, "white"), (0.351, SKY), (0.627, BLUE), (1, "#00263f"))
    return LinearSegmentedColormap.from_list("blues", places).with_extremes(bad="0.8")


def _draw_matrix(percent: np.ndarray, row_names: list[str], names: list[str], width: float) -> Any:
    pyplot = plotting()
    cell = min(0.6, 7.4 / len(names))  # inches
    figure, axes = pyplot.subplots(
        figsize=(width, 1.4 + cell * len(row_names)), layout="constrained"
    )
    axes.imshow(percent, cmap=colour_map(), vmin=0, vmax=100)
    size = min(9, 0.42 * 72 * cell)
    for row, column in zip(*np.nonzero(percent >= 0.5), strict=True):
        value = percent[row, column]
        ink = "white" if value > 45 else "black"
        axes.text(column, row, f"{value:.0f}", ha="center", va="center", color=ink, fontsize=size)
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(row_names)), row_names)
    axes.set_xlabel("prediction", labelpad=8)
    axes.set_ylabel("ground truth", labelpad=8)
    axes.spines[:].set(visible=True, color="0.7")
    axes.tick_params(length=0)
    return figure
