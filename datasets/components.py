"""Connected components of a label map, without SciPy: runs of equal pixels, joined row to row."""

import numpy as np


def connected_components(mask: np.ndarray) -> np.ndarray:
    """int64 (H,W): the number of each pixel's component, from 0 in the order of first pixels.

    A component is a largest set of pixels of one value that are connected through 4-neighbours.
    mask: (H,W) integers, not empty.
    """
    starts = np.ones(mask.shape, bool)  # of runs: a pixel unlike its left neighbour
    starts[:, 1:] = mask[:, 1:] != mask[:, :-1]
    runs = np.cumsum(starts).reshape(mask.shape) - 1
    touch = mask[1:] == mask[:-1]
    above, below = runs[:-1][touch], runs[1:][touch]
    is_new = np.ones(len(above), bool)  # two runs touch in neighbouring pixels
    is_new[1:] = (np.diff(above) != 0) | (np.diff(below) != 0)
    root = _unite(int(runs[-1, -1]) + 1, above[is_new], below[is_new])
    return np.unique(root, return_inverse=True)[1].reshape(-1)[runs]


def erosion_depth(components: np.ndarray, most: int) -> np.ndarray:
    """int64 (H,W): how many erosions of its component each pixel survives, at most `most`.

    An erosion takes away the pixels that have a 4-neighbour of another component, or outside the
    image.
    """
    depth = np.zeros(components.shape, np.int64)
    left = np.ones(components.shape, bool)
    rows = components[1:] == components[:-1]
    columns = components[:, 1:] == components[:, :-1]
    for _ in range(most):
        inside = np.zeros((4, *components.shape), bool)  # as seen from each side
        inside[0, 1:] = rows & left[:-1]
        inside[1, :-1] = rows & left[1:]
        inside[2, :, 1:] = columns & left[:, :-1]
        inside[3, :, :-1] = columns & left[:, 1:]
        left &= inside.all(0)
        depth += left
    return depth


def _unite(count: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(count,): the smallest number of each number's set, where first[i] and second[i] are in one.

    A union-find whose steps are taken for all pairs at once.
    """
    root = np.arange(count)
    while True:
        one, other = root[first], root[second]
        apart = one != other
        if not apart.any():
            return root
        np.minimum.at(root, np.maximum(one, other)[apart], np.minimum(one, other)[apart])
        while not np.array_equal(root, root[root]):
            root = root[root]
