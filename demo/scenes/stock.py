"""Synthetic "stock photographs": one object, drawn as in the scenes, on another background."""

import math
from dataclasses import replace

import numpy as np
from PIL import Image

from demo.scenes.canvas import SUPERSAMPLING, Camera, Canvas, Daylight
from demo.scenes.cars import car
from demo.scenes.develop import develop
from demo.scenes.draws import fractal, pick, vary
from demo.scenes.fences import FENCE_COLORS, paint_fence
from demo.scenes.houses import end_house, house
from demo.scenes.people import pedestrian, rider
from demo.scenes.roadside import bollard, lamp_post, traffic_light, traffic_sign
from demo.scenes.street import Street, draw_daylight, ground, sky, skyline
from demo.scenes.trees import hedge, tree
from demo.scenes.walls import Face

_BACKGROUND = 255  # the class id of pixels without a class
_EXTENT = {  # metres: width and height of the view, height of its middle above the ground
    "pole": (2.4, 4.5, 5.0),
    "traffic light": (1.1, 1.6, 2.75),
    "traffic sign": (1.6, 1.7, 2.7),
    "tree": (4.0, 6.4, 3.1),
    "pedestrian": (0.9, 1.9, 0.92),
    "rider": (1.9, 1.9, 0.9),
    "car": (4.3, 1.9, 0.75),
}
_HORIZON = {"road": 0.2, "sidewalk": 0.15, "building": 0.72, "sky": 0.95, "fence": 0.3}


