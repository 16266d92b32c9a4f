"""One training step of either stage, for tests that compare the stages."""

from typing import Any

import torch
from torch import Tensor

from models.carb import CARBCriterion, warmup_losses
from models.training import sgd_step
from models.views import Box, Views


def losses_of(
    criterion: CARBCriterion,
    use_carb: bool,
    logits: Tensor,
    image_labels: Tensor,
    global_mask: Tensor,
    local_mask: Tensor | None = None,
    boxes: list[Box] | None = None,
) -> dict[str, Tensor]:
    """The losses of stage 2 with `use_carb`, else of stage 1 under the same rules."""
    views = Views(torch.empty(0), image_labels, global_mask, local_mask, boxes)
    return criterion(logits, views) if use_carb else warmup_losses(logits, views, criterion.rules)


def train_one_step(
    network: Any,
    criterion: CARBCriterion,
    optimizer: torch.optim.Optimizer,
    views: Views,
    step: int,
    lr: float,
    use_carb: bool,
) -> dict[str, Tensor]:
    """Forward, losses, backward, SGD: what the loops of the training scripts do."""
    losses = losses_of(criterion, use_carb, network(views.image, step), *views[1:])
    sgd_step(losses["loss"], optimizer, lr)
    return {key: value.detach() for key, value in losses.items()}


def counted(state: dict[str, list[float]]) -> dict[str, list[float]]:
    """The losses in the queues of a criterion; a place without a loss holds None."""
    return {name: [loss for loss in queue if loss is not None] for name, queue in state.items()}
