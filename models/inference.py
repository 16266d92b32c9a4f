"""Pixel scores and label maps of a normalised image: several scales, mirrored, in parts.

A network and MaskCLIP are both called as a `Score`. Sizes are (height, width).
"""

import argparse
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets.transforms import normalize
from utils.cli import grid, number
from utils.config import Config, load_config
from utils.distributed import autocast
from utils.safe.errors import InputError

Size = tuple[int, int]
Score = Callable[[Tensor, Size], Tensor]  # view (B,3,h,w), size (H,W) -> its scores (B,K,H,W)
_MAX_SCALE = 8  # 64 times the pixels; more is a typing error and exhausts memory
_WHOLE, _STRIP = 1 << 30, 1 << 23  # bytes of scores: at most to make at once; of one strip


def predictions(
    model: nn.Module,
    samples: Iterable[dict[str, Any]],
    device: torch.device,
    options: dict[str, Any],
    bf16: bool = False,
    probability: bool = False,
) -> Iterator[tuple[dict[str, Any], Tensor, Tensor | None]]:
    """Yield each sample with its label map, uint8 (H,W) on `device`, at the original size.

    samples: of an `EvaluationSet`. options: see `multi_view_scores`. bf16: run the network in
    bfloat16. The third item is the map of `predict_probability`, (H,W), if `probability`, or None.
    """
    for sample in samples:
        image = normalize(sample["image"][None].to(device), "imagenet")
        size = tuple(sample["size"])
        with autocast(device, "bf16" if bf16 else "fp32"):
            if probability:
                labels, sure = predict_probability(model, image, size, **options)
            else:
                labels, sure = predict_labels(model, image, size, **options), [None]
        yield sample, labels[0], sure[0]


def predict_logits(model: nn.Module, image: Tensor, size: Size, **options: Any) -> Tensor:
    """image (B,3,h,w), normalised -> scores (B,K,H,W) float32 of a network at `size`.

    For options see `multi_view_scores`. One view gives the raw logits, several give the mean of
    their probabilities.
    """
    return multi_view_scores(network_score(model), image, size, softmax=True, **options)


@torch.inference_mode()
def predict_labels(model: nn.Module, image: Tensor, size: Size, **options: Any) -> Tensor:
    """image (B,3,h,w), normalised -> uint8 (B,H,W) at `size`, the class of the highest score.

    Uses the scores of `predict_logits`. Scores of more than 1 GiB are made in strips of rows, so
    that memory grows with the network's input, not with the image. The labels are the same, except
    where two scores are equal up to rounding.
    """
    return _reduced(model, image, size, lambda scores, _: (label_map(scores),), options)[0]


@torch.inference_mode()
def predict_probability(
    model: nn.Module, image: Tensor, size: Size, **options: Any
) -> tuple[Tensor, Tensor]:
    """The map of `predict_labels`, and the probability of each label, float32 (B,H,W).

    It is the maximum of the softmax of the logits; of several views, the maximum of the mean of
    their probabilities.
    """

    def reduce(scores: Tensor, views: int) -> tuple[Tensor, Tensor]:
        return label_map(scores), (scores.softmax(1) if views == 1 else scores).amax(1)

    return _reduced(model, image, size, reduce, options)


