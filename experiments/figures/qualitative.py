"""Fig. 7: images, ground truth, pseudo-masks and predictions; with the images that fail most.

The label maps are files: CLIP's of `gen_clip_masks.py --split`, the networks' of `eval.py
--save-predictions`. Needs no matplotlib.
"""

import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.figures.commands import evaluation
from experiments.figures.failures import draw_failures
from experiments.figures.label_sources import data_set
from experiments.figures.pictures import (
    Column,
    Pictures,
    chosen,
    compared,
    open_pictures,
    save_gallery,
    stage_title,
)
from experiments.figures.runs import TITLES, Run
from experiments.figures.style import Figure, Missing, save_data
from utils.safe.errors import InputError
from utils.safe.files import read_json

_MAPS = 4  # label maps beside image and ground truth: more are too small on a page
_TITLE = "Fig. 7: qualitative results"
_CAPTION = "The pseudo-masks are told which classes an image has, the networks are not."


def draw(runs: list[Run], split: str, images: int | Sequence[str], out: Path) -> list[Figure]:
    """Fig. 7 and the failure gallery for each data set that the runs are of.

    `images`: how many, evenly spaced over the split; or the ids of those to show. The first run of
    a data set has pseudo-masks, warm-up and CARB shown, every other one its last stage; the
    failures are those of the first run.
    """
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in runs:
        config = run.last.config
        groups.setdefault((config.dataset, config.data_root, config.class_file), []).append(run)
    figures = []
    for number, group in enumerate(groups.values(), 1):
        suffix = f"_{number}" if number > 1 else ""
        names = f"fig7_qualitative{suffix}", f"failures{suffix}"
        title = _TITLE + f" ({data_set(group[0].last.config)})" * (len(groups) > 1)
        try:
            pictures = open_pictures(group[0].last.config, split)
            shown = chosen(pictures, images)
        except InputError as error:
            missing = (Missing(f"the images of {group[0].label}: {error}"),)
            figures.append(Figure(names[0], title, "", missing=missing))
            continue
        spaced = ", evenly spaced" * isinstance(images, int)
        caption = f"Images of '{split}'{spaced}, and mIoU in % over the whole split. {_CAPTION}"
        figure = Figure(names[0], title, caption)
        figures.append(_qualitative(group, split, pictures, shown, out, figure))
        figures.append(draw_failures(group[0], split, pictures, len(shown), out, names[1]))
    return figures


def _qualitative(
    runs: list[Run],
    split: str,
    pictures: Pictures,
    names: list[str],
    out: Path,
    figure: Figure,
) -> Figure:
    columns, missing = [], []
    for column, lacking in _columns(runs, split):
        if all((column.folder / f"{name}.png").is_file() for name in names):
            columns.append(column)
        else:
            missing.append(lacking)
    files, galleries = [], []
    for i in range(0, len(columns), _MAPS):
        files.append(out / f"{figure.name}{f'_part{i // _MAPS + 1}' * (i > 0)}.png")
        rows = compared(pictures, names, columns[i : i + _MAPS])
        galleries.append(save_gallery(files[-1], rows))
    shown = [{"title": c.title, "label_maps": str(c.folder), "miou": c.miou} for c in columns]
    content = {"split": split, "images": names, "columns": shown}
    data = save_data(out, figure.name, content) if files else None
    return figure._replace(
        pictures=tuple(files), data=data, missing=tuple(missing), galleries=tuple(galleries)
    )


def _columns(runs: list[Run], split: str) -> Iterator[tuple[Column, Missing]]:
    """What should be shown beside image and ground truth, and how to get it where it is not."""
    first = runs[0]
    if "warmup" in first.stages or "carb" in first.stages:
        yield pseudo_masks(first, split)
    names = [name for name in TITLES if name in first.stages]
    shown = [(stage_title(name, first.stages[name]), first.stages[name]) for name in names]
    if len(shown) == 1 and len(runs) > 1:
        shown = [(first.label, first.last)]
    for title, stage in [*shown, *((run.label, run.last) for run in runs[1:])]:
        miou = stage.scores.get(split, {}).get("miou")
        what = f"predictions of {stage.folder} on '{split}'"
        yield (
            Column(title, stage.predictions(split), miou),
            Missing(what, evaluation(stage, split)),
        )


def pseudo_masks(run: Run, split: str) -> tuple[Column, Missing]:
    """Of run_demo.sh in the run's folder, or of a suite beside it."""
    suite = run.folder.parent / f"pseudo_masks_{split}"
    folders = [run.folder / f"masks_{split}", run.folder.parent / f"masks_{split}", suite]
    in_suite = (run.folder.parent / "ablation.json").is_file()
    folder = next((f for f in folders if f.is_dir()), suite if in_suite else folders[0])
    score = folder / "score.json"
    miou = read_json(score).get("miou") if score.is_file() else None
    config = str(run.last.folder / "config.yaml")
    command = ["python", "gen_clip_masks.py", "--config", config, "--split", split]
    command += ["--out", str(folder), "--score"]
    return (
        Column("CLIP pseudo-masks", folder, miou),
        Missing(f"CLIP's pseudo-masks of '{split}'", shlex.join(command)),
    )
