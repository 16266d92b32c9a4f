"""Loss block, forward and backward to the logits: batch 2, 512x1024, patch 512x256.

The official way omits the accuracy that its training logs, as the measurement of the official
program did. Ours includes everything it logs.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.harness import Case, Options, main_of
from benchmarks.inputs import CLASSES, official_config, random_labels
from benchmarks.official.loss import Losses
from models.build import build_criterion
from models.carb import warmup_losses
from models.views import Views

BATCH, SIZE, PATCH, CORNER = 2, (512, 1024), (512, 256), (0, 384)
PHASES = {
    "CARB": (1.4, 0.79),
    "warm-up": (None, None),
}  # least ratio, CPU-seconds of the official program
LOSS_TOLERANCE, GRADIENT_TOLERANCE = 1e-5, 1e-5  # relative, the gradient's to its largest value


def cases(options: Options) -> list[Case]:
    return [_case(phase, options.device) for phase in PHASES]


def _case(phase: str, device: str) -> Case:
    target, expected = PHASES[phase]
    target = target if device == "cpu" else None  # elsewhere both ways are torch's own functions
    balanced = phase == "CARB"
    boxes = [(*CORNER, *PATCH)] * BATCH
    losses = Losses(0 if balanced else 10**9, device, log_accuracy=False)
    criterion = build_criterion(official_config())
    losses_of = criterion if balanced else partial(warmup_losses, rules=criterion.rules)

    def official(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        return _backward(lambda: losses(*inputs, CORNER)["total"], inputs[0])

    def ours(*inputs: Tensor) -> tuple[Tensor, Tensor]:
        return _backward(lambda: losses_of(inputs[0], Views(*inputs, boxes))["loss"], inputs[0])

    def check() -> str:
        worst_loss = worst_gradient = 0.0
        for seed in (1, 2):  # the second step reads the queues of the first
            fresh = _inputs(device, seed)
            total, gradient = official(*fresh)
            own_total, own_gradient = ours(*fresh)
            loss = (own_total / total - 1).abs().item()
            difference = ((own_gradient - gradient).abs().max() / gradient.abs().max()).item()
            worst_loss, worst_gradient = max(worst_loss, loss), max(worst_gradient, difference)
        found = f"loss differs by {worst_loss:.1e}, gradient by {worst_gradient:.1e} of its largest"
        assert worst_loss <= LOSS_TOLERANCE and worst_gradient <= GRADIENT_TOLERANCE, found
        return f"{found} (at most {LOSS_TOLERANCE:g} each)"

    expected = expected if device == "cpu" else None
    timed = _inputs(device, seed=0)
    ways = partial(official, *timed), partial(ours, *timed)
    return Case(f"loss block, {phase}", check, *ways, target, expected)


def _backward(loss: Callable[[], Tensor], logits: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its gradient with respect to the logits."""
    logits.grad = None
    total = loss()
    total.backward()
    return total.detach(), logits.grad


def _inputs(device: str, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Logits that require a gradient, image labels, global mask, local mask."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(BATCH, CLASSES, *(side // 8 for side in SIZE), generator=generator)
    labels = random_labels(BATCH, generator)
    masks = (torch.randint(CLASSES, (BATCH, *size), generator=generator) for size in (SIZE, PATCH))
    logits, *rest = (tensor.to(device) for tensor in (logits, labels, *masks))
    return logits.requires_grad_(), *rest


if __name__ == "__main__":
    main_of(cases)
