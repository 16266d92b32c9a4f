"""Losses of SEC: seed, expand and constrain; seeds from CAMs.

Kolesnikov and Lampert, "Seed, Expand and Constrain", ECCV 2016; formulas after kolesman/SEC
@c7841905 (MIT), training/: the layers and train.prototxt. baselines/sec.py trains with them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.labels import ClassTable, has_background
from models.dense_crf import SEC_TRAINING, mean_field, resized_kernels
from utils.class_names import plain_name

FLOOR = 1e-4  # of the probabilities, and of the CRF's marginals
DECAY, BACKGROUND_DECAY = 0.996, 0.999  # q of L_expand
GRID = 41  # their height and width, in cells
SEED_THRESHOLD, BACKGROUND_SEEDS = 0.2, 0.1  # of the maximum of a map; share of the cells
# Ours: classes that are large like their background.
STUFF = {
    *("road", "sidewalk", "building", "wall", "vegetation", "tree", "terrain", "grass", "sky"),
}


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


def crf_targets(scores: Tensor, images: Tensor, scale: float = 1.0) -> Tensor:
    """log Q of the CRF of raw scores (B,C,h,w), which are the negative unaries; (B,C,h,w).

    images uint8 (B,3,H,W) are resized to the grid. scale: of the CRF's widths. Q is at least 1e-4,
    and normalised again.
    """
    images = on_grid(images, scores.shape[-2:])
    pairs = zip(scores.detach(), images, strict=True)
    kernels = resized_kernels(SEC_TRAINING, scale)
    q = torch.stack([mean_field(-score, image, kernels) for score, image in pairs])
    q = q.clamp(min=FLOOR)
    return (q / q.sum(1, keepdim=True)).log()


def on_grid(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images uint8 (B,3,H,W) at `size`, corners aligned, in whole levels."""
    resized = F.interpolate(images.float(), size, mode="bilinear", align_corners=True)
    return resized.round().clamp(0, 255)


def constrain_loss(p: Tensor, log_q: Tensor) -> Tensor:
    """L_constrain = mean over images and pixels of sum over c of Q log(Q / p); (B,C,h,w) each."""
    return (log_q.exp() * (log_q - p.log())).sum(1).mean()


def seeds_of(cams: Tensor, present: Tensor, background: bool) -> Tensor:
    """S (C,h,w) of maps (C',h,w) >= 0: present maps above 0.2 of their maximum.

    Of several classes of a cell the one with the fewest cells wins. background: C = C' + 1, and
    class 0 has the cells with the lowest maps, a tenth of them, that are no other seed.
    """
    cams = cams * present[:, None, None]
    over = cams > SEED_THRESHOLD * cams.amax((1, 2), keepdim=True)
    areas = over.sum((1, 2))[:, None, None]
    rank = torch.where(over, over[0].numel() - areas, -1)
    winner = F.one_hot(rank.argmax(0), len(cams)).permute(2, 0, 1).bool()
    seeds = over & winner
    if background:
        highest = cams.amax(0)
        lowest = highest <= highest.flatten().kthvalue(tenth(highest.numel())).values
        seeds = torch.cat([(lowest & ~seeds.any(0))[None], seeds])
    return seeds.to(cams.dtype)


def tenth(cells: int) -> int:
    """The number of background seeds among the cells."""
    return max(1, int(BACKGROUND_SEEDS * cells))


def decays_of(classes: ClassTable) -> Tensor:
    """q (C) for a grid of GRID x GRID cells."""
    large = [plain_name(name) in STUFF for name in classes.names]
    if has_background(classes):
        large = [True] + [False] * (len(classes) - 1)
    return torch.tensor([BACKGROUND_DECAY if one else DECAY for one in large])


def sec_losses(
    logits: Tensor, image: Tensor, labels: Tensor, seeds: Tensor, decays: Tensor, background: bool
) -> dict[str, Tensor]:
    """The three losses of one image: logits (1,C,h,w), image uint8 (1,3,H,W), labels (1,C)."""
    p, (height, width) = floored_softmax(logits), logits.shape[-2:]
    decays = decays ** (GRID * GRID / (height * width))
    log_q = crf_targets(logits, image, height / GRID)
    return {
        "loss_seed": seed_loss(p, seeds),
        "loss_expand": expand_loss(p, labels, decays, background),
        "loss_constrain": constrain_loss(p, log_q),
    }


def without_padding(logits: Tensor, image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (C,h,w) and image (3,H,W) without the padding, which is at the bottom and right.

    valid (H,W). Both get a first axis of 1. A cell that is partly padding stays.
    """
    rows, columns = int(valid.any(1).sum()), int(valid.any(0).sum())
    height = -(-rows * logits.shape[-2] // valid.shape[0])
    width = -(-columns * logits.shape[-1] // valid.shape[1])
    return logits[None, :, :height, :width], image[None, :, :rows, :columns]
