"""Forward pass over all ranks, and one step of SGD."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from models.kernels.rank_batch_norm import synchronize_batch_norms
from utils.distributed import Ranks, autocast
from utils.schedule import poly_lr
from utils.seed import DROPOUT, derive


class TrainingNetwork:
    """A network for training: network(image, step) -> what the network gives, logits mostly.

    It sets the memory format, compiles, joins the batch norms of all ranks and averages their
    gradients (DDP). `model` remains the plain network, whose state dict has no prefixes.
    """

    def __init__(
        self,
        model: nn.Module,
        ranks: Ranks,
        seed: int = 0,
        precision: str = "fp32",
        channels_last: bool = False,
        compile: bool = False,
    ) -> None:
        self.ranks, self.seed, self.precision = ranks, seed, precision
        self.memory_format = torch.channels_last if channels_last else torch.preserve_format
        model.to(memory_format=self.memory_format)
        if ranks.world_size > 1 and ranks.on_cuda:
            nn.SyncBatchNorm.convert_sync_batchnorm(model)
        elif ranks.world_size > 1:
            synchronize_batch_norms(model)
        if compile:
            model.compile()
        self.module = model.train()
        if ranks.world_size > 1:
            self.module = nn.parallel.DistributedDataParallel(
                model, device_ids=[ranks.device.index] if ranks.on_cuda else None
            )

    def __call__(self, image: Tensor, step: int, *others: Tensor) -> Any:
        """Forward pass on a normalised image (B, 3, H, W): logits (B, K, h, w).

        others: more images for a network that takes several, so that one backward pass follows
        one call.
        Dropout depends on (seed, step, rank) only, so that a resumed run repeats it.
        """
        torch.manual_seed(derive(self.seed, DROPOUT, step, self.ranks.rank))
        with autocast(self.ranks.device, self.precision):
            return self.module(*(x.to(memory_format=self.memory_format) for x in (image, *others)))


def sgd_step(loss: Tensor, optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Backward and one step of SGD at learning rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()  # now, not before backward: the next forward pass needs the memory


# Of the SGD of jiwoon-ahn/irn, misc/torchutils.py, which psa, SEAM, CLIMS and AMN have too.
POLY_POWER = 0.9
MOMENTUM = 0.9  # as it was meant


def poly_sgd(
    groups: Iterable[dict[str, Any]], weight_decay: float, arithmetic: str
) -> torch.optim.SGD:
    """SGD of groups {"params", "lr"}, for `poly_step`.

    arithmetic "authors": momentum = weight_decay, that is practically none, since theirs passes the
    weight decay where torch takes the momentum; "correct": MOMENTUM.
    """
    momentum = {"authors": weight_decay, "correct": MOMENTUM}[arithmetic]
    groups = [group | {"initial_lr": group["lr"]} for group in groups]
    return torch.optim.SGD(groups, momentum=momentum, weight_decay=weight_decay)


def poly_step(loss: Tensor, optimizer: torch.optim.SGD, step: int, steps: int) -> float:
    """Backward and one step, counted from 0, of `poly_sgd`; returns the first group's rate.

    The rates are lr (1 - step/steps)^POLY_POWER, and after `steps` steps the last of them.
    """
    for group in optimizer.param_groups:
        group["lr"] = poly_lr(min(step, steps - 1), steps, group["initial_lr"], 0, POLY_POWER)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return optimizer.param_groups[0]["lr"]
