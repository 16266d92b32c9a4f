"""Pedestrians and cyclists: jointed figures on boards facing the camera."""

import math

import numpy as np

from demo.scenes.board import Board
from demo.scenes.canvas import PEDESTRIAN, RIDER, Canvas, Color, Point
from demo.scenes.draws import disc, pick, vary

_DARK = (22, 22, 25)
_WHEEL = [(math.cos(0.45 * i), math.sin(0.45 * i)) for i in range(14)]
_SKIN = ((236, 196, 170), (222, 178, 148), (186, 136, 104), (120, 80, 58), (92, 62, 46))
_HAIR = ((30, 24, 20), (62, 42, 28), (110, 78, 44), (176, 140, 88), (140, 140, 140))
_CLOTHES = [
    (28, 28, 32),
    (52, 58, 74),
    (90, 92, 98),
    (210, 208, 204),
    (60, 84, 130),
    (120, 96, 74),
] * 2 + [
    (170, 34, 38),
    (40, 110, 72),
    (210, 150, 40),
    (120, 60, 120),
    (226, 118, 40),
    (210, 130, 150),
]
_TROUSERS = ((34, 38, 54), (48, 62, 98), (26, 26, 28), (84, 80, 76), (140, 126, 104))


def pedestrian(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """A person who stands or walks at (x, z)."""
    tall = rng.uniform(1.55, 1.9) if rng.random() > 0.12 else rng.uniform(1.05, 1.4)
    board = Board(canvas, x, z, PEDESTRIAN, int(pick(rng, (-1, 1))))
    canvas.cast(x, z, 0.45, 0.0, tall)
    canvas.shadow(disc(x, z, 0.32), contact=True)
    top, trousers = vary(rng, pick(rng, _CLOTHES)), vary(rng, pick(rng, _TROUSERS))
    skin, hair = pick(rng, _SKIN), pick(rng, _HAIR)
    wide = rng.uniform(0.9, 1.25) * tall / 1.75
    sideways = rng.random() < 0.55
    stride = rng.uniform(0.1, 0.3) if sideways else rng.uniform(0.02, 0.08)
    hip, shoulder = 0.51 * tall, 0.82 * tall
    is_coat = rng.random() < 0.3
    swing = rng.uniform(0.05, 0.2) if sideways else 0.04
    arm = 0.1 if sideways else 0.21 * wide
    board.limb(
        [(arm * 0.6, shoulder), (arm + swing, 0.62 * tall), (arm + swing * 1.6, hip)],
        0.1,
        top,
        0.75,
    )
    for sign, shade in ((1, 0.72), (-1, 1.0)):
        foot = sign * stride - 0.02
        spread = 0 if sideways else sign * 0.09 * wide
        knee = (foot * 0.6 + spread + 0.03, 0.27 * tall)
        board.limb(
            [(spread * 0.9, hip), knee, (foot + spread, 0.05)], 0.155 * wide, trousers, shade
        )
        board.ellipse(foot + spread + 0.05, 0.04, 0.13, 0.05, _DARK)
    half = (0.15 if sideways else 0.21) * wide
    hem = 0.34 * tall if is_coat else 0.48 * tall
    board.polygon(
        [
            (-half, shoulder),
            (-half * 0.6, shoulder + 0.04),
            (half * 0.6, shoulder + 0.04),
            (half, shoulder),
            (half * 0.95, hem),
            (-half * 0.95, hem),
        ],
        top,
    )
    board.polygon(
        [(half * 0.3, shoulder), (half, shoulder), (half * 0.95, hem), (half * 0.3, hem)], top, 0.85
    )
    if rng.random() < 0.35:  # a bag
        bag = vary(rng, pick(rng, _CLOTHES))
        if sideways:
            board.ellipse(-half - 0.06, 0.68 * tall, 0.12, 0.2, bag)
        else:
            board.box(half - 0.02, 0.36 * tall, half + 0.16, 0.52 * tall, bag)
    board.limb(
        [(-arm * 0.9, shoulder - 0.03), (-arm - swing, 0.64 * tall), (-arm - swing * 0.5, hip)],
        0.1,
        top,
        0.9,
    )
    board.ellipse(-arm - swing * 0.5, hip - 0.04, 0.05, 0.06, skin)
    _head(board, 0.02 if sideways else 0.0, 0.92 * tall, skin, hair, rng.random() < 0.4)
    if canvas.light.weather == "rain" and rng.random() < 0.45:
        dome = vary(rng, pick(rng, _CLOTHES), 0.2)
        board.limb([(0.1, 0.6 * tall), (0.1, 1.2 * tall)], 0.03, _DARK)
        arc = np.linspace(0, np.pi, 9)
        board.polygon(
            [(0.1 + 0.55 * float(np.cos(a)), 1.04 * tall + 0.3 * float(np.sin(a))) for a in arc],
            dome,
        )


def _head(board: Board, u: float, v: float, skin: Color, hair: Color, from_behind: bool) -> None:
    board.box(u - 0.05, v - 0.18, u + 0.05, v - 0.05, skin)
    board.ellipse(u - 0.01, v + 0.02, 0.115, 0.135, hair)
    if not from_behind:
        board.ellipse(u + 0.025, v - 0.025, 0.09, 0.105, skin)


def rider(
    canvas: Canvas, rng: np.random.Generator, x: float, z: float, turn: int, along: bool
) -> None:
    """A person on a bicycle, seen from behind or in front (`along`), or from the side.

    `turn` 1 rides to the right, -1 to the left.
    """
    board = Board(canvas, x, z, RIDER, turn)
    canvas.cast(x, z, 0.5 if along else 1.2, 0.0, 1.7)
    canvas.shadow(disc(x, z, 0.25, 1.0 if along else 3.2), contact=True)
    top, trousers = vary(rng, pick(rng, _CLOTHES)), vary(rng, pick(rng, _TROUSERS))
    frame = vary(rng, pick(rng, ((30, 30, 32), (170, 30, 30), (50, 80, 140), (200, 200, 205))))
    skin = pick(rng, _SKIN)
    helmet = vary(rng, pick(rng, (*_HAIR, (225, 225, 225), (200, 40, 40), (60, 90, 160))))
    draw = _rider_along if along else _rider_across
    head = draw(canvas, rng, board, top, trousers, frame, skin)
    board.ellipse(head[0], head[1], 0.1, 0.12, skin)
    board.ellipse(head[0] - 0.02, head[1] + 0.06, 0.14, 0.095, helmet)


def _rider_along(
    canvas: Canvas,
    rng: np.random.Generator,
    board: Board,
    top: Color,
    trousers: Color,
    frame: Color,
    skin: Color,
) -> Point:
    lift = float(rng.uniform(-0.12, 0.12))
    board.box(-0.035, 0.0, 0.035, 0.7, _DARK)
    board.box(-0.06, 0.45, 0.06, 0.56, (200, 25, 20) if rng.random() < 0.5 else frame)
    board.limb([(-0.3, 1.05), (0.3, 1.05)], 0.05, frame)
    for sign in (-1, 1):
        board.limb(
            [(sign * 0.1, 0.98), (sign * 0.2, 0.68), (sign * 0.15, 0.3 + sign * lift)],
            0.15,
            trousers,
            0.85 + 0.15 * sign,
        )
        board.ellipse(sign * 0.15, 0.26 + sign * lift, 0.07, 0.06, _DARK)
        board.limb([(sign * 0.17, 1.42), (sign * 0.32, 1.22), (sign * 0.28, 1.06)], 0.1, top, 0.85)
    board.polygon(
        [(-0.2, 1.48), (0.2, 1.48), (0.24, 1.3), (0.17, 0.92), (-0.17, 0.92), (-0.24, 1.3)], top
    )
    if rng.random() < 0.3:
        board.box(-0.15, 1.05, 0.15, 1.4, vary(rng, pick(rng, _CLOTHES)))
    board.box(-0.05, 1.46, 0.05, 1.56, skin)
    return (0.0, 1.64)


def _rider_across(
    canvas: Canvas,
    rng: np.random.Generator,
    board: Board,
    top: Color,
    trousers: Color,
    frame: Color,
    skin: Color,
) -> Point:
    circle = [(0.33 * c, 0.34 + 0.33 * s) for c, s in _WHEEL]
    for hub in (-0.53, 0.53):
        canvas.label_only([board.at(hub + u, v) for u, v in circle], board.class_id)
        board.ring(hub, 0.34, 0.34, 0.05, _DARK)
    crank, saddle, fork = (-0.05, 0.3), (-0.22, 0.92), (0.4, 0.95)
    for path in (
        [(-0.53, 0.34), crank, fork],
        [(-0.53, 0.34), saddle, crank],
        [saddle, (0.38, 0.82)],
        [(0.53, 0.34), fork, (0.36, 1.05), (0.46, 1.08)],
    ):
        board.limb(path, 0.05, frame)
    angle = float(rng.uniform(0, 2 * np.pi))
    for turn, shade in ((np.pi, 0.7), (0.0, 1.0)):
        foot = (-0.05 + 0.17 * math.cos(angle + turn), 0.32 + 0.17 * math.sin(angle + turn))
        knee = (0.22 + 0.3 * (foot[0] + 0.05), 0.72 + 0.5 * (foot[1] - 0.32))
        board.limb([(-0.18, 0.98), knee, foot], 0.14, trousers, shade)
        board.ellipse(foot[0] + 0.05, foot[1] - 0.04, 0.12, 0.05, _DARK)
    board.polygon(
        [(-0.32, 0.98), (-0.08, 0.92), (0.24, 1.36), (0.16, 1.5), (0.02, 1.5), (-0.22, 1.25)], top
    )
    board.limb([(0.13, 1.42), (0.2, 1.16), (0.44, 1.1)], 0.1, top, 0.85)
    board.ellipse(0.46, 1.1, 0.05, 0.05, skin)
    if rng.random() < 0.3:
        board.ellipse(-0.14, 1.32, 0.15, 0.2, vary(rng, pick(rng, _CLOTHES)))
    return (0.22, 1.64)
