"""Atomic writing of files, JSON, and SHA-256."""

import errno
import hashlib
import json
import os
import re
import socket
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from utils.safe.errors import InputError

UNFINISHED = re.compile(r"\.\d+\.tmp(\.\w+)?$")  # names of `replacing` and of `save_image`


@contextmanager
def replacing(path: Path, replace: bool = True) -> Iterator[Path]:
    """Temporary path beside `path`, renamed to it at the end and removed on failure.

    Creates the folder. Several processes may write the same file at once; each replaces it as a
    whole. replace: without it an existing file stays, so that the first of several processes wins
    (the last on a disk without hard links). An OSError names `path`, not the temporary file or, for
    a full disk, nothing.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}.tmp")
    try:
        yield temporary
        if replace or not _linked(path, temporary):
            temporary.replace(path)
    except OSError as error:
        if error.filename2 == str(temporary):
            error.filename2 = str(path)
        elif error.errno and not error.filename2 and error.filename in (None, str(temporary)):
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def _linked(path: Path, temporary: Path) -> bool:
    """Whether `path` exists, as a further name of `temporary` where it did not before."""
    with suppress(OSError):
        path.hardlink_to(temporary)
    return path.exists()


def remove_unfinished(folder: Path, below: bool = True) -> None:
    """Remove unfinished files of killed processes from a folder and, if `below`, subfolders."""
    for path in folder.rglob("*.tmp*") if below else folder.glob("*.tmp*"):
        if UNFINISHED.search(path.name):
            path.unlink(missing_ok=True)


def check_folder(folder: Path, option: str) -> None:
    """Raise InputError when files can't be written to `folder`, which need not exist yet.

    For scripts that write only after hours. `option` is the flag that named the folder.
    """
    try:
        existing = next(path for path in (folder, *folder.parents) if path.exists())
        if not existing.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with TemporaryFile(dir=existing) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        raise InputError(
            f"{option} {folder}: {error.strerror}; name a folder to write to"
        ) from None


def check_new_files(folder: Path, files: Collection[str], option: str, overwrite: bool) -> None:
    """Raise InputError when files can't be written to `folder`, or would replace others.

    files: their paths below `folder`. `option` is the flag that named the folder.
    """
    check_folder(folder, option)
    existing = [file for file in files if (folder / file).exists()]
    if existing and not overwrite:
        raise InputError(
            f"{folder} has {len(existing)} of the {len(files)} files already, the first is "
            f"{existing[0]}; name another {option}, or --overwrite to replace them"
        )


def write_json(path: Path, content: dict[str, Any], replace: bool = True) -> None:
    """Write JSON atomically; creates the folder.

    replace: as of `replacing`.
    """
    with replacing(path, replace) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def parse_json(text: str | bytes, **options: Any) -> Any:
    """`json.loads`; every error in the text is a ValueError."""
    try:
        return json.loads(text, **options)
    except RecursionError:
        raise ValueError("brackets are nested too deeply") from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file of our scripts. Raises InputError when it is damaged."""
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
