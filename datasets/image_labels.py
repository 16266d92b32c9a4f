"""Image-level labels as JSON or CSV: which classes are in an image."""

import contextlib
import difflib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from pathlib import Path

from datasets.ids import drop_suffix
from datasets.label_table import parse_table, split_cell
from utils.class_names import compare_class_names
from utils.safe.errors import InputError, warn
from utils.safe.file_kinds import stand_in
from utils.safe.files import parse_json, read_json, replacing

ImageLabels = dict[str, tuple[int, ...]]  # image id -> sorted class ids
TABLE_SUFFIXES = (".csv", ".tsv", ".txt")
_01 = {0: 0, 1: 1, "0": 0, "1": 1, "0.0": 0, "1.0": 1}  # True is 1, and 1.0 too


def read_image_labels(path: str | Path, num_classes: int, names: Sequence[str] = ()) -> ImageLabels:
    """Read labels: image id -> sorted class ids. A picture suffix in an image id is dropped.

    The forms are those of `read_entries`. A script that has the images calls `labels_of_split`,
    which knows their ids. Raises InputError naming the file and the image.
    """
    labels: ImageLabels = {}
    for key, ids in read_entries(path, num_classes, names):
        if isinstance(ids, InputError):
            raise ids
        name = drop_suffix(key)
        if name in labels:
            raise twice(path, name)
        labels[name] = ids
    return labels


def read_entries(
    path: str | Path, num_classes: int, names: Sequence[str] = ()
) -> list[tuple[str, tuple[int, ...] | InputError]]:
    """Every entry of a label file: its key as it stands, and sorted class ids or what is wrong.

    JSON: ``{"image id": [0, 3, "car"]}``, a mapping of class names to true and false for the list,
    or one 0/1 for each class. CSV with a header: ``image,labels`` with ids or names separated by
    semicolons (or blanks, where the cell is not one name), or ``image`` and one 0/1 column for each
    class. Class names are looked up in `names`. What numbers mean is decided for the whole file;
    raises InputError where it can't be read or two readings fit.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"no image labels at {path}; make them from masks: python prepare_data.py <data set> "
            f"--root <its folder> --out {path}; or write a CSV there (first line image,labels, "
            "then 0001.jpg,road;car) and name it as image_labels"
        )
    text = _text(path)
    ids_of_names = {name.lower(): i for i, name in enumerate(names)}
    if path.suffix.lower() in TABLE_SUFFIXES and not text.lstrip().startswith(("{", "[")):
        is_table = True
        rows, is_decided = parse_table(path, text, num_classes, ids_of_names)
    else:
        is_table = False
        rows, is_decided = _parse_json(path, text, ids_of_names), False
    if not rows:
        raise InputError(f"{path} has no image in it; prepare_data.py makes such a file")
    if not is_decided:
        if any(name.isdecimal() for name in names):
            rows = _numbers_or_names(path, text, rows, num_classes, ids_of_names, is_table)
        rows = _decide(path, text, rows, num_classes, names)
    lists = [values for _, values in rows if isinstance(values, list)]
    class_id, known = _class_ids(path, lists, num_classes, names, ids_of_names)
    entries: list[tuple[str, tuple[int, ...] | InputError]] = []
    for key, values in rows:
        try:
            if isinstance(values, InputError):
                raise values
            if known is None or not known.keys() >= {*values}:
                ids = {class_id(value, f"image '{drop_suffix(key)}'") for value in values}
            else:
                ids = {known[value] for value in values}
            if len(ids) < len(values):
                _check_repeated(path, key, values)
            entries.append((key, tuple(sorted(ids))))
        except InputError as error:
            entries.append((key, error))
    return entries


def _check_repeated(path: Path, key: str, values: list) -> None:
    """Raise InputError for a number that stands twice; names may, as in a list of the objects."""
    numbers = [value for value in values if not isinstance(value, str) or value.isdecimal()]
    repeated = next((value for value in numbers if numbers.count(value) > 1), None)
    if repeated is not None:
        raise InputError(
            f"{path}: image '{drop_suffix(key)}': {_shown(values)} has {_shown(repeated)} twice; "
            "expected each class id once (and no counts or 0/1 vectors)"
        )
    warn(f"{path}: lists like that of '{drop_suffix(key)}' name a class twice; it counts once")


def twice(path: str | Path, name: str) -> InputError:
    """The error of a file that has two entries for one image."""
    return InputError(
        f"{path}: the image '{name}' stands twice; keep one of the two, with all its labels"
    )


def write_image_labels(path: str | Path, labels: ImageLabels) -> None:
    """Write JSON that `read_entries` reads back, whole or not at all, making the folder."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(image_labels_text(labels), encoding="utf-8")


