"""Superpixels of an image (SLIC, Achanta et al., PAMI 2012), and what maps and networks say there.

R counts the regions of an image. All functions are deterministic.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.transforms import normalize
from models.deeplabv3 import DeepLabV3

# Ours, of `described`.
REGIONS, COMPACTNESS, LEAST_SIDE, ITERATIONS = 400, 10.0, 8, 10  # of an image
PLACE_WEIGHT = 0.5  # of the coordinates in a feature

_NEIGHBOURS = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
# CIE 15: linear sRGB -> XYZ (rows), over the white of D65.
_XYZ = ((0.4124, 0.3576, 0.1805), (0.2126, 0.7152, 0.0722), (0.0193, 0.1192, 0.9505))
_WHITE = (0.9505, 1.0, 1.089)


def lab(image: Tensor) -> Tensor:
    """CIE L*a*b* (3,H,W) float32 of an sRGB image uint8 (3,H,W); L* from 0 to 100."""
    image = image.float() / 255
    linear = torch.where(image > 0.04045, ((image + 0.055) / 1.055) ** 2.4, image / 12.92)
    share = linear.new_tensor(_XYZ) / linear.new_tensor(_WHITE)[:, None]
    x, y, z = torch.tensordot(share, linear, 1)
    edge = 6 / 29
    x, y, z = (
        torch.where(t > edge**3, t.clamp(min=0) ** (1 / 3), t / (3 * edge**2) + 4 / 29)
        for t in (x, y, z)
    )
    return torch.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def superpixels(
    image: Tensor, count: int, compactness: float, least_side: int, iterations: int
) -> Tensor:
    """Ids (H,W) int64, 0 to R - 1, of about `count` regions of an image uint8 (3,H,W).

    SLIC (Achanta et al. 2012): k-means from a grid of spacing S = sqrt(HW / count), at least
    `least_side`, with D^2 = |lab|^2 + (compactness / S)^2 |xy|^2; a pixel chooses among the centres
    of its cell of the grid and of the eight around it. A region may have several parts.
    """
    height, width = image.shape[-2:]
    spacing = max(least_side, math.sqrt(height * width / count))
    side = [math.ceil(length / max(1, round(length / spacing))) for length in (height, width)]
    rows, columns = math.ceil(height / side[0]), math.ceil(width / side[1])

    def in_cells(maps: Tensor) -> Tensor:
        """(D,H,W) -> (rows,columns,pixels of a cell,D), 0 beyond the image."""
        padded = F.pad(maps, (0, columns * side[1] - width, 0, rows * side[0] - height))
        cells = padded.unflatten(1, (rows, side[0])).unflatten(3, (columns, side[1]))
        return cells.permute(1, 3, 2, 4, 0).flatten(2, 3)

    y = torch.arange(height, device=image.device).expand(width, height).T
    x = torch.arange(width, device=image.device).expand(height, width)
    place = torch.stack([y, x]) * (compactness / spacing)
    values = torch.cat([lab(image), place, torch.ones_like(place[:1])])  # the last one counts
    pixels = in_cells(values)
    sums = pixels.sum(2)
    centres = sums[..., :-1] / sums[..., -1:]
    for _ in range(iterations):
        chosen = F.one_hot(_choose(pixels[..., :-1], centres), 9).to(pixels.dtype)
        gathered = chosen.transpose(2, 3) @ pixels  # (rows,columns,9,6)
        sums = pixels.new_zeros(rows + 2, columns + 2, 6)
        for i, (dy, dx) in enumerate(_NEIGHBOURS):
            sums[1 + dy : 1 + dy + rows, 1 + dx : 1 + dx + columns] += gathered[:, :, i]
        sums = sums[1:-1, 1:-1]
        found = sums[..., :-1] / sums[..., -1:].clamp(min=1)
        centres = torch.where(sums[..., -1:] > 0, found, centres)
    offsets = torch.tensor([dy * columns + dx for dy, dx in _NEIGHBOURS], device=image.device)
    own = torch.arange(rows * columns, device=image.device).reshape(rows, columns, 1)
    ids = own + offsets[_choose(pixels[..., :-1], centres)]
    ids = ids.reshape(rows, columns, *side).permute(0, 2, 1, 3).flatten(2, 3).flatten(0, 1)
    return ids[:height, :width].unique(return_inverse=True)[1]


def _choose(pixels: Tensor, centres: Tensor) -> Tensor:
    """Pixels (rows,columns,P,D), centres (rows,columns,D) -> the nearest of 9: (rows,columns,P)."""
    rows, columns = centres.shape[:2]
    padded = F.pad(centres, (0, 0, 1, 1, 1, 1), value=torch.inf)
    around = [padded[1 + dy :, 1 + dx :][:rows, :columns] for dy, dx in _NEIGHBOURS]
    around = torch.stack(around, dim=2)
    outside = around.isinf().any(3)[:, :, None]
    around = around.nan_to_num(posinf=0)
    # |p - c|^2 without the |p|^2 that all nine share.
    distances = around.square().sum(3)[:, :, None] - 2 * pixels @ around.transpose(2, 3)
    return distances.masked_fill(outside, torch.inf).argmin(3)


def region_means(maps: Tensor, regions: Tensor) -> Tensor:
    """Means (R,D) of maps (D,h,w) over the pixels of each region (H,W).

    Each pixel has the value of the cell it lies in.
    """
    (height, width), size = maps.shape[-2:], regions.shape
    row, column = (
        torch.arange(pixels, device=maps.device) * cells // pixels
        for pixels, cells in zip(size, (height, width), strict=True)
    )
    cell, count = row[:, None] * width + column, int(regions.max()) + 1
    pairs = (regions * (height * width) + cell).flatten()
    shares = pairs.bincount(minlength=count * height * width).reshape(count, -1).to(maps.dtype)
    return shares @ maps.flatten(1).T / shares.sum(1, keepdim=True)


def region_features(maps: Tensor, regions: Tensor, weight: float) -> Tensor:
    """phi_r (R,D+2): the means of maps (D,h,w), and `weight` times the mean (y/H, x/W)."""
    height, width = regions.shape
    y, x = ((torch.arange(n, device=maps.device) + 0.5) / n for n in (height, width))
    place = torch.stack(torch.broadcast_tensors(y[:, None], x)).to(maps.dtype)
    places = region_means(place, regions)
    return torch.cat([region_means(maps, regions), weight * places], dim=1)


def map_means(maps: Tensor, regions: Tensor, stride: int) -> Tensor:
    """`region_means` (R,D) of maps (D,h,w) of any size, averaged over cells of `stride` pixels."""
    grid = tuple(-(-side // stride) for side in regions.shape)
    return region_means(F.adaptive_avg_pool2d(maps, grid), regions)


@torch.inference_mode()
def described(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Regions (h,w) of an image uint8 (3,h,w), features phi (R,D+2), mean probabilities (R,C).

    network: a backbone, which has no probabilities; or a whole network, whose features are those
    before the classifier. The results are on the CPU.
    """
    regions = superpixels(image, REGIONS, COMPACTNESS, LEAST_SIDE, ITERATIONS)
    pixels, pi = normalize(image[None], "imagenet"), None
    if isinstance(network, DeepLabV3):
        maps = network.aspp(network.backbone(pixels))
        pi = region_means(network.classifier(maps).softmax(1)[0], regions)
    else:
        maps = network(pixels)
    features = region_features(maps[0], regions, PLACE_WEIGHT)
    return regions.cpu(), features.cpu(), None if pi is None else pi.cpu()
