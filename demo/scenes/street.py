"""The street itself in the synthetic scenes: daylight, sky, ground, houses and fences."""

from dataclasses import dataclass

import numpy as np
from PIL import Image

from demo.scenes.canvas import BUILDING, ROAD, SIDEWALK, SKY, TREE, Canvas, Color, Daylight
from demo.scenes.draws import fractal, pick, vary

NEAR = 2.0  # metres: nothing nearer is drawn
FAR = 85.0  # metres: end of the rows of houses
WALLS = (
    (150, 78, 60),
    (128, 66, 54),
    (172, 106, 80),  # brick
    (214, 202, 178),
    (226, 220, 206),
    (206, 180, 140),
    (190, 170, 150),
    (186, 196, 190),  # plaster
    (220, 190, 120),
    (196, 140, 116),
    (160, 176, 192),
    (178, 190, 160),
    (150, 150, 148),
    (124, 126, 128),
    (96, 98, 102),
    (166, 160, 152),  # concrete and stone
)


@dataclass(frozen=True)
class Street:
    """The plan of a straight or slightly bent street; x in metres, z ahead."""

    kerbs: tuple[float, float]  # left and right edge of the road
    fronts: tuple[float, float]  # outer edges of the sidewalks, where houses or fences begin
    sides: tuple[str, str]  # "town", "houses" or "park"
    cross: tuple[float, float] | None  # z of the near and the far edge of a crossing street
    end: float | None  # z of a house that closes the street
    parking: tuple[bool, bool]  # whether there is a parking lane, left and right


def draw_street(rng: np.random.Generator) -> Street:
    """A random plan."""
    lanes = (int(rng.random() < 0.25) + 1, int(rng.random() < 0.3) + 1)
    parking = (bool(rng.random() < 0.6), bool(rng.random() < 0.6))
    lane = rng.uniform(3.0, 3.5)
    kerbs = [lane * n + 2.2 * p for n, p in zip(lanes, parking, strict=True)]
    walks = rng.uniform(2.2, 5.0, 2)
    town = rng.random() < 0.6
    sides = ["town" if town else "houses"] * 2
    if rng.random() < 0.25:
        sides[int(rng.integers(2))] = "park"
    cross_at = rng.uniform(16, 42)
    cross = (cross_at, cross_at + rng.uniform(6, 10)) if rng.random() < 0.55 else None
    end = rng.uniform(50, 85) if rng.random() < 0.25 else None
    return Street(
        (-kerbs[0], kerbs[1]),
        (-kerbs[0] - walks[0], kerbs[1] + walks[1]),
        (sides[0], sides[1]),
        cross,
        end,
        parking,
    )


def draw_daylight(rng: np.random.Generator) -> Daylight:
    """Random weather and time of day."""
    kind = str(
        pick(rng, ["clear"] * 8 + ["overcast"] * 5 + ["rain"] * 2 + ["fog"] * 2 + ["dusk"] * 3)
    )
    angle = rng.uniform(0, 2 * np.pi)
    sun, clouds, fog, lamps = 0.0, 0.0, 300.0, False
    ambient, length = [0.95, 0.97, 1.0], rng.uniform(0.6, 2.2)
    cloud_color: Color = (245, 245, 245)
    if kind == "clear":
        sun, clouds, fog = rng.uniform(0.7, 1.0), rng.uniform(0.0, 0.75), rng.uniform(350, 900)
        warm = max(0.0, (length - 1.0) / 1.2)  # a low sun is warm
        ambient = [1.0 + 0.08 * warm, 0.98 - 0.02 * warm, 0.97 - 0.2 * warm]
        top = vary(rng, (78, 132, 206), 0.15)
        bottom = vary(rng, (190 + 40 * warm, 212 - 4 * warm, 236 - 50 * warm), 0.05)
    elif kind == "overcast":
        clouds, fog, ambient = 0.9, rng.uniform(220, 500), [0.86, 0.88, 0.9]
        top, bottom = vary(rng, (158, 166, 178), 0.1), vary(rng, (206, 210, 214), 0.08)
        cloud_color = (214, 216, 220)
    elif kind == "rain":
        clouds, fog, ambient = 0.9, rng.uniform(110, 240), [0.68, 0.71, 0.76]
        top, bottom = vary(rng, (116, 122, 132), 0.1), vary(rng, (164, 168, 174), 0.1)
        cloud_color, lamps = (150, 154, 160), bool(rng.random() < 0.5)
    elif kind == "fog":
        fog, ambient = rng.uniform(40, 110), [0.9, 0.91, 0.92]
        top = bottom = vary(rng, (196, 199, 202), 0.08)
        lamps = bool(rng.random() < 0.4)
    else:
        fog, lamps, clouds = 350.0, True, rng.uniform(0.2, 0.7)
        ambient = vary(rng, (0.5, 0.48, 0.55), 0.2)
        top, bottom = vary(rng, (52, 62, 108), 0.2), vary(rng, (226, 150, 110), 0.15)
        cloud_color = (150, 104, 118)
    return Daylight(
        kind,
        ambient,
        sun,
        float(np.cos(angle)),
        float(np.sin(angle)),
        length,
        top,
        bottom,
        clouds,
        cloud_color,
        fog,
        lamps,
    )


