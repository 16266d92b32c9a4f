"""Cars: side views, extruded into bodies and projected."""

import functools
import math
from dataclasses import dataclass

import numpy as np

from demo.scenes.canvas import CAR, Canvas, Point, mix_color
from demo.scenes.draws import pick, vary

# Side views, from the lower rear corner over the roof to the lower front corner: place along the
# length (-50 rear to 50 front) and height, both in per cent. All bodies have the same ten corners.
_BODIES = {
    # name: (length, width, height in metres, corners)
    "sedan": (4.6, 1.8, 1.45, "-50 17 -50 50 -48 63 -33 67 -20 97 7 100 25 67 45 60 50 46 50 17"),
    "compact": (4.0, 1.75, 1.5, "-50 17 -50 48 -49 64 -46 68 -37 96 5 100 26 66 45 58 50 44 50 17"),
    "suv": (4.6, 1.9, 1.75, "-50 22 -50 50 -50 65 -48 69 -43 97 8 100 24 69 46 63 50 50 50 22"),
    "van": (5.2, 2.0, 2.2, "-50 16 -50 34 -50 48 -50 54 -49 98 24 100 39 58 47 50 50 38 50 16"),
}
_PAINTS = (
    [(225, 226, 228), (168, 172, 176), (96, 99, 104), (34, 35, 38)] * 3
    + [(170, 28, 30), (34, 66, 130), (70, 110, 165), (28, 76, 56), (190, 165, 110), (214, 170, 30)]
    + [(120, 62, 30), (92, 24, 40), (196, 92, 30)]
)
_WHEEL = [(math.cos(0.45 * i), math.sin(0.45 * i)) for i in range(14)]
_DARK = (22, 22, 25)
_UNDERSIDE, _LEFT, _RIGHT = -1, 9, 10  # groups of parts; 0 to 8 are the panels between corners


@dataclass(frozen=True)
class _Mesh:
    """A car body around the origin, heading along z."""

    foot: np.ndarray  # (4,3) metres: outline on the ground
    vertices: np.ndarray  # (V,3) metres: to the right, up, ahead
    groups: dict[int, list[tuple[int, int, str, bool]]]  # parts: start, stop, role, is_shaded
    normals: np.ndarray  # (11,3) of the groups 0 to 10
    height: float


@functools.cache
def _mesh(kind: str, is_closed: bool) -> _Mesh:
    """The body of a kind of car; `is_closed`: no side windows at the rear."""
    length, width, height, text = _BODIES[kind]
    profile = np.array(text.split(), float).reshape(-1, 2) / 100 * (length, height)
    vertices: list[tuple[float, float, float]] = []
    groups: dict[int, list[tuple[int, int, str, bool]]] = {}

    def half(up: float) -> float:  # the cabin leans inwards
        return width / 2 * (1 - 0.2 * min(max((up / height - 0.62) / 0.38, 0), 1))

    def add(group: int, points: list[tuple[float, float, float]], role: str, shaded: bool) -> None:
        part = len(vertices), len(vertices) + len(points), role, shaded
        groups.setdefault(group, []).append(part)
        vertices.extend(points)

    def on_panel(i: int, boxes: list[tuple], role: str, shaded: bool = False) -> None:
        (a0, h0), (a1, h1) = profile[i], profile[i + 1]
        for left, low, right, high in boxes:
            spots = [
                (s, a0 + k * (a1 - a0), h0 + k * (h1 - h0))
                for s, k in ((left, low), (right, low), (right, high), (left, high))
            ]
            add(i, [(s * half(h), h, a) for s, a, h in spots], role, shaded)

    def on_side(side: int, points: list[Point], role: str, shaded: bool = False) -> None:
        group = _RIGHT if side > 0 else _LEFT
        add(group, [(side * half(h), h, a) for a, h in points], role, shaded)

    bottom = profile[0, 1] + 0.05
    for a, left, right, low in [
        (along * length, across - 0.1, across + 0.1, 0.0)
        for along in (0.31, -0.31)
        for across in (0.14 - width / 2, width / 2 - 0.14)
    ] + [(0.0, -0.45 * width, 0.45 * width, bottom * 0.6)]:
        corners = _box(left, low, right, bottom)
        add(_UNDERSIDE, [(across, up, a) for across, up in corners], "dark", False)
    for i in range(9):
        on_panel(i, [(-1, 0, 1, 1)], "top" if i in (2, 4, 6) else "body", True)
        if i in (3, 5):
            on_panel(i, [(-0.86, 0.1, 0.86, 0.88)], "glass")
            on_panel(i, [(-0.86, 0.1, 0.86, 0.45)], "cabin")
    bumper = "sill" if kind == "sedan" else "dark"
    on_panel(0, [(-1, 0, 1, 0.35)], bumper, True)
    on_panel(0, [(-0.27, 0.48, 0.27, 0.8)], "plate")
    on_panel(1, [(-1, 0, -0.7, 1), (0.7, 0, 1, 1)], "tail")
    on_panel(7, [(-0.5, 0.15, 0.5, 0.95)], "dark")
    on_panel(7, [(-1, 0.1, -0.6, 0.9), (0.6, 0.1, 1, 0.9)], "lamp")
    on_panel(8, [(-1, 0.65, 1, 1)], bumper, True)
    on_panel(8, [(-0.27, 0.2, 0.27, 0.55)], "plate")
    (a3, h3), (a4, _), (a5, _), (a6, h6) = profile[3:7]
    rear = (0.16 * length, 0.19 * length) if is_closed else (a3 + 0.16, a4 + 0.06)
    pillars = [] if is_closed else [0.0, -0.24 * length]
    for side in (-1, 1):
        on_side(side, [(a, h) for a, h in profile], "body", True)
        on_side(side, _box(-0.5 * length, bottom, 0.5 * length, bottom + 0.14), "sill", True)
        window = [
            (rear[0], h3 + 0.03),
            (a6 - 0.12, h6 + 0.03),
            (a5 - 0.02, 0.94 * height),
            (rear[1], 0.93 * height),
        ]
        on_side(side, window, "glass")
        for at in pillars:
            on_side(side, _box(at, h3, at + 0.09, 0.95 * height), "body", True)
        for at in (0.0, 0.22 * length):
            on_side(side, _box(at, 0.25 * height, at + 0.03, h3), "gap", True)
        for along in (-0.31 * length, 0.31 * length):
            for radius, role in ((0.39, "arch"), (0.33, "dark"), (0.2, "rim"), (0.07, "dark")):
                circle = [(along + radius * c, max(0.33 + radius * s, 0.0)) for c, s in _WHEEL]
                on_side(side, circle, role)
    steps = np.diff(profile, axis=0)
    steps /= np.linalg.norm(steps, axis=1, keepdims=True)
    normals = np.zeros((11, 3))
    normals[:9, 1], normals[:9, 2] = steps[:, 0], -steps[:, 1]
    normals[_LEFT, 0], normals[_RIGHT, 0] = -1, 1
    foot = np.array([[-1, 0, -1], [-1, 0, 1], [1, 0, 1], [1, 0, -1]]) * (width / 2, 0, length / 2)
    return _Mesh(foot, np.array(vertices), groups, normals, height)


