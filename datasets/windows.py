"""Resizing of a window of the result only. Sizes are (height, width)."""

from collections.abc import Iterator

import torch
import torch.nn.functional as F

from datasets.photometric import to_uint8

Size = tuple[int, int]
Window = tuple[int, int, int, int]  # top, left, height, width
STRIP = 128  # rows of the image or of the result, whichever has more


def source_window(size: Size, resized: Size, window: Window) -> Window:
    """The part of an image of `size` that `window` of the resized image shows."""
    (top, bottom), (left, right) = (
        _span(size[axis], resized[axis], window[axis], window[axis + 2]) for axis in (0, 1)
    )
    return top, left, bottom - top, right - left


def resize_window(
    part: torch.Tensor, size: Size, resized: Size, window: Window
) -> Iterator[torch.Tensor]:
    """`window` of an image of `size`, resized to `resized`: bilinear, without antialiasing.

    part: uint8 (3,h,w), the image's `source_window`. At ratio 2 that is a tenth of the work.
    Yields strips of rows, so that further steps on a strip stay in the processor's cache.
    """
    top, left, height, width = window
    columns = _places(size[1], resized[1], left, width)
    first_row = _span(size[0], resized[0], top, height)[0]
    strip = max(1, STRIP * min(resized[0], size[0]) // size[0])
    for start in range(top, top + height, strip):
        length = min(strip, top + height - start)
        rows = _places(size[0], resized[0], start, length)
        above, below = _span(size[0], resized[0], start, length)
        source = part[None, :, above - first_row : below - first_row].float()
        points = torch.stack(torch.meshgrid(columns, rows, indexing="xy")).movedim(0, -1)
        pixels = F.grid_sample(source, points[None], padding_mode="border", align_corners=False)
        yield to_uint8(pixels[0].round_())


def resize_window_nearest(mask: torch.Tensor, resized: Size, window: Window) -> torch.Tensor:
    """`window` of a mask (H,W) resized to `resized`, nearest."""
    for axis in (0, 1):
        extent, start = mask.shape[axis], window[axis]
        # OpenCV's formula with its rounding: the product can fall just below a whole number.
        step = 1 / (resized[axis] / extent)
        source = torch.arange(start, start + window[axis + 2], dtype=torch.float64) * step
        mask = mask.index_select(axis, source.long().clamp_(max=extent - 1))
    return mask


def _span(extent: int, resized: int, start: int, length: int) -> tuple[int, int]:
    """First source pixel, and one past the last, that `length` pixels from `start` are made of."""
    first, last = (
        min(max((place + 0.5) * (extent / resized) - 0.5, 0), extent - 1)
        for place in (start, start + length - 1)
    )
    return int(first), min(int(last) + 2, extent)


def _places(extent: int, resized: int, start: int, length: int) -> torch.Tensor:
    """Positions of these pixels in their `_span`, in grid_sample's range of -1 to 1."""
    first, last = _span(extent, resized, start, length)
    centers = torch.arange(start, start + length, dtype=torch.float64).add_(0.5)
    source = centers.mul_(extent / resized).sub_(0.5).clamp_(0, extent - 1)
    return source.sub_(first - 0.5).mul_(2 / (last - first)).sub_(1).float()
