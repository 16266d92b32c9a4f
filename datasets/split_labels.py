"""The image-level labels of a split: which entry of a label file is for which image.

An image is found by its id, or by "split/id": so prepare_data.py writes the keys of all images
where an id is in two splits (train/0.jpg and val/0.jpg).
"""

import contextlib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from datasets import SegmentationData
from datasets.files import File
from datasets.ids import IMAGE_SUFFIXES, match_ids, require
from datasets.image_labels import (
    TABLE_SUFFIXES,
    ImageLabels,
    check_label_classes,
    read_entries,
    twice,
)
from datasets.label_table import is_label_table
from datasets.labels import ClassTable
from utils.collection import collection_paused
from utils.safe.errors import InputError, warn

Splits = Mapping[str, Collection[str]]  # split -> image ids


class Keys(NamedTuple):
    """Which key of a label file is for which image."""

    of: dict[tuple[str, str], str]  # (split, image id) -> key
    unknown: list[str]  # keys of no image
    unclear: dict[str, list[str]]  # key -> the splits of which it may mean an image


@collection_paused()
def labels_of_split(
    dataset: SegmentationData,
    split: str,
    path: str | Path,
    classes: ClassTable,
    images: dict[str, File] | None = None,
) -> ImageLabels:
    """Image id -> sorted class ids, of exactly the images of the split.

    images: those of the split, where they have been listed already. Raises InputError where an
    image has no labels, where a key may mean images of two splits, and where the labels were made
    for other classes.
    """
    images = dataset.images(split) if images is None else images
    labels, unknown = _read(dataset, split, path, classes, images)
    advice = "prepare_data.py makes them"
    require(images, labels | dict.fromkeys(unknown, ()), f"labels in {path}", advice)
    return labels


def find_labels(
    dataset: SegmentationData,
    split: str,
    path: str | Path,
    classes: ClassTable,
    images: dict[str, File],
) -> ImageLabels:
    """The same of those images that have labels."""
    return _read(dataset, split, path, classes, images)[0]


def _read(
    dataset: SegmentationData,
    split: str,
    path: str | Path,
    classes: ClassTable,
    images: dict[str, File],
) -> tuple[ImageLabels, list[str]]:
    """The labels of the images, and the keys that are of no image."""
    path = existing_labels(Path(path), classes)
    check_label_classes(path, classes.names)
    labels = {}
    for key, ids in read_entries(path, len(classes), classes.names):
        if isinstance(ids, InputError):
            raise ids
        if key in labels:
            raise twice(path, key)
        labels[key] = ids
    others = other_splits(dataset, [split])
    known = {*images}.union(*others.values())
    is_once = len(known) == len(images) + sum(map(len, others.values()))
    if is_once and images.keys() <= labels.keys() <= known:  # as prepare_data.py writes them
        return {name: labels[name] for name in images}, []
    all_images = dict.fromkeys(dataset.splits(), ()) | others
    keys = match_keys(path, labels, all_images | {split: images})
    unclear = [key for key, splits in keys.unclear.items() if split in splits]
    if unclear:
        splits = " and of ".join(keys.unclear[unclear[0]])
        raise InputError(
            f"{path}: '{unclear[0]}' is an image of {splits}, and the file can't say which it "
            f"means ({len(unclear)} like this); make it again: prepare_data.py --out {path} "
            f"--overwrite, or write '{split}/{unclear[0]}'"
        )
    found = {name: keys.of.get((split, name)) for name in images}
    return {name: labels[key] for name, key in found.items() if key is not None}, keys.unknown


