"""Street lamps, bollards, traffic lights and traffic signs."""

import numpy as np

from demo.scenes.board import Board
from demo.scenes.canvas import LIGHT, POLE, SIGN, Canvas, Color
from demo.scenes.draws import pick, vary

_METAL = ((120, 124, 126), (92, 96, 98), (58, 62, 60), (150, 152, 150), (70, 84, 74))


def lamp_post(canvas: Canvas, rng: np.random.Generator, x: float, z: float, inward: int) -> None:
    """A street lamp whose arm points towards the road: `inward` is -1 (left) or 1 (right)."""
    board = Board(canvas, x, z, POLE, inward)
    metal = vary(rng, pick(rng, _METAL))
    high = float(rng.uniform(5.5, 8.5))
    thick = float(rng.uniform(0.09, 0.14))
    canvas.cast(x, z, thick, 0, high)
    board.box(-thick * 0.9, 0, thick * 0.9, 0.9, metal)
    _shaft(board, 0.0, high, thick, metal)
    kind = rng.random()
    if kind < 0.55:
        reach = float(rng.uniform(1.0, 2.4))
        board.limb([(0, high - 0.1), (reach * 0.4, high + 0.25), (reach, high + 0.3)], 0.1, metal)
        board.box(reach - 0.1, high + 0.18, reach + 0.65, high + 0.4, [c * 0.8 for c in metal])
        lamp = (reach + 0.3, high + 0.16)
        lamp_size = (0.3, 0.07)
    elif kind < 0.85:
        board.ellipse(0, high + 0.25, 0.28, 0.3, (225, 225, 215))
        lamp, lamp_size = (0.0, high + 0.25), (0.26, 0.28)
    else:  # a telegraph pole
        for v in (high - 0.4, high - 1.0):
            board.limb([(-0.8, v), (0.8, v)], 0.12, metal, 0.8)
        return
    if canvas.light.lamps:
        board.ellipse(*lamp, *lamp_size, (255, 232, 180), emits=True)
        board.glow(*lamp, 1.6, (150, 120, 70))


