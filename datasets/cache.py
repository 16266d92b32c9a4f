"""Cache of decoded images: decoding a PNG takes ten times longer than all other augmentation.

One .npy file per image, uint8 (H,W,3), named after the image file, its size and its time, so that
a changed file is decoded again. Old files stay until the folder is deleted.
"""

import os
from pathlib import Path

import numpy as np

from datasets.files import File, Reader, read_image
from datasets.windows import Size, Window
from utils.safe.errors import InputError
from utils.safe.files import replacing, sha256


def open_cached(folder: Path, file: File) -> tuple[Size, Reader]:
    """Same result as `open_image`; decodes the image once and keeps it in `folder`.

    Safe for any number of processes at once.
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
    """The pixels, memory-mapped; None where the file is missing or damaged."""
    try:
        pixels = np.lib.format.open_memmap(entry, mode="r")  # np.load would also open a zip
    except Exception:  # missing; or a damaged header, which can fail in any way
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
