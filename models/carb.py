"""Losses of global-local view training and Consistency-Aware Region Balancing (Kim et al. 2024).

Shapes: logits (B, K, h, w); everything upsampled to the image is (B, K, H, W); masks are (B, H, W)
long with `IGNORE_INDEX` where there is no label; a local view covers box = (top, left, height,
width) of it.
"""

from collections import deque

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.labels import IGNORE_INDEX
from models.maskclip import suppress_absent
from models.pixel_losses import pixel_losses
from models.views import Box, crop
from utils.config import Config
from utils.distributed import all_reduce

_NO_ENTRY = -1.0  # an unfilled place of a queue; losses are never negative


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, K, h, w) -> (B, K, H, W), where every loss is taken; bf16 as float32."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # Classes last in memory: what follows runs along them.
    logits = logits.contiguous(memory_format=torch.channels_last)
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def region_means(
    losses: Tensor, regions: list[Tensor], empty: str = "zero", sync: bool = False
) -> tuple[Tensor, Tensor]:
    """Mean of `losses` over each region, the 1/|M| sums of Eq. 2, 3, 6, 7; all (B, H, W).

    Returns means (R,) and pixel counts (R,). The mean over no pixel is 0 with gradient 0, or NaN
    with ``empty="nan"`` as in the authors' code. With `sync` it is the mean over the pixels of all
    ranks.
    """
    sums = torch.stack([torch.where(region, losses, 0.0).sum() for region in regions])
    counts = torch.stack([region.sum() for region in regions])
    floor = 0 if empty == "nan" else 1
    if not (sync and dist.is_initialized()):
        return sums / counts.clamp(min=floor), counts
    totals = all_reduce(torch.stack([sums.detach().double(), counts.double()]))
    counts = totals[1].clamp(min=floor)
    # The value is the mean over all ranks. Data-parallel training averages gradients over ranks, so
    # each rank's own share is scaled by their number.
    share = sums / counts * dist.get_world_size()
    means = (totals[0] / counts + share - share.detach()).to(sums.dtype)
    return means, totals[1].long()


def segmentation_loss(
    losses: Tensor, pseudo_mask: Tensor, empty: str = "zero", sync: bool = False
) -> Tensor:
    """Eq. (2) for a local view and Eq. (3) for the global view of Kim et al. 2024.

    `pixel_losses` and pseudo_mask, (B, H, W) -> scalar, the mean over labelled pixels.
    """
    return region_means(losses, [pseudo_mask != IGNORE_INDEX], empty, sync)[0][0]


def filtered_prediction(logits: Tensor, image_labels: Tensor, label_filter: str) -> Tensor:
    """S of Eq. (4): arg-max among the classes of the image, (B, K, H, W) -> (B, H, W)."""
    return suppress_absent(logits.detach(), image_labels, label_filter).argmax(1)


