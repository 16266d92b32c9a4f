"""Clusters of the regions of many images, and what the images' tags say about a cluster.

Ours, after the abstract of Wang, Ma and You (Neurocomputing 381, 2020): tags recur over images, so
similar regions are clustered and the clusters related to tags. N counts the regions of all images,
R those of some, k clusters, I images, C classes. All functions are deterministic, `kmeans` by its
generator.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.labels import IGNORE_INDEX

_CHUNK = 1 << 16  # points whose distances are in memory at once


class Clusters(NamedTuple):
    """Whitening: mean (D), matrix (D,d); centres (k,d); Lambda (k,C) and images |I_k| (k)."""

    mean: Tensor
    matrix: Tensor
    centres: Tensor
    scores: Tensor
    counts: Tensor

    def of(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Lambda (R,C) and |I_k| (R) of the clusters nearest to features (R,D)."""
        ids, _ = nearest(whitened(features, self.mean, self.matrix), self.centres)
        return self.scores[ids], self.counts[ids]


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


def membership(clusters: Tensor, images: Tensor, k: int, num_images: int) -> Tensor:
    """Which images (k,I) have regions of a cluster, 0 or 1; clusters, images (N) of all regions."""
    result = torch.zeros(k, num_images, dtype=torch.float64)
    result[clusters, images] = 1
    return result


def tag_scores(members: Tensor, tags: Tensor, noise: float) -> Tensor:
    """Lambda(k,c) = sum over images i of cluster k of

        y_ic log((1-e) / p_c) + (1-y_ic) log(e / (1-p_c))

    members (k,I), tags y (I,C), noise e; p_c the share of images with tag c, in [e, 1-e]. (k,C).
    """
    tags = tags.double()
    p = tags.mean(0).clamp(noise, 1 - noise)
    return members @ (tags * ((1 - noise) / p).log() + (1 - tags) * (noise / (1 - p)).log())


def cluster_means(values: Tensor, clusters: Tensor, k: int) -> Tensor:
    """Means (k,C), float64, of the values (N,C) of each cluster's regions; 0 without regions."""
    sums = torch.zeros(k, values.shape[1], dtype=torch.float64)
    sums.index_add_(0, clusters, values.double())
    return sums / clusters.bincount(minlength=k).clamp(min=1)[:, None]


def alike(tags: Tensor) -> list[list[int]]:
    """Groups of classes whose tags (I,C) are the same in every image: Lambda is the same too."""
    groups: dict[tuple[float, ...], list[int]] = {}
    for c, column in enumerate(tags.T.tolist()):
        groups.setdefault(tuple(column), []).append(c)
    return [group for group in groups.values() if len(group) > 1]


def first_labels(scores: Tensor, counts: Tensor, present: Tensor, margin: float) -> Tensor:
    """Labels (R) int64: the highest Lambda (R,C) of the regions' clusters among present classes.

    255 where the second highest is less than `margin` |I_k| below, |I_k| in counts (R). present
    (C), or (R,C).
    """
    best, ids = _among(scores, present).topk(2, dim=1)
    return ids[:, 0].masked_fill(best[:, 0] - best[:, 1] < margin * counts, IGNORE_INDEX)


def refined_labels(
    probabilities: Tensor, scores: Tensor, counts: Tensor, present: Tensor, sure: float
) -> Tensor:
    """Labels (R) int64: arg max over present c of log pi_r(c) + Lambda(k,c) / |I_k|.

    255 where the highest pi and the highest Lambda are of different classes and pi is below `sure`.
    Probabilities pi (R,C), scores and counts of the regions' clusters; present (C).
    """
    pi, of_cluster = _among(probabilities, present), _among(scores, present)
    evidence = probabilities.clamp(min=1e-12).log() + scores / counts[:, None].clamp(min=1)
    unsure = (pi.argmax(1) != of_cluster.argmax(1)) & (pi.amax(1) < sure)
    return _among(evidence, present).argmax(1).masked_fill(unsure, IGNORE_INDEX)


def _among(values: Tensor, present: Tensor) -> Tensor:
    return values.masked_fill(present == 0, -torch.inf)
