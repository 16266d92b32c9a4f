"""Dilated ResNet-18/34/50/101 with torchvision's parameter names."""

from typing import Any

from torch import Tensor, nn

from utils.safe.errors import InputError

# depth: (blocks per stage, bottleneck)
DEPTHS = {
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
}
# Name in a config -> arguments of `ResNet`.
VARIANTS: dict[str, dict[str, Any]] = {
    "resnet18": {"depth": 18},
    "resnet34": {"depth": 34},
    "resnet50": {"depth": 50},
    "resnet101": {"depth": 101},
    "resnet50_v1c": {"depth": 50, "stem": "v1c"},  # mmseg's, of the official code
    "resnet101_v1c": {"depth": 101, "stem": "v1c"},
    "resnet50_caffe_c4": {"depth": 50, "layers": 3, "bottleneck_stride": "1x1"},  # MSRA's of 2015
    "resnet18_quarter": {"depth": 18, "width": 16, "layers": 3},  # the demo's
    "resnet18_eighth": {"depth": 18, "width": 8},  # for tests, as the next one
    "resnet18_v1c_quarter": {"depth": 18, "width": 16, "stem": "v1c"},
}


def _conv3x3(in_channels: int, out_channels: int, stride: int, dilation: int) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, 3, stride, dilation, dilation, bias=False)


class _Block(nn.Module):
    """Shortcut of both residual blocks, projected when the shape changes.

    `dilations` holds the dilation up to and including the convolution that carries the stride, and
    the dilation after it. They differ where a stage's stride was turned into dilation: that keeps
    the output equal, at every stride-th position, to that of the pretrained strided network.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int):
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False),
                nn.BatchNorm2d(out_channels),
            )

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.residual(x) + shortcut)


class BasicBlock(_Block):
    """3x3 (stride) - 3x3."""

    expansion = 1

    def __init__(
        self, in_channels: int, planes: int, stride: int, dilations: tuple[int, int], stride_at: str
    ):
        super().__init__(in_channels, planes, stride)
        self.conv1 = _conv3x3(in_channels, planes, stride, dilations[0])
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(planes, planes, 1, dilations[1])
        self.bn2 = nn.BatchNorm2d(planes)

    def residual(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        return self.bn2(self.conv2(x))


class Bottleneck(_Block):
    """1x1 - 3x3 - 1x1; the stride is on the 3x3, or on the first 1x1 (the 2015 Caffe networks)."""

    expansion = 4

    def __init__(
        self, in_channels: int, planes: int, stride: int, dilations: tuple[int, int], stride_at: str
    ):
        super().__init__(in_channels, planes * self.expansion, stride)
        on_3x3 = stride_at == "3x3"
        self.conv1 = nn.Conv2d(in_channels, planes, 1, 1 if on_3x3 else stride, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = _conv3x3(
            planes, planes, stride if on_3x3 else 1, dilations[0] if on_3x3 else dilations[1]
        )
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, planes * self.expansion, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(planes * self.expansion)

    def residual(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        return self.bn3(self.conv3(x))


def _deep_stem(width: int) -> nn.Sequential:
    """Three 3x3 convolutions in place of the 7x7 (the 'V1c' stem); stride 2 on the first."""
    layers: list[nn.Module] = []
    in_channels = 3
    for out_channels, stride in ((width // 2, 2), (width // 2, 1), (width, 1)):
        layers += [
            _conv3x3(in_channels, out_channels, stride, 1),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
        in_channels = out_channels
    return nn.Sequential(*layers)


class ResNet(nn.Module):
    """image (B,3,H,W) -> the last feature map (B,out_channels,H/stride,W/stride), rounded up.

    depth: 18, 34, 50 or 101. width: channels of the stem (64 in the papers).
    layers: how many of the four stages to build. stem: "conv7" or "v1c" (three 3x3).
    output_stride: 4, 8 or 16; the stages that would go beyond it are dilated instead.
    bottleneck_stride: "3x3" (torchvision, mmseg) or "1x1" (Caffe weights).
    """

    def __init__(
        self,
        depth: int,
        width: int = 64,
        layers: int = 4,
        stem: str = "conv7",
        output_stride: int = 8,
        bottleneck_stride: str = "3x3",
    ):
        super().__init__()
        if depth not in DEPTHS or not 1 <= layers <= 4:
            raise ValueError(f"no ResNet of depth {depth}, {layers=}")
        if output_stride not in (4, 8, 16):
            raise ValueError(f"output_stride must be 4, 8 or 16, found {output_stride}")
        if stem not in ("conv7", "v1c") or bottleneck_stride not in ("3x3", "1x1"):
            raise ValueError(f"no ResNet with {stem=}, {bottleneck_stride=}")
        self.depth = depth
        self.num_layers = layers
        self.deep_stem = stem == "v1c"
        if self.deep_stem:
            self.stem = _deep_stem(width)
        else:
            self.conv1 = nn.Conv2d(3, width, 7, 2, 3, bias=False)
            self.bn1 = nn.BatchNorm2d(width)
            self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)

        num_blocks, bottleneck = DEPTHS[depth]
        block = Bottleneck if bottleneck else BasicBlock
        channels, stride_so_far, dilation = width, 4, 1
        for layer in range(layers):
            stride = 1 if layer == 0 else 2
            previous_dilation = dilation
            if stride_so_far * stride > output_stride:
                dilation, stride = dilation * stride, 1
            stride_so_far *= stride
            blocks = []
            for index in range(num_blocks[layer]):
                first = index == 0
                blocks.append(
                    block(
                        channels,
                        width * 2**layer,
                        stride if first else 1,
                        (previous_dilation if first else dilation, dilation),
                        bottleneck_stride,
                    )
                )
                channels = width * 2**layer * block.expansion
            setattr(self, f"layer{layer + 1}", nn.Sequential(*blocks))
        self.out_channels = channels
        initialize(self)

    def stages(self, image: Tensor) -> list[Tensor]:
        """The feature map after each stage."""
        x = self.stem(image) if self.deep_stem else self.relu(self.bn1(self.conv1(image)))
        x = self.maxpool(x)
        maps = []
        for layer in range(self.num_layers):
            x = getattr(self, f"layer{layer + 1}")(x)
            maps.append(x)
        return maps

    def forward(self, image: Tensor) -> Tensor:
        return self.stages(image)[-1]


def named_resnet(name: str, output_stride: int) -> ResNet:
    """The backbone of a name in `VARIANTS`. Raises InputError for another name."""
    if name not in VARIANTS:
        raise InputError(f"'backbone' must be one of {', '.join(VARIANTS)}; found '{name}'")
    return ResNet(**VARIANTS[name], output_stride=output_stride)


def initialize(module: nn.Module) -> None:
    """Convolutions: normal with variance 2 / fan-out (He et al. 2015); batch norms: 1 and 0."""
    for m in module.modules():
        if isinstance(m, nn.Conv2d):
            nn.init.kaiming_normal_(m.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(m, nn.BatchNorm2d):
            nn.init.ones_(m.weight)
            nn.init.zeros_(m.bias)
