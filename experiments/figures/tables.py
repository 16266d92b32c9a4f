"""Tables 1-4 of the paper with its numbers beside this code's, and the tables of a README.

The paper's tables hold only runs that are comparable with it (see `exclusion_reason`); other runs
have separate tables.
"""

import json
import shlex
from pathlib import Path
from typing import Any

from experiments.figures.commands import training
from experiments.figures.runs import DATA_SETS, Run, Suite
from experiments.figures.scored_runs import (
    PAPER,
    SUPERVISED,
    ScoredRun,
    by_settings,
    differences,
    exclusion_reason,
    read_scored_runs,
    scores_over_seeds,
)
from experiments.figures.style import Figure, Missing, count, markdown, save_data
from experiments.methods import PAPERS_NAMES, PREDICTS
from experiments.numbers import (
    MEASURES,
    Mean,
    class_table,
    in_percent,
    iou_by_class,
    percent,
    spread,
    suite_tables,
)
from experiments.suite_file import as_arguments
from utils.safe.files import read_json

# Scores of the official checkpoints: eval.py --out runs/official/<data set>_<views>.
OFFICIAL = Path("runs/official")
# The paper's name -> the row's name in Table 1.
_OURS = {"Ours": "Dual + CARB", "DeepLab-ASPP (Full supervision)": SUPERVISED}
# Row of the README -> table and row of the paper.
_RESULTS = {
    "Cityscapes, Dual + CARB": ("table1", "Dual + CARB"),
    "Cityscapes, Local + CARB": ("table1", "Local + CARB"),
    "CamVid, Dual + CARB": ("table3", "Ours"),
    "WildDash2, Dual + CARB": ("table4", "Ours"),
}
_OUR_DESIGN = (
    f" {PAPERS_NAMES['clustering']}: here a clustering of regions of our own design, after their "
    "abstract; they published no code."
)

Line = dict[str, list[ScoredRun]]  # runs of equal settings but for the seed, by split


def draw(runs: list[Run], suites: list[Suite], out: Path) -> list[Figure]:
    """Tables 1-4 of the paper, a table for each suite, and one for all other runs."""
    scored = read_scored_runs(runs, suites)
    papers = [run for run in scored if not exclusion_reason(run)]
    figures = [paper_table(name, papers, out) for name in PAPER if name.startswith("table")]
    figures += [suite_table(suite, out) for suite in suites]
    of_suites = {run.folder.resolve() for run in read_scored_runs([], suites)}
    others = [r for r in scored if r not in papers and r.folder.resolve() not in of_suites]
    return figures + ([other_table(others, out)] if others else [])


def readme_tables(runs: list[Run], suites: list[Suite], scores: Path = OFFICIAL) -> dict[str, str]:
    """Marker -> Markdown: rows and contrasts of each suite under its label, and "results", which
    is left out if it would hold only the paper's numbers."""
    papers = [run for run in read_scored_runs(runs, suites) if not exclusion_reason(run)]
    rows, any_here = [], False
    for title, (name, method) in _RESULTS.items():
        table, row = PAPER[name], _OURS.get(method, method)
        dataset = table["dataset"]
        path = scores / f"{dataset}_{row.split()[0].lower()}" / "metrics.json"
        official = read_json(path) if path.is_file() else {}
        whole = official.get("num_images") == PAPER["images"][dataset]["val"]
        ours = [line["val"] for line in lines(papers, dataset, row) if "val" in line]
        here = [
            percent(in_percent(official["miou"])) if whole else "",
            _value(ours[0]) if ours else "",
        ]
        stated = percent(table["rows"][method][0])
        any_here = any_here or any(here)
        rows.append([title, stated, *(value or "not run here" for value in here)])
    head = ["val mIoU", "paper", "official checkpoint, this evaluation", "this code"]
    results = {"results": markdown(head, rows)} if any_here else {}
    return results | {s.label: suite_tables(s.content) for s in suites}


