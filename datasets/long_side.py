"""Augmentation of the CAM methods: random long side, bicubic; flip; random place in a container.

Irn, PSA and SEAM resize with Pillow, crop at random, and put the rest of the crop around images
that are smaller, at a random place. Images are uint8 (3,H,W) RGB, sizes (height, width).
"""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageEnhance
from torch import Tensor

from datasets.windows import Size, Window

# Factors of brightness, contrast and saturation are within 1 - JITTER and 1 + JITTER; the hue moves
# by up to HUE turns (torchvision's ColorJitter, as psa and SEAM call it).
JITTER, HUE = 0.3, 0.1


def resize_bicubic(image: Tensor, size: Size) -> Tensor:
    """uint8 (3,h,w) -> (3,*size) as Pillow does; the tensor itself where it has that size."""
    if tuple(image.shape[1:]) == tuple(size):
        return image
    resized = _to_pillow(image).resize((size[1], size[0]), Image.Resampling.BICUBIC)
    return _from_pillow(resized, image.device)


def with_long_side(size: Size, long_side: int) -> Size:
    """`size` at the scale that gives the long side; a half is rounded to even."""
    height, width = (max(1, round(side * long_side / max(size))) for side in size)
    return height, width


def place(maps: Tensor, crop_size: Size, offsets: Size) -> Tensor:
    """maps (...,h,w) in zeros (...,*crop_size). offsets (y,x): where the crop starts in the maps.

    Along an axis where the maps are not larger than the crop: where they start in it.
    """
    result = maps.new_zeros(*maps.shape[:-2], *crop_size)
    source, target = [], []
    for length, crop, offset in zip(maps.shape[-2:], crop_size, offsets, strict=True):
        is_larger = length > crop
        source.append(slice(offset, offset + crop) if is_larger else slice(None))
        target.append(slice(None) if is_larger else slice(offset, offset + length))
    result[(..., *target)] = maps[(..., *source)]
    return result


def draw_offsets(size: Size, crop_size: Size, generator: torch.Generator) -> Size:
    """Random `place` of maps of `size`: x is drawn first, then y."""
    x, y = (
        int(torch.randint(abs(size[axis] - crop_size[axis]) + 1, (), generator=generator))
        for axis in (1, 0)
    )
    return y, x


def color_jitter(image: Tensor, amounts: tuple[float, ...], order: tuple[int, ...]) -> Tensor:
    """uint8 (3,h,w) with other colours: factors of brightness, contrast and saturation, hue shift.

    order: of these four, by number.
    """
    picture = _to_pillow(image)
    for number in order:
        if number < 3:
            kind = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)[number]
            picture = kind(picture).enhance(amounts[number])
        else:
            hue, saturation, value = picture.convert("HSV").split()
            moved = np.asarray(hue) + np.uint8(int(amounts[3] * 255) % 256)
            bands = Image.fromarray(moved), saturation, value
            picture = Image.merge("HSV", bands).convert("RGB")
    return _from_pillow(picture, image.device)


def draw_jitter(generator: torch.Generator) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Random amounts and order for `color_jitter`."""
    unit = 2 * torch.rand(4, generator=generator, dtype=torch.float64) - 1
    amounts = (*(1 + JITTER * unit[:3]).tolist(), HUE * unit[3].item())
    return amounts, tuple(torch.randperm(4, generator=generator).tolist())


@dataclass(frozen=True)
class Placement:
    """All numbers drawn for one image."""

    size: Size  # after the resize
    offsets: Size
    flip: bool
    jitter: tuple[tuple[float, ...], tuple[int, ...]] | None = None


@dataclass(frozen=True)
class LongSideTransform:
    """The augmentation, for `datasets.training.TrainingSet`; long_sides: the least and greatest."""

    long_sides: tuple[int, int]
    crop_size: Size
    jitter: bool = False
    flip_probability: float = 0.5

    def draw(self, size: Size, generator: torch.Generator) -> Placement:
        """Draw the augmentation of an image of `size`."""
        low, high = self.long_sides
        long_side = int(torch.randint(low, high + 1, (), generator=generator))
        resized = with_long_side(size, long_side)
        flip = torch.rand((), generator=generator).item() < self.flip_probability
        jitter = draw_jitter(generator) if self.jitter else None
        return Placement(resized, draw_offsets(resized, self.crop_size, generator), flip, jitter)

    def source(self, size: Size, placement: Placement) -> Window:
        """The window of an image of `size` that `apply` uses: all of it."""
        return (0, 0, *size)

    def apply(
        self, image: Tensor, mask: None, placement: Placement, size: Size | None = None
    ) -> tuple[Tensor, None, Tensor]:
        """uint8 (3,H,W) -> image (3,h,w), None, valid (h,w), False around the image.

        Raises ValueError for a mask: none of these methods trains with one.
        """
        if mask is not None:
            raise ValueError("LongSideTransform moves no masks")
        image = resize_bicubic(image, placement.size)
        if placement.flip:
            image = image.flip(-1)
        if placement.jitter is not None:
            image = color_jitter(image, *placement.jitter)
        valid = torch.ones(placement.size, dtype=torch.bool)
        crop = self.crop_size, placement.offsets
        return place(image, *crop), None, place(valid, *crop)


def _to_pillow(image: Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())


def _from_pillow(picture: Image.Image, device: torch.device) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).to(device)
