"""Houses: rows of them, with windows, shops, doors and roofs."""

import math

import numpy as np

from demo.scenes.canvas import BUILDING, Canvas, Color
from demo.scenes.draws import pick, vary
from demo.scenes.street import FAR, NEAR, WALLS, Street
from demo.scenes.walls import Face

_ROOFS = ((138, 66, 46), (112, 58, 46), (78, 74, 74), (96, 84, 76), (64, 66, 72))
_DOORS = ((70, 46, 34), (40, 60, 50), (120, 30, 30), (60, 62, 70))
_SHOPS = (
    (170, 36, 40),
    (30, 80, 140),
    (36, 110, 70),
    (40, 40, 44),
    (214, 160, 40),
    (200, 196, 186),
)


def house_row(rng: np.random.Generator, street: Street, side: int) -> list[tuple]:
    """Houses from near to far: (z0, z1, x of the front, height, is_town, has_gap before it)."""
    kind, x = street.sides[side], street.fronts[side]
    way = -1 if side == 0 else 1
    last = min(FAR, (street.end or FAR + 20) - 14)
    rows, z, gap = [], NEAR - rng.uniform(0, 12), 1.0
    while z < last and kind != "park":
        long = rng.uniform(9, 22) if kind == "town" else rng.uniform(7, 12)
        if street.cross and z < street.cross[1] + 3 and z + long > street.cross[0] - 3:
            cut = street.cross[0] - 3 - z
            if cut > 5:
                rows.append(_house_at(rng, kind, x, way, z, z + cut, gap))
            z, gap = street.cross[1] + 3, 8.0
            continue
        rows.append(_house_at(rng, kind, x, way, z, z + long, gap))
        gap = rng.uniform(2, 8) if kind == "houses" or rng.random() < 0.1 else 0.0
        z += long + gap
    return [row for row in rows if row[1] > NEAR + 1]


def _house_at(
    rng: np.random.Generator, kind: str, x: float, way: int, z0: float, z1: float, gap: float
) -> tuple:
    if kind == "town":
        return max(z0, NEAR), z1, x + way * rng.uniform(0, 0.4), rng.uniform(8.5, 21), True, gap > 0
    back = x + way * rng.uniform(2.5, 5.0)
    return max(z0, NEAR), z1, back, rng.uniform(3.2, 6.4), False, gap > 0


def house(
    canvas: Canvas,
    rng: np.random.Generator,
    x: float,
    z: tuple[float, float],
    high: float,
    is_town: bool,
    has_gap: bool,
) -> None:
    """A house whose front is at x along the street from z[0] to z[1]."""
    way = 1 if x > 0 else -1
    depth = 12.0
    wall = vary(rng, pick(rng, WALLS), 0.15)
    style = Style(rng, wall, is_town)
    light, middle = canvas.light, sum(z) / 2
    a, b = (-sun * light.shadow_length * high for sun in (light.sun_x, light.sun_z))
    canvas.shadow([(x, z[0]), (x, z[1]), (x + a, z[1] + b), (x + a, z[0] + b)])
    front = Face(canvas, (x, z[0]), (way, 0), depth, high, middle, light.facing(0, -1))
    _fill_house(front, rng, style, has_gap, shop=False)
    along = Face(canvas, (x, z[0]), (0, 1), z[1] - z[0], high, middle, light.facing(-way, 0))
    _fill_house(along, rng, style, True, shop=style.shop)
    if not is_town:
        _roof(canvas, rng, (x, x + way * depth), z, high, wall)


