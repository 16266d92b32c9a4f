"""Folder of pseudo-masks: <image id>.png, and meta.json with what they were made from."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from datasets.files import MASK_SUFFIXES, File, list_files
from datasets.mask_shards import list_masks
from utils.class_names import compare_class_names
from utils.collection import collection_paused
from utils.made_from import changed, listed
from utils.old_config import VALUES
from utils.safe.errors import InputError
from utils.safe.files import parse_json

_OPTIONAL = ("confidence", "min_confidence")  # of "made_from": present where the option is used


def confidence_folder(folder: Path) -> Path:
    """The folder for confidence: beside that of the masks, which are then the only images there."""
    return Path(f"{folder}_confidence")


@collection_paused()
def pseudo_mask_files(
    folder: str | Path,
    names: Iterable[str],
    class_names: Sequence[str] | None = None,
    split: str | None = None,
) -> dict[str, File]:
    """The mask ``<folder>/<image id>.png`` (or .tif, .bmp) of every image id.

    Raises InputError when some are missing, or when they were made for other classes than
    `class_names` or for another split.
    """
    if class_names is not None:
        check_class_names(Path(folder), class_names, split)
    found, names = list_masks(Path(folder)), list(names)
    missing = [name for name in names if name not in found]
    if missing:
        if not found:
            list_files(Path(folder), MASK_SUFFIXES)  # warns of files that are not read
        first = Path(folder) / f"{missing[0]}.png"
        raise InputError(
            f"{len(missing)} of {len(names)} pseudo-masks are missing, the first is {first}; "
            f"make them: python gen_clip_masks.py --config <the same config> --out {folder}"
        )
    return {name: found[name] for name in names}


def check_class_names(folder: Path, class_names: Sequence[str], split: str | None = None) -> None:
    """Raise InputError when the masks were made for other classes or another split.

    Masks without a meta.json are used as they are.
    """
    parent, made_from = read_made_from(folder)
    if not made_from:
        return
    method = made_from.get("method")
    maker = f"baselines.{method}" if method else "gen_clip_masks.py"
    remedy = f"make them again: {maker} --overwrite"
    if method == "predict":  # which keeps other label maps of the folder
        remedy = "make them again in another folder: predict.py --out"
    what = f"the masks in {parent} were made"
    compare_class_names(made_from["class_names"], class_names, what, remedy)
    if split is not None and made_from.get("split", split) != split:
        raise InputError(
            f"the masks in {parent} belong to the split '{made_from['split']}', expected "
            f"'{split}'; make these in another folder: {maker} --out"
        )


def read_made_from(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Folder of the masks' meta.json, which may be a parent, and its "made_from".

    Empty for masks of other programs.
    """
    for parent in (folder, *folder.parents):
        try:
            meta = parse_json((parent / "meta.json").read_text(encoding="utf-8"))
            names = list(meta["made_from"]["class_names"])
            return parent, {"precision": "fp32"} | meta["made_from"] | {"class_names": names}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # missing, or of another program
    return folder, {}


def check_made_from(meta: Path, made_from: dict[str, Any], has_masks: bool) -> None:
    """Raise InputError when the file `meta` says that the masks were made from something else.

    has_masks: whether there are any; without meta.json they are of another program.
    """
    if not meta.exists():
        if has_masks:
            raise InputError(
                f"{meta.parent} holds masks but no meta.json, so gen_clip_masks.py did not make "
                "them; name another --out, or --overwrite to replace them"
            )
        return
    try:
        old = parse_json(meta.read_text(encoding="utf-8"))["made_from"]
        # Defaults for older files.
        old = {"precision": "fp32", "images_sha256": made_from.get("images_sha256")} | old
        if how := old.get("options", {}).pop("absent_classes", None):  # of an earlier version
            old["options"]["label_filter"] = VALUES["absent_classes", how]
        other = changed(old, dict.fromkeys(_OPTIONAL) | made_from)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{meta} can't be read; --overwrite makes the masks again") from None
    if other.keys() == {"images_sha256"}:
        raise InputError(
            f"{meta.parent} holds masks of other images: image files now have other sizes or "
            "names; --overwrite makes the masks again (name another --out to keep both)"
        )
    if other:
        raise InputError(
            f"{meta.parent} holds masks made with other {', '.join(other)} ({listed(other, 1)}); "
            "name another --out, or --overwrite to make them again"
        )