def split_regions(pseudo_mask: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Eq. (4) and (5) of Kim et al. 2024: where pseudo-mask P and prediction S agree and differ.

    Two disjoint (B, H, W) bool maps, consistent and inconsistent; ignored pixels are in neither.
    """
    agree = pseudo_mask == prediction
    labelled = pseudo_mask != IGNORE_INDEX
    return agree & labelled, ~agree & labelled


def region_losses(
    losses: Tensor, pseudo_mask: Tensor, prediction: Tensor, empty: str, sync: bool
) -> tuple[Tensor, Tensor]:
    """Eq. (6) and (7) of Kim et al. 2024: L_c and L_i, (2,), and their pixel counts, (2,)."""
    return region_means(losses, list(split_regions(pseudo_mask, prediction)), empty, sync)


class CARBCriterion(nn.Module):
    """The total loss: L_g + L_l while warming up, then L_c + w L_i on both views.

    w is the mean of the last `queue_size` L_c over the mean of the last L_i (unnumbered equation
    after Eq. 7), from the global view only; a number as `region_weight` takes its place. A region
    without pixels enters no queue; w is 1 while a queue is empty or mean(L_i) is 0. Losses and
    queues stay on the device: no step waits for the host.
    """

    def __init__(
        self,
        queue_size: int = 5,
        region_weight: str | float = "adaptive",
        label_filter: str = "mask",
        empty_region: str = "zero",
        sync: bool = False,
    ) -> None:
        super().__init__()
        self.region_weight = region_weight
        self.label_filter = label_filter
        self.empty_region = empty_region
        self.sync = sync
        self.queue_consistent: deque[Tensor] = deque(maxlen=queue_size)
        self.queue_inconsistent: deque[Tensor] = deque(maxlen=queue_size)

    @classmethod
    def from_config(cls, config: Config) -> "CARBCriterion":
        return cls(
            config.queue_size,
            config.region_weight,
            config.arithmetic.label_filter,
            config.arithmetic.empty_region,
            config.sync_region_stats,
        )

    def forward(
        self,
        logits: Tensor,
        image_labels: Tensor,
        global_mask: Tensor,
        local_mask: Tensor | None = None,
        boxes: list[Box] | None = None,
        balanced: bool = True,
    ) -> dict[str, Tensor]:
        """Losses of one batch: minimise ``["loss"]``; the rest is detached and for the log.

        logits (B, K, h, w), image_labels (B, K), global_mask (B, H, W), and with a local view
        local_mask (B, ph, pw) and a box for each image. ``balanced=False`` is the warm-up loss.
        """
        full_logits = upsample(logits, global_mask.shape[-2:])
        losses, local_losses = pixel_losses(full_logits, global_mask, local_mask, boxes)
        prediction = filtered_prediction(full_logits, image_labels, self.label_filter)
        options = {"empty": self.empty_region, "sync": self.sync}
        regions, counts = region_losses(losses, global_mask, prediction, **options)
        result = {
            "loss_consistent": regions[0],
            "loss_inconsistent": regions[1],
            "consistent_fraction": counts[0] / counts.sum().clamp(min=1),
            "mask_agreement": (full_logits.argmax(1) == global_mask).float().mean(),
            "class_share": class_share(prediction, logits.shape[1]),
        }
        local_regions = None
        if local_mask is not None:
            local_regions, _ = region_losses(
                local_losses, local_mask, crop(prediction, boxes), **options
            )
            result["loss_consistent_local"] = local_regions[0]
            result["loss_inconsistent_local"] = local_regions[1]
        if balanced:
            self.push(regions.detach(), counts)
            balance = self.weight(regions)
            loss = regions[0] + balance * regions[1]
            if local_regions is not None:
                loss = loss + local_regions[0] + balance * local_regions[1]
            result["balance"] = balance
        else:
            loss = segmentation_loss(losses, global_mask, **options)
            result["loss_global"] = loss
            if local_mask is not None:
                local_loss = segmentation_loss(local_losses, local_mask, **options)
                result["loss_local"] = local_loss
                loss = loss + local_loss
        return {"loss": loss} | {key: value.detach() for key, value in result.items()}

    def push(self, losses: Tensor, counts: Tensor) -> None:
        """Append L_c and L_i, `losses` (2,), to their queues where the region has pixels.

        Whether it has is known on the device only, so the shift is computed there, and an unfilled
        place holds a marker instead of the deque being shorter.
        """
        for queue, loss, count in zip(self._queues(), losses, counts, strict=True):
            entries = self._entries(queue, losses)
            shifted = torch.cat([entries[1:], loss[None]])
            push = (count > 0) if self.empty_region == "zero" else torch.ones_like(count).bool()
            queue.extend(torch.where(push, shifted, entries).unbind())

    def weight(self, like: Tensor) -> Tensor:
        """w, a detached scalar on the device and of the type of `like`."""
        if self.region_weight != "adaptive":
            return torch.full((), self.region_weight, dtype=like.dtype, device=like.device)
        consistent, inconsistent = (self._mean(self._entries(q, like)) for q in self._queues())
        undefined = (consistent == _NO_ENTRY) | (inconsistent == _NO_ENTRY) | (inconsistent == 0)
        return torch.where(undefined, 1.0, consistent / inconsistent)

    def queue_state(self) -> dict[str, list[float]]:
        """What a checkpoint keeps: the losses in the two queues, oldest first."""
        lists = [[float(entry) for entry in queue] for queue in self._queues()]
        filled = [[value for value in values if value != _NO_ENTRY] for values in lists]
        return {"queue_consistent": filled[0], "queue_inconsistent": filled[1]}

    def load_queue_state(self, state: dict[str, list[float]]) -> None:
        """Restore what `queue_state` returned."""
        for name, queue in zip(
            ("queue_consistent", "queue_inconsistent"), self._queues(), strict=True
        ):
            values = state[name][-queue.maxlen :]
            queue.clear()
            queue.extend(
                torch.tensor(value)
                for value in [_NO_ENTRY] * (queue.maxlen - len(values)) + list(values)
            )

    def _queues(self) -> tuple[deque[Tensor], deque[Tensor]]:
        return self.queue_consistent, self.queue_inconsistent

    @staticmethod
    def _entries(queue: deque[Tensor], like: Tensor) -> Tensor:
        if not queue:
            return torch.full((queue.maxlen,), _NO_ENTRY, dtype=like.dtype, device=like.device)
        return torch.stack([entry.to(like) for entry in queue])

    @staticmethod
    def _mean(entries: Tensor) -> Tensor:
        filled = entries != _NO_ENTRY
        mean = torch.where(filled, entries, 0.0).sum() / filled.sum().clamp(min=1)
        return torch.where(filled.any(), mean, _NO_ENTRY)


def class_share(prediction: Tensor, num_classes: int) -> Tensor:
    """Share of each class in a label map, (K,) summing to 1."""
    counts = torch.zeros(num_classes, device=prediction.device)
    flat = prediction.flatten()
    counts.scatter_add_(0, flat, torch.ones_like(flat, dtype=counts.dtype))
    return counts / flat.numel()
