"""Pseudo-masks from points and a network's own scores, made anew in each step.

After Akiva and Dana (WACV 2023, arXiv:2106.10309): "on-the-fly pseudo-masks through refined and
spatially filtered features". Refinement and cut-off follow code by the first author
(Kitware/geowatch, 2021 and 2022); the distance weight is ours. baselines/points.py trains on them.

The points of an image are float32 (n,3), rows (x, y, class) on the CPU, in pixels of the image and
also outside it; a list holds those of a batch. Masks have a cell for every 4 x 4 pixels.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from datasets.labels import IGNORE_INDEX
from models.carb import upsample
from models.pamr import pamr

STRIDE = 4  # pixels per side of a cell; ours
ITERATIONS = 10  # of the refinement; geowatch, models/tex_refine.py
DILATIONS = (1, 2, 4, 8, 12, 24)  # of the refinement; the same
SMALL = 48  # up to so many cells on the shorter side, the first four dilations only; ours
CUTOFF = 0.5  # share of a class's best score in the image; ours (0.75 in geowatch)


class Parts(NamedTuple):
    """Parts of the method in use. `discs`: radius in pixels of discs in place of the masks."""

    masks: bool = True
    refinement: bool = True
    distance: bool = True
    discs: float | None = None


WHOLE = Parts()


@torch.no_grad()
def pseudo_mask(
    logits: Tensor,
    image: Tensor,
    valid: Tensor,
    points: list[Tensor],
    scale: float,
    parts: Parts = WHOLE,
) -> Tensor:
    """Classes of the cells, y (B,h,w) long, IGNORE_INDEX where there is no label.

    logits (B,K,h',w') of the network, image uint8 (B,3,H,W), valid bool (B,H,W); scale: of the
    distance weight, in pixels. The classes of an image are those of its points.
    """
    size = tuple(image.shape[-2:])
    near = distances(points, size, logits.shape[1], logits.device)
    covered = valid_cells(valid)
    if parts.discs is not None:
        distance, mask = near.min(1)
        mask = mask.where(distance <= parts.discs, IGNORE_INDEX)
    else:
        absent = near[:, :, :1, :1].isinf()
        scores = logits.float().masked_fill(absent, -torch.inf).softmax(1).nan_to_num(0)
        scores = upsample(scores, grid_size(size))
        if parts.refinement:
            scores = refine(image, scores)
        if parts.distance:
            scores = scores * torch.exp(-near / scale)
        mask = cut_off(scores, covered)
    return stamp(mask, points, size).where(covered, IGNORE_INDEX)


def grid_size(size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of cells of an image of `size` (height, width)."""
    return -(-size[0] // STRIDE), -(-size[1] // STRIDE)


def valid_cells(valid: Tensor) -> Tensor:
    """Cells that lie in the image as a whole, not in its padding: bool (B,H,W) -> (B,h,w)."""
    share = F.interpolate(valid[:, None].float(), grid_size(tuple(valid.shape[-2:])), mode="area")
    return share[:, 0] == 1


def distances(
    points: list[Tensor], size: tuple[int, int], num_classes: int, device: torch.device | str
) -> Tensor:
    """D_c(i), pixels from the centre of cell i to the nearest point of class c: (B,K,h,w) float32.

    Infinite where the image has no point of the class.
    """
    rows, columns = (
        (torch.arange(cells, device=device) + 0.5) * (extent / cells) - 0.5
        for cells, extent in zip(grid_size(size), size, strict=True)
    )
    shape = len(points), num_classes, len(rows), len(columns)
    squares = torch.full(shape, torch.inf, device=device)
    for image, own in enumerate(points):
        for x, y, k in own.tolist():
            nearest = squares[image, int(k)]
            square = (rows - y).square()[:, None] + (columns - x).square()
            torch.minimum(nearest, square, out=nearest)
    return squares.sqrt_()


def refine(image: Tensor, scores: Tensor) -> Tensor:
    """Scores (B,K,h,w) averaged along the edges of image (B,3,H,W), 0..255, resized to the cells.

    Sums over the classes are kept: 1 stays 1.
    """
    size = tuple(scores.shape[-2:])
    small = F.interpolate(image.float(), size, mode="area")
    return pamr(small, scores, ITERATIONS, DILATIONS if min(size) > SMALL else DILATIONS[:4])


def cut_off(scores: Tensor, covered: Tensor) -> Tensor:
    """y(i) = argmax_c q_c(i) where q_y(i) >= CUTOFF max_j q_y(j), else IGNORE_INDEX.

    scores q (B,K,h,w), not negative; covered (B,h,w): the cells that count -> (B,h,w). A cell in
    which all scores are 0 has no label.
    """
    scores = scores * covered[:, None]
    best, mask = scores.max(1)
    highest = scores.amax((2, 3)).gather(1, mask.flatten(1)).view_as(best)
    return mask.where((best > 0) & (best >= CUTOFF * highest), IGNORE_INDEX)


def stamp(mask: Tensor, points: list[Tensor], size: tuple[int, int]) -> Tensor:
    """`mask` (B,h,w) with each point's class in its cell; of several classes the highest id."""
    pixels, ids, inside = pixels_of(points, size, mask.device)
    height, width = mask.shape[-2:]
    columns = (2 * pixels[..., 0] + 1) * width // (2 * size[1])
    rows = (2 * pixels[..., 1] + 1) * height // (2 * size[0])
    cells = (rows * width + columns).where(inside, 0)
    stamped = torch.full_like(mask, -1).flatten(1)
    stamped = stamped.scatter_reduce(1, cells, ids.where(inside, -1), "amax").view_as(mask)
    return stamped.where(stamped >= 0, mask)


def pixels_of(
    points: list[Tensor], size: tuple[int, int], device: torch.device | str
) -> tuple[Tensor, Tensor, Tensor]:
    """Pixels (B,n,2) as (x, y), class ids (B,n), and which pixels lie in the image, bool (B,n).

    n is the largest number of points; shorter lists are filled up with points outside.
    """
    padded = pad_sequence(points, batch_first=True, padding_value=-1).to(device)
    pixels = (padded[..., :2] + 0.5).floor().long()
    x, y = pixels.unbind(-1)
    inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
    return pixels, padded[..., 2].long().clamp(min=0), inside