def _roof(
    canvas: Canvas,
    rng: np.random.Generator,
    x: tuple[float, float],
    z: tuple[float, float],
    high: float,
    wall: Color,
) -> None:
    """A gable roof over x[0] (at the street) to x[1], its ridge along the street."""
    way, middle, light = math.copysign(1, x[0]), sum(z) / 2, canvas.light
    ridge, top, eave = sum(x) / 2, high + rng.uniform(1.8, 3.2), x[0] - way * 0.4
    gable = [(x[0], high, z[0]), (x[1], high, z[0]), (ridge, top, z[0])]
    canvas.quads(np.array([gable]), [canvas.color(wall, BUILDING, middle, light.facing(0, -1))])
    near, far, low = z[0] - 0.3, z[1] + 0.3, high - 0.1
    slope = [(eave, low, near), (eave, low, far), (ridge, top, far), (ridge, top, near)]
    tiles = vary(rng, pick(rng, _ROOFS))
    shade = light.facing(-way * 0.5, 0, 0.8)
    canvas.quads(np.array([slope]), [canvas.color(tiles, BUILDING, middle, shade)])
    if rng.random() < 0.6 and z[1] - z[0] > 3:
        at, u = rng.uniform(z[0] + 1, z[1] - 1), x[0] + 0.4 * (x[1] - x[0])
        low, up = high + 1, top + 0.9
        stack = [(u - 0.4, low, at), (u + 0.4, low, at), (u + 0.4, up, at), (u - 0.4, up, at)]
        brick = canvas.color((130, 70, 56), BUILDING, middle, 0.85)
        canvas.quads(np.array([stack]), [brick])


def end_house(canvas: Canvas, rng: np.random.Generator, z: float) -> None:
    """A wide house that faces the camera where the street ends."""
    left = -60.0
    while left < 60:
        wide, high = rng.uniform(14, 30), rng.uniform(7, 16)
        style = Style(rng, vary(rng, pick(rng, WALLS), 0.15), True)
        face = Face(canvas, (left, z), (1, 0), wide, high, z, canvas.light.facing(0, -1))
        _fill_house(face, rng, style, True, shop=style.shop)
        left += wide


class Style:
    """Appearance of the faces of one house."""

    def __init__(self, rng: np.random.Generator, wall: Color, is_town: bool) -> None:
        self.wall = wall
        self.trim = vary(
            rng, pick(rng, ((226, 224, 218), (190, 186, 176), (110, 104, 98), (60, 60, 62)))
        )
        self.floor = rng.uniform(2.8, 3.6)
        self.bay = rng.uniform(1.9, 3.6)
        self.window = (rng.uniform(0.36, 0.72), rng.uniform(0.42, 0.68))  # shares of bay and floor
        self.shop = is_town and rng.random() < 0.65
        self.brick = rng.random() < 0.45
        self.shop_color = vary(rng, pick(rng, _SHOPS))
        self.glass = rng.uniform(0.1, 0.55)
        self.balconies = is_town and rng.random() < 0.2
        self.rail = pick(rng, ((84, 86, 90), self.trim))


def _fill_house(
    face: Face, rng: np.random.Generator, style: Style, detailed: bool, shop: bool
) -> None:
    """Fill a face with a wall, windows, and a door or a shop."""
    if not face.is_visible:
        return
    wall = style.wall
    face.add([(0, 0, face.long, face.high)], [face.fill(wall)])
    if detailed:
        if style.brick and face.scale > 12:
            count = int(min(90, 5 * face.long))
            u, v = rng.random((2, count)) * [[face.long - 0.3], [face.high / 0.12]]
            v = v // 1 * 0.12
            tones = [face.fill(wall, t) for t in (0.84, 0.91, 1.08)]
            face.add(np.stack((u, v, u + 0.3, v + 0.1), -1), tones)
        _windows(face, rng, style, 3.4 if shop else 0.0)
        edges = [(0, face.high - 0.4, face.long, face.high), (0, 0, face.long, 0.5)]
        face.add(edges, [face.fill(style.trim, 0.95), face.fill(wall, 0.7)])
        if shop:
            _shop(face, rng, style)
        else:
            at = rng.uniform(0.1, 0.8) * face.long
            door = vary(rng, pick(rng, _DOORS))
            boxes = [(at - 0.1, 0, at + 1.1, 2.3), (at, 0, at + 1.0, 2.15)]
            face.add(boxes, [face.fill(style.trim), face.fill(door)])
    face.paint()


