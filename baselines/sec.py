"""SEC."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.dense_crf import SEC_TRAINING, mean_field

FLOOR = 1e-4  # of the probabilities, and of the CRF's marginals


def floored_softmax(logits: Tensor) -> Tensor:
    """p of logits (B,C,h,w): softmax + 1e-4, normalised again."""
    floored = logits.softmax(1) + FLOOR
    return floored / floored.sum(1, keepdim=True)


def seed_loss(p: Tensor, seeds: Tensor) -> Tensor:
    """L_seed = -mean over images of sum(S log p) / sum(S), sums over classes and pixels.

    p, seeds (B,C,h,w). A pixel may be the seed of several classes. An image without seeds gives 0
    (NaN in the release).
    """
    sums = (seeds * p.log()).sum((1, 2, 3))
    return -(sums / seeds.sum((1, 2, 3)).clamp(min=1)).mean()


def rank_pooling(p: Tensor, decays: Tensor) -> Tensor:
    """G_c = sum_j q_c^j p_(j) / sum_j q_c^j, p_(0) >= p_(1) >= ...: p (B,C,h,w), q (C) -> (B,C)."""
    ranked = p.flatten(2).sort(dim=2, descending=True).values
    weights = decays[:, None].double() ** torch.arange(ranked.shape[2], device=p.device)
    return (ranked * (weights / weights.sum(1, keepdim=True)).to(p)).sum(2)


def expand_loss(p: Tensor, labels: Tensor, decays: Tensor, background: bool) -> Tensor:
    """L_expand, the mean over images of

        -mean over present c of log G_c - mean over absent c of log(1 - max_u p_c) - log G_0

    p (B,C,h,w), labels (B,C), decays: q (C). background: class 0 is the last term and none of the
    others, whatever its label says; without one there is no such term. A mean over no class is 0
    (NaN in the release).
    """
    pooled, highest = rank_pooling(p, decays).log(), (1 - p.amax((2, 3))).log()
    first = int(background)
    present = labels[:, first:]
    loss = _mean_of(pooled[:, first:], present) + _mean_of(highest[:, first:], 1 - present)
    if background:
        loss = loss + pooled[:, 0]
    return -loss.mean()


def _mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean over c of the values (B,C) where `chosen` (B,C) is 1; 0 where there are none."""
    return (values * chosen).sum(1) / chosen.sum(1).clamp(min=1)


def crf_targets(scores: Tensor, images: Tensor) -> Tensor:
    """log Q of the CRF of raw scores (B,C,h,w), which are the negative unaries; (B,C,h,w).

    images uint8 (B,3,H,W) are resized to the grid. Q is at least 1e-4, and normalised again.
    """
    images = on_grid(images, scores.shape[-2:])
    pairs = zip(scores.detach(), images, strict=True)
    q = torch.stack([mean_field(-score, image, SEC_TRAINING) for score, image in pairs])
    q = q.clamp(min=FLOOR)
    return (q / q.sum(1, keepdim=True)).log()


def on_grid(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images uint8 (B,3,H,W) at `size`, corners aligned, in whole levels."""
    resized = F.interpolate(images.float(), size, mode="bilinear", align_corners=True)
    return resized.round().clamp(0, 255)


def constrain_loss(p: Tensor, log_q: Tensor) -> Tensor:
    """L_constrain = mean over images and pixels of sum over c of Q log(Q / p); (B,C,h,w) each."""
    return (log_q.exp() * (log_q - p.log())).sum(1).mean()
