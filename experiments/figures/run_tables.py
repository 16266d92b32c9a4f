"""Tables of suites and of runs on other data than the paper's; and IoU by class."""

from pathlib import Path
from typing import Any

from experiments.figures.cells import Cell, by_settings, mean_of, read_cells, why_not
from experiments.figures.commands import training
from experiments.figures.runs import Suite
from experiments.figures.style import Figure, Missing, markdown, save_data
from experiments.numbers import MEASURES, mean_std, percent, spread, suite_tables
from experiments.suite_file import as_arguments


def suite_table(suite: Suite, out: Path) -> Figure:
    """Rows, contrasts and IoU by class of a suite."""
    content, rows = suite.content, suite.content["rows"]
    cells = read_cells([], [suite])
    reasons = sorted({reason for cell in cells for reason in why_not(cell).split("; ") if reason})
    scored = {name: list(row["metrics"].values()) for name, row in rows.items() if row["metrics"]}
    first = next((metrics[0] for metrics in scored.values()), {})
    settings = ", ".join(as_arguments(content.get("settings", {}))[1::2])
    caption = (
        f"{content.get('config', '')}{' with ' * bool(settings)}{settings}; split "
        f"{content.get('split')} ({first.get('num_images', '?')} images). mIoU in %: mean ± sample "
        "standard deviation over the seeds, then seed by seed; below each contrast is taken seed "
        "by seed, then IoU in % by class, mean over the seeds."
    )
    if reasons:
        caption += f" Not to be compared with the paper's numbers: {'; '.join(reasons)}."
    elif not cells:
        caption += " Not among the paper's numbers: the runs' folders are not here."
    tables = [suite_tables(content)] + [class_table(scored)] * bool(scored)
    left = ", ".join(name for name, row in rows.items() if not row["metrics"])
    missing = (Missing(f"rows not run: {left}", training(suite)),) if left else ()
    name = f"suite_{suite.slug}"
    means = {row: {"mean": v.get("mean"), "std": v.get("std")} for row, v in rows.items()}
    data = {"suite": str(suite.folder), "rows": means, "contrasts": content.get("contrasts", {})}
    path = save_data(out, name, data | {"iou_by_class": _classes(scored)})
    title = f"Results of {suite.label}"
    return Figure(name, title, caption, (), path, tuple(tables), missing, leads=bool(scored))


def other_table(cells: list[Cell], out: Path) -> Figure:
    """Runs that can't be compared with the paper's numbers, and why; seeds together."""
    shown, content, columns = [], [], {}
    for group in by_settings(cells):
        for split, found in group.items():
            label = ", ".join(dict.fromkeys(cell.label for cell in found))
            images = found[0].metrics.get("num_images")
            values = {heading: mean_of(found, key) for heading, key in MEASURES.items()}
            where = f"{found[0].config.dataset} {split} ({images} images)"
            scores = [spread(*value) for value in values.values()]
            reason = why_not(found[0])
            shown.append([label, found[0].row, where, len(found), *scores, reason])
            column = f"{label}: {found[0].row}"
            column += f" ({len(columns)})" * (column in columns)  # of another split, say
            columns[column] = [cell.metrics for cell in found]
            content.append(
                {"runs": [str(cell.folder) for cell in found], "row": found[0].row, "split": split}
                | {
                    heading: dict(zip(("mean", "std"), v, strict=True))
                    for heading, v in values.items()
                }
                | {"other_than_the_paper": reason}
            )
    head = ["run", "method", "scored on", "seeds", *MEASURES, "other than in the paper"]
    tables = (markdown(head, shown), class_table(columns))
    caption = (
        "mIoU in % (mean ± sample standard deviation over runs that differ in the seed only) and "
        "IoU in % by class, mean over the seeds. They compare with the paper's only where data, "
        "masks, networks and evaluation are the same."
    )
    data = save_data(out, "other_runs", {"lines": content, "iou_by_class": _classes(columns)})
    # where no mean is over several runs, the page has shown these numbers
    shown_before = all(len(line["runs"]) == 1 for line in content)
    title = "All numbers of these runs"
    return Figure("other_runs", title, caption, (), data, tables, folded=shown_before)


def class_table(columns: dict[str, list[dict[str, Any]]]) -> str:
    """Markdown: a line for each class; a column for each network, with its runs' metrics.json."""
    values = _classes(columns)
    names = list(dict.fromkeys(name for iou in values.values() for name in iou))
    rows = [
        [name, *(percent(values[column].get(name, {}).get("mean")) for column in columns)]
        for name in names
    ]
    rows.append(["**mean**", *(percent(_miou(metrics)) for metrics in columns.values())])
    return "**IoU by class**\n\n" + markdown(["class", *columns], rows)


def _miou(metrics: list[dict[str, Any]]) -> float | None:
    return mean_std(100 * m["miou"] if m.get("miou") is not None else None for m in metrics)[0]


def _classes(columns: dict[str, list[dict[str, Any]]]) -> dict[str, dict[str, dict[str, Any]]]:
    """Column -> class -> mean and sample standard deviation of its IoU in percent."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for column, runs in columns.items():
        found[column] = {}
        for name in dict.fromkeys(name for metrics in runs for name in metrics.get("classes", {})):
            ious = [metrics.get("classes", {}).get(name, {}).get("iou") for metrics in runs]
            mean, std = mean_std(None if iou is None else 100 * iou for iou in ious)
            found[column][name] = {"mean": mean, "std": std}
    return found