def sky(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw a gradient with clouds that flatten towards the horizon, over the whole canvas."""
    light, width = canvas.light, canvas.image.width
    height = int(min(max(canvas.camera.horizon + 10, 16), canvas.image.height))
    rows = np.linspace(0, 1, height // 4, dtype=np.float32)[:, None]
    noise = fractal(rng, (64, 128), 4)
    depth = 20 / (1.13 - rows)
    columns = 64 + np.linspace(-0.6, 0.6, width // 4, dtype=np.float32)[None] * depth
    texture = noise[(depth * 0.9).astype(int) & 63, columns.astype(int) & 127]
    cover = 0.85 * np.clip((texture + 2.2 * light.clouds - 1.4) * 0.8, 0, 1) * bool(light.clouds)
    image = np.empty((*cover.shape, 3), np.float32)
    up = rows**1.3
    for i in range(3):
        clear = light.sky_top[i] * (1 - up) + light.sky_bottom[i] * up
        image[..., i] = clear + (light.cloud_color[i] - clear) * cover
    small = Image.fromarray(image.clip(0, 255).astype(np.uint8))
    large = small.resize((width, height), Image.Resampling.BILINEAR)
    large.putalpha(SKY)
    canvas.image.paste(large)


def skyline(canvas: Canvas, rng: np.random.Generator) -> None:
    """Draw hazy houses and trees at the end of the street."""
    camera, z = canvas.camera, 150.0
    width = canvas.image.width
    column = -10.0
    foot = camera.horizon + camera.focal * camera.height / z + 2
    while column < width:
        span = rng.uniform(0.03, 0.1) * width
        high = rng.uniform(0.03, 0.1) * canvas.image.height
        if rng.random() < 0.65:
            wall = vary(rng, pick(rng, WALLS))
            box = (column, camera.horizon - high, column + span, foot)
            canvas.pen.rectangle(box, fill=canvas.color(wall, BUILDING, z, 0.8))
        else:
            fill = canvas.color((70, 92, 52), TREE, z, rng.uniform(0.8, 1.0))
            canvas.pen.rectangle(
                (column, camera.horizon - 0.3 * high, column + span, foot), fill=fill
            )
            for _ in range(6):
                u, r = column + rng.uniform(0, span), rng.uniform(0.3, 0.5) * high
                v = camera.horizon - rng.uniform(0.1, 0.5) * high
                canvas.pen.ellipse((u - 1.5 * r, v - r, u + 1.5 * r, v + r), fill=fill)
        column += span * 0.9


def ground(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    """Draw sidewalks, road, kerbs and markings."""
    near, far, z = 1.0, 200.0, 12.0
    walk = vary(
        rng, pick(rng, ((150, 148, 142), (128, 128, 126), (168, 158, 144), (150, 124, 112)))
    )
    asphalt = vary(
        rng, pick(rng, ((88, 88, 92), (104, 103, 102), (74, 75, 80), (112, 106, 98))), 0.15
    )
    canvas.ground_quad((-90, 90), (near, far), canvas.color(walk, SIDEWALK, z))
    road = canvas.color(asphalt, ROAD, z)
    left, right = street.kerbs
    last = street.end - 3 if street.end else far
    canvas.ground_quad((left, right), (near, last), road)
    kerb = canvas.color([min(c * 1.2, 215) for c in walk], SIDEWALK, z)
    gutter = canvas.color([c * 0.72 for c in asphalt], ROAD, z)
    for x, way in ((left, -1), (right, 1)):
        canvas.ground_quad((x, x - way * 0.3), (near, last), gutter)
        canvas.ground_quad((x, x + way * 0.2), (near, last), kerb)
    crossings = [street.cross] if street.cross else []
    if street.end:
        crossings.append((street.end - 12, street.end - 3))
    for start, end in crossings:
        canvas.ground_quad((-90, 90), (start, end), road)
        for x in ((-90, left), (right, 90)):
            canvas.ground_quad(x, (end, end + 0.25), kerb)
    for _ in range(int(rng.integers(1, 6))):  # mended asphalt and manholes
        x, at = rng.uniform(left, right - 1), rng.uniform(5, 40)
        size = rng.uniform(0.4, 1.8, 2)
        tone = canvas.color(asphalt, ROAD, z, rng.uniform(0.82, 1.1))
        canvas.ground_quad((x, min(x + size[0], right)), (at, at + 2.5 * size[1]), tone)
    _markings(canvas, rng, street)


def _markings(canvas: Canvas, rng: np.random.Generator, street: Street) -> None:
    paint = vary(rng, (214, 214, 208), 0.1)
    color = canvas.color(paint, ROAD, 12.0)
    left, right = street.kerbs
    gap = street.cross or (1e3, 1e3)
    last = (street.end or 110) - 14

    def line(x: float, dash: float, space: float) -> None:
        at = rng.uniform(NEAR, NEAR + dash + space)
        while at < last:
            if at > gap[1] or at + dash < gap[0] - 4:
                canvas.ground_quad((x - 0.07, x + 0.07), (at, at + dash), color)
            at += dash + space

    line(0.0, *((3.0, 3.0), (6.0, 0.0), (2.0, 4.0))[int(rng.integers(3))])
    for x, parks, way in ((left, street.parking[0], -1), (right, street.parking[1], 1)):
        inner = x - way * (2.2 if parks else 0.35)
        if parks or rng.random() < 0.5:
            line(inner, 5.0, 1.0 if parks else 0.0)
        lanes = round(abs(inner) / 3.3)
        for i in range(1, lanes):
            line(inner * i / lanes, 3.0, 4.0)
    if street.cross or rng.random() < 0.35:
        at = street.cross[0] - 4 if street.cross else rng.uniform(12, 32)
        if rng.random() < 0.75:
            for x in np.arange(left + 0.5, right - 0.5, 1.0):
                canvas.ground_quad((x, x + 0.5), (at, at + 3), color)
        canvas.ground_quad((0.2, right - 0.3), (at - 1.4, at - 1.0), color)
