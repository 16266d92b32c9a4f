"""Tables 1-4 of the paper, its numbers beside ours, and the tables of a README.

The paper's tables hold what was trained and scored as theirs was (cells.py says when);
all else has tables of its own (run_tables.py).
"""

import json
import shlex
from pathlib import Path

from experiments.figures.cells import (
    PAPER,
    SUPERVISED,
    Cell,
    by_settings,
    differences,
    mean_of,
    read_cells,
    why_not,
)
from experiments.figures.run_tables import class_table, other_table, suite_table
from experiments.figures.runs import Run, Suite
from experiments.figures.style import Figure, Missing, markdown, save_data
from experiments.numbers import percent, spread, suite_tables
from utils.safe.files import read_json

AUTHORS = Path("runs/authors")  # eval.py --out runs/authors/<data set>_<views>, their checkpoints
NAMES = {"cityscapes": "Cityscapes", "camvid": "CamVid", "wilddash2": "WildDash2"}
# The paper's name -> the row of Table 1 that it is.
_OURS = {"Ours": "Dual + CARB", "DeepLab-ASPP (Full supervision)": SUPERVISED}
# Of the README: where the paper's number stands.
_RESULTS = {
    "Cityscapes, Dual + CARB": ("table1", "Dual + CARB"),
    "Cityscapes, Local + CARB": ("table1", "Local + CARB"),
    "CamVid, Dual + CARB": ("table3", "Ours"),
    "WildDash2, Dual + CARB": ("table4", "Ours"),
}

Line = dict[str, list[Cell]]  # runs of equal settings but for the seed, by split


def draw(runs: list[Run], suites: list[Suite], out: Path) -> list[Figure]:
    """Tables 1-4, one for each suite, one for all other runs."""
    cells = read_cells(runs, suites)
    papers = [cell for cell in cells if not why_not(cell)]
    figures = [paper_table(name, papers, out) for name in PAPER if name.startswith("table")]
    figures += [suite_table(suite, out) for suite in suites]
    of_suites = {cell.folder.resolve() for cell in read_cells([], suites)}
    others = [c for c in cells if why_not(c) and c.folder.resolve() not in of_suites]
    return figures + ([other_table(others, out)] if others else [])


def readme_tables(runs: list[Run], suites: list[Suite], authors: Path = AUTHORS) -> dict[str, str]:
    """Marker -> Markdown: rows and contrasts of each suite under its label, and "results".

    That is not there when it would hold the paper's numbers alone.
    """
    papers = [cell for cell in read_cells(runs, suites) if not why_not(cell)]
    rows, any_here = [], False
    for title, (name, method) in _RESULTS.items():
        table, row = PAPER[name], _OURS.get(method, method)
        dataset = table["dataset"]
        path = authors / f"{dataset}_{row.split()[0].lower()}" / "metrics.json"
        theirs = read_json(path) if path.is_file() else {}
        whole = theirs.get("num_images") == PAPER["images"][dataset]["val"]
        ours = [line["val"] for line in lines(papers, dataset, row) if "val" in line]
        here = [percent(100 * theirs["miou"]) if whole else "", _value(ours[0]) if ours else ""]
        stated = percent(table["rows"][method][0])
        any_here = any_here or any(here)
        rows.append([title, stated, *(value or "not run here" for value in here)])
    head = ["val mIoU", "paper", "authors' checkpoint, our evaluation", "this code"]
    results = {"results": markdown(head, rows)} if any_here else {}
    return results | {s.label: suite_tables(s.content) for s in suites}