def _reduced(
    model: nn.Module,
    image: Tensor,
    size: Size,
    reduce: Callable[[Tensor, int], tuple[Tensor, ...]],
    options: dict[str, Any],
) -> tuple[Tensor, ...]:
    """Maps (B,H,W) that `reduce` makes of scores (B,K,h,W) and the number of views, by strips."""
    count, views = _views(network_score(model), image, size, **options)
    first = next(views)
    row = first[..., 0, 0].numel() * size[1] * 4  # bytes
    if row * size[0] <= _WHOLE:
        return reduce(_mean(count, itertools.chain([first], views), size), count)
    logits, height = [first, *views], max(1, _STRIP // row)
    strips = (range(top, min(top + height, size[0])) for top in range(0, size[0], height))
    maps: tuple[Tensor, ...] = ()  # filled in place: small results between large ones leave holes
    for strip in strips:
        parts = reduce(_mean(count, logits, size, strip), count)
        maps = maps or tuple(part.new_empty(len(part), *size) for part in parts)
        for whole, part in zip(maps, parts, strict=True):
            whole[:, strip.start : strip.stop] = part
    return maps


@torch.inference_mode()
def multi_view_scores(
    score: Score, image: Tensor, size: Size, softmax: bool = False, **options: Any
) -> Tensor:
    """Mean over several views of an image: normalised (B,3,h,w) -> (B,K,H,W) at `size`.

    scales=(1.0,): sizes of the image, relative to its own. flip=False: also mirrored.
    window=None, stride=window: score overlapping windows of the scaled image and average these.
    grid=None: score grid=(rows, columns) crops, each scaled by itself, and put them together (Fig.
    3 (c) of the paper). softmax: average probabilities, unless there is only one view.
    """
    count, views = _views(score, image, size, **options)
    return _mean(count, views, size, softmax=softmax)


def network_score(model: nn.Module) -> Score:
    """The `Score` of a network that gives logits (B,K,h',w') of any size: resized, in float32."""

    def score(view: Tensor, size: Size) -> Tensor:
        # With the scores of a pixel next to each other in memory, resizing and the arg max take a
        # third of the time.
        return resize(model(view).float().contiguous(memory_format=torch.channels_last), size)

    return score


def scaled(size: Size, scale: float) -> Size:
    """(height, width) times `scale`, rounded, at least 1."""
    return tuple(max(1, int(side * scale + 0.5)) for side in size)


def resize(maps: Tensor, size: Size) -> Tensor:
    """Bilinear, align_corners=False; the tensor itself when it has that size."""
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


def resize_corners(maps: Tensor, size: Size) -> Tensor:
    """Bilinear, align_corners=True, as in the networks and losses of SEAM and 1-Stage."""
    return F.interpolate(maps, size, mode="bilinear", align_corners=True)


def label_map(scores: Tensor) -> Tensor:
    """(B,K,H,W) -> uint8 (B,H,W), the class of the highest score; the first of equals.

    max, which also copies the scores, takes a third less time than argmax.
    """
    return scores.max(1).indices.to(torch.uint8)


def _views(
    score: Score,
    image: Tensor,
    size: Size,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    window: Size | None = None,
    stride: Size | None = None,
    grid: Size | None = None,
) -> tuple[int, Iterator[Tensor]]:
    """Number of views, and the scores of each, mirrored back.

    The scores have `size` with a grid, else the size of the scaled image.
    """
    if not scales or min(scales) <= 0:
        raise InputError(f"--scales must be one or more positive numbers, found {list(scales)}")
    pairs = [(scale, is_mirrored) for scale in scales for is_mirrored in (False, True)[: 1 + flip]]

    def run(scale: float, is_mirrored: bool) -> Tensor:
        if grid is not None:
            view = image.flip(-1) if is_mirrored else image
            scores = _grid_scores(score, view, size, scale, grid)
        else:
            view = resize(image, scaled(image.shape[-2:], scale))
            view = view.flip(-1) if is_mirrored else view
            if window is None:
                scores = score(view, view.shape[-2:])
            else:
                scores = window_scores(score, view, window, stride)
        return scores.flip(-1) if is_mirrored else scores

    return len(pairs), itertools.starmap(run, pairs)


def _mean(
    count: int,
    views: Iterable[Tensor],
    size: Size,
    rows: range | None = None,
    softmax: bool = True,
) -> Tensor:
    """Mean of the views' scores at `size`, or of some rows; raw scores of a single view."""
    total = None
    for scores in views:
        scores = resize(scores, size) if rows is None else _resize_rows(scores, size, rows)
        if count == 1:
            return scores
        scores = scores.softmax(1) if softmax else scores
        total = scores if total is None else total + scores
    return total / count


def _resize_rows(maps: Tensor, size: Size, rows: range) -> Tensor:
    """Some rows of `resize(maps, size)`, up to rounding."""
    height = maps.shape[-2]
    if maps.shape[-2:] == tuple(size):
        return maps[..., rows.start : rows.stop, :]
    # F.interpolate computes its sources so: a float32 scale, and one rounding at the end.
    scale = (torch.tensor(float(height)) / size[0]).double()
    middle = torch.arange(rows.start, rows.stop, dtype=torch.float64) + 0.5
    place = (middle * scale - 0.5).float().clamp(min=0)
    above = place.long().clamp(max=height - 1)
    below = (above + 1).clamp(max=height - 1)
    first, last = int(above[0]), int(below[-1])
    wide = resize(maps[..., first : last + 1, :], (last + 1 - first, size[1]))
    weight = (place - above)[:, None].to(maps.device)
    above, below = (lines.sub(first).to(maps.device) for lines in (above, below))
    upper, lower = wide.index_select(-2, above), wide.index_select(-2, below)
    return upper.mul_(1 - weight).add_(lower.mul_(weight))


def windows(
    image: Tensor, window: Size, stride: Size | None = None, batch: int = 1
) -> Iterator[tuple[list[Any], Tensor]]:
    """Overlapping windows of image (B,3,h,w): the places of `batch` of them, and their pixels.

    A window starts every `stride` pixels (default: the window's size); the last one of an axis is
    moved back to end with the image. An image smaller than the window is one window of its own
    size. The pixels (n*B,3,*) are those of all images at the first place, then at the second, and
    so on. Raises InputError for a stride outside 1..window.
    """
    stride = stride or window
    if min(window) < 1 or min(stride) < 1 or stride[0] > window[0] or stride[1] > window[1]:
        raise InputError(
            f"--stride {list(stride)} must be within 1..--window {list(window)} (a teacher's "
            "options stride and window)"
        )
    size = image.shape[-2:]
    height, width = map(min, window, size)
    places = [
        (..., slice(top, top + height), slice(left, left + width))
        for top, left in itertools.product(*map(_starts, size, window, stride))
    ]
    for first in range(0, len(places), batch):
        some = places[first : first + batch]
        yield some, torch.cat([image[place] for place in some])


def window_scores(
    score: Score, image: Tensor, window: Size, stride: Size | None = None, batch: int = 1
) -> Tensor:
    """Mean of the scores of overlapping `windows`: image (B,3,h,w), normalised -> (B,K,h,w).

    `batch` windows of every image are scored at once.
    """
    total, count = 0, image.new_zeros(1, 1, *image.shape[-2:])
    for places, pixels in windows(image, window, stride, batch):
        scores = score(pixels, pixels.shape[-2:])
        if isinstance(total, int):
            total = scores.new_zeros(len(image), scores.shape[1], *image.shape[-2:])
        for place, of_window in zip(places, scores.split(len(image)), strict=True):
            total[place] += of_window
            count[place] += 1
    return total / count


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Starts of windows that cover 0..length; the last one is moved back to end at `length`."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def _grid_scores(score: Score, view: Tensor, size: Size, scale: float, grid: Size) -> Tensor:
    """Scores (B,K,*size) of a view cut into grid=(rows, columns) crops, each scaled by itself."""
    rows = []
    for vertical, height in _cells(view.shape[-2], size[0], grid[0]):
        row = []
        for horizontal, width in _cells(view.shape[-1], size[1], grid[1]):
            crop = view[..., vertical, horizontal]
            crop = resize(crop, tuple(max(1, round(n * scale)) for n in crop.shape[-2:]))
            row.append(score(crop, (height, width)))
        rows.append(torch.cat(row, dim=-1))
    return torch.cat(rows, dim=-2)


def _cells(side: int, out_side: int, parts: int) -> list[tuple[slice, int]]:
    """`parts` equal pieces of one axis: the slice of the view, and the length of its scores."""
    edges = [(side * i // parts, out_side * i // parts) for i in range(parts + 1)]
    return [(slice(a, b), out_b - out_a) for (a, out_a), (b, out_b) in pairwise(edges)]


def add_options(parser: argparse.ArgumentParser) -> None:
    """--scales (each 0 < s <= 8), --flip, --window, --stride and --bf16 for a script."""
    group = parser.add_argument_group("inference (default: the whole image once, float32)")
    group.add_argument(
        "--scales",
        type=number(_MAX_SCALE),
        nargs="+",
        default=[1.0],
        help="e.g. 0.75 1 1.25, averaged",
    )
    group.add_argument("--flip", action="store_true", help="average with the mirrored image")
    add_windows(group)
    group.add_argument("--bf16", action="store_true", help="run the network in bfloat16")


def add_windows(parser: argparse._ActionsContainer, of_teacher: bool = False) -> None:
    """--window H W and --stride H W for a script: lists of two numbers, or None."""
    own = (" instead of the teacher's", "; without --window: for the teacher's windows")
    window, stride = own if of_teacher else ("", "")
    pair = {"type": int, "nargs": 2, "metavar": ("H", "W")}
    parser.add_argument("--window", **pair, help=f"slide a window over the image{window}")
    parser.add_argument("--stride", **pair, help=f"step of the window (default: its size{stride})")


def add_views(parser: argparse.ArgumentParser) -> None:
    """--ratio, --grid, --flip, --window and --stride for a script that runs a teacher."""
    add = parser.add_argument
    add("--ratio", type=number(16), nargs="+", default=[1.0], help="resize ratios, averaged")
    add("--grid", type=grid, default=(1, 1), metavar="RxC", help="crops, scored one by one")
    add_windows(parser, of_teacher=True)
    add("--flip", action="store_true", help="average with the scores of the mirrored image")


def load_with_windows(arguments: argparse.Namespace) -> Config:
    """The config of a script, with --window and --stride for the teacher of stored masks.

    --window alone makes the stride equal to the window; --stride alone keeps the teacher's windows.
    Raises InputError.
    """
    config = load_config(arguments.config, arguments.overrides)
    stride = arguments.stride or arguments.window
    if not stride:
        return config
    if not (arguments.window or config.stored_teacher.window):
        raise InputError("--stride needs --window: the teacher of the masks has no windows")
    window = arguments.window or list(config.stored_teacher.window)
    settings = [f"teacher.stored.window={window}", f"teacher.stored.stride={stride}"]
    try:
        return load_config(arguments.config, arguments.overrides + settings)
    except InputError as error:
        raise InputError(
            f"{error} (--window sets teacher.stored.window, --stride sets teacher.stored.stride)"
        ) from None


def options_from(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `multi_view_scores` that the command line asks for."""
    if arguments.stride and not arguments.window:
        raise InputError("--stride needs --window")
    return {
        "scales": tuple(arguments.scales),
        "flip": arguments.flip,
        "window": tuple(arguments.window) if arguments.window else None,
        "stride": tuple(arguments.stride) if arguments.stride else None,
    }
