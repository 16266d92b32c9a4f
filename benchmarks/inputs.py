"""Random weights and inputs of realistic size, shared by both ways."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.output import ROOT
from models.clip_loading import openai_clip
from utils.config import Config, config_from_dict, load_config

OFFICIAL = ROOT / "configs" / "official" / "cityscapes.yaml"
CLASSES = 19


def official_config(**changes: Any) -> Config:
    """configs/official/cityscapes.yaml, which follows the official program, with `changes`."""
    return config_from_dict(load_config(OFFICIAL).to_dict() | changes, str(OFFICIAL))


def random_visual(seed: int = 0, width: int = 768) -> nn.Module:
    """The image tower of CLIP ViT-B/16, frozen; smaller with a lower `width`, a multiple of 64.

    Matrices have unit gain: with OpenAI's initial weights all positions of an image would get
    nearly the same feature, and one class would win everywhere.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.device("meta"):  # skips drawing initial weights, which takes a second
        visual = openai_clip().model.VisionTransformer(224, 16, width, 12, width // 64, 512)
    visual = visual.to_empty(device="cpu").requires_grad_(False).eval()
    for name, parameter in visual.named_parameters():
        parameter.normal_(generator=generator)
        if parameter.ndim > 1:
            parameter.mul_(parameter[0].numel() ** -0.5)
        else:
            is_scale = "ln_" in name and name.endswith("weight")
            parameter.mul_(0.1).add_(float(is_scale))
    return visual


def random_text_embeddings(seed: int = 1) -> Tensor:
    """Random unit rows, (19, 512)."""
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(CLASSES, 512, generator=generator), dim=1)


def random_images(num_images: int, size: tuple[int, int], generator: torch.Generator) -> Tensor:
    """Images of blotches and noise, uint8 (N, 3, H, W)."""
    cells = [max(2, side // 64) for side in size]
    blotches = torch.rand(num_images, 3, *cells, generator=generator)
    image = F.interpolate(blotches, size, mode="bicubic").clamp(0, 1) * 255
    return (image + 20 * torch.randn(image.shape, generator=generator)).clamp(0, 255).byte()


def random_labels(num_images: int, generator: torch.Generator) -> Tensor:
    """Labels (N, 19), float32, with 12 classes each, the mean of Cityscapes images."""
    order = torch.rand(num_images, CLASSES, generator=generator).argsort(1)
    return (order < 12).float()
