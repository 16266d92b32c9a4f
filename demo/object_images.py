"""Images of one object each for an image classifier: stock photographs, cropped and scaled down.

The label of an image is the class that its photograph was drawn for; no mask is used.
"""

import math
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets import photometric
from datasets.doctor.inspection import parallel
from demo.make_scenes import render_object
from demo.scenes.canvas import CLASSES
from utils.seed import derive

PHOTOGRAPH = 96  # pixels: height and width of a stock photograph
CANVAS = 64  # pixels: height and width of a training image
_SIZES = (20, 96)  # pixels of a photograph on the canvas, whose edge cuts the larger ones


def photographs(
    count: int, seed: int, purpose: int, title: str, num_workers: int = 0
) -> tuple[Tensor, Tensor]:
    """`count` photographs, one class after another: uint8 (N,3,PHOTOGRAPH,PHOTOGRAPH), ids (N,).

    `title` names the progress bar; `num_workers` processes draw, 0: only this one. Photograph i
    depends on (seed, purpose, i) only.
    """
    images = torch.empty(count, 3, PHOTOGRAPH, PHOTOGRAPH, dtype=torch.uint8)
    draw = partial(_photograph, seed, purpose)
    for i, image in enumerate(parallel(draw, range(count), num_workers, title)):
        images[i] = torch.from_numpy(image).permute(2, 0, 1)
    return images, torch.arange(count) % len(CLASSES)


def _photograph(seed: int, purpose: int, index: int) -> np.ndarray:
    rng = np.random.default_rng(derive(seed, purpose, index))
    return render_object(CLASSES[index % len(CLASSES)], rng, (PHOTOGRAPH, PHOTOGRAPH))


def compose(photograph: Tensor, ground: Tensor, rng: np.random.Generator) -> Tensor:
    """A training image uint8 (3,CANVAS,CANVAS): `photograph` on a blurred `ground`, at random."""
    sides = PHOTOGRAPH * math.sqrt(rng.uniform(0.5, 1)) * np.array([1, rng.uniform(0.8, 1)])
    height, width = (int(side) for side in rng.permutation(sides))
    top, left = rng.integers(PHOTOGRAPH - height + 1), rng.integers(PHOTOGRAPH - width + 1)
    crop = photograph[:, top : top + height, left : left + width]
    crop = distort(crop.flip(-1) if rng.random() < 0.5 else crop, rng)
    size = int(math.exp(rng.uniform(*np.log(_SIZES))))  # as many of 20..30 as of 60..90
    low, high = sorted((0, CANVAS - size))
    return place(crop, ground, size, *rng.integers(low, high + 1, size=2))


def place(photograph: Tensor, ground: Tensor, size: int, top: int, left: int) -> Tensor:
    """`photograph`, resized to size x size, at (top, left) on a blurred `ground`.

    Parts outside the canvas are cut. Resizing averages, like the scenes' supersampling.
    """
    canvas, small = _resize(_resize(ground, 4), CANVAS), _resize(photograph, size)
    padding = (left, CANVAS - size - left, top, CANVAS - size - top)  # negative values cut
    inside = F.pad(torch.ones(size, size, dtype=torch.bool), padding, value=False)
    return torch.where(inside, F.pad(small, padding), canvas)


def _resize(image: Tensor, size: int) -> Tensor:
    return F.interpolate(image[None], (size, size), mode="bilinear", antialias=True)[0]


def distort(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Change brightness, contrast, saturation and hue, each with probability 0.5.

    The ranges are those of the training's photometric distortion.
    """
    for name, value in (
        ("brightness", rng.uniform(-32, 32)),
        ("contrast", rng.uniform(0.5, 1.5)),
        ("saturation", rng.uniform(0.5, 1.5)),
        ("hue", int(rng.integers(-18, 18))),
    ):
        if rng.random() < 0.5:
            image = getattr(photometric, f"adjust_{name}")(image, value)
    return image
