"""Batch normalisation over the images of all CPU processes; torch's SyncBatchNorm is for GPUs."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distributed import all_reduce

_DIMS = (0, 2, 3)  # of (B, C, h, w): all but the channels


class RankBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` over the joint batch of all ranks: (B, C, h, w), any B per rank.

    The gradient of an image is that of the sum of all ranks' losses. The gradients of weight and
    bias come from the rank's own images, for data-parallel training to average like all others.
    """

    def forward(self, image: Tensor) -> Tensor:
        if not (self.training and dist.is_initialized()):
            return super().forward(image)
        with torch.no_grad():
            count, mean, variance = _statistics(image, self.weight.dtype)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
            self.num_batches_tracked += 1
        return _Normalize.apply(image, self.weight, self.bias, mean, variance, count, self.eps)


def synchronize_batch_norms(model: nn.Module) -> None:
    """Turn every ``nn.BatchNorm2d`` of a network into one over all ranks, with the same tensors."""
    for module in model.modules():
        if type(module) is nn.BatchNorm2d:
            module.__class__ = RankBatchNorm2d  # nothing to build: it adds no state


def _statistics(image: Tensor, dtype: torch.dtype) -> tuple[float, Tensor, Tensor]:
    """Pixels per channel, their mean and (biased) variance over all ranks; (C,) of `dtype`."""
    image = image.to(dtype)
    count = image.numel() // image.shape[1]
    mean = image.mean(_DIMS)
    variance = (image - mean[:, None, None]).square_().mean(_DIMS)
    mean, variance = mean.double(), variance.double()  # for the difference of squares below
    sums = torch.stack([torch.full_like(mean, count), count * mean, count * (variance + mean**2)])
    counts, sums, squares = all_reduce(sums)
    mean = sums / counts
    variance = (squares / counts - mean**2).clamp(min=0)
    return float(counts[0]), mean.to(dtype), variance.to(dtype)


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(ctx, image, weight, bias, mean, variance, count, eps):
        ctx.save_for_backward(image, weight, mean, variance)
        ctx.count, ctx.eps = count, eps
        return F.batch_norm(image, mean, variance, weight, bias, eps=eps)

    @staticmethod
    def backward(ctx, gradient):
        image, weight, mean, variance = ctx.saved_tensors
        # First as if mean and variance were constants, as they are in evaluation ...
        own, weight_gradient, bias_gradient = torch.ops.aten.native_batch_norm_backward(
            gradient, image, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        # ... then the part through mean and variance: with x = (image - mean) * scale,
        # weight * scale * (gradient - mean of gradient - x * mean of gradient * x).
        scale = (variance + ctx.eps).rsqrt()
        sums = all_reduce(torch.stack([bias_gradient, weight_gradient]))
        offset, slope = weight * scale * sums / ctx.count
        slope = slope * scale
        owed = torch.stack([slope * mean - offset, -slope]).to(own)[:, :, None, None]
        own = own.add_(owed[0]).addcmul_(image, owed[1])
        return own, weight_gradient, bias_gradient, None, None, None, None
