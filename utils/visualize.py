"""Pictures of label maps: colours, overlays, paletted files, legends, rows of panels."""

import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

IGNORED_COLOR = (0, 0, 0)


def colourize(prediction: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(H,W) class ids -> (H,W,3) uint8 RGB; ids without a colour (255 among them) are black."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    return colors[prediction]


def overlay(
    image: np.ndarray, prediction: np.ndarray, palette: np.ndarray, alpha: float = 0.5
) -> np.ndarray:
    """`image` (H,W,3) uint8 with the classes' colours at opacity `alpha`; ignored pixels stay."""
    if image.shape[:2] != prediction.shape:
        raise ValueError(
            f"image {image.shape[:2]} and prediction {prediction.shape} differ in size"
        )
    colored = colourize(prediction, palette)
    mixed = np.rint((1 - alpha) * image.astype(np.float32) + alpha * colored).astype(np.uint8)
    return np.where((prediction < len(palette))[..., None], mixed, image)


def save_image(path: str | Path, image: Image.Image | np.ndarray, **options: Any) -> None:
    """Write a picture whole or not at all, making its folder; the suffix says the format.

    `options` are Pillow's for it.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        image.save(temporary, **options)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def save_mask(path: str | Path, mask: np.ndarray, palette: np.ndarray) -> None:
    """Write class ids (H,W) uint8 as a PNG that stores the ids and shows the palette's colours."""
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f"a mask is uint8 (H,W), found {mask.dtype} {mask.shape}")
    image = Image.fromarray(mask)
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    colors[255] = IGNORED_COLOR
    image.putpalette(colors.tobytes())
    save_image(path, image, compress_type=zlib.Z_RLE)  # a fourth of the time for label maps


def legend(names: Sequence[str], palette: np.ndarray, rows: int = 8) -> np.ndarray:
    """A picture of coloured squares with the class names, `rows` to a column."""
    font = ImageFont.load_default(size=18)
    line, margin = 28, 10
    columns = [range(k, min(k + rows, len(names))) for k in range(0, len(names), rows)]
    widths = [max(int(font.getlength(names[k])) for k in column) + 50 for column in columns]
    image = Image.new("RGB", (sum(widths) + margin, min(rows, len(names)) * line + margin), "white")
    draw = ImageDraw.Draw(image)
    left = margin
    for column, width in zip(columns, widths, strict=True):
        for row, k in enumerate(column):
            top = margin + row * line
            color = tuple(int(c) for c in palette[k])
            draw.rectangle((left, top, left + 26, top + 17), fill=color, outline="black")
            draw.text((left + 34, top + 8), names[k], fill="black", font=font, anchor="lm")
        left += width
    return np.asarray(image)


def side_by_side(
    panels: Sequence[np.ndarray], titles: Sequence[str] = (), height: int = 240, gap: int = 6
) -> np.ndarray:
    """One row of pictures (H,W,3) uint8, scaled to one height, with titles above when given."""
    top = 26 if titles else 0
    scaled = []
    for panel in panels:
        image = Image.fromarray(panel)
        width = max(1, round(image.width * height / image.height))
        scaled.append(image.resize((width, height), Image.Resampling.LANCZOS))
    row = Image.new(
        "RGB", (sum(p.width for p in scaled) + gap * (len(scaled) - 1), height + top), "white"
    )
    draw, font = ImageDraw.Draw(row), ImageFont.load_default(size=17)
    left = 0
    for i, panel in enumerate(scaled):
        row.paste(panel, (left, top))
        if titles:
            draw.text((left + panel.width / 2, 12), titles[i], fill="black", font=font, anchor="mm")
        left += panel.width + gap
    return np.asarray(row)
