"""Comparison of image-level labels with the images and their masks."""

import contextlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from datasets.doctor.inspection import NOTE, Finding
from datasets.doctor.statistics import always_present
from datasets.files import File
from datasets.image_labels import ImageLabels
from datasets.labels import IGNORE_INDEX, ClassTable, has_background
from datasets.split_labels import Images, LabelFile
from utils.class_names import plain_name
from utils.ground_truth import ONE_CLASS, absent_note, truth_notes
from utils.safe.errors import InputError, note, warn

_FEW_CLASSES, _FEW_IMAGES = 4, 50  # up to so many, the same labels everywhere are plausible
_SOME = 16  # masks that are read before training
TRAIN = "train"  # the split that needs image-level labels, in all data sets


def label_problems(labels: LabelFile, images: Images, splits: Sequence[str]) -> list[str]:
    """Training images without labels, and labels without an image in the whole data set.

    Only training reads image-level labels: images of the other splits may have them or not.
    """
    known = {name for files in images.values() for name in files}
    example = f" (ids look like '{min(known)}')" if known else ""
    labelled = labels.labels.keys() | labels.unread
    problems = [
        f"{file} ('{name}') has no image-level labels; add them or remove the image"
        for name, file in images.get(TRAIN, {}).items()
        if TRAIN in splits and (TRAIN, name) not in labelled
    ]
    return problems + [
        f"there are labels for '{name}', but there is no such image{example}; "
        "add the image or remove the labels"
        for name in labels.unknown
    ]


def empty_labels(labels: ImageLabels) -> list[str]:
    """Images whose labels name no class."""
    return [
        f"the labels of '{name}' are empty; add what it shows or leave the image out"
        for name, ids in labels.items()
        if not ids
    ]


def disagreements(
    name: str, ids: Sequence[int], counts: np.ndarray, classes: ClassTable, min_pixels: int
) -> list[Finding]:
    """Labels of an image without pixels in its mask, and pixels without a label. counts: (256,).

    Empty where there are no labels or no pixels at all: other checks report that.
    """
    odd = []
    if not ids or not counts[: len(classes)].any():
        return odd
    for k, class_name in enumerate(classes.names):
        if k in ids and counts[k] == 0:
            text = f"the labels of '{name}' have {class_name}, its mask has no pixel of it"
            odd.append(Finding("label without pixels", f"{text}; correct one of the two"))
        if k not in ids and counts[k] >= min_pixels:
            text = (
                f"the labels of '{name}' lack {class_name}, its mask has {counts[k]} pixels of it"
            )
            advice = "correct one of the two, or set how many pixels count: --min-pixels"
            odd.append(Finding("pixels without label", f"{text}; {advice}"))
    return odd


def poor_labels(labels: ImageLabels, classes: ClassTable) -> list[Finding]:
    """Weaknesses of the training images' labels: unseen classes, the same labels everywhere."""
    odd = []
    seen = {k for ids in labels.values() for k in ids}
    unseen = [name for k, name in enumerate(classes.names) if k not in seen]
    if labels and unseen:
        text = f"no training image has {', '.join(unseen)}: these classes cannot be learned"
        odd.append(Finding("unseen class", f"{text}; add images, or correct the class file"))
    if len(labels) > 1 and seen and len({*labels.values()}) == 1 < len(classes):
        same = "every class" if not unseen else ", ".join(classes.names[k] for k in sorted(seen))
        text = (
            f"all {len(labels)} training images have the same labels ({same}), so they "
            "don't tell the images apart; check that they are right"
        )
        is_odd = len(classes) > _FEW_CLASSES or len(labels) > _FEW_IMAGES
        odd.append(Finding("same labels" if is_odd else NOTE, text))
    return odd


def check_trainable(classes: ClassTable, labels: ImageLabels | None = None) -> None:
    """Raise InputError where nothing can be learned; warn of weak labels.

    labels: of the training images, where training uses them.
    """
    if len(classes) == 1:
        raise InputError(ONE_CLASS)
    if labels is None:
        return
    empty = [name for name, ids in labels.items() if not ids]
    if len(empty) == len(labels):
        raise InputError(
            f"the labels of all {len(labels)} training images are empty, so there is nothing to "
            "learn; add what the images show: prepare_data.py --check"
        )
    if empty:
        warn(
            f"the labels of {len(empty)} of {len(labels)} training images are empty (the first is "
            f"'{empty[0]}'): they have no effect on training; add what they show, or leave them out"
        )
    for odd in poor_labels(labels, classes):
        (note if odd.kind == NOTE else warn)(odd.text)


