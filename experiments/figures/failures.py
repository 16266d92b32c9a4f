"""The images on which a network fails most. Needs no matplotlib."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.files import read_image
from datasets.labels import IGNORE_INDEX
from experiments.figures.commands import evaluation
from experiments.figures.pictures import Pictures, legend_of, read_map, save_gallery
from experiments.figures.runs import Run
from experiments.figures.style import ORANGE, Figure, Missing, save_data
from utils.metrics import ConfusionMatrix
from utils.safe.errors import InputError
from utils.visualize import IGNORED_COLOR, colourize

_WRONG = tuple(bytes.fromhex(ORANGE[1:]))


def draw_failures(
    run: Run, split: str, pictures: Pictures, count: int, out: Path, figure: str
) -> Figure:
    title = f"Worst images of {run.last.folder}"
    if not pictures.ground_truth:
        return Figure(figure, title, "", missing=(Missing(f"ground truth of '{split}'"),))
    folder = run.last.predictions(split)
    if not all((folder / f"{name}.png").is_file() for name in pictures.images):
        what = f"predictions of {run.last.folder} on '{split}'"
        return Figure(figure, title, "", missing=(Missing(what, evaluation(run.last, split)),))
    scores = [score(pictures, name, folder) for name in pictures.images]
    scores = sorted((s for s in scores if s["miou"] is not None), key=lambda s: s["miou"])
    rows, notes, unlabelled = [], [], False
    for place, worst in enumerate(scores[:count], 1):
        name = worst["image"]
        image, truth = read_image(pictures.images[name]), pictures.truth(name)
        prediction = read_map(folder, name)
        unlabelled |= bool((truth == IGNORE_INDEX).any())
        maps = [colourize(ids, pictures.classes.palette) for ids in (truth, prediction)]
        rows.append([image, *maps, error_map(image, truth, prediction)])
        notes.append(f"{place}. {name}: mIoU {100 * worst['miou']:.1f}; {in_words(worst)}")
    if not rows:
        return Figure(figure, title, "", missing=(Missing(f"labelled pixels in '{split}'"),))
    names, palette = legend_of(pictures.classes, unlabelled)
    names, palette = [*names, "wrong"], np.vstack([palette, np.array([_WRONG], np.uint8)])
    titles = ["image", "ground truth", "prediction", "wrong pixels"]
    path = out / f"{figure}.png"
    gallery = save_gallery(path, (rows, titles, names, palette, notes))
    caption = (
        f"The images of '{split}' with the lowest mIoU, each over the classes in its ground truth "
        f"or in the prediction of {run.last.folder}, and the commonest confusion."
    )
    data = save_data(out, figure, {"run": str(run.last.folder), "split": split, "images": scores})
    return Figure(figure, title, caption, (path,), data, galleries=(gallery,))


def score(pictures: Pictures, name: str, folder: Path) -> dict[str, Any]:
    """An image's own mIoU (None without labelled pixels) and its largest confusion, if any.

    `share` is the part of the labelled pixels that are `truth` and called `prediction`.
    """
    truth, prediction = pictures.truth(name), read_map(folder, name)
    classes = pictures.classes.names
    matrix = ConfusionMatrix(len(classes))
    try:
        matrix.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    except ValueError as error:
        raise InputError(
            f"{folder}/{name}.png does not fit the ground truth {pictures.ground_truth[name]}: "
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


def in_words(scored: dict[str, Any]) -> str:
    """The largest confusion of `score`."""
    if "share" not in scored:
        return "no pixel is wrong"
    percent = f"{100 * scored['share']:.{0 if scored['share'] >= 0.01 else 2}f} %"
    return f"{scored['truth']} taken for {scored['prediction']} on {percent} of the pixels"


def error_map(image: np.ndarray, truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """The image in light grey with its wrong pixels marked, (H,W,3) uint8; unlabelled: black."""
    grey = (128 + image.mean(2) / 2).astype(np.uint8)
    shown = np.repeat(grey[..., None], 3, axis=2)
    shown[truth != prediction] = _WRONG
    shown[truth == IGNORE_INDEX] = IGNORED_COLOR
    return shown