def _box(left: float, bottom: float, right: float, top: float) -> list[Point]:
    return [(left, bottom), (right, bottom), (right, top), (left, top)]


def car(canvas: Canvas, rng: np.random.Generator, x: float, z: float, heading: float) -> None:
    """A car around (x, z); heading 0 drives away from the camera, pi towards it."""
    kind = pick(rng, ("sedan", "compact", "compact", "suv", "suv", "van"))
    mesh = _mesh(kind, kind == "van" and rng.random() < 0.5)
    paint = vary(rng, pick(rng, _PAINTS), 0.15)
    rim = pick(rng, ((150, 152, 155), (190, 190, 192), (70, 70, 74)))
    light = canvas.light
    sin, cos = math.sin(heading), math.cos(heading)
    turn = np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])
    foot = (mesh.foot @ turn)[:, [0, 2]].tolist()
    canvas.shadow([(x + 1.04 * a, z + 1.04 * b) for a, b in foot], contact=True)
    canvas.cast_block([(x + a, z + b) for a, b in foot], 0.85 * mesh.height)

    world = mesh.vertices @ turn + (x, 0, z)
    projected = canvas.camera.project(world)
    if projected[:, 0].max() < 0 or projected[:, 0].min() > canvas.image.width:
        return
    places = projected.ravel().tolist()  # column, row, column, ...
    depth = world[:, 2].tolist()
    shades = [light.facing(nx, nz, ny) for nx, ny, nz in (mesh.normals @ turn).tolist()] + [1.0]
    glass = (28, 30, 36) if light.lamps else [20 + 0.24 * c for c in light.sky_bottom]
    rgb = {
        "body": paint,
        "top": [0.9 * c + 0.1 * s for c, s in zip(paint, light.sky_bottom, strict=True)],
        "sill": [0.6 * c for c in paint],
        "gap": [0.55 * c for c in paint],
        "glass": glass,
        "cabin": [0.65 * c for c in glass],
        "dark": _DARK,
        "arch": (14, 14, 16),
        "rim": rim,
        "plate": (232, 232, 215),
        "tail": (255, 60, 45) if light.lamps else (190, 20, 18),
        "lamp": (255, 250, 225) if light.lamps else (215, 220, 225),
    }
    groups, is_far = mesh.groups, canvas.camera.focal / z < 14
    gain, offset = canvas.tint(z)

    def order(group: int) -> float:
        if group < 0 or group > 8:  # the underside first, the side last
            return -1e3 * (group < 0) + 1e3 * (group > 8)
        start = groups[group][0][0]
        return -sum(depth[start : start + 4])

    for group in sorted(groups, key=order):
        start, stop = groups[group][0][:2]
        if group >= 0 and _is_clockwise(places[2 * start : 2 * stop]) != (group == _RIGHT):
            continue
        for start, stop, role, is_shaded in groups[group]:
            if is_far and role in ("gap", "arch", "rim", "cabin"):
                continue
            fill = mix_color(rgb[role], CAR, gain, offset, shades[group] if is_shaded else 1.0)
            outline = places[2 * start : 2 * stop]
            canvas.pen.polygon(outline, fill=fill)
            if light.lamps and role in ("tail", "lamp"):
                glow = (150, 20, 10) if role == "tail" else (190, 180, 140)
                column, row = sum(outline[::2]) / 4, sum(outline[1::2]) / 4
                canvas.glows.append((CAR, column, row, 0.6 * canvas.camera.focal / z, glow))


def _is_clockwise(outline: list[float]) -> bool:
    """Whether an outline (column, row, column, ...) on the canvas runs clockwise."""
    area = 0.0
    for i in range(0, len(outline), 2):
        area += outline[i - 2] * outline[i + 1] - outline[i] * outline[i - 1]
    return area > 0
