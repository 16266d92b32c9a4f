"""Image-level labels held against the images and their masks."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from datasets.files import File
from datasets.image_check import Odd
from datasets.image_labels import ImageLabels, drop_suffix, read_image_labels
from datasets.labels import ClassTable
from utils.errors import InputError
from utils.files import parse_json

TRAIN = "train"  # the split that needs image-level labels, in all data sets


class LabelFile(NamedTuple):
    """What can be read of a file of labels, which images can't, and what is wrong with them."""

    labels: ImageLabels
    unread: set[str]
    problems: list[str]


def read_all_labels(path: str | Path, classes: ClassTable) -> LabelFile:
    """JSON or CSV. Raises InputError where the images can't be told apart."""
    path = Path(path)
    try:
        return LabelFile(read_image_labels(path, len(classes), classes.names), set(), [])
    except InputError as error:
        entries = _entries(path)
        if not entries:
            raise
        problems = {str(error): None}  # each once, in their order
    labels: ImageLabels = {}
    unread = set()
    with TemporaryDirectory() as folder:
        single = Path(folder) / f"labels{path.suffix}"
        for line, (key, entry) in enumerate(entries, 2):
            single.write_text(entry, encoding="utf-8")
            try:
                ((name, ids),) = read_image_labels(single, len(classes), classes.names).items()
                if name in labels:
                    raise InputError(
                        f"{path}: the image '{name}' stands twice; keep one of the two"
                    )
                labels[name] = ids
            except InputError as error:
                text = str(error).replace(f"{single}, line 2", f"{path}, line {line}")
                problems[text.replace(str(single), str(path))] = None
                unread.add(drop_suffix(key))
    return LabelFile(labels, unread, list(problems))


def _entries(path: Path) -> list[tuple[str, str]]:
    """A file of labels as one file for each image, after its id; none where it has no such form."""
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            header, *rows = text.splitlines()
            return [(row.split(",")[0].strip('" '), f"{header}\n{row}") for row in rows]
        pairs = parse_json(text, object_pairs_hook=list)
        return [(key, json.dumps({key: values})) for key, values in pairs]
    except (OSError, ValueError, TypeError):
        return []


def label_problems(
    labels: LabelFile, images: dict[str, dict[str, File]], splits: Sequence[str]
) -> list[str]:
    """Training images without labels, labels without image in the whole data set.

    Only training reads image-level labels: images of the other splits may have them or not.
    """
    known = {name for files in images.values() for name in files}
    example = f" (ids look like '{min(known)}')" if known else ""
    problems = [
        f"{file} ('{name}') has no image-level labels; add them or remove the image"
        for name, file in images.get(TRAIN, {}).items()
        if TRAIN in splits and name not in labels.labels and name not in labels.unread
    ]
    return problems + [
        f"there are labels for '{name}' but no such image{example}; "
        "add the image or remove the labels"
        for name in labels.labels
        if name not in known
    ]


def empty_labels(labels: ImageLabels) -> list[str]:
    """Images that are said to contain no class at all."""
    return [
        f"the labels of '{name}' are empty; add what it shows or leave it out: it teaches nothing"
        for name, ids in labels.items()
        if not ids
    ]


def disagreements(
    name: str, ids: Sequence[int], counts: np.ndarray, classes: ClassTable, min_pixels: int
) -> list[Odd]:
    """Labels of an image without pixels in its mask, and pixels without label. counts: (256,).

    Nothing where there are no labels or no pixels at all: that is told by itself.
    """
    odd = []
    if not ids or not counts[: len(classes)].any():
        return odd
    for k, class_name in enumerate(classes.names):
        if k in ids and counts[k] == 0:
            text = f"the labels of '{name}' have {class_name}, its mask has no pixel of it"
            odd.append(Odd("label without pixels", f"{text}; correct one of the two"))
        if k not in ids and counts[k] >= min_pixels:
            text = (
                f"the labels of '{name}' lack {class_name}, its mask has {counts[k]} pixels of it"
            )
            advice = "correct one of the two, or say what is enough: --min-pixels"
            odd.append(Odd("pixels without label", f"{text}; {advice}"))
    return odd


def unseen_classes(labels: ImageLabels, classes: ClassTable) -> list[Odd]:
    """Classes in none of the training images `labels`, where there are some."""
    seen = {k for ids in labels.values() for k in ids}
    unseen = [name for k, name in enumerate(classes.names) if k not in seen]
    if not labels or not unseen:
        return []
    text = f"no training image has {', '.join(unseen)}: what is not seen is not learned"
    return [Odd("unseen class", f"{text}; add images, or correct the class file")]
