"""A folder of pseudo-masks: <image id>.png, and meta.json that says what they were made from."""

import json
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch

from utils.config import Config
from utils.distributed import Ranks, barrier
from utils.errors import InputError
from utils.files import write_json
from utils.runlog import git


def open_mask_folder(
    folder: Path,
    names: list[str],
    made_from: dict[str, Any],
    config: Config,
    overwrite: bool,
    ranks: Ranks,
) -> list[str]:
    """Make the folder, or check the one there; returns the images without a mask, alike on all
    ranks.

    `made_from` holds all that decides the masks. Raises InputError when the folder holds masks of
    another making; `overwrite` removes them, and says so.
    """
    made_from = json.loads(json.dumps(made_from))  # tuples become lists, as in the file
    paths = [folder / f"{name}.png" for name in names]
    meta = folder / "meta.json"
    if not overwrite:
        _check(meta, made_from, any(path.exists() for path in paths))
    barrier()
    if ranks.is_main:
        if overwrite:
            print(f"--overwrite: making the masks in {folder} anew")
            for path in (meta, *paths):
                path.unlink(missing_ok=True)
        if not meta.exists():
            content = {"made_from": made_from, "config": config.to_dict()}
            write_json(
                meta, content | {"git": git("rev-parse", "HEAD"), "torch": torch.__version__}
            )
    barrier()
    todo = [name for name, path in zip(names, paths, strict=True) if not path.exists()]
    barrier()  # nobody writes a mask while another rank still looks
    return todo


def check_class_names(folder: Path, class_names: Sequence[str]) -> None:
    """Raise InputError when gen_clip_masks.py made the masks in `folder` for other classes.

    Its meta.json may also lie further up. Masks without one are taken as they are.
    """
    for parent in (folder, *folder.parents):
        try:
            meta = json.loads((parent / "meta.json").read_text(encoding="utf-8"))
            found = list(meta["made_from"]["class_names"])
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not there, or not of gen_clip_masks.py
        for theirs, ours in zip_longest(found, class_names):
            if theirs != ours:
                raise InputError(
                    f"the masks in {parent} were made for other classes: {theirs!r} where the "
                    f"class file has {ours!r}; make them again: gen_clip_masks.py --overwrite"
                )
        return


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check(meta: Path, made_from: dict[str, Any], has_masks: bool) -> None:
    if not meta.exists():
        if has_masks:
            raise InputError(
                f"{meta.parent} holds masks but no meta.json, so gen_clip_masks.py did not make "
                "them; name another --out, or --overwrite to replace them"
            )
        return
    try:
        old = json.loads(meta.read_text(encoding="utf-8"))["made_from"]
        changed = [key for key in made_from if old.get(key) != made_from[key]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{meta} can't be read; --overwrite makes the masks anew") from None
    if changed:
        key = changed[0]
        raise InputError(
            f"{meta.parent} holds masks made with other {', '.join(changed)} "
            f"({key}: {_short(old.get(key))} -> {_short(made_from[key])}); name another --out, "
            "or --overwrite to make them anew"
        )
