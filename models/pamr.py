"""PAMR (Araslanov and Roth 2020): class scores averaged over nearby pixels of similar colour.

Each pixel takes the mean of its neighbours' scores, weighted by the similarity of their colours,
several times over. The result is a convex combination of the scores: their range is kept, and
classes do not mix.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.safe.errors import InputError, is_out_of_memory


@torch.no_grad()
def pamr(image: Tensor, scores: Tensor, steps: int, dilations: Sequence[int]) -> Tensor:
    """`scores` (B,K,h,w) refined at the size of `image` (B,3,H,W) -> (B,K,H,W), float32.

    The scores are resized first (bilinear, align_corners=True). They must be finite: -inf would
    become NaN, so filter by labels afterwards. Memory beyond image and scores: the result, and 8
    float32 values a pixel for each dilation. Raises InputError where it does not suffice.
    """
    size = image.shape[-2:]
    try:
        weights = affinities(image.float(), dilations)
        refined = weights.new_empty(*scores.shape[:2], *size)
        # Class by class: a step holds a plane twice, not all classes twice.
        for k in range(scores.shape[1]):
            plane = scores[:, k : k + 1].float().contiguous()
            plane = F.interpolate(plane, size, mode="bilinear", align_corners=True)
            for _ in range(steps):
                plane = propagate(plane, weights, dilations)
            refined[:, k : k + 1] = plane
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        # official code (NACLIP): goes on without PAMR / here: stops
        raise InputError(
            f"no memory is left for PAMR of {scores.shape[1]} classes at {size[0]}x{size[1]} "
            f"pixels with {len(dilations)} dilations ({str(error).splitlines()[0]}); use smaller "
            "images, fewer classes or fewer dilations, or leave PAMR out (pamr_steps: 0)"
        ) from error
    return refined


def affinities(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Weight of each neighbour: image (B,3,H,W) -> (B,8*len(dilations),H,W), sums of 1 a pixel.

    w_p = softmax over p of mean_channels(-|I_p - I| / (1e-8 + 0.1 sigma)), Araslanov and Roth
    2020, section 4. Taps in the order of `neighbours`.
    """
    scale = 1e-8 + 0.1 * local_std(image, dilations)
    logits = image.new_empty(len(image), 8 * len(dilations), *image.shape[-2:])
    for p, neighbour in enumerate(neighbours(image, dilations)):
        logits[:, p] = ((neighbour - image).abs() / scale).mean(1).neg()
    return logits.softmax(1)


def local_std(image: Tensor, dilations: Sequence[int]) -> Tensor:
    """Unbiased standard deviation sigma of each pixel and its neighbours: (B,3,H,W) -> (B,3,H,W).

    The pixel itself counts once a dilation, as in the official code: 9*len(dilations) values.
    """
    count = 9 * len(dilations)
    mean = len(dilations) * image
    for neighbour in neighbours(image, dilations):
        mean = mean + neighbour
    mean = mean / count
    squares = len(dilations) * (image - mean).square()
    for neighbour in neighbours(image, dilations):
        squares = squares + (neighbour - mean).square()
    return (squares / (count - 1)).sqrt()


def propagate(scores: Tensor, weights: Tensor, dilations: Sequence[int]) -> Tensor:
    """One step, m <- sum_p w_p m_p over the neighbours alone: (B,K,H,W), `affinities` -> (B,K,H,W).

    Tap by tap, so that nothing of K times the number of taps is stored.
    """
    total = torch.zeros_like(scores)
    for p, neighbour in enumerate(neighbours(scores, dilations)):
        total.addcmul_(weights[:, p : p + 1], neighbour)
    return total


def neighbours(maps: Tensor, dilations: Sequence[int]) -> Iterator[Tensor]:
    """The 8 neighbours of every pixel at each dilation, row by row: each (B,C,H,W).

    Borders are repeated. Views of one padded copy.
    """
    height, width = maps.shape[-2:]
    margin = max(dilations)
    padded = F.pad(maps, (margin,) * 4, mode="replicate")
    for dilation in dilations:
        offsets = (margin - dilation, margin, margin + dilation)
        for top in offsets:
            for left in offsets:
                if (top, left) != (margin, margin):
                    yield padded[..., top : top + height, left : left + width]
