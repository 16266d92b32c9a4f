"""Image-level labels, the classes that are in an image, as JSON or CSV."""

import functools
import json
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from datasets.class_ids import ClassIds, class_ids, shown_json
from datasets.ids import drop_suffix
from datasets.label_table import Row, parse_table, split_cell
from utils.class_names import compare_class_names
from utils.safe.errors import InputError, warn
from utils.safe.file_kinds import stand_in
from utils.safe.files import parse_json, read_json, replacing

ImageLabels = dict[str, tuple[int, ...]]  # image id -> sorted class ids
HOW_TO_LABEL = (
    "python prepare_data.py makes labels: from masks (--out FILE), of an annotation tool "
    "(--import-tags), or as CLIP suggests them (--suggest FOLDER); a CSV does too (first line "
    "image,labels, then 0001.jpg,road;car)"
)
TABLE_SUFFIXES = (".csv", ".tsv", ".txt")
_01 = {0: 0, 1: 1, "0": 0, "1": 1, "0.0": 0, "1.0": 1}  # True is 1, and 1.0 too


def read_image_labels(path: str | Path, num_classes: int, names: Sequence[str] = ()) -> ImageLabels:
    """Read labels: image id -> sorted class ids. The suffix of an image is dropped from its id.

    The forms are those of `read_entries`. A script that has the images calls `labels_of_split`,
    which knows their ids. Raises InputError naming the file and the image.
    """
    labels: ImageLabels = {}
    for key, ids in read_entries(path, num_classes, names):
        if isinstance(ids, InputError):
            raise ids
        name = drop_suffix(key)
        if name in labels:
            raise duplicate_error(path, name)
        labels[name] = ids
    return labels


def read_entries(
    path: str | Path, num_classes: int, names: Sequence[str] = ()
) -> list[tuple[str, tuple[int, ...] | InputError]]:
    """Read every entry of a label file: its key, and its sorted class ids or what is wrong.

    JSON: ``{"image id": [0, 3, "car"]}``, a mapping of class names to true and false for the list,
    or one 0/1 for each class. CSV with a header: ``image,labels`` with ids or names separated by
    semicolons (or blanks, where the cell is not one name), or ``image`` and one 0/1 column for each
    class. Class names are looked up in `names`. The meaning of numbers is decided for the whole
    file. Raises InputError where it can't be read or is ambiguous.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no image labels at {path}; {HOW_TO_LABEL}")
    text = _text(path)
    file = _File(path, text, class_ids(names, num_classes))
    if path.suffix.lower() in TABLE_SUFFIXES and not text.lstrip().startswith(("{", "[")):
        rows, is_decided = parse_table(path, text, num_classes, file.known.of_names)
    else:
        rows, is_decided = _parse_json(file), False
    if not rows:
        raise InputError(f"{path} has no image in it; prepare_data.py makes such a file")
    lists = [(key, values) for key, values in rows if isinstance(values, list)]
    if not is_decided:
        lists = _expand_vectors(file, lists)
    entries = iter(_to_ids(file, lists))
    return [(key, row) if isinstance(row, InputError) else next(entries) for key, row in rows]


class _File(NamedTuple):
    """A label file, and the classes that it is read for."""

    path: Path
    text: str
    known: ClassIds


def duplicate_error(path: str | Path, name: str) -> InputError:
    """The error of a file that has two entries for one image."""
    return InputError(
        f"{path}: the image '{name}' is listed twice; keep one of the two, with all its labels"
    )


def write_image_labels(path: str | Path, labels: ImageLabels) -> None:
    """Write JSON that `read_entries` reads back, atomically; creates the folder."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(image_labels_text(labels), encoding="utf-8")


