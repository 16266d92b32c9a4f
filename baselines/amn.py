"""AMN: activations of a network that learns pixels from balanced seed labels; IRN's walk.

Lee, Kim, Park and Shin, "Threshold Matters in WSSS: Manipulating the Activation for the Robust and
Accurate Segmentation Model Against Thresholds", CVPR 2022; formulas after gaviotas/AMN @75c1999c
(no licence: written from the formulas). Boundaries and random walk: Ahn, Cho and Kwak, "Weakly
Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019;
jiwoon-ahn/irn @a2ece003 (MIT).
"""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from datasets.labels import IGNORE_INDEX
from models.inference import resize
from models.random_walk import by_path_length, neighbours, path_affinities
from models.resnet import ResNet

# From gaviotas/AMN, scripts, net/resnet50_amn.py and step/train_amn.py; pairs and edges: irn.
SEED_THRESHOLDS = (0.30, 0.05)  # below which a CAM is no foreground; is background
IRN_THRESHOLDS = (0.45, 0.15)  # the same of AMN's maps
DILATIONS = (6, 12, 18, 24)
DROPOUT = 0.1
LR, HEAD_LR, WEIGHT_DECAY = 5e-6, 1e-4, 1e-4  # Adam; the weight decay is IRN's too
SCALES = (1.0, 0.5, 1.5, 2.0)  # of the maps
POWER = 1.3  # of the maps before the walk
EDGE_LR = 0.1
SMOOTHING = 0.4
EDGE_CHANNELS, EDGE_GROUPS = 32, 4
RADIUS = 10  # of the pairs of IRN's training
EPS = 1e-5


def two_threshold_labels(foreground: Tensor, background: Tensor) -> Tensor:
    """IRN's rule: both (H,W), 0 for the background, at a high and at a low threshold -> (H,W).

    The first where it has a class, 0 where both have none, else 255.
    """
    unsure = (foreground == 0) & (background != 0)
    return foreground.masked_fill(unsure, IGNORE_INDEX)


def highest_row(maps: Tensor, threshold: float) -> Tensor:
    """Arg max (H,W) of [threshold ; maps (K,H,W)]: 0 is the background."""
    return torch.cat([torch.full_like(maps[:1], threshold), maps]).argmax(0)


def centre_labels(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (...,H,W) at `size` (h,w): the pixel floor((i + 0.5) H / h), as PIL's nearest."""
    rows, columns = (
        ((torch.arange(n, device=label.device) + 0.5) * side / n).long()
        for n, side in zip(size, label.shape[-2:], strict=True)
    )
    return label[..., rows[:, None], columns]


def smoothed_targets(label: Tensor, count: int) -> Tensor:
    """(B,h,w) -> (B,count,h,w): 1 - SMOOTHING at the label, SMOOTHING / (count - 1) elsewhere."""
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
    means = [losses[pixels].mean() for pixels in inside if released or pixels.any()]
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


def build_adam(backbone: Iterable[nn.Parameter], head: Iterable[nn.Parameter]) -> torch.optim.Adam:
    """Adam with a learning rate for each part; the weight decay is added to the gradient."""
    groups = [{"params": backbone, "lr": LR}, {"params": head, "lr": HEAD_LR}]
    return torch.optim.Adam(groups, weight_decay=WEIGHT_DECAY)


def merged_views(logits: Tensor, of_mirrored: Tensor) -> Tensor:
    """Mean of the logits of an image and those of its mirror image, mirrored back: (...,h,w)."""
    return (logits + of_mirrored.flip(-1)) / 2


def activations(logits: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Softmax over all channels of the mean logits (1,C,.,.) of the scales, at `size`: (C,H,W)."""
    return torch.stack([resize(one, size)[0] for one in logits]).mean(0).softmax(0)


def stretched(maps: Tensor, where: Tensor) -> Tensor:
    """(p - min) / (max - min + 1e-5) of each map (K,H,W), in the pixels (H,W) of `where` alone."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(where, (maps - low) / (high - low + EPS), maps)


class EdgeHead(nn.Module):
    """Stages of a ResNet -> logits of a boundary (B,1,h,w), on the grid of the second stage.

    Each stage: 1x1 convolution, group norm, enlarged, ReLU; then all together, 1x1.
    """

    def __init__(self, channels: Sequence[int], factors: Sequence[int]) -> None:
        super().__init__()
        self.factors = factors
        self.stages = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(c, EDGE_CHANNELS, 1, bias=False),
                nn.GroupNorm(EDGE_GROUPS, EDGE_CHANNELS),
            )
            for c in channels
        )
        self.edge = nn.Conv2d(EDGE_CHANNELS * len(channels), 1, 1)

    def forward(self, stages: Sequence[Tensor]) -> Tensor:
        height, width = stages[1].shape[-2:]
        found = []
        for stage, layer, factor in zip(stages, self.stages, self.factors, strict=True):
            maps = layer(stage)
            size = tuple(factor * side for side in maps.shape[-2:])
            found.append(resize(maps, size).relu()[..., :height, :width])
        return self.edge(torch.cat(found, 1))


