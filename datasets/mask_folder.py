"""Folder of pseudo-masks: <image id>.png, and meta.json with what they were made from."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch

from datasets import SegmentationData
from datasets.files import MASK_SUFFIXES, File, check_mask, list_files, read_image, read_mask, walk
from datasets.labels import ClassTable
from datasets.mask_shards import (
    ShardWriter,
    finish_parts,
    has_own_shards,
    list_masks,
    names_in_shards,
    next_number,
    remove_shards,
)
from datasets.tar_index import TarMember
from utils.class_names import compare_class_names
from utils.collection import collection_paused
from utils.distributed import Ranks, barrier, on_main
from utils.evaluation_output import report
from utils.made_from import changed, listed
from utils.metrics import ConfusionMatrix
from utils.old_config import VALUES
from utils.overlap import writing
from utils.progress import progress
from utils.run_folder import git
from utils.safe.errors import InputError
from utils.safe.files import UNFINISHED, parse_json, write_json
from utils.visualize import encode_mask, encode_png, legend, save_image, save_mask, save_overlay

COST = "cost.json"  # beside meta.json: time and memory of the last call that made two masks
EXPERTS = "experts.json"  # with ``templates: experts``: the templates of each class
ALL = slice(None)  # the images of a run that makes all masks
_WRITERS = 2
_OPTIONAL = ("confidence", "min_confidence")  # of "made_from": present where the option is used


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
    `overwrite` is not for parts. Raises InputError, on all ranks, when the folder holds masks made
    from something else, or in the other form.
    """

    def look() -> list[bool]:
        files = _list(folder)
        if not overwrite:
            as_files = not files.isdisjoint(f"{name}.png" for name in names)
            in_shards = has_own_shards(folder)
            _check(folder / "meta.json", made_from, as_files or in_shards)
            if as_files if shards else in_shards:
                form, option = ("in shards", "add") if in_shards else ("as files", "leave out")
                raise InputError(
                    f"{folder} holds masks {form}: {option} --shards, name another --out, or "
                    "--overwrite to make them again"
                )
            if made_from.get("confidence") and not (folder / "meta.json").exists():
                _check_no_files(confidence_folder(folder))
            if shards:
                finish_parts(folder)
                files |= (done := set(names_in_shards(folder)))
                finish_parts(confidence_folder(folder), done)
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
        _check(file, meta["made_from"], True)  # another run may have started since the first look

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

    Raises InputError when some are missing, or when gen_clip_masks.py made them for other classes
    than `class_names` or for another split.
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


def score_masks(
    folder: Path,
    dataset: SegmentationData,
    split: str,
    classes: ClassTable,
    ranks: Ranks,
    scores: Path | None = None,
    vis: Path | None = None,
    more: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Score the masks in `folder` against the ground truth of a split; draw them on the images.

    scores: JSON file for the mIoU over the pixels that have a label in the masks, for their share
    and for `more`. vis: folder for overlays and a legend. Without these, the ground truth or the
    images are not read. Raises InputError when masks are missing or don't fit.
    """
    images = dataset.images(split)
    masks = pseudo_mask_files(folder, images, classes.names, split)
    if vis is not None:
        check_no_inputs(vis, images, images.values())
    truths = {} if scores is None else dataset.ground_truth(split)
    matrix = ConfusionMatrix(len(classes), ranks.device)
    for name in progress(list(images)[ranks.rank :: ranks.world_size], "score", ranks):
        mask = read_mask(masks[name])
        if scores is not None:
            truth = dataset.read_ground_truth(truths[name])
            check_mask(mask, masks[name], truth.shape, len(classes))
            matrix.update_labelled(torch.from_numpy(mask), torch.from_numpy(truth))
        if vis is not None:
            image = read_image(images[name])
            check_mask(mask, masks[name], image.shape[:2], len(classes))
            save_overlay(vis / f"{name}_overlay.png", image, mask, classes.palette)
    matrix.all_reduce()
    if vis is not None and ranks.is_main:
        save_image(vis / "legend.png", legend(classes.names, classes.palette))
        print(f"{vis}: {len(masks)} overlays, colours in {vis / 'legend.png'}")
    if scores is not None and ranks.is_main:
        content = {} if scores.parent == folder else {"masks": str(folder)}
        content |= {"split": split, "num_images": len(masks)}
        content["labelled_pixels"] = matrix.labelled_share()
        more = more or _curve_of(scores, matrix.to_dict(classes.names)["confusion"])
        report(matrix, classes.names, classes.small, scores, content | dict(more))


def _curve_of(scores: Path, confusion: list[list[int]]) -> dict[str, Any]:
    """The curve that a method left in the file of scores, if the scored masks are the same."""
    try:
        old = parse_json(scores.read_text(encoding="utf-8"))
        return {"thresholds": old["thresholds"]} if old["confusion"] == confusion else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def check_class_names(folder: Path, class_names: Sequence[str], split: str | None = None) -> None:
    """Raise InputError when gen_clip_masks.py made the masks for other classes or another split.

    Masks without a meta.json are used as they are.
    """
    parent, made_from = read_made_from(folder)
    if not made_from:
        return
    maker = f"baselines.{made_from['method']}" if "method" in made_from else "gen_clip_masks.py"
    remedy = f"make them again: {maker} --overwrite"
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
            continue  # missing, or not from gen_clip_masks.py
    return folder, {}


def _check_no_files(folder: Path) -> None:
    if files := _list(folder):
        raise InputError(
            f"{folder}, where confidence would be written, holds files of something else "
            f"({min(files)}); name another --out, or --overwrite to replace them"
        )


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
