"""The folder that predict.py writes for images: what may be there already."""

from collections.abc import Collection
from pathlib import Path

from utils.safe.errors import InputError
from utils.safe.files import check_new_files


def check_prediction_folder(
    names: Collection[str], out: Path, overwrite: bool, confidence: bool
) -> list[Path]:
    """Earlier confidence, to be removed where it would stand beside new label maps.

    Raises InputError when outputs would collide, exist already, or can't be written.
    """
    made_from = {"legend.png": "the legend"}
    for name in names:
        for ending in ("", "_overlay", "_confidence")[: 2 + confidence]:
            output = f"{name}{ending}.png"
            if output in made_from:
                raise InputError(
                    f"{made_from[output]} and the image '{name}' would both be written to "
                    f"{out / output}; rename the image"
                )
            made_from[output] = f"the image '{name}'"
    others = sorted({f"{name}_confidence.png" for name in names} - made_from.keys())
    earlier = [file for file in others if (out / file).exists()]
    check_new_files(out, [*made_from, *earlier], "--out", overwrite)
    return [out / file for file in earlier]
