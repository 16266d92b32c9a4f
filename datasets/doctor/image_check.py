"""One image and its mask, looked at once: what is wrong with them, and what is odd."""

import hashlib
import warnings
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from datasets.files import File, check_mask, is_plain_png, open_picture, read_image
from datasets.labels import IGNORE_INDEX
from datasets.windows import Size
from utils.safe.errors import InputError, InputWarning

_ORIENTATION = 0x0112  # the EXIF tag
NOTE = "note"  # the kind of an `Odd` that is told and no oddity


class Odd(NamedTuple):
    """Something that surprises, in one line; what is of one `kind` may be many lines."""

    kind: str
    text: str


class Seen(NamedTuple):
    """What was seen of one image and its mask."""

    counts: np.ndarray | None  # pixels per id of the mask, (256,)
    digest: bytes  # of the image's pixels; empty where they can't be read
    problems: tuple[str, ...]
    odd: tuple[Odd, ...]


def look(
    files: tuple[File, File | None],
    read_mask: Callable[[File], np.ndarray],
    num_classes: int,
    crop_size: Size | None,
) -> Seen:
    """files: an image, and its mask if it has one. An image smaller than `crop_size` is odd."""
    image, mask = files
    counts, size, stored, orientation, digest = None, None, None, 1, b""
    problems, odd = [], []
    try:
        data = image.read()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", InputWarning)  # `_form` says it of each file
            pixels = read_image(image, data)
        with open_picture(data) as picture:  # read above: its head is sound
            stored = picture.size[::-1]
            odd += [Odd(kind, f"{image} {text}") for kind, text in _form(picture, pixels)]
            if not is_plain_png(picture, data):  # of a PNG, Pillow decodes it all for that
                orientation = picture.getexif().get(_ORIENTATION, 1)
        size = pixels.shape[:2]
        odd += [Odd(kind, f"{image} {text}") for kind, text in _content(pixels, crop_size)]
        digest = hashlib.blake2b(pixels, digest_size=16, key=repr(size).encode()).digest()
    except InputError as error:
        problems.append(str(error))
    try:
        if mask is not None:
            values = read_mask(mask)
            counts = np.bincount(values.ravel(), minlength=256)
            if size and values.shape == stored != size:
                raise InputError(
                    f"{mask} lies as the pixels of {image} are stored, which are turned by their "
                    f"EXIF orientation {orientation}; turn the mask too, or remove the orientation"
                )
            check_mask(values, mask, size or values.shape, num_classes)
            if orientation != 1:
                text = f"is turned by its EXIF orientation {orientation}; see that its mask is too"
                odd.append(Odd("orientation", f"{image} {text}"))
            if counts[IGNORE_INDEX] == values.size:
                text = "has no labelled pixel: it teaches and scores nothing; look at it"
                odd.append(Odd("no label", f"{mask} {text}"))
    except InputError as error:
        problems.append(str(error))
    return Seen(counts, digest, tuple(problems), tuple(odd))


def _form(picture: Image.Image, pixels: np.ndarray) -> list[tuple[str, str]]:
    """What is odd about how a picture, not decoded yet, is stored: kind and text.

    pixels: what is read of it.
    """
    odd = []
    if picture.format != "MPO" and getattr(picture, "n_frames", 1) > 1:  # MPO: of phones
        odd.append(
            ("pages", "has several pages or frames, of which the first is read; save it alone")
        )
    if picture.mode.startswith("I") or any(";16" in str(tile[3]) for tile in picture.tile):
        text = "has 16 bits a channel, of which the upper 8 are read; save it with 8"
        if pixels.max() < 16:
            text += ", made brighter: it fills 12 bits at most and is read nearly black"
        odd.append(("16 bits", text))
    if picture.mode == "CMYK":
        text = "is CMYK, made RGB without a colour profile; save it as RGB"
        odd.append(("CMYK", text))
    if picture.mode[0] in "L1I":
        text = "is grey, read as three equal channels; see that the other images are grey too"
        odd.append(("grey", text))
    if _is_transparent(picture):
        text = "has transparent pixels, which are read as if they were not; save it without alpha"
        odd.append(("transparent", text))
    return odd


def _is_transparent(picture: Image.Image) -> bool:
    if "transparency" in picture.info:
        return True
    return "A" in picture.getbands() and picture.getchannel("A").getextrema()[0] < 255


def _content(pixels: np.ndarray, crop_size: Size | None) -> list[tuple[str, str]]:
    """What is odd about pixels (H,W,3): kind and text."""
    odd, (height, width) = [], pixels.shape[:2]
    first = pixels[0, 0]
    if (pixels[::32, ::32] == first).all() and (pixels == first).all():  # some, then all
        text = f"has the colour {pixels[0, 0].tolist()} everywhere; look at it"
        odd.append(("one colour", text))
    if crop_size and (height < crop_size[0] or width < crop_size[1]):
        text = (
            f"is {height}x{width} (height x width), smaller than crop_size {crop_size[0]}x"
            f"{crop_size[1]} of the config, and will be enlarged; leave it out or lower the sizes"
        )
        odd.append(("small", text))
    return odd
