"""The confusion matrix of a run."""

from pathlib import Path
from typing import Any

import numpy as np

from experiments.figures.commands import evaluation
from experiments.figures.runs import Run
from experiments.figures.style import (
    BLUE,
    SKY,
    WIDTH,
    Figure,
    Missing,
    plotting,
    save_data,
    save_figure,
)
from utils.safe.errors import InputError

_FIGURE = Figure("confusion", "Confusion matrix", "")


def draw_confusion(run: Run, split: str, out: Path) -> Figure:
    """Rows: ground truth, normalised to 100 %; columns: prediction."""
    stage = run.last
    scores = stage.scores.get(split, {})
    if "confusion" not in scores:
        what = f"the confusion matrix of {stage.folder} on '{split}'"
        return _FIGURE._replace(missing=(Missing(what, evaluation(stage, split)),))
    names = list(scores["classes"]) if isinstance(scores.get("classes"), dict) else []
    try:
        counts = np.array(scores["confusion"], np.int64)
    except (ValueError, TypeError, OverflowError):
        counts = np.zeros(0, np.int64)
    if not names or counts.shape not in [(len(names) + more, len(names)) for more in (0, 1)]:
        raise InputError(
            f"{stage.folder}/eval_{split}/metrics.json: expected 'confusion', a row of pixel "
            f"counts for each of 'classes'; eval.py writes it: {evaluation(stage, split)}"
        )
    row_names = [*names, *["other ids"] * (len(counts) - len(names))]
    figure = _draw_matrix(percent_of_rows(counts), row_names, names)
    absent = [name for name, row in zip(row_names, counts, strict=True) if not row.any()]
    note = f" Not in the ground truth (grey): {', '.join(absent)}." if absent else ""
    return _FIGURE._replace(
        caption=f"{stage.folder} on '{split}': of the pixels of each class (row), the share in % "
        f"that is called each class (column). Empty: less than half a percent.{note}",
        pictures=save_figure(figure, out, _FIGURE.name),
        data=save_data(
            out,
            _FIGURE.name,
            {
                "run": str(stage.folder),
                "split": split,
                "rows_ground_truth": row_names,
                "columns_prediction": names,
                "pixels": counts.tolist(),
            },
        ),
    )


def percent_of_rows(counts: np.ndarray) -> np.ndarray:
    """(R,K) pixel counts -> (R,K) percent of each row; NaN for a row without pixels."""
    sums = counts.sum(1, keepdims=True)
    return np.where(sums > 0, 100 * counts / np.maximum(sums, 1), np.nan)


def colour_map() -> Any:
    """White to dark blue, in even steps of CIE lightness: the same to all eyes, and in print."""
    from matplotlib.colors import LinearSegmentedColormap

    places = ((0, "white"), (0.351, SKY), (0.627, BLUE), (1, "#00263f"))
    return LinearSegmentedColormap.from_list("blues", places).with_extremes(bad="0.8")


def _draw_matrix(percent: np.ndarray, row_names: list[str], names: list[str]) -> Any:
    pyplot = plotting()
    cell = min(0.6, 7.4 / len(names))  # inches
    figure, axes = pyplot.subplots(
        figsize=(WIDTH, 1.4 + cell * len(row_names)), layout="constrained"
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
