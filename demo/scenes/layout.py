"""Layout of a whole scene: everything in a street and its place."""

from collections.abc import Callable

import numpy as np

from demo.scenes.canvas import SUPERSAMPLING, Camera, Canvas
from demo.scenes.cars import car
from demo.scenes.develop import develop
from demo.scenes.draws import pick, vary
from demo.scenes.fences import FENCE_COLORS, fence
from demo.scenes.houses import end_house, house, house_row
from demo.scenes.people import pedestrian, rider
from demo.scenes.roadside import bollard, lamp_post, traffic_light, traffic_sign
from demo.scenes.street import FAR, Street, draw_daylight, draw_street, ground, sky, skyline
from demo.scenes.trees import hedge, tree

_Item = tuple[float, Callable[[], None]]  # distance, and the function that draws it


def draw_scene(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (H,W,3) and class ids uint8 (H,W) of one scene; `size` is (H,W)."""
    street, light = draw_street(rng), draw_daylight(rng)
    canvas = Canvas(size, draw_camera(rng, size, street), light)
    sky(canvas, rng)
    skyline(canvas, rng)
    ground(canvas, rng, street)
    if street.end:
        end_house(canvas, rng, street.end)
    layers = [
        _grounds(canvas, rng, street),
        _borders(canvas, rng, street),
        _things(canvas, rng, street),
    ]
    for items in layers:
        for _, draw in sorted(items, key=lambda item: -item[0]):
            draw()
    return develop(canvas, rng)


def draw_camera(rng: np.random.Generator, size: tuple[int, int], street: Street) -> Camera:
    """A camera in the middle of a right-hand lane, with jitter."""
    height, width = (s * SUPERSAMPLING for s in size)
    return Camera(
        focal=width * rng.uniform(0.8, 1.05),
        center=width * (0.5 + rng.normal(0, 0.06)),
        horizon=height * (0.47 + rng.normal(0, 0.035)),
        height=rng.uniform(1.3, 1.9),
        x=min(1.65, street.kerbs[1] / 2) + rng.normal(0, 0.35),
        curve=rng.normal(0, 0.0008),
    )


def _grounds(canvas: Canvas, rng: np.random.Generator, street: Street) -> list[_Item]:
    """Houses, and trees between and in front of them."""
    items: list[_Item] = []
    for side in (0, 1):
        way, front = (-1, 1)[side], street.fronts[side]
        rows = house_row(rng, street, side)
        for z0, z1, x, high, is_town, has_gap in rows:
            items.append(
                (z1, lambda a=(x, (z0, z1), high, is_town, has_gap): house(canvas, rng, *a))
            )
        if street.sides[side] == "town":
            continue
        is_park = street.sides[side] == "park"
        z = rng.uniform(5, 15)
        while z < min(FAR, (street.end or FAR) - 14):
            if not _crosses(street, z, 3):
                x = front + way * (rng.uniform(2.0, 14) if is_park else rng.uniform(1.2, 2.2))
                high = rng.uniform(5, 10) if is_park else rng.uniform(3.5, 7)
                items.append((z, lambda a=(x, z, high): tree(canvas, rng, *a)))
            z += rng.uniform(2, 6) if is_park else rng.uniform(7, 18)
    return items


def _borders(canvas: Canvas, rng: np.random.Generator, street: Street) -> list[_Item]:
    """Fences and hedges where no house is at the sidewalk."""
    items: list[_Item] = []
    for side in (0, 1):
        if street.sides[side] == "town":
            continue
        x, z = street.fronts[side], 2.0
        last = min(FAR, (street.end or FAR) - 13)
        while z < last:
            run = rng.uniform(8, 25)
            kind, style, high = rng.random(), int(rng.integers(4)), rng.uniform(0.9, 1.8)
            rgb = vary(rng, pick(rng, FENCE_COLORS))
            end = min(z + run, last)
            while z < end:
                z1 = min(z + 5, end)
                if not _crosses(street, z, 1) and not _crosses(street, z1, 1):
                    if kind < 0.55:
                        a = (x, (z, z1), style, rgb, high)
                        items.append((z, lambda a=a: fence(canvas, rng, *a)))
                    elif kind < 0.9 or street.sides[side] == "park":
                        items.append((z, lambda a=(x, (z, z1), high): hedge(canvas, rng, *a)))
                z = z1
    return items


def _things(canvas: Canvas, rng: np.random.Generator, street: Street) -> list[_Item]:
    """Everything on the road and the sidewalks; no two objects overlap."""
    taken: list[tuple[float, float, float, float]] = []
    items: list[_Item] = []

    def put(x: float, z: float, rx: float, rz: float, draw: Callable, *more: object) -> bool:
        if any(abs(x - a) < rx + c and abs(z - b) < rz + d for a, b, c, d in taken):
            return False
        taken.append((x, z, rx, rz))
        items.append((z, lambda: draw(canvas, rng, x, z, *more)))
        return True

    _traffic_lights(rng, street, put)
    _cars(rng, street, put)
    _riders(rng, street, put)
    _furniture(rng, street, put)
    _pedestrians(rng, street, put)
    return items


def _crosses(street: Street, z: float, margin: float) -> bool:
    return street.cross is not None and street.cross[0] - margin < z < street.cross[1] + margin


def _traffic_lights(rng: np.random.Generator, street: Street, put: Callable) -> None:
    if (not street.cross and rng.random() > 0.12) or (street.cross and rng.random() > 0.85):
        return
    near, far = street.cross or (at := rng.uniform(14, 34), at + 6)
    arm = rng.random() < 0.4
    for x, way in ((street.kerbs[1] + 0.6, -1), (street.kerbs[0] - 0.6, 1)):
        for z in (near - 1.5, far + 1.2):
            if rng.random() < 0.7:
                reach = abs(x) * 0.6 if arm and way == -1 else 0.0
                put(x, z, 0.3, 0.3, traffic_light, way, reach)


def _cars(rng: np.random.Generator, street: Street, put: Callable) -> None:
    if rng.random() < 0.05:  # an empty street
        return
    last = (street.end or 75) - 8
    for side, way in ((0, -1), (1, 1)):
        kerb = street.kerbs[side]
        if street.parking[side]:
            z = rng.uniform(4, 14)
            while z < min(last, 60):
                if rng.random() < 0.62 and not _crosses(street, z, 5):
                    heading = 0.0 if way == 1 or rng.random() < 0.25 else np.pi
                    put(kerb - way * 1.15, z, 1.0, 2.6, car, heading + rng.normal(0, 0.02))
                z += rng.uniform(5.2, 7)
        inner = abs(kerb) - (2.2 if street.parking[side] else 0)
        lanes = max(1, round(inner / 3.3))
        for lane in range(lanes):
            x = way * inner * (lane + 0.5) / lanes
            z = rng.uniform(11, 45) if way == 1 else rng.uniform(8, 35)
            while z < last:
                heading = (0.0 if way == 1 else np.pi) + rng.normal(0, 0.03)
                put(x + rng.normal(0, 0.15), z, 1.1, 3.5, car, heading)
                z += 6 + rng.exponential(18)
    if street.cross and rng.random() < 0.4:
        x, way = rng.uniform(-8, 8), int(pick(rng, (-1, 1)))
        z = sum(street.cross) / 2 - way * 1.6
        put(x, z, 2.8, 1.2, car, way * np.pi / 2 + rng.normal(0, 0.08))


def _riders(rng: np.random.Generator, street: Street, put: Callable) -> None:
    for _ in range(int(rng.poisson(0.95))):
        if street.cross and rng.random() < 0.4:
            z, x, along = street.cross[0] + rng.uniform(0, 2), rng.uniform(-6, 6), False
        else:
            side, along = int(rng.integers(2)), rng.random() < 0.7
            way = (-1, 1)[side]
            z = rng.uniform(8, 26)
            x = street.kerbs[side] - way * (rng.uniform(0.5, 1.0) + 2.2 * street.parking[side])
            if not along:
                x += rng.uniform(-2, 2)
        turn = int(pick(rng, (-1, 1)))
        put(x, z, 0.4 if along else 1.0, 1.0 if along else 0.4, rider, turn, along)


def _furniture(rng: np.random.Generator, street: Street, put: Callable) -> None:
    """Lamps, signs, bollards and street trees along the kerbs."""
    last = min(70.0, (street.end or FAR) - 13)
    lamps, trees = rng.random() < 0.36, rng.random(2) < 0.4
    for side, way in ((0, -1), (1, 1)):
        kerb, wide = street.kerbs[side], abs(street.fronts[side] - street.kerbs[side])
        spots = []
        if rng.random() < 0.5:
            spots.append((rng.uniform(9, 32), traffic_sign, ()))
        if rng.random() < 0.25:
            spots.append((rng.uniform(8, 45), traffic_sign, ()))
        if lamps:
            z, step = rng.uniform(12, 30), rng.uniform(26, 38)
            spots += [(at, lamp_post, (-way,)) for at in np.arange(z, last, step)]
        if rng.random() < 0.06:
            z = rng.uniform(7, 20)
            spots += [(at, bollard, ()) for at in z + np.arange(4) * 1.8]
        if trees[side] and wide > 2.5:
            z, step = rng.uniform(6, 16), rng.uniform(8, 14)
            spots += [(at, tree, (rng.uniform(4.5, 7.5),)) for at in np.arange(z, last, step)]
        for z, draw, more in spots:
            if not _crosses(street, z, 1):
                offset = 0.9 if draw is tree else rng.uniform(0.35, 0.6)
                put(kerb + way * offset, z, 0.3, 0.5, draw, *more)


def _pedestrians(rng: np.random.Generator, street: Street, put: Callable) -> None:
    last = min(45.0, (street.end or FAR) - 5)
    for _ in range(int(rng.poisson(2.3))):
        side = int(rng.integers(2))
        near, far = sorted((street.kerbs[side], street.fronts[side]))
        z = rng.uniform(9, last)
        if street.cross and rng.random() < 0.3:
            z = street.cross[0] - rng.uniform(1.2, 3.5)
            near, far = street.kerbs
        x = rng.uniform(near + 0.5, far - 0.5)
        if put(x, z, 0.35, 0.35, pedestrian) and rng.random() < 0.3:  # company
            put(x + rng.uniform(0.5, 0.8), z + rng.uniform(-0.3, 0.3), 0.2, 0.2, pedestrian)
