"""Class activation maps (Zhou et al. 2016): a classifier of images whose logits are means of maps.

C counts the classes with a map, which the background (`datasets.labels.has_background`) lacks.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from datasets.labels import IGNORE_INDEX
from models.backbone_weights import load_backbone_weights
from models.inference import multi_view_scores, resize, scaled
from models.resnet import ResNet, initialize, named_resnet
from utils.config import Config
from utils.safe.errors import InputError, warn
from utils.safe.files import sha256


def batch_norms(module: nn.Module) -> list[nn.Module]:
    """All batch norms in a module."""
    return [one for one in module.modules() if isinstance(one, _BatchNorm)]


class KeepsStatistics(nn.Module):
    """A module whose batch norms keep their statistics while it trains."""

    def train(self, mode: bool = True) -> "KeepsStatistics":
        super().train(mode)
        for norm in batch_norms(self):
            norm.eval()
        return self


class CAMNetwork(KeepsStatistics):
    """Images (B,3,H,W) -> for each of them features (B,D,h,w) >= 0 and raw maps (B,C,h,w), float32.

    Backbone, 1x1 convolution and ReLU, 1x1 convolution without bias; the mean of a map is the logit
    of its class. Batch norms keep the statistics, weights and biases that they start with.
    """

    def __init__(self, backbone: nn.Module, num_classes: int, channels: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.features = nn.Conv2d(backbone.out_channels, channels, 1)
        self.classifier = nn.Conv2d(channels, num_classes, 1, bias=False)
        initialize(self.features)
        nn.init.zeros_(self.features.bias)
        nn.init.xavier_uniform_(self.classifier.weight)
        for norm in batch_norms(self):
            norm.requires_grad_(False)

    def forward(self, *images: Tensor) -> list[tuple[Tensor, Tensor]]:
        found = []
        for image in images:
            features = self.features(self.backbone(image)).relu()
            found.append((features.float(), self.classifier(features).float()))
        return found


def build_cam_network(config: Config, num_classes: int, channels: int) -> CAMNetwork:
    """The network of the config's backbone with its pretrained weights, on the CPU."""
    backbone = build_cam_backbone(config, config.output_stride)
    return CAMNetwork(backbone, num_classes, channels)


def build_cam_backbone(config: Config, output_stride: int) -> ResNet:
    """The config's backbone with its pretrained weights, on the CPU.

    Raises InputError where these have no batch norms to keep.
    """
    if config.norm != "batch":
        raise InputError(
            f"norm: {config.norm} is for networks that start from nothing; this classifier keeps "
            "the batch norms of pretrained weights: set norm=batch"
        )
    backbone = named_resnet(config.backbone, output_stride)
    if config.backbone_weights is None:
        warn(
            "backbone_weights: null with batch norms that are not trained: maps of a network that "
            "starts from nothing are poor; name pretrained weights"
        )
    else:
        load_backbone_weights(backbone, config.backbone_weights, config.backbone_weights_partial)
    return backbone


def network_sha256(model: nn.Module) -> str:
    """Digest of all weights, which shows that another network made a mask."""
    return sha256(b"".join(t.cpu().numpy().tobytes() for t in model.state_dict().values()))


def classification_loss(maps: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy of the mean of each raw map (B,C,h,w) with labels (B,C)."""
    return F.binary_cross_entropy_with_logits(maps.mean((2, 3)), labels)


def rescale(image: Tensor, scale: float) -> Tensor:
    """image (B,3,H,W) at `scale` times its size, bilinear."""
    return resize(image, scaled(image.shape[-2:], scale))


def multi_scale_cams(
    network: CAMNetwork, image: Tensor, size: tuple[int, int], scales: Sequence[float]
) -> Tensor:
    """Sum over scales and mirror images of relu(map), resized to `size`: (B,3,h,w) -> (B,C,H,W)."""
    views = 2 * len(scales)
    return views * multi_view_scores(
        lambda view, _: network(view)[0][1].relu(), image, size, scales=scales, flip=True
    )


def normalize_cams(cams: Tensor) -> Tensor:
    """Maps (B,C,h,w) >= 0, each divided by (its maximum + 1e-5)."""
    return cams / (cams.amax((2, 3), keepdim=True) + 1e-5)


def with_background(maps: Tensor, exponent: int = 1) -> Tensor:
    """[(1 - max M)^exponent ; M] of maps (C,h,w) from 0 to 1: (1+C,h,w)."""
    return torch.cat([(1 - maps.amax(0, keepdim=True)) ** exponent, maps])


def label_cams(cams: Tensor, present: Tensor, threshold: float | None) -> Tensor:
    """Normalised maps (C,H,W), which may be negative, classes of the image (C) -> uint8 (H,W).

    threshold: where no map of a present class reaches it, the label is 0, background; the classes
    follow from 1. None: no background; the highest present class (the first of equals), and 255
    where the image has no class.
    """
    highest, label = cams.masked_fill(present[:, None, None] == 0, -torch.inf).max(0)
    if threshold is not None:
        return torch.where(highest >= threshold, label + 1, 0).to(torch.uint8)
    return label.masked_fill(highest == -torch.inf, IGNORE_INDEX).to(torch.uint8)
