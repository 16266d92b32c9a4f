"""Tensors out of files that others made, without executing anything in them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from utils.errors import InputError


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
