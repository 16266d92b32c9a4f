"""Conversion of a painted canvas to an image: texture, shadows, weather, camera effects."""

import math

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from demo.scenes.canvas import BUILDING, ROAD, SIDEWALK, SUPERSAMPLING, TREE, Canvas, Color
from demo.scenes.draws import fractal


def develop(canvas: Canvas, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Image uint8 (H,W,3) and class ids uint8 (H,W) of a canvas.

    Scales the canvas down, then adds texture, shadows, fog, rain, glow and camera effects. The
    image is (3,H,W) meanwhile: numpy is several times faster on whole channels.
    """
    light = canvas.light
    mask = _majority(np.asarray(canvas.image.getchannel("A")))
    reduced = canvas.image.convert("RGB").reduce(SUPERSAMPLING)  # RGBA would weight by the ids
    if rng.random() < 0.2:  # a lens slightly out of focus
        reduced = reduced.filter(ImageFilter.BoxBlur(rng.uniform(0.1, 0.4)))
    image = np.asarray(reduced).transpose(2, 0, 1).astype(np.float32, order="C")
    if light.weather == "rain":
        _wet_road(canvas, rng, image, mask)
    grain = rng.standard_normal(mask.shape, dtype=np.float32)
    strength = np.full(256, 0.012, np.float32)
    strength[[ROAD, SIDEWALK, BUILDING, TREE]] = 0.035, 0.03, 0.025, 0.11
    gain = 1 + grain * (strength * math.exp(-25 / light.fog_length))[mask]
    _ground_texture(canvas, rng, mask, gain)
    image *= gain
    _ground_fog(canvas, image, mask)
    night = max(0.15, 1.1 - sum(light.ambient) / 3)
    for class_id, *place, rgb in canvas.glows:
        column, row, radius = (x / SUPERSAMPLING for x in place)
        if _is_visible(mask, class_id, column, row):
            _add_glow(image, column, row, radius, [night * c for c in rgb])
    if light.weather == "rain":
        image += _streaks(rng, canvas.size)
    _camera_effects(rng, image, grain)
    np.clip(image, 0, 255, out=image)
    return image.astype(np.uint8).transpose(1, 2, 0).copy(), mask


def _majority(ids: np.ndarray) -> np.ndarray:
    """The most frequent id of each 2 x 2 block; in a tie, the upper left one."""
    a, b, c, d = ids[::2, ::2], ids[::2, 1::2], ids[1::2, ::2], ids[1::2, 1::2]
    return np.where((b == c) | (b == d), b, np.where(c == d, c, a))


def _ground_texture(
    canvas: Canvas, rng: np.random.Generator, mask: np.ndarray, gain: np.ndarray
) -> None:
    """Multiply `gain` by asphalt, paving and shadows, in the perspective of the ground."""
    first, x, z = canvas.camera.ground(canvas.size)
    x = x.clip(-200, 200)
    fine, coarse = rng.standard_normal((128, 128), dtype=np.float32), fractal(rng, (64, 64), 8)
    at = ((z * 15).astype(np.int32) & 127) * 128 + ((x * 35).astype(np.int32) & 127)
    texture = fine.take(at) * (0.07 / (1 + z / 12))
    at = ((z * 0.9).astype(np.int32) & 63) * 64 + ((x * 2.2).astype(np.int32) & 63)
    texture += 0.04 * coarse.take(at)
    texture += _shade(canvas)[first:] * (1 + texture) - 1
    on_walk = mask[first:] == SIDEWALK
    slab = rng.uniform(0.4, 1.0)
    near = int(np.searchsorted(-z[:, 0], -16.0))
    across, along = x[near:] / slab, z[near:] / slab
    joints = (across - np.floor(across) < 0.07) | (along - np.floor(along) < 0.07)
    texture[near:] -= 0.2 * (joints & on_walk[near:]) * np.clip(1.3 - z[near:] / 14, 0, 1)
    gain[first:] += gain[first:] * texture * (on_walk | (mask[first:] == ROAD))


def _shade(canvas: Canvas) -> np.ndarray:
    """Share of the light that reaches the ground, 0 to 1, float32 (h,w)."""
    sun = canvas.light.sun
    shade = Image.new("L", canvas.size[::-1], 255)
    pen = ImageDraw.Draw(shade)
    dark = int(255 * (1 - 0.5 * sun))
    for outline in canvas.sun_shadows:
        pen.polygon(outline, fill=dark)
    for outline in canvas.contact_shadows:
        pen.polygon(outline, fill=int(0.5 * dark))
    soft = shade.filter(ImageFilter.BoxBlur(1 if sun else 2))
    return np.asarray(soft).astype(np.float32) / 255


def _ground_fog(canvas: Canvas, image: np.ndarray, mask: np.ndarray) -> None:
    first, _, z = canvas.camera.ground(canvas.size)
    thick = 1 - np.exp(-z / np.float32(canvas.light.fog_length))
    thick = thick * ((mask[first:] == ROAD) | (mask[first:] == SIDEWALK))
    for channel, fog in zip(image[:, first:], canvas.light.sky_bottom, strict=True):
        channel += thick * (np.float32(fog) - channel)


def _wet_road(
    canvas: Canvas, rng: np.random.Generator, image: np.ndarray, mask: np.ndarray
) -> None:
    """Add reflections of what is behind the road, smeared along the line of sight."""
    horizon = int(canvas.camera.horizon / SUPERSAMPLING)
    rows = min(horizon, image.shape[1] - horizon)
    if rows < 4:
        return
    above = image[:, horizon - rows : horizon][:, ::-1].transpose(1, 2, 0).astype(np.uint8)
    coarse = Image.fromarray(above).resize((canvas.size[1] // 2, max(2, rows // 10)))
    smeared = np.asarray(coarse.resize((canvas.size[1], rows)))
    share = np.float32(rng.uniform(0.2, 0.45)) * (mask[horizon : horizon + rows] == ROAD)
    below = image[:, horizon : horizon + rows]
    below += share * (0.55 * smeared.transpose(2, 0, 1).astype(np.float32) - 0.6 * below)


def _is_visible(mask: np.ndarray, class_id: int, column: float, row: float) -> bool:
    """Whether the lamp at this place is not hidden."""
    rows, columns = mask.shape
    inside = 0 <= row < rows and 0 <= column < columns
    return inside and mask[int(row), int(column)] == class_id


def _add_glow(image: np.ndarray, column: float, row: float, radius: float, rgb: Color) -> None:
    reach = int(radius * 2.5) + 1
    top, left = max(int(row) - reach, 0), max(int(column) - reach, 0)
    patch = image[:, top : max(int(row) + reach + 1, 0), left : max(int(column) + reach + 1, 0)]
    if patch.size:
        rows = np.arange(top, top + patch.shape[1])[:, None] + 0.5 - row
        columns = np.arange(left, left + patch.shape[2])[None] + 0.5 - column
        weight = np.exp(-(rows**2 + columns**2) / (radius**2 + 0.5)).astype(np.float32)
        patch += weight * np.asarray(rgb, np.float32)[:, None, None]


def _streaks(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Rain: thin slanted lines, float32 (h,w)."""
    layer = Image.new("L", size[::-1], 0)
    pen = ImageDraw.Draw(layer)
    slant = rng.uniform(-0.25, 0.25)
    drops = rng.random((int(rng.integers(60, 220)), 3)) * (size[1], size[0], size[0] / 8)
    for u, v, long in drops.tolist():
        pen.line((u, v, u + slant * long, v + long), fill=22)
    return np.asarray(layer, np.float32)


def _camera_effects(rng: np.random.Generator, image: np.ndarray, grain: np.ndarray) -> None:
    """Exposure, white balance, vignette, contrast and sensor noise, in place."""
    height, width = image.shape[1:]
    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None]
    vignette = 1 - np.float32(rng.uniform(0, 0.16)) * (rows**2 + columns**2) / 2
    balance = rng.uniform(0.85, 1.12) * rng.uniform(0.96, 1.04, 3)
    contrast = rng.uniform(0.88, 1.14)
    strength = rng.uniform(1, 4.5)
    for i in range(3):
        image[i] *= vignette * np.float32(balance[i] * contrast)
        # Noise shared by the channels, and a third as much for each channel alone.
        noise = np.roll(grain, 31, 1) + np.float32(0.33) * np.roll(grain, (7, 67 * i), (0, 1))
        image[i] += noise * np.float32(strength) + np.float32(118 * (1 - contrast))
