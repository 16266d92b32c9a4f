"""Trees and hedges, made of tufts of leaves."""

import numpy as np

from demo.scenes.board import Board
from demo.scenes.canvas import TREE, Canvas, Color
from demo.scenes.draws import disc, pick, vary

_LEAVES = ((62, 92, 38), (78, 108, 46), (52, 80, 44), (96, 112, 50), (70, 86, 60), (128, 112, 44))


def tree(canvas: Canvas, rng: np.random.Generator, x: float, z: float, high: float) -> None:
    """A broad-leaved tree or a conifer of the given height."""
    board = Board(canvas, x, z, TREE)
    bark = vary(rng, pick(rng, ((86, 70, 54), (72, 64, 56), (110, 102, 90))))
    leaves = vary(rng, pick(rng, _LEAVES), 0.2)
    thick = 0.035 * high
    is_conifer = rng.random() < 0.18
    crown_bottom = (0.12 if is_conifer else rng.uniform(0.28, 0.4)) * high
    canvas.cast(x, z, 2 * thick, 0, high * 0.6)
    if canvas.light.sun:
        reach = 0.65 * high * canvas.light.shadow_length
        a, b = x - canvas.light.sun_x * reach, z - canvas.light.sun_z * reach
        canvas.shadow(disc(a, b, 0.27 * high))
    canvas.shadow(disc(x, z, 0.5), contact=True)
    board.polygon(
        [(-thick, 0), (thick, 0), (thick * 0.6, high * 0.6), (-thick * 0.6, high * 0.6)], bark
    )
    board.polygon([(0, 0), (thick, 0), (thick * 0.6, high * 0.6), (0, high * 0.6)], bark, 0.7)
    count = int(min(max(1200 / z, 24), 110))
    spots = rng.standard_normal((count, 2)).clip(-1.9, 1.9)
    tall = high - crown_bottom
    if is_conifer:
        v = crown_bottom + tall * np.sort(rng.random(count))
        u = 0.17 * spots[:, 0].clip(-1, 1) * (high - v + 0.3)
        leaves = [0.75 * c for c in leaves]
    else:
        for side in (-1, 1):
            board.limb(
                [(0, crown_bottom * 0.85), (side * 0.14 * high, crown_bottom + 0.25 * tall)],
                thick,
                bark,
                0.8,
            )
        radius = np.linalg.norm(spots, axis=1, keepdims=True)
        spots *= np.minimum(1, 1.25 / np.maximum(radius, 0.1))
        u = 0.22 * rng.uniform(0.85, 1.2) * high * spots[:, 0]
        v = crown_bottom + tall * (0.5 + 0.36 * spots[:, 1])
        order = np.argsort(v + 0.12 * high * rng.standard_normal(count))
        u, v = u[order], v[order]
    radius = (0.045 if is_conifer else 0.062) * high * (110 / count) ** 0.3
    _leaves(board, rng, u, v, radius, leaves)


def hedge(
    canvas: Canvas, rng: np.random.Generator, x: float, z: tuple[float, float], high: float
) -> None:
    """A clipped hedge along the street."""
    leaves = vary(rng, pick(rng, _LEAVES[:5]), 0.2)
    near, far = z
    shade = canvas.light.facing(-np.sign(x), 0)
    quad = np.array([[(x, 0, near), (x, 0, far), (x, high, far), (x, high, near)]])
    canvas.quads(quad, [canvas.color(leaves, TREE, (near + far) / 2, 0.7 * shade)])
    count = int(min(max(350 / near, 10), 60))
    at = np.sort(rng.uniform(near, far, count))[::-1]
    up = (1 - rng.random(count) ** 2) * high
    places = canvas.camera.project(np.stack((np.full(count, x), up, at), -1))
    radii = canvas.camera.focal / at * rng.uniform(0.05, 0.15, count) * (60 / count) ** 0.4
    tones = (0.55 + 0.5 * up / high + rng.uniform(-0.12, 0.12, count)) * shade
    _tufts(canvas, places, np.stack((1.4 * radii, radii), -1), leaves, tones, (near + far) / 2)


def _tufts(
    canvas: Canvas, places: np.ndarray, radii: np.ndarray, rgb: Color, tones: np.ndarray, z: float
) -> None:
    """Draw ellipses of leaves: places and radii (N,2) on the canvas, brightness `tones` (N,)."""
    gain, offset = (np.asarray(t) for t in canvas.tint(z))
    fills = np.full((len(places), 4), TREE)
    fills[:, :3] = (np.asarray(rgb) * gain * tones[:, None] + offset).clip(0, 255)
    boxes = np.concatenate((places - radii, places + radii), 1).tolist()
    for box, fill in zip(boxes, fills.tolist(), strict=True):
        canvas.pen.ellipse(box, fill=tuple(fill))


def _leaves(
    board: Board, rng: np.random.Generator, u: np.ndarray, v: np.ndarray, radius: float, rgb: Color
) -> None:
    """Draw tufts of leaves, brighter at the top and towards the sun."""
    light = board.canvas.light
    height = (v - v.min()) / max(float(np.ptp(v)), 1e-3)
    width = u / max(float(np.abs(u).max()), 1e-3)
    tone = 0.55 + 0.5 * height + 0.16 * light.sun * light.sun_x * width
    tone += rng.uniform(-0.16, 0.16, len(u))
    radii = rng.uniform(0.7, 1.5, (len(u), 2)) * (radius * board.scale)
    places = np.stack((board.column + u * board.scale, board.row - v * board.scale), -1)
    _tufts(board.canvas, places, radii, rgb, tone, board.z)
