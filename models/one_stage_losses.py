"""Losses of 1-Stage: class scores from masks, refined masks as pseudo-labels, the masks' loss.

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020; formulas
after visinf/1-stage-wseg @d905fca (Apache-2.0), models/mods/pamr.py, core/config.py.
baselines/one_stage.py trains with them. C counts the K classes and, if any, the background.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.cam import classification_loss
from models.inference import resize_corners
from models.pamr import pamr

DILATIONS, ITERATIONS = (1, 2, 4, 8, 12, 24), 10  # of PAMR
FOREGROUND, BACKGROUND, FLOOR = 0.6, 0.7, 0.2  # f_c, f_0 and the least threshold of a pseudo-label
FOCAL_POWER, FOCAL_EPS = 3, 0.01


def focal_penalty(means: Tensor) -> Tensor:
    """(1 - m)^3 ln(0.01 + m) of the mean m of a mask over the map."""
    return (1 - means) ** FOCAL_POWER * (FOCAL_EPS + means).log()


def class_scores(logits: Tensor, background: bool) -> Tensor:
    """s_c = sum_i m_ci x_ci / (1 + sum_i m_ci) + focal penalty, m the softmax of x (B,C,h,w).

    Normalised global weighted pooling; (B,K), without the background's.
    """
    masks = logits.softmax(1)
    pooled = (masks * logits).sum((2, 3)) / (1 + masks.sum((2, 3)))
    return (pooled + focal_penalty(masks.mean((2, 3))))[:, int(background) :]


def present_channels(labels: Tensor, background: bool) -> Tensor:
    """Labels (B,K) -> 0 or 1 for each channel (B,C); the background is in every image."""
    return torch.cat([torch.ones_like(labels[:, :1]), labels], 1) if background else labels


@torch.no_grad()
def refine(image: Tensor, masks: Tensor, labels: Tensor, background: bool) -> Tensor:
    """dec: masks (B,C,h,w) by PAMR, at the size of image (B,3,H,W), absent classes 0.

    image: RGB of 0..1, resized to the masks before. Not normalised again.
    """
    refined = pamr(resize_corners(image, masks.shape[-2:]), masks, ITERATIONS, DILATIONS)
    return cleaned(refined, image.shape[-2:], labels, background)


def cleaned(masks: Tensor, size: tuple[int, int], labels: Tensor, background: bool) -> Tensor:
    """Masks (B,C,h,w) at `size`, those of absent classes 0."""
    return resize_corners(masks, size) * present_channels(labels, background)[:, :, None, None]


@torch.no_grad()
def pseudo_labels(
    masks: Tensor,
    background: bool,
    foreground: float = FOREGROUND,
    floor: float = FLOOR,
    of_background: float = BACKGROUND,
) -> Tensor:
    """G: 1 where a mask (B,C,H,W) exceeds max(f_c max over the map, floor), 0 elsewhere.

    A pixel claimed by two channels is nobody's.
    """
    factors = masks.new_full((masks.shape[1],), foreground)
    if background:
        factors[0] = of_background
    highest = masks.amax((2, 3), keepdim=True)
    claimed = masks > (highest * factors[:, None, None]).clamp(min=floor)
    return (claimed & (claimed.sum(1, keepdim=True) == 1)).to(masks.dtype)


def gate_of(targets: Tensor, labels: Tensor, background: bool) -> Tensor:
    """1 for each image all of whose classes, and no others, have a pixel in G, else 0: (B)."""
    found = (targets.sum((2, 3)) > 0).sum(1)
    return (found == labels.sum(1) + int(background)).to(targets.dtype)


def mask_losses(logits: Tensor, targets: Tensor, gate: Tensor) -> Tensor:
    """gate (1/HW) sum of w_c CE(x, c) over the pixels of G (B,C,H,W): (B).

    w_c = (n - n_c) / (1 + n), n_c the pixels of a channel in the image, n their sum. The mean runs
    over all pixels, also those of no channel.
    """
    logits = resize_corners(logits, targets.shape[-2:])
    counts = targets.sum((2, 3), keepdim=True)
    total = counts.sum(1, keepdim=True)
    weights = ((total - counts) / (1 + total) * targets).sum(1)
    losses = F.cross_entropy(logits, targets.argmax(1), reduction="none")
    return gate * (weights * losses).mean((1, 2))


def one_stage_losses(
    logits: Tensor, labels: Tensor, background: bool, targets: Tensor | None, gate: str
) -> dict[str, Tensor]:
    """L = L_cls + L_mask of logits (B,C,h,w), labels (B,K) and G (B,C,H,W); None: L_cls alone.

    gate: "all", see `gate_of`, or "none". L_mask counts an image whose gate is shut as 0.
    """
    scores = class_scores(logits, background)
    loss_cls = classification_loss(scores[..., None, None], labels)
    loss_mask = opened = labelled = loss_cls.new_zeros(())
    if targets is not None:
        gates = gate_of(targets, labels, background)
        opened, labelled = gates.mean(), targets.sum(1).mean()
        gates = gates if gate == "all" else torch.ones_like(gates)
        loss_mask = mask_losses(logits, targets, gates).mean()
    losses = {"loss": loss_cls + loss_mask, "loss_cls": loss_cls, "loss_mask": loss_mask}
    return losses | {"gate_open": opened, "labelled_fraction": labelled}


def merged(masks: Tensor, present: Tensor, background: bool, power: float) -> Tensor:
    """Sum of masks (C,H,W) of the views / their number; absent classes 0, background ^ power."""
    result = masks * present_channels(present[None], background)[0][:, None, None]
    if background:
        result[0] = result[0] ** power
    return result


def kept_classes(scores: Tensor, threshold: float) -> Tensor:
    """Class scores (V,K) of the views -> 0 or 1 for each class: sigmoid > threshold in a view."""
    return (scores.sigmoid() > threshold).any(0).float()
