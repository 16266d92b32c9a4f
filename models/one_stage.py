"""Network of 1-Stage: ASPP, global cue injection, stochastic gate, class scores from masks.

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020, as
visinf/1-stage-wseg @d905fca computes it; the head has that repository's parameter names.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from datasets.long_side import resize_bicubic
from datasets.transforms import normalize
from models.cam import KeepsStatistics, batch_norms
from models.inference import Size, resize, resize_corners
from models.kernels.cpu_speed import DilatedConv2d
from models.resnet import ResNet

DILATIONS = (12, 24, 36)  # theirs of output stride 8, used at stride 16 too
PSI = 0.3  # of the stochastic gate
WIDTH, SKIP = 256, 48  # channels
DROPOUT = (0.5, 0.5, 0.1)  # after the ASPP, and twice in last_conv


def _conv1x1(channels: int, out: int) -> nn.Conv2d:
    return nn.Conv2d(channels, out, 1, bias=False)


class _Branch(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, channels: int, out: int, dilation: int | None) -> None:
        super().__init__()
        self.atrous_conv = (
            DilatedConv2d(channels, out, dilation) if dilation else _conv1x1(channels, out)
        )
        self.bn = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.atrous_conv(x)).relu()


class FrozenASPP(KeepsStatistics):
    """ASPP whose batch norms keep their statistics, (0, 1): affine layers, which do train.

    (B,channels,h,w) -> (B,width,h,w).
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        for number, dilation in enumerate((None, *DILATIONS), 1):
            setattr(self, f"aspp{number}", _Branch(channels, width, dilation))
        self.global_avg_pool = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), _conv1x1(channels, width), nn.BatchNorm2d(width), nn.ReLU()
        )
        self.conv1, self.bn1 = _conv1x1(5 * width, width), nn.BatchNorm2d(width)
        self.dropout = nn.Dropout(DROPOUT[0])

    def forward(self, x: Tensor) -> Tensor:
        branches = [getattr(self, f"aspp{number}")(x) for number in range(1, 5)]
        pooled = self.global_avg_pool(x).expand(-1, -1, *x.shape[-2:])
        return self.dropout(self.bn1(self.conv1(torch.cat([*branches, pooled], 1))).relu())


class GCI(nn.Module):
    """Global cue injection: `shallow` (B,c,h,w), shifted and scaled by maxima of `deep` (B,w,h,w).

    g = max over the map of relu(bn(1x1(deep))), its halves gamma and beta;
    v = relu(norm(1x1(shallow)) (gamma + 1) + beta); returns relu(bn(1x1(v))), (B,w,h,w).
    """

    def __init__(self, shallow: int, width: int) -> None:
        super().__init__()
        norm = nn.BatchNorm2d
        # weight and bias of fc_skip's norm stay 1 and 0: theirs has none
        self.fc_deep = nn.Sequential(_conv1x1(width, 2 * width), norm(2 * width), nn.ReLU())
        self.fc_skip = nn.Sequential(_conv1x1(shallow, width), norm(width).requires_grad_(False))
        self.fc_cls = nn.Sequential(_conv1x1(width, width), norm(width), nn.ReLU())

    def forward(self, shallow: Tensor, deep: Tensor) -> Tensor:
        gamma, beta = self.fc_deep(deep).amax((2, 3), keepdim=True).chunk(2, 1)
        return self.fc_cls((self.fc_skip(shallow) * (gamma + 1) + beta).relu())


def draw_gate(maps: Tensor, psi: float) -> Tensor:
    """1 with probability 1 - psi, else 0, for each value of `maps` (B,c,h,w)."""
    return (torch.rand_like(maps) >= psi).to(maps.dtype)


def stochastic_gate(deep: Tensor, shallow: Tensor, psi: float, keep: Tensor | None) -> Tensor:
    """m (deep - psi shallow) / (1 - psi) + (1 - m) shallow, m = keep, 0 or 1; its mean is deep.

    keep None, at test time: (1 - psi) deep + psi shallow.
    """
    if keep is None:
        return (1 - psi) * deep + psi * shallow
    return keep * (deep - psi * shallow) / (1 - psi) + (1 - keep) * shallow


