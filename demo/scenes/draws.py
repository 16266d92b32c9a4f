"""Random choices, colours and noise for the synthetic scenes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from demo.scenes.canvas import Color, Point


def pick(rng: np.random.Generator, options: Sequence) -> Any:
    """One of the options (rng.choice is slow and turns them into arrays)."""
    return options[int(rng.random() * len(options))]


def vary(rng: np.random.Generator, rgb: Color, amount: float = 0.12) -> list[float]:
    """A colour near `rgb`: brightness varies by +-`amount`, each channel by a third of it."""
    gain, *own = (2 * rng.random(4) - 1).tolist()
    return [c * (1 + amount * gain) * (1 + amount / 3 * s) for c, s in zip(rgb, own, strict=True)]


def disc(x: float, z: float, radius: float, stretch: float = 1.0) -> list[Point]:
    """A slightly uneven circle on the ground, `stretch` times as wide as deep."""
    turns = [2 * math.pi * i / 14 for i in range(14)]
    radii = [radius * (1 + 0.1 * math.sin(5 * t + x)) for t in turns]
    return [
        (x + r * stretch * math.cos(t), z + r * math.sin(t))
        for t, r in zip(turns, radii, strict=True)
    ]


def fractal(rng: np.random.Generator, size: tuple[int, int], cells: int) -> np.ndarray:
    """Smooth noise of several scales, the coarsest with `cells` per row: float32 (h,w) with mean 0
    and standard deviation 1."""
    total = np.zeros(size, np.float32)
    weight = 1.0
    while cells < size[1]:
        rows = max(2, cells * size[0] // size[1])
        coarse = Image.fromarray(rng.standard_normal((rows, cells), dtype=np.float32))
        total += weight * np.asarray(coarse.resize(size[::-1], Image.Resampling.BILINEAR))
        weight *= 0.6
        cells *= 2
    return (total - total.mean()) / total.std()
