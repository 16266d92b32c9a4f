"""Dense CRF (Krähenbühl and Koltun 2011): exact mean field for small images, without a package.

    Q <- softmax(-U + sum over kernels m of w_m K_m Q),  K = D^-1/2 k D^-1/2,
    k_ij = exp(-|f_i - f_j|^2 / 2), i = j included, D = row sums of k

`permutohedral` is the same with the approximate filter of the package pydensecrf2 (import name
pydensecrf), which is needed only there. It takes images of any size; labels differ from the exact
ones in about 1 % of the pixels.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from utils.safe.errors import InputError, is_out_of_memory, needs_package

STEPS = 10  # iterations of all methods below
_STORED = 1 << 29  # bytes of a kernel matrix that is kept over the iterations, else made again
_BLOCK = 1 << 25  # bytes of a block of its rows


class Kernel(NamedTuple):
    """Weight w and the standard deviations of the features: pixels, and levels of colour.

    colour None: a kernel of the positions alone. A number for each axis (y, x) or one for both.
    """

    weight: float
    position: float | tuple[float, float]
    colour: float | None = None


# Of the authors: CLIP-ES; the labels of IRN, AMN and CLIMS; SEC in training, on a grid of 1/12 of
# the image (here in its pixels).
CLIP_ES = (Kernel(3, 1), Kernel(4, 67, 3))
IRN_LABELS = (Kernel(3, 3), Kernel(10, 50, 5))
SEC_TRAINING = (Kernel(3, 3 / 12), Kernel(10, 80 / 12, 13))


def probability_unary(probabilities: Tensor) -> Tensor:
    """U = -log of probabilities (K,h,w), clipped to [1e-5, 1]; they need not sum to 1."""
    return -probabilities.clamp(1e-5, 1).log()


def label_unary(labels: Tensor, count: int, certainty: float = 0.7) -> Tensor:
    """U (count,h,w) of a label map (h,w): -log certainty at the label, the rest is shared.

    The other labels get -log((1 - certainty) / (count - 1)). count >= 2.
    """
    is_label = torch.arange(count, device=labels.device)[:, None, None] == labels
    values = labels.new_tensor([(1 - certainty) / (count - 1), certainty], dtype=torch.float32)
    return -values.log()[is_label.long()]


def resized_kernels(kernels: Sequence[Kernel], scale: float) -> tuple[Kernel, ...]:
    """The kernels for an image at `scale` times its size."""
    scaled = [[s * scale for s in _pair(kernel.position)] for kernel in kernels]
    return tuple(k._replace(position=tuple(s)) for k, s in zip(kernels, scaled, strict=True))


@torch.no_grad()
def mean_field(
    unary: Tensor, image: Tensor, kernels: Sequence[Kernel], steps: int = STEPS
) -> Tensor:
    """Marginals Q (K,h,w) of unaries U (K,h,w) and an image (3,h,w) in levels 0 to 255.

    It computes in the precision of U: after ten steps float32 is up to 1e-4 from float64.

    Time grows with the square of n = h w, in float32 memory too up to n = 11585 (the kernels are
    summed once, 4 n^2 bytes); larger images take 32 MiB and make the kernels again, block by block,
    in each step. Raises InputError where sizes differ or memory does not suffice.
    """
    if unary.shape[-2:] != image.shape[-2:]:
        raise InputError(
            f"dense CRF: the unaries are {unary.shape[-2]}x{unary.shape[-1]}, the image is "
            f"{image.shape[-2]}x{image.shape[-1]}; resize one of them first"
        )
    try:
        return _mean_field(unary, image.to(unary.dtype), kernels, steps)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(
            f"no memory is left for a dense CRF of {unary.shape[-2]}x{unary.shape[-1]} pixels "
            f"({str(error).splitlines()[0]}); use a smaller grid"
        ) from error


def _mean_field(unary: Tensor, image: Tensor, kernels: Sequence[Kernel], steps: int) -> Tensor:
    energy = unary.flatten(1).T  # (n,K)
    features = [_features(image, kernel) for kernel in kernels]
    roots = [_root_of_row_sums(feature) for feature in features]
    weights = [kernel.weight for kernel in kernels]

    def blocks() -> Iterator[Tensor]:
        """Rows of sum over m of w_m K_m, each (rows,n)."""
        for rows in _rows(len(energy)):
            total = energy.new_zeros(rows.stop - rows.start, len(energy))
            for weight, feature, root in zip(weights, features, roots, strict=True):
                block = _kernel(feature[rows], feature).mul_(root).mul_(root[rows, None])
                total.add_(block, alpha=weight)
            yield total

    bytes_needed = energy.element_size() * len(energy) ** 2
    stored = [*blocks()] if bytes_needed <= _STORED else None
    marginals = (-energy).softmax(1)
    for _ in range(steps):
        message = torch.cat([block @ marginals for block in stored or blocks()])
        marginals = (message - energy).softmax(1)
    return marginals.T.reshape(unary.shape).contiguous()


def _features(image: Tensor, kernel: Kernel) -> Tensor:
    """f (n,2 or 5) of an image (3,h,w): y, x and colours in standard deviations of the kernel."""
    axes = [torch.arange(side).to(image) for side in image.shape[-2:]]
    rows = [
        place.flatten() / std
        for place, std in zip(
            torch.meshgrid(*axes, indexing="ij"), _pair(kernel.position), strict=True
        )
    ]
    if kernel.colour is not None:
        rows += [*(image.flatten(1) / kernel.colour)]
    return torch.stack(rows, dim=1)


def _kernel(some: Tensor, features: Tensor) -> Tensor:
    """k (m,n) of the features (m,F) and (n,F)."""
    squares = torch.cdist(some, features, compute_mode="donot_use_mm_for_euclid_dist").square_()
    return squares.mul_(-0.5).exp_()


def _root_of_row_sums(features: Tensor) -> Tensor:
    """D^-1/2 (n)."""
    sums = [_kernel(features[rows], features).sum(1) for rows in _rows(len(features))]
    return (torch.cat(sums) + 1e-20).rsqrt()


def _rows(count: int) -> Iterator[slice]:
    height = max(1, _BLOCK // (4 * count))
    return (slice(top, min(top + height, count)) for top in range(0, count, height))


def _pair(value: float | tuple[float, float]) -> tuple[float, float]:
    return value if isinstance(value, tuple) else (value, value)


def permutohedral(
    unary: Tensor, image: Tensor, kernels: Sequence[Kernel], steps: int = STEPS
) -> Tensor:
    """`mean_field` by pydensecrf2, approximate and on the CPU. Raises InputError without it."""
    install = "pydensecrf2; the exact mean field needs none"
    with needs_package("the approximate dense CRF", install):
        from pydensecrf.densecrf import DenseCRF2D
    count, height, width = unary.shape
    crf = DenseCRF2D(width, height, count)
    crf.setUnaryEnergy(np.ascontiguousarray(unary.flatten(1).float().cpu().numpy()))
    pixels = image.permute(1, 2, 0).byte().cpu().numpy().copy(order="C")
    for kernel in kernels:
        position = _pair(kernel.position)[::-1]  # x first
        if kernel.colour is None:
            crf.addPairwiseGaussian(sxy=position, compat=kernel.weight)
        else:
            crf.addPairwiseBilateral(
                sxy=position, srgb=kernel.colour, rgbim=pixels, compat=kernel.weight
            )
    marginals = np.array(crf.inference(steps), np.float32)
    return torch.from_numpy(marginals).reshape(count, height, width).to(unary.device)