class OneStageHead(nn.Module):
    """conv3 (B,c,h,w) of stride 4, conv6 (B,C,.,.) -> logits (B,classes,h,w) of the classes."""

    def __init__(
        self, conv3: int, conv6: int, classes: int, width: int = WIDTH, skip: int = SKIP
    ) -> None:
        super().__init__()

        def block(channels: int, out: int, kernel: int) -> list[nn.Module]:
            conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
            return [conv, nn.BatchNorm2d(out), nn.ReLU()]

        self.aspp = FrozenASPP(conv6, width)
        self.fc8_skip = nn.Sequential(*block(conv3, skip, 1))
        self.fc8_x = nn.Sequential(*block(width + skip, width, 3))
        self.shallow_mask = GCI(conv3, width)
        self.last_conv = nn.Sequential(
            *block(width, width, 3),
            nn.Dropout(DROPOUT[1]),
            *block(width, width, 3),
            nn.Dropout(DROPOUT[2]),
            nn.Conv2d(width, classes, 1),
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight)
        nn.init.zeros_(self.last_conv[-1].bias)

    def forward(self, conv3: Tensor, conv6: Tensor) -> Tensor:
        upsampled = resize_corners(self.aspp(conv6), conv3.shape[-2:])
        deep = self.fc8_x(torch.cat([upsampled, self.fc8_skip(conv3)], 1))
        shallow = self.shallow_mask(conv3, deep)
        keep = draw_gate(deep, PSI) if self.training else None
        return self.last_conv(stochastic_gate(deep, shallow, PSI, keep))


class OneStageNetwork(nn.Module):
    """Normalised image (B,3,H,W) -> logits (B,C,H/4,W/4), float32.

    background: channel 0 is that of a background, the constant 1. The backbone's batch norms keep
    statistics, weights and biases, and its first convolution gets no gradient.
    """

    def __init__(self, backbone: ResNet, classes: int, background: bool) -> None:
        super().__init__()
        self.backbone, self.background = backbone, background
        conv3 = backbone.out_channels // 2 ** (backbone.num_layers - 1)
        widths = min(WIDTH, backbone.out_channels), min(SKIP, conv3)  # theirs for a ResNet-50
        self.head = OneStageHead(conv3, backbone.out_channels, classes, *widths)
        first = backbone.stem if backbone.deep_stem else backbone.conv1
        for module in (first, *batch_norms(backbone)):
            module.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        maps = self.backbone.stages(image)
        return with_constant(self.head(maps[0], maps[-1]).float(), self.background)

    def train(self, mode: bool = True) -> "OneStageNetwork":
        super().train(mode)
        for norm in batch_norms(self.backbone):
            norm.eval()
        return self


def with_constant(logits: Tensor, background: bool) -> Tensor:
    """x = [1 ; z]: a constant channel in front of logits (B,K,h,w), where there is a background."""
    return torch.cat([torch.ones_like(logits[:, :1]), logits], 1) if background else logits


class View(NamedTuple):
    """One view of an image: scale, mirrored or not, and where its pixels are in the container."""

    scale: float
    mirrored: bool
    place: tuple[slice, slice]


def padded_view(
    image: Tensor, scale: float, mirrored: bool, container: Size
) -> tuple[View, Tensor]:
    """Image uint8 (3,H,W), bicubic at `scale`, amid a container of zeros: the view, (1,3,P,Q)."""
    size = tuple(max(1, round(side * scale)) for side in image.shape[1:])
    pixels = resize_bicubic(image, size)
    pixels = pixels.flip(-1) if mirrored else pixels
    place = tuple(
        slice((whole - side) // 2, (whole - side) // 2 + side)
        for whole, side in zip(container, size, strict=True)
    )
    canvas = torch.zeros(1, 3, *container, device=image.device)
    canvas[(..., *place)] = normalize(pixels[None], "imagenet")
    return View(scale, mirrored, place), canvas


def mask_of_view(masks: Tensor, view: View, container: Size, size: Size) -> Tensor:
    """Masks (1,C,h,w) of a view at the `size` of the image, mirrored back: (C,H,W)."""
    at_size = resize(resize_corners(masks, container)[(..., *view.place)], size)[0]
    return at_size.flip(-1) if view.mirrored else at_size
