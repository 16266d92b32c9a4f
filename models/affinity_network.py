"""Networks of AffinityNet (PSA): taps of a frozen-norm ResNet, its head, and the classifier's.

Layers after jiwoon-ahn/psa @9493e59 (MIT), network/resnet38_aff.py and resnet38_cls.py, on the
harness's ResNet; SEAM has the same taps.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.affinity import STRIDE
from models.cam import KeepsStatistics, batch_norms, build_cam_backbone
from utils.config import Config

WIDTHS = (64, 128, 256)  # of f8_3, f8_4 and f8_5


class Taps(KeepsStatistics):
    """The last three stages of a ResNet; its stem and first stage frozen, its batch norms too.

    A stage finer than the last, as a ResNet of three stages has it, is averaged to its size.
    """

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name.startswith(("layer2", "layer3", "layer4")))
        for norm in batch_norms(self):
            norm.requires_grad_(False)
        with torch.no_grad():
            found = backbone.eval().stages(torch.zeros(1, 3, 64, 64))[-3:]
        self.channels = [stage.shape[1] for stage in found]

    def forward(self, image: Tensor) -> list[Tensor]:
        stages = self.backbone.stages(image)[-3:]
        size = stages[-1].shape[-2:]
        return [x if x.shape[-2:] == size else F.adaptive_avg_pool2d(x, size) for x in stages]


class AffinityHead(nn.Module):
    """Taps -> f = ELU(f9([ELU(f8_3), ELU(f8_4), ELU(f8_5)])), all 1x1 without bias.

    channels: of the taps. groups: of a group norm before each inner ELU (their VGG-16), or None.
    """

    def __init__(
        self,
        channels: Sequence[int],
        widths: Sequence[int] = WIDTHS,
        groups: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        for i, (one, width) in enumerate(zip(channels, widths, strict=True), 3):
            setattr(self, f"f8_{i}", nn.Conv2d(one, width, 1, bias=False))
            nn.init.kaiming_normal_(getattr(self, f"f8_{i}").weight)
            norm = nn.Identity() if groups is None else nn.GroupNorm(groups[i - 3], width)
            setattr(self, f"gn8_{i}", norm)
        self.f9 = nn.Conv2d(sum(widths), sum(widths), 1, bias=False)
        nn.init.xavier_uniform_(self.f9.weight, gain=4)

    def forward(self, *taps: Tensor) -> Tensor:
        parts = [
            F.elu(getattr(self, f"gn8_{i}")(getattr(self, f"f8_{i}")(tap)))
            for i, tap in enumerate(taps, 3)
        ]
        return F.elu(self.f9(torch.cat(parts, 1)))


class PSANetwork(nn.Module):
    """Images (B,3,H,W), normalised -> what the head makes of the taps, float32."""

    def __init__(self, taps: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.taps, self.head = taps, head

    def forward(self, image: Tensor) -> Tensor:
        return self.head(*self.taps(image)).float()

    def groups(self, lr: float, new_lr: float) -> list[dict[str, Any]]:
        """Groups of parameters for `poly_sgd`; there are no biases that train."""
        old = [p for p in self.taps.parameters() if p.requires_grad]
        return [{"params": old, "lr": lr}, {"params": list(self.head.parameters()), "lr": new_lr}]


class ClassifierHead(nn.Module):
    """Taps -> raw maps (B,C,h,w) of the last one, half of its channels dropped in training."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(0.5)
        self.fc8 = nn.Conv2d(channels, num_classes, 1, bias=False)
        nn.init.xavier_uniform_(self.fc8.weight)

    def forward(self, *taps: Tensor) -> Tensor:
        return self.fc8(self.dropout(taps[-1]))


def build_affinity_network(config: Config) -> PSANetwork:
    """AffinityNet on the config's backbone and weights, on the CPU."""
    taps = Taps(build_cam_backbone(config, STRIDE))
    return PSANetwork(taps, AffinityHead(taps.channels))


def build_psa_classifier(config: Config, num_classes: int) -> PSANetwork:
    """The classifier on the config's backbone and weights, on the CPU."""
    taps = Taps(build_cam_backbone(config, STRIDE))
    return PSANetwork(taps, ClassifierHead(taps.channels[-1], num_classes))