def backbone_stages(backbone: ResNet, image: Tensor) -> list[Tensor]:
    """The maps after the pooling and after each stage, without gradient."""


def sources(maps: Tensor, radius: int) -> Tensor:
    """The cells of (...,h,w) whose pairs all lie inside: (...,h-r,w-2r), r = radius - 1."""
    r = radius - 1
    return maps[..., : maps.shape[-2] - r, r : maps.shape[-1] - r]


def targets(maps: Tensor, radius: int, offset: tuple[int, int]) -> Tensor:
    """The cells at an offset (dy,dx) from those of `sources`."""
    (dy, dx), r = offset, radius - 1
    height, width = maps.shape[-2] - r, maps.shape[-1] - 2 * r
    return maps[..., dy : dy + height, r + dx : r + dx + width]


def pair_offsets(radius: int) -> list[tuple[int, int]]:
    """(dy,dx) of the pairs, in IRN's order."""
    return by_path_length(neighbours(radius))


def pair_affinities(edge: Tensor, radius: int) -> Tensor:
    """1 - max over the path of a boundary map (h,w): (pairs,h-r,w-2r)."""
    return sources(path_affinities(edge, pair_offsets(radius)), radius)


def pair_labels(label: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Of labels (B,h,w), for each pair: whether it is equal; whether both have a label.

    Both bool (B,pairs,h-r,w-2r).
    """
    others = [targets(label, radius, offset) for offset in pair_offsets(radius)]
    other, own = torch.stack(others, 1), sources(label, radius)[:, None]
    return other == own, (other != IGNORE_INDEX) & (own != IGNORE_INDEX)


def mean_over(values: Tensor, pairs: Tensor) -> Tensor:
    """Sum over pairs / (their number + 1e-5)."""
    return (values * pairs).sum() / (pairs.sum() + EPS)


def affinity_losses(affinity: Tensor, label: Tensor, radius: int, first: int) -> dict[str, Tensor]:
    """L_pos, L_neg and (L_pos + L_neg) / 2 of affinities (B,pairs,.,.) and labels (B,h,w).

    -log(a + 1e-5) of equal pairs, -log(1 + 1e-5 - a) of others. first: 1 where label 0 is a
    background, whose pairs are half of L_pos.
    """
    equal, valid = pair_labels(label, radius)
    positive = equal & valid
    is_background = (sources(label, radius) == 0)[:, None]
    parts = [positive & is_background, positive & ~is_background] if first else [positive]
    near = -(affinity + EPS).log()
    pos = torch.stack([mean_over(near, part) for part in parts]).mean()
    neg = mean_over(-(1 + EPS - affinity).log(), valid & ~equal)
    return {"loss": (pos + neg) / 2, "loss_pos": pos, "loss_neg": neg}


def displacement_losses(field: Tensor, label: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """L_fg and L_bg of displacements (B,2,h,w): half the mean distance, over both axes, of
    d(source) - d(target) from the offset (dy,dx), and from 0 in the background.

    IRN trains them for instances; masks of classes need the boundaries alone.
    """
    equal, valid = pair_labels(label, radius)
    of_background = equal & valid & (sources(label, radius) == 0)[:, None]
    of_foreground = equal & valid & ~of_background
    offsets = pair_offsets(radius)
    moved = torch.stack(
        [sources(field, radius) - targets(field, radius, offset) for offset in offsets], 2
    )  # (B,2,pairs,h-r,w-2r)
    wanted = field.new_tensor(offsets).T[:, :, None, None]
    far, still = (moved - wanted).abs().sum(1), moved.abs().sum(1)
    losses = (far, of_foreground), (still, of_background)
    return tuple((x * pairs).sum() / (2 * pairs.sum() + EPS) for x, pairs in losses)
