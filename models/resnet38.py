"""ResNet-38 of PSA, SEAM and 1-Stage: pre-activation, stride 8, the authors' parameter names.

Wu, Shen and van den Hengel, "Wider or Deeper: Revisiting the ResNet Model for Visual Recognition"
(2016), as jiwoon-ahn/psa @9493e59 dilates and freezes it. The pretrained weights are a file of
400 MB of third parties, so that the methods here use the harness's ResNet; this network serves
their reference cases.
"""

from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn

from models.cam import KeepsStatistics, batch_norms

DROPOUT = (0.3, 0.5)  # of whole channels, in b6 and b7
FROZEN = ("conv1a", "b2", "b2_1", "b2_2")  # no gradient; the batch norms have none anywhere


class Taps(NamedTuple):
    """Maps of stride 8: (B,8w,h,w), (B,16w,h,w) and (B,64w,h,w) for a network of width w."""

    conv4: Tensor
    conv5: Tensor
    conv6: Tensor


def _conv(channels: int, out: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    padding = dilation * (kernel // 2)
    return nn.Conv2d(channels, out, kernel, stride, padding, dilation, bias=False)


class Block(nn.Module):
    """a = relu(bn(x)); shortcut + 3x3(relu(bn(3x3(a)))). Returns the sum and a.

    The shortcut is x, or 1x1(a) where the shape changes. dilations: of the two 3x3.
    """

    def __init__(
        self, channels: int, middle: int, out: int, stride: int = 1, dilations: tuple = (1, 1)
    ) -> None:
        super().__init__()
        self.bn_branch2a = nn.BatchNorm2d(channels)
        self.conv_branch2a = _conv(channels, middle, 3, stride, dilations[0])
        self.bn_branch2b1 = nn.BatchNorm2d(middle)
        self.conv_branch2b1 = _conv(middle, out, 3, 1, dilations[1])
        self.conv_branch1 = None
        if channels != out or stride != 1:
            self.conv_branch1 = _conv(channels, out, 1, stride)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.bn_branch2a(x).relu()
        shortcut = x if self.conv_branch1 is None else self.conv_branch1(a)
        return shortcut + self.conv_branch2b1(self.bn_branch2b1(self.conv_branch2a(a)).relu()), a


class Bottle(nn.Module):
    """a = relu(bn(x)); 1x1(a) + 1x1, 3x3, 1x1 of a, with dropout. Returns the sum and a."""

    def __init__(self, channels: int, out: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.dropout = dropout
        self.bn_branch2a = nn.BatchNorm2d(channels)
        self.conv_branch2a = _conv(channels, out // 4, 1)
        self.bn_branch2b1 = nn.BatchNorm2d(out // 4)
        self.conv_branch2b1 = _conv(out // 4, out // 2, 3, 1, dilation)
        self.bn_branch2b2 = nn.BatchNorm2d(out // 2)
        self.conv_branch2b2 = _conv(out // 2, out, 1)
        self.conv_branch1 = _conv(channels, out, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        a = self.bn_branch2a(x).relu()
        y = self.bn_branch2b1(self.conv_branch2a(a)).relu()
        y = self.conv_branch2b1(F.dropout2d(y, self.dropout, self.training))
        y = self.bn_branch2b2(y).relu()
        y = self.conv_branch2b2(F.dropout2d(y, self.dropout, self.training))
        return self.conv_branch1(a) + y, a


class ResNet38(KeepsStatistics):
    """image (B,3,H,W) -> `Taps`, of ceil(H/8) x ceil(W/8) cells.

    width: channels of the stem, 64 in the paper. Batch norms keep their statistics, weights and
    biases; the layers `FROZEN` get no gradient.
    """

    def __init__(self, width: int = 64) -> None:
        super().__init__()
        w = width
        self.out_channels = 64 * w
        self.conv1a = _conv(3, w, 3)
        self.b2, self.b2_1, self.b2_2 = _stage(w, 2 * w, 2 * w, 2, stride=2)
        self.b3, self.b3_1, self.b3_2 = _stage(2 * w, 4 * w, 4 * w, 2, stride=2)
        self.b4, *rest = _stage(4 * w, 8 * w, 8 * w, 5, stride=2)
        self.b4_1, self.b4_2, self.b4_3, self.b4_4, self.b4_5 = rest
        self.b5 = Block(8 * w, 8 * w, 16 * w, 1, (1, 2))
        self.b5_1 = Block(16 * w, 8 * w, 16 * w, 1, (2, 2))
        self.b5_2 = Block(16 * w, 8 * w, 16 * w, 1, (2, 2))
        self.b6 = Bottle(16 * w, 32 * w, 4, DROPOUT[0])
        self.b7 = Bottle(32 * w, 64 * w, 4, DROPOUT[1])
        self.bn7 = nn.BatchNorm2d(64 * w)
        for name in FROZEN:
            getattr(self, name).requires_grad_(False)
        for norm in batch_norms(self):
            norm.requires_grad_(False)

    def forward(self, image: Tensor) -> Taps:
        x = self.conv1a(image)
        entering = {}
        for name, block in self.named_children():
            if isinstance(block, Block | Bottle):
                x, entering[name] = block(x)
        return Taps(entering["b5"], entering["b6"], self.bn7(x).relu())


def _stage(channels: int, middle: int, out: int, more: int, stride: int) -> list[Block]:
    """A block that changes the shape, and `more` that keep it."""
    return [Block(channels, middle, out, stride), *(Block(out, middle, out) for _ in range(more))]
