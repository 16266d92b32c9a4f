"""Passes over all masks of a data set: image-level labels from them, and conversion."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets import SegmentationData
from datasets.doctor.inspection import Inspection, inspect_all, parallel
from datasets.doctor.label_check import truth_findings
from datasets.files import File
from datasets.image_labels import HOW_TO_LABEL
from datasets.labels import ClassTable
from datasets.split_labels import Place
from utils.ground_truth import ONE_CLASS
from utils.safe.errors import InputError, InputWarning, warn
from utils.safe.files import replacing
from utils.visualize import save_mask


def survey(
    dataset: SegmentationData, splits: Sequence[str], num_classes: int, workers: int
) -> dict[Place, Inspection]:
    """Read every mask of the splits."""
    tasks: dict[Place, tuple[None, File | None]] = {}
    for split in splits:
        files, masks = dataset.images(split), dataset.ground_truth(split)
        if masks and files.keys().isdisjoint(masks):
            (name, file), image = next(iter(masks.items())), next(iter(files))
            raise InputError(
                f"none of the {len(masks)} masks of '{split}' belongs to an image: the first is "
                f"'{name}' ({file}), the first image '{image}'; give masks the names of the images"
            )
        tasks |= {(split, name): (None, masks.get(name)) for name in files}
    found = inspect_all(dataset, [*tasks.values()], num_classes, workers, "reading")
    return dict(zip(tasks, found, strict=True))


def labels_from_counts(
    found: Mapping[Place, Inspection], num_classes: int, min_pixels: int = 1
) -> dict[Place, tuple[int, ...]]:
    """The classes with at least `min_pixels` pixels, of every image whose mask was read."""
    return {
        place: tuple(np.flatnonzero(f.counts[:num_classes] >= min_pixels).tolist())
        for place, f in found.items()
        if f.counts is not None
    }


def extract_labels(
    found: Mapping[Place, Inspection], num_classes: int, min_pixels: int
) -> dict[Place, tuple[int, ...]]:
    """`labels_from_counts` of all images. Raises InputError when one has no readable mask."""
    labels = labels_from_counts(found, num_classes, min_pixels)
    if not labels and not any(f.problems for f in found.values()):
        raise InputError(
            "no readable ground truth to take labels from; name a file of labels (--labels, "
            f"--import-labels); {HOW_TO_LABEL}"
        )
    for (split, name), f in found.items():
        problems = f.problems
        if f.counts is None and not problems:
            problems = (f"the image '{name}' of '{split}' has no mask; add it or remove the image",)
        if problems:
            raise InputError(
                f"{problems[0]}; or take the labels from --labels, --import-labels or "
                "--import-tags. For the "
                "whole list run with --check, without --out"
            )
    return labels


def has_all_masks(dataset: SegmentationData, splits: Sequence[str]) -> bool:
    """Whether all images of the splits have ground truth; errors are reported elsewhere."""
    with warnings.catch_warnings(), contextlib.suppress(InputError):
        warnings.simplefilter("ignore", InputWarning)
        return all(dataset.images(s).keys() <= dataset.ground_truth(s).keys() for s in splits)
    return True


def warn_of_truth(found: Mapping[Place, Inspection], classes: ClassTable) -> None:
    """Warn of ground truth that makes scores meaningless: one class, or 255 for a class."""
    if len(classes) == 1:
        warn(ONE_CLASS)
    for split in dict.fromkeys(split for split, _ in found):
        counts = [one.counts for place, one in found.items() if place[0] == split]
        for odd in truth_findings(np.sum(counts, 0), classes, split):
            warn(odd.text)


def convert(
    dataset: SegmentationData,
    splits: Sequence[str],
    classes: ClassTable,
    out: Path,
    mask_ending: str,
    workers: int,
) -> None:
    """Write ``img/<split>/<id><suffix>`` (copied) and ``mask/<split>/<id><mask_ending>``."""
    tasks: list[tuple[File, Path]] = []
    for split in splits:
        for name, file in dataset.images(split).items():
            suffix = Path(file.member or file.path).suffix
            tasks.append((file, out / "img" / split / f"{name}{suffix}"))
        for name, file in dataset.ground_truth(split).items():
            tasks.append((file, out / "mask" / split / f"{name}{mask_ending}"))
    options = {"read_mask": dataset.read_ground_truth, "palette": classes.palette}
    for _ in parallel(functools.partial(_write, **options), tasks, workers, "converting"):
        pass


def _write(
    task: tuple[File, Path], read_mask: Callable[[File], np.ndarray], palette: np.ndarray
) -> None:
    file, target = task
    if target.parent.parent.name == "mask":
        save_mask(target, read_mask(file), palette)
        return
    data = file.read()
    with replacing(target) as temporary:
        temporary.write_bytes(data)
