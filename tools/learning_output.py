"""What tools/learning_curves.py leaves behind beside curves.json: its table and its picture."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets.labels import ClassTable
from utils.errors import InputError
from utils.files import replacing

Points = list[tuple[float, float]]  # (step, value)

# Okabe and Ito's, which colour-blind readers tell apart; from the eighth label on dashed.
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES = ("-", "--", ":")
_MOST_POINTS = 100  # of a log curve: more is noise at the size of a panel


def percent(value: float | None) -> str:
    """Of 0..1, two decimals; '-' where there is no value."""
    return "-" if value is None else f"{100 * value:.2f}"


def write_csv(path: Path, runs: list[dict[str, Any]], classes: ClassTable) -> None:
    """One line for each checkpoint; empty cells where there is no value."""
    columns = ["step", "epoch", "miou", "miou_small", "miou_large"]
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "folder", *columns, *(f"IoU {name}" for name in classes.names)])
        for run in runs:
            for point in run["points"]:
                numbers = [point[key] for key in columns] + list(point["iou"].values())
                writer.writerow([run["label"], run["folder"], *numbers])


def draw(
    path: Path, runs: list[dict[str, Any]], logs: list[list[dict[str, Any]]], classes: ClassTable
) -> None:
    """Scores, w, consistent area and the small classes' share of the prediction, over steps.

    runs: those of curves.json; logs: the lines of metrics.jsonl of each. A panel without a value
    is left out. Raises InputError without matplotlib.
    """
    try:
        import matplotlib
    except ImportError:
        raise InputError(
            f"{path.name} needs matplotlib: pip install matplotlib, then the same command again"
        ) from None
    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.lines import Line2D

    panels = panel_curves(runs, logs, classes)
    labels = list(dict.fromkeys(run["label"] for run in runs))
    styles = {
        label: {"color": _COLOURS[i % 7], "linestyle": _DASHES[i // 7 % 3]}
        for i, label in enumerate(labels)
    }
    starts = {run["carb_start"] for run in runs} - {None}
    last = max(line["step"] for log in logs for line in log)

    rows = -(-len(panels) // 3)
    figure, axes = pyplot.subplots(
        rows, 3, figsize=(9, 2.1 * rows + 0.5), layout="constrained", squeeze=False
    )
    for i, ax in enumerate(axes.flat):
        if i >= len(panels):
            ax.set_visible(False)
            continue
        title, curves = panels[i]
        for run, points in zip(runs, curves, strict=True):
            if points:
                x, y = zip(*points, strict=True)
                marker = "." if len(points) == 1 else None  # else it would not be seen
                ax.plot(x, y, linewidth=1.4, marker=marker, **styles[run["label"]])
        for start in starts:
            ax.axvline(start, color="0.4", linestyle="--", linewidth=1)
        ax.set_title(title, fontsize=10)
        if "IoU" not in title:  # scores would all lie at the top
            ax.set_ylim(bottom=0)
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=8)
        ax.set_xlim(0, last)
    epochs = {run["steps_per_epoch"] for run in runs}
    note = f" (an epoch has {epochs.pop():g})" if len(epochs) == 1 else ""
    figure.supxlabel(f"step{note}", fontsize=10)
    handles = [Line2D([], [], label=label, **styles[label]) for label in labels]
    if starts:
        handles.append(Line2D([], [], color="0.4", linestyle="--", label="CARB starts"))
    columns = 100 // (6 + max(map(len, labels)))  # about 100 letters side by side
    columns = max(1, min(len(handles), columns))
    figure.legend(handles=handles, loc="outside upper center", ncols=columns, frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=150, format="png")
    pyplot.close(figure)


def panel_curves(
    runs: list[dict[str, Any]], logs: list[list[dict[str, Any]]], classes: ClassTable
) -> list[tuple[str, list[Points]]]:
    """The title of each panel that has a value, and a curve (maybe empty) for each run."""
    split = runs[0]["split"]
    panels = [
        (title, [_scored(run, key) for run in runs])
        for key, title in (
            ("miou", f"mIoU on {split}, %"),
            ("miou_small", "mIoU of the small classes, %"),
            ("miou_large", "mIoU of the large classes, %"),
        )
    ]
    panels += [
        (title, [_logged(log, lambda line, key=key: line.get(key)) for log in logs])
        for key, title in (("balance", "weight $w$"), ("consistent_fraction", "consistent area"))
    ]
    small = [k for k, is_small in enumerate(classes.small) if is_small]
    shares = [_logged(log, lambda line: _share(line, small)) for log in logs]
    panels += [("predicted as a small class, %", shares)] if small else []
    return [(title, curves) for title, curves in panels if any(curves)]


def _scored(run: dict[str, Any], key: str) -> Points:
    values = [(point["step"], point[key]) for point in run["points"]]
    return [(step, 100 * value) for step, value in values if value is not None]


def _share(line: dict[str, Any], ks: list[int]) -> float | None:
    share = line.get("class_share")  # train_supervised.py has none
    return None if share is None else 100 * sum(share[k] for k in ks)


def _logged(log: list[dict[str, Any]], value: Callable[[dict[str, Any]], float | None]) -> Points:
    """Means of neighbouring log lines, so many that at most _MOST_POINTS are left."""
    points = [(line["step"], v) for line in log if (v := value(line)) is not None]
    size = -(-len(points) // _MOST_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), max(size, 1))]
    return [
        (sum(s for s, _ in group) / len(group), sum(v for _, v in group) / len(group))
        for group in groups
    ]
