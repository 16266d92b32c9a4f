"""Camera, daylight, and a canvas of colours and class ids for synthetic scenes.

World coordinates are in metres: x to the right, y up, z forward along the street. Colours are RGB,
0 to 255. The canvas is SUPERSAMPLING times as large as the image.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SUPERSAMPLING = 2
CLASSES = (
    "road",
    "sidewalk",
    "building",
    "fence",
    "pole",
    "traffic light",
    "traffic sign",
    "tree",
    "sky",
    "pedestrian",
    "rider",
    "car",
)
ROAD, SIDEWALK, BUILDING, FENCE, POLE, LIGHT, SIGN, TREE, SKY, PEDESTRIAN, RIDER, CAR = range(12)
Color = Sequence[float]
Point = tuple[float, float]
Fill = tuple[int, int, int, int]  # RGB and class id


@dataclass(frozen=True)
class Camera:
    """A pinhole camera that looks along the street; lengths are in canvas pixels."""

    focal: float
    center: float  # column of the vanishing point
    horizon: float  # its row
    height: float = 1.4  # metres above the ground
    x: float = 0.0  # metres to the right of the middle of the road
    curve: float = 0.0  # bend of the street, 1/m: a point z ahead lies curve*z*z further right

    def project(self, points: np.ndarray) -> np.ndarray:
        """(...,3) metres with z > 0 -> (...,2) canvas columns and rows."""
        z = points[..., 2]
        scale = self.focal / z
        place = np.empty((*points.shape[:-1], 2))
        place[..., 0] = (points[..., 0] - self.x) * scale + z * (self.focal * self.curve)
        place[..., 0] += self.center
        place[..., 1] = (self.height - points[..., 1]) * scale + self.horizon
        return place

    def point(self, x: float, y: float, z: float) -> Point:
        """`project` for one point."""
        column = self.center + self.focal * ((x - self.x) / z + self.curve * z)
        return column, self.horizon + self.focal * (self.height - y) / z

    def ground(self, size: tuple[int, int]) -> tuple[int, np.ndarray, np.ndarray]:
        """Ground points of the pixels of an image of `size` (h,w).

        Returns the first row that shows ground, and x (rows,w) and z (rows,1) in metres from that
        row on.
        """
        rows = (np.arange(size[0], dtype=np.float32) + 0.5) * SUPERSAMPLING
        first = int(np.searchsorted(rows, self.horizon + 1))
        z = (self.focal * self.height / (rows[first:] - self.horizon))[:, None]
        columns = (np.arange(size[1], dtype=np.float32) + 0.5) * SUPERSAMPLING - self.center
        return first, (columns[None] / np.float32(self.focal) - self.curve * z) * z + self.x, z


@dataclass(frozen=True)
class Daylight:
    """Weather and time of day."""

    weather: str
    ambient: Color  # the colour of a white object in the shade, 0 to 1
    sun: float  # 0 (covered) to 1
    sun_x: float  # direction of the sun, a unit vector on the ground
    sun_z: float
    shadow_length: float  # metres of shadow per metre of height
    sky_top: Color
    sky_bottom: Color
    clouds: float  # share of the sky that they cover
    cloud_color: Color
    fog_length: float  # metres after which 63 % of a colour is lost
    lamps: bool  # whether lamps and windows are lit

    def facing(self, normal_x: float, normal_z: float, normal_y: float = 0.0) -> float:
        """Brightness of a surface with this normal."""
        direct = normal_x * self.sun_x + normal_z * self.sun_z + 0.8 * normal_y
        return 0.8 + 0.12 * normal_y + 0.35 * self.sun * max(direct, -0.2)


class Canvas:
    """Colours in the first three channels, class ids in the fourth: one call draws both."""

    def __init__(self, size: tuple[int, int], camera: Camera, light: Daylight) -> None:
        """`size`: (h,w) of the finished image."""
        self.size, self.camera, self.light = size, camera, light
        height, width = size[0] * SUPERSAMPLING, size[1] * SUPERSAMPLING
        self.image = Image.new("RGBA", (width, height))
        self.pen = ImageDraw.Draw(self.image)
        self.sun_shadows: list[list[Point]] = []
        self.contact_shadows: list[list[Point]] = []
        self.glows: list[tuple[int, float, float, float, Color]] = []  # class, column, row, radius

    def tint(self, z: float) -> tuple[list[float], list[float]]:
        """Gain and offset per channel of daylight and fog at distance z."""
        clear = math.exp(-z / self.light.fog_length)
        gain = [a * clear for a in self.light.ambient]
        return gain, [c * (1 - clear) for c in self.light.sky_bottom]

    def color(self, rgb: Color, class_id: int, z: float, shade: float = 1.0) -> Fill:
        """The four channels of a surface of colour `rgb` at distance z."""
        return mix_color(rgb, class_id, *self.tint(z), shade)

    def quads(self, corners: np.ndarray, fills: Sequence[Fill]) -> None:
        """Fill polygons (N,P,3) in metres, in order; `fills` are N of `color`, or one for all."""
        flat = self.camera.project(corners).reshape(len(corners), -1).tolist()
        if len(fills) == 1:
            fills = list(fills) * len(flat)
        for points, fill in zip(flat, fills, strict=True):
            self.pen.polygon(points, fill=fill)

    def ground_quad(self, x: Point, z: Point, fill: Fill) -> None:
        """Fill a rectangle on the ground; a long one is divided to follow the bend."""
        cuts = list(z)
        if z[1] > 3 * z[0]:
            step = (z[1] / z[0]) ** (1 / 9)
            cuts = [z[0] * step**i for i in range(10)]
        left = [self.camera.point(x[0], 0.0, at) for at in cuts]
        right = [self.camera.point(x[1], 0.0, at) for at in reversed(cuts)]
        self.pen.polygon(left + right, fill=fill)

    def shadow(self, corners: Sequence[Point], contact: bool = False) -> None:
        """Darken a polygon of (x, z) on the ground: under an object, or in the sun's shadow."""
        if contact or self.light.sun:
            places = [self.camera.point(x, 0.0, max(z, 1.0)) for x, z in corners]
            outline = [(u / SUPERSAMPLING, v / SUPERSAMPLING) for u, v in places]
            (self.contact_shadows if contact else self.sun_shadows).append(outline)

    def cast(self, x: float, z: float, width: float, bottom: float, top: float) -> None:
        """Add the sun's shadow of an upright object of this width between two heights."""
        sun_x, sun_z, length = self.light.sun_x, self.light.sun_z, self.light.shadow_length
        a, b = -sun_z * width / 2, sun_x * width / 2
        near = x - sun_x * length * bottom, z - sun_z * length * bottom
        far = x - sun_x * length * top, z - sun_z * length * top
        self.shadow(
            [
                (near[0] - a, near[1] - b),
                (near[0] + a, near[1] + b),
                (far[0] + a, far[1] + b),
                (far[0] - a, far[1] - b),
            ]
        )

    def cast_block(self, foot: Sequence[Point], high: float) -> None:
        """Add the sun's shadow of an upright block with this outline on the ground."""
        if not self.light.sun:
            return
        a = -self.light.sun_x * self.light.shadow_length * high
        b = -self.light.sun_z * self.light.shadow_length * high
        moved = [(x + a, z + b) for x, z in foot]
        for i in range(len(foot)):
            self.shadow([foot[i], foot[i - 1], moved[i - 1], moved[i]])
        self.shadow(moved)

    def label_only(self, points: Sequence[Point], class_id: int) -> None:
        """Set the class, not the colour, of the area seen through a lattice."""
        columns, rows = zip(*points, strict=True)
        width, height = self.image.size
        box = (
            max(int(min(columns)), 0),
            max(int(min(rows)), 0),
            min(int(max(columns)) + 1, width),
            min(int(max(rows)) + 1, height),
        )
        if box[0] >= box[2] or box[1] >= box[3]:
            return
        patch = self.image.crop(box)
        ids = patch.getchannel("A")
        moved = [(c - box[0], r - box[1]) for c, r in points]
        ImageDraw.Draw(ids).polygon(moved, fill=class_id)
        patch.putalpha(ids)
        self.image.paste(patch, box)


def mix_color(rgb: Color, class_id: int, gain: Color, offset: Color, shade: float) -> Fill:
    """`rgb` under the gain and offset of `Canvas.tint`, as the four channels of the canvas."""
    r = int(rgb[0] * gain[0] * shade + offset[0])
    g = int(rgb[1] * gain[1] * shade + offset[1])
    b = int(rgb[2] * gain[2] * shade + offset[2])
    return (min(r, 255), min(g, 255), min(b, 255), class_id)
