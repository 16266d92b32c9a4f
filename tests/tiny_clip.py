"""Randomly initialised miniatures of OpenAI's CLIP, both families."""

import torch
from clip.model import CLIP
from torch import nn


def tiny_clip(resnet: bool = False, seed: int = 0) -> nn.Module:
    """CLIP of width 64: ViT with 8 px patches on a 4x4 grid, or ResNet with a 1x1 grid."""
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        model = CLIP(
            embed_dim=64,
            image_resolution=32,
            vision_layers=(1, 1, 1, 1) if resnet else 3,
            vision_width=16 if resnet else 128,
            vision_patch_size=None if resnet else 8,
            context_length=77,
            vocab_size=49408,
            transformer_width=64,
            transformer_heads=1,
            transformer_layers=1,
        )
    # OpenAI's initial biases and norms are 0 and 1: forgetting one would not show.
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if tensor.ndim == 1 and tensor.is_floating_point():
                tensor += 0.3 * torch.rand(tensor.shape, generator=generator)
            elif tensor.ndim > 1:
                scale = 0.02 if len(tensor) > 40000 else tensor[0].numel() ** -0.5
                tensor.copy_(scale * torch.randn(tensor.shape, generator=generator))
    return model.eval().requires_grad_(False)
