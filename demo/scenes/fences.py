"""Fences: planks, pickets, railings and panels."""

import math

import numpy as np

from demo.scenes.canvas import FENCE, Canvas, Color
from demo.scenes.walls import Face

FENCE_COLORS = (
    (130, 96, 66),
    (220, 218, 210),
    (52, 54, 56),
    (120, 116, 108),
    (70, 90, 72),
    (158, 80, 60),
)


def fence(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    z: tuple[float, float],
    style: int,
    rgb: Color,
    high: float,
) -> None:
    """A piece of fence along the street at x: planks, pickets, a railing or panels."""
    shade = canvas.light.facing(-math.copysign(1, x), 0)
    face = Face(canvas, (x, z[0]), (0, 1), z[1] - z[0], high, sum(z) / 2, shade)
    paint_fence(face, rng, style, rgb)


def paint_fence(face: Face, rng: np.random.Generator, style: int, rgb: Color) -> None:
    """Fill a wall face with a fence of style 0 to 3."""
    if not face.is_visible:
        return
    long, high = face.long, face.high
    tones = [face.fill(rgb, t, FENCE) for t in rng.uniform(0.85, 1.1, 12).tolist()]
    dark = face.fill(rgb, 0.7, FENCE)
    step, wide = ((0.2, 0.17), (0.2, 0.12), (0.14, 0.035), (2.0, 0.12))[style]
    low = 0.0 if style in (0, 3) else 0.08
    is_open = style in (1, 2) and step * face.scale > 1.5  # the background is visible through it
    if is_open:
        u, v = np.array([0.0, long, long, 0.0]), np.array([low, low, high, high])
        face.canvas.label_only(list(map(tuple, face.place(u, v).tolist())), FENCE)
        face.add([(0, 0.2, long, 0.28), (0, high - 0.2, long, high - 0.1)], [dark])
    else:
        face.add([(0, 0, long, high)], [dark if style == 0 else tones[0]])
    if style == 3:
        v = np.arange(0.4, high, 0.45)
        face.add(np.stack((v * 0, v, v * 0 + long, v + 0.05), -1), [dark])
    if step * face.scale > 1.5:
        u = np.arange(0, long, step)
        face.add(np.stack((u, u * 0 + low, u + wide, u * 0 + high), -1), tones)
    u = np.arange(0, long + 0.1, 2.5)
    face.add(np.stack((u - 0.06, u * 0, u + 0.06, u * 0 + high * 1.05), -1), [dark])
    face.paint()
