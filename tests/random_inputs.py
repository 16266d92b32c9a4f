"""Random images and labels under the official config."""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.config import Config, config_from_dict, load_config

OFFICIAL = Path(__file__).resolve().parent.parent / "configs" / "official" / "cityscapes.yaml"
CLASSES = 19


def official_config(**changes: Any) -> Config:
    """configs/official/cityscapes.yaml, the authors' switches, with `changes`."""
    return config_from_dict(load_config(OFFICIAL).to_dict() | changes, str(OFFICIAL))


def random_images(num_images: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Blotches and noise, uint8 (N, 3, H, W)."""
    cells = [max(2, side // 64) for side in size]
    blotches = torch.rand(num_images, 3, *cells, generator=generator)
    image = F.interpolate(blotches, size, mode="bicubic").clamp(0, 1) * 255
    return (image + 20 * torch.randn(image.shape, generator=generator)).clamp(0, 255).byte()


def random_labels(num_images: int, generator: torch.Generator) -> Tensor:
    """(N, 19) float32, 12 classes each, as many as a Cityscapes image has in the mean."""
    order = torch.rand(num_images, CLASSES, generator=generator).argsort(1)
    return (order < 12).float()
