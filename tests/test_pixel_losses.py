"""models/kernels/pixel_losses.py against the definition by torch's functions."""

import pytest
import torch

from datasets.labels import IGNORE_INDEX
from models.kernels.pixel_losses import pixel_losses, plain

BOXES = [(0, 3, 4, 5), (2, 0, 4, 5)]


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


def test_other_devices_take_torchs_functions() -> None:
    """The device meta has no numbers: shapes only."""
    logits, given = torch.randn(2, 7, 6, 8).to("meta"), [mask.to("meta") for mask in masks()]
    losses, local = pixel_losses(logits, *given, BOXES)
    assert losses.is_meta and losses.shape == given[0].shape and local.shape == given[1].shape
    assert pixel_losses(logits, given[0])[1] is None
