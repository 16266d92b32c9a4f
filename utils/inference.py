"""From a normalised image to pixel scores: whole image, sliding window, several scales, flip."""

import argparse
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.distributed import Ranks
from utils.errors import InputError

Size = tuple[int, int]  # (height, width)
_MAX_SCALE = 8  # 64 times the pixels: more is a slip of the keyboard, and memory runs out


def resize(maps: Tensor, size: Size) -> Tensor:
    """Bilinear, align_corners=False; the tensor itself when it has that size."""
    if maps.shape[-2:] == tuple(size):
        return maps
    return F.interpolate(maps, size, mode="bilinear", align_corners=False)


@torch.inference_mode()
def predict_logits(
    model: nn.Module,
    image: Tensor,
    size: Size,
    scales: tuple[float, ...] = (1.0,),
    flip: bool = False,
    window: Size | None = None,
    stride: Size | None = None,
) -> Tensor:
    """image (B,3,h,w), normalised -> scores (B,K,H,W) float32 at `size`, for their argmax.

    One scale without flip gives the raw logits, resized to the network's input size and from there
    to `size`. Several scales and/or flip give the mean of the softmax probabilities.
    window, stride: run over overlapping windows of the (scaled) image and average their logits.
    """
    passes = [
        (scale, flipped) for scale in scales for flipped in ((False, True) if flip else (False,))
    ]
    if not passes or min(scales) <= 0:
        raise InputError(f"--scales must be one or more positive numbers, found {list(scales)}")
    total = None
    for scale, flipped in passes:
        height, width = (max(1, int(side * scale + 0.5)) for side in image.shape[-2:])
        x = resize(image, (height, width))
        x = x.flip(-1) if flipped else x
        logits = (
            _whole(model, x) if window is None else _sliding(model, x, window, stride or window)
        )
        logits = resize(logits.flip(-1) if flipped else logits, size)
        if len(passes) == 1:
            return logits
        probabilities = logits.softmax(1)
        total = probabilities if total is None else total + probabilities
    return total / len(passes)


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
