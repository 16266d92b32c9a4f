"""Images of one to three things, large, on the ground of another image: data with a background.

The things are those of the streets. Unlike there, an image has few of the classes, and the rest of
it is background.
"""

from functools import partial

import numpy as np

from demo.scenes.canvas import CLASSES, SUPERSAMPLING, Camera, Canvas
from demo.scenes.develop import develop
from demo.scenes.draws import pick
from demo.scenes.houses import end_house, house
from demo.scenes.stock import (
    backdrop,
    fair_daylight,
    paint_bollards,
    paint_fence_across,
    paint_thing,
)
from demo.scenes.street import Street, ground, sky

_EXTENT = {  # metres: height and width of a usual one
    "pole": (8.0, 2.0),
    "traffic light": (3.5, 0.8),
    "traffic sign": (3.4, 0.9),
    "tree": (6.0, 3.4),
    "pedestrian": (1.8, 0.8),
    "rider": (1.8, 1.8),
    "car": (1.6, 4.3),
}
_BOLLARDS = (1.0, 1.6)  # three in a row, half of the images of poles
THING_CLASSES = ("background", *_EXTENT)  # a class's place is its id in the masks
_ID = np.zeros(256, np.uint8)  # by the canvas's id: 0 but for things
_ID[[CLASSES.index(name) for name in _EXTENT]] = range(1, len(THING_CLASSES))
_GROUNDS = ("street", "houses", "wall", "fence", "studio")


def draw_things(rng: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (H,W,3) and ids of `THING_CLASSES`, uint8 (H,W); `size` is (H,W)."""
    height, width = (s * SUPERSAMPLING for s in size)
    camera = Camera(
        focal=width * rng.uniform(1.3, 2.2),
        center=width * rng.uniform(0.4, 0.6),
        horizon=height * rng.uniform(0.4, 0.6),
        height=rng.uniform(0.9, 1.7),
    )
    canvas = Canvas(size, camera, fair_daylight(rng))
    _ground(canvas, rng)
    count = 1 + int(rng.integers(3))
    things = []
    for i, name in enumerate(rng.permutation(list(_EXTENT))[:count].tolist()):
        paint, (high, wide) = partial(paint_thing, class_name=name), _EXTENT[name]
        if name == "pole" and rng.random() < 0.5:
            paint, (high, wide) = paint_bollards, _BOLLARDS
        share = rng.uniform(0.6, 1.0) / (1, 1.1, 1.25)[count - 1]  # of the image's sides
        scale = share * min(height / high, width / wide)  # pixels a metre
        scale = min(scale, (height - camera.horizon) / camera.height)  # its foot is in the image
        if high > camera.height:  # and its top
            scale = min(scale, camera.horizon / (high - camera.height))
        column = width * (i + rng.uniform(0.25, 0.75)) / count
        things.append((camera.focal / scale, (column - camera.center) / scale, paint))
    for z, x, paint in sorted(things, key=lambda thing: -thing[0]):  # the nearest is painted last
        paint(canvas, rng, x=x, z=z)
    image, ids = develop(canvas, rng)
    return image, _ID[ids]


def _ground(canvas: Canvas, rng: np.random.Generator) -> None:
    """Paint a street, houses, a wall, a fence or a studio; none holds one of the things."""
    kind, camera = pick(rng, _GROUNDS), canvas.camera
    if kind in ("fence", "studio"):
        backdrop(canvas, rng, camera.horizon + rng.uniform(0.1, 0.4) * canvas.image.height)
        if kind == "fence":
            z, angle = rng.uniform(14, 20), rng.uniform(-0.35, 0.35)
            high, style = rng.uniform(1.4, 2.2), int(rng.integers(4))
            paint_fence_across(canvas, rng, z, angle, high, style)
        return
    lanes = rng.uniform(3, 12, 2)
    street = Street((-lanes[0], lanes[1]), (-30, 30), ("park", "park"), None, None, (False, False))
    sky(canvas, rng)
    ground(canvas, rng, street)
    if kind == "wall":
        end_house(canvas, rng, rng.uniform(25, 45))
    elif kind == "houses":
        for way in (-1, 1):
            x, is_town = way * rng.uniform(5, 9), rng.random() < 0.6
            for z in (59, 44, 29, 14):
                high = rng.uniform(9, 18) if is_town else rng.uniform(4, 7)
                house(canvas, rng, x, (z, z + 15), high, is_town, not is_town)
