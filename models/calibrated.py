"""SC-CLIP (Bai et al. 2024, "Self-Calibrated CLIP"): the last block, calibrated by CLIP itself.

Patches of middle blocks say which patches belong together. They replace outliers, average features
and share the attention of the last block. N patches of one image, row by row on the grid; no matrix
is larger than ROWS x N. Similarities, thresholds and outliers are float32 also under autocast.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attentions import attend, join_heads, key_value
from utils.safe.errors import InputError

# Official code (SuleBai/SC-CLIP), for ViT-B/16 and 14 x 14 patches.
BLOCKS = (3, 8, 3, 9)  # 0-based: low, middle, first and last of the sum
NEIGHBOURS = 30  # of the local outlier factor
INLIER_SHARE = 0.95
FOCUS = 3.0
CLASS_WEIGHT = 0.3
ROWS = 512  # of a similarity matrix at a time: 16 MB at 8192 patches


def check_blocks(blocks: tuple[int, ...], before: int) -> None:
    """Raise InputError unless `blocks` are valid in a ViT with `before` blocks before its last.

    blocks: low, middle, first and last of the sum; () = BLOCKS, which need 12 blocks.
    """
    if not blocks and before < 11:
        raise InputError(
            f"teacher: attention calibrated is made for 12 blocks, and this CLIP has {before + 1}. "
            "Give calibrated_blocks: the low block, the middle block, the first and the last block "
            f"of the sum (ViT-B/16: {list(BLOCKS)})"
        )
    low, middle, first, last = blocks or BLOCKS
    if not (min(low, middle, first) >= 0 and first <= last and max(low, middle, last) < before):
        raise InputError(
            f"teacher: calibrated_blocks is {list(blocks)}: expected low, middle, first and last "
            f"block, first <= last, of the {before} blocks before the last, 0 to {before - 1}"
        )


def calibrated_block(
    block: nn.Module,
    tokens: Tensor,
    low: Tensor,
    middle: Tensor,
    total: Tensor,
    grid: tuple[int, int],
    beta: float,
    eps: float,
) -> Tensor:
    """The last block of SC-CLIP: tokens of four kinds (B, 1 + N, C), class first -> (B, N, C).

    tokens enter the block; low, middle: outputs of earlier blocks; total: their sum over several.
    Neither skip connection nor MLP. beta: similarities below it count as 0.
    """
    images = zip(tokens, low, middle, total, strict=True)
    return torch.stack([_calibrated_image(block, *image, grid, beta, eps) for image in images])


def _calibrated_image(
    block: nn.Module,
    tokens: Tensor,
    low: Tensor,
    middle: Tensor,
    total: Tensor,
    grid: tuple[int, int],
    beta: float,
    eps: float,
) -> Tensor:
    """`calibrated_block` of one image: (1 + N, C) each -> (N, C)."""
    outliers = find_outliers(local_outlier_factors(tokens[1:]))
    alike = unit_rows(repair(middle[1:], outliers, grid))
    aggregated = aggregate(repair(tokens[1:], outliers, grid), alike, beta)
    class_tokens = torch.stack([tokens[:1], total[:1]])
    attended = calibrated_attention(block, torch.stack([aggregated, total[1:]]), alike, eps)
    attended = attended + CLASS_WEIGHT * class_tokens  # float32 also under autocast
    # official code: aggregates each pass, then adds them / here: adds first (it is linear)
    return aggregate(attended.sum(0), unit_rows(low[1:]), beta)


# ---- outliers ----


def local_outlier_factors(features: Tensor) -> Tensor:
    """How much sparser a patch's surroundings are than its neighbours': (N, C) -> (N,), float32.

    r_i: the squared distance to the NEIGHBOURS-th neighbour (where there are fewer, to the last);
    the factor is the mean of r_i / r_j over the neighbours j. Of fewer than 3 patches all have 1.
    # paper (Breunig et al. 2000): reachability by the neighbour's distance / here and in the
    # official code: by the patch's own.
    """
    if len(features) < 3:
        return torch.ones(len(features), device=features.device)
    neighbours = min(NEIGHBOURS, len(features) - 1)
    radii, nearest = [], []
    with torch.autocast(features.device.type, enabled=False):
        features = features.float()
        features = features - features.mean(0)  # smaller norms: less is lost in the difference
        norms = features.square().sum(1)
        for rows in row_blocks(len(features)):
            distances = norms - 2 * features[rows] @ features.T  # plus norms[rows]: the same order
            distances.diagonal(rows.start).fill_(float("-inf"))  # each is its own first neighbour
            index = distances.topk(neighbours + 1, largest=False).indices
            furthest = features[index[:, -1]]
            radii.append((features[rows] - furthest).square().sum(1))
            nearest.append(index[:, 1:])
        radius = torch.cat(radii).clamp(min=1e-12)  # 0 among duplicates
        return (radius[:, None] / radius[torch.cat(nearest)]).mean(1)


def find_outliers(factors: Tensor) -> Tensor:
    """Patches whose factor exceeds that of INLIER_SHARE of all: (N,) -> (N,), bool.

    # official code: factor > quantile / here: factor > (1 + 1e-5) quantile, so that rounding does
    # not decide a tie; among up to 31 patches the two that are furthest apart always tie.
    """
    return factors > (1 + 1e-5) * factors.quantile(INLIER_SHARE)


def repair(features: Tensor, outliers: Tensor, grid: tuple[int, int]) -> Tensor:
    """An outlier becomes the mean of its 8 neighbours that are none: (N, C), (N,) -> (N, C).

    It stays where all its neighbours are outliers. The result is float32.
    # official code: row and column are index // rows and index % rows, right on square grids only /
    # here: on all.
    """
    inliers = (~outliers).float().view(1, 1, *grid)
    as_map = features.float().T.view(1, -1, *grid)
    sums, counts = (
        F.avg_pool2d(x, 3, stride=1, padding=1, divisor_override=1)  # an outlier itself is 0
        for x in (torch.where(inliers > 0, as_map, 0), inliers)
    )
    replaced = outliers.view(1, 1, *grid) & (counts > 0)
    return torch.where(replaced, sums / counts.clamp(min=1), as_map).flatten(2)[0].T


# ---- similarity ----


def unit_rows(features: Tensor) -> Tensor:
    """Each row divided by its length, in float32: (N, C) -> (N, C)."""
    return F.normalize(features.float(), dim=1)


def row_blocks(length: int) -> Iterator[slice]:
    """ROWS rows at a time."""
    return (slice(start, start + ROWS) for start in range(0, length, ROWS))


def similarities(unit: Tensor, rows: slice) -> Tensor:
    """Cosines of some rows with all: (N, C) -> (rows, N)."""
    with torch.autocast(unit.device.type, enabled=False):
        return unit[rows] @ unit.T


def aggregate(features: Tensor, unit: Tensor, beta: float) -> Tensor:
    """Means of features, weighted by those cosines of `unit` that reach beta; both (N, C)."""
    with torch.autocast(features.device.type, enabled=False):
        features = features.float()
        means = torch.empty_like(features)
        for rows in row_blocks(len(unit)):
            weights = similarities(unit, rows)
            means[rows] = weighted_means(weights.masked_fill_(weights < beta, 0), features)
    return means


def weighted_means(weights: Tensor, features: Tensor) -> Tensor:
    """(M, N), (N, C) -> (M, C); 0 where all weights are."""
    return weights @ features / (weights.sum(1, keepdim=True) + 1e-6)


# ---- attention ----


def calibrated_attention(block: nn.Module, tokens: Tensor, unit: Tensor, eps: float) -> Tensor:
    """Half k-k, half similarity, after the output projection: (B, N, C) -> (B, N, C).

    unit (N, C): unit rows whose similarities all heads and all B share. No class token.
    """
    key, value = key_value(block, tokens, eps)
    columns = value.permute(2, 0, 1, 3).flatten(1)  # (N, B * C)
    by_similarity = torch.empty_like(columns)
    mean = unit.mean(0).square().sum()  # of all N x N similarities
    for rows in row_blocks(len(unit)):
        weights = focused_weights(similarities(unit, rows), mean)
        by_similarity[rows] = weights.to(columns.dtype) @ columns
    del columns
    mixed = attend("kk", key, key, value)
    mixed += by_similarity.unflatten(1, (*value.shape[:2], -1)).permute(1, 2, 0, 3)
    del key, value, by_similarity  # the largest tensors of SC-CLIP
    return join_heads(block, mixed / 2)


def focused_weights(similarity: Tensor, mean: Tensor) -> Tensor:
    """softmax(FOCUS (S - mean)) over the entries that reach the mean: (M, N) -> (M, N).

    # official code: a row whose entries are all below the mean becomes NaN / here: its largest
    # entries stay; rounding makes such rows where all patches are nearly equal.
    """
    bar = torch.minimum(mean, similarity.amax(1, keepdim=True))
    return (FOCUS * (similarity - mean)).masked_fill_(similarity < bar, float("-inf")).softmax(1)
