"""What the tags of images say about clusters of regions, and the labels that regions get.

Ours, after the abstract of Wang, Ma and You (Neurocomputing 381, 2020): tags recur over images, so
similar regions are clustered and the clusters related to tags. N counts the regions of all images,
R those of some, k clusters, I images, C classes.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datasets.labels import IGNORE_INDEX
from models.region_clusters import kmeans, nearest, whitened
from utils.safe.errors import InputError, warn

# All ours: the design of the method.
CLUSTERS, ITERATIONS = 10, 20  # for each class; of k-means
NOISE = 0.05  # epsilon of `tag_scores`
MARGIN = 0.1  # of the best score over the second, over |I_k|
SURE = 0.6  # probability from which the network is believed against the cluster

_NO_LABEL = (
    "no region gets a label, since the tags tell no two classes of an image apart; maps of a "
    "classifier may: --cams FOLDER, which python -m baselines.cam --save-cams --out FOLDER writes"
)


class Clusters(NamedTuple):
    """Whitening: mean (D), matrix (D,d); centres (k,d); Lambda (k,C) and images |I_k| (k)."""

    mean: Tensor
    matrix: Tensor
    centres: Tensor
    scores: Tensor
    counts: Tensor

    def labels(self, features: Tensor, pi: Tensor | None, present: Tensor) -> Tensor:
        """Labels (R) of regions with features (R,D), of the clusters nearest to them.

        pi (R,C): probabilities of a network, which has a say, if there is one. present (C).
        """
        ids, _ = nearest(whitened(features, self.mean, self.matrix), self.centres)
        scores, counts = self.scores[ids], self.counts[ids]
        if pi is None:
            return first_labels(scores, counts, present, MARGIN)
        return refined_labels(pi, scores, counts, present, SURE)


def clustered(
    points: Tensor,
    images: Tensor,
    tags: Tensor,
    generator: torch.Generator,
    device: torch.device,
    maps: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centres (k,d), Lambda (k,C) and |I_k| (k) of the clusters of regions; first labels (N).

    points (N,d) and images (N) of all regions, in any order of the images; tags (I,C); maps (N,C):
    means of the CAMs, if there are any. device: of k-means.
    """
    order = images.argsort(stable=True)  # the same for any number of processes
    points, images = points[order], images[order]
    k = CLUSTERS * tags.shape[1]
    centres = kmeans(points.to(device), k, ITERATIONS, generator).cpu()
    ids, _ = nearest(points, centres)
    members = membership(ids, images, len(centres), len(tags))
    scores, counts = tag_scores(members, tags, NOISE), members.sum(1)
    if maps is not None:  # ties: + |I_k| mean CAM_c, weight 1
        scores += counts[:, None] * cluster_means(maps[order], ids, len(centres))
    return centres, scores, counts, first_labels(scores[ids], counts[ids], tags[images], MARGIN)


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


def check_ties(tags: Tensor, names: Sequence[str], has_maps: bool) -> None:
    """Warn of classes that the tags (I,C) can't tell apart.

    Raises InputError where these are all, and there are no maps to decide between them.
    """
    groups = alike(tags)
    for group in groups:
        told = "without --cams their regions have no label in round 1, and arbitrary ones later"
        warn(
            "the tags can't tell these classes apart, which are in the same images: "
            f"{', '.join(names[c] for c in group)}; "
            + ("the maps of --cams decide between them" if has_maps else told)
        )
    shown = [{*one.nonzero().flatten().tolist()} for one in tags]
    if not has_maps and all(any(ids <= {*group} for group in groups) for ids in shown):
        raise InputError(_NO_LABEL)


def first_labels(scores: Tensor, counts: Tensor, present: Tensor, margin: float) -> Tensor:
    """Labels (R) int64: the highest Lambda (R,C) of the regions' clusters among present classes.

    255 where the second highest is less than `margin` |I_k| below, |I_k| in counts (R). present
    (C), or (R,C).
    """
    best, ids = _among(scores, present).topk(2, dim=1)
    return ids[:, 0].masked_fill(best[:, 0] - best[:, 1] < margin * counts, IGNORE_INDEX)


def share_of(labels: Tensor, needed: bool) -> float:
    """Share of labels (N) that are not 255. Raises InputError where one is needed and none is."""
    share = (labels != IGNORE_INDEX).double().mean().item()
    if needed and share == 0:
        raise InputError(_NO_LABEL)
    return share


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