def bollard(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A knee-high post at the kerb."""
    board = Board(canvas, x, z, POLE)
    metal = vary(rng, pick(rng, (*_METAL, (150, 40, 36))))
    canvas.cast(x, z, 0.15, 0, 0.9)
    _shaft(board, 0.0, 0.9, 0.16, metal)
    board.box(-0.085, 0.7, 0.085, 0.8, (215, 215, 212))


def _shaft(board: Board, u: float, high: float, thick: float, metal: Color) -> None:
    board.box(u - thick / 2, 0, u + thick / 2, high, metal)
    board.polygon([(u, 0), (u + thick / 2, 0), (u + thick / 2, high), (u, high)], metal, 0.75)


def traffic_light(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, inward: int, reach: float
) -> None:
    """A signal on a pole; if `reach` > 0, another on an arm of that length over the road."""
    board = Board(canvas, x, z, POLE, inward)
    metal = vary(rng, pick(rng, _METAL))
    high = 5.6 if reach > 0 else 3.5
    canvas.cast(x, z, 0.2, 0, high)
    _shaft(board, 0, high, 0.115, metal)
    case = pick(rng, ((26, 28, 28), (26, 28, 28), (44, 58, 46), (196, 156, 32)))
    state, view = int(rng.integers(3)), rng.random()
    size = float(rng.uniform(1.0, 1.35))
    if reach > 0:
        board.limb([(0, high - 0.2), (reach, high - 0.05)], 0.11, metal)
        _signal(board, rng, reach, high - 0.75 * size, size, case, state, view)
    _signal(board, rng, 0.0, 2.75, size * 0.9, case, state, view)
    if rng.random() < 0.35:  # the pedestrians' signal at the side
        _signal(board, rng, 0.32, 2.3, size * 0.55, case, 2 - state, view)


def _signal(
    board: Board,
    rng: np.random.Generator,
    u: float,
    v: float,
    size: float,
    case: Color,
    state: int,
    view: float,
) -> None:
    """The lamp box around (u, v); lamp `state` (0 red, 1 amber, 2 green) is on."""
    board.class_id = LIGHT
    half, tall = 0.19 * size, 0.5 * size
    if view > 0.87:  # from the side: a narrow box with three visors
        board.box(u - half * 0.7, v - tall, u + half * 0.5, v + tall, case)
        for i in range(3):
            w = v + (1 - i) * 0.31 * size
            board.polygon(
                [
                    (u - half * 1.7, w),
                    (u - half * 0.6, w - 0.1 * size),
                    (u - half * 0.6, w + 0.13 * size),
                    (u - half * 1.7, w + 0.12 * size),
                ],
                [c * 0.8 for c in case],
            )
    else:
        if view < 0.35:  # a screen behind the box, often with a pale rim
            board.box(
                u - half * 1.75, v - tall * 1.2, u + half * 1.75, v + tall * 1.2, (205, 205, 200)
            )
            board.box(
                u - half * 1.6, v - tall * 1.14, u + half * 1.6, v + tall * 1.14, (20, 21, 22)
            )
        board.box(u - half, v - tall, u + half, v + tall, case)
        lamps = ((235, 45, 35), (245, 180, 40), (60, 225, 140))
        for i, rgb in enumerate(lamps):
            w = v + (1 - i) * 0.31 * size
            if view > 0.8:  # from behind
                break
            board.ellipse(u, w, 0.135 * size, 0.135 * size, (12, 12, 12))
            lit = i == state
            dim = [30 + 0.18 * c for c in rgb]
            board.ellipse(u, w, 0.12 * size, 0.12 * size, rgb if lit else dim, emits=lit)
            if lit:
                board.glow(
                    u,
                    w,
                    0.45 * size,
                    [c * (0.5 if board.canvas.light.lamps else 0.22) for c in rgb],
                )
    board.class_id = POLE


def traffic_sign(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A pole with one sign, sometimes two."""
    board = Board(canvas, x, z, POLE)
    count = 1 + int(rng.random() < 0.3)
    size = float(rng.uniform(0.36, 0.5))
    high = 2.3 + 2 * size * count
    canvas.cast(x, z, 0.1, 0, high)
    canvas.cast(x, z, 2 * size, 2.2, high)
    _shaft(board, 0, high - 0.1, 0.075, vary(rng, pick(rng, _METAL)))
    board.class_id = SIGN
    for i in range(count):
        _plate(board, rng, 2.25 + size * (2.05 * i + 1), size)


def _plate(board: Board, rng: np.random.Generator, v: float, size: float) -> None:
    red, blue, white, yellow = (196, 30, 34), (26, 74, 160), (238, 238, 234), (238, 190, 30)
    kind = int(rng.integers(9))
    angles = np.linspace(0, 2 * np.pi, 9)[:-1] + np.pi / 8

    def shape(points: list[tuple[float, float]], scale: float, rgb: Color) -> None:
        board.polygon([(u * size * scale, v + w * size * scale) for u, w in points], rgb)

    def mark(left: float, bottom: float, right: float, top: float, rgb: Color) -> None:
        board.box(left * size, v + bottom * size, right * size, v + top * size, rgb)

    triangle, diamond = [(-1, -0.8), (1, -0.8), (0, 0.95)], [(-1, 0), (0, -1), (1, 0), (0, 1)]
    if kind == 0:  # speed limit
        board.ellipse(0, v, size, size, red)
        board.ellipse(0, v, size * 0.76, size * 0.76, white)
        mark(-0.42, -0.35, -0.12, 0.35, (30, 30, 30))
        mark(0.08, -0.35, 0.42, 0.35, (30, 30, 30))
        mark(0.2, -0.15, 0.3, 0.15, white)
    elif kind == 1:  # warning
        shape(triangle, 1.0, red)
        shape(triangle, 0.66, white)
        mark(-0.08, -0.25, 0.08, 0.25, (25, 25, 25))
    elif kind == 2:  # give way
        shape([(u, -w) for u, w in triangle], 1.0, red)
        shape([(u, -w) for u, w in triangle], 0.62, white)
    elif kind == 3:  # stop
        shape([(float(np.cos(a)), float(np.sin(a))) for a in angles], 1.0, red)
        mark(-0.66, -0.2, 0.66, 0.2, white)
        mark(-0.3, -0.2, -0.22, 0.2, red)
        mark(0.22, -0.2, 0.3, 0.2, red)
    elif kind == 4:  # mandatory direction: white arrow on blue
        board.ellipse(0, v, size, size, blue)
        mark(-0.12, -0.6, 0.12, 0.15, white)
        shape([(-0.45, 0.1), (0.45, 0.1), (0, 0.65)], 1.0, white)
    elif kind == 5:  # crossing or parking
        mark(-0.9, -0.9, 0.9, 0.9, white)
        mark(-0.82, -0.82, 0.82, 0.82, blue)
        shape([(-0.6, -0.55), (0.6, -0.55), (0, 0.6)], 1.0, white)
        mark(-0.1, -0.45, 0.1, 0.2, (20, 20, 24))
    elif kind == 6:  # priority road
        shape(diamond, 1.0, white)
        shape(diamond, 0.72, yellow)
    elif kind == 7:  # no entry
        board.ellipse(0, v, size, size, red)
        mark(-0.65, -0.17, 0.65, 0.17, white)
    else:  # directions
        field = pick(rng, (blue, (24, 110, 66), yellow, white))
        ink = (30, 30, 30) if field in (yellow, white) else white
        mark(-1.9, -0.75, 1.9, 0.75, ink)
        mark(-1.82, -0.67, 1.82, 0.67, field)
        mark(-1.5, 0.15, 0.7, 0.38, ink)
        mark(-1.5, -0.38, 0.2, -0.15, ink)
        shape([(1.0, -0.4), (1.65, 0), (1.0, 0.4)], 1.0, ink)