def image_labels_text(labels: ImageLabels) -> str:
    """The labels as JSON: one image per line, sorted, so that equal labels give equal texts."""
    lines = [f"{json.dumps(key)}: {json.dumps(list(labels[key]))}" for key in sorted(labels)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def meta_path(path: Path) -> Path:
    """image_labels.json -> image_labels.meta.json, which names the classes of its ids."""
    return path.with_name(f"{path.stem}.meta.json")


def check_label_classes(path: str | Path, class_names: Sequence[str]) -> None:
    """Raise InputError where the labels' meta.json has other classes or another order."""
    meta = meta_path(Path(path))
    if Path(path).suffix.lower() in TABLE_SUFFIXES or not meta.is_file():
        return
    found = read_json(meta).get("class_names")
    if not isinstance(found, list):
        raise InputError(f"{meta} has no class_names; remove it and run prepare_data.py again")
    remedy = (
        f"make them again: prepare_data.py --out {path} --overwrite (or remove {meta}, if these "
        "labels are from elsewhere)"
    )
    compare_class_names(found, class_names, f"the labels in {path} were made", remedy)


def _text(path: Path) -> str:
    """Text in UTF-8, or in UTF-16 as in a spreadsheet's "Unicode text"."""
    data = path.read_bytes()
    if data and (found := stand_in(path)):
        raise InputError(f"{path} is not a file of labels: {found}")
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith(b"\x93NUMPY"):
            advice = "make JSON of the official labels.npy: prepare_data.py --import-labels"
        elif data.startswith(b"PK"):
            advice = "it is a zip or a spreadsheet; save the table as CSV (UTF-8)"
        else:
            advice = "save it as UTF-8 (spreadsheets: 'CSV UTF-8'); prepare_data.py makes one too"
        raise InputError(f"{path} is not a text file of labels: {error}; {advice}") from None


def _parse_json(file: _File) -> list[Row]:
    try:
        # A dict would hide duplicate keys. Mappings become tuples, unlike lists.
        pairs = parse_json(file.text, object_pairs_hook=tuple)
    except ValueError as error:
        raise InputError(
            f"{file.path} is not valid JSON: {error}; fix it there, or make it again: "
            "prepare_data.py"
        ) from None
    expected = f'{file.path}: expected {{"image id": [class ids or names]}}'
    if not isinstance(pairs, tuple):
        raise InputError(f"{expected}, found {file.text[:40]!r}")
    rows: list[Row] = []
    for key, value in pairs:
        if isinstance(value, str):
            value = split_cell(value, file.known.of_names)
        elif isinstance(value, tuple) and all(_is_01(present) for _, present in value):
            value = [name for name, present in value if present]
        elif not isinstance(value, list):
            value = InputError(f"{expected}, found {shown_json(value)} for '{key}'")
        rows.append((key, value))
    if rows and all(isinstance(value, InputError) for _, value in rows):
        raise rows[0][1]  # a different kind of file
    return rows


def _is_01(value: object) -> bool:
    return isinstance(value, int | float) and value in (0, 1)


def _expand_vectors(file: _File, lists: list[tuple[str, list]]) -> list[tuple[str, list]]:
    """Lists of class ids, also where the file holds one 0/1 for each class.

    A list of 0s and 1s that has one of them twice can't be class ids. With two classes [0, 1] is
    ambiguous.
    """
    num_classes, names, _ = file.known
    binary = [[_01[v] for v in values] if _only(values, _01) else None for _, values in lists]
    vector = next((i for i, v in enumerate(binary) if v and _is_vector(lists[i][1])), None)
    if vector is None:
        is_doubtful = num_classes == 2 and all(v is not None and len(v) == 2 for v in binary)
        # The form of `image_labels_text` holds ids, as prepare_data.py writes them.
        if lists and is_doubtful and file.text != image_labels_text(dict(lists)):
            raise InputError(
                f"{file.path}: {binary[0]} of '{lists[0][0]}' may be two class ids or one 0/1 for "
                "each of the 2 classes, and so may all lists of the file; write class names"
                + (f': ["{names[0]}", "{names[1]}"]' if names else "")
            )
        return lists
    name, places = lists[vector][0], binary[vector]
    shown = f"{shown_json(places)} of '{name}' looks like one 0/1 for each class"
    ids = _ids_of(places)
    if len(places) != num_classes:
        raise InputError(
            f"{file.path}: {shown}, but has {len(places)} places for {num_classes} classes; "
            f"expected class ids, here {ids}, or {num_classes} places"
        )
    for (key, values), other in zip(lists, binary, strict=True):
        if other is None or len(other) != num_classes:
            raise InputError(
                f"{file.path}: {shown} (ids {ids}), {shown_json(values)} of '{key}' like class "
                "ids; write one of the two in the whole file"
            )
    warn(
        f"{file.path}: its lists are read as one 0/1 for each of the {num_classes} classes, "
        f"not as class ids ('{name}' has the classes {ids})"
    )
    return [(key, _ids_of(places)) for (key, _), places in zip(lists, binary, strict=True)]


def _ids_of(places: list[int]) -> list[int]:
    """[0, 1, 1] -> [1, 2]."""
    return [k for k, present in enumerate(places) if present]


def _only(values: list, allowed: Mapping[object, int]) -> bool:
    """Whether there are values, all of them allowed."""
    try:
        return bool(values) and allowed.keys() >= {*values}
    except TypeError:  # a list in the list
        return False


def _is_vector(values: list) -> bool:
    return len(values) > 1 and (
        len(set(values)) < len(values) or any(isinstance(v, bool | float) for v in values)
    )


def _to_ids(
    file: _File, lists: list[tuple[str, list]]
) -> list[tuple[str, tuple[int, ...] | InputError]]:
    """Sorted class ids of each list, or what is wrong with it."""
    types = {type(value) for _, values in lists for value in values}
    found = {*chain.from_iterable(v for _, v in lists)} if types <= {int, str} else set()
    from_one = file.known.count_from_one(found)
    class_id = functools.partial(file.known.class_id, from_one=from_one)
    of_text_or_int = functools.cache(class_id)  # a file has few distinct values
    entries: list[tuple[str, tuple[int, ...] | InputError]] = []
    for key, values in lists:
        try:
            ids = {of_text_or_int(v) if type(v) in (int, str) else class_id(v) for v in values}
            if len(ids) < len(values):
                _check_repeated(file.path, key, values)
            entries.append((key, tuple(sorted(ids))))
        except ValueError as error:
            entries.append((key, InputError(f"{file.path}: image '{drop_suffix(key)}': {error}")))
    return entries


def _check_repeated(path: Path, key: str, values: list) -> None:
    """Raise ValueError for a repeated number; names may repeat, as in a list of objects."""
    numbers = [value for value in values if not isinstance(value, str) or value.isdecimal()]
    repeated = next((value for value in numbers if numbers.count(value) > 1), None)
    if repeated is not None:
        raise ValueError(
            f"{shown_json(values)} has {repeated!r} twice; expected each class id once (and no "
            "counts or 0/1 vectors)"
        )
    warn(f"{path}: some lists, e.g. of '{drop_suffix(key)}', name a class twice; it counts once")
