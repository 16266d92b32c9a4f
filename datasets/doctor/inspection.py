"""Inspection of images and masks, each read once: errors in them, and oddities."""

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
from datasets.files import File, check_mask, is_plain_png, open_pil, read_image
from datasets.labels import IGNORE_INDEX
from datasets.windows import Size
from utils.progress import progress
from utils.safe.errors import InputError, InputWarning
from utils.safe.signals import leave_signals_to_parent

NOTE = "note"  # the kind of a `Finding` that is reported but is not odd


class Finding(NamedTuple):
    """An oddity in one line of text; there may be many of one `kind`."""

    kind: str
    text: str


class Inspection(NamedTuple):
    """Result for one image and its mask."""

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
    """Read an image and its mask, if given. An image smaller than `crop_size` is odd."""
    image, mask = files
    counts, size, stored, orientation, digest = None, None, None, 1, b""
    problems, odd = [], []
    try:
        if image is not None:
            data = image.read()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", InputWarning)  # `_form` reports it for each file
                pixels = read_image(image, data)
            with open_pil(data) as pil:  # read above: its header is intact
                stored = pil.size[::-1]
                odd += [Finding(kind, f"{image} {text}") for kind, text in _form(pil, pixels)]
                if not is_plain_png(pil, data):  # for a PNG's EXIF, Pillow decodes all of it
                    orientation = pil.getexif().get(ExifTags.Base.Orientation, 1)
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
                    f"{mask} has the size of the stored pixels of {image}, which are turned by "
                    f"EXIF orientation {orientation}; turn the mask too, or remove the orientation"
                )
            check_mask(values, mask, size or values.shape, num_classes)
            if orientation != 1:
                text = f"is turned by EXIF orientation {orientation}; check that its mask is too"
                odd.append(Finding("orientation", f"{image} {text}"))
            if counts[IGNORE_INDEX] == values.size:
                text = "has no labelled pixel: it affects neither training nor scores; check it"
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
                f"one of the {workers} processes was ended, probably for lack of memory; "
                "start fewer: --workers"
            ) from None


def _form(image: Image.Image, pixels: np.ndarray) -> list[tuple[str, str]]:
    """Oddities in how an image, not decoded yet, is stored: kind and text.

    pixels: its decoded pixels.
    """
    odd = []
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:  # MPO: of phones
        odd.append(
            ("pages", "has several pages or frames, of which only the first is read; save it alone")
        )
    if image.mode.startswith("I") or any(";16" in str(tile[3]) for tile in image.tile):
        text = "has 16 bits a channel, of which the upper 8 are read; save it with 8"
        if pixels.max() < 16:
            text += ", made brighter: it fills 12 bits at most and is read nearly black"
        odd.append(("16 bits", text))
    if image.mode == "CMYK":
        text = "is CMYK, made RGB without a colour profile; save it as RGB"
        odd.append(("CMYK", text))
    if image.mode[0] in "L1I":
        text = "is grey, read as three equal channels; check that the other images are grey too"
        odd.append(("grey", text))
    if _is_transparent(image):
        text = "has transparent pixels, which are read as opaque; save it without alpha"
        odd.append(("transparent", text))
    return odd


def _is_transparent(image: Image.Image) -> bool:
    if "transparency" in image.info:
        return True
    return "A" in image.getbands() and image.getchannel("A").getextrema()[0] < 255


def _content(pixels: np.ndarray, crop_size: Size | None) -> list[tuple[str, str]]:
    """Oddities of pixels (H,W,3): kind and text."""
    odd, (height, width) = [], pixels.shape[:2]
    first = pixels[0, 0]
    if (pixels[::32, ::32] == first).all() and (pixels == first).all():  # a few first, then all
        text = f"has the colour {pixels[0, 0].tolist()} everywhere; look at it"
        odd.append(("one colour", text))
    if crop_size and (height < crop_size[0] or width < crop_size[1]):
        text = (
            f"is {height}x{width} (height x width), smaller than crop_size {crop_size[0]}x"
            f"{crop_size[1]} of the config, and will be enlarged; leave it out or lower the sizes"
        )
        odd.append(("small", text))
    return odd
