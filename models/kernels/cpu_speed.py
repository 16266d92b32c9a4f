"""Faster versions of torch's operations on a CPU; on other devices they are torch's own.

In float32, torch multiplies matrices with MKL, which leaves AVX-512 unused on AMD, and convolves
with oneDNN, which does not; in bfloat16 its attention kernel is no faster than in float32, while
oneDNN's products are. For the gains see benchmarks/RESULTS.md.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels.free_memory import release

_QUERIES = 2048  # at a time, so that one head's scores stay within the cache
_LARGE = 2**20  # numbers in a weight: its work takes so long that `release` costs little beside it


def linear(tokens: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """``F.linear``, (B, L, in), (out, in) -> (B, L, out): on the CPU a 1x1 convolution of a row."""
    low_precision = torch.is_autocast_enabled(tokens.device.type)
    if tokens.device.type != "cpu" or tokens.dtype != torch.float32 or low_precision:
        return F.linear(tokens, weight, bias)
    row = tokens.transpose(1, 2).unsqueeze(2)  # (B, in, 1, L), channels last: a view
    return F.conv2d(row, weight[:, :, None, None], bias).squeeze(2).transpose(1, 2)


def attention(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``F.scaled_dot_product_attention``, (B, heads, L, C): on the CPU in bfloat16 head by head."""
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return F.scaled_dot_product_attention(query, key, value)
    mixed = torch.empty_like(query)
    query, key = query * query.shape[-1] ** -0.5, key.transpose(-1, -2)
    for head in range(query.shape[1]):
        for start in range(0, query.shape[2], _QUERIES):
            rows = slice(start, start + _QUERIES)
            scores = query[:, head, rows] @ key[:, head]
            mixed[:, head, rows] = scores.softmax(-1) @ value[:, head]
    return mixed


class DilatedConv2d(nn.Conv2d):
    """A 3x3 convolution of stride 1 without bias, padded by its dilation.

    On the CPU and in channels_last, training sums the weight gradient over the nine taps, each over
    the pixels where it sees no padding: oneDNN skips that work in the forward pass only. In NCHW,
    the default, torch's own convolution is faster and is used.
    """

    def __init__(self, in_channels: int, out_channels: int, dilation: int):
        super().__init__(in_channels, out_channels, 3, 1, dilation, dilation, bias=False)

    def _conv_forward(self, image: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        # What torch's forward calls: models/group_norm.py gives it other weights than the stored.
        channels_last = image.is_contiguous(memory_format=torch.channels_last)
        if image.device.type != "cpu" or not self.training or not channels_last:
            return super()._conv_forward(image, weight, bias)
        if torch.is_autocast_enabled("cpu"):
            image = image.to(torch.get_autocast_dtype("cpu"))
        return _DilatedConv2d.apply(image, weight, self.dilation[0])


class _DilatedConv2d(torch.autograd.Function):
    """Computes in the type of the image; the graph keeps the weight itself, not a copy."""

    @staticmethod
    def forward(ctx, image, weight, dilation):
        ctx.save_for_backward(image, weight)
        ctx.dilation = dilation
        weight = weight.to(image.dtype)
        return F.conv2d(image, weight, padding=dilation, dilation=dilation)

    @staticmethod
    def backward(ctx, gradient):
        (image, weight), dilation = ctx.saved_tensors, ctx.dilation
        # Those of the ASPP, where the maps of the whole network are still alive; measured in bf16.
        if weight.numel() >= _LARGE and image.dtype != weight.dtype:
            release()
        weight_gradient = torch.zeros_like(weight)
        for y, (top, rows) in enumerate(_overlaps(image.shape[2], dilation)):
            for x, (left, columns) in enumerate(_overlaps(image.shape[3], dilation)):
                seen = image[:, :, rows, columns]
                if seen.numel():
                    weight_gradient[:, :, y, x] = _tap(gradient[:, :, top, left], seen)
        if not ctx.needs_input_grad[0]:
            return None, weight_gradient, None
        image_gradient = torch.nn.grad.conv2d_input(
            image.shape, weight.to(image.dtype), gradient, padding=dilation, dilation=dilation
        )
        return image_gradient, weight_gradient, None


def _overlaps(side: int, dilation: int) -> list[tuple[slice, slice]]:
    """For each of three taps: the output pixels that see no padding, and the input they see."""
    length = max(0, side - dilation)
    first, last = slice(0, length), slice(side - length, side)
    return [(last, first), (slice(0, side), slice(0, side)), (first, last)]


def _tap(gradient: Tensor, image: Tensor) -> Tensor:
    """Sum of gradient x image over all pixels: (N, out, h, w), (N, in, h, w) -> (out, in)."""
    if gradient.dtype == torch.bfloat16:
        outputs, inputs = (x.permute(0, 2, 3, 1).flatten(0, 2) for x in (gradient, image))
        return outputs.T @ inputs
    gradient, image = (x.contiguous(memory_format=torch.channels_last) for x in (gradient, image))
    shape = (gradient.shape[1], image.shape[1], 1, 1)  # the weight gradient of a 1x1 convolution
    return torch.nn.grad.conv2d_weight(image, shape, gradient)[:, :, 0, 0]
