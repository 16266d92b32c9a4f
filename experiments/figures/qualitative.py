"""Fig. 7: images, ground truth, pseudo-masks and predictions; and the images with the worst scores.

The label maps are files: pseudo-masks of `gen_clip_masks.py --split` and predictions of `eval.py
--save-predictions`. Needs no matplotlib.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.files import read_image
from datasets.labels import IGNORE_INDEX
from experiments.figures import commands
from experiments.figures.galleries import (
    Column,
    SplitData,
    chosen,
    compared,
    open_split,
    read_map,
    rows_of,
    save_gallery,
    with_gallery,
)
from experiments.figures.runs import Run, data_set
from experiments.figures.style import ORANGE, Figure, Missing, save_data
from utils.metrics import ConfusionMatrix
from utils.safe.errors import InputError
from utils.safe.files import read_json
from utils.visualize import IGNORED_COLOR

_WRONG = tuple(bytes.fromhex(ORANGE[1:]))
_MAPS = 4  # label maps beside image and ground truth: more would be too small on a page
_TITLE = "Fig. 7: qualitative results"
_CAPTION = "The pseudo-masks are made with each image's labels, the networks get the image only."


def draw(runs: list[Run], split: str, images: int | Sequence[str], out: Path) -> list[Figure]:
    """Fig. 7 and the failure gallery for each data set of the runs.

    images: number of images, evenly spaced over the split, or their ids. Of a data set's first run
    pseudo-masks, warm-up, CARB and failures are shown, of every other run its last stage.
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
            split_data = open_split(group[0].last.config, split)
            shown = chosen(split_data, images)
        except InputError as error:
            missing = (Missing(f"the images of {group[0].label}: {error}"),)
            figures.append(Figure(names[0], title, "", missing=missing))
            continue
        spaced = ", evenly spaced" * isinstance(images, int)
        caption = f"Images of '{split}'{spaced}, and mIoU in % over the whole split. {_CAPTION}"
        figure = Figure(names[0], title, caption)
        figures.append(_qualitative(group, split, split_data, shown, out, figure))
        figures.append(draw_failures(group[0], split, split_data, len(shown), out, names[1]))
    return figures


def _qualitative(
    runs: list[Run],
    split: str,
    split_data: SplitData,
    names: list[str],
    out: Path,
    figure: Figure,
) -> Figure:
    columns, missing = [], []
    for column, missing_column in _columns(runs, split):
        if all((column.folder / f"{name}.png").is_file() for name in names):
            columns.append(column)
        else:
            missing.append(missing_column)
    files, galleries = [], []
    for i in range(0, len(columns), _MAPS):
        files.append(out / f"{figure.name}{f'_part{i // _MAPS + 1}' * (i > 0)}.png")
        rows = compared(split_data, names, columns[i : i + _MAPS])
        galleries.append(save_gallery(files[-1], rows))
    shown = [{"title": c.title, "label_maps": str(c.folder), "miou": c.miou} for c in columns]
    content = {"split": split, "images": names, "columns": shown}
    data = save_data(out, figure.name, content) if files else None
    return figure._replace(
        images=tuple(files), data=data, missing=tuple(missing), galleries=tuple(galleries)
    )


def _columns(runs: list[Run], split: str) -> Iterator[tuple[Column, Missing]]:
    """The columns beside image and ground truth, each with how to make it if it is missing."""
    first = runs[0]
    if "warmup" in first.stages or "carb" in first.stages:
        yield pseudo_masks(first, split)
    shown = [*first.titled.items()]
    if len(shown) == 1 and len(runs) > 1:
        shown = [(first.label, first.last)]
    for title, stage in [*shown, *((run.label, run.last) for run in runs[1:])]:
        column = Column(title, stage.predictions(split), stage.scores.get(split, {}).get("miou"))
        yield column, commands.not_evaluated(stage, split, "predictions")


