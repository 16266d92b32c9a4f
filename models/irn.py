"""IRN's boundaries: the network, its labels, and the losses of pairs of cells.

Ahn, Cho and Kwak, "Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations",
CVPR 2019; formulas and constants after jiwoon-ahn/irn @a2ece003 (MIT), net/resnet50_irn.py,
step/cam_to_ir_label.py, misc/indexing.py. The walk that follows is in models/random_walk.py.
"""

import torch
from torch import Tensor, nn

from datasets.labels import IGNORE_INDEX
from models.inference import resize
from models.random_walk import by_path_length, inner, neighbours, path_affinities
from models.resnet import ResNet
from utils.safe.errors import InputError

EDGE_CHANNELS, EDGE_GROUPS = 32, 4
PAIR_RADIUS = 10  # of the pairs in training; the walk has a smaller one
EPS = 1e-5


def highest_row(maps: Tensor, threshold: float) -> Tensor:
    """Arg max (H,W) of [threshold ; maps (K,H,W)]: 0 is the background."""
    return torch.cat([torch.full_like(maps[:1], threshold), maps]).argmax(0)


def two_threshold_labels(foreground: Tensor, background: Tensor) -> Tensor:
    """IRN's rule: both (H,W), 0 for the background, at a high and at a low threshold -> (H,W).

    The first where it has a class, 0 where both have none, else 255.
    """
    unsure = (foreground == 0) & (background != 0)
    return foreground.masked_fill(unsure, IGNORE_INDEX)


def centre_labels(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (...,H,W) at `size` (h,w): the pixel floor((i + 0.5) H / h), as PIL's nearest."""
    rows, columns = (
        ((torch.arange(n, device=label.device) + 0.5) * side / n).long()
        for n, side in zip(size, label.shape[-2:], strict=True)
    )
    return label[..., rows[:, None], columns]


def merged_views(logits: Tensor, of_mirrored: Tensor) -> Tensor:
    """Mean of the logits of an image and those of its mirror image, mirrored back: (...,h,w)."""
    return (logits + of_mirrored.flip(-1)) / 2


class EdgeNetwork(nn.Module):
    """Images (B,3,H,W), normalised -> logits of the boundaries (B,1,h,w) at a quarter of the size.

    The maps of the pooling and the stages of a fixed backbone, each: 1x1 convolution, group norm,
    enlarged, ReLU; then all together, 1x1.
    """

    def __init__(self, backbone: ResNet) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        stages = self.stages(torch.zeros(1, 3, 64, 64))
        self.factors = [stages[1].shape[-1] // stage.shape[-1] for stage in stages]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(stage.shape[1], EDGE_CHANNELS, 1, bias=False),
                nn.GroupNorm(EDGE_GROUPS, EDGE_CHANNELS),
            )
            for stage in stages
        )
        self.edge = nn.Conv2d(EDGE_CHANNELS * len(stages), 1, 1)

    @torch.no_grad()
    def stages(self, image: Tensor) -> list[Tensor]:
        """The maps after the pooling and after each stage."""
        net = self.backbone
        stem = net.stem(image) if net.deep_stem else net.relu(net.bn1(net.conv1(image)))
        maps = [net.maxpool(stem)]
        for layer in range(net.num_layers):
            maps.append(getattr(net, f"layer{layer + 1}")(maps[-1]))
        return maps

    def forward(self, image: Tensor) -> Tensor:
        stages = self.stages(image)
        height, width = stages[1].shape[-2:]
        found = []
        for stage, layer, factor in zip(stages, self.layers, self.factors, strict=True):
            maps = layer(stage)
            size = tuple(factor * side for side in maps.shape[-2:])
            found.append(resize(maps, size).relu()[..., :height, :width])
        return self.edge(torch.cat(found, 1)).float()

    def train(self, mode: bool = True) -> "EdgeNetwork":
        super().train(mode)
        self.backbone.eval()
        return self

    @torch.inference_mode()
    def boundaries(self, pair: Tensor) -> Tensor:
        """Boundary map (h,w) in [0,1] of an image and its mirror image (2,3,H,W): mean logits."""
        return merged_views(*self(pair)[:, 0]).sigmoid()


def pair_offsets(radius: int) -> list[tuple[int, int]]:
    """(dy,dx) of the pairs, in IRN's order."""
    return by_path_length(neighbours(radius))


def pair_affinities(edge: Tensor, radius: int) -> Tensor:
    """1 - max over the path of a boundary map (h,w): (pairs,h-r,w-2r)."""
    return inner(path_affinities(edge, pair_offsets(radius)), radius)


def pair_labels(label: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Of labels (B,h,w), for each pair: whether it is equal; whether both have a label.

    Both bool (B,pairs,h-r,w-2r).
    """
    others = [inner(label, radius, offset) for offset in pair_offsets(radius)]
    other, own = torch.stack(others, 1), inner(label, radius)[:, None]
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
    is_background = (inner(label, radius) == 0)[:, None]
    parts = [positive & is_background, positive & ~is_background] if first else [positive]
    near = -(affinity + EPS).log()
    pos = torch.stack([mean_over(near, part) for part in parts]).mean()
    neg = mean_over(-(1 + EPS - affinity).log(), valid & ~equal)
    return {"loss": (pos + neg) / 2, "loss_pos": pos, "loss_neg": neg}


def edge_losses(logits: Tensor, label: Tensor, first: int) -> dict[str, Tensor]:
    """`affinity_losses` of logits of boundaries (B,1,h,w) and labels (B,H,W) of a larger size."""
    edges = logits[:, 0].sigmoid()
    affinity = torch.stack([pair_affinities(edge, PAIR_RADIUS) for edge in edges])
    return affinity_losses(affinity, centre_labels(label, edges.shape[-2:]), PAIR_RADIUS, first)


def displacement_losses(field: Tensor, label: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """L_fg and L_bg of displacements (B,2,h,w): half the mean distance, over both axes, of
    d(source) - d(target) from the offset (dy,dx), and from 0 in the background.

    IRN trains them for instances; masks of classes need the boundaries alone.
    """
    equal, valid = pair_labels(label, radius)
    of_background = equal & valid & (inner(label, radius) == 0)[:, None]
    of_foreground = equal & valid & ~of_background
    offsets = pair_offsets(radius)
    moved = torch.stack(
        [inner(field, radius) - inner(field, radius, offset) for offset in offsets], 2
    )  # (B,2,pairs,h-r,w-2r)
    wanted = field.new_tensor(offsets).T[:, :, None, None]
    far, still = (moved - wanted).abs().sum(1), moved.abs().sum(1)
    losses = (far, of_foreground), (still, of_background)
    return tuple((x * pairs).sum() / (2 * pairs.sum() + EPS) for x, pairs in losses)


def check_pairs_fit(size: tuple[int, int]) -> None:
    """Raise InputError where the pairs of training don't fit into a crop (H,W)."""
    least = 4 * PAIR_RADIUS, 8 * PAIR_RADIUS - 4
    if size[0] < least[0] or size[1] < least[1]:
        raise InputError(
            f"'crop_size' {list(size)} is too small for IRN, whose pairs of cells are up to "
            f"{PAIR_RADIUS - 1} apart at a quarter of the size; the least is {list(least)}"
        )
