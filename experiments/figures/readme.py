"""The tables between the markers of a README: nothing else of the file is touched."""

import re
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
    known = f"the tables are {', '.join(tables)}"
    parts, names, left, opened = [], [], [], None
    kept = 0  # all before it is in `parts`
    for marker in _MARKER.finditer(text):
        name = marker[2]
        if not marker[1]:
            if opened is not None:
                break
            opened = marker
            continue
        if opened is None or opened[2] != name:
            raise InputError(f"{path}: {marker[0]} closes no <!-- report:{name} --> before it")
        if name not in tables:
            left, opened = [*left, name], None
            continue
        table = tables[name].strip().replace("\n", newline)
        parts += [text[kept : opened.end()], newline, newline, table, newline, newline]
        names, kept, opened = [*names, name], marker.start(), None
    if opened is not None:
        raise InputError(f"{path}: {opened[0]} is not closed by <!-- /report:{opened[2]} -->")
    if not names:
        lines = "<!-- report:NAME --> and <!-- /report:NAME -->"
        raise InputError(f"{path}: no table has a place between lines {lines}; {known}")
    filled = "".join([*parts, text[kept:]])
    if filled != text:
        with replacing(path.resolve()) as temporary:
            temporary.write_text(filled, encoding="utf-8", newline="")
    return names, left
