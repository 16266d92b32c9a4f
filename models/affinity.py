"""AffinityNet (PSA): affinities of neighbouring cells, their labels and loss, and the walk.

Formulas after jiwoon-ahn/psa @9493e59 (MIT); baselines/psa.py trains with them.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.labels import IGNORE_INDEX
from datasets.transforms import normalize
from models.inference import resize
from models.random_walk import inner, neighbours, transition, walk

# From tool/imutils.py, network/resnet38_aff.py, infer_aff.py.
STRIDE, RADIUS = 8, 5
WALK_BETA, WALK_STEPS = 8, 2**8
EPS = 1e-5


def summed_views(outputs: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Sum of CAMs (C,.,.) at `size` (h,w); the views are each scale's image and mirror image."""
    resized = [resize(one[None], size)[0] for one in outputs]
    return sum(one.flip(-1) if i % 2 else one for i, one in enumerate(resized))


def affinity_labels(low: Tensor, high: Tensor | None = None) -> Tensor:
    """Labels uint8 (h,w) of channels (k+1,h,w): the highest, ignored where that is 0 or all are 0.

    high: the channels with a surer background; it is 0 where they have it. Without them there is no
    label 0.
    """
    highest = low.amax(0)
    labels = low.argmax(0)
    labels = labels.masked_fill(labels == 0, IGNORE_INDEX)
    if high is not None:
        labels = labels.masked_fill(high.argmax(0) == 0, 0)
        highest = torch.maximum(highest, high.amax(0))
    return labels.masked_fill(highest < EPS, IGNORE_INDEX).to(torch.uint8)


def pair_ends(size: tuple[int, int], radius: int = RADIUS) -> tuple[Tensor, Tensor]:
    """Numbers of the cells from which pairs start (n), and of those where they end (P*n)."""
    cells = torch.arange(size[0] * size[1]).view(size)
    ends = [inner(cells, radius, offset).flatten() for offset in neighbours(radius)]
    return inner(cells, radius).flatten(), torch.cat(ends)


def pair_labels(labels: Tensor, radius: int = RADIUS) -> tuple[Tensor, Tensor, Tensor]:
    """bg_pos, fg_pos and neg (...,P,n) of labels (...,h,w): pairs of the background, of a class,
    and of different labels; none with an ignored end."""
    start = inner(labels, radius).flatten(-2)[..., None, :]
    ends = [inner(labels, radius, offset).flatten(-2) for offset in neighbours(radius)]
    end = torch.stack(ends, -2)
    valid = (start < IGNORE_INDEX) & (end < IGNORE_INDEX)
    same = valid & (start == end)
    return same & (start == 0), same & (start != 0), valid & (start != end)


def affinities(features: Tensor, radius: int = RADIUS) -> Tensor:
    """a_ij = exp(-mean over channels |f_i - f_j|) of features (B,D,h,w): (B,P,n)."""
    start = inner(features, radius)
    distances = [
        (start - inner(features, radius, offset)).abs().mean(1) for offset in neighbours(radius)
    ]
    return torch.stack(distances, 1).flatten(2).neg().exp()


def affinity_losses(affinity: Tensor, labels: Sequence[Tensor], background: bool) -> dict:
    """L_bg/4 + L_fg/4 + L_neg/2, without a background L_fg/2 + L_neg/2; the terms for the log.

    labels: bg_pos, fg_pos and neg, as affinity (B,P,n). L_x is the mean of -log(a + 1e-5), or of
    -log(1 + 1e-5 - a) for neg, over the pairs of x; 0 where there are none.
    """
    near, far = -(affinity + EPS).log(), -(1 + EPS - affinity).log()
    terms = [
        (values * label).sum() / (label.sum() + EPS)
        for values, label in zip((near, near, far), labels, strict=True)
    ]
    shares = (0.25, 0.25, 0.5) if background else (0.0, 0.5, 0.5)
    loss = sum(share * term for share, term in zip(shares, terms, strict=True))
    names = ("loss_background", "loss_class", "loss_negative")
    return {"loss": loss} | dict(zip(names, (t.detach() for t in terms), strict=True))


def as_planes(affinity: Tensor, size: tuple[int, int], radius: int = RADIUS) -> Tensor:
    """Affinities (P,n) of pairs on a map of `size` as `transition` reads them: (P,h,w)."""
    height, width = max(0, size[0] - radius + 1), max(0, size[1] - 2 * radius + 2)
    margin = radius - 1
    return F.pad(affinity.view(len(affinity), height, width), (margin, margin, 0, margin))


def to_multiple(maps: Tensor) -> Tensor:
    """maps (...,h,w) with zeros on the right and below, up to multiples of STRIDE."""
    height, width = maps.shape[-2:]
    return F.pad(maps, (0, -width % STRIDE, 0, -height % STRIDE))


def pooled(maps: Tensor) -> Tensor:
    """Means of blocks of STRIDE x STRIDE of maps (C,h,w), zeros around them: (C,h/8,w/8)."""
    return F.avg_pool2d(to_multiple(maps)[None], STRIDE)[0]


def walked_scores(
    low: Tensor, planes: Tensor, size: tuple[int, int], beta: float, steps: int, radius: int
) -> tuple[Tensor, Tensor]:
    """`pooled` maps (C,h,w) after the walk, and these at `size`: (C,h,w), (C,H,W)."""
    matrix = transition(planes, neighbours(radius), beta)
    walked = walk(low, matrix, steps)
    large = resize(walked[None], tuple(STRIDE * side for side in walked.shape[-2:]))[0]
    return walked, large[:, : size[0], : size[1]]


@torch.no_grad()
def walk_maps(network: nn.Module, image: Tensor, maps: Tensor) -> Tensor:
    """Maps (C,h,w) of an image uint8 (3,h,w) after the walk: (C,h,w)."""
    features = network(to_multiple(normalize(image[None], "imagenet")))
    low = pooled(maps)
    planes = as_planes(affinities(features)[0], low.shape[-2:])
    size = tuple(image.shape[-2:])
    return walked_scores(low, planes, size, WALK_BETA, WALK_STEPS, RADIUS)[1]
