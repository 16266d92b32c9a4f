"""Fig. 3 of the paper: pseudo-masks of the original image, the doubled image, crops, and both.

The masks are files written by gen_clip_masks.py. Needs no matplotlib.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.figures import commands
from experiments.figures.galleries import (
    Column,
    chosen,
    compared,
    open_split,
    read_map,
    with_gallery,
)
from experiments.figures.runs import Run
from experiments.figures.style import Figure, Missing, markdown
from experiments.numbers import in_percent, percent
from utils.made_from import changed, listed
from utils.safe.errors import InputError
from utils.safe.files import read_json

_NAME, _TITLE = "fig3_scales", "Fig. 3: pseudo-masks after resizing and cropping"
_COMPARED = 100  # images searched for those whose masks differ most
_SCORES = {"mIoU": "miou", "small classes": "miou_small", "large classes": "miou_large"}


class Masks(NamedTuple):
    """One way to make the masks of a split."""

    title: str  # with its letter in the paper
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
    """Fig. 3 of a run; `images`: ids to show, or the number of those whose masks differ most."""
    figure = Figure(_NAME, _TITLE, "")
    teacher = run.last.config.stored_teacher
    if teacher.window or teacher.short_side:
        what = (
            f"a run of another teacher: that of {run.label} resizes images or cuts windows itself"
        )
        return [figure._replace(missing=(Missing(what),))]
    try:
        split_data = open_split(run.last.config, split)
        chosen(split_data, images)
    except InputError as error:
        return [figure._replace(missing=(Missing(f"the images of {run.label}: {error}"),))]
    needed = ["meta.json", *["score.json"] * bool(split_data.ground_truth)]
    ways = {way: run.masks(split, way.suffix) for way in WAYS}
    existing = {
        way: folder
        for way, folder in ways.items()
        if all((folder / file).is_file() for file in needed)
    }
    missing = tuple(
        Missing(
            f"masks of '{split}', {way.title}",
            commands.masks(
                run.last.folder, folder, split, way.ratio, way.grid, bool(split_data.ground_truth)
            ),
        )
        for way, folder in ways.items()
        if way not in existing
    )
    if not existing:
        return [figure._replace(missing=missing)]
    _check(existing)
    scores = {way: _scores(folder) for way, folder in existing.items()}
    select = isinstance(images, int) and len(existing) > 1
    names = chosen(split_data, _COMPARED if select else images)
    shown = {name: _difference(list(existing.values()), name) for name in names}
    if select:
        shown = dict(sorted(shown.items(), key=lambda item: -item[1])[:images])
    columns = [Column(way.title, existing[way], scores[way].get("miou")) for way in existing]
    gallery = compared(split_data, list(shown), columns)
    rows = [way._asdict() | {"folder": str(existing[way])} | scores[way] for way in existing]
    content: dict[str, Any] = {"split": split, "masks": rows, "differing_pixels": shown}
    rule = "evenly spaced" if isinstance(images, int) else "as asked for"
    if select:
        rule = f"among {len(names)} evenly spaced ones, those whose masks differ on most pixels"
    marked = zip(split_data.classes.names, split_data.classes.small, strict=False)
    small = ", ".join(name for name, is_small in marked if is_small)
    caption = (
        f"Pseudo-masks of '{split}', made with each image's labels, and mIoU in % over the whole "
        f"split. Images shown: {rule}. Small classes: {small or 'none'}."
    )
    tables = (table(scores),) if split_data.ground_truth else ()
    figure = figure._replace(caption=caption, tables=tables, missing=missing)
    return [with_gallery(figure, gallery, content, out)]


def table(scores: dict[Masks, dict[str, Any]]) -> str:
    """Markdown table: mIoU in % of all, small and large classes."""
    keys = {title: key for title, key in _SCORES.items() if any(key in s for s in scores.values())}
    rows = [
        [way.title, *(percent(in_percent(found.get(key))) for key in keys.values())]
        for way, found in scores.items()
    ]
    return markdown(["pseudo-masks", *keys], rows)


def _check(existing: dict[Masks, Path]) -> None:
    """Raise InputError when a folder's masks don't fit its name, or were made unlike the others."""
    first: dict[str, Any] = {}
    for way, folder in existing.items():
        # Older masks don't state their precision, which was always fp32.
        made_from = {"precision": "fp32"} | read_json(folder / "meta.json").get("made_from", {})
        expected = (first or made_from) | {"ratio": [way.ratio], "grid": list(way.grid)}
        expected |= {"flip": False}
        other = changed(dict.fromkeys(expected) | made_from, dict.fromkeys(made_from) | expected)
        if other:
            raise InputError(
                f"the masks in {folder} are not those of Fig. 3 {way.title}: made with other "
                f"settings ({listed(other)}); move them away, or make them again with "
                "--overwrite"
            )
        first = first or made_from


def _scores(folder: Path) -> dict[str, Any]:
    path = folder / "score.json"
    found = read_json(path) if path.is_file() else {}
    return {key: found[key] for key in _SCORES.values() if key in found}


def _difference(folders: Sequence[Path], name: str) -> float:
    """Share of an image's pixels where the masks are not all equal."""
    first, *others = (read_map(folder, name) for folder in folders)
    return float(np.any([mask != first for mask in others], axis=0).mean()) if others else 0.0
