"""Augmentation and normalisation of images, as in the official pipeline.

Order: resize by a random ratio, random crop, flip, photometric distortion, pad to the crop size.
`TrainTransform.draw` draws all random numbers, `TrainTransform.apply` uses them.
Images are uint8 (3,H,W) RGB; every photometric step clips to 0..255 and truncates, as
the official OpenCV code does. Sizes are (height, width).
"""

import functools
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
from datasets.windows import (
    Size,
    Window,
    resize_window,
    resize_window_nearest,
    source_window,
)

# RGB, for values of 0..255.
IMAGENET_MEAN = (123.675, 116.28, 103.53)
IMAGENET_STD = (58.395, 57.12, 57.375)
CLIP_MEAN = tuple(255 * x for x in (0.48145466, 0.4578275, 0.40821073))
CLIP_STD = tuple(255 * x for x in (0.26862954, 0.26130258, 0.27577711))
_STATISTICS = {"imagenet": (IMAGENET_MEAN, IMAGENET_STD), "clip": (CLIP_MEAN, CLIP_STD)}


@dataclass(frozen=True)
class Augmentation:
    """All numbers drawn for one image; the photometric defaults leave the pixels alone."""

    size: Size  # after the resize
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

    image_size: Size
    scale_range: tuple[float, float]
    crop_size: Size
    flip_probability: float = 0.5  # as in the official code; no config key
    photometric_distortion: bool = True

    def draw(self, size: Size, generator: torch.Generator) -> Augmentation:
        """Draw the augmentation of an image of `size`."""

        def uniform(low: float, high: float) -> float:
            unit = torch.rand((), generator=generator, dtype=torch.float64)
            return low + (high - low) * unit.item()

        def integer(low: int, high: int) -> int:
            return int(torch.randint(low, high + 1, (), generator=generator))

        resized = self.resized(size, uniform(*self.scale_range))
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

    def resized(self, size: Size, ratio: float) -> Size:
        """The size of an image of `size` after the resize by a random `ratio`."""
        return fit_into(size, (int(self.image_size[0] * ratio), int(self.image_size[1] * ratio)))

    def apply(
        self,
        image: torch.Tensor,
        mask: torch.Tensor | None,
        augmentation: Augmentation,
        size: Size | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """uint8 image (3,H,W), mask (H,W) -> image (3,h,w), mask (h,w), valid (h,w) at crop_size.

        Padding at the bottom and on the right is 0 in the image, IGNORE_INDEX in the mask and False
        in `valid`. With `size`, that of the whole image, `image` is only its `source` window;
        the mask is always whole.
        """
        a, window = augmentation, self._window(augmentation)
        if size is None:
            size = tuple(image.shape[1:])
            top, left, height, width = self.source(size, a)
            image = image[:, top : top + height, left : left + width]
        strips = resize_window(image, size, a.size, window)
        image = torch.cat([_distort(s.flip(-1) if a.flip else s, a) for s in strips], dim=1)
        height, width = window[2:]
        padding = (0, self.crop_size[1] - width, 0, self.crop_size[0] - height)
        valid = _pad(torch.ones(height, width, dtype=torch.bool), padding, False)
        if mask is not None:
            mask = resize_window_nearest(mask, a.size, window)
            mask = _pad(mask.flip(-1) if a.flip else mask, padding, IGNORE_INDEX)
        return _pad(image, padding, 0), mask, valid

    def apply_points(
        self, points: torch.Tensor, augmentation: Augmentation, size: Size
    ) -> torch.Tensor:
        """float32 (n,3), rows (x, y, class), of an image of `size` -> where `apply` puts them.

        Whole numbers are the centres of pixels. Points outside the crop stay, with coordinates
        outside it.
        """
        a, (top, left, _, width) = augmentation, self._window(augmentation)
        x, y, ids = points.to(torch.float64).unbind(1)
        x = (x + 0.5) * (a.size[1] / size[1]) - 0.5 - left
        y = (y + 0.5) * (a.size[0] / size[0]) - 0.5 - top
        return torch.stack([width - 1 - x if a.flip else x, y, ids], 1).float()

    def source(self, size: Size, augmentation: Augmentation) -> Window:
        """The window of an image of `size` that `apply` uses."""
        return source_window(size, augmentation.size, self._window(augmentation))

    def _window(self, a: Augmentation) -> Window:
        """The crop in the resized image."""
        return (a.top, a.left, *map(min, self.crop_size, a.size))


def fit_into(size: Size, box: Size) -> Size:
    """The largest size with the proportions of `size` that fits into `box`.

    The long side is compared with the long side, in either orientation, as in the official code.
    """
    factor = min(max(box) / max(size), min(box) / min(size))
    return max(int(size[0] * factor + 0.5), 1), max(int(size[1] * factor + 0.5), 1)


def resize_image(image: torch.Tensor, size: Size) -> torch.Tensor:
    """uint8 (3,H,W) -> (3,*size), bilinear without antialiasing."""
    if tuple(image.shape[1:]) == tuple(size):
        return image
    return F.interpolate(image[None], size, mode="bilinear", align_corners=False)[0]


def _pad(pixels: torch.Tensor, padding: tuple[int, ...], value: float) -> torch.Tensor:
    """F.pad, which copies even where there is nothing to pad."""
    return F.pad(pixels, padding, value=value) if any(padding) else pixels


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
    mean, std = _statistics(statistics, image.device)
    normalized = image.to(torch.float32, copy=True).sub_(mean).div_(std)
    return normalized if valid is None else normalized.mul_(valid[:, None].view(torch.uint8))


@functools.cache  # a copy to a GPU makes the host wait
def _statistics(name: str, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in _STATISTICS[name])
    return mean, std
