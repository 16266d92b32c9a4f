"""SEAM: maps of a classifier of images, the pixel correlation module (PCM), losses of two views.

Wang et al., "Self-supervised Equivariant Attention Mechanism for Weakly Supervised Semantic
Segmentation", CVPR 2020, as YudeWang/SEAM @3212261 computes it. `first` is 1 where channel 0 of
the maps is that of a background, else 0.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.cam import classification_loss
from models.inference import resize_corners

EPS = 1e-5
DROPOUT = 0.5  # of whole channels of conv6
SIDE = 8  # a tap's features have an eighth of its channels: 64 and 128 there
REDUCED = 0.3  # size of the second view
SHARE, POOLED = 0.2, 4  # of the entries in ECR; 1 of 4 pixels in the minimum pooling
BLOCK = 1 << 26  # values of the affinity that are made at a time; ours


def only_highest(maps: Tensor, first: int) -> Tensor:
    """H: maps (B,C,h,w) from channel `first` on, 0 except the highest of each pixel; its value."""
    of_classes = maps[:, first:]
    highest = of_classes.amax(1, keepdim=True)
    return torch.cat([maps[:, :first], of_classes * (of_classes == highest)], 1)


def with_rest(maps: Tensor, first: int) -> Tensor:
    """Maps (B,C,h,w); where channel 0 is that of a background, it is 1 - the highest class."""
    if not first:
        return maps
    return torch.cat([1 - maps[:, 1:].amax(1, keepdim=True), maps[:, 1:]], 1)


@torch.no_grad()
def clean_cams(scores: Tensor, first: int) -> Tensor:
    """d: scores z (B,C,h,w), positive ones divided by their maximum; the highest class alone."""
    maps = scores.relu()
    maps = (maps - EPS).relu() / (maps.amax((2, 3), keepdim=True) + EPS)
    return only_highest(with_rest(maps, first), first)


def pixel_correlation(cams: Tensor, features: Tensor, weight: Tensor) -> Tensor:
    """PCM: cams d (B,C,.,.) averaged over alike pixels of features (B,D,h,w): (B,C,h,w).

    q = f9(f) of unit length, A = relu(q^T q), its columns divided by (their sums + 1e-5), d A.
    Some columns of A at a time.
    """
    size = features.shape[-2:]
    queries = F.conv2d(features, weight)
    queries = (queries / (queries.norm(dim=1, keepdim=True) + EPS)).flatten(2)
    cams, parts = resize_corners(cams, size).flatten(2), []
    for columns in queries.split(max(1, BLOCK // (len(queries) * queries.shape[2])), 2):
        alike = (queries.transpose(1, 2) @ columns).relu()
        parts.append(cams @ alike / (alike.sum(1, keepdim=True) + EPS))
    return torch.cat(parts, 2).unflatten(2, size)


class SEAMNetwork(nn.Module):
    """Images (B,3,H,W), normalised -> for each of them cam and rv (B,C,H,W), float32.

    backbone: image -> conv4, conv5, conv6 with `channels`; conv4 may be larger. cam: raw maps; rv:
    PCM of the cleaned ones.
    """

    def __init__(
        self, backbone: nn.Module, channels: Sequence[int], count: int, first: int
    ) -> None:
        super().__init__()
        self.backbone, self.first = backbone, first
        conv4, conv5, conv6 = channels
        sizes = conv4 // SIDE, conv5 // SIDE
        self.dropout = nn.Dropout2d(DROPOUT)
        self.fc8 = nn.Conv2d(conv6, count, 1, bias=False)
        self.f8_3 = nn.Conv2d(conv4, sizes[0], 1, bias=False)
        self.f8_4 = nn.Conv2d(conv5, sizes[1], 1, bias=False)
        self.f9 = nn.Conv2d(3 + sum(sizes), sum(sizes), 1, bias=False)
        nn.init.xavier_uniform_(self.fc8.weight)
        nn.init.kaiming_normal_(self.f8_3.weight)
        nn.init.kaiming_normal_(self.f8_4.weight)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)

    def features(self, image: Tensor, conv4: Tensor, conv5: Tensor) -> Tensor:
        """f = [image ; relu(f8_3(conv4)) ; relu(f8_4(conv5))], no gradient into the taps."""
        near, far = self.f8_3(conv4.detach()).relu(), self.f8_4(conv5.detach()).relu()
        size = conv5.shape[-2:]
        near = near if near.shape[-2:] == size else resize_corners(near, size)
        return torch.cat([resize_corners(image, size), near, far], 1)

    def forward(self, *images: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = []
        for image in images:
            conv4, conv5, conv6 = self.backbone(image)
            scores = self.fc8(self.dropout(conv6)).float()
            features = self.features(image, conv4, conv5).float()
            with torch.autocast(image.device.type, enabled=False):
                cleaned = clean_cams(scores, self.first)
                revised = pixel_correlation(cleaned, features, self.f9.weight)
            size = image.shape[-2:]
            found.append((resize_corners(scores, size), resize_corners(revised, size)))
        return found

    def groups(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The trained parameters of the backbone and those of the new layers."""
        new = [self.fc8.weight, self.f8_3.weight, self.f8_4.weight, self.f9.weight]
        return [p for p in self.backbone.parameters() if p.requires_grad], new


