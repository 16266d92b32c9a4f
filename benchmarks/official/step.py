"""The official training step: segmentation forward, both CLIP masks, losses, backward, SGD."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.official.clip import clip_mask
from benchmarks.official.loss import Losses
from models.kernels.cpu_speed import DilatedConv2d


def plain(network: nn.Module) -> nn.Module:
    """`network` as in the official program: in training mode, with torch's own convolutions.

    Its layers come from models/deeplabv3.py, which tests compare with the official numbers.
    """
    for module in network.modules():
        if isinstance(module, DilatedConv2d):
            module.__class__ = nn.Conv2d
    return network.train()


@dataclass
class Step:
    """State of one process of the official program; calling it takes one training step.

    patch_size: (height, width) of the local view in pixels of the global view.
    """

    network: nn.Module
    visual: nn.Module
    text_embeddings: Tensor
    losses: Losses
    optimizer: torch.optim.Optimizer
    patch_size: tuple[int, int]

    def __call__(
        self,
        image: Tensor,
        image_labels: Tensor,
        corner: tuple[int, int],
        local_size: tuple[int, int],
    ) -> dict[str, Tensor]:
        """image (N, 3, H, W), normalised; one local view for the batch, the patch at `corner`.

        CLIP sees the patch at `local_size`: its size times the resize ratio, in whole pixels.
        CLIP runs after the segmentation network's forward pass, while the graph is alive.
        """
        logits = self.network(image)
        size = image.shape[-2:]
        global_mask = clip_mask(self.visual, self.text_embeddings, image, image_labels, size)
        patch = self.local_view(image, corner, local_size)
        local_mask = clip_mask(
            self.visual, self.text_embeddings, patch, image_labels, self.patch_size
        )
        losses = self.losses(logits, image_labels, global_mask[:, 0], local_mask[:, 0], corner)
        self.optimizer.zero_grad()
        losses["total"].backward()
        self.optimizer.step()
        return losses

    def local_view(
        self, image: Tensor, corner: tuple[int, int], local_size: tuple[int, int]
    ) -> Tensor:
        (top, left), (height, width) = corner, self.patch_size
        patch = image[:, :, top : top + height, left : left + width].clone()
        return F.interpolate(patch, local_size, mode="bilinear")
