"""What learning_curves.py leaves behind beside curves.json: its table and its picture."""

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from datasets.labels import ClassTable
from experiments.figures.panels import Panel, Track, grid, styles, thin
from experiments.figures.style import save_figure
from utils.safe.files import replacing

Points = list[tuple[float, ...]]  # (step, value)


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
    tracks = styles([run["label"] for run in runs])
    panels = [
        Panel(title, [Track(p, tracks[r["label"]]) for r, p in zip(runs, curves, strict=True)])
        for title, curves in panel_curves(runs, logs, classes)
    ]
    # scores would all lie at the top
    panels = [panel._replace(from_zero="IoU" not in panel.title) for panel in panels]
    epochs = {run["steps_per_epoch"] for run in runs}
    note = f" (an epoch has {epochs.pop():g})" if len(epochs) == 1 else ""
    starts = {run["carb_start"] for run in runs} - {None}
    save_figure(grid(panels, tracks, starts, f"step{note}"), path.parent, path.stem)


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
        for key, title in (("w", "weight w"), ("consistent_fraction", "consistent area"))
    ]
    small = [k for k, is_small in enumerate(classes.small) if is_small]
    shares = [_logged(log, lambda line: _share(line, small)) for log in logs]
    panels += [("predicted as a small class, %", shares)] if small else []
    return [(title, curves) for title, curves in panels if any(curves)]


def _scored(run: dict[str, Any], key: str) -> Points:
    values = [(point["step"], point[key]) for point in run["points"]]
    return [(step, 100 * value) for step, value in values if value is not None]


def _share(line: dict[str, Any], ks: list[int]) -> float | None:
    share = line.get("class_share")  # baselines/supervised.py has none
    return None if share is None else 100 * sum(share[k] for k in ks)


def _logged(log: list[dict[str, Any]], value: Callable[[dict[str, Any]], float | None]) -> Points:
    """Thinned out by means."""
    return thin([(line["step"], v) for line in log if (v := value(line)) is not None])
