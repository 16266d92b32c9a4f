"""models/random_walk.py against irn's code and a dense matrix."""

import pytest
import torch
from weak_golden import Golden, cases

from models.random_walk import (
    BETA,
    by_path_length,
    edge_walk,
    neighbours,
    path_affinities,
    path_cells,
    transition,
    upsampled_walk,
    walk,
    walk_labels,
)

PATHS, WALK, LABEL = "cam_irn_paths.npz", "cam_irn_walk.npz", "cam_irn_label.npz"
TOLERANCE = 1e-4  # the authors' float32 squaring is up to 1.2e-4 from float64


@pytest.mark.parametrize("case", cases(PATHS, "destinations"))
def test_golden_irn_paths(case):
    golden = Golden(PATHS, case)
    destinations = [tuple(one) for one in golden["destinations"].tolist()]
    radius = 1 + max(max(abs(dy), abs(dx)) for dy, dx in destinations)
    offsets = by_path_length(neighbours(radius))
    assert offsets == destinations
    cells = [tuple(one) for one in golden["path_cells"].tolist()]
    bounds = golden["path_offsets"].tolist()
    assert bounds[-1] == len(cells) and len(bounds) == len(offsets) + 1
    for i, offset in enumerate(offsets):
        path = path_cells(offset)
        assert {*path} == {*cells[bounds[i] : bounds[i + 1]]} and len({*path}) == len(path)
        assert path[0] == offset
    assert golden.unread == set()


def symmetric(affinities: torch.Tensor, offsets: list[tuple[int, int]]) -> torch.Tensor:
    """The dense A (hw,hw) of affinities (P,h,w), cell by cell."""
    height, width = affinities.shape[-2:]
    dense = torch.eye(height * width)
    for (dy, dx), plane in zip(offsets, affinities, strict=True):
        for y in range(height - dy):
            for x in range(max(0, -dx), min(width, width - dx)):
                i, j = y * width + x, (y + dy) * width + x + dx
                dense[i, j] = dense[j, i] = plane[y, x]
    return dense


@pytest.mark.parametrize("case", cases(WALK, "exp_times"))
def test_golden_irn_walk(case):
    golden = Golden(WALK, case)
    cam, edge = golden["cam"], golden["edge"][0]
    radius, beta, times = (golden[key].item() for key in ("radius", "beta", "exp_times"))
    offsets, cells = neighbours(radius), edge.numel()
    affinities = path_affinities(edge, offsets)
    dense = symmetric(affinities, offsets)
    golden.near("affinity", dense)
    columns = dense**beta / (dense**beta).sum(0)
    for _ in range(times):  # as there, and with the rounding there
        columns = columns @ columns
    golden.near("transition", columns, TOLERANCE)
    exact = dense.double() ** beta
    exact = torch.linalg.matrix_power(exact / exact.sum(0), 2**times)
    identity = torch.eye(cells).view(cells, *edge.shape)
    products = walk(identity, transition(affinities, offsets, beta), 2**times).flatten(1)
    assert torch.allclose(products.double(), exact, rtol=0, atol=TOLERANCE)
    golden.near("rw", edge_walk(cam, edge, radius, beta, 2**times)[:, None], TOLERANCE)
    assert golden.unread == set()


@pytest.mark.parametrize("case", cases(LABEL, "rw_up_normalised"))
def test_golden_irn_label(case):
    golden = Golden(LABEL, case)
    walked = edge_walk(golden["cam"], golden["edge"][0])
    scores = upsampled_walk(walked, tuple(golden["size"].tolist()))
    golden.near("rw_up_normalised", scores, TOLERANCE)
    background = golden["bg"].item()
    stack = torch.cat([torch.full_like(scores[:1], background), scores])
    found = walk_labels(scores, golden["keys"], background)
    golden.same_labels("pred", found, stack)
    assert golden.unread == set()


def test_products_equal_the_squared_dense_matrix():
    torch.manual_seed(0)
    edge, scores = torch.rand(6, 9), torch.rand(2, 6, 9)
    offsets = neighbours(4)
    affinities = path_affinities(edge, offsets)
    dense = symmetric(affinities, offsets).double() ** BETA
    dense = dense / dense.sum(0)
    expected = scores.flatten(1).double() @ torch.linalg.matrix_power(dense, 32)
    found = walk(scores, transition(affinities, offsets, BETA), 32)
    assert torch.allclose(found.flatten(1).double(), expected, atol=1e-5)


def test_affinities_whose_end_is_outside_do_not_count():
    """Neither cells of the next row nor cells below the map are reached."""
    offsets = neighbours(3)
    matrix = transition(torch.ones(len(offsets), 4, 5), offsets, 1).to_dense()
    for one in range(20):
        for other in range(20):
            dy, dx = one // 5 - other // 5, one % 5 - other % 5
            assert (matrix[one, other] > 0) == (dy * dy + dx * dx < 9)


def test_zero_maps_stay_zero():
    walked = edge_walk(torch.zeros(2, 4, 5), torch.rand(4, 5))
    scores = upsampled_walk(walked, (13, 17))
    assert scores.shape == (2, 13, 17) and (scores == 0).all()
    assert (walk_labels(scores, torch.tensor([3, 7])) == 0).all()
