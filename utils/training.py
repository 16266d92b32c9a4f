"""One training step: views and their pseudo-masks, forward, loss, descent."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from datasets.transforms import normalize
from models.carb import CARBCriterion
from models.maskclip import MaskCLIP
from models.rank_batch_norm import synchronize_batch_norms
from models.views import Box, LocalViewSampler, ignore_padding, local_pseudo_mask
from utils.config import Config
from utils.distributed import Ranks
from utils.seed import DROPOUT, LOCAL_VIEWS, derive, generator


class Views(NamedTuple):
    """The input of one step: global view, its labels, and the pseudo-masks of both views."""

    image: Tensor  # (B, 3, H, W), normalised for the segmentation net
    image_labels: Tensor  # (B, K)
    global_mask: Tensor  # (B, H, W)
    local_mask: Tensor | None  # (B, ph, pw)
    boxes: list[Box] | None


def prepare_views(
    batch: dict[str, Any],
    step: int,
    config: Config,
    ranks: Ranks,
    maskclip: MaskCLIP | None,
    sampler: LocalViewSampler,
) -> Views:
    """Move a batch to the device and give it its pseudo-masks.

    base: global mask from file. local: and a local mask made by CLIP. dual: both made by CLIP.
    """
    image, valid, image_labels = (
        batch[key].to(ranks.device, non_blocking=True) for key in ("image", "valid", "image_labels")
    )
    segmentation_image = normalize(image, "imagenet", valid)
    local_mask = boxes = None
    if config.views != "base":
        clip_image = normalize(image, config.arithmetic.clip_normalization, valid)
        # Drawn for the batch of all ranks, so that the number of ranks changes nothing.
        views = sampler.draw(
            config.batch_size, image.shape[-2:], generator(config.seed, LOCAL_VIEWS, step)
        )
        views = views[ranks.rank * len(image) : (ranks.rank + 1) * len(image)]
        boxes = [view.box for view in views]
        with autocast(config, ranks):
            local_mask = local_pseudo_mask(maskclip, clip_image, image_labels, views)
        if config.arithmetic.ignore_padding:
            local_mask = ignore_padding(local_mask, valid, boxes)
    if config.views == "dual":
        with autocast(config, ranks):
            global_mask = maskclip(clip_image, image_labels, image.shape[-2:])
        if config.arithmetic.ignore_padding:
            global_mask = ignore_padding(global_mask, valid)
    else:
        global_mask = batch["pseudo_mask"].to(ranks.device, non_blocking=True)
    return Views(segmentation_image, image_labels, global_mask, local_mask, boxes)


def train_one_step(
    network: nn.Module,
    criterion: CARBCriterion,
    optimizer: torch.optim.Optimizer,
    views: Views,
    step: int,
    lr: float,
    config: Config,
    ranks: Ranks,
    balanced: bool,
) -> dict[str, Tensor]:
    """Forward, loss (warm-up, or CARB when `balanced`), backward, SGD; returns the losses."""
    logits = compute_logits(network, views.image, step, config, ranks)
    losses = criterion(
        logits, views.image_labels, views.global_mask, views.local_mask, views.boxes, balanced
    )
    descend(losses["loss"], optimizer, lr)
    return losses | {"loss": losses["loss"].detach()}


def compute_logits(
    network: nn.Module, image: Tensor, step: int, config: Config, ranks: Ranks
) -> Tensor:
    """Forward pass of a training step on a normalised image (B, 3, H, W): (B, K, h, w)."""
    torch.manual_seed(derive(config.seed, DROPOUT, step, ranks.rank))
    if config.channels_last:
        image = image.to(memory_format=torch.channels_last)
    with autocast(config, ranks):
        return network(image)


def descend(loss: Tensor, optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Backward and one SGD step at learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()  # now, not before backward: the next forward pass needs the memory


def autocast(config: Config, ranks: Ranks) -> torch.autocast:
    """bfloat16 where the config asks for it; losses are taken in float32 all the same."""
    return torch.autocast(ranks.device.type, torch.bfloat16, enabled=config.precision == "bf16")


def wrap(model: nn.Module, config: Config, ranks: Ranks) -> nn.Module:
    """The callable for training: memory format, compilation; over ranks DDP and one batch norm.

    `model` stays the plain network, whose state dict has no prefixes.
    """
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    if ranks.world_size > 1 and ranks.on_cuda:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    elif ranks.world_size > 1:
        synchronize_batch_norms(model)
    if config.compile:
        model.compile()
    model.train()
    if ranks.world_size == 1:
        return model
    return nn.parallel.DistributedDataParallel(
        model, device_ids=[ranks.device.index] if ranks.on_cuda else None
    )