def check_classifiable(
    labels: ImageLabels, classes: ClassTable, where: str, trains: bool = True
) -> None:
    """Raise InputError where a classifier of images can't learn from labels, or use them.

    Warns of classes that are in every image. Without a class "background" each image needs a class;
    with one, an image may show it alone. where: the file of the labels. trains: these labels train
    the classifier, so that each class must be in one of them.
    """
    if "background" in map(plain_name, classes.names[1:]):
        raise InputError(
            "the class 'background' must be class 0 or not exist, since a classifier of images "
            "does not learn it; put it first in the class file (labels and masks follow its order)"
        )
    empty = [name for name, ids in labels.items() if not ids]
    if empty and not has_background(classes):
        raise InputError(
            f"{where}: {len(empty)} images have no class, the first is '{empty[0]}'; without a "
            "class 'background' each image shows one: add what it shows, or leave the image out"
        )
    if not trains:
        return
    seen = {0 if has_background(classes) else -1}.union(*labels.values())
    unseen = [name for k, name in enumerate(classes.names) if k not in seen]
    if unseen:
        raise InputError(
            f"{where}: no image has {', '.join(unseen)}, so a classifier of images can't learn it; "
            "add images, or correct the class file"
        )
    if text := always_present(list(labels.values()), classes):
        warn(text)


def check_some_masks(
    masks: Mapping[str, File],
    read: Callable[[File], np.ndarray],
    classes: ClassTable,
    labels: ImageLabels | None = None,
) -> None:
    """Warn where a sample of the training masks, evenly spaced, is of little use.

    labels: of the images; masks that mostly show other classes probably number them differently. A
    mask that can't be read is left to training, which names it.
    """
    names = list(masks)[:: max(1, len(masks) // _SOME)][:_SOME]
    counts, absent = np.zeros(256, np.int64), 0
    for name in names:
        with contextlib.suppress(InputError):
            found = np.bincount(read(masks[name]).ravel(), minlength=256)
            counts += found
            if labels is not None:
                absent += int(np.delete(found[: len(classes)], list(labels[name])).sum())
    pixels = counts[: len(classes)].tolist()
    seen = f"(found in {len(names)} of {len(masks)} masks)"
    for text in truth_notes(pixels, int(counts[IGNORE_INDEX]), classes.names, "training"):
        warn(f"{text} {seen}")
    if absent > sum(pixels) / 2:
        warn(
            f"{100 * absent / sum(pixels):.0f} % of the pixels of the masks are of classes that "
            f"the labels of their images lack {seen}: check that both number the classes in "
            "the same way, from 0, and belong to the same images"
        )


def truth_findings(counts: np.ndarray, classes: ClassTable, split: str) -> list[Finding]:
    """Weaknesses of the ground truth of a split. counts: (256,)."""
    pixels = counts[: len(classes)].tolist()
    notes = truth_notes(pixels, int(counts[IGNORE_INDEX]), classes.names, split)
    if len(classes) == 1:
        return []  # reported as a problem of its own
    if not notes and sum(map(bool, pixels)) < len(classes) / 2:
        notes = absent_note(pixels, classes.names, split)  # a small split may lack a few
    return [Finding("ground truth", note) for note in notes]


def nothing_in_common(
    labels: ImageLabels, counts: Mapping[str, np.ndarray], classes: ClassTable, split: str
) -> list[Finding]:
    """A split in which labels and mask of no image share a class. counts: (256,) each."""
    pairs = [(ids, counts[name]) for name, ids in labels.items() if name in counts and ids]
    pairs = [(ids, found) for ids, found in pairs if found[: len(classes)].any()]
    if not pairs or any(found[list(ids)].any() for ids, found in pairs):
        return []
    text = f"no image of {split} has a class that is both in its labels and in its mask: check that"
    return [Finding("nothing in common", f"{text} both number the classes in the same way, from 0")]