def reduced(image: Tensor) -> Tensor:
    """The second view of images (B,3,H,W): REDUCED times their size, rounded down."""
    return resize_corners(image, tuple(int(side * REDUCED) for side in image.shape[-2:]))


def max_norm(maps: Tensor) -> Tensor:
    """norm: relu of maps (B,C,h,w), from their minimum 0 to nearly 1; gradient through both ends.

    relu(p - b - 1e-5) / (a - b + 1e-5).
    """
    maps = maps.relu()
    high, low = (end((2, 3), keepdim=True) for end in (maps.amax, maps.amin))
    return (maps - low - EPS).relu() / (high - low + EPS)


def min_pool_loss(maps: Tensor) -> Tensor:
    """Mean of the lowest quarter of the pixels' highest maps (B,C,H,W), in each image."""
    highest = maps.amax(1).flatten(1)
    count = highest.shape[1] // POOLED
    return highest.topk(count, largest=False).values.relu().sum() / (count * len(maps))


def ecr_loss(cams: Tensor, revised: Tensor, first: int) -> Tensor:
    """ECR: mean of the largest fifth of |H(A) - R| (B,C,h,w), in each image; no gradient to A.

    Absent classes and the background count.
    """
    errors = (only_highest(cams, first).detach() - revised).abs().flatten(1)
    return errors.topk(int(errors.shape[1] * SHARE)).values.mean()


def seam_losses(
    views: list[tuple[Tensor, Tensor]], labels: Tensor, first: int, min_pool: float
) -> dict[str, Tensor]:
    """Losses of two views, (cam, rv) of each (B,C,.,.), the second smaller; labels (B,K).

    L = mean of the two L_cls + min_pool mean of the two L_rvmin + L_er + L_ecr1 + L_ecr2.
    """
    channels = torch.cat([torch.ones_like(labels[:, :first]), labels], 1)[..., None, None]
    size = views[1][0].shape[-2:]
    losses, normed = {}, []
    for i, (cam, revised) in enumerate(views, 1):
        losses[f"loss_cls{i}"] = classification_loss(cam[:, first:], labels)
        losses[f"loss_rvmin{i}"] = min_pool_loss((revised * channels)[:, first:])
        # at full size first, then reduced, then filtered
        normed.append([resize_corners(max_norm(maps), size) * channels for maps in (cam, revised)])
    (cam1, revised1), (cam2, revised2) = normed
    losses["loss_er"] = (cam1 - cam2)[:, first:].abs().mean()
    cam1, cam2 = with_rest(cam1, first), with_rest(cam2, first)
    losses["loss_ecr1"] = ecr_loss(cam2, revised1, first)
    losses["loss_ecr2"] = ecr_loss(cam1, revised2, first)
    losses["loss_cls"] = (losses["loss_cls1"] + losses["loss_cls2"]) / 2
    losses["loss_rvmin"] = (losses["loss_rvmin1"] + losses["loss_rvmin2"]) / 2
    losses["loss"] = losses["loss_cls"] + losses["loss_er"]
    losses["loss"] = losses["loss"] + losses["loss_ecr1"] + losses["loss_ecr2"]
    if min_pool:
        losses["loss"] = losses["loss"] + min_pool * losses["loss_rvmin"]
    return losses


def normalize_signed(cams: Tensor) -> Tensor:
    """M: maps (B,C,h,w) from their minimum b to nearly 1; what is below b + 1e-5 is negative.

    (v - b - 1e-5) / (a - b + 1e-5) with v = 0 where v < b + 1e-5; not clamped, as the authors'.
    """
    cams = cams.relu()
    high, low = cams.amax((2, 3), keepdim=True), cams.amin((2, 3), keepdim=True)
    cams = torch.where(cams < low + EPS, 0, cams)
    return (cams - low - EPS) / (high - low + EPS)
