"""Losses of global-local view training and Consistency-Aware Region Balancing (Kim et al. 2024).

Shapes: logits (B, K, h, w); everything upsampled to the image is (B, K, H, W); masks are (B, H, W)
long with `IGNORE_INDEX` where there is no label; a local view covers box = (top, left, height,
width) of it. Stage 1 minimises `warmup_losses`, stage 2 `CARBCriterion`.
"""

import math
from collections import deque
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from datasets.labels import IGNORE_INDEX
from models.kernels.pixel_losses import pixel_losses
from models.maskclip import suppress_absent
from models.views import Views, crop
from utils.distributed import all_reduce


class RegionRules(NamedTuple):
    """Rules for making and averaging regions; the defaults are correct arithmetic.

    label_filter: see `suppress_absent`. empty_region: the mean over no pixels is "zero" or, as in
    the official code, "nan". sync: take means over the pixels of all ranks.
    """

    label_filter: str = "mask"
    empty_region: str = "zero"
    sync: bool = False


CORRECT = RegionRules()
_QUEUES = ("queue_consistent", "queue_inconsistent")


def upsample(logits: Tensor, size: tuple[int, int]) -> Tensor:
    """(B, K, h, w) -> (B, K, H, W), the size at which losses are computed; bf16 becomes float32."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # Classes last in memory: what follows runs along them.
    logits = logits.contiguous(memory_format=torch.channels_last)
    return F.interpolate(logits, size, mode="bilinear", align_corners=False)


def region_means(
    losses: Tensor, regions: list[Tensor], rules: RegionRules = CORRECT
) -> tuple[Tensor, Tensor]:
    """Mean of `losses` over each region, the 1/|M| sums of Eq. 2, 3, 6, 7; all (B, H, W).

    Returns means (R,) and pixel counts (R,). The mean over no pixels is 0 with gradient 0, or
    NaN; see `RegionRules`.
    """
    sums = torch.stack([torch.where(region, losses, 0.0).sum() for region in regions])
    counts = torch.stack([region.sum() for region in regions])
    floor = 0 if rules.empty_region == "nan" else 1
    if not (rules.sync and dist.is_initialized()):
        return sums / counts.clamp(min=floor), counts
    totals = all_reduce(torch.stack([sums.detach().double(), counts.double()]))
    counts = totals[1].clamp(min=floor)
    # The value is the mean over all ranks. Data-parallel training averages gradients over ranks, so
    # each rank's own share is scaled by their number.
    share = sums / counts * dist.get_world_size()
    means = (totals[0] / counts + share - share.detach()).to(sums.dtype)
    return means, totals[1].long()


def segmentation_loss(losses: Tensor, pseudo_mask: Tensor, rules: RegionRules = CORRECT) -> Tensor:
    """Eq. (2) for a local view and Eq. (3) for the global view of Kim et al. 2024.

    `pixel_losses` and pseudo_mask, (B, H, W) -> scalar, the mean over labelled pixels.
    """
    return region_means(losses, [pseudo_mask != IGNORE_INDEX], rules)[0][0]


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
    losses: Tensor, pseudo_mask: Tensor, prediction: Tensor, rules: RegionRules = CORRECT
) -> tuple[Tensor, Tensor]:
    """Eq. (6) and (7) of Kim et al. 2024: L_c and L_i, (2,), and their pixel counts, (2,)."""
    return region_means(losses, list(split_regions(pseudo_mask, prediction)), rules)


class Regions(NamedTuple):
    """Losses of both views; fields of the local view are None without one."""

    losses: Tensor  # (B, H, W), -log f of every pixel
    local_losses: Tensor | None
    means: Tensor  # (2,), L_c and L_i
    local_means: Tensor | None
    counts: Tensor  # (2,), pixels of the two regions
    prediction: Tensor  # (B, H, W), S of Eq. (4)
    log: dict[str, Tensor]  # detached values for the log


def regions_of(logits: Tensor, views: Views, rules: RegionRules = CORRECT) -> Regions:
    """Compare the network's logits with the pseudo-masks of both views."""
    full_logits = upsample(logits, views.global_mask.shape[-2:])
    losses, local_losses = pixel_losses(
        full_logits, views.global_mask, views.local_mask, views.boxes
    )
    prediction = filtered_prediction(full_logits, views.image_labels, rules.label_filter)
    means, counts = region_losses(losses, views.global_mask, prediction, rules)
    log = {
        "loss_consistent": means[0],
        "loss_inconsistent": means[1],
        "consistent_fraction": counts[0] / counts.sum().clamp(min=1),
        "mask_agreement": (full_logits.argmax(1) == views.global_mask).float().mean(),
        **class_shares(views.global_mask, prediction, logits.shape[1]),
    }
    local_means = None
    if views.local_mask is not None:
        local_prediction = crop(prediction, views.boxes)
        local_means, _ = region_losses(local_losses, views.local_mask, local_prediction, rules)
        log |= {"loss_consistent_local": local_means[0], "loss_inconsistent_local": local_means[1]}
    log = {key: value.detach() for key, value in log.items()}
    return Regions(losses, local_losses, means, local_means, counts, prediction, log)


