"""Comparison of a file of points with the images and their masks, and its statistics."""

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets.doctor.inspection import Finding, parallel
from datasets.doctor.label_check import TRAIN
from datasets.files import File
from datasets.labels import IGNORE_INDEX, ClassTable
from datasets.points import Points, match_points, points_of_split, read_entries, size_of
from datasets.split_labels import Images
from utils.safe.errors import InputError, InputWarning

_FEW = 8  # up to so many points may all lie in one quarter by chance


def check_points(
    path: Path,
    images: Images,
    masks: Images,
    classes: ClassTable,
    read_mask: Callable[[File], np.ndarray],
    workers: int,
) -> tuple[list[str], list[Finding]]:
    """Problems and oddities of the points of the training images. images, masks: of all splits."""
    files = images.get(TRAIN, {})
    problems, odd = [], []
    try:
        others = match_points(path, read_entries(path, classes), files)[1]
        known = [one for split in images for one in images[split]]
        known += [f"{split}/{name}" for split in images for name in images[split]]
        strange = match_points(path, others, dict.fromkeys(known))[1]
        problems += [
            f"{path}: there are points of '{key}', but there is no such image; add the image or "
            "remove the points"
            for key in strange
        ]
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always", InputWarning)
            points = points_of_split(path, files, classes)
    except InputError as error:
        return [*problems, str(error)], odd
    odd += [Finding("points", str(one.message)) for one in said]
    sizes = {name: size_of(files[name]) for name in points}
    if _in_one_quarter(points, sizes):
        text = "all points lie in the upper left quarters of the images; were they made for "
        odd.append(Finding("points", f"{path}: {text}smaller images?"))
    tasks = [(rows, masks[TRAIN][n]) for n, rows in points.items() if n in masks.get(TRAIN, {})]
    count = functools.partial(_count_outside, read_mask=read_mask)
    outside = list(parallel(count, tasks, workers, "checking points"))
    if sum(outside):
        total = sum(len(rows) for rows, _ in tasks)
        first = tasks[next(i for i, number in enumerate(outside) if number)][1]
        text = f"{sum(outside)} of {total} points lie outside their class in the ground truth"
        odd.append(Finding("points", f"{path}: {text}, the first in {first}"))
    return problems, odd


def _in_one_quarter(points: Points, sizes: Mapping[str, tuple[int, int]]) -> bool:
    """Whether all points are in the upper left quarters, as those of half the size would be."""
    if sum(map(len, points.values())) <= _FEW:
        return False
    return all(
        (2 * rows[:, 0] < sizes[name][1]).all() and (2 * rows[:, 1] < sizes[name][0]).all()
        for name, rows in points.items()
    )


def _count_outside(task: tuple[np.ndarray, File], read_mask: Callable[[File], np.ndarray]) -> int:
    """Points whose pixel has another class in the mask; 255, no label, is none."""
    rows, file = task
    try:
        mask = read_mask(file)
        found = mask[rows[:, 1], rows[:, 0]]
    except (InputError, IndexError):  # --check names damaged masks and those of another size
        return 0
    return int(((found != rows[:, 2]) & (found != IGNORE_INDEX)).sum())


def point_statistics(points: Points, images: Mapping[str, File], classes: ClassTable) -> str:
    """Points per image and per class, and their share of the pixels, as text."""
    rows = [points[name] for name in images if len(points.get(name, ()))]
    if not rows:
        return "no images with points"
    numbers = [len(one) for one in rows]
    sizes = [size_of(images[name]) for name in images if len(points.get(name, ()))]
    share = sum(numbers) / sum(height * width for height, width in sizes)
    lines = [
        f"{len(rows)} images with points, {np.mean(numbers):.1f} points per image "
        f"({min(numbers)} to {max(numbers)}), {share:.3%} of their pixels"
    ]
    width = max(map(len, classes.names))
    lines.append(f"  {'class':{width}}  points  images")
    for k, name in enumerate(classes.names):
        of_class = [int((one[:, 2] == k).sum()) for one in rows]
        lines.append(f"  {name:{width}}  {sum(of_class):6d}  {np.count_nonzero(of_class):6d}")
    return "\n".join(lines)


def statistics_of_points(
    path: Path, images: Images, splits: Sequence[str], classes: ClassTable
) -> str:
    """`point_statistics` of each split that has points. Raises InputError for a wrong file."""
    entries = read_entries(path, classes)
    texts = []
    for split in splits:
        points = match_points(path, entries, images[split], split)[0]
        texts.append(f"{split}: {point_statistics(points, images[split], classes)}")
    return "\n\n".join(texts)