def image_labels_text(labels: ImageLabels) -> str:
    """The labels as JSON: one image a line, sorted, so that equal labels are equal texts."""
    lines = [f"{json.dumps(key)}: {json.dumps(list(labels[key]))}" for key in sorted(labels)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def meta_path(path: Path) -> Path:
    """image_labels.json -> image_labels.meta.json, which says what classes its ids mean."""
    return path.with_name(f"{path.stem}.meta.json")


def check_label_classes(path: str | Path, class_names: Sequence[str]) -> None:
    """Raise InputError where the labels' meta.json names other classes, or in another order."""
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
    """UTF-8, or UTF-16 as a spreadsheet's "Unicode text" is."""
    data = path.read_bytes()
    if data and (found := stand_in(path)):
        raise InputError(f"{path} is not a file of labels: {found}")
    try:
        if data.startswith((b"\xff\xfe", b"\xfe\xff")):
            return data.decode("utf-16")
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if data.startswith(b"\x93NUMPY"):
            advice = "make JSON of the authors' labels.npy: prepare_data.py --import-labels"
        elif data.startswith(b"PK"):
            advice = "it is a zip or a spreadsheet; save the table as CSV (UTF-8)"
        else:
            advice = "save it as UTF-8 (spreadsheets: 'CSV UTF-8'); prepare_data.py makes one too"
        raise InputError(f"{path} is not a text file of labels: {error}; {advice}") from None


def _parse_json(
    path: Path, text: str, ids_of_names: dict[str, int]
) -> list[tuple[str, list | InputError]]:
    try:
        # A dict would hide doubled keys. As tuples, mappings differ from lists.
        pairs = parse_json(text, object_pairs_hook=tuple)
    except ValueError as error:
        raise InputError(
            f"{path} is not valid JSON: {error}; mend it there, or make it again: prepare_data.py"
        ) from None
    expected = f'{path}: expected {{"image id": [class ids or names]}}'
    if not isinstance(pairs, tuple):
        raise InputError(f"{expected}, found {text[:40]!r}")
    rows: list[tuple[str, list | InputError]] = []
    for key, value in pairs:
        if isinstance(value, list):
            rows.append((key, value))
        elif isinstance(value, str):
            rows.append((key, split_cell(value, ids_of_names)))
        elif isinstance(value, tuple) and all(_is_01(present) for _, present in value):
            rows.append((key, [name for name, present in value if present]))
        else:
            shown = _plain(value)
            rows.append((key, InputError(f"{expected}, found {shown} for '{key}'")))
    wrong = [values for _, values in rows if isinstance(values, InputError)]
    if len(wrong) == len(rows) and wrong:
        raise wrong[0]  # another kind of file
    return rows


def _plain(value: object) -> str:
    """A value of JSON as it stood there, in its first letters."""
    text = json.dumps(dict(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _is_01(value: object) -> bool:
    return isinstance(value, int | float) and value in (0, 1)


def _decide(
    path: Path,
    text: str,
    rows: list[tuple[str, list | InputError]],
    num_classes: int,
    names: Sequence[str],
) -> list[tuple[str, list | InputError]]:
    """The rows as class ids, also where the file holds one 0/1 for each class.

    A list of 0s and 1s only that has one of them twice can't be class ids. With two classes [0, 1]
    may be both.
    """
    of_01 = {text: k for text, k in _01.items() if text not in names}
    lists = [(key, values) for key, values in rows if isinstance(values, list)]
    only_01 = [(key, values) for key, values in lists if _only(values, of_01)]
    both = [(key, [of_01[v] for v in values]) for key, values in only_01]
    vectors = {key: v for (key, v), (_, raw) in zip(both, only_01, strict=True) if _is_vector(raw)}
    if not vectors:
        is_doubtful = len(both) == len(lists) and {len(v) for _, v in both} == {num_classes} == {2}
        # The form of `image_labels_text` holds ids, as prepare_data.py writes them.
        if is_doubtful and text != image_labels_text(dict(lists)):
            raise InputError(
                f"{path}: {both[0][1]} of '{both[0][0]}' may be two class ids or one 0/1 for each "
                "of the 2 classes, and so may all lists of the file; write class names"
                + (f': ["{names[0]}", "{names[1]}"]' if names else "")
            )
        return rows
    first, vector = next(iter(vectors.items()))
    shown = f"{_plain(vector)} of '{first}' looks like one 0/1 for each class"
    ids = [k for k, present in enumerate(vector) if present]
    other = [(key, v) for key, v in lists if len(v) != num_classes or not _only(v, of_01)]
    if len(vector) != num_classes:
        raise InputError(
            f"{path}: {shown}, but has {len(vector)} places for {num_classes} classes; expected "
            f"class ids, here {ids}, or {num_classes} places"
        )
    if other:
        raise InputError(
            f"{path}: {shown} (ids {ids}), {_plain(other[0][1])} of '{other[0][0]}' like class "
            "ids; write one of the two in the whole file"
        )
    warn(
        f"{path}: its lists are read as one 0/1 for each of the {num_classes} classes, not as "
        f"class ids ('{first}' has the classes {ids})"
    )
    as_ids = {key: [k for k, present in enumerate(v) if present] for key, v in both}
    return [(key, as_ids.get(key, values)) for key, values in rows]


def _numbers_or_names(
    path: Path,
    text: str,
    rows: list[tuple[str, list | InputError]],
    num_classes: int,
    ids_of_names: Mapping[str, int],
    is_table: bool,
) -> list[tuple[str, list | InputError]]:
    """The rows, where class names are numbers: a bare number may be a class id or such a name.

    In JSON a text is a name. Raises InputError where both readings fit, and mean other classes.
    """
    lists = [values for _, values in rows if isinstance(values, list)]
    kinds = (int, str) if is_table else (int,)
    numbers = {v for v in chain.from_iterable(lists) if type(v) in kinds and _is_number(v)}
    as_ids = all(int(v) < num_classes for v in numbers)
    as_names = all(str(v) in ids_of_names for v in numbers)
    doubtful = [v for v in numbers if ids_of_names.get(str(v), int(v)) != int(v)]
    if not doubtful or (as_names and not as_ids):
        return rows
    if as_ids and not as_names and not is_table:
        return rows
    if as_ids and not as_names:
        ids = {v: int(v) for v in numbers}
        return [
            (key, [ids.get(v, v) for v in values] if isinstance(values, list) else values)
            for key, values in rows
        ]
    # The form of `image_labels_text` holds ids, as prepare_data.py writes them.
    if not is_table and text == image_labels_text({k: v for k, v in rows if isinstance(v, list)}):
        return rows
    name = str(min(doubtful, key=int))
    raise InputError(
        f"{path}: {name} may be class id {name} or the class named '{name}', which has the id "
        f"{ids_of_names[name]}; give the classes names that are no numbers ('grade {name}') in the "
        "class file, and write those names here"
    )


def _is_number(value: int | str) -> bool:
    """Whether it may be a class id. '01' is none: it may be 0s and 1s without separators."""
    if isinstance(value, int):
        return value >= 0
    return value.isdecimal() and len(value) < 10 and (value[0] != "0" or value == "0")


def _only(values: list, allowed: Mapping[object, int]) -> bool:
    """Whether there are values, and no others than these."""
    try:
        return bool(values) and allowed.keys() >= {*values}
    except TypeError:  # a list in the list
        return False


def _is_vector(values: list) -> bool:
    return len(values) > 1 and (
        len(set(values)) < len(values) or any(isinstance(v, bool | float) for v in values)
    )


def _class_ids(
    path: Path,
    lists: list[list],
    num_classes: int,
    names: Sequence[str],
    ids_of_names: dict[str, int],
) -> tuple[Callable[[object, str], int], dict[object, int] | None]:
    """What turns an id or a name into an id; its InputError says what the whole file suggests.

    Also the ids of all that occurs in the file and has one, where the types leave no doubt.
    """

    def number(value: object) -> object:
        is_name = isinstance(value, str) and value.lower() in ids_of_names
        is_digits = isinstance(value, str) and _is_number(value)
        return int(value) if is_digits and not is_name else value

    types = {*map(type, chain.from_iterable(lists))}
    found = {*chain.from_iterable(lists)} if types <= {int, str} else set()
    numbers = {v for v in map(number, found) if isinstance(v, int)}
    from_one = numbers and min(numbers) == 1 and max(numbers) == num_classes

    def class_id(value: object, where: str) -> int:
        if isinstance(value, str) and value.lower() in ids_of_names:
            return ids_of_names[value.lower()]
        written, value = value, number(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < num_classes:
            known = f"class id 0..{num_classes - 1}" + (" or a class file's name" if names else "")
            near = difflib.get_close_matches(str(value).lower(), ids_of_names, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            if from_one:
                hint = (
                    "; the ids of the file seem to be counted from 1 (there is no 0): subtract 1, "
                    "or write class names"
                )
            if isinstance(written, str) and re.fullmatch(r"0\d+", written):
                hint = f"; if it is an id, write {int(written)}"
            if isinstance(written, str) and re.fullmatch("[01]{2,}", written):
                value = written
                hint += f"; if it is one 0/1 for each class, separate them: {';'.join(written)}"
            raise InputError(f"{path}: {where}: expected a {known}, found {_shown(value)}{hint}")
        return value

    known = {}
    for value in found:
        with contextlib.suppress(InputError):
            known[value] = class_id(value, "")
    return class_id, known if found else None


def _shown(value: object) -> str:
    return _plain(value) if isinstance(value, list | tuple) else repr(value)
