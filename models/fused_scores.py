"""CLIP's class scores of an image from several views of it: resized, cropped, mirrored (Fig. 3)."""

from itertools import pairwise

import torch
from torch import Tensor

from models.maskclip import MaskCLIP
from utils.inference import resize

Size = tuple[int, int]  # (height, width) or (rows, columns)


def mean_scores(
    maskclip: MaskCLIP, image: Tensor, size: Size, ratios: list[float], grid: Size, flip: bool
) -> Tensor:
    """Class scores averaged over resize ratios and, with `flip`, over the mirrored image.

    Normalised image (B, 3, h, w) -> (B, K, H, W) with (H, W) = `size`.
    """
    passes = [(ratio, mirrored) for ratio in ratios for mirrored in (False, True)[: 1 + flip]]
    total = 0
    for ratio, mirrored in passes:
        view = image.flip(-1) if mirrored else image
        scores = grid_scores(maskclip, view, size, ratio, grid)
        total = total + (scores.flip(-1) if mirrored else scores)
    return total / len(passes)


def grid_scores(maskclip: MaskCLIP, image: Tensor, size: Size, ratio: float, grid: Size) -> Tensor:
    """Scores of grid = (rows, columns) crops, each resized by `ratio` before CLIP, put together."""
    height, width = image.shape[-2:]
    rows = []
    for vertical, out_vertical in cells(height, size[0], grid[0]):
        row = []
        for horizontal, out_horizontal in cells(width, size[1], grid[1]):
            crop = image[..., vertical, horizontal]
            crop = resize(crop, tuple(max(1, round(side * ratio)) for side in crop.shape[-2:]))
            row.append(
                maskclip.upsampled_scores(crop, (length(out_vertical), length(out_horizontal)))
            )
        rows.append(torch.cat(row, dim=-1))
    return torch.cat(rows, dim=-2)


def cells(side: int, out_side: int, parts: int) -> list[tuple[slice, slice]]:
    """`parts` equal stretches of one axis: where each lies in the image and in the scores."""
    edges = [(side * i // parts, out_side * i // parts) for i in range(parts + 1)]
    return [
        (slice(start, end), slice(out_start, out_end))
        for (start, out_start), (end, out_end) in pairwise(edges)
    ]


def length(part: slice) -> int:
    return part.stop - part.start
