"""Numbers stored in an image file, where Pillow changes them.

Pillow stretches grey of 1, 2 and 4 bits to 0..255, inverts TIFFs whose 0 is white, keeps the upper
half of 16 bits a channel, and misreads some BMPs with a palette of greys.
"""

import numpy as np
from PIL import Image

from utils.safe.errors import InputError

_LOSSY = ("JPEG", "MPO", "WEBP")  # formats
_LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp")  # compressions
_SUBFILE, _PHOTOMETRIC, _SAMPLE_FORMAT = 254, 262, 339  # TIFF tags
_STEPS = {"L;2": 85, "L;4": 17}  # factor by which Pillow stretches


def class_ids(image: Image.Image, data: bytes, file: object) -> np.ndarray:
    """Label map as uint8 (H,W) of an image that isn't decoded yet: the numbers as stored.

    data: the file's content. Raises InputError naming `file` where the numbers are not class ids,
    or where the format changes them.
    """
    raw = raw_mode(image)
    _check_form(image, data, file, raw)
    image.load()
    values = _one_channel(image, file)
    if raw[:3] in _STEPS:
        values = values // _STEPS[raw[:3]]
    if image.mode == "L" and _tag(image, _SAMPLE_FORMAT) == 2:
        values = values.view(np.int8)
    if image.mode == "F" and not (values == np.floor(values)).all():
        odd = values[values != np.floor(values)][0]
        raise InputError(f"{file}: class ids are whole numbers, found {odd}; save it with 8 bits")
    low, high = values.min(), values.max()
    if low < 0 or high > 255:
        hint = "pixels without a label are 255" if low < 0 else "save it as PNG with 8 bits"
        found = f"down to {low}" if low < 0 else f"up to {high}"
        raise InputError(f"{file}: class ids run from 0 to 255, found {found}; {hint}")
    return values.astype(np.uint8, copy=False)


def check_bmp(image: Image.Image, data: bytes, file: object) -> None:
    """Raise InputError for a BMP with a palette of greys whose pixels Pillow unpacks wrongly."""
    if image.format != "BMP" or image.mode not in ("1", "L"):
        return
    place = 24 if int.from_bytes(data[14:18], "little") == 12 else 28
    bits = int.from_bytes(data[place : place + 2], "little")
    if image.tile[0][0] == "raw" and bits != (1 if image.mode == "1" else 8):
        raise InputError(
            f"{file}: a BMP of {bits} bits with a palette of greys can't be read; save it as PNG"
        )


def is_white_zero(image: Image.Image) -> bool:
    """Whether it is a TIFF in which 0 is white."""
    return _tag(image, _PHOTOMETRIC) == 0


def num_pages(image: Image.Image) -> int:
    """Number of pages or frames, without a TIFF's thumbnails."""
    pages = getattr(image, "n_frames", 1)
    if image.format != "TIFF" or pages == 1:
        return pages
    others = 0
    for page in range(1, pages):
        image.seek(page)
        others += not (_tag(image, _SUBFILE) or 0) & 1
    image.seek(0)
    return 1 + others


def raw_mode(image: Image.Image) -> str:
    """Pillow's name for the pixel format in the file ("L;4"); empty where no decoder is set."""
    how = image.tile[0][3] if image.tile else ""
    return str(how[0] if isinstance(how, tuple) else how)


def _check_form(image: Image.Image, data: bytes, file: object, raw: str) -> None:
    """Raise InputError for a format that changes numbers or is ambiguous."""
    form = image.format
    if form in _LOSSY or image.info.get("compression") in _LOSSY_TIFF:
        form = {"MPO": "JPEG", "WEBP": "WebP"}.get(form, form)
        form = "JPEG in TIFF" if form == "TIFF" else form
        raise InputError(f"{file}: {form} changes label numbers; masks must be PNG")
    check_bmp(image, data, file)
    if is_white_zero(image):
        raise InputError(
            f"{file}: a TIFF in which 0 is white: its numbers are ambiguous; save it as PNG, "
            "or with 0 as black (PhotometricInterpretation 1)"
        )
    if ";16" in raw and not image.mode.startswith("I"):
        raise InputError(
            f"{file}: {len(image.getbands())} channels of 16 bits; expected one channel of class "
            "ids: save it as grey PNG with 8 bits"
        )
    pages = num_pages(image)
    if pages > 1:
        raise InputError(f"{file}: {pages} pages; expected one map of class ids: save one as PNG")


def _one_channel(image: Image.Image, file: object) -> np.ndarray:
    """Numbers (H,W) of a decoded image."""
    mode, values = image.mode, np.array(image)
    if mode in ("L", "P", "1", "F") or mode.startswith("I"):
        return values.astype(np.uint8) if mode == "1" else values
    hint = "turn colours into class ids first"
    colors = values[..., : len(mode.removesuffix("A"))]
    if mode in ("LA", "RGB", "RGBA") and (colors == colors[..., :1]).all():
        hint = "turn it into grey by keeping one channel: image.getchannel(0), or array[..., 0]"
    raise InputError(
        f"{file}: expected one channel of class ids (grey or palette PNG), found {mode}; {hint}"
    )


def _tag(image: Image.Image, number: int) -> int | None:
    """The first value of a TIFF tag; None where it isn't set, or in other formats."""
    value = getattr(image, "tag_v2", {}).get(number)
    return value[0] if isinstance(value, tuple) else value