def suite_table(suite: Suite, out: Path) -> Figure:
    """Rows, contrasts and IoU by class of a suite."""
    content, rows = suite.content, suite.content["rows"]
    found = read_scored_runs([], [suite])
    reasons = {reason for run in found for reason in exclusion_reason(run).split("; ") if reason}
    scored = {name: list(row["metrics"].values()) for name, row in rows.items() if row["metrics"]}
    first = next((metrics[0] for metrics in scored.values()), {})
    settings = ", ".join(as_arguments(content.get("settings", {}))[1::2])
    caption = (
        f"{content.get('config', '')}{' with ' * bool(settings)}{settings}; split "
        f"{content.get('split')} ({first.get('num_images', '?')} images). "
    )
    if suite.trains:
        caption += (
            "mIoU in %: mean ± sample standard deviation over the seeds, then the mIoU of each "
            "seed. The contrasts below are differences of runs with the same seed. IoU by class "
            "in %: mean over the seeds."
        )
    else:
        caption += "mIoU in % of masks made with each image's labels; contrasts and IoU by class."
    if reasons:
        caption += f" Not comparable with the paper's numbers: {'; '.join(sorted(reasons))}."
    elif suite.trains and not found:
        caption += " Not in the paper's tables: the run folders are not here."
    left = [name for name, row in rows.items() if not row["metrics"]]
    name = f"suite_{suite.slug}"
    means = {row: {"mean": v.get("mean"), "std": v.get("std")} for row, v in rows.items()}
    data = {"suite": str(suite.folder), "rows": means, "contrasts": content.get("contrasts", {})}
    return Figure(
        name,
        f"Results of {suite.label}",
        caption,
        data=save_data(out, name, data | {"iou_by_class": _classes(scored)}),
        tables=(suite_tables(content), *[class_table(scored)] * bool(scored)),
        missing=(Missing(f"rows not run: {'; '.join(left)}", training(suite, left)),) * bool(left),
        leads=bool(scored),
    )


def other_table(runs: list[ScoredRun], out: Path) -> Figure:
    """Runs that are not comparable with the paper, and why; seeds are averaged."""
    rows, content, columns = [], [], {}
    groups = [(split, found) for one in by_settings(runs) for split, found in one.items()]
    for split, found in groups:
        first = found[0]
        label = ", ".join(dict.fromkeys(run.label for run in found))
        where = f"{first.config.dataset} {split} ({first.metrics.get('num_images')} images)"
        means, reason = scores_over_seeds(found), exclusion_reason(first)
        scores = [spread(*mean) for mean in means.values()]
        rows.append([label, first.row, where, len(found), *scores, reason])
        column = f"{label}: {first.row}"
        column += f" ({len(columns)})" * (column in columns)  # e.g. of another split
        columns[column] = [run.metrics for run in found]
        content.append(
            {"runs": [str(run.folder) for run in found], "row": first.row, "split": split}
            | {heading: mean._asdict() for heading, mean in means.items()}
            | {"other_than_the_paper": reason}
        )
    head = ["run", "method", "scored on", "seeds", *MEASURES, "differs from the paper in"]
    caption = (
        "mIoU in % (mean ± sample standard deviation over runs that differ only in the seed) and "
        "IoU in % by class, mean over the seeds. The paper's numbers are comparable only if data, "
        "masks, networks and evaluation are the same."
    )
    return Figure(
        "other_runs",
        "All numbers of these runs",
        caption,
        data=save_data(out, "other_runs", {"lines": content, "iou_by_class": _classes(columns)}),
        tables=(markdown(head, rows), class_table(columns)),
        # Without a mean over several runs, the page shows these numbers elsewhere.
        folded=all(len(found) == 1 for _, found in groups),
    )


