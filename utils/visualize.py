"""Images of label maps: colours, overlays, paletted files, legends, rows of panels."""

import io
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from utils.safe.errors import printable, warn

IGNORED_COLOR = (0, 0, 0)
# Sizes of a gallery in pixels: approximate width, gap between panels, and height of letters when
# shown on a page of width _PAGE.
_WIDTH, _GAP, _TEXT, _PAGE = 1800, 6, 12, 900
_MASK_OPTIONS = {"compress_type": zlib.Z_RLE}  # a quarter of the time for label maps
_STRIP = 1 << 20  # pixels mixed at a time: in float64 they take 24 bytes each


def colourize(prediction: np.ndarray, palette: np.ndarray) -> np.ndarray:
    """(H,W) class ids -> (H,W,3) uint8 RGB; ids without a colour (255 among them) are black."""
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    return colors[prediction]


def overlay(
    image: np.ndarray, prediction: np.ndarray, palette: np.ndarray, alpha: float = 0.5
) -> np.ndarray:
    """`image` (H,W,3) uint8 with class colours at opacity `alpha`; ignored pixels keep theirs."""
    if image.shape[:2] != prediction.shape:
        raise ValueError(
            f"image {image.shape[:2]} and prediction {prediction.shape} differ in size"
        )
    result = np.empty_like(image)
    for top in range(0, len(image), rows := max(1, _STRIP // max(1, image.shape[1]))):
        strip = slice(top, top + rows)
        below, labels = image[strip], prediction[strip]
        colored = colourize(labels, palette)
        mixed = np.rint((1 - alpha) * below.astype(np.float32) + alpha * colored)
        known = (labels < len(palette))[..., None]
        result[strip] = np.where(known, mixed.astype(np.uint8), below)
    return result


def save_image(path: str | Path, image: Image.Image | np.ndarray, **options: Any) -> None:
    """Write an image atomically, creating its folder; the suffix decides the format.

    `options` are passed to Pillow.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    # Not based on the name, which could become longer than a file system allows.
    mark = f"{zlib.crc32(os.fsencode(path.name)):08x}"
    temporary = path.with_name(f".{mark}.{os.getpid()}.tmp{path.suffix}")
    try:
        image.save(temporary, **options)
        temporary.replace(path)
    except OSError as error:  # the error of a full disk names no file
        if error.errno and error.filename2 is None:
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def save_mask(path: str | Path, mask: np.ndarray, palette: np.ndarray) -> None:
    """Write class ids (H,W) uint8 as a PNG that stores the ids and shows the palette's colours."""
    save_image(path, _paletted(mask, palette), **_MASK_OPTIONS)


def encode_mask(mask: np.ndarray, palette: np.ndarray) -> bytes:
    """The bytes that `save_mask` writes."""
    return encode_png(_paletted(mask, palette), **_MASK_OPTIONS)


def encode_png(image: Image.Image | np.ndarray, **options: Any) -> bytes:
    """The bytes that `save_image` writes to a PNG."""
    buffer = io.BytesIO()
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    image.save(buffer, "PNG", **options)
    return buffer.getvalue()


def _paletted(mask: np.ndarray, palette: np.ndarray) -> Image.Image:
    if mask.dtype != np.uint8 or mask.ndim != 2:
        raise ValueError(f"a mask is uint8 (H,W), found {mask.dtype} {mask.shape}")
    image = Image.fromarray(mask)
    colors = np.zeros((256, 3), np.uint8)
    colors[: len(palette)] = palette
    colors[255] = IGNORED_COLOR
    image.putpalette(colors.tobytes())
    return image


def save_overlay(
    path: str | Path,
    image: np.ndarray,
    prediction: np.ndarray,
    palette: np.ndarray,
    alpha: float = 0.5,
) -> None:
    """Write an `overlay`, a PNG, in a sixth of the time that Pillow's default takes for photos."""
    save_image(path, overlay(image, prediction, palette, alpha), compress_type=zlib.Z_RLE)


def legend(names: Sequence[str], palette: np.ndarray, rows: int = 8, size: int = 18) -> np.ndarray:
    """Coloured squares with the class names, `rows` per column, letters of `size` pixels.

    A name with letters that the font lacks is replaced by its class id, with a warning.
    """
    font = ImageFont.load_default(size)
    names = _drawable(names, font)
    line, margin, box = round(1.55 * size), round(0.55 * size), round(1.45 * size)
    columns = [range(k, min(k + rows, len(names))) for k in range(0, len(names), rows)]
    widths = [max(int(font.getlength(names[k])) for k in c) + box + 3 * margin for c in columns]
    image = Image.new("RGB", (sum(widths) + margin, min(rows, len(names)) * line + margin), "white")
    draw = ImageDraw.Draw(image)
    left = margin
    for column, width in zip(columns, widths, strict=True):
        for row, k in enumerate(column):
            top = margin + row * line
            color = tuple(int(c) for c in palette[k])
            draw.rectangle((left, top, left + box, top + size - 1), fill=color, outline="black")
            place = (left + box + margin, top + size / 2 - 1)
            draw.text(place, names[k], fill="black", font=font, anchor="lm")
        left += width
    return np.asarray(image)


def wide_legend(
    names: Sequence[str], palette: np.ndarray, width: int, size: int = 18
) -> np.ndarray:
    """`legend` of as few rows as fit into `width`; of one column where none does."""
    legends = (legend(names, palette, rows, size) for rows in range(1, len(names) + 1))
    narrow = (shown for shown in legends if shown.shape[1] <= width)
    return next(narrow, legend(names, palette, len(names), size))


def stacked(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Two images (H,W,3) uint8, one above the other; white at the right and at the bottom makes
    width and height even, as films need them."""
    height, width = len(above) + len(below), max(above.shape[1], below.shape[1])
    page = np.full((height + height % 2, width + width % 2, 3), 255, np.uint8)
    page[: len(above), : above.shape[1]] = above
    page[len(above) : height, : below.shape[1]] = below
    return page


def _drawable(names: Sequence[str], font: Any) -> list[str]:
    # The font draws letters that it lacks (Cyrillic, Chinese, ...) as a box.
    box = bytes(font.getmask("\uffff"))
    shown = [printable(name) for name in names]
    lacking = [
        k for k, name in enumerate(shown) if any(bytes(font.getmask(c)) == box for c in name)
    ]
    if lacking:
        first = lacking[0]
        warn(
            f"legends show {len(lacking)} of {len(shown)} classes by their ids ({first} for "
            f"'{shown[first]}'): Pillow's font lacks letters of their names"
        )
    return [str(k) if k in lacking else name for k, name in enumerate(shown)]


def gallery(
    rows: Sequence[Sequence[np.ndarray]],
    titles: Sequence[str],
    names: Sequence[str],
    palette: np.ndarray,
    notes: Sequence[str] = (),
) -> np.ndarray:
    """Rows of panels (H,W,3) uint8 under `titles`, above the legend of the classes; (H,W,3) uint8.

    One panel width for all: a whole multiple of the first one's, or about an equal part of _WIDTH.
    `notes` has a text to print above each row.
    """
    native, part = rows[0][0].shape[1], (_WIDTH - _GAP) // len(titles) - _GAP
    panel_width = native * max(1, part // native) if native <= 1.3 * part else part
    inside = len(titles) * (panel_width + _GAP) - _GAP
    size = round(_TEXT * inside / _PAGE)
    strips = [_text_row(titles, panel_width, size, "ma")]
    for i, panels in enumerate(rows):
        if notes:
            strips.append(_text_row([notes[i]], inside, size, "la"))
        height = max(1, round(panels[0].shape[0] * panel_width / panels[0].shape[1]))
        row = Image.new("RGB", (inside, height), "white")
        for k, panel in enumerate(panels):
            row.paste(_scale(panel, panel_width, height), (k * (panel_width + _GAP), 0))
        strips.append(np.asarray(row))
    strips.append(wide_legend(names, palette, inside, size))
    width = max(strip.shape[1] for strip in strips)
    padded = [
        np.pad(strip, ((0, _GAP), (0, width - strip.shape[1]), (0, 0)), constant_values=255)
        for strip in strips
    ]
    return np.pad(np.concatenate(padded), ((_GAP, 0), (_GAP, _GAP), (0, 0)), constant_values=255)


def _scale(panel: np.ndarray, width: int, height: int) -> Image.Image:
    """Resize a panel: enlarge by repeating pixels, shrink without overshooting colours."""
    image = Image.fromarray(panel)
    larger = width >= image.width
    how = Image.Resampling.NEAREST if larger else Image.Resampling.HAMMING
    return image.resize((width, height), how)


def _text_row(texts: Sequence[str], width: int, size: int, anchor: str) -> np.ndarray:
    """Row of texts above panels of `width`; anchor "ma" centres them, "la" puts them left."""
    font = ImageFont.load_default(size)
    broken = [_break(text, font, width) for text in texts]
    line, height = round(1.25 * size), max(map(len, broken))
    shape = (len(texts) * (width + _GAP) - _GAP, height * line)
    row = Image.new("RGB", shape, "white")
    draw = ImageDraw.Draw(row)
    for k, lines in enumerate(broken):
        left = k * (width + _GAP) + (width // 2 if anchor == "ma" else 0)
        for i, text in enumerate(lines, height - len(lines)):
            draw.text((left, i * line), text, fill="black", font=font, anchor=anchor)
    return np.asarray(row)


def _break(text: str, font: Any, width: int) -> list[str]:
    """Break a text into lines of at most `width` pixels, inside words only where one is longer."""
    if "\n" in text:
        return [line for part in text.split("\n") for line in _break(part, font, width)]
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines += [""] * bool(lines[-1])
        for letter in word:
            if lines[-1] and font.getlength(lines[-1] + letter) > width:
                lines.append("")
            lines[-1] += letter
    return lines
