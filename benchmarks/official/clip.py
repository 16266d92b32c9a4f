"""The official CLIP pseudo-mask: MaskCLIP's ViT as the official program runs it, in fp32.

The parameters come from OpenAI's image tower, so that both ways share them. Unused results of the
official program (the last block's attention, its queries and keys, the averaged attention weights)
are computed here too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-6  # of every layer norm; OpenAI's is 1e-5


@torch.no_grad()
def clip_mask(
    visual: nn.Module, text: Tensor, image: Tensor, image_labels: Tensor, size: tuple[int, int]
) -> Tensor:
    """Pseudo-mask (N, 1, H, W), long: text (C, D), image (N, 3, h, w), image_labels (N, C).

    The scores are multiplied by the labels on CLIP's grid (so that an absent class, with 0, wins
    over a negative cosine), then upsampled to `size`. The labels' type, float64 on two of the three
    data sets, is the type of everything after.
    """
    features = dense_features(visual, image)
    features = features / features.norm(dim=1, keepdim=True)
    scores = F.conv2d(features, text[:, :, None, None])
    scores = scores * image_labels[:, :, None, None]
    scores = F.interpolate(scores, size, mode="bilinear", align_corners=False)
    return winners(scores)


def winners(scores: Tensor) -> Tensor:
    """Arg-max class, (N, C, H, W) -> (N, 1, H, W): gathered by a boolean index, scattered back.

    The program can skip pixels that a second map labels. In CARB it never does, so that all pixels
    are gathered into an (N*H*W, C) copy.
    """
    mask = scores.new_full((len(scores), *scores.shape[-2:]), 0, dtype=torch.long)
    unlabelled = mask == 0
    gathered = scores.permute(0, 2, 3, 1)[unlabelled]
    rows = torch.arange(scores.shape[1], device=scores.device)
    mask[unlabelled] = rows[gathered.argmax(1)]
    mask[mask < 0] = 255
    return mask[:, None]


def dense_features(visual: nn.Module, image: Tensor) -> Tensor:
    """The value path of the last block, projected, not normalised: (N, D, gh, gw)."""
    patch = visual.conv1.stride[0]
    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % patch, 0, -height % patch))
    patches = visual.conv1(padded)
    grid = patches.shape[-2:]
    patches = patches.flatten(2).transpose(1, 2)
    class_token = visual.class_embedding.expand(len(patches), 1, -1)
    tokens = torch.cat((class_token, patches), dim=1)
    tokens = tokens + resized_position_embedding(visual.positional_embedding, grid)
    tokens = norm(visual.ln_pre, tokens)
    *blocks, last = visual.transformer.resblocks
    for block in blocks:
        tokens = transformer_block(block, tokens)
    values = value_path(last, tokens)
    norm(visual.ln_post, transformer_block(last, tokens))  # the ordinary output, which is unused
    values = norm(visual.ln_post, values)[:, 1:]
    values = values.transpose(1, 2).reshape(len(image), -1, *grid)
    return F.conv2d(values, visual.proj.T[:, :, None, None])


def resized_position_embedding(stored: Tensor, grid: tuple[int, int]) -> Tensor:
    """Position embedding (1 + gh*gw, D), resized (bicubic) again in every forward pass.

    Unchanged if the number of tokens agrees, whatever the shape of the grid.
    """
    if len(stored) == 1 + grid[0] * grid[1]:
        return stored
    side = int((len(stored) - 1) ** 0.5)
    square = stored[1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(square, grid, mode="bicubic", align_corners=False)
    return torch.cat((stored[:1], resized.flatten(2)[0].T))


def transformer_block(block: nn.Module, tokens: Tensor) -> Tensor:
    """(N, L, D) -> (N, L, D). Also computes and averages the attention weights (N, heads, L, L)."""
    normed = norm(block.ln_1, tokens).transpose(0, 1)
    mixed, _averaged_weights = block.attn(normed, normed, normed, need_weights=True)
    tokens = tokens + mixed.transpose(0, 1)
    return tokens + feed_forward(block, tokens)


def value_path(block: nn.Module, tokens: Tensor) -> Tensor:
    """(N, L, D) -> (N, L, D); the output projection is applied to queries and keys as well."""
    attention = block.attn
    qkv = F.linear(norm(block.ln_1, tokens), attention.in_proj_weight, attention.in_proj_bias)
    qkv = torch.cat(qkv.chunk(3, dim=-1))
    qkv = F.linear(qkv, attention.out_proj.weight, attention.out_proj.bias)
    _query, _key, value = qkv.chunk(3)
    value = value + tokens
    return value + feed_forward(block, value)


def feed_forward(block: nn.Module, tokens: Tensor) -> Tensor:
    """The MLP with the exact GELU; OpenAI's network has x * sigmoid(1.702 x)."""
    return block.mlp.c_proj(F.gelu(block.mlp.c_fc(norm(block.ln_2, tokens))))


def norm(layer: nn.LayerNorm, tokens: Tensor) -> Tensor:
    return F.layer_norm(tokens, layer.normalized_shape, layer.weight, layer.bias, EPS)
