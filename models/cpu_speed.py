"""CLIP's matrix products by the faster of torch's two libraries on a CPU.

In float32, torch multiplies matrices with MKL, which leaves AVX-512 unused on AMD, and convolves
with oneDNN, which does not; in bfloat16 its attention kernel is no faster than in float32, while
oneDNN's products are. What either function gains: benchmarks/RESULTS.md.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_QUERIES = 2048  # at a time, so that one head's scores stay within the cache


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
