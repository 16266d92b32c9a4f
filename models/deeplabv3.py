"""DeepLab: dilated ResNet -> ASPP -> a classifier that is the frozen matrix of text embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels.cpu_speed import DilatedConv2d
from models.resnet import initialize
from utils.safe.errors import InputError

# ASPP channels where text embeddings don't give them; the width of CLIP ViT-B.
CONV_CLASSIFIER_CHANNELS = 512


def _conv_bn_relu(in_channels: int, out_channels: int, kernel: int, dilation: int) -> nn.Sequential:
    if kernel == 1:
        convolution = nn.Conv2d(in_channels, out_channels, 1, bias=False)
    else:
        convolution = DilatedConv2d(in_channels, out_channels, dilation)
    return nn.Sequential(
        convolution,
        nn.BatchNorm2d(out_channels),
        nn.ReLU(inplace=True),
    )


class ASPPV3(nn.Module):
    """Atrous spatial pyramid pooling of DeepLabV3 (Chen et al. 2017, sec. 3.3).

    A 1x1, one 3x3 per dilation and image-level pooling, concatenated and projected by a 1x1.
    (B,in_channels,h,w) -> (B,out_channels,h,w). Parameter names are torchvision's.
    """

    def __init__(
        self, in_channels: int, out_channels: int, dilations: tuple[int, ...], dropout: float
    ):
        super().__init__()
        pooling = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), *_conv_bn_relu(in_channels, out_channels, 1, 1)
        )
        self.convs = nn.ModuleList(
            [
                _conv_bn_relu(in_channels, out_channels, 1, 1),
                *(_conv_bn_relu(in_channels, out_channels, 3, d) for d in dilations),
                pooling,
            ]
        )
        self.project = nn.Sequential(
            *_conv_bn_relu(len(self.convs) * out_channels, out_channels, 1, 1), nn.Dropout(dropout)
        )
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        pooling = self.convs[-1]
        if self.training and len(x) == 1 and type(pooling[2]) is nn.BatchNorm2d:
            # One pooled value per channel has no variance.
            raise InputError(
                "aspp: v3 got 1 image in training mode: the batch norm of its image pooling "
                "needs at least 2 images per process; raise 'batch_size', use fewer processes or "
                "aspp: v2"
            )
        # Bilinear resizing of one pixel to (h, w) is a plain repetition.
        pooled = pooling(x).expand(-1, -1, *x.shape[-2:])
        return self.project(torch.cat([*(conv(x) for conv in self.convs[:-1]), pooled], dim=1))


class ASPPV2(nn.Module):
    """ASPP of the official code: sum over dilations of ReLU(BN(3x3)) (after DeepLabV2).

    (B,in_channels,h,w) -> (B,out_channels,h,w).
    """

    def __init__(
        self, in_channels: int, out_channels: int, dilations: tuple[int, ...], dropout: float
    ):
        super().__init__()
        self.convs = nn.ModuleList(
            _conv_bn_relu(in_channels, out_channels, 3, d) for d in dilations
        )
        self.dropout = nn.Dropout(dropout)
        initialize(self)

    def forward(self, x: Tensor) -> Tensor:
        total = self.convs[0](x)
        for conv in self.convs[1:]:
            total = total + conv(x)
        return self.dropout(total)


class TextClassifier(nn.Module):
    """logits = <feature, text embedding>: frozen, no bias, no temperature, features not normalised.

    text_embeddings: (K,D) float32, unit rows. features (B,D,h,w) -> logits (B,K,h,w).
    """

    def __init__(self, text_embeddings: Tensor):
        super().__init__()
        self.register_buffer("text_embeddings", text_embeddings.detach().clone().float())

    def forward(self, features: Tensor) -> Tensor:
        return F.conv2d(features, self.text_embeddings[:, :, None, None])


class ConvClassifier(nn.Conv2d):
    """An ordinary learned 1x1 convolution, for comparison and full supervision."""

    def __init__(self, in_channels: int, num_classes: int):
        super().__init__(in_channels, num_classes, 1)
        nn.init.normal_(self.weight, std=0.01)
        nn.init.zeros_(self.bias)


class DeepLabV3(nn.Module):
    """image (B,3,H,W), normalised -> logits (B,K,H/stride,W/stride), sizes rounded up."""

    def __init__(self, backbone: nn.Module, aspp: nn.Module, classifier: nn.Module):
        super().__init__()
        self.backbone = backbone
        self.aspp = aspp
        self.classifier = classifier

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.aspp(self.backbone(image)))