def match_keys(path: str | Path, keys: Iterable[str], images: Splits) -> Keys:
    """Find the image of each key. images: of all splits. Raises InputError naming the file."""
    keys = list(keys)
    owner: dict[str, str] = {}  # of an id in two splits the last one
    for split, names in images.items():
        owner |= dict.fromkeys(names, split)
    with_split: dict[str, tuple[str, str]] = {}
    prefixes = tuple(f"{split}{mark}" for split in images for mark in "/\\")
    if any(key.lstrip("./").startswith(prefixes) for key in keys):
        with_split = {f"{s}/{name}": (s, name) for s, names in images.items() for name in names}
    if not with_split and owner.keys() >= {*keys} and not any(map(_has_ending, keys)):
        meant = dict(zip(keys, keys, strict=True))  # as prepare_data.py writes them
    else:
        try:
            meant = match_ids(keys, [*with_split, *owner])
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
    places = {key: with_split[name] for key, name in meant.items() if name in with_split}
    found = {place: key for key, place in places.items()}
    unclear: dict[str, list[str]] = {}
    if sum(map(len, images.values())) == len(owner):  # an id is in one split
        for key, name in meant.items():
            if key not in places and found.setdefault((owner[name], name), key) != key:
                other = found[owner[name], name]
                raise InputError(f"{path}: '{other}' and '{key}' both mean '{name}'; keep one")
    else:
        for key, name in meant.items():
            splits = [s for s in images if name in images[s] and (s, name) not in found]
            is_shared = sum(name in names for names in images.values()) > 1
            if key not in places and is_shared and splits:
                unclear[key] = splits
            elif key not in places and splits:
                found[splits[0], name] = key
    return Keys(found, [key for key in keys if key not in meant], unclear)


def _has_ending(key: str) -> bool:
    return key[-5:].lower().endswith(IMAGE_SUFFIXES)


def label_keys(images: Splits) -> dict[tuple[str, str], str]:
    """(split, image id) -> the key that labels are written under; images: of all splits.

    The id, or "split/id" for all images where two splits share an id.
    """
    total = sum(len(names) for names in images.values())
    is_shared = len(set().union(*images.values())) < total
    return {(s, n): f"{s}/{n}" if is_shared else n for s, names in images.items() for n in names}


def other_splits(dataset: SegmentationData, splits: Collection[str]) -> dict[str, Collection[str]]:
    """Image ids of all other splits than these; of a split that can't be listed none."""
    others: dict[str, Collection[str]] = {}
    for other in dataset.splits():
        if other not in splits:
            with contextlib.suppress(InputError):
                others[other] = dataset.images(other)
    return others


def existing_labels(path: Path, classes: ClassTable) -> Path:
    """`path`, or the one file of labels beside it where it is not there. Raises InputError."""
    beside = None if path.is_file() else labels_beside(path.parent, classes, path, is_needed=True)
    if beside is None:
        return path  # where it is not there either, reading it says what to do
    warn(f"no image labels at {path}: those of {beside} are read")
    return beside


def labels_beside(
    folder: Path, classes: ClassTable, but: str | Path | None, is_needed: bool
) -> Path | None:
    """The file of image-level labels in `folder`: image_labels.json, or the only one there.

    but: a file that is not meant. Where there are several, raises InputError if one `is_needed`,
    else warns.
    """
    found = [path for path in label_files(folder, classes) if but is None or path != Path(but)]
    usual = folder / "image_labels.json"
    if len(found) < 2 or usual in found:
        return usual if usual in found else next(iter(found), None)
    text = f"{', '.join(map(str, found))} may all hold the image labels; name one: "
    if is_needed:
        raise InputError(f"{text}--labels, or image_labels in the config")
    warn(f"{text}--labels")
    return None


def label_files(folder: Path, classes: ClassTable) -> list[Path]:
    """Files in `folder` that hold image-level labels by their name or, of a CSV, their header."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = path.name.casefold()
        is_json = name.startswith(("labels", "image_labels")) and name.endswith(".json")
        is_table = name.endswith(TABLE_SUFFIXES) and is_label_table(path, classes.names)
        if is_table or (is_json and not name.endswith(".meta.json")):
            found.append(path)
    return found
