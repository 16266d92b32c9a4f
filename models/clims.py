"""Losses of CLIMS: CLIP recognises a class in an image masked by its map, and not in the rest.

Xie, Hou, Ye and Shen, CVPR 2022; formulas after CVI-SZU/CLIMS @f9546d32 (MIT), clip_loss.py,
README.md. baselines/clims.py trains with them.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.clip_features import grid_stride, is_resnet

WEIGHTS = {"otm": 10.0, "btm": 24.0, "cbs": 1.0, "reg": 0.2}
THRESHOLD = 0.26  # of a cosine to a background prompt
LIMITS = (1e-4, 0.9999)  # of a cosine inside a logarithm


def clip_side(visual: nn.Module) -> int:
    """Pixels of a side of the square that an image tower takes: 224 for most."""
    tower = visual.attnpool if is_resnet(visual) else visual
    return math.isqrt(len(tower.positional_embedding) - 1) * grid_stride(visual)


def image_features(clip_model: nn.Module, images: Tensor) -> Tensor:
    """Unit rows (M,E) of images (M,3,s,s)."""
    return F.normalize(clip_model.encode_image(images), dim=1)


def masked_images(maps: Tensor, images: Tensor, labels: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """A x and (1 - A) x of each pair of an image and its class, image by image: two (M,3,s,s).

    maps A (B,C,h,w), images x (B,3,H,W), normalised (0 is the mean colour), labels (B,C).
    """
    of, classes = labels.nonzero(as_tuple=True)
    resize = {"size": (side, side), "mode": "bilinear", "align_corners": True}
    shown = F.interpolate(maps[of, classes][:, None], **resize)
    images = F.interpolate(images, **resize)[of]
    return shown * images, (1 - shown) * images


def object_loss(similarity: Tensor) -> Tensor:
    """L_OTM = -mean log clamp(f t), over pairs."""
    return -similarity.clamp(*LIMITS).log().mean()


def background_loss(similarity: Tensor) -> Tensor:
    """L_BTM = -mean log(1 - clamp(b t)), over pairs."""
    return -(1 - similarity.clamp(*LIMITS)).log().mean()


def suppression_loss(cosines: Tensor, threshold: float) -> Tensor:
    """L_CBS = -sum of log(1 - f u) over pairs and prompts u (M,J) with f u above the threshold."""
    return -(1 - cosines[cosines > threshold]).log().sum()


def area_loss(maps: Tensor) -> Tensor:
    """L_REG: mean of all maps (B,C,h,w), those of absent classes too."""
    return maps.mean()


def clims_losses(
    maps: Tensor,
    images: Tensor,
    labels: Tensor,
    clip_model: nn.Module,
    text: Tensor,
    rivals: Tensor,
    is_mean: bool = False,
    threshold: float = THRESHOLD,
    weights: dict[str, float] = WEIGHTS,
) -> dict[str, Tensor]:
    """L = 10 L_OTM + 24 L_BTM + L_CBS + 0.2 L_REG; the terms are detached and for the log.

    maps, images, labels: of `masked_images`. text: unit rows of the classes (C,E); rivals: of the
    background prompts (J,E). is_mean: L_CBS divided by the number of pairs. Without a pair (their
    code stops there) L_REG alone counts.
    """
    terms = dict.fromkeys(("otm", "btm", "cbs"), maps.sum() * 0) | {"reg": area_loss(maps)}
    classes = labels.nonzero()[:, 1]
    if len(classes):
        shown, hidden = masked_images(maps, images, labels, clip_side(clip_model.visual))
        found = image_features(clip_model, torch.cat([shown, hidden]))
        of_class, of_rest = ((part * text[classes]).sum(1) for part in found.chunk(2))
        terms |= {"otm": object_loss(of_class), "btm": background_loss(of_rest)}
        terms["cbs"] = suppression_loss(found[: len(classes)] @ rivals.T, threshold)
        terms["cbs"] = terms["cbs"] / (len(classes) if is_mean else 1)
    loss = sum(weights[name] * term for name, term in terms.items())
    return {"loss": loss} | {f"loss_{name}": term.detach() for name, term in terms.items()}