def _windows(face: Face, rng: np.random.Generator, style: Style, base: float) -> None:
    floors = int((face.high - base - 0.6) / style.floor)
    bays = int(face.long / style.bay)
    bay, floor = face.long / max(bays, 1), style.floor
    wide, tall = bay * style.window[0], floor * style.window[1]
    if floors < 1 or bays < 1 or wide * face.scale < 2.2:
        return
    left = np.tile((np.arange(bays) + 0.5) * bay - wide / 2, floors)
    bottom = np.repeat(base + 0.9 + np.arange(floors) * floor, bays)
    count, light = len(left), face.canvas.light
    shine = style.glass * rng.uniform(0.5, 1.3, (count, 1))  # share of reflected sky
    glass = np.array([(34, 38, 44)]) * (1 - shine) + np.asarray(light.sky_bottom) * shine
    glass[rng.random(count) < 0.15] = (196, 190, 176)  # blinds and curtains
    colors = np.full((count, 4), BUILDING)
    colors[:, :3] = (glass * face.tint[0] * 0.9 + face.tint[1]).clip(0, 255)
    if light.lamps:
        lit = rng.random(count) < 0.35
        colors[lit, :3] = np.array((250, 206, 130)) * rng.uniform(0.7, 1.0, (int(lit.sum()), 1))
    right, top = left + wide, bottom + tall
    if face.scale * wide > 6:
        frames = np.stack((left - 0.12, bottom - 0.12, right + 0.12, top + 0.12), -1)
        face.add(frames, [face.fill(style.trim)])
    face.add(np.stack((left, bottom, right, top), -1), list(map(tuple, colors.tolist())))
    if face.scale * wide > 10:
        middle = left + wide / 2
        bars = np.stack((middle - 0.05, bottom, middle + 0.05, top), -1)
        sills = np.stack((left - 0.2, bottom - 0.25, right + 0.2, bottom - 0.1), -1)
        face.add(bars, [face.fill(style.trim, 0.8)])
        face.add(sills, [face.fill(style.trim, 0.8)])
        if style.balconies:
            rails = np.stack((left - 0.4, bottom - 0.8, right + 0.4, bottom + 0.25), -1)
            face.add(rails, [face.fill(style.rail, 0.75)])


def _shop(face: Face, rng: np.random.Generator, style: Style) -> None:
    face.add([(0, 0, face.long, 3.3)], [face.fill(style.shop_color, 0.75)])
    left = np.arange(0.4, face.long - 2.0, 3.2)
    lamps, low = face.canvas.light.lamps, np.full(len(left), 0.5)
    glass = (236, 206, 150) if lamps else [40 + 0.25 * c for c in face.canvas.light.sky_bottom]
    face.add(np.stack((left, low, left + 2.6, low + 2.2), -1), [face.fill(glass, 1 + 0.6 * lamps)])
    if face.scale > 6:
        u = np.concatenate((left + 0.3, left + 1.5))  # goods behind the glass
        top = rng.uniform(1.0, 1.9, len(u))
        goods = [face.fill(color, 0.8) for color in _SHOPS]
        face.add(np.stack((u, u * 0 + 0.6, u + 0.6, top), -1), goods)
    face.add([(0.2, 2.75, face.long - 0.2, 3.25)], [face.fill(style.shop_color)])
    if face.scale > 6:
        u = np.arange(0.3 * face.long, 0.6 * face.long, 0.5)
        ink = (238, 236, 228) if sum(style.shop_color) < 400 else (40, 40, 44)
        face.add(np.stack((u, u * 0 + 2.88, u + 0.3, u * 0 + 3.12), -1), [face.fill(ink)])
