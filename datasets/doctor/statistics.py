"""Counts of image-level labels, for `prepare_data.py --stats` and for the paper's Fig. 1."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from datasets.labels import ClassTable, has_background

_ALMOST_ALL = 0.95  # a class in a larger share of the images is as good as in all of them


class LabelCounts(NamedTuple):
    """Label counts of N images and K classes, all int64."""

    by_number: np.ndarray  # (K+1,): images with 0, 1, ... K classes
    together: np.ndarray  # (K,K): images with both classes; on the diagonal those with the class

    @property
    def num_images(self) -> int:
        return int(self.by_number.sum())

    @property
    def positive(self) -> np.ndarray:
        """(K,): images with the class."""
        return self.together.diagonal()

    @property
    def mean_classes(self) -> float:
        """Classes per image."""
        return float(self.positive.sum() / self.num_images)

    def co_occurrence_ratios(self) -> np.ndarray:
        """(P,): for each ordered pair (i, j), i != j, the share of i's images that also have j.

        Pairs whose first class is in no image have no ratio and are left out.
        """
        first, second = np.nonzero(~np.eye(len(self.together), dtype=bool))
        seen = self.positive[first] > 0
        first, second = first[seen], second[seen]
        return self.together[first, second] / self.positive[first]


def count_labels(labels: Sequence[tuple[int, ...]], num_classes: int) -> LabelCounts:
    """Count `labels`, the class ids of every image."""
    present = np.zeros((len(labels), num_classes))
    for row, ids in zip(present, labels, strict=True):
        row[list(ids)] = 1
    by_number = np.bincount(present.sum(1).astype(np.int64), minlength=num_classes + 1)
    return LabelCounts(by_number, np.rint(present.T @ present).astype(np.int64))


def statistics(labels: Sequence[tuple[int, ...]], classes: ClassTable) -> str:
    """Images, classes per image, and images with and without each class, as text."""
    if not labels:
        return "no images with labels"
    counts = count_labels(labels, len(classes))
    lines = [f"{len(labels)} images, {counts.mean_classes:.2f} classes per image"]
    lines.append("  classes  images")
    lines += [f"  {n:7d}  {count:6d}" for n, count in enumerate(counts.by_number) if count]
    width = max(map(len, classes.names))
    lines.append(f"  {'class':{width}}  present  absent")
    for name, count in zip(classes.names, counts.positive, strict=True):
        lines.append(f"  {name:{width}}  {count:7d}  {len(labels) - count:6d}")
    return "\n".join(filter(None, [*lines, always_present(labels, classes)]))


def always_present(labels: Sequence[tuple[int, ...]], classes: ClassTable) -> str:
    """A sentence that names the classes of (almost) every image; empty where there is none.

    The background, which is no class of an image, is left out.
    """
    shares = count_labels(labels, len(classes)).positive / len(labels)
    named = [
        name if share == 1 else f"{name} ({100 * share:.1f} %)"
        for k, (name, share) in enumerate(zip(classes.names, shares, strict=True))
        if share > _ALMOST_ALL and not (k == 0 and has_background(classes))
    ]
    if not named:
        return ""
    return (
        f"classes in more than {100 * _ALMOST_ALL:.0f} % of the images, from which a classifier of "
        f"images learns nothing: {', '.join(named)}"
    )
