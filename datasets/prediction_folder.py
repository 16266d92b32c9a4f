"""Folders of label maps of predict.py: what may be there already, and the names of the classes."""

from collections.abc import Collection, Sequence
from pathlib import Path

from utils.class_names import compare_class_names
from utils.safe.errors import InputError
from utils.safe.files import check_new_files, parse_json, write_json

META = "meta.json"  # the class names, where datasets/mask_folder.py reads them


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


def note_class_names(folder: Path, class_names: Sequence[str]) -> None:
    """Write META with the names of the classes whose ids the label maps in `folder` hold.

    Raises InputError where it is there already and has other names, or is of another program.
    """
    meta = folder / META
    try:
        made_from = parse_json(meta.read_bytes())["made_from"]
        is_ours, names = made_from["method"] == "predict", list(made_from["class_names"])
    except FileNotFoundError:
        write_json(meta, {"made_from": {"method": "predict", "class_names": list(class_names)}})
        return
    except (ValueError, KeyError, TypeError):
        is_ours = False
    if not is_ours:
        raise InputError(f"{meta} exists and is not of predict.py; name another folder")
    what = f"the label maps in {folder} were made"
    compare_class_names(names, class_names, what, "name another folder, or move them away")
