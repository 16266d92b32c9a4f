"""AMN's equations: seed labels, the balanced loss, the network with a label layer, its maps.

Lee, Kim, Park and Shin, "Threshold Matters in WSSS: Manipulating the Activation for the Robust and
Accurate Segmentation Model Against Thresholds", CVPR 2022; formulas and constants after
gaviotas/AMN @75c1999c (no licence: written from the formulas), net/resnet50_amn.py,
step/train_amn.py.
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from datasets.labels import IGNORE_INDEX
from models.cam import KeepsStatistics
from models.inference import resize
from models.irn import centre_labels, highest_row, merged_views, two_threshold_labels
from models.resnet import ResNet

DILATIONS = (6, 12, 18, 24)
DROPOUT = 0.1
SMOOTHING = 0.4
SEED_LEAST, SEED_MARGIN = 0.30, 0.05  # ours: of a seed without a background
EPS = 1e-5


def seed_labels(maps: Tensor, present: Tensor, thresholds: tuple[float, float] | None) -> Tensor:
    """Label map uint8 (H,W) of maps (C,H,W), 0 for classes that are not present (C).

    thresholds: those of the foreground and of the background in IRN's rule. None: no background.
    """
    if thresholds is None:
        return leading_labels(maps, present)
    return two_threshold_labels(*(highest_row(maps, t) for t in thresholds)).byte()


def leading_labels(maps: Tensor, present: Tensor) -> Tensor:
    """Label map uint8 (H,W): the highest of the present maps (C,H,W).

    255 where it is below SEED_LEAST or leads by less than SEED_MARGIN. This rule is ours.
    """
    shown = maps.masked_fill(present[:, None, None] == 0, -torch.inf)
    best, rows = torch.cat([shown, torch.full_like(shown[:1], -torch.inf)]).topk(2, 0)
    unsure = (best[0] < SEED_LEAST) | (best[0] - best[1] < SEED_MARGIN)
    return rows[0].masked_fill(unsure, IGNORE_INDEX).byte()


def smoothed_targets(label: Tensor, count: int) -> Tensor:
    """(B,h,w) -> (B,count,h,w): 1 - SMOOTHING at the label, SMOOTHING / (count - 1) elsewhere.

    255 counts as class 0; the loss leaves its pixels out.
    """
    label = label.masked_fill(label == IGNORE_INDEX, 0)
    is_label = torch.arange(count, device=label.device)[:, None, None] == label[:, None]
    return torch.where(is_label, 1 - SMOOTHING, SMOOTHING / (count - 1))


def balanced_loss(logits: Tensor, label: Tensor, groups: Tensor, released: bool = False) -> Tensor:
    """Mean over groups of the mean cross-entropy of their pixels with `smoothed_targets`.

    logits (B,C,h,w), label (B,h,w), groups (C): that of each class. Over the groups that occur in
    the batch, 0 where none does; released: over all, NaN where one does not occur.
    """
    losses = -(smoothed_targets(label, logits.shape[1]) * logits.log_softmax(1)).sum(1)
    group = groups[label.clamp(max=len(groups) - 1)].masked_fill(label == IGNORE_INDEX, -1)
    inside = [group == g for g in groups.unique()]
    means = [
        (losses * pixels).sum() / pixels.sum() for pixels in inside if released or pixels.any()
    ]
    return torch.stack(means).mean() if means else logits.sum() * 0


class LabelHead(nn.Module):
    """Features (B,D,h,w) and image-level labels (B,L) -> logits (B,C,h,w).

    Features are multiplied with e = W y + b, channel by channel; then the sum of four dilated 3x3
    convolutions.
    """

    def __init__(self, channels: int, num_labels: int, num_classes: int) -> None:
        super().__init__()
        self.label_enc = nn.Linear(num_labels, channels)
        self.classifier = nn.Sequential(nn.Dropout(DROPOUT), Branches(channels, num_classes))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return self.classifier(features * self.label_enc(labels)[..., None, None])


class Branches(nn.Module):
    """Sum of 3x3 convolutions with DILATIONS, with bias."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        for i, d in enumerate(DILATIONS):
            convolution = nn.Conv2d(channels, num_classes, 3, padding=d, dilation=d)
            nn.init.normal_(convolution.weight, std=0.01)
            nn.init.zeros_(convolution.bias)
            self.add_module(f"c{i}", convolution)

    def forward(self, features: Tensor) -> Tensor:
        return sum(convolution(features) for convolution in self.children())


class AMNNetwork(KeepsStatistics):
    """Images (B,3,H,W), normalised, and labels (B,L,1,1) -> logits (B,C,h,w), float32.

    Batch norms keep their statistics; the stem has no gradient.
    """

    def __init__(self, backbone: ResNet, num_labels: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = LabelHead(backbone.out_channels, num_labels, num_classes)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name.startswith("layer"))

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        return self.head(self.backbone(image), labels.flatten(1)).float()


def activations(logits: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Softmax over all channels of the mean logits (1,C,.,.) of the scales, at `size`: (C,H,W)."""
    return torch.stack([resize(one, size)[0] for one in logits]).mean(0).softmax(0)


def stretched(maps: Tensor, where: Tensor) -> Tensor:
    """(p - min) / (max - min + 1e-5) of each map (K,H,W), in the pixels (H,W) of `where` alone."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(where, (maps - low) / (high - low + EPS), maps)


@torch.inference_mode()
def amn_maps(
    network: nn.Module,
    pairs: Iterable[Tensor],
    labels: Tensor,
    size: tuple[int, int],
    seed: Tensor | None,
) -> Tensor:
    """Maps (L,h,w) at `size`, 0 for absent classes (L).

    pairs: the normalised image and its mirror image (2,3,h_s,w_s) at each scale. seed: label map
    (H',W') where 0 is a background, whose pixels are not stretched; None: all pixels are.
    """
    both = labels.expand(2, -1)[..., None, None]
    logits = [merged_views(*network(pair, both))[None] for pair in pairs]
    maps = activations(logits, size)[-len(labels) :]
    everywhere = torch.ones(size, dtype=torch.bool, device=maps.device)
    where = everywhere if seed is None else centre_labels(seed.to(maps.device), size) != 0
    return stretched(maps, where) * labels[:, None, None]
