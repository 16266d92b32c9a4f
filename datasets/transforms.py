"""Augmentation of training images, and normalisation, as the authors' pipeline computes them.

Order: resize by a random ratio, random crop, flip, photometric distortion, pad to the crop size.
All numbers are drawn first (`TrainTransform.draw`) and used afterwards (`TrainTransform.apply`).
Images are uint8 (3,H,W) RGB; every photometric step clips to 0..255 and truncates, as the authors'
OpenCV code does. Sizes are (height, width).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from datasets.labels import IGNORE_INDEX
from datasets.photometric import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
)
from utils.config import Config

# RGB, for values of 0..255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
CLIP_MEAN = tuple(255 * x for x in (0.48145466, 0.4578275, 0.40821073))
CLIP_STD = tuple(255 * x for x in (0.26862954, 0.26130258, 0.27577711))
_STATISTICS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "clip": (CLIP_MEAN, CLIP_STD)}


@dataclass(frozen=True)
class Augmentation:
    """All numbers drawn for one image; the photometric defaults leave the pixels alone."""

    size: tuple[int, int]  # after the resize
    top: int = 0
    left: int = 0
    flip: bool = False
    brightness: float = 0.0  # added
    contrast: float = 1.0  # factor
    contrast_last: bool = False  # after saturation and hue, not before
    saturation: float = 1.0  # factor
    hue: int = 0  # steps of 2 degrees


@dataclass(frozen=True)
class TrainTransform:
    """The random joint transform of an image and its mask."""

    resize_to: tuple[int, int]
    ratio_range: tuple[float, float]
    crop_size: tuple[int, int]
    flip_probability: float = 0.5
    photometric_distortion: bool = True

    @classmethod
    def from_config(cls, config: Config) -> "TrainTransform":
        return cls(
            config.resize_to,
            config.ratio_range,
            config.crop_size,
            config.flip_probability,
            config.photometric_distortion,
        )

    def draw(self, size: tuple[int, int], generator: torch.Generator) -> Augmentation:
        """Draw the augmentation of an image of `size`."""

        def uniform(low: float, high: float) -> float:
            unit = torch.rand((), generator=generator, dtype=torch.float64)
            return low + (high - low) * unit.item()

        def integer(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (), generator=generator))

        resized = self.resized(size, uniform(*self.ratio_range))
        top, left = (
            integer(0, max(r - c, 0)) for r, c in zip(resized, self.crop_size, strict=True)
        )
        flip = uniform(0, 1) < self.flip_probability
        if not self.photometric_distortion:
            return Augmentation(resized, top, left, flip)
        return Augmentation(
            resized,
            top,
            left,
            flip,
            brightness=uniform(-32, 32) if integer(0, 1) else 0.0,
            contrast=uniform(0.5, 1.5) if integer(0, 1) else 1.0,
            contrast_last=integer(0, 1) == 1,
            saturation=uniform(0.5, 1.5) if integer(0, 1) else 1.0,
            hue=integer(-18, 17) if integer(0, 1) else 0,
        )

    def resized(self, size: tuple[int, int], ratio: float) -> tuple[int, int]:
        """The size of an image of `size` after the resize by a random `ratio`."""
        return fit_into(size, (int(self.resize_to[0] * ratio), int(self.resize_to[1] * ratio)))

    def apply(
        self, image: torch.Tensor, mask: torch.Tensor | None, augmentation: Augmentation
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """uint8 image (3,H,W), mask (H,W) -> image (3,h,w), mask (h,w), valid (h,w) at crop_size.

        Padding at the bottom and on the right is 0 in the image, IGNORE_INDEX in the mask and False
        in `valid`.
        """
        a = augmentation
        window = (a.top, a.left, *map(min, self.crop_size, a.size))
        image = _resize_window(image, a.size, window)
        if a.flip:
            image = image.flip(-1)
        image = _distort(image, a)
        height, width = window[2:]
        padding = (0, self.crop_size[1] - width, 0, self.crop_size[0] - height)
        valid = F.pad(torch.ones(height, width, dtype=torch.bool), padding, value=False)
        if mask is not None:
            mask = _resize_window_nearest(mask, a.size, window)
            mask = F.pad(mask.flip(-1) if a.flip else mask, padding, value=IGNORE_INDEX)
        return F.pad(image, padding), mask, valid


def fit_into(size: tuple[int, int], box: tuple[int, int]) -> tuple[int, int]:
    """The largest size with the proportions of `size` that fits into `box`.

    Long side is held against long side, whichever way up the two are, as in the authors' code.
    """
    factor = min(max(box) / max(size), min(box) / min(size))
    return max(int(size[0] * factor + 0.5), 1), max(int(size[1] * factor + 0.5), 1)


def resize_image(image: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """uint8 (3,H,W) -> (3,*size), bilinear without antialiasing."""
    if tuple(image.shape[1:]) == tuple(size):
        return image
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]


def resize_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """uint8 (H,W) -> `size`, nearest: never a class that was not there."""
    return _resize_window_nearest(mask, size, (0, 0, *size))


def _resize_window(
    image: torch.Tensor, size: tuple[int, int], window: tuple[int, int, int, int]
) -> torch.Tensor:
    """``resize_image(image, size)`` inside `window` (top, left, height, width) only.

    At ratio 2 that is a tenth of the work.
    """
    grid = []
    for axis, (start, length) in enumerate(((window[0], window[2]), (window[1], window[3]))):
        extent = image.shape[1 + axis]
        centers = torch.arange(start, start + length, dtype=torch.float64) + 0.5
        source = (centers * (extent / size[axis]) - 0.5).clamp(0, extent - 1)
        first, last = int(source[0]), min(int(source[-1]) + 2, extent)
        image = image.narrow(1 + axis, first, last - first)
        # grid_sample counts from -1 to 1 over the outer edges of what it is given.
        grid.append(((source - first + 0.5) * (2 / (last - first)) - 1).float())
    rows, columns = grid
    points = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1)
    pixels = F.grid_sample(
        image[None].float(), points[None], padding_mode="border", align_corners=False
    )
    return pixels[0].round_().to(torch.uint8)


def _resize_window_nearest(
    mask: torch.Tensor, size: tuple[int, int], window: tuple[int, int, int, int]
) -> torch.Tensor:
    """``resize_mask(mask, size)`` inside `window`."""
    for axis, (start, length) in enumerate(((window[0], window[2]), (window[1], window[3]))):
        extent = mask.shape[axis]
        # OpenCV's law with its rounding: the product can fall just below a whole number.
        step = 1 / (size[axis] / extent)
        source = torch.arange(start, start + length, dtype=torch.float64) * step
        mask = mask.index_select(axis, source.long().clamp_(max=extent - 1))
    return mask


def _distort(image: torch.Tensor, a: Augmentation) -> torch.Tensor:
    image = adjust_brightness(image, a.brightness)
    if not a.contrast_last:
        image = adjust_contrast(image, a.contrast)
    image = adjust_hue(adjust_saturation(image, a.saturation), a.hue)
    return adjust_contrast(image, a.contrast) if a.contrast_last else image


def normalize(
    image: torch.Tensor, statistics: str, valid: torch.Tensor | None = None
) -> torch.Tensor:
    """uint8 (B,3,H,W) -> float32 (value - mean) / std; 0 where `valid` (B,H,W) is False.

    `statistics` is "imagenet" or "clip".
    """
    mean, std = (
        torch.tensor(values, device=image.device).view(3, 1, 1)
        for values in _STATISTICS[statistics]
    )
    normalized = (image.float() - mean) / std
    return normalized if valid is None else normalized.masked_fill_(~valid[:, None], 0)
