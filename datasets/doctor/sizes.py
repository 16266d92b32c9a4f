"""Sizes of a data set's images, from the heads of some of its files."""

import contextlib
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from datasets.files import File, open_picture
from datasets.windows import Size

_HEAD = 1 << 17  # bytes; an image that says its size later is read whole
_ORIENTATION = 0x0112  # the EXIF tag
_LYING = 5  # from this orientation on, height and width change places


def sample_sizes(images: Mapping[str, File], most: int = 200) -> list[Size]:
    """(height, width), upright, of at most so many images, evenly spread over the listing.

    Images that can't be read are left out: --check names them.
    """
    files = list(images.values())
    count = min(most, len(files))
    sizes = (_size(files[i * len(files) // count]) for i in range(count))
    return [size for size in sizes if size is not None]


def median_size(sizes: Sequence[Size]) -> Size:
    """(height, width): the medians of the shorter and of the longer sides, as most images lie."""
    short = round(statistics.median(min(size) for size in sizes))
    long = round(statistics.median(max(size) for size in sizes))
    portrait = sum(height > width for height, width in sizes)
    return (long, short) if 2 * portrait > len(sizes) else (short, long)


def _size(file: File) -> Size | None:
    if file.member is None and Path(file.path).is_file():
        with contextlib.suppress(Exception), Path(file.path).open("rb") as stream:
            return _upright(stream.read(_HEAD))
    with contextlib.suppress(Exception):  # a damaged image can fail in every way
        return _upright(file.read())
    return None


def _upright(data: bytes) -> Size:
    with open_picture(data) as picture:
        turned = 1
        if picture.format != "PNG" or "exif" in picture.info:  # else a PNG would be decoded
            turned = picture.getexif().get(_ORIENTATION, 1)
        width, height = picture.size
    return (width, height) if turned >= _LYING else (height, width)
