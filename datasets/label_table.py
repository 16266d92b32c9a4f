"""CSV files of image-level labels, from spreadsheets and other programs."""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from utils.safe.errors import InputError

Row = tuple[str, list | InputError]  # key of an image; its class ids or names, or an error
_IMAGE = ("image", "images", "filename", "file", "image_id", "imageid", "image_name", "image_path")
_IMAGE += ("img", "imagename", "imagepath", "file_name", "filepath", "path", "id", "name")
_LABELS = ("labels", "label", "classes", "class", "class_ids", "tags", "categories")
_INDEX = ("", "unnamed: 0", "index")  # of a table that pandas wrote
_TRUE = ("1", "1.0", "true", "wahr", "vrai", "yes", "x")
_FALSE = ("0", "0.0", "false", "falsch", "faux", "no")


def parse_table(
    path: Path, text: str, num_classes: int, ids_of_names: Mapping[str, int]
) -> tuple[list[Row], bool]:
    """The rows, and whether their values are certainly class ids (one column for each class).

    The separator of the header counts: comma, semicolon, tab or bar. Raises InputError where the
    header is not understood; an error in one row takes its place.
    """
    lines = _read(path, text)
    header = lines[0][1] if lines else []
    if header and header[0].lower() in _INDEX and len(header) > 2 and _is_image(header[1]):
        lines = [(number, row[1:]) for number, row in lines]
        header = header[1:]
    columns = None if _is_list(header) else _columns(path, header, num_classes, ids_of_names)
    cells = {cell.lower() for _, row in lines[1:] for cell in row[1:]} if columns else set()
    # An empty cell is an absent class only in a table without 0s; else it is a missing value.
    absent = _FALSE if cells.intersection(_FALSE) else ("",)
    rows: list[Row] = []
    for number, row in lines[1:]:
        values: list | InputError
        where = f"{path}, line {number}"
        if len(row) != len(header):
            values = InputError(
                f"{where}: expected {len(header)} cells, found {len(row)}; several labels of an "
                "image are separated by semicolons, or are in quotes"
            )
        elif not row[0]:
            values = InputError(f"{where}: no image in the first cell; name it, or remove the line")
        elif columns is None:
            values = split_cell(row[1], ids_of_names)
        elif {cell.lower() for cell in row[1:]}.issubset((*_TRUE, *absent)):
            present = zip(columns, row[1:], strict=True)
            values = [k for k, cell in present if cell.lower() in _TRUE]
        else:
            wrong = next(c for c in row[1:] if c.lower() not in (*_TRUE, *absent))
            values = InputError(
                f"{where}: the class columns must hold 0 or 1 (or true and false), found '{wrong}'"
            )
        rows.append((row[0], values))
    return rows, columns is not None


def is_label_table(path: Path, names: Sequence[str]) -> bool:
    """Whether a CSV file has a header of image-level labels for these classes."""
    try:
        with path.open("rb") as file:
            head = file.read(1 << 16)
        encoding = "utf-16" if head.startswith((b"\xff\xfe", b"\xfe\xff")) else "utf-8-sig"
        text = head.decode(encoding, errors="replace")
        parse_table(path, text, len(names), {name.lower(): k for k, name in enumerate(names)})
    except (OSError, ValueError):
        return False
    return True


def split_cell(cell: str, known_names: Mapping[str, int]) -> list[str]:
    """'road; traffic light', '[0, 3]' or '0 3' -> the ids or names in it."""
    if cell.lower() in known_names:
        return [cell]
    cell = cell.strip()
    if re.fullmatch(r"\[.*\]|\(.*\)|\{.*\}", cell):
        cell = cell[1:-1]
    if cell.lower() in known_names:
        return [cell]
    # A name may have blanks ("traffic light"): they separate only where nothing else does.
    separator = next((mark for mark in ";|," if mark in cell), None)
    if separator is None and cell[:1] in ("'", '"'):
        values = re.split(r"""(?<=['"])\s+(?=['"])""", cell)  # as NumPy prints a list of texts
    else:
        values = [value.strip() for value in cell.split(separator)]
    return [re.sub(r"""^(["'])(.*)\1$""", r"\2", value) for value in values if value]


def _read(path: Path, text: str) -> list[tuple[int, list[str]]]:
    """Number and cells of the lines that are not empty, the header first."""
    marks = ",;\t|"
    asked = re.match(r'"?sep=(.)"?\s*\n', text, re.IGNORECASE)  # a spreadsheet's own first line
    if asked:
        marks, text = asked[1], "\n" + text[asked.end() :]
    first = next((line for line in text.splitlines() if line.strip()), "")
    try:
        fits = {mark: _fits(next(csv.reader([first], delimiter=mark), [])) for mark in marks}
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=max(marks, key=fits.get))
        lines = [(rows.line_num, [cell.strip() for cell in row]) for row in rows]
    except csv.Error as error:
        raise InputError(f"{path} is not a text file of labels: {error}") from None
    lines = [(number, row) for number, row in lines if any(row)]
    while lines and len(lines[0][1]) > 1 and not any(row[-1] for _, row in lines):
        lines = [(number, row[:-1]) for number, row in lines]  # an empty last column
    return lines


def _fits(header: list[str]) -> bool:
    header = [cell.strip() for cell in header]
    return len(header) > 1 and (_is_image(header[0]) or header[0].lower() in _INDEX)


def _is_image(cell: str) -> bool:
    return cell.lower().replace(" ", "_") in _IMAGE


def _is_list(header: list[str]) -> bool:
    if len(header) != 2 or header[1].lower() not in _LABELS:
        return False
    return _is_image(header[0]) or not header[0]


def _columns(
    path: Path, header: list[str], num_classes: int, ids_of_names: Mapping[str, int]
) -> list[int]:
    """The class of each column but the first. Raises InputError."""
    if not _fits(header):
        raise InputError(
            f"{path}: the first line must be 'image,labels' or 'image,<class>,<class>,...', "
            f"found '{','.join(header)}'"
        )
    columns = []
    for cell in header[1:]:
        k = ids_of_names.get(cell.lower(), int(cell) if re.fullmatch(r"\d{1,3}", cell) else -1)
        if not 0 <= k < num_classes:
            raise InputError(
                f"{path}: first line: expected 'labels', or a class id 0..{num_classes - 1} or "
                f"name for each column, found '{cell}'"
            )
        columns.append(k)
    if sorted(columns) != list(range(num_classes)):
        raise InputError(
            f"{path}: expected one column for each of the {num_classes} classes, "
            f"found {len(columns)}: {', '.join(header[1:])}"
        )
    return columns
