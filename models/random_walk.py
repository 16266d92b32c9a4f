"""Random walks on the cells of a map, as products with a sparse transition (PSA, IRN, AMN).

jiwoon-ahn/psa @9493e59 and jiwoon-ahn/irn @a2ece00 square a dense matrix of hw x hw entries t
times; 2^t products of the maps with the sparse matrix give the same numbers. At 128x256 cells and
19 classes that is 22 GFLOP in place of 5e14, and 2.3 million entries in place of 10^9.

Offsets are (dy,dx). A path of an offset is the set of cells closer than 1 to the line to it.
"""

import warnings
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.inference import resize

Offset = tuple[int, int]
# Of irn: radius, power and squarings of the walk; cells a pixel; the background's score.
RADIUS, BETA, SQUARINGS = 5, 10, 8
UPSAMPLING, BACKGROUND = 4, 0.25


def neighbours(radius: int) -> list[Offset]:
    """Offsets closer than `radius`, of each pair of opposite ones one; in psa's order."""
    beside = [(0, dx) for dx in range(1, radius)]
    reach = range(-(radius - 1), radius)
    below = [(dy, dx) for dy in range(1, radius) for dx in reach if dy * dy + dx * dx < radius**2]
    return beside + below


def inner(maps: Tensor, radius: int, offset: Offset = (0, 0)) -> Tensor:
    """The cells (...,h-r+1,w-2r+2) from which pairs start, moved by the offset of the other cell.

    No pair starts in the last r - 1 rows or the outer r - 1 columns.
    """
    height, width = (
        max(0, maps.shape[-2] - radius + 1),
        max(0, maps.shape[-1] - 2 * radius + 2),
    )
    top, left = offset[0], radius - 1 + offset[1]
    return maps[..., top : top + height, left : left + width]


def path_cells(offset: Offset) -> list[Offset]:
    """The cells of a path, both ends included, the far end first."""
    dy, dx = offset
    columns = range(min(0, dx), max(0, dx) + 1)
    rectangle = [(y, x) for y in range(dy + 1) for x in columns]
    near = [(y, x) for y, x in rectangle if (dy * x - dx * y) ** 2 < dy * dy + dx * dx]
    return sorted(near, key=lambda cell: -abs(cell[0]) - abs(cell[1]))


def by_path_length(offsets: Sequence[Offset]) -> list[Offset]:
    """Offsets by the number of cells of their paths, in irn's order."""
    return sorted(offsets, key=lambda offset: len(path_cells(offset)))


def path_affinities(edge: Tensor, offsets: Sequence[Offset]) -> Tensor:
    """a_ij = 1 - max of the edges (h,w) in [0,1] over the path: (P,h,w), 0 where it leaves the map.

    Entry (p,y,x) belongs to the cells (y,x) and (y,x) + offsets[p].
    """
    reach = max(max(abs(dy), abs(dx)) for dy, dx in offsets)
    height, width = edge.shape
    padded = F.pad(edge, (reach, reach, 0, reach), value=1.0)
    planes = []
    for offset in offsets:
        cells = [
            padded[y : y + height, reach + x : reach + x + width] for y, x in path_cells(offset)
        ]
        planes.append(1 - torch.stack(cells).amax(0))
    return torch.stack(planes)


def transition(affinities: Tensor, offsets: Sequence[Offset], beta: float) -> Tensor:
    """T = A^beta, element-wise, each column divided by its sum: sparse (hw,hw), transposed.

    affinities (P,h,w): a_ij of cell i = (y,x) and j = i + offsets[p]; A is symmetric, with 1 on the
    diagonal and 0 elsewhere. Entries of cells outside the map do not count.
    """
    width = affinities.shape[-1]
    affinities = affinities.detach()
    if affinities.device.type == "mps":  # has neither float64 nor sparse matrices
        affinities = affinities.cpu()
    planes = dict(zip(offsets, affinities.pow(beta), strict=True))
    planes |= {(-dy, -dx): shifted(plane, dy, dx) for (dy, dx), plane in planes.items()}
    planes[0, 0] = torch.ones_like(affinities[0])
    order = sorted(planes)  # ascending columns, as the sparse format wants them
    inside = torch.ones_like(planes[0, 0])
    values = torch.stack([planes[dy, dx] * shifted(inside, -dy, -dx) for dy, dx in order], 2)
    # In float64: hundreds of steps multiply an error of the sums.
    values = values.double().flatten(0, 1)
    values = (values / values.sum(1, keepdim=True)).to(affinities.dtype)
    moves = torch.tensor([dy * width + dx for dy, dx in order], device=values.device)
    cells = torch.arange(len(values), device=values.device)
    kept = values > 0
    columns = (cells[:, None] + moves)[kept]
    starts = F.pad(kept.sum(1).cumsum(0), (1, 0))
    with warnings.catch_warnings():  # torch calls this format new
        warnings.filterwarnings("ignore", message="Sparse", category=UserWarning)
        size = (len(values), len(values))
        return torch.sparse_csr_tensor(starts, columns, values[kept], size, check_invariants=False)


def shifted(plane: Tensor, dy: int, dx: int) -> Tensor:
    """plane (h,w) moved down by dy and right by dx, 0 where nothing comes in."""
    height, width = plane.shape
    margin = max(abs(dy), abs(dx))
    padded, top, left = F.pad(plane, (margin,) * 4), margin - dy, margin - dx
    return padded[top : top + height, left : left + width]


@torch.no_grad()
def walk(scores: Tensor, transition: Tensor, steps: int) -> Tensor:
    """scores (K,h,w) after `steps` steps, M T^steps with the maps as rows of M: (K,h,w)."""
    rows = scores.flatten(1).T.contiguous().to(transition.device)
    for _ in range(steps):
        rows = transition @ rows
    return rows.T.reshape(scores.shape).to(scores.device)


def edge_walk(
    cams: Tensor, edge: Tensor, radius: int = RADIUS, beta: float = BETA, steps: int = 2**SQUARINGS
) -> Tensor:
    """irn's walk of CAMs (K,h,w), times (1 - edge), over cells without an edge (h,w) in between."""
    offsets = neighbours(radius)
    matrix = transition(path_affinities(edge, offsets), offsets, beta)
    return walk(cams * (1 - edge), matrix, steps)


def upsampled_walk(walked: Tensor, size: tuple[int, int]) -> Tensor:
    """irn's scores of the pixels: walked (K,h,w), 4 times as large, cut to `size`: (K,H,W).

    Divided by the maximum of all classes together; zero maps stay zero.
    """
    large = resize(walked[None], tuple(UPSAMPLING * side for side in walked.shape[-2:]))[0]
    large = large[:, : size[0], : size[1]]
    return large / large.max().clamp(min=torch.finfo(large.dtype).tiny)


def walk_labels(scores: Tensor, keys: Tensor, background: float = BACKGROUND) -> Tensor:
    """irn's label map uint8 (H,W): keys + 1 of the highest of scores (k,H,W), 0 for background."""
    stack = torch.cat([torch.full_like(scores[:1], background), scores])
    ids = torch.cat([keys.new_zeros(1), keys + 1])
    return ids[stack.argmax(0)].to(torch.uint8)