def pseudo_masks(run: Run, split: str) -> tuple[Column, Missing]:
    """The column of CLIP's pseudo-masks with their score, and how to make them."""
    folder = run.masks(split)
    score = folder / "score.json"
    miou = read_json(score).get("miou") if score.is_file() else None
    command = commands.masks(run.last.folder, folder, split, score=True)
    what = f"CLIP's pseudo-masks of '{split}'"
    return Column("CLIP pseudo-masks", folder, miou), Missing(what, command)


def draw_failures(
    run: Run, split: str, split_data: SplitData, count: int, out: Path, figure: str
) -> Figure:
    title = f"Worst images of {run.last.folder}"
    if not split_data.ground_truth:
        return Figure(figure, title, "", missing=(Missing(f"ground truth of '{split}'"),))
    folder = run.last.predictions(split)
    if not all((folder / f"{name}.png").is_file() for name in split_data.images):
        missing = commands.not_evaluated(run.last, split, "predictions")
        return Figure(figure, title, "", missing=(missing,))
    scores = [score(split_data, name, folder) for name in split_data.images]
    scores = sorted((s for s in scores if s["miou"] is not None), key=lambda s: s["miou"])
    maps, notes = {}, []
    for place, worst in enumerate(scores[:count], 1):
        name = worst["image"]
        truth, prediction = split_data.truth(name), read_map(folder, name)
        wrong = error_map(read_image(split_data.images[name]), truth, prediction)
        maps[name] = [truth, prediction, wrong]
        notes.append(f"{place}. {name}: mIoU {100 * worst['miou']:.1f}; {describe(worst)}")
    if not maps:
        return Figure(figure, title, "", missing=(Missing(f"labelled pixels in '{split}'"),))
    titles = ["image", "ground truth", "prediction", "wrong pixels"]
    rows = rows_of(split_data, maps, titles, notes, ("wrong", _WRONG))
    caption = (
        f"The images of '{split}' with the lowest mIoU, each over the classes in its ground truth "
        f"or in the prediction of {run.last.folder}, and the most frequent confusion."
    )
    content = {"run": str(run.last.folder), "split": split, "images": scores}
    return with_gallery(Figure(figure, title, caption), rows, content, out)


def score(split_data: SplitData, name: str, folder: Path) -> dict[str, Any]:
    """The mIoU of one image (None without labelled pixels) and its largest confusion, if any.

    `share` (0..1) of the labelled pixels belong to `truth` and are predicted as `prediction`.
    """
    truth, prediction = split_data.truth(name), read_map(folder, name)
    classes = split_data.classes.names
    matrix = ConfusionMatrix(len(classes))
    try:
        matrix.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    except ValueError as error:
        raise InputError(
            f"{folder}/{name}.png does not fit the ground truth {split_data.ground_truth[name]}: "
            f"{error}; run eval.py --save-predictions --overwrite again"
        ) from None
    counts = matrix.counts[:-1].clone()
    labelled = int(counts.sum())
    if labelled == 0:
        return {"image": name, "miou": None}
    worst = int(counts.fill_diagonal_(0).argmax())
    row, column = divmod(worst, len(classes))
    found = {"truth": classes[row], "prediction": classes[column]}
    share = int(counts[row, column]) / labelled
    return {"image": name, "miou": matrix.miou()} | (found | {"share": share} if share else {})


def describe(scored: dict[str, Any]) -> str:
    """The largest confusion of a result of `score`, in words."""
    if "share" not in scored:
        return "no pixel is wrong"
    percent = f"{100 * scored['share']:.{0 if scored['share'] >= 0.01 else 2}f} %"
    return f"{scored['truth']} taken for {scored['prediction']} on {percent} of the pixels"


def error_map(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The image in light grey with wrong pixels marked and unlabelled ones black, (H,W,3) uint8."""
    grey = (128 + image.mean(2) / 2).astype(np.uint8)
    shown = np.repeat(grey[..., None], 3, axis=2)
    shown[truth != prediction] = _WRONG
    shown[truth == IGNORE_INDEX] = IGNORED_COLOR
    return shown
