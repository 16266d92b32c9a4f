"""A folder of pseudo-masks: <image id>.png, and meta.json that says what they were made from."""

import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.files import File, walk
from utils.class_names import compare_class_names
from utils.config import Config
from utils.distributed import Ranks, all_reduce, barrier, gather_objects
from utils.run_folder import git
from utils.safe.errors import InputError
from utils.safe.files import UNFINISHED, parse_json, write_json
from utils.visualize import save_mask

_WRITERS = 2


def open_mask_folder(
    folder: Path,
    names: list[str],
    made_from: dict[str, Any],
    overwrite: bool,
    ranks: Ranks,
) -> tuple[list[str], list[Path]]:
    """Look into the folder; returns the images to make masks of, alike on all ranks, and on rank 0
    the files that a killed run left half-written.

    `made_from` holds all that decides the masks. Raises InputError, on all ranks, when the folder
    holds masks of another making; with `overwrite` all are to be made.
    """
    made_from = json.loads(json.dumps(made_from))  # tuples become lists, as in the file
    missing = torch.zeros(len(names), dtype=torch.uint8)
    unfinished, problem = [], None
    if ranks.is_main:
        try:
            there = _look(folder, names, made_from, overwrite)
            missing += torch.tensor([f"{name}.png" not in there for name in names])
            unfinished = [folder / file for file in there if UNFINISHED.search(file)]
        except InputError as error:
            problem = str(error)
    problem = gather_objects(problem)[0]
    if problem:
        raise InputError(problem)
    # The others know from rank 0: a network disk may show each machine another moment.
    todo = all_reduce(missing.to(ranks.device)).nonzero()[:, 0].tolist()
    return [names[i] for i in todo], unfinished


def check_no_inputs(folder: Path, names: Iterable[str], inputs: Iterable[File]) -> None:
    """Raise InputError where pictures would lie among the data set's own, maybe in their place.

    Compares folders: a data set has few of them, and maybe a million files.
    """
    files = (file.path for file in inputs if file.member is None)
    of_inputs = {Path(path).resolve() for path in {os.path.dirname(path) for path in files}}  # noqa: PTH120
    of_masks = {(folder / name).resolve() for name in {name.rpartition("/")[0] for name in names}}
    # Below them too: there the masks would be listed as images.
    if any(not of_inputs.isdisjoint((path, *path.parents)) for path in of_masks):
        raise InputError(
            f"{folder} holds images or ground truth of the data set, or lies in a folder of them; "
            "name another folder"
        )


def begin_masks(
    folder: Path,
    names: list[str],
    made_from: dict[str, Any],
    config: Config,
    overwrite: bool,
    ranks: Ranks,
) -> None:
    """Write meta.json; with `overwrite` remove the masks `names` first, and say so.

    Called once all that makes masks has been loaded, by all ranks: they wait for it.
    """
    meta = folder / "meta.json"
    if ranks.is_main and overwrite:
        print(f"--overwrite: making the masks in {folder} anew")
        for file in ("meta.json", *(f"{name}.png" for name in names)):
            (folder / file).unlink(missing_ok=True)
    if ranks.is_main and not meta.exists():
        content = {"made_from": made_from, "config": config.to_dict()}
        write_json(meta, content | {"git": git("rev-parse", "HEAD"), "torch": torch.__version__})
    barrier()


def _look(folder: Path, names: list[str], made_from: dict[str, Any], overwrite: bool) -> set[str]:
    """What lies in the folder and is to stay.

    One listing: asking a network disk for a million files one by one takes minutes.
    """
    files = _list(folder)
    masks = files & {f"{name}.png" for name in names}
    if overwrite:
        return files - masks
    _check(folder / "meta.json", made_from, bool(masks))
    return files


def _list(folder: Path) -> set[str]:
    """Relative paths of all files below `folder`; none when it is not there."""
    start = len(str(folder)) + 1
    return {
        f"{where}/{file}"[start:].replace(os.sep, "/")
        for where, files in walk(folder)
        for file in files
    }


@contextmanager
def mask_writer(folder: Path, palette: np.ndarray) -> Iterator[Callable[[str, np.ndarray], None]]:
    """write(name, mask), (H,W) uint8, done by threads: no GPU waits for PNG encoding and the disk.

    What goes wrong in a thread is raised by one of the next calls, at the latest at the end.
    """
    writing: deque[Future] = deque()

    def write(name: str, mask: np.ndarray) -> None:
        writing.append(pool.submit(save_mask, folder / f"{name}.png", mask, palette))
        if len(writing) > 2 * _WRITERS:
            writing.popleft().result()

    with ThreadPoolExecutor(_WRITERS) as pool:
        yield write
        for one in writing:
            one.result()


def check_class_names(folder: Path, class_names: Sequence[str], split: str | None = None) -> None:
    """Raise InputError when gen_clip_masks.py made the masks in `folder` for other classes or, if
    it is given, for another split.

    Masks without a meta.json are taken as they are.
    """
    parent, made_from = read_made_from(folder)
    if not made_from:
        return
    remedy = "make them again: gen_clip_masks.py --overwrite"
    what = f"the masks in {parent} were made"
    compare_class_names(made_from["class_names"], class_names, what, remedy)
    if split is not None and made_from.get("split", split) != split:
        raise InputError(
            f"the masks in {parent} are those of the split '{made_from['split']}', needed are "
            f"those of '{split}'; make these in a folder of their own: gen_clip_masks.py --out"
        )


def read_made_from(folder: Path) -> tuple[Path, dict[str, Any]]:
    """What gen_clip_masks.py made the masks from, and the folder of the meta.json that says so.

    It may also lie further up. Empty for masks of other programs.
    """
    for parent in (folder, *folder.parents):
        try:
            meta = parse_json((parent / "meta.json").read_text(encoding="utf-8"))
            names = list(meta["made_from"]["class_names"])
            return parent, {"precision": "fp32"} | meta["made_from"] | {"class_names": names}
        except (OSError, ValueError, KeyError, TypeError):
            continue  # not there, or not of gen_clip_masks.py
    return folder, {}


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
        old = parse_json(meta.read_text(encoding="utf-8"))["made_from"]
        # As all were, before there was a choice or before it was kept.
        old = {"precision": "fp32", "images_sha256": made_from.get("images_sha256")} | old
        if how := old.get("options", {}).pop("absent_classes", None):  # of an earlier version
            old["options"]["label_filter"] = {"masked": "mask", "multiplied": "multiply"}[how]
        changed = [key for key in made_from if old.get(key) != made_from[key]]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{meta} can't be read; --overwrite makes the masks anew") from None
    if changed == ["images_sha256"]:
        raise InputError(
            f"{meta.parent} holds masks of other pictures: image files have another size now, or "
            "other names; --overwrite makes the masks anew (name another --out to keep both)"
        )
    if changed:
        key = changed[0]
        raise InputError(
            f"{meta.parent} holds masks made with other {', '.join(changed)} "
            f"({key}: {_short(old.get(key))} -> {_short(made_from[key])}); name another --out, "
            "or --overwrite to make them anew"
        )
