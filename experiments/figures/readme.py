"""Replacement of the tables between a README's markers."""

import re
from itertools import zip_longest
from pathlib import Path

from utils.safe.errors import InputError
from utils.safe.files import replacing

# A marker fills its line, so that a sentence may mention one.
_MARKER = re.compile(r"^<!-- (/?)report:(.*?) -->[ \t]*(?=\r?$)", re.MULTILINE)


def fill_readme(path: Path, tables: dict[str, str]) -> tuple[list[str], list[str]]:
    """Put tables[NAME] between `<!-- report:NAME -->` and `<!-- /report:NAME -->`.

    Gives the names of filled markers, and of markers without a table, which may belong to another
    run and are unchanged. Raises InputError, and changes nothing, for an unclosed marker or when
    no marker has a table.
    """
    if not path.is_file():
        raise InputError(f"--readme: no file at {path}")
    with path.open(encoding="utf-8", newline="") as file:
        text = file.read()
    newline = "\r\n" if "\r\n" in text else "\n"
    parts, names, left = [], [], []
    kept = 0  # text[:kept] is in `parts`
    markers = [*_MARKER.finditer(text)]
    for opened, closed in zip_longest(markers[::2], markers[1::2]):
        stray = opened if opened[1] else closed if closed and closed[2] != opened[2] else None
        if stray and stray[1]:
            raise InputError(f"{path}: {stray[0]} has no <!-- report:{stray[2]} --> before it")
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
            f"{path}: expected lines <!-- report:NAME --> and <!-- /report:NAME -->, found none "
            f"with NAME one of {', '.join(tables)}"
        )
    filled = "".join([*parts, text[kept:]])
    if filled != text:
        with replacing(path.resolve()) as temporary:
            temporary.write_text(filled, encoding="utf-8", newline="")
    return names, left
