"""RCM: features of a classifier drawn to prototypes of the regions that its maps show.

Yoon et al., "Exploring Pixel-level Self-supervision for Weakly Supervised Semantic Segmentation",
arXiv 2112.05351, after the abstract; constants from KAIST-vilab/AEFT (train_moco.py, infer.py).
Used by baselines/support_net.py.
"""

from collections import deque

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.labels import IGNORE_INDEX
from models.cam import normalize_cams
from utils.safe.errors import InputError

TEMPERATURE = 2.0  # factor of the cosine in L_RCM
REGION_THRESHOLD = 0.3
QUEUE = 5  # prototypes per class


def region_masks(cams: Tensor, labels: Tensor, valid: Tensor, rest: int) -> Tensor:
    """Regions (B,h,w) of maps (B,C,h,w) of present classes: the highest normalised map's class.

    `rest` where none reaches REGION_THRESHOLD: C, a region of its own, or IGNORE_INDEX, no region.
    No region on padding and in images without a class.
    """
    highest, region = normalize_cams(cams).max(1)
    region = region.masked_fill(highest < REGION_THRESHOLD, rest)
    used = valid & (labels.sum(1) > 0)[:, None, None]
    return region.masked_fill(~used, IGNORE_INDEX)


def region_vectors(features: Tensor, regions: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """v_bc: normalised sum of the normalised features (B,D,h,w) of each region of each image.

    Returns (B,count,D), and (B,count) bool: whether the region exists.
    """
    inside = regions[:, None] == torch.arange(count, device=regions.device)[:, None, None]
    sums = torch.einsum("bchw,bdhw->bcd", inside.to(features.dtype), F.normalize(features))
    return F.normalize(sums, dim=2), inside.any(3).any(2)


class Prototypes:
    """P_c: normalised mean of the last QUEUE vectors of each region, over batches."""

    def __init__(self, count: int, channels: int, device: torch.device) -> None:
        self.queues: list[deque[Tensor]] = [deque(maxlen=QUEUE) for _ in range(count)]
        self.channels, self.device = channels, device

    def add(self, vectors: Tensor, exists: Tensor) -> None:
        """Add the vectors (B,count,D) of the regions that exist (B,count), image by image."""
        for image, region in exists.nonzero().tolist():
            self.queues[region].append(vectors[image, region].clone())

    def vectors(self) -> tuple[Tensor, Tensor]:
        """(count,D), and (count) bool: whether there is one; the others are 0."""
        zero = torch.zeros(self.channels, device=self.device)
        means = [torch.stack([*queue]).mean(0) if queue else zero for queue in self.queues]
        known = torch.tensor([len(queue) > 0 for queue in self.queues], device=self.device)
        return F.normalize(torch.stack(means), dim=1), known

    def state_dict(self) -> dict[str, list[Tensor]]:
        return {str(i): [v.cpu() for v in queue] for i, queue in enumerate(self.queues)}

    def load_state_dict(self, state: dict[str, list[Tensor]]) -> None:
        sizes = [getattr(v, "shape", None) for queue in state.values() for v in queue]
        if list(state) != list(self.state_dict()) or any(
            size != (self.channels,) for size in sizes
        ):
            raise InputError("the checkpoint holds prototypes of other regions; start over")
        for queue, vectors in zip(self.queues, state.values(), strict=True):
            queue.clear()
            queue.extend(vector.to(self.device) for vector in vectors)


def contrast_loss(features: Tensor, prototypes: Tensor, known: Tensor, regions: Tensor) -> Tensor:
    """L_RCM: cross-entropy of TEMPERATURE times the cosines to the prototypes with the regions.

    Mean over the pixels (B,h,w) of a region with a prototype; 0 where there is none.
    """
    used = (regions != IGNORE_INDEX) & known[regions.clamp(max=len(known) - 1)]
    if not used.any():
        return features.sum() * 0
    cosines = torch.einsum("bdhw,cd->bchw", F.normalize(features), prototypes)
    logits = (TEMPERATURE * cosines).masked_fill(~known[:, None, None], -torch.inf)
    targets = regions.masked_fill(~used, IGNORE_INDEX)
    return F.cross_entropy(logits, targets, ignore_index=IGNORE_INDEX)
