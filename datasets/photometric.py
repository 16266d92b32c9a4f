"""Brightness, contrast, saturation and hue of uint8 images, in OpenCV's 8 bit arithmetic.

Every step clips to 0..255; brightness and contrast truncate. Loader workers spend much of their
time here, so arithmetic is in place, and without torch's slow `where` and `%`.
"""

import math

import torch


def to_uint8(pixels: torch.Tensor) -> torch.Tensor:
    """float32 of 0..255 -> uint8, truncated. Through int16 it is three times faster."""
    return pixels.to(torch.int16).to(torch.uint8)


def adjust_brightness(image: torch.Tensor, offset: float) -> torch.Tensor:
    """Add `offset` to uint8 (3,H,W)."""
    if offset == 0:
        return image
    # Truncating value + offset, where it is not negative, equals adding a whole number.
    return image.to(torch.int16).add_(math.floor(offset)).clamp_(0, 255).to(torch.uint8)


def adjust_contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply uint8 (3,H,W) by `factor`."""
    return image if factor == 1 else to_uint8(image.float().mul_(factor).clamp_(0, 255))


def adjust_saturation(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply the HSV saturation of uint8 (3,H,W) by `factor`, at most up to full saturation.

    With hue and value fixed, a channel's distance from the largest channel is proportional to the
    saturation, so no conversion to HSV is needed. (Blending with grey would change the value.)
    """
    if factor == 1:
        return image
    value, chroma = _value_and_chroma(image)
    # HSV saturation is chroma / value, so value / chroma is the factor that reaches 1.
    factors = (value / chroma.clamp_(min=1)).clamp_(max=factor)
    pixels = image.float()
    torch.sub(value, pixels, out=pixels)
    torch.sub(value, pixels.mul_(factors), out=pixels)
    return to_uint8(pixels.round_())


def adjust_hue(image: torch.Tensor, steps: int) -> torch.Tensor:
    """Shift the HSV hue of uint8 (3,H,W) by `steps` of 2 degrees, -60 to 60.

    The hue is rounded to such steps, as in OpenCV's 8 bit HSV.
    """
    if steps == 0:
        return image
    value, chroma = _value_and_chroma(image)
    # Hue from whichever channel is the largest: 0, 60 or 120 steps, and up to 30 to either side by
    # the difference of the two others.
    red, green, blue = image.to(torch.int16)
    is_red, is_green, _ = image == image.amax(0)
    is_green &= ~is_red
    is_blue = ~(is_red | is_green)
    is_red, is_green, is_blue = (mask.view(torch.uint8) for mask in (is_red, is_green, is_blue))
    difference = (green - blue).mul_(is_red)
    difference += (blue - red).mul_(is_green)
    difference += (red - green).mul_(is_blue)
    sixths = difference.float().div_(chroma.clamp(min=1)).add_(2 * is_green + 4 * is_blue)
    hue = sixths.mul_(30).round_().add_(steps).to(torch.int16)
    # Channel = value - chroma * clamp(distance - 30, 0, 30) / 30, where the distance of the hue
    # from the channel's own is 90 - abs(abs(hue - own) - 90). Whole numbers up to the division.
    lowest, chroma = value.sub_(chroma, alpha=2), chroma.to(torch.int16)
    channels = torch.empty(image.shape)
    for own, channel in zip((0, 60, 120), channels, strict=True):
        folded = (hue - own).abs_().sub_(90).abs_().clamp_(30, 60)
        torch.div(folded.mul_(chroma), 30, out=channel).add_(lowest)
    return to_uint8(channels.round_())


def _value_and_chroma(image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Largest channel, and its distance from the smallest: float32 (H,W) each."""
    largest = image.amax(0)
    return largest.float(), (largest - image.amin(0)).float()
