"""From a normalised image to pixel scores: whole image, sliding window, several scales, flip."""

import argparse
import itertools
from collections.abc import Iterable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distributed import Ranks
from utils.safe.errors import InputError

Size = tuple[int, int]  # (height, width)
_MAX_SCALE = 8  # 64 times the pixels: more is a slip of the keyboard, and memory runs out
_WHOLE, _STRIP = 1 << 30, 1 << 23  # bytes of scores: made at once up to the first; of one strip


def resize(maps: Tensor, size: Size) -> Tensor:
    """Bilinear, align_corners=False; the tensor itself when it has that size."""
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


@torch.inference_mode()
def predict_logits(model: nn.Module, image: Tensor, size: Size, **options: Any) -> Tensor:
    """image (B,3,h,w), normalised -> scores (B,K,H,W) float32 at `size`, for their argmax.

    Options: scales=(1.0,), flip=False, window=None, stride=None.
    One scale without flip gives the raw logits, resized to the network's input size and from there
    to `size`. Several scales and/or flip give the mean of the softmax probabilities.
    window, stride (height, width): run over overlapping windows of the (scaled) image and average
    their logits.
    """
    count, passes = _passes(model, image, **options)
    return _scores(passes, count, size)


@torch.inference_mode()
def predict_labels(model: nn.Module, image: Tensor, size: Size, **options: Any) -> Tensor:
    """image (B,3,h,w), normalised -> uint8 (B,H,W) at `size`, the class of the highest score.

    The scores and the options are those of `predict_logits`. Scores that would take more than 1 GiB
    are made in strips of rows: then memory grows with the network's input, not with the picture.
    The labels are the same, but where two scores are equal up to rounding.
    """
    count, passes = _passes(model, image, **options)
    first = next(passes)
    row = first[..., 0, 0].numel() * size[1] * 4  # bytes
    if row * size[0] <= _WHOLE:
        return label_map(_scores(itertools.chain([first], passes), count, size))
    logits, height = [first, *passes], max(1, _STRIP // row)
    labels = image.new_empty((len(image), *size), dtype=torch.uint8)
    for top in range(0, size[0], height):
        strip = range(top, min(top + height, size[0]))
        labels[:, top : strip.stop] = label_map(_scores(logits, count, size, strip))
    return labels


def _passes(
    model: nn.Module,
    image: Tensor,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    window: Size | None = None,
    stride: Size | None = None,
) -> tuple[int, Iterator[Tensor]]:
    """Their number, and the logits of each at the size of the network's input."""
    if not scales or min(scales) <= 0:
        raise InputError(f"--scales must be one or more positive numbers, found {list(scales)}")
    pairs = [(scale, mirrored) for scale in scales for mirrored in (False, True)[: 1 + flip]]

    def run(scale: float, mirrored: bool) -> Tensor:
        height, width = (max(1, int(side * scale + 0.5)) for side in image.shape[-2:])
        x = resize(image, (height, width))
        x = x.flip(-1) if mirrored else x
        logits = (
            _whole(model, x) if window is None else _sliding(model, x, window, stride or window)
        )
        return logits.flip(-1) if mirrored else logits

    return len(pairs), itertools.starmap(run, pairs)


def _scores(passes: Iterable[Tensor], count: int, size: Size, rows: range | None = None) -> Tensor:
    """The scores at `size`, or these rows of them."""
    total = None
    for logits in passes:
        logits = resize(logits, size) if rows is None else _resize_rows(logits, size, rows)
        if count == 1:
            return logits
        probabilities = logits.softmax(1)
        total = probabilities if total is None else total + probabilities
    return total / count


def _resize_rows(maps: Tensor, size: Size, rows: range) -> Tensor:
    """These rows of `resize(maps, size)`, up to rounding."""
    height = maps.shape[-2]
    if maps.shape[-2:] == tuple(size):
        return maps[..., rows.start : rows.stop, :]
    # As F.interpolate finds its sources: a float32 scale, and one rounding at the end.
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


def label_map(scores: Tensor) -> Tensor:
    """(B,K,H,W) -> uint8 (B,H,W), the class of the highest score; the first one of equals.

    max also copies the scores, and still takes a third less time than argmax.
    """
    return scores.max(1).indices.to(torch.uint8)


def _whole(model: nn.Module, image: Tensor) -> Tensor:
    # Resizing in float32 whatever the precision of the network. With the scores of a pixel side by
    # side, resizing and the choice of the class take a third of the time.
    logits = model(image).float().contiguous(memory_format=torch.channels_last)
    return resize(logits, image.shape[-2:])


def _sliding(model: nn.Module, image: Tensor, window: Size, stride: Size) -> Tensor:
    if min(window) < 1 or min(stride) < 1 or stride[0] > window[0] or stride[1] > window[1]:
        raise InputError(f"--stride {list(stride)} must be within 1..--window {list(window)}")
    height, width = image.shape[-2:]
    total, count = 0, image.new_zeros(1, 1, height, width)
    for top in _starts(height, window[0], stride[0]):
        for left in _starts(width, window[1], stride[1]):
            bottom, right = min(top + window[0], height), min(left + window[1], width)
            logits = _whole(model, image[..., top:bottom, left:right])
            if isinstance(total, int):
                total = logits.new_zeros(*logits.shape[:2], height, width)
            total[..., top:bottom, left:right] += logits
            count[..., top:bottom, left:right] += 1
    return total / count


def _starts(length: int, window: int, stride: int) -> list[int]:
    """Starts of windows that cover 0..length; the last one is moved back to end at `length`."""
    last = max(length - window, 0)
    return [*range(0, last, stride), last]


def add_options(parser: argparse.ArgumentParser) -> None:
    """--scales (each 0 < s <= 8), --flip, --window, --stride and --bf16 for a script."""
    group = parser.add_argument_group("inference (default: the whole image once, float32)")
    group.add_argument(
        "--scales", type=_scale, nargs="+", default=[1.0], help="e.g. 0.75 1.0 1.25, averaged"
    )
    group.add_argument("--flip", action="store_true", help="average with the mirrored image")
    group.add_argument(
        "--window", type=int, nargs=2, metavar=("H", "W"), help="slide a window over the image"
    )
    group.add_argument(
        "--stride", type=int, nargs=2, metavar=("H", "W"), help="step of the window (its size)"
    )
    group.add_argument("--bf16", action="store_true", help="run the network in bfloat16")


def _scale(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= _MAX_SCALE:
        raise argparse.ArgumentTypeError(f"expected 0 < scale <= {_MAX_SCALE}, found {text}")
    return value


def options_from(arguments: argparse.Namespace) -> dict[str, Any]:
    """The keyword arguments of `predict_logits` that the command line asks for."""
    if arguments.stride and not arguments.window:
        raise InputError("--stride needs --window")
    return {
        "scales": tuple(arguments.scales),
        "flip": arguments.flip,
        "window": tuple(arguments.window) if arguments.window else None,
        "stride": tuple(arguments.stride) if arguments.stride else None,
    }


def progress_off(ranks: Ranks) -> bool | None:
    """tqdm's `disable`: a bar on rank 0 only, and only where standard error is a terminal."""
    return None if ranks.is_main else True
