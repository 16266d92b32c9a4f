"""Writing of a folder of pseudo-masks by all ranks; a killed run goes on where it stopped."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.files import File, walk
from datasets.mask_folder import check_made_from, confidence_folder, read_made_from
from datasets.mask_shards import (
    ShardWriter,
    finish_parts,
    has_own_shards,
    names_in_shards,
    next_number,
    remove_shards,
)
from datasets.tar_index import TarMember
from utils.distributed import Ranks, barrier, on_main
from utils.overlap import writing
from utils.run_folder import git
from utils.safe.errors import InputError
from utils.safe.files import UNFINISHED, write_json
from utils.visualize import encode_mask, encode_png, save_image, save_mask

COST = "cost.json"  # beside meta.json: time and memory of the last call that made two masks
EXPERTS = "experts.json"  # with ``templates: experts``: the templates of each class
ALL = slice(None)  # the images of a run that makes all masks
_WRITERS = 2
_OTHER = "name another --out, or --overwrite to make them again"


def open_mask_folder(
    folder: Path,
    names: list[str],
    made_from: dict[str, Any],
    overwrite: bool,
    ranks: Ranks,
    shards: bool = False,
    share: slice = ALL,
) -> list[str]:
    """The images without a mask in the folder, the same on all ranks; with `overwrite` all.

    Removes unfinished files of a killed run. `made_from` holds all that decides the masks; that of
    rank 0 counts. shards: the masks are in tars (`datasets/mask_shards.py`). share: other than ALL,
    `names` are a part, and other runs may be making the rest: their unfinished files stay;
    `overwrite` and `shards` are not for parts. Raises InputError, on all ranks, when the folder
    holds masks made from something else, or would get masks in a second form.
    """

    def look() -> list[bool]:
        files = _list(folder)
        if not overwrite:
            as_files = not files.isdisjoint(f"{name}.png" for name in names)
            in_shards = has_own_shards(files)
            check_made_from(folder / "meta.json", made_from, as_files or in_shards)
            if made_from.get("confidence") and not (folder / "meta.json").exists():
                _check_no_files(confidence_folder(folder))
            if as_files and in_shards:
                raise InputError(f"{folder} holds masks as files and in shards: {_OTHER}")
            if as_files and shards:
                raise InputError(f"{folder} holds masks as files: leave out --shards, {_OTHER}")
            if shards or in_shards:
                files |= _look_into_shards(folder, names, shards)
        for file in filter(UNFINISHED.search, files if share == ALL else ()):
            (folder / file).unlink(missing_ok=True)
        return [overwrite or f"{name}.png" not in files for name in names]

    # From rank 0 only: machines may see different states of a network disk.
    return list(itertools.compress(names, on_main(ranks, look)))


def check_no_inputs(
    folder: Path, names: Iterable[str], inputs: Iterable[File], confidence: bool = False
) -> None:
    """Raise InputError where output would be written among the data set's own files.

    confidence: whether `confidence_folder` is written too. Compares folders: a data set has few of
    them, but perhaps a million files.
    """
    inputs = list(inputs)
    files = (file.path for file in inputs if file.member is None)
    of_inputs = {Path(path).resolve() for path in {os.path.dirname(path) for path in files}}  # noqa: PTH120
    of_shards = {file.path for file in inputs if isinstance(file, TarMember)}
    of_shards = {Path(path).parent.resolve() for path in of_shards}
    inside = {name.rpartition("/")[0] for name in names}
    for written in (folder, *[confidence_folder(folder)] * confidence):
        of_masks = {(written / name).resolve() for name in inside}
        # Not below them either: the masks would be listed as images.
        is_inside = any(not of_inputs.isdisjoint((path, *path.parents)) for path in of_masks)
        if is_inside or written.resolve() in of_shards:
            raise InputError(
                f"{written} holds images or ground truth of the data set, or is inside such a "
                "folder; name another folder"
            )


@contextmanager
def mask_writer(
    folder: Path,
    names: Sequence[str],
    palette: np.ndarray,
    meta: dict[str, Any],
    overwrite: bool,
    ranks: Ranks,
    shards: bool = False,
) -> Iterator[Callable[[str, np.ndarray], None]]:
    """Context with write(name, mask), mask (H,W) uint8, for a rank's masks; writes meta.json first.

    write(name, mask, confidence) also writes confidence (H,W) uint8 to `confidence_folder`.

    names: the masks to make. meta: "made_from" of `open_mask_folder` and other notes. overwrite:
    remove the masks `names` first and print that; their confidence too, where it is written again
    or the old meta.json says that it was. shards: as there. All ranks enter it together, after
    everything that makes masks has been loaded. Raises InputError, on all ranks, when another run
    has begun to write masks made from something else.

    Threads write the masks, so that no GPU waits for PNG encoding and the disk. An error in one is
    raised by one of the next calls, or at the end.
    """
    file, of_confidence = folder / "meta.json", confidence_folder(folder)
    if ranks.is_main and overwrite:
        print(f"--overwrite: making all masks in {folder} again")
        stale = [folder / COST, *(folder / f"{name}.png" for name in names)]
        if "experts" not in meta["made_from"]:  # else it has just been written
            stale.append(folder / EXPERTS)
        parent, before = read_made_from(folder)
        if meta["made_from"].get("confidence") or (parent == folder and before.get("confidence")):
            stale += [of_confidence / f"{name}.png" for name in names]
            remove_shards(of_confidence)
        remove_shards(folder)
        for old in (*stale, file):  # the file that says what the others are goes last
            old.unlink(missing_ok=True)

    def note() -> None:
        if not file.exists():
            versions = {"git": git("rev-parse", "HEAD"), "torch": torch.__version__}
            write_json(file, meta | versions, replace=False)
        # Another run may have started since the first look.
        check_made_from(file, meta["made_from"], True)

    on_main(ranks, note)
    tars = None
    if shards:
        sure = meta["made_from"].get("confidence")  # known on rank 0 only
        folders = [of_confidence] * bool(sure) + [folder]
        folders, first = on_main(ranks, lambda: (folders, next_number(folders)))
        tars = ShardWriter(folders, itertools.count(first + ranks.rank, ranks.world_size))

    def save(name: str, mask: np.ndarray, confidence: np.ndarray | None) -> None:
        # Confidence first: a mask means that its image is done.
        if tars:
            pngs = [] if confidence is None else [encode_png(confidence)]
            tars.append(f"{name}.png", [*pngs, encode_mask(mask, palette)])
            return
        if confidence is not None:
            save_image(of_confidence / f"{name}.png", confidence)
        save_mask(folder / f"{name}.png", mask, palette)

    with writing(2 * _WRITERS, _WRITERS) as later:
        yield lambda name, mask, confidence=None: later(save, name, mask, confidence)
    if tars:
        tars.close()
    barrier()  # all masks of all ranks are written


def _list(folder: Path) -> set[str]:
    """Relative paths of all files below `folder`; empty when it does not exist.

    One listing: asking a network disk for a million files one by one takes minutes.
    """
    start = len(str(folder)) + 1
    return {
        f"{where}/{file}"[start:].replace(os.sep, "/")
        for where, files in walk(folder)
        for file in files
    }


def _look_into_shards(folder: Path, names: list[str], shards: bool) -> set[str]:
    """Names of the files in the shards of `folder`; with `shards` its parts are finished first.

    Without `shards`, for whoever only wants to have the masks of `names`, all may be in shards.
    Raises InputError where masks would be added in another form.
    """
    if shards:
        finish_parts(folder)
    done = set(names_in_shards(folder))
    if shards:
        finish_parts(confidence_folder(folder), done)
    elif not done.issuperset(f"{name}.png" for name in names):
        raise InputError(f"{folder} holds masks in shards: add --shards, {_OTHER}")
    return done


def _check_no_files(folder: Path) -> None:
    if files := _list(folder):
        raise InputError(
            f"{folder}, where confidence would be written, holds files of something else "
            f"({min(files)}); name another --out, or --overwrite to replace them"
        )
