"""Fig. 3 of the paper: CLIP's pseudo-masks of the image, of the doubled image, of crops, of both.

The masks are files of gen_clip_masks.py. Needs no matplotlib.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.figures import commands
from experiments.figures.pictures import (
    Column,
    chosen,
    compared,
    open_pictures,
    read_map,
    with_gallery,
)
from experiments.figures.runs import Run
from experiments.figures.style import Figure, Missing, markdown
from experiments.numbers import in_percent, percent
from utils.made_from import changed
from utils.safe.errors import InputError
from utils.safe.files import read_json

_NAME, _TITLE = "fig3_scales", "Fig. 3: pseudo-masks after resizing and cropping"
_COMPARED = 100  # images that are looked through for those whose masks differ most
_SCORES = {"mIoU": "miou", "small classes": "miou_small", "large classes": "miou_large"}


class Masks(NamedTuple):
    """One way to make the masks of a split: its letter in the paper and its options."""

    title: str
    suffix: str  # of the folder
    ratio: float
    grid: tuple[int, int]


WAYS = (
    Masks("(a) original", "", 1.0, (1, 1)),
    Masks("(b) resize ratio 2", "_ratio2", 2.0, (1, 1)),
    Masks("(c) 2x2 crops", "_grid2x2", 1.0, (2, 2)),
    Masks("(d) both", "_ratio2_grid2x2", 2.0, (2, 2)),
)


def draw(run: Run, split: str, images: int | Sequence[str], out: Path) -> list[Figure]:
    """`images`: the ids of those to show, or how many of those whose masks differ most."""
    figure = Figure(_NAME, _TITLE, "")
    try:
        pictures = open_pictures(run.last.config, split)
        chosen(pictures, images)
    except InputError as error:
        return [figure._replace(missing=(Missing(f"the images of {run.label}: {error}"),))]
    needed = ["meta.json", *["score.json"] * bool(pictures.ground_truth)]
    ways = {way: run.masks(split, way.suffix) for way in WAYS}
    there = {
        way: folder
        for way, folder in ways.items()
        if all((folder / file).is_file() for file in needed)
    }
    missing = tuple(
        Missing(
            f"masks of '{split}', {way.title}",
            commands.masks(
                run.last.folder, folder, split, way.ratio, way.grid, bool(pictures.ground_truth)
            ),
        )
        for way, folder in ways.items()
        if way not in there
    )
    if not there:
        return [figure._replace(missing=missing)]
    _check(there)
    scores = {way: _scores(folder) for way, folder in there.items()}
    select = isinstance(images, int) and len(there) > 1
    names = chosen(pictures, _COMPARED if select else images)
    shown = {name: _difference(list(there.values()), name) for name in names}
    if select:
        shown = dict(sorted(shown.items(), key=lambda item: -item[1])[:images])
    columns = [Column(way.title, there[way], scores[way].get("miou")) for way in there]
    gallery = compared(pictures, list(shown), columns)
    rows = [way._asdict() | {"folder": str(there[way])} | scores[way] for way in there]
    content: dict[str, Any] = {"split": split, "masks": rows, "differing_pixels": shown}
    rule = "evenly spaced" if isinstance(images, int) else "as asked for"
    if select:
        rule = f"of {len(names)} evenly spaced ones those whose masks differ on most pixels"
    marked = zip(pictures.classes.names, pictures.classes.small, strict=False)
    small = ", ".join(name for name, is_small in marked if is_small)
    caption = (
        f"CLIP's masks of '{split}', made with the labels of each image, and mIoU in % over the "
        f"whole split. Images shown: {rule}. Small classes: {small or 'none'}."
    )
    tables = (table(scores),) if pictures.ground_truth else ()
    figure = figure._replace(caption=caption, tables=tables, missing=missing)
    return [with_gallery(figure, gallery, content, out)]


def table(scores: dict[Masks, dict[str, Any]]) -> str:
    """Markdown: mIoU in % of all, the small and the large classes."""
    keys = {title: key for title, key in _SCORES.items() if any(key in s for s in scores.values())}
    rows = [
        [way.title, *(percent(in_percent(found.get(key))) for key in keys.values())]
        for way, found in scores.items()
    ]
    return markdown(["pseudo-masks", *keys], rows)


def _check(there: dict[Masks, Path]) -> None:
    """Raise InputError when a folder holds other masks than its name says, or than the others."""
    first: dict[str, Any] = {}
    for way, folder in there.items():
        # fp32: as all were, before there was a choice
        made_from = {"precision": "fp32"} | read_json(folder / "meta.json").get("made_from", {})
        expected = (first or made_from) | {"ratio": [way.ratio], "grid": list(way.grid)}
        expected |= {"flip": False}
        other = changed(dict.fromkeys(expected) | made_from, dict.fromkeys(made_from) | expected)
        if other:
            raise InputError(
                f"the masks in {folder} are not those of Fig. 3 {way.title}: made with other "
                f"settings ({', '.join(other)}); move them away, or make them anew with --overwrite"
            )
        first = first or made_from


def _scores(folder: Path) -> dict[str, Any]:
    path = folder / "score.json"
    found = read_json(path) if path.is_file() else {}
    return {key: found[key] for key in _SCORES.values() if key in found}


def _difference(folders: Sequence[Path], name: str) -> float:
    """Share of an image's pixels on which the masks are not all alike."""
    first, *others = (read_map(folder, name) for folder in folders)
    return float(np.any([mask != first for mask in others], axis=0).mean()) if others else 0.0