def draw_object(class_name: str, rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """An image uint8 (H,W,3) that shows mostly this class; see `make_scenes.render_object`."""
    light = fair_daylight(rng)
    if class_name in _EXTENT:
        canvas = _thing(class_name, rng, size, light)
    else:
        canvas = _region(class_name, rng, size, light)
    image, _ = develop(canvas, rng)
    return image


def fair_daylight(rng: np.random.Generator) -> Daylight:
    """Random daylight: most photographers wait for better weather."""
    light = draw_daylight(rng)
    if rng.random() < 0.75:
        while light.weather not in ("clear", "overcast"):
            light = draw_daylight(rng)
        light = replace(light, fog_length=2e3)
    return light


def _thing(
    class_name: str, rng: np.random.Generator, size: tuple[int, int], light: Daylight
) -> Canvas:
    height, width = (s * SUPERSAMPLING for s in size)
    z, camera_height = rng.uniform(9, 14), rng.uniform(0.8, 1.8)
    wide, high, middle = _EXTENT[class_name]
    are_bollards = class_name == "pole" and rng.random() < 0.2
    if are_bollards:
        wide, high, middle = 1.6, 1.2, 0.45
    scale = rng.uniform(0.7, 1.1) * min(width / wide, height / high)  # pixels per metre
    horizon = height * rng.uniform(0.46, 0.54) + (middle - camera_height) * scale
    camera = Camera(scale * z, width * rng.uniform(0.42, 0.58), horizon, camera_height)
    canvas = Canvas(size, camera, light)
    backdrop(canvas, rng, horizon + camera_height * scale)
    if are_bollards:
        paint_bollards(canvas, rng, 0.0, z)
    else:
        paint_thing(canvas, rng, class_name, 0.0, z)
    return canvas


def paint_thing(
    canvas: Canvas, rng: np.random.Generator, class_name: str, x: float, z: float
) -> None:
    """Paint one thing of a class, turned at random, at (x, z) metres."""
    if class_name == "car":
        car(canvas, rng, x, z, rng.uniform(0, 2 * np.pi))
    elif class_name == "pedestrian":
        pedestrian(canvas, rng, x, z)
    elif class_name == "rider":
        turn, along = pick(rng, (-1, 1)), rng.random() < 0.45
        rider(canvas, rng, x, z, turn, along)
    elif class_name == "traffic light":
        traffic_light(canvas, rng, x, z, pick(rng, (-1, 1)), 0.0)
    elif class_name == "traffic sign":
        traffic_sign(canvas, rng, x, z)
    elif class_name == "tree":
        tree(canvas, rng, x, z, rng.uniform(5.0, 7.0))
    else:
        lamp_post(canvas, rng, x, z, pick(rng, (-1, 1)))


def paint_bollards(canvas: Canvas, rng: np.random.Generator, x: float, z: float) -> None:
    """Paint a row of three bollards around (x, z) metres."""
    for i in range(3):
        bollard(canvas, rng, x + 0.7 * i - 0.7, z - 0.4 * i)


def _region(
    class_name: str, rng: np.random.Generator, size: tuple[int, int], light: Daylight
) -> Canvas:
    """Road, sidewalk, building, sky or fence, filling most of the image."""
    height, width = (s * SUPERSAMPLING for s in size)
    way = pick(rng, (-1, 1))  # the side of the street that is shown
    lanes = rng.uniform(4, 14, 2)
    street = Street((-lanes[0], lanes[1]), (-30, 30), ("park", "park"), None, None, (False, False))
    x, focal, aside = 0.0, rng.uniform(0.9, 1.3), rng.uniform(-0.15, 0.15)
    horizon = _HORIZON[class_name]
    if class_name == "sidewalk":
        x, aside = way * (lanes[(way + 1) // 2] + rng.uniform(1.2, 4)), -way * rng.uniform(0.1, 0.4)
    elif class_name == "building":
        focal, aside = rng.uniform(0.7, 1.0), -way * rng.uniform(0.1, 0.35)
    horizon = height * (horizon + rng.uniform(-0.1, 0.1))
    camera = Camera(
        focal * max(height, width), width * (0.5 + aside), horizon, rng.uniform(1.5, 2.2), x
    )
    canvas = Canvas(size, camera, light)
    if class_name == "fence":
        backdrop(canvas, rng, horizon)
        _fence(canvas, rng)
        return canvas
    if class_name == "sky" and rng.random() < 0.6:
        canvas.camera = replace(camera, horizon=height * rng.uniform(1.0, 1.2))
        sky(canvas, rng)
        return canvas
    sky(canvas, rng)
    skyline(canvas, rng)
    ground(canvas, rng, street)
    if class_name == "building":
        _buildings(canvas, rng, way)
    elif class_name != "sky" and rng.random() < 0.5:
        edge = x + way * rng.uniform(2.5, 4) if class_name == "sidewalk" else way * 15
        for z in range(41, 0, -4):
            hedge(canvas, rng, edge, (z, z + 4), 1.3)
    return canvas


def _buildings(canvas: Canvas, rng: np.random.Generator, way: int) -> None:
    """A row of houses that faces the camera, or the houses on one side of a street."""
    if rng.random() < 0.5:
        end_house(canvas, rng, rng.uniform(11, 20))
        return
    x, z = way * rng.uniform(3, 6), rng.uniform(2, 6)
    is_town = rng.random() < 0.6
    heights = rng.uniform(9, 18, 3) if is_town else rng.uniform(4, 7, 3)
    for i in (2, 1, 0):
        house(canvas, rng, x, (z + 13 * i, z + 13 * i + 13), heights[i], is_town, not is_town)


def _fence(canvas: Canvas, rng: np.random.Generator) -> None:
    """A fence across the image, straight or slanted, sometimes in front of trees."""
    z, angle = rng.uniform(4, 6), rng.uniform(-0.35, 0.35)
    high, style = rng.uniform(1.4, 2.2), int(rng.integers(4))
    if rng.random() < 0.3:
        for u in np.arange(-6, 7, 1.5):
            tree(canvas, rng, u, z + 6, 3.0)
    paint_fence_across(canvas, rng, z, angle, high, style)


def paint_fence_across(
    canvas: Canvas, rng: np.random.Generator, z: float, angle: float, high: float, style: int
) -> None:
    """Paint a fence across the image, z metres ahead and turned by `angle` (radians)."""
    direction = math.cos(angle), math.sin(angle)
    origin = -7 * direction[0], z - 7 * direction[1]
    face = Face(canvas, origin, direction, 14.0, high, z, canvas.light.facing(0, -1))
    paint_fence(face, rng, style, vary(rng, pick(rng, FENCE_COLORS)))


def backdrop(canvas: Canvas, rng: np.random.Generator, foot: float) -> None:
    """A studio, lawn, room or blur, with the edge of the floor slightly above row `foot`."""
    width, height = (s // 4 for s in canvas.image.size)
    rows = np.arange(height, dtype=np.float32)[:, None, None]
    edge = foot / 4 - rng.uniform(0.02, 0.25) * height
    below = np.clip(rows - edge, 0, 1)
    kind, light = int(rng.integers(5)), np.asarray(canvas.light.ambient)
    noise = fractal(rng, (height, width), 6)[..., None]
    tones = rng.uniform(40, 230, (2, 3))
    wall, floor = 0.45 * tones + 0.55 * tones.mean(1, keepdims=True)  # mostly muted colours
    if kind == 0:  # a studio: one fading tone
        image = wall * (1 + rng.uniform(-0.3, 0.3) * (rows / height - 0.5)) + 4 * noise
    elif kind == 1:  # a lawn
        far = np.array(vary(rng, pick(rng, ((190, 212, 232), (96, 122, 70), (206, 204, 196)))))
        grass = np.array(vary(rng, (92, 122, 54), 0.2)) * (1 + 0.12 * noise)
        image = far * (1 + 0.08 * noise) * (1 - below) + grass * below
    elif kind == 2:  # a room
        image = wall * (1 - below) + floor * (1 + 0.05 * noise) * below
        image = image * np.where(np.abs(rows - edge) < 1.5, 0.8, 1.0)
    elif kind == 3:  # out of focus
        mixed = 1 / (1 + np.exp(-1.2 * noise))
        image = wall * mixed + floor * (1 - mixed)
    else:  # a plain wall with a grain
        image = wall * (1 + 0.06 * rng.standard_normal((height, width, 1), dtype=np.float32))
    image = np.broadcast_to(image * light, (height, width, 3)).clip(0, 255).astype(np.uint8)
    large = Image.fromarray(image).resize(canvas.image.size, Image.Resampling.BILINEAR)
    large.putalpha(_BACKGROUND)
    canvas.image.paste(large)
