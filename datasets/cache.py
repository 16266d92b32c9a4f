"""Decoded images in a folder: a PNG takes ten times longer to decode than all the rest.

One .npy file per image, uint8 (H,W,3), named after the image file, its size and its time, so that
of a changed file nothing old is read. What is left of old files stays until the folder is deleted.
"""

import os
from pathlib import Path

import numpy as np

from datasets.files import File, Reader, read_image
from datasets.windows import Size, Window
from utils.safe.errors import InputError
from utils.safe.files import replacing, sha256


def open_cached(folder: Path, file: File) -> tuple[Size, Reader]:
    """What `open_image` gives; decodes the image once and keeps it in `folder`.

    Any number of processes may do so at once.
    """
    entry = _entry(folder, file)
    pixels = _map(entry)
    if pixels is None:
        pixels = read_image(file)
        _write(entry, pixels)

    def read(window: Window) -> np.ndarray:
        top, left, height, width = window
        return np.array(pixels[top : top + height, left : left + width])  # reads only these pages

    return pixels.shape[:2], read


def _entry(folder: Path, file: File) -> Path:
    try:
        status = Path(file.path).stat()
    except OSError as error:
        raise InputError(f"cannot read {file}: {error.strerror}") from None
    identity = (str(Path(file.path).absolute()), file.member, status.st_size, status.st_mtime_ns)
    return folder / f"{sha256(repr(identity))[:32]}.npy"


def _map(entry: Path) -> np.ndarray | None:
    """The pixels, in memory as they are looked at; None where they are not there whole."""
    try:
        pixels = np.lib.format.open_memmap(entry, mode="r")  # np.load would also open a zip
    except Exception:  # not there; or a damaged header, which can fail in every way
        return None
    right = pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3
    return pixels if right else None


def _write(entry: Path, pixels: np.ndarray) -> None:
    try:
        with replacing(entry) as temporary, temporary.open("wb") as file:
            np.save(file, pixels, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise InputError(
            f"the image cache {entry.parent} can't be written: {error.strerror}; name another "
            "folder, or null"
        ) from None