def _classes(networks: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """`iou_by_class` for a JSON file."""
    return {
        network: {name: mean._asdict() for name, mean in found.items()}
        for network, found in iou_by_class(networks).items()
    }


def paper_table(name: str, comparable: list[ScoredRun], out: Path) -> Figure:
    """One of the paper's tables; `comparable`: the runs that may be in any of them."""
    table = PAPER[name]
    dataset, splits = table["dataset"], table["splits"]
    rows, missing, content = [], [], []
    columns: dict[str, list[dict[str, Any]]] = {}  # of the table of IoU by class
    for method, stated in table["rows"].items():
        row = method if name == "table1" else _OURS.get(method, method)
        found = lines(comparable, dataset, row)
        for i, line in enumerate(found or [{}]):
            values, settings = [], _settings(line)
            for split, value in zip(splits, [None] * len(stated) if i else stated, strict=True):
                runs = line.get(split, [])
                stands = value is not None  # or the paper has no number either
                values += [percent(value), _value(runs) if runs else "not run" if stands else "-"]
                if not runs and stands:
                    what = f"{DATA_SETS[dataset]} {split}: {method}"
                    missing += _not_run(what, name, split, row, line)
                if runs:
                    column = f"{row}{', test' * (split == 'test')}{f', {settings}' * (i > 0)}"
                    columns[column] = [run.metrics for run in runs]
                content.append(_entry(method, split, value, runs))
            rows.append([f"{method}{', other settings' * (i > 0)}", *values, settings or "-"])
    head = [f"{split}: {whose}" for split in splits for whose in ("paper", "this code")]
    head = ["method", *head, *["settings of this code"] * bool(columns)]
    caption = (
        f"{table['place']} of the paper, {table['title']}: mIoU in % of the paper and of this code "
        "(last checkpoint; mean ± sample standard deviation over the seeds)."
    )
    caption += " IoU by class in %: of this code; the paper gives none." * bool(columns)
    caption += _OUR_DESIGN * any(
        column.startswith(PAPERS_NAMES["clustering"]) for column in columns
    )
    return Figure(
        name,
        f"{table['place']}: {table['title']}",
        caption,
        data=save_data(out, name, {"stated": table, "cells": content}),
        tables=(
            markdown(head, [row[: len(head)] for row in rows]),
            *([class_table(columns)] if columns else []),
        ),
        missing=tuple(missing),
        folded=not columns,  # only the paper's numbers
    )


def lines(runs: list[ScoredRun], dataset: str, row: str) -> list[Line]:
    """Lines of a method, the one with settings nearest to a shipped config first.

    Each seed counts once: the default row of a sweep repeats the row of Table 1.
    """
    found = []
    for line in by_settings(r for r in runs if r.config.dataset == dataset and r.row == row):
        once: Line = {}
        for split, scored in line.items():
            seeds = {run.config.seed: run for run in reversed(scored)}
            once[split] = [run for run in scored if seeds[run.config.seed] is run]
        found.append(once)
    return sorted(found, key=lambda line: len(differences(_first(line).config)[1]))


def _first(line: Line) -> ScoredRun:
    return next(runs[0] for runs in line.values())


def _value(runs: list[ScoredRun]) -> str:
    """'52.0 ± 0.3 (3 seeds)'."""
    return f"{spread(*_miou(runs))} ({count(len(runs), 'seed')})"


def _miou(runs: list[ScoredRun]) -> Mean:
    return scores_over_seeds(runs)["mIoU"]


def _settings(line: Line) -> str:
    """The shipped config nearest to a line, and the values that differ from it."""
    if not line:
        return ""
    run = _first(line)
    shipped, changed = differences(run.config)
    bf16 = run.metrics.get("inference", {}).get("precision") == "bf16"
    changes = [f"{key} {json.dumps(value)}" for key, value in changed.items()]
    return ", ".join([shipped, *changes, *["scored in bf16"] * bf16])


def _entry(method: str, split: str, stated: float | None, runs: list[ScoredRun]) -> dict[str, Any]:
    entry = {"method": method, "split": split, "paper": stated} | _miou(runs)._asdict()
    return entry | {
        "runs": {str(run.folder): _miou([run]).mean for run in runs},
        "settings": _settings({split: runs} if runs else {}),
    }


def _not_run(what: str, table: str, split: str, row: str, line: Line) -> list[Missing]:
    """The command that fills a cell: a training, or the evaluation of an existing one."""
    dataset = PAPER[table]["dataset"]
    runs = [run for run in next(iter(line.values()), []) if run.stage not in PREDICTS]
    networks = [shlex.quote(f"{run.folder}/last.pt") for run in runs]
    if networks and (dataset, split) == ("cityscapes", "test"):
        how = f"python eval.py --ckpt {networks[0]} --split test --export-submission FOLDER"
        return [Missing(f"{what}: the benchmark server scores a zip; make it: {how}")]
    if networks:
        return [Missing(what, f"python eval.py --ckpt {n} --split {split}") for n in networks]
    of_method = row in PAPERS_NAMES.values()
    if of_method or dataset != "wilddash2":
        suite = f"{dataset}_{table if of_method else 'table1'}"
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
