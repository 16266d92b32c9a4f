"""Looking through a whole data set: pixel counts, what is wrong with it, conversion."""

import functools
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from datasets import SegmentationData
from datasets.files import File, read_image
from datasets.image_labels import ImageLabels
from datasets.labels import ClassTable
from datasets.training import check_mask
from utils.errors import InputError

TRAIN = "train"  # the split that needs image-level labels, in all data sets


@dataclass(frozen=True)
class Found:
    """What was seen of one image: pixels per id of its mask (256,), and what is wrong."""

    counts: np.ndarray | None
    problems: tuple[str, ...]


def survey(
    dataset: SegmentationData,
    splits: Sequence[str],
    num_classes: int,
    workers: int,
    read_images: bool,
) -> dict[str, Found]:
    """Read every mask, and with `read_images` every image, of the splits: image id -> found."""
    tasks: dict[str, tuple[File | None, File | None]] = {}
    split_of: dict[str, str] = {}
    for split in splits:
        masks = dataset.ground_truth(split)
        for name, image in dataset.images(split).items():
            if name in tasks:
                raise InputError(
                    f"the image '{name}' is in two splits, {split_of[name]} and {split} ({image}); "
                    "remove it from one of them, or look at one split with --splits"
                )
            split_of[name] = split
            tasks[name] = (image if read_images else None, masks.get(name))
    look = functools.partial(_look, read_mask=dataset.read_ground_truth, num_classes=num_classes)
    return dict(zip(tasks, _parallel(look, tasks.values(), workers, "reading"), strict=True))


def _look(
    files: tuple[File | None, File | None],
    read_mask: Callable[[File], np.ndarray],
    num_classes: int,
) -> Found:
    image, mask = files
    counts, size, problems = None, None, []
    try:
        size = None if image is None else read_image(image).shape[:2]
    except InputError as error:
        problems.append(str(error))
    try:
        if mask is not None:
            values = read_mask(mask)
            counts = np.bincount(values.ravel(), minlength=256)
            check_mask(values, mask, size or values.shape, num_classes)
    except InputError as error:
        problems.append(str(error))
    return Found(counts, tuple(problems))


def labels_from_counts(
    found: dict[str, Found], num_classes: int, min_pixels: int = 1
) -> ImageLabels:
    """The classes with at least `min_pixels` pixels, of every image whose mask was read."""
    return {
        name: tuple(np.flatnonzero(f.counts[:num_classes] >= min_pixels).tolist())
        for name, f in found.items()
        if f.counts is not None
    }


def pair_problems(dataset: SegmentationData, splits: Sequence[str]) -> list[str]:
    """Images without mask and masks without image, in splits that have masks."""
    problems = []
    for split in splits:
        images, masks = dataset.images(split), dataset.ground_truth(split)
        if masks:
            problems += [
                f"{images[name]} has no mask; add it or remove the image"
                for name in images
                if name not in masks
            ]
        problems += [
            f"{masks[name]} has no image in '{split}'; add it or remove the mask"
            for name in masks
            if name not in images
        ]
    return problems


def label_problems(
    labels: ImageLabels, dataset: SegmentationData, splits: Sequence[str]
) -> list[str]:
    """Training images without labels, labels without image in the whole data set.

    Only training reads image-level labels: images of the other splits may have them or not.
    """
    known = {name for split in dataset.splits() for name in dataset.images(split)}
    problems = [
        f"{file} ('{name}') has no image-level labels; add them or remove the image"
        for split in splits
        if split == TRAIN
        for name, file in dataset.images(split).items()
        if name not in labels
    ]
    return problems + [
        f"there are labels for '{name}' but no such image (ids look like '{min(known)}'); "
        "add the image or remove the labels"
        for name in labels
        if name not in known
    ]


def empty_label_problems(labels: ImageLabels) -> list[str]:
    """Images that are said to contain no class at all."""
    return [
        f"the labels of '{name}' are empty; add what it shows or leave it out: it teaches nothing"
        for name, ids in labels.items()
        if not ids
    ]


def convert(
    dataset: SegmentationData,
    splits: Sequence[str],
    classes: ClassTable,
    out: Path,
    mask_ending: str,
    workers: int,
) -> None:
    """Write ``img/<split>/<id><suffix>`` (copied) and ``mask/<split>/<id><mask_ending>``."""
    palette = np.zeros((256, 3), np.uint8)
    palette[: len(classes)] = classes.palette
    tasks: list[tuple[File, Path]] = []
    for split in splits:
        for kind in ("img", "mask"):
            (out / kind / split).mkdir(parents=True, exist_ok=True)
        for name, file in dataset.images(split).items():
            suffix = Path(file.member or file.path).suffix
            tasks.append((file, out / "img" / split / f"{name}{suffix}"))
        for name, file in dataset.ground_truth(split).items():
            tasks.append((file, out / "mask" / split / f"{name}{mask_ending}"))
    write = functools.partial(_write, read_mask=dataset.read_ground_truth, palette=palette)
    for _ in _parallel(write, tasks, workers, "converting"):
        pass


def _write(
    task: tuple[File, Path], read_mask: Callable[[File], np.ndarray], palette: np.ndarray
) -> None:
    file, target = task
    if target.parent.parent.name == "img":
        target.write_bytes(file.read())
        return
    picture = Image.fromarray(read_mask(file))
    picture.putpalette(palette.tobytes())
    picture.save(target)


def _parallel(function: Callable, tasks: Iterable, workers: int, what: str) -> Iterable[Any]:
    """The results in order; in this process when `workers` is 0."""
    tasks = list(tasks)
    progress = functools.partial(tqdm, total=len(tasks), desc=what, unit="image", disable=None)
    if workers == 0:
        yield from progress(map(function, tasks))
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from progress(pool.map(function, tasks, chunksize=8))
