"""Brightness, contrast, saturation and hue of uint8 images, as OpenCV's 8 bit arithmetic has them.

Every step clips to 0..255; brightness and contrast truncate.
"""

import torch


def adjust_brightness(image: torch.Tensor, offset: float) -> torch.Tensor:
    """Add `offset` to uint8 (3,H,W)."""
    return image if offset == 0 else (image.float() + offset).clamp_(0, 255).to(torch.uint8)


def adjust_contrast(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply uint8 (3,H,W) by `factor`."""
    return image if factor == 1 else (image.float() * factor).clamp_(0, 255).to(torch.uint8)


def adjust_saturation(image: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply the HSV saturation of uint8 (3,H,W) by `factor`, at most up to full saturation.

    With hue and value fixed, a channel's distance from the largest channel is proportional to the
    saturation, so no conversion to HSV is needed. (Blending with grey would change the value.)
    """
    if factor == 1:
        return image
    value = image.amax(0)
    chroma = (value - image.amin(0)).float()
    value = value.float()
    # HSV saturation is chroma / value, so value / chroma is the factor that reaches 1.
    factors = (value / chroma.clamp(min=1)).clamp_(max=factor)
    return (value - (value - image) * factors).round_().to(torch.uint8)


def adjust_hue(image: torch.Tensor, steps: int) -> torch.Tensor:
    """Turn the HSV hue of uint8 (3,H,W) by `steps` of 2 degrees; the hue is rounded to such steps.

    Steps of 2 degrees are what OpenCV's 8 bit HSV has.
    """
    if steps == 0:
        return image
    red, green, blue = image.float()
    value = image.amax(0).float()
    chroma = value - image.amin(0)
    safe = chroma.clamp(min=1)
    # Hue in sixths of the circle, from whichever channel is the largest.
    sixths = torch.where(
        value == red,
        (green - blue) / safe,
        torch.where(value == green, (blue - red) / safe + 2, (red - green) / safe + 4),
    )
    sixths = ((sixths * 30).round_() + steps) / 30
    # Channel = value - chroma * clamp(min(k, 4 - k), 0, 1), k = (n + sixths) mod 6; n = 5, 3, 1.
    channels = []
    for n in (5, 3, 1):
        k = (sixths + n) % 6
        channels.append(value - chroma * torch.minimum(k, 4 - k).clamp_(0, 1))
    return torch.stack(channels).round_().to(torch.uint8)
