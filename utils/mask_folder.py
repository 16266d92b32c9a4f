"""A folder of pseudo-masks: <image id>.png, and meta.json that says what they were made from."""

import json
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
            f"({key}: {str(old.get(key))[:80]} -> {str(made_from[key])[:80]}); name another --out, "
            "or --overwrite to make them anew"
        )
