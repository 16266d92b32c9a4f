"""Files written whole or not at all, and their SHA-256."""

import errno
import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from utils.safe.errors import InputError

UNFINISHED = re.compile(r"\.\d+\.tmp(\.\w+)?$")  # names of `replacing` and of `save_image`


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A place beside `path` to write to, renamed onto it at the end and removed on failure.

    Makes the folder. Several processes may write the same file at once; each replaces it whole.
    An OSError names `path`: that of a full disk names nothing, another one the temporary file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename2 == str(temporary):
            error.filename2 = str(path)
        elif error.errno and not error.filename2 and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def remove_unfinished(folder: Path, below: bool = True) -> None:
    """What killed processes left half-written in a folder and, unless told not to, below it."""
    for path in folder.rglob("*.tmp*") if below else folder.glob("*.tmp*"):
        if UNFINISHED.search(path.name):
            path.unlink(missing_ok=True)


def check_folder(folder: Path, option: str) -> None:
    """Raise InputError when files can't be written to `folder`, which need not be there yet.

    For a script that will write only after hours. `option` is what named the folder.
    """
    try:
        there = next(path for path in (folder, *folder.parents) if path.exists())
        if not there.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with TemporaryFile(dir=there) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        raise InputError(
            f"{option} {folder}: {error.strerror}; name a folder to write to"
        ) from None


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Whole or not at all, making the folder."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def parse_json(text: str | bytes, **options: Any) -> Any:
    """`json.loads`; whatever is wrong with the text is a ValueError."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("too many brackets in each other") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file that a script of ours wrote. Raises InputError when damaged."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise InputError(f"{path} can't be read; remove it and run again")
    return content


def sha256(content: str | bytes | Path) -> str:
    """Hexadecimal digest of a text (as UTF-8), of bytes, or of the content of a file."""
    if isinstance(content, Path):
        with content.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    return hashlib.sha256(content.encode() if isinstance(content, str) else content).hexdigest()
