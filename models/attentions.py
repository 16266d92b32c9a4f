"""Attentions of CLIP's last block that make better dense features than CLIP's own.

None of them stores the heads' L x L matrices. L = 1 + N tokens, the class token first.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.kernels.cpu_speed import linear


def last_attention(
    block: nn.Module,
    tokens: Tensor,
    grid: tuple[int, int],
    kind: str,
    eps: float,
    gaussian_std: float = 0.0,
    middle: Sequence[tuple[nn.Module, Tensor]] = (),
    middle_weight: float = 0.0,
    middle_kind: str = "qk",
    scale: float = 1.0,
) -> Tensor:
    """The attention of the last block after its output projection: (B, L, C) -> (B, L, C).

    kind: see `attend`. gaussian_std: of `gaussian_bias`, 0 = off. middle: blocks and the tokens
    that enter them; the mean of their attentions, of middle_kind, takes the share middle_weight,
    applied to the last block's values. scale multiplies the mixture after the softmax. No setting
    changes middle_kind and scale, which serve to compare with the official code.

    ResCLIP (Yang et al. 2025, RCS): blocks 5 to 8, "qk", share 0.2. ITACLIP (Aydın et al. 2024):
    blocks 6, 7, 9, the kind of the last block, share 0.5.
    # official code: ResCLIP on Cityscapes has scale 2, ITACLIP the middle_kind of the last block /
    # here: scale 1, so that a share of 0 changes nothing, and "qk".
    """
    query, key, value = query_key_value(block, tokens, eps)
    bias = gaussian_bias(grid, gaussian_std, query) if gaussian_std > 0 else None
    mixed = attend(kind, query, key, value, bias)
    if middle:
        others = torch.zeros_like(mixed)
        for other, entering in middle:
            query, key, _ = query_key_value(other, entering, eps)
            others += attend(middle_kind, query, key, value)
        mixed = (1 - middle_weight) * mixed + middle_weight / len(middle) * others
    return join_heads(block, scale * mixed)


def attend(
    kind: str, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None
) -> Tensor:
    """softmax(a b^T / sqrt(d) + bias) value: (B, heads, L, d) -> (B, heads, L, d).

    "qk": CLIP's own. "qq" (ClearCLIP, Lan et al. 2024), "kk" (NACLIP, Hajimiri et al. 2025): each
    token attends to those that are like itself. "qq+kk" (SCLIP, Wang et al. 2024): the sum of both,
    so the weights of a token sum to 2. bias (L, L) is added to the scaled products of each.

    In bfloat16 too, the products are float32: those of like with like are large, and
    `cpu_speed.attention` would round them by as much as the bias.
    """
    pairs = {
        "qk": [(query, key)],
        "qq": [(query, query)],
        "kk": [(key, key)],
        "qq+kk": [(query, query), (key, key)],
    }[kind]
    first, *rest = (
        F.scaled_dot_product_attention(left, right, value, attn_mask=bias) for left, right in pairs
    )
    return first + rest[0] if rest else first


def gaussian_bias(grid: tuple[int, int], std: float, like: Tensor) -> Tensor:
    """NACLIP's neighbourhood: exp(-distance^2 / (2 std^2)) of two patches, in patches: (L, L).

    1 on the diagonal, 0 in the row and the column of the class token; dtype and device of `like`.
    # official code: a convolution of size N x N / here: the product of a Gaussian over rows and
    # one over columns, made anew for each batch.
    """
    height, width = grid
    length = 1 + height * width
    # Rows that start at multiples of 8: otherwise CUDA's kernel copies the matrix to align it.
    padded = torch.zeros(length, -(-length // 8) * 8, dtype=like.dtype, device=like.device)
    patches = padded[1:, 1:length].unflatten(0, grid).unflatten(2, grid)
    rows, columns = (_gaussian(side, std, like.device) for side in grid)
    torch.mul(rows[:, None, :, None], columns[None, :, None, :], out=patches)
    return padded[:, :length]


def _gaussian(side: int, std: float, device: torch.device) -> Tensor:
    """exp(-(a - b)^2 / (2 std^2)) for all places a, b of an axis: (side, side)."""
    place = torch.arange(side, dtype=torch.float32, device=device)
    return torch.exp(-((place[:, None] - place) ** 2) / (2 * std**2))


def query_key_value(block: nn.Module, tokens: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of a block's attention, from its input: (B, L, C) -> three of (B, heads, L, C / heads)."""
    return _project_heads(block, tokens, eps, parts=3)


def key_value(block: nn.Module, tokens: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """`query_key_value` without the queries."""
    return _project_heads(block, tokens, eps, parts=2)


def _project_heads(block: nn.Module, tokens: Tensor, eps: float, parts: int) -> tuple[Tensor, ...]:
    """The last `parts` of query, key and value."""
    mixer, norm = block.attn, block.ln_1
    normed = F.layer_norm(tokens, norm.normalized_shape, norm.weight, norm.bias, eps)
    rows = slice((3 - parts) * mixer.embed_dim, None)
    projected = linear(normed, mixer.in_proj_weight[rows], mixer.in_proj_bias[rows])
    # (B, L, parts * C) -> `parts` of (B, heads, L, C / heads)
    return tuple(projected.unflatten(2, (parts, mixer.num_heads, -1)).permute(2, 0, 3, 1, 4))


def join_heads(block: nn.Module, mixed: Tensor) -> Tensor:
    """The output projection of a block's attention: (B, heads, L, C / heads) -> (B, L, C)."""
    projection = block.attn.out_proj
    return linear(mixed.transpose(1, 2).flatten(2), projection.weight, projection.bias)
