"""Cross-entropy of every pixel with its pseudo-mask, in both views from one softmax."""

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.labels import IGNORE_INDEX
from models.views import Box, crop


def pixel_losses(
    logits: Tensor,
    global_mask: Tensor,
    local_mask: Tensor | None = None,
    boxes: list[Box] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """-y log f of each pixel, the summand of Eq. 2, 3, 6 and 7; 0 where the mask is ignored.

    logits (B, K, H, W) at the size of the image, global_mask (B, H, W), local_mask (B, h, w) of
    `boxes` -> (B, H, W) and (B, h, w), or None without a local view. Equals `plain`, but
    backward makes one (B, K, H, W) tensor instead of five. On a GPU `plain` is faster.
    """
    if logits.device.type != "cpu":
        return plain(logits, global_mask, local_mask, boxes)
    if local_mask is None:
        return _PixelLosses.apply(logits, global_mask, None, None)[0], None
    return _PixelLosses.apply(logits, global_mask, local_mask, boxes)


def plain(
    logits: Tensor,
    global_mask: Tensor,
    local_mask: Tensor | None = None,
    boxes: list[Box] | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`pixel_losses` by torch's own functions."""
    log_probabilities = F.log_softmax(logits, dim=1)
    losses = F.nll_loss(log_probabilities, global_mask, ignore_index=IGNORE_INDEX, reduction="none")
    if local_mask is None:
        return losses, None
    local = crop(log_probabilities, boxes)
    return losses, F.nll_loss(local, local_mask, ignore_index=IGNORE_INDEX, reduction="none")


class _PixelLosses(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, global_mask, local_mask, boxes):
        # Classes last: softmax, gather and scatter run along memory (a view for channels_last).
        log_probabilities = F.log_softmax(logits.permute(0, 2, 3, 1), dim=-1)
        ctx.save_for_backward(log_probabilities, global_mask, local_mask)
        ctx.boxes = boxes
        losses = -_at(log_probabilities, global_mask)
        if local_mask is None:
            return losses, None
        local = [-_at(log_probabilities[i][area], local_mask[i]) for i, area in _areas(boxes)]
        return losses, torch.stack(local)

    @staticmethod
    def backward(ctx, global_weight, local_weight):
        """With w = d total / d loss: d total / d logits = sum of w * (softmax - onehot)."""
        log_probabilities, global_mask, local_mask = ctx.saved_tensors
        global_weight = _labelled(global_weight, global_mask)
        weight = global_weight.clone()
        if local_mask is not None:
            local_weight = _labelled(local_weight, local_mask)
            for i, area in _areas(ctx.boxes):
                weight[i][area] += local_weight[i]
        gradient = log_probabilities.exp().mul_(weight[..., None])
        _subtract_at(gradient, global_mask, global_weight)
        if local_mask is not None:
            for i, area in _areas(ctx.boxes):
                _subtract_at(gradient[i][area], local_mask[i], local_weight[i])
        return gradient.permute(0, 3, 1, 2), None, None, None


def _areas(boxes: list[Box]) -> list[tuple[int, tuple[slice, slice]]]:
    """(index of the image, its rows and columns) of each box."""
    return [(i, (slice(t, t + h), slice(x, x + w))) for i, (t, x, h, w) in enumerate(boxes)]


def _labelled(values: Tensor, mask: Tensor) -> Tensor:
    return values.masked_fill(mask == IGNORE_INDEX, 0)


def _index(mask: Tensor) -> Tensor:
    """The mask as an index; class 0, for a value of 0, where it is ignored."""
    return mask.masked_fill(mask == IGNORE_INDEX, 0)[..., None]


def _at(values: Tensor, mask: Tensor) -> Tensor:
    """Values (..., K) at the class of the mask (...): (...), 0 where it is ignored."""
    return _labelled(values.gather(-1, _index(mask))[..., 0], mask)


def _subtract_at(values: Tensor, mask: Tensor, amount: Tensor) -> None:
    values.scatter_add_(-1, _index(mask), -amount[..., None])
