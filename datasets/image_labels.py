"""Image-level labels as JSON or CSV: which classes are in an image."""

import csv
import difflib
import io
import json
from collections.abc import Callable, Container, Sequence
from pathlib import Path

from datasets.ids import drop_suffix
from utils.errors import InputError
from utils.files import parse_json, replacing

ImageLabels = dict[str, tuple[int, ...]]  # image id -> sorted class ids


def read_image_labels(path: str | Path, num_classes: int, names: Sequence[str] = ()) -> ImageLabels:
    """Read labels: image id -> sorted class ids. A picture suffix in an image id is dropped.

    JSON: ``{"image id": [0, 3, "car"]}``. CSV with a header: ``image,labels`` with ids or names
    separated by semicolons (or blanks, where the cell is not one name), or ``image`` and one 0/1
    column per class. Class names are looked up in `names`. Raises InputError naming the file and
    the image.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"no image labels at {path}; make them: "
            f"python prepare_data.py <data set> --root <its folder> --out {path}"
        )
    ids_of_names = {name.lower(): i for i, name in enumerate(names)}

    def class_id(value: object, where: str) -> int:
        if isinstance(value, str) and value.lower() in ids_of_names:
            return ids_of_names[value.lower()]
        if isinstance(value, str) and value.isdecimal() and len(value) < 10:
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < num_classes:
            known = f"class id 0..{num_classes - 1}" + (" or a class file's name" if names else "")
            near = difflib.get_close_matches(str(value).lower(), ids_of_names, n=1)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise InputError(f"{path}: {where}: expected a {known}, found {value!r}{hint}")
        return value

    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            pairs = _parse_csv(path, text, num_classes, class_id, ids_of_names)
        else:
            pairs = _parse_json(path, text)
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path} is not a text file of labels: {error}; prepare_data.py makes one"
        ) from None
    labels: ImageLabels = {}
    for key, values in pairs:
        image_id = drop_suffix(key)
        if image_id in labels:
            raise InputError(f"{path}: the image '{image_id}' stands twice; keep one of the two")
        ids = {class_id(value, f"image '{image_id}'") for value in values}
        labels[image_id] = tuple(sorted(ids))
    if not labels:
        raise InputError(f"{path} has no image in it; prepare_data.py makes such a file")
    return labels


def write_image_labels(path: str | Path, labels: ImageLabels) -> None:
    """Write JSON that `read_image_labels` reads back, whole or not at all, making the folder."""
    with replacing(Path(path)) as temporary:
        temporary.write_text(image_labels_text(labels), encoding="utf-8")


def image_labels_text(labels: ImageLabels) -> str:
    """The labels as JSON: one image a line, sorted, so that equal labels are equal texts."""
    lines = [f"{json.dumps(key)}: {json.dumps(list(labels[key]))}" for key in sorted(labels)]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _parse_json(path: Path, text: str) -> list[tuple[str, list]]:
    try:
        pairs = parse_json(text, object_pairs_hook=list)  # a dict would hide doubled keys
    except ValueError as error:
        raise InputError(
            f"{path} is not valid JSON: {error}; mend it there, or make it again: prepare_data.py"
        ) from None
    expected = f'{path}: expected {{"image id": [class ids]}}'
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise InputError(f"{expected}, found {text[:40]!r}")
    for key, values in pairs:
        if not isinstance(values, list):
            raise InputError(f"{expected}, found {values!r} for '{key}'")
    return pairs


def _parse_csv(
    path: Path,
    text: str,
    num_classes: int,
    class_id: Callable[[object, str], int],
    known_names: Container[str],
) -> list[tuple[str, list]]:
    rows = [(n, row) for n, row in enumerate(csv.reader(io.StringIO(text)), 1) if any(row)]
    header = [cell.strip() for cell in rows[0][1]] if rows else []
    if len(header) < 2 or header[0].lower() != "image":
        raise InputError(
            f"{path}: the first line must be 'image,labels' or 'image,<class>,<class>,...', "
            f"found '{','.join(header)}'"
        )
    is_list = [cell.lower() for cell in header] == ["image", "labels"]
    columns = [] if is_list else [class_id(cell, "first line") for cell in header[1:]]
    if not is_list and sorted(columns) != list(range(num_classes)):
        raise InputError(
            f"{path}: expected one column for each of the {num_classes} classes, "
            f"found {len(columns)}: {', '.join(header[1:])}"
        )
    pairs: list[tuple[str, list]] = []
    for line, row in rows[1:]:
        row = [cell.strip() for cell in row]
        if len(row) != len(header):
            raise InputError(f"{path}, line {line}: expected {len(header)} cells, found {len(row)}")
        if is_list:
            # A name may have blanks ("traffic light"): they separate only where there are no
            # semicolons and the whole is not one name.
            by_semicolon = ";" in row[1] or row[1].lower() in known_names
            values = [v.strip() for v in row[1].split(";" if by_semicolon else None) if v.strip()]
        else:
            if not set(row[1:]) <= {"0", "1"}:
                raise InputError(f"{path}, line {line}: the class columns must hold 0 or 1")
            values = [i for i, cell in zip(columns, row[1:], strict=True) if cell == "1"]
        pairs.append((row[0], values))
    return pairs
