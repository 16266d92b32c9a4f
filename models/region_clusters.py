"""Clusters of the regions of many images: features whitened by PCA, then k-means.

N counts the regions of all images, R those of some, k clusters. All functions are deterministic,
`kmeans` by its generator.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from utils.distributed import Ranks, gather_objects, on_main

DIMS = 64  # of the features after PCA; ours
_CHUNK = 1 << 16  # points whose distances are in memory at once


def moments(features: Tensor) -> tuple[int, Tensor, Tensor]:
    """Number, sum (D) and sum of the products (D,D), float64, of features (R,D)."""
    features = features.double()
    return len(features), features.sum(0), features.T @ features


def whitening(count: int, total: Tensor, products: Tensor, dims: int) -> tuple[Tensor, Tensor]:
    """Mean (D) and matrix (D,d), of features with such `moments`: (x - mean) matrix has variance 1.

    PCA: the d <= dims directions of most variance, without those that have practically none.
    """
    mean = total / count
    values, vectors = torch.linalg.eigh(products / count - mean[:, None] * mean)
    values, vectors = values.flip(0)[:dims], vectors.flip(1)[:, :dims]
    kept = values > 1e-8 * values[0].clamp(min=1e-30)
    return mean.float(), (vectors[:, kept] / values[kept].sqrt()).float()


def whitened(features: Tensor, mean: Tensor, matrix: Tensor) -> Tensor:
    """Features (R,D) -> (R,d) of length 1."""
    return F.normalize((features - mean) @ matrix, dim=1)


def whiten(features: list[Tensor], ranks: Ranks) -> tuple[list[Tensor], Tensor, Tensor]:
    """Features (R,D) of each image of this process, `whitened`; mean and matrix, of all processes.

    All processes call it.
    """
    total = (0, 0, 0)
    for one in features:
        total = [a + b for a, b in zip(total, moments(one), strict=True)]
    total = [sum(parts) for parts in zip(*gather_objects(total), strict=True)]
    mean, matrix = on_main(ranks, lambda: whitening(*total, DIMS))
    return [whitened(one, mean, matrix) for one in features], mean, matrix


def gathered(*lists: list[Tensor]) -> list[Tensor]:
    """Lists of tensors, one for each image of this process -> a tensor each, of all processes.

    A list without tensors is left out. All processes call it.
    """
    own = [torch.cat(part) for part in lists if part]
    return [torch.cat(parts) for parts in zip(*filter(None, gather_objects(own)), strict=True)]


def kmeans(points: Tensor, k: int, iterations: int, generator: torch.Generator) -> Tensor:
    """Centres (min(k,N),D) of points (N,D): k-means++, then `iterations` of Lloyd's.

    A centre without points moves to the point farthest from its own centre.
    """
    k = min(k, len(points))
    centres = _plus_plus(points, k, generator)
    for _ in range(iterations):
        ids, distances = nearest(points, centres)
        sums, counts = points.new_zeros(k, points.shape[1]), points.new_zeros(k)
        for some, of_some in zip(points.split(_CHUNK), ids.split(_CHUNK), strict=True):
            chosen = F.one_hot(of_some, k).to(points.dtype)
            sums, counts = sums + chosen.T @ some, counts + chosen.sum(0)
        centres = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero().flatten()
        centres[empty] = points[distances.topk(len(empty)).indices]
    return centres


def _plus_plus(points: Tensor, k: int, generator: torch.Generator) -> Tensor:
    """The first centres: each is a point, with a probability in proportion of its distance^2."""
    distances = points.new_full((len(points),), torch.inf)
    shares, chosen = torch.ones(len(points), dtype=torch.float64), []
    for _ in range(k):
        reached = shares.cumsum(0)
        place = torch.rand((), generator=generator, dtype=torch.float64) * reached[-1]
        chosen.append(min(int(torch.searchsorted(reached, place, right=True)), len(points) - 1))
        distances = distances.minimum((points - points[chosen[-1]]).square().sum(1))
        shares = distances.cpu().double()
    return points[chosen]


def nearest(points: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """Ids (N) of the centres (k,D) nearest to points (N,D), and the squared distances (N)."""
    found = []
    for some in points.split(_CHUNK):
        part = centres.square().sum(1) - 2 * some @ centres.T
        found.append(part.argmin(1))
    ids = torch.cat(found)
    return ids, (points - centres[ids]).square().sum(1)
