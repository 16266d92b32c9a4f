"""Tensors out of files, without executing anything in them, and into files."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.errors import InputError
from utils.files import replacing


def read_tensors(path: str | Path, what: str) -> object:
    """What torch.save (or, for a .npy file, numpy.save) wrote, on the CPU.

    Raises InputError naming the file and `what` it should be.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: {what} can't be read: {error.strerror}") from None
    with file, refuse_damaged(path, what):
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(file, allow_pickle=False))
        return torch.load(file, map_location="cpu", weights_only=True)


@contextmanager
def refuse_damaged(path: Path, what: str) -> Iterator[None]:
    """Turn whatever goes wrong while `path` is parsed into an InputError."""
    try:
        yield
    # A damaged file fails at any place of zip, pickle and array readers: BadZipFile, KeyError,
    # UnicodeDecodeError, struct.error, AssertionError, MemoryError and more have been seen. Their
    # texts are not shown: torch's advises to load the file unsafely.
    except Exception:
        raise InputError(
            f"{path}: {what} can't be read: the file is cut short, is not a weights file, or holds "
            "more than tensors, numbers, texts and lists"
        ) from None


def write_tensors(path: Path, content: Any) -> None:
    """`torch.save`, whole or not at all: to a temporary file, flushed to the disk, then renamed.

    Raises OSError, as any writing does: torch.save to a file turns a full disk into an error of
    its own that does not say so.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())
