"""The tables between the markers of a README: nothing else of the file is touched."""

import re
from itertools import zip_longest
from pathlib import Path

from utils.safe.errors import InputError
from utils.safe.files import replacing

# A line of its own, so that a sentence may name a marker.
_MARKER = re.compile(r"^<!-- (/?)report:(.*?) -->[ \t]*(?=\r?$)", re.MULTILINE)


def fill_readme(path: Path, tables: dict[str, str]) -> tuple[list[str], list[str]]:
    """Put tables[NAME] between `<!-- report:NAME -->` and `<!-- /report:NAME -->`.

    Gives the names that were filled, and those without a table, which are left as they are: they
    may be of another run. Raises InputError for an unclosed marker, or when there is none with a
    table; the file is then as it was.
    """
    if not path.is_file():
        raise InputError(f"--readme: no file at {path}")
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    newline = "\r\n" if "\r\n" in text else "\n"
    parts, names, left = [], [], []
    kept = 0  # all before it is in `parts`
    markers = [*_MARKER.finditer(text)]
    for opened, closed in zip_longest(markers[::2], markers[1::2]):
        stray = opened if opened[1] else closed if closed and closed[2] != opened[2] else None
        if stray and stray[1]:
            raise InputError(f"{path}: {stray[0]} closes no <!-- report:{stray[2]} --> before it")
        if not closed or not closed[1]:
            raise InputError(f"{path}: {opened[0]} is not closed by <!-- /report:{opened[2]} -->")
        if (name := opened[2]) not in tables:
            left.append(name)
            continue
        table = tables[name].strip().replace("\n", newline)
        parts += [text[kept : opened.end()], newline, newline, table, newline, newline]
        names.append(name)
        kept = closed.start()
    if not names:
        raise InputError(
            f"{path}: no table has a place between lines <!-- report:NAME --> and "
            f"<!-- /report:NAME -->; the tables are {', '.join(tables)}"
        )
    filled = "".join([*parts, text[kept:]])
    if filled != text:
        with replacing(path.resolve()) as temporary:
            temporary.write_text(filled, encoding="utf-8", newline="")
    return names, left
