"""models/point_masks.py against plain arithmetic: refinement, distances, cut-off, stamps."""

import math

import numpy as np
import pytest
import torch

from models.point_masks import (
    CUTOFF,
    DILATIONS,
    ITERATIONS,
    Parts,
    cut_off,
    distances,
    grid_size,
    pseudo_mask,
    refine,
    stamp,
    valid_cells,
)

SIZES = [(12, 16), (13, 18)]


def one_batch(size: tuple[int, int], seed: int = 0):
    """Logits on a grid of their own, images with padding, points inside, outside and doubled."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 3, 4, generator=generator) * 3
    image = torch.randint(0, 256, (2, 3, *size), generator=generator, dtype=torch.uint8)
    valid = torch.ones(2, *size, dtype=torch.bool)
    valid[1, :, 14:] = False
    image[1, :, :, 14:] = 0
    points = [
        torch.tensor([[0.0, 0, 0], [3.4, 7.5, 2], [15, 11, 2], [-6.25, 4, 3]]),
        torch.tensor([[5.0, 5, 1], [4.75, 6, 3], [2, 300, 0]]),
    ]
    return logits, image, valid, points


def linear_weights(length: int, target: int) -> np.ndarray:
    """Bilinear resizing along one axis, pixel centres at halves: (target, length)."""
    weights = np.zeros((target, length))
    for i in range(target):
        place = min(max((i + 0.5) * length / target - 0.5, 0), length - 1)
        low = int(place)
        weights[i, low] += 1 - (place - low)
        weights[i, min(low + 1, length - 1)] += place - low
    return weights


def resized(maps: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (linear_weights(a, b) for a, b in zip(maps.shape[-2:], size, strict=True))
    return np.einsum("ij,...jk,lk->...il", rows, maps, columns)


def softmax(values: np.ndarray, axis: int) -> np.ndarray:
    powers = np.exp(values - values.max(axis, keepdims=True))
    return powers / powers.sum(axis, keepdims=True)


def cells_of(extent: int, cells: int) -> list[slice]:
    """The pixels of each cell, which share one where the extent is no multiple."""
    return [slice(i * extent // cells, -(-(i + 1) * extent // cells)) for i in range(cells)]


def averaged(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    rows, columns = (cells_of(a, b) for a, b in zip(image.shape[-2:], size, strict=True))
    return np.array([[image[..., r, c].mean((-2, -1)) for c in columns] for r in rows])


def refined(image: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """PAC of section 1.2 for one image (h,w,3), scores (K,h,w); dilations of a small grid."""
    h, w, _ = image.shape
    steps = [(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    window = [(d * y, d * x) for d in DILATIONS[:4] for y, x in steps]
    outer = [offset for offset in window if offset != (0, 0)]

    def at(maps: np.ndarray, y: int, x: int, offset: tuple[int, int]) -> np.ndarray:
        return maps[min(max(y + offset[0], 0), h - 1), min(max(x + offset[1], 0), w - 1)]

    weights = np.zeros((h, w, len(outer)))
    for y in range(h):
        for x in range(w):
            std = np.std([at(image, y, x, o) for o in window], axis=0, ddof=1)
            apart = [np.abs(at(image, y, x, o) - image[y, x]) / (1e-8 + 0.1 * std) for o in outer]
            weights[y, x] = softmax(-np.mean(apart, 1), 0)
    maps = scores.transpose(1, 2, 0)
    for _ in range(ITERATIONS):
        maps = np.array(
            [
                [weights[y, x] @ [at(maps, y, x, o) for o in outer] for x in range(w)]
                for y in range(h)
            ]
        )
    return maps.transpose(2, 0, 1)


def by_hand(logits, image, valid, points, scale: float, parts: Parts) -> np.ndarray:
    """y of section 1.2 in float64, image by image and cell by cell."""
    size = tuple(image.shape[-2:])
    h, w = grid_size(size)
    result = np.full((len(logits), h, w), 255)
    for b, own in enumerate(points):
        rows = [((i + 0.5) * size[0] / h - 0.5) for i in range(h)]
        columns = [((j + 0.5) * size[1] / w - 0.5) for j in range(w)]
        near = np.full((logits.shape[1], h, w), np.inf)
        for x, y, k in own.tolist():
            for i in range(h):
                for j in range(w):
                    apart = math.hypot(rows[i] - y, columns[j] - x)
                    near[int(k), i, j] = min(near[int(k), i, j], apart)
        whole = np.array(
            [
                [valid[b].numpy()[r, c].all() for c in cells_of(size[1], w)]
                for r in cells_of(size[0], h)
            ]
        )
        present = sorted({int(k) for k in own[:, 2]})
        scores = np.zeros(logits.shape[1:])
        scores[present] = softmax(logits[b].double().numpy()[present], 0)
        scores = resized(scores, (h, w))
        if parts.refinement:
            scores = refined(averaged(image[b].double().numpy(), (h, w)), scores)
        if parts.distance:
            scores = scores * np.exp(-near / scale)
        scores = scores * whole
        best = scores.argmax(0)
        for i in range(h):
            for j in range(w):
                value = scores[best[i, j], i, j]
                if value > 0 and value >= CUTOFF * scores[best[i, j]].max():
                    result[b, i, j] = best[i, j]
        for x, y, k in sorted(own.tolist(), key=lambda point: point[2]):
            column, row = math.floor(x + 0.5), math.floor(y + 0.5)
            if 0 <= column < size[1] and 0 <= row < size[0]:
                result[b, int((row + 0.5) * h / size[0]), int((column + 0.5) * w / size[1])] = k
        result[b][~whole] = 255
    return result


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    "parts", [Parts(), Parts(refinement=False), Parts(distance=False)], ids=str
)
def test_pseudo_masks_are_those_of_plain_arithmetic(size, parts) -> None:
    batch = one_batch(size)
    found = pseudo_mask(*batch, 6.0, parts)
    assert found.tolist() == by_hand(*batch, 6.0, parts).tolist()
    assert 0.1 < (found != 255).float().mean() < 1


@pytest.mark.parametrize("size", SIZES)
def test_refinement_is_that_of_plain_arithmetic(size) -> None:
    logits, image, _, _ = one_batch(size)
    scores = torch.nn.functional.interpolate(logits.softmax(1), grid_size(size))
    found = refine(image, scores).numpy()
    for b in range(2):
        small = averaged(image[b].double().numpy(), grid_size(size))
        np.testing.assert_allclose(
            found[b], refined(small, scores[b].double().numpy()), rtol=0, atol=1e-5
        )


@pytest.mark.parametrize("grid", [(9, 13), (50, 52)])
def test_refinement_keeps_sums_and_constants(grid) -> None:
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (2, 3, 4 * grid[0], 4 * grid[1]), generator=generator)
    scores = torch.rand(2, 3, *grid, generator=generator)
    scores[:, 2] = 0
    scores /= scores.sum(1, keepdim=True)
    found = refine(image, scores)
    torch.testing.assert_close(found.sum(1), torch.ones(2, *grid))
    constant = torch.full((2, 1, *grid), 0.3)
    torch.testing.assert_close(refine(image, constant), constant)
    assert (found[:, 2] == 0).all()


def test_distances_are_those_of_a_search() -> None:
    size = (13, 18)
    generator = torch.Generator().manual_seed(1)
    points = [torch.rand(n, 3, generator=generator) * 40 - 10 for n in (7, 1, 0)]
    for own in points:
        own[:, 2] = (own[:, 2].abs() % 3).floor()
    found = distances(points, size, 4, "cpu")
    h, w = grid_size(size)
    assert found.shape == (3, 4, h, w)
    for b, k, i, j in np.ndindex(*found.shape):
        y, x = (i + 0.5) * size[0] / h - 0.5, (j + 0.5) * size[1] / w - 0.5
        apart = [math.hypot(x - q[0], y - q[1]) for q in points[b].tolist() if q[2] == k]
        assert found[b, k, i, j] == pytest.approx(min(apart, default=math.inf), rel=1e-5)


def test_a_class_is_cut_off_at_its_own_best() -> None:
    high, low = [0.9, 0.5, 0.4, 0.0], [0.05, 0.04, 0.0, 0.0]
    scores = torch.tensor([[[high, [0, 0, 0, 0]], [low, [0.1, 0.06, 0.04, 0.0]]]]).float()
    covered = torch.ones(1, 2, 4, dtype=torch.bool)
    assert cut_off(scores, covered).tolist() == [[[0, 0, 255, 255], [1, 1, 255, 255]]]
    covered[0, 0, 0] = False  # its best does not count either
    assert cut_off(scores, covered).tolist() == [[[255, 0, 0, 255], [1, 1, 255, 255]]]


def test_far_from_all_points_a_cell_has_no_label() -> None:
    """exp(-D/s) is 0 there, in float32: the arg max would be class 0, which the image lacks."""
    logits, image = torch.zeros(1, 3, 2, 200), torch.zeros(1, 3, 8, 800, dtype=torch.uint8)
    valid = torch.ones(1, 8, 800, dtype=torch.bool)
    found = pseudo_mask(logits, image, valid, [torch.tensor([[2.0, 2, 1]])], 3.0)
    assert set(found.unique().tolist()) == {1, 255}


def test_no_point_in_the_crop_or_none_at_all() -> None:
    logits, image, valid, _ = one_batch((12, 16))
    points = [torch.tensor([[900.0, 5, 1]]), torch.zeros(0, 3)]
    found = pseudo_mask(logits, image, valid, points, 100.0)
    assert (found[0] == 1).all() and (found[1] == 255).all()
    empty = [torch.zeros(0, 3)] * 2
    assert (pseudo_mask(logits, image, valid, empty, 5.0) == 255).all()


def test_points_stamp_their_cells() -> None:
    points = [torch.tensor([[3.6, 0, 1], [3.4, 3, 2], [0, 0, 0], [8, 4, 2], [-0.6, 2, 2]])]
    found = stamp(torch.full((1, 2, 2), 255), points, (8, 8))
    assert found.tolist() == [[[2, 1], [255, 255]]]  # of two in a cell the higher id


def test_discs_take_the_nearest_point() -> None:
    _, image, valid, _ = one_batch((12, 16))
    points = [torch.tensor([[2.0, 2.0, 3], [9.5, 1.5, 1]]), torch.zeros(0, 3)]
    logits = torch.full((2, 4, 3, 4), torch.nan)  # the network has no say
    found = pseudo_mask(logits, image, valid, points, 1.0, Parts(discs=4.0))
    assert found[0].tolist() == [[3, 3, 1, 1], [3, 255, 1, 255], [255] * 4]
    assert (found[1] == 255).all()


def test_cells_with_padding_do_not_count() -> None:
    valid = torch.ones(1, 12, 16, dtype=torch.bool)
    valid[:, 10:] = False
    valid[:, :, 15:] = False
    assert valid_cells(valid)[0].tolist() == [[True] * 3 + [False]] * 2 + [[False] * 4]
