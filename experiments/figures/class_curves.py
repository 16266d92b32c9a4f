"""Over training: how consistent a class is, and the weight of its inconsistent pixels."""

from functools import partial
from pathlib import Path
from typing import Any

from datasets.labels import load_classes
from experiments.figures.curves import suite_curves
from experiments.figures.panels import Curve, Quantity, arrange, grid
from experiments.figures.rare_classes import changes_of
from experiments.figures.runs import Suite
from experiments.figures.style import Figure, save_data, save_figure
from utils.config import load_config
from utils.safe.errors import InputError

_NAME, _TITLE = "class_curves", "What becomes of classes during training"
_SHOWN = 3  # classes


def draw(suites: list[Suite], out: Path) -> list[Figure]:
    """A figure for each row `against` which others of its suite may lose classes."""
    figures = (
        _figure(suite, plain, others, out)
        for suite in suites
        for plain, others in suite.against.items()
    )
    return [figure for figure in figures if figure]


def _figure(suite: Suite, plain: str, others: list[str], out: Path) -> Figure | None:
    rows = suite.content["rows"]
    try:
        names = load_classes(load_config(suite.content.get("config", "")).class_file).names
    except InputError:  # the logs have numbers of classes, no names
        return None
    classes = most_changed(rows, plain, others)
    curves = [
        with_classes(curve, names, rows[curve.label]["settings"])
        for curve in suite_curves(suite)
        if curve.label in (plain, *others)
    ]
    right = {
        name: value.get("precision")
        for name, value in (suite.content.get("pseudo_masks") or {}).get("classes", {}).items()
    }
    quantities = {}
    for name in classes:
        of_masks = f" (masks right: {right[name]:.0%})" if right.get(name) is not None else ""
        title = f"{name}{of_masks}:\nconsistent, % of its masks"
        quantities[title] = (Quantity("", f"consistent {name}", 100),)
    for name in classes:
        quantities[f"{name}: weight where inconsistent"] = (Quantity("", f"weight {name}"),)
    panels = arrange(curves, quantities)
    if not panels.content:
        return None
    caption = (
        f"The classes that a row loses most of, against {plain}. Above: share of the pixels with "
        "the class's mask where mask and prediction agree. Below: weight of the other ones in the "
        "loss, w or that of the class. Neighbouring log lines are averaged; means over the seeds, "
        "with bands from the least to the greatest. Masks right: precision of the stored masks of "
        "the scored split."
    )
    name = f"{_NAME}_{suite.slug}{suite.group(plain)}"
    return Figure(
        name,
        f"{_TITLE} ({suite.label})",
        caption,
        save_figure(partial(grid, panels), out, name),
        save_data(out, name, {"against": plain, "curves": panels.content}),
    )


def most_changed(rows: dict[str, dict[str, Any]], plain: str, others: list[str]) -> list[str]:
    """The classes that any row loses most against `plain`, the worst first."""
    worst: dict[str, float] = {}
    for row in changes_of(rows, plain, others):
        for name, change in row.change.items():
            if change is not None:
                worst[name] = min(change, worst.get(name, change))
    return sorted(worst, key=worst.__getitem__)[:_SHOWN]


def with_classes(curve: Curve, names: list[str], settings: dict[str, Any]) -> Curve:
    """The curve with "consistent <class>" and "weight <class>" in each log line that has them."""
    logs = []
    for log in curve.logs:
        lines = []
        for line in log:
            of_masks, agree = line.get("class_mask") or (), line.get("class_consistent") or ()
            if len(of_masks) == len(agree) == len(names):
                shares = zip(names, agree, of_masks, strict=True)
                line = line | {f"consistent {name}": a / m for name, a, m in shares if m}
            weights = line.get("class_w")
            if weights is None and "w" in line and settings.get("region_balance") != "confidence":
                weights = [line["w"]] * len(names)
            if weights is not None and len(weights) == len(names):
                line = line | {f"weight {n}": w for n, w in zip(names, weights, strict=True)}
            lines.append(line)
        logs.append(lines)
    return curve._replace(logs=logs)
