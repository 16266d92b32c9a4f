"""models/kernels/pixel_losses.py against the definition in its docstring."""

import pytest
import torch
import torch.nn.functional as F

from datasets.labels import IGNORE_INDEX
from models.kernels.pixel_losses import pixel_losses
from models.views import Box, crop

BOXES = [(0, 3, 4, 5), (2, 0, 4, 5)]


def plain(
    logits: torch.Tensor,
    global_mask: torch.Tensor,
    local_mask: torch.Tensor | None = None,
    boxes: list[Box] | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    log_probabilities = F.log_softmax(logits, dim=1)
    losses = F.nll_loss(log_probabilities, global_mask, ignore_index=IGNORE_INDEX, reduction="none")
    if local_mask is None:
        return losses, None
    local = crop(log_probabilities, boxes)
    return losses, F.nll_loss(local, local_mask, ignore_index=IGNORE_INDEX, reduction="none")


def masks(ignored: float = 0.3) -> tuple[torch.Tensor, torch.Tensor]:
    made = []
    for size in ((2, 6, 8), (2, 4, 5)):
        mask = torch.randint(0, 7, size)
        made.append(mask.masked_fill(torch.rand(size) < ignored, IGNORE_INDEX))
    return made[0], made[1]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("local", [False, True])
def test_losses_and_gradients_are_those_of_the_definition(memory_format, local) -> None:
    torch.manual_seed(0)
    logits = 5 * torch.randn(2, 7, 6, 8, dtype=torch.float64)
    global_mask, local_mask = masks()
    given = (global_mask, local_mask, BOXES) if local else (global_mask,)
    weights = [torch.randn(mask.shape, dtype=torch.float64) for mask in given[:2]]
    results = []
    for function in (plain, pixel_losses):
        leaf = logits.clone(memory_format=memory_format).requires_grad_()
        losses = [loss for loss in function(leaf, *given) if loss is not None]
        assert len(losses) == 1 + local
        sum((w * x).sum() for w, x in zip(weights, losses, strict=True)).backward()
        results.append([*losses, leaf.grad])
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("used", [0, 1])
def test_one_view_alone_may_enter_the_loss(used: int) -> None:
    torch.manual_seed(0)
    leaf, other = (torch.randn(2, 7, 6, 8).requires_grad_() for _ in range(2))
    other.data.copy_(leaf.data)
    given = (*masks(), BOXES)
    pixel_losses(leaf, *given)[used].mean().backward()
    plain(other, *given)[used].mean().backward()
    torch.testing.assert_close(leaf.grad, other.grad)


def test_ignored_pixels_have_no_loss_and_no_gradient() -> None:
    logits = torch.randn(2, 7, 6, 8, requires_grad=True)
    ignored = torch.full((2, 6, 8), IGNORE_INDEX)
    losses, local = pixel_losses(logits, ignored, ignored[:, :4, :5], BOXES)
    assert not losses.any() and not local.any()
    (losses.sum() + local.sum()).backward()
    assert not logits.grad.any()


def test_enormous_logits_stay_finite() -> None:
    logits = (1e4 * torch.randn(2, 7, 6, 8)).requires_grad_()
    losses, _ = pixel_losses(logits, masks()[0])
    losses.sum().backward()
    assert torch.isfinite(losses).all() and torch.isfinite(logits.grad).all()
