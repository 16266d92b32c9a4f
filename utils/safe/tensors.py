"""Reading tensors from files without executing anything in them, and writing them."""

import io
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.safe.errors import InputError
from utils.safe.file_kinds import stand_in
from utils.safe.files import replacing


def read_tensors(path: str | Path, what: str) -> object:
    """Content written by torch.save (or, in a .npy file, by numpy.save), on the CPU.

    Raises InputError naming the file and `what` it should be, even if only one bit has changed.
    """
    path = Path(path)
    try:
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: {what} can't be read: {error.strerror}") from None
    with file, refuse_damaged(path, what):
        if path.suffix == ".npy":
            return torch.from_numpy(np.load(file, allow_pickle=False))
        if zipfile.is_zipfile(file):
            archive = zipfile.ZipFile(file)
            if any("/code/" in name for name in archive.namelist()):
                raise ValueError("TorchScript, a program, which some releases of torch.load open")
            if archive.testzip() is not None:
                raise ValueError("a checksum is wrong")  # torch.load does not check them
        file.seek(0)
        content = torch.load(file, map_location="cpu", weights_only=True)
    _check_plain(content, path, what)
    return content


def _check_plain(content: object, path: Path, what: str) -> None:
    """Refuse tensors larger than their storage, and kinds that few functions accept."""
    left, seen = [content], set()
    while left:
        value = left.pop()
        if isinstance(value, dict | list | tuple) and id(value) not in seen:
            seen.add(id(value))  # a list may contain itself, or be in a hundred others
            left += value.values() if isinstance(value, dict) else value
        elif isinstance(value, torch.Tensor):
            kind = _odd_kind(value)
            if kind:
                raise InputError(
                    f"{path}: {what} has a tensor that is {kind}; expected plain numbers: save it "
                    "again as a dense, contiguous tensor"
                )


def _odd_kind(tensor: torch.Tensor) -> str:
    """Why a tensor is not plain; empty for a plain one."""
    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex():
        return "sparse, quantized or complex"
    if tensor.device.type != "cpu":
        return f"on '{tensor.device}', without numbers"
    stored = tensor.untyped_storage().nbytes()
    return "larger than its numbers" if tensor.numel() * tensor.element_size() > stored else ""


@contextmanager
def refuse_damaged(path: Path, what: str) -> Iterator[None]:
    """Turn every error while `path` is parsed into an InputError."""
    try:
        yield
    # A damaged file fails anywhere in the zip, pickle and array readers: BadZipFile, KeyError,
    # UnicodeDecodeError, struct.error, AssertionError, MemoryError and more. Their texts are not
    # shown: torch's advises to load the file unsafely.
    except Exception:
        found = stand_in(path) or (
            "the file is cut short or damaged, is not a weights file, or holds more than tensors, "
            "numbers, texts and lists; copy or download it again"
        )
        raise InputError(f"{path}: {what} can't be read: {found}") from None


def write_tensors(path: Path, content: Any, previous: Path | None = None) -> None:
    """`torch.save`, atomically: to a temporary file, flushed to the disk, then renamed.

    The file that was at `path` is kept as `previous`. Raises OSError; torch.save to a file would
    hide a full disk behind its own error.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    with replacing(path) as temporary:
        with temporary.open("wb") as file:
            file.write(buffer.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        if previous is not None and path.exists():
            _keep(path, previous)


def _keep(path: Path, previous: Path) -> None:
    """Link the file as `previous`; on disks without hard links, rename it."""
    try:
        with replacing(previous) as temporary:
            temporary.hardlink_to(path)
    except OSError:
        path.replace(previous)