def paper_table(name: str, cells: list[Cell], out: Path) -> Figure:
    """One of the paper's tables; `cells`: what may stand in any of them."""
    table = PAPER[name]
    dataset, splits = table["dataset"], table["splits"]
    shown, missing, content = [], [], []
    columns: dict[str, list[Cell]] = {}
    for method, stated in table["rows"].items():
        row = method if name == "table1" else _OURS.get(method)
        found = lines(cells, dataset, row) if row else []
        for i, line in enumerate(found or [{}]):
            values = []
            for split, value in zip(splits, stated, strict=True):
                runs = line.get(split, [])
                values.append("-" if value is None or i else percent(value))
                values.append(_value(runs) if runs else "not run" if row else "-")
                if row and not runs and not i:
                    what = f"{NAMES[dataset]} {split}: {method}"
                    missing += _not_run(what, dataset, split, row, line)
                if runs:
                    columns[_column(row, split, line, i)] = runs
                content.append(_entry(method, split, None if i else value, runs))
            label = f"{method}, other settings" if i else method
            shown.append([label, *values, _settings(line) or "-"])
    head = [f"{split}: {whose}" for split in splits for whose in ("paper", "this code")]
    head = ["method", *head, *["settings of this code"] * bool(columns)]
    tables = [markdown(head, [row[: len(head)] for row in shown])]
    if columns:
        tables.append(class_table({n: [c.metrics for c in runs] for n, runs in columns.items()}))
    caption = (
        f"{table['place']} of the paper, {table['title']}: mIoU in % as stated there and of this "
        "code (last checkpoint; mean ± sample standard deviation over the seeds)."
    )
    caption += " IoU in % by class: of this code's runs, the paper gives none." * bool(columns)
    data = save_data(out, name, {"stated": table, "cells": content})
    title = f"{table['place']}: {table['title']}"
    folded = not columns  # the paper's numbers alone
    return Figure(name, title, caption, (), data, tuple(tables), tuple(missing), folded=folded)


def lines(cells: list[Cell], dataset: str, row: str) -> list[Line]:
    """Lines of a method: first that whose settings are nearest to a shipped config's.

    A seed counts once, as first given: the default row of each sweep is the row of Table 1 again.
    """
    found = []
    for line in by_settings(c for c in cells if c.config.dataset == dataset and c.row == row):
        seeds: dict[str, dict[int, Cell]] = {split: {} for split in line}
        for split, runs in line.items():
            for cell in runs:
                seeds[split].setdefault(cell.config.seed, cell)
        found.append({split: list(runs.values()) for split, runs in seeds.items()})
    return sorted(found, key=lambda line: len(differences(_first(line).config)[1]))


def _first(line: Line) -> Cell:
    return next(cells[0] for cells in line.values())


def _value(cells: list[Cell]) -> str:
    """52.0 ± 0.3 (3 seeds)."""
    seeds = f" ({len(cells)} seed{'s' * (len(cells) > 1)})"
    return spread(*mean_of(cells)) + seeds


def _settings(line: Line) -> str:
    """The shipped config that a line followed and what it changed."""
    if not line:
        return ""
    cell = _first(line)
    shipped, changed = differences(cell.config)
    bf16 = cell.metrics.get("inference", {}).get("precision") == "bf16"
    changes = [f"{key} {json.dumps(value)}" for key, value in changed.items()]
    return ", ".join([shipped, *changes, *["scored in bf16"] * bf16])


def _column(row: str, split: str, line: Line, i: int) -> str:
    changed = f", {_settings(line)}" if i else ""
    return f"{row}{', test' * (split == 'test')}{changed}"


def _entry(method: str, split: str, stated: float | None, cells: list[Cell]) -> dict:
    mean, std = mean_of(cells)
    runs = {str(cell.folder): mean_of([cell])[0] for cell in cells}
    return {"method": method, "split": split, "paper": stated, "mean": mean, "std": std} | {
        "runs": runs,
        "settings": _settings({split: cells} if cells else {}),
    }


def _not_run(what: str, dataset: str, split: str, row: str, line: Line) -> list[Missing]:
    """What fills a cell: a training, or where there is one its evaluation on another split."""
    if line and (dataset, split) == ("cityscapes", "test"):
        network = shlex.quote(f"{_first(line).folder}/last.pt")
        how = f"python eval.py --ckpt {network} --split test --export-submission FOLDER"
        return [Missing(f"{what}: the benchmark's server scores it; {how} makes its zip")]
    if line:
        command = "python eval.py --ckpt {} --split " + split
        cells = next(iter(line.values()))
        return [Missing(what, command.format(shlex.quote(f"{c.folder}/last.pt"))) for c in cells]
    if dataset != "wilddash2":
        suite = f"{dataset}_table1"
        file = f"experiments/suites/{suite}.yaml"
        command = f"python -m experiments.ablation {file} --out runs/{suite}"
    elif row == SUPERVISED:
        run = "runs/wilddash2/supervised"
        command = "python -m baselines.supervised --config configs/wilddash2.yaml "
        command += f"--run-dir {run} && "
        command += f"python eval.py --ckpt {run}/last.pt --split {split}"
    else:
        command = "bash run_wilddash2.sh"
    return [Missing(what, command)]
