"""Pixels without a class in a look-up: a few are ignored, more are an error."""

from collections.abc import Callable

import numpy as np

from datasets.files import File
from utils.safe.errors import InputError

MOST = 0.001  # share of the pixels; CamVid's release has some in Seq05VD_f02610_L.png


def refuse_unknown(
    is_unknown: np.ndarray,
    values: np.ndarray,
    file: File,
    what: str,
    shown: Callable[[int], object],
    hint: Callable[[], str],
) -> None:
    """Raise InputError when more than a thousandth of the pixels is unknown.

    is_unknown: (H,W) bool. values: (H,W), of which the most frequent unknown ones are `shown` as
    examples. what: "colours of no class". hint: the likely cause and the remedy.
    """
    share = is_unknown.mean()
    if share <= MOST:
        return
    found, counts = np.unique(values[is_unknown], return_counts=True)
    examples = ", ".join(str(shown(int(v))) for v in found[np.argsort(-counts, kind="stable")][:3])
    raise InputError(
        f"{file}: {100 * share:.3g} % of the pixels have {what}, e.g. {examples}; {hint()}"
    )


def color_codes(pixels: np.ndarray, swapped: bool = False) -> np.ndarray:
    """One number a pixel, int32 (H,W), of uint8 (H,W,3): red * 65536 + green * 256 + blue.

    swapped: blue * 65536 + green * 256 + red.
    """
    high, middle, low = np.moveaxis(pixels.astype(np.int32), 2, 0)[:: -1 if swapped else 1]
    return (high << 16) + (middle << 8) + low


def color_of(code: int) -> list[int]:
    """[red, green, blue]."""
    return [code >> 16, code >> 8 & 255, code & 255]