def warmup_losses(logits: Tensor, views: Views, rules: RegionRules = CORRECT) -> dict[str, Tensor]:
    """L_g + L_l of the warm-up: Eq. (3) on the global view and Eq. (2) on the local view.

    Minimise ``["loss"]``; the rest is detached and for the log.
    """
    regions = regions_of(logits, views, rules)
    loss = loss_global = segmentation_loss(regions.losses, views.global_mask, rules)
    log = regions.log | {"loss_global": loss_global.detach()}
    if views.local_mask is not None:
        loss_local = segmentation_loss(regions.local_losses, views.local_mask, rules)
        loss = loss_global + loss_local
        log["loss_local"] = loss_local.detach()
    return {"loss": loss} | log


class CARBCriterion:
    """L_c + w L_i on both views, with w = mean(queue of L_c) / mean(queue of L_i).

    The queues hold the last `queue_size` losses of the global view, this step's included; w is the
    unnumbered equation after Eq. 7. A number as `region_weight` is w itself. A region without
    pixels takes a place in its queue as NaN, which does not count; w is 1 while a queue holds no
    loss or mean(L_i) is 0. Everything stays on the device: no step waits for it.
    """

    def __init__(
        self,
        queue_size: int = 5,
        region_weight: float | None = None,
        rules: RegionRules = CORRECT,
    ) -> None:
        """A `region_weight` of None is adaptive."""
        self.region_weight, self.rules = region_weight, rules
        # A place without a loss holds NaN, which nanmean skips; in the official code NaN counts.
        self.nan_counts = rules.empty_region == "nan"
        places = [] if self.nan_counts else [torch.tensor(float("nan"))] * queue_size
        self.queue_consistent = deque(places, maxlen=queue_size)
        self.queue_inconsistent = deque(places, maxlen=queue_size)

    def __call__(self, logits: Tensor, views: Views) -> dict[str, Tensor]:
        """Losses of one batch: minimise ``["loss"]``; the rest is detached and for the log."""
        regions = regions_of(logits, views, self.rules)
        self.push(regions.means.detach(), regions.counts)
        w = self.weight(regions.means)
        loss = regions.means[0] + w * regions.means[1]
        if regions.local_means is not None:
            loss = loss + regions.local_means[0] + w * regions.local_means[1]
        return {"loss": loss, "w": w} | regions.log

    def push(self, losses: Tensor, counts: Tensor) -> None:
        """Append L_c and L_i, `losses` (2,), to their queues; `counts` (2,) are their pixels."""
        losses = torch.where(counts > 0, losses, float("nan"))
        self.queue_consistent.append(losses[0])
        self.queue_inconsistent.append(losses[1])

    def weight(self, like: Tensor) -> Tensor:
        """w, a detached scalar on the device and of the type of `like`."""
        one = torch.ones((), dtype=like.dtype, device=like.device)
        if self.region_weight is not None:
            return one * self.region_weight
        consistent = self.mean(self.queue_consistent)
        inconsistent = self.mean(self.queue_inconsistent)
        undefined = inconsistent == 0
        if not self.nan_counts:
            undefined |= (consistent / inconsistent).isnan()
        return torch.where(undefined, one, consistent / inconsistent)

    def mean(self, queue: deque[Tensor]) -> Tensor:
        """Mean of the losses in a queue; NaN where it holds none."""
        # Empty places and losses from a checkpoint are on the CPU.
        losses = torch.stack([loss.to(queue[-1], non_blocking=True) for loss in queue])
        return losses.mean() if self.nan_counts else losses.nanmean()

    def state_dict(self) -> dict[str, list[float | None]]:
        """The losses in the two queues, oldest first; None is a place without a loss."""
        queues = {name: map(float, getattr(self, name)) for name in _QUEUES}
        return {
            name: [None if math.isnan(loss) else loss for loss in queue]
            for name, queue in queues.items()
        }

    def load_state_dict(self, state: dict[str, list[float | None]]) -> None:
        """Restore what `state_dict` returned; a warm-up leaves nothing to restore."""
        for name in _QUEUES:
            losses = [math.nan if loss is None else loss for loss in state.get(name, [])]
            getattr(self, name).extend(map(torch.tensor, losses))


def class_shares(pseudo_mask: Tensor, prediction: Tensor, num_classes: int) -> dict[str, Tensor]:
    """Shares of each class in S, in P and in the consistent region, each (K,), for the log."""
    agree = torch.stack([torch.ones_like(prediction, dtype=torch.bool), pseudo_mask == prediction])
    of_mask = sums_by_class(agree.float(), pseudo_mask, num_classes) / pseudo_mask.numel()
    shares = {"class_share": class_share(prediction, num_classes)}
    return shares | {"class_mask": of_mask[0], "class_consistent": of_mask[1]}


def class_share(labels: Tensor, num_classes: int) -> Tensor:
    """Share of each class in label maps (B, H, W) -> (K,); ignored pixels are of no class."""
    ones = torch.ones_like(labels, dtype=torch.float32)[None]
    return sums_by_class(ones, labels, num_classes)[0] / labels.numel()


def sums_by_class(values: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Sums of values (R, B, H, W) over the pixels of each class in label maps (B, H, W) -> (R, K).

    Ignored pixels are of no class.
    """
    # A sum for each row of pixels first: short sums lose nothing in float32, and threads of a GPU
    # that add to the same place wait for each other.
    rows = values.new_zeros(*values.shape[:3], IGNORE_INDEX + 1)
    rows.scatter_add_(3, labels.expand_as(values), values)
    return rows[..., :num_classes].sum((1, 2))
