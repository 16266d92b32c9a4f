"""Image-level labels of a data set: which entry of a label file belongs to which image.

The key of an image is its id, or "split/id": prepare_data.py writes "split/id" for all images
where an id is in two splits (train/0.jpg and val/0.jpg).
"""

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from datasets import SegmentationData
from datasets.files import File
from datasets.ids import IMAGE_SUFFIXES, drop_suffix, match_ids, require
from datasets.image_labels import (
    HOW_TO_LABEL,
    TABLE_SUFFIXES,
    ImageLabels,
    check_label_classes,
    duplicate_error,
    read_entries,
)
from datasets.label_table import is_label_table
from datasets.labels import ClassTable
from utils.collection import collection_paused
from utils.safe.errors import InputError, warn

Images = Mapping[str, Mapping[str, File]]  # split -> image id -> file; of all splits
Place = tuple[str, str]  # split, image id


class LabelFile(NamedTuple):
    """Labels of a file by image, and problems with the file."""

    labels: dict[Place, tuple[int, ...]]
    unread: set[Place]  # images whose entry can't be read
    unknown: ImageLabels  # without an image, under the file's own keys
    problems: list[str]


@collection_paused()
def labels_of_split(
    dataset: SegmentationData,
    split: str,
    path: str | Path,
    classes: ClassTable,
    images: dict[str, File] | None = None,
) -> ImageLabels:
    """Image id -> sorted class ids, for exactly the images of the split.

    images: those of the split, if they have been listed already. Raises InputError where an image
    has no labels, where a key is ambiguous between two splits, and where the labels were made for
    other classes.
    """
    images = dataset.images(split) if images is None else images
    labels, unknown = _labels_of(dataset, split, path, classes, images)
    require(images, labels | unknown, f"labels in {path}", HOW_TO_LABEL)
    return labels


def find_labels(
    dataset: SegmentationData,
    split: str,
    path: str | Path,
    classes: ClassTable,
    images: dict[str, File],
) -> ImageLabels:
    """`labels_of_split` for the images that have labels."""
    return _labels_of(dataset, split, path, classes, images)[0]


def _labels_of(
    dataset: SegmentationData,
    split: str,
    path: str | Path,
    classes: ClassTable,
    images: dict[str, File],
) -> tuple[ImageLabels, ImageLabels]:
    """Labels of the images, and labels without an image. Raises InputError."""
    path = Path(path)
    beside = None if path.is_file() else labels_beside(path.parent, classes, path, is_needed=True)
    if beside is not None:
        warn(f"no image labels at {path}: reading {beside}")
    others = other_splits(dataset, [split]) | {split: images}
    all_images = {split: others.get(split, {}) for split in dataset.splits()}
    file = read_label_file(beside or path, classes, all_images, [split])
    labels = without_problems(file).labels
    return {n: labels[split, n] for n in images if (split, n) in labels}, file.unknown


def read_label_file(
    path: Path, classes: ClassTable, images: Images, splits: Collection[str] | None = None
) -> LabelFile:
    """Read a JSON or CSV file, sorted by image. splits: see `sort_labels`.

    Raises InputError when the whole file is unreadable.
    """
    problems: dict[str, None] = {}  # each once, in their order
    try:
        check_label_classes(path, classes.names)
    except InputError as error:
        problems[str(error)] = None
    labels: ImageLabels = {}
    unread = []
    for key, ids in read_entries(path, len(classes), classes.names):
        if isinstance(ids, InputError):
            problems[str(ids)] = None
            unread.append(key)
        elif key in labels:
            problems[str(duplicate_error(path, key))] = None
        else:
            labels[key] = ids
    return sort_labels(path, labels, images, splits, unread, list(problems))


def sort_labels(
    path: str | Path,
    labels: ImageLabels,
    images: Images,
    splits: Collection[str] | None = None,
    unread: Sequence[str] = (),
    problems: Sequence[str] = (),
) -> LabelFile:
    """`labels`, under the keys of a file, by image.

    splits: the needed ones; None: all. unread: keys of entries that can't be read.
    """
    needed = [images[split].keys() for split in (images if splits is None else splits)]
    is_plain = not (unread or _share_ids(images)) and all(ids <= labels.keys() for ids in needed)
    if is_plain and labels.keys() <= set().union(*images.values()):
        found = {(s, n): labels[n] for s, names in images.items() for n in names if n in labels}
        return LabelFile(found, set(), {}, list(problems))  # as prepare_data.py writes them
    problems = list(problems)
    try:
        keys = _match_keys(path, [*labels, *unread], images)
    except InputError as error:
        everywhere = {(split, name) for split, names in images.items() for name in names}
        return LabelFile({}, everywhere, {}, [*problems, str(error)])
    closed = {place for place, key in keys.of.items() if key not in labels}
    for key, places in keys.unclear.items():
        closed.update(places)
        if splits is None or any(split in splits for split, _ in places):
            name = places[0][1]
            both = [split for split in images if name in images[split]]
            files = " and ".join(str(images[split][name]) for split in both)
            problems.append(
                f"{path}: the image '{drop_suffix(key)}' is in two splits, {files}: the labels of "
                f"'{key}' can't tell {' and '.join(both)} apart; rename or remove one of them, or "
                f"make the labels again: prepare_data.py then writes '{'/'.join(places[0])}'"
            )
    found = {place: labels[key] for place, key in keys.of.items() if key in labels}
    unknown = {key: labels[key] for key in keys.unknown if key in labels}
    return LabelFile(found, closed, unknown, problems)


