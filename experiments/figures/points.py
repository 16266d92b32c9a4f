"""Points, pseudo-masks over training and predictions of networks trained by baselines/points.py.

The pseudo-masks are made once more, for whole training images, by the functions of the training and
the networks of the checkpoints that --keep-checkpoints kept.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from baselines.points import distance_scale, uses_masks
from datasets.files import read_image
from datasets.points import points_of_split
from datasets.training import EvaluationSet
from datasets.transforms import Augmentation, TrainTransform, normalize
from experiments.figures.galleries import (
    chosen,
    open_split,
    rows_of,
    with_gallery,
)
from experiments.figures.runs import Run, Suite, run_of_row
from experiments.figures.style import Figure, Missing
from models.carb import upsample
from models.point_masks import Parts, pseudo_mask
from models.trained import load_trained
from utils.config import Config
from utils.inputs import read_parts
from utils.safe.errors import InputError

_MOST = 3  # pseudo-masks of an image, from as many checkpoints


def draw(runs: Sequence[Run], suites: Sequence[Suite], images: int, out: Path) -> list[Figure]:
    """A gallery of each run trained from points with pseudo-masks; of a suite, of one of them.

    images: how many.
    """
    found = {f"points_{run.folder.name}": run for run in runs}
    found |= {f"points_{suite.slug}": run_of_suite(suite) for suite in suites}
    figures = []
    for name, run in found.items():
        parts = parts_of(run) if run else None
        if parts and (parts.masks or parts.discs):
            figures.append(of_run(name, run, parts, images, out))
    return figures


def run_of_suite(suite: Suite) -> Run | None:
    """The first seed of the first row with all parts of the method, else of the first row."""
    rows = {n: row for n, row in suite.content["rows"].items() if row["stage"] == "points"}
    runs = [run_of_row(suite, name, seed) for name, row in rows.items() for seed in row["seeds"]]
    here = [*filter(None, runs)]
    return next((run for run in here if parts_of(run) == Parts()), here[0] if here else None)


def parts_of(run: Run) -> Parts | None:
    """The parts of the method that a run used; None of another run."""
    options = read_parts(run.last.folder).get("options")
    if "points" not in run.stages or not isinstance(options, dict):
        return None
    if options.keys() != set(Parts._fields):
        raise InputError(f"{run.last.folder}/inputs.json: expected options {Parts._fields}")
    return Parts(**options)


def of_run(name: str, run: Run, parts: Parts, images: int, out: Path) -> Figure:
    """Rows of image, points, pseudo-masks from a few checkpoints, prediction and ground truth."""
    config, figure = run.last.config, Figure(name, f"Training from points: {run.label}", "")
    last = run.last.checkpoint
    if not last.is_file():
        return figure._replace(missing=(Missing(f"{last}, the network"),))
    try:
        split_data = open_split(config, config.train_split)
        points = points_of_split(
            config.points, split_data.images, split_data.classes, True, config.train_split
        )
        pointed = {name: split_data.images[name] for name in points}
        shown = chosen(split_data._replace(images=pointed), images)
    except InputError as error:
        return figure._replace(missing=(Missing(f"the images of {run.label}: {error}"),))
    data = EvaluationSet({name: split_data.images[name] for name in shown}, config.image_size)
    maps: dict[str, list[np.ndarray]] = {
        one: [painted(read_image(split_data.images[one]), points[one], split_data.classes.palette)]
        for one in shown
    }
    files, titles = checkpoints(run, parts), ["image", "points"]
    for step, file in files.items():
        titles.append(f"pseudo-mask\nstep {step}")
        for sample, mask in pseudo_masks(file, step, config, parts, data, points):
            maps[sample["name"]].append(mask)
    titles.append(f"prediction\nstep {config.steps}")
    for sample, prediction in predictions(last, data):
        maps[sample["name"]].append(prediction)
    if split_data.ground_truth:
        titles.append("ground truth")
        for one in shown:
            maps[one].append(split_data.truth(one))
    caption = (
        f"Images of '{config.train_split}', evenly spaced, with their points as dots, the "
        "pseudo-masks that a training step would make of the whole image, and the prediction at "
        "the end. Ground truth: not seen in training."
    )
    kept = any(run.last.folder.glob("step_*.pt"))
    what = f"the pseudo-masks over training of {run.label}: train it with --keep-checkpoints"
    figure = figure._replace(caption=caption, missing=() if kept else (Missing(what),))
    rows = rows_of(split_data, maps, titles, shown)
    content = {"run": str(run.last.folder), "images": shown, "steps": [*files]}
    return with_gallery(figure, rows, content, out)


def checkpoints(run: Run, parts: Parts) -> dict[int, Path]:
    """Step -> checkpoint: a few of those kept since masks are used, evenly spaced, or the last."""
    steps = run.last.config.steps
    kept = {int(file.stem[5:]): file for file in run.last.folder.glob("step_*.pt")}
    used = sorted(step for step in kept if uses_masks(step, steps, parts))
    if not used:
        return {steps: run.last.checkpoint}
    number = min(_MOST, len(used))
    places = [round(i * (len(used) - 1) / max(1, number - 1)) for i in range(number)]
    return {used[i]: kept[used[i]] for i in places}


@torch.no_grad()
def pseudo_masks(
    file: Path,
    step: int,
    config: Config,
    parts: Parts,
    data: EvaluationSet,
    points: dict[str, np.ndarray],
) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Each image with its pseudo-mask of a step, uint8 (H,W) at the image's own size."""
    model = load_trained(file).model
    scale = distance_scale(step, config.steps, min(config.crop_size))
    for sample in data:
        image, size = sample["image"][None], sample["size"]
        new = tuple(image.shape[-2:])
        valid = torch.ones_like(image[:, 0], dtype=torch.bool)
        own = torch.from_numpy(points[sample["name"]])
        own = TrainTransform(new, (1.0, 1.0), new).apply_points(own, Augmentation(new), size)
        logits = model(normalize(image, "imagenet", valid))
        mask = pseudo_mask(logits, image, valid, [own], scale, parts)
        large = F.interpolate(mask[None].float(), size, mode="nearest-exact")
        yield sample, large[0, 0].byte().numpy()


@torch.no_grad()
def predictions(file: Path, data: EvaluationSet) -> Iterator[tuple[dict[str, Any], np.ndarray]]:
    """Each image with the network's prediction, uint8 (H,W)."""
    model = load_trained(file).model
    for sample in data:
        logits = model(normalize(sample["image"][None], "imagenet"))
        yield sample, upsample(logits, sample["size"]).argmax(1)[0].byte().numpy()


def painted(image: np.ndarray, points: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """`image` (H,W,3) with a dot of the class's colour, with a white rim, at each point."""
    canvas = Image.fromarray(image)
    pen, radius = ImageDraw.Draw(canvas), max(2, min(image.shape[:2]) // 40)
    for x, y, k in points.tolist():
        box = (x - radius, y - radius, x + radius, y + radius)
        pen.ellipse(box, fill=tuple(palette[k].tolist()), outline="white")
    return np.asarray(canvas)
