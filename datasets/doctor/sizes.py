"""Sizes of a data set's images, from the headers of some of its files."""

import contextlib
import statistics
from collections.abc import Mapping, Sequence

from datasets.files import File, open_pil
from datasets.windows import Size

_HEAD = 1 << 17  # bytes; an image whose size comes later is read whole
_ORIENTATION = 0x0112  # the EXIF tag
_TURNED = 5  # from this orientation on, height and width are swapped


def sample_sizes(images: Mapping[str, File], most: int = 200) -> list[Size]:
    """(height, width), upright, of at most `most` images, evenly spread over the listing.

    Images that can't be read are left out: --check names them.
    """
    files = list(images.values())
    count = min(most, len(files))
    sizes = (read_size(files[i * len(files) // count]) for i in range(count))
    return [size for size in sizes if size is not None]


def median_size(sizes: Sequence[Size]) -> Size:
    """(height, width): medians of the shorter and the longer sides, oriented as most images are."""
    short = round(statistics.median(min(size) for size in sizes))
    long = round(statistics.median(max(size) for size in sizes))
    portrait = sum(height > width for height, width in sizes)
    return (long, short) if 2 * portrait > len(sizes) else (short, long)


def read_size(file: File) -> Size | None:
    """(height, width), upright, from the file's header; None where it can't be read."""
    for read in (lambda: file.head(_HEAD), file.read):
        with contextlib.suppress(Exception):  # a damaged image can fail in every way
            return _upright(read())
    return None


def _upright(data: bytes) -> Size:
    with open_pil(data) as image:
        turned = 1
        if image.format != "PNG" or "exif" in image.info:  # else a PNG would be decoded
            turned = image.getexif().get(_ORIENTATION, 1)
        width, height = image.size
    return (width, height) if turned >= _TURNED else (height, width)
