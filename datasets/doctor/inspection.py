"""Inspection of images and masks, each read once: what is wrong with them, and what is odd."""

import functools
import hashlib
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, NamedTuple

import numpy as np
from PIL import ExifTags, Image

from datasets import SegmentationData
from datasets.files import File, check_mask, is_plain_png, open_picture, read_image
from datasets.labels import IGNORE_INDEX
from datasets.windows import Size
from utils.progress import progress
from utils.safe.errors import InputError, InputWarning
from utils.safe.signals import leave_signals_to_parent

NOTE = "note"  # the kind of a `Finding` that is told and is not odd


class Finding(NamedTuple):
    """Something that surprises, in one line; findings of one `kind` may be many."""

    kind: str
    text: str


class Inspection(NamedTuple):
    """What was seen of one image and its mask."""

    counts: np.ndarray | None  # pixels per id of the mask, (256,)
    problems: tuple[str, ...]
    odd: tuple[Finding, ...] = ()
    digest: bytes = b""  # of the image's pixels; empty where they haven't been read


def inspect_image(
    files: tuple[File | None, File | None],
    read_mask: Callable[[File], np.ndarray],
    num_classes: int,
    crop_size: Size | None = None,
) -> Inspection:
    """Read an image and its mask, where there are any. An image below `crop_size` is odd."""
    image, mask = files
    counts, size, stored, orientation, digest = None, None, None, 1, b""
    problems, odd = [], []
    try:
        if image is not None:
            data = image.read()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", InputWarning)  # `_form` says it of each file
                pixels = read_image(image, data)
            with open_picture(data) as picture:  # read above: its head is sound
                stored = picture.size[::-1]
                odd += [Finding(kind, f"{image} {text}") for kind, text in _form(picture, pixels)]
                if not is_plain_png(picture, data):  # of a PNG, Pillow decodes it all for that
                    orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
            size = pixels.shape[:2]
            odd += [Finding(kind, f"{image} {text}") for kind, text in _content(pixels, crop_size)]
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
                odd.append(Finding("orientation", f"{image} {text}"))
            if counts[IGNORE_INDEX] == values.size:
                text = "has no labelled pixel: it teaches and scores nothing; look at it"
                odd.append(Finding("no label", f"{mask} {text}"))
    except InputError as error:
        problems.append(str(error))
    return Inspection(counts, tuple(problems), tuple(odd), digest)


def inspect_all(
    dataset: SegmentationData,
    tasks: Sequence[tuple[File | None, File | None]],
    num_classes: int,
    workers: int,
    what: str,
    crop_size: Size | None = None,
) -> Iterator[Inspection]:
    """`inspect_image` of each task, by `parallel`."""
    read_mask = dataset.read_ground_truth
    options = {"read_mask": read_mask, "num_classes": num_classes, "crop_size": crop_size}
    return parallel(functools.partial(inspect_image, **options), tasks, workers, what)


def parallel(function: Callable, tasks: Sequence, workers: int, what: str) -> Iterator[Any]:
    """The results in order, with a progress bar; in this process when `workers` is 0."""
    if workers == 0:
        yield from progress(map(function, tasks), what, total=len(tasks))
        return
    workers = min(workers, max(1, len(tasks)))
    with ProcessPoolExecutor(workers, initializer=leave_signals_to_parent) as pool:
        try:
            yield from progress(pool.map(function, tasks, chunksize=8), what, total=len(tasks))
        except BrokenProcessPool:
            raise InputError(
                f"one of the {workers} processes was ended, most likely for want of memory; "
                "start fewer: --workers"
            ) from None


def _form(picture: Image.Image, pixels: np.ndarray) -> list[tuple[str, str]]:
    """What is odd about how an image, not decoded yet, is stored: kind and text.

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