def without_problems(file: LabelFile) -> LabelFile:
    """`file` itself. Raises InputError when it has problems."""
    if file.problems:
        raise InputError(file.problems[0])
    return file


class _Keys(NamedTuple):
    """Keys of a label file by image."""

    of: dict[Place, str]  # place -> key
    unknown: list[str]  # keys without an image
    unclear: dict[str, list[Place]]  # key -> its possible places


def _match_keys(path: str | Path, keys: Iterable[str], images: Images) -> _Keys:
    """Find the image of each key. Raises InputError naming the file."""
    keys = list(dict.fromkeys(keys))
    owner: dict[str, str] = {}  # for an id in two splits, the last one
    for split, names in images.items():
        owner |= dict.fromkeys(names, split)
    shared = set()
    if sum(map(len, images.values())) > len(owner):
        counts = Counter(chain.from_iterable(images.values()))
        shared = {name for name, count in counts.items() if count > 1}
    with_split: dict[str, Place] = {}
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
    unclear: dict[str, list[Place]] = {}
    for key, name in meant.items():
        if key in places:
            continue
        if name in shared:
            both = [(split, name) for split in images if name in images[split]]
            unclear[key] = [place for place in both if place not in found]
        elif (other := found.setdefault((owner[name], name), key)) != key:
            raise InputError(f"{path}: '{other}' and '{key}' both mean '{name}'; keep one")
    unclear = {key: open_places for key, open_places in unclear.items() if open_places}
    return _Keys(found, [key for key in keys if key not in meant], unclear)


def _has_ending(key: str) -> bool:
    return key[-5:].lower().endswith(IMAGE_SUFFIXES)


def label_keys(images: Images) -> dict[Place, str]:
    """(split, image id) -> the key to write its labels under; images: of all splits.

    The key is the id, or "split/id" for all images where two splits share an id.
    """
    is_shared = _share_ids(images)
    return {(s, n): f"{s}/{n}" if is_shared else n for s, names in images.items() for n in names}


def _share_ids(images: Images) -> bool:
    """Whether an id is in two splits."""
    return len(set().union(*images.values())) < sum(map(len, images.values()))


def other_splits(
    dataset: SegmentationData, splits: Collection[str]
) -> dict[str, Mapping[str, File]]:
    """Images of all splits except `splits`; a split that can't be listed is left out."""
    others: dict[str, Mapping[str, File]] = {}
    for other in dataset.splits():
        if other not in splits:
            with contextlib.suppress(InputError):
                others[other] = dataset.images(other)
    return others


def labels_beside(
    folder: Path, classes: ClassTable, but: str | Path | None, is_needed: bool
) -> Path | None:
    """The file of image-level labels in `folder`: image_labels.json, or the only one.

    but: a file to ignore. Where there are several, raises InputError if one `is_needed`, else
    warns.
    """
    found = [path for path in label_files(folder, classes) if but is None or path != Path(but)]
    usual = folder / "image_labels.json"
    if len(found) < 2 or usual in found:
        return usual if usual in found else next(iter(found), None)
    text = f"{', '.join(map(str, found))} may all be the image labels; name one: "
    if is_needed:
        raise InputError(f"{text}--labels, or image_labels in the config")
    warn(f"{text}--labels")
    return None


def label_files(folder: Path, classes: ClassTable) -> list[Path]:
    """Files in `folder` with image-level labels: JSON by its name, CSV by its header."""
    found = []
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        name = path.name.casefold()
        is_json = name.startswith(("labels", "image_labels")) and name.endswith(".json")
        is_table = name.endswith(TABLE_SUFFIXES) and is_label_table(path, classes.names)
        if is_table or (is_json and not name.endswith(".meta.json")):
            found.append(path)
    return found
