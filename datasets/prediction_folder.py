"""Folders of label maps of predict.py: what may be there already, and the names of the classes."""

from collections.abc import Collection, Sequence
from pathlib import Path

from datasets.mask_folder import read_made_from
from utils.safe.errors import InputError
from utils.safe.files import check_new_files, write_json

META = "meta.json"  # the class names, where `read_made_from` finds them
LEGEND = "legend.png"


def check_prediction_folder(
    names: Collection[str], out: Path, overwrite: bool, confidence: bool
) -> list[Path]:
    """Earlier confidence, to be removed where it would stand beside new label maps.

    Raises InputError when outputs would collide, exist already, or can't be written.
    """
    made_from = {LEGEND: "the legend"}
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


def write_class_names(folder: Path, class_names: Sequence[str]) -> None:
    """Write META: the names of the classes whose ids the label maps in `folder` hold."""
    made_from = {"method": "predict", "class_names": list(class_names)}
    write_json(folder / META, {"made_from": made_from})


def note_class_names(out: Path, class_names: Sequence[str]) -> None:
    """The same for images, unless it is there, or label maps of a version that wrote none are.

    Raises InputError where it has other names, or is of another program.
    """
    if not (out / META).exists():
        if not (out / LEGEND).exists():
            write_class_names(out, class_names)
        return
    folder, made_from = read_made_from(out)
    if folder != out or made_from.get("method") != "predict":
        raise InputError(f"{out / META} exists and is not of predict.py; name another folder")
    names = made_from["class_names"]
    if names != list(class_names):
        raise InputError(
            f"{out} holds label maps of other classes ({', '.join(map(str, names))[:60]}) than the "
            f"checkpoint has ({', '.join(class_names)[:60]}); name another folder, or remove it"
        )
