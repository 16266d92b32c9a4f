"""Maps, masks and scores over thresholds of methods that make masks from class activation maps.

They are the rows of such a method in a suite. The chart needs matplotlib.
"""

import shlex
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from baselines.common import CAMS
from datasets.files import read_image
from datasets.mask_folder import read_made_from
from experiments.figures.galleries import (
    SplitData,
    chosen,
    open_split,
    read_map,
    rows_of,
    with_gallery,
)
from experiments.figures.runs import Suite
from experiments.figures.style import (
    COLOURS,
    GREY,
    WIDTH,
    Figure,
    Missing,
    plotting,
    save_data,
    save_figure,
)
from experiments.methods import METHODS, SAVE_CAMS, TRAINING_FREE, WITHOUT_MAPS, cams_option
from experiments.numbers import percent
from experiments.suite_file import as_arguments
from models.inference import resize
from utils.config import load_config
from utils.safe.errors import InputError

_DIMMED = 0.6  # brightness of the image under the maps


class Masks(NamedTuple):
    """A row of masks made by a method."""

    name: str
    run: Path  # folder of the first seed
    folder: Path  # of its masks
    metrics: list[dict[str, Any]]  # score.json of each seed
    command: str  # that saves the maps
    has_maps: bool  # whether the method has any


def draw(suites: Sequence[Suite], images: int | Sequence[str], out: Path) -> list[Figure]:
    """Maps and masks side by side, and scores over thresholds, of each suite with such rows."""
    figures = []
    for suite in suites:
        if rows := read_masks(suite):
            label = f": {suite.label}" * (len(suites) > 1)
            figures += filter(
                None, [thresholds(rows, suite, f"Scores over thresholds{label}", out)]
            )
            figures.append(side_by_side(rows, suite, f"Maps and masks{label}", images, out))
    return figures


def read_masks(suite: Suite) -> list[Masks]:
    """The scored rows of methods that make masks, in the order of the suite."""
    found = []
    for name, row in suite.content["rows"].items():
        if METHODS.get(row["stage"]) != "masks" or not row["metrics"]:
            continue
        seed = next(iter(row["metrics"]))
        run = suite.run_folder(name, seed)
        split = str(suite.content.get("split"))
        folder, options = run / f"masks_{split}", map(str, row.get("options", []))
        command = ["python", "-m", f"baselines.{row['stage']}", "--config", f"{run}/config.yaml"]
        if row["stage"] in TRAINING_FREE:  # its folder has no config
            settings = suite.content.get("settings", {}) | row.get("settings", {})
            command[-1:] = [str(suite.content.get("config")), *as_arguments(settings)]
        command += ["--run-dir", str(run), *options, "--split", split, "--out", str(folder)]
        if row.get("cams"):
            config = run / "config.yaml"
            train = load_config(config).train_split if config.is_file() else "train"
            of_maps = suite.run_folder(row["cams"], seed)
            command += cams_option(row["stage"], of_maps, train, split)
        command = shlex.join([*command, SAVE_CAMS])
        has_maps = row["stage"] not in WITHOUT_MAPS
        found.append(Masks(name, run, folder, [*row["metrics"].values()], command, has_maps))
    return found


def thresholds(rows: list[Masks], suite: Suite, title: str, out: Path) -> Figure | None:
    """mIoU, precision and recall over the threshold of the background; None without curves."""
    curves = {
        row.name: [m["thresholds"] for m in row.metrics if m.get("thresholds")] for row in rows
    }
    curves = {name: seeds for name, seeds in curves.items() if seeds}
    if not curves:
        return None
    name = f"thresholds_{suite.slug}"
    fixed = read_made_from(rows[0].folder)[1].get("threshold")  # None without the folder
    caption = (
        f"Masks of '{suite.content.get('split')}' at other thresholds of the background than the "
        f"fixed one{' (dotted)' * bool(fixed)}: mean over the seeds, in a band from the least to "
        "the greatest. A threshold chosen here would be chosen on the ground truth that it is "
        "scored on."
    )
    images = save_figure(partial(_chart, curves, fixed), out, name)
    data = save_data(out, name, {"suite": str(suite.folder), "curves": curves})
    return Figure(name, title, caption, images=images, data=data)


def _chart(curves: dict[str, list[list[dict[str, Any]]]], fixed: float | None, width: float) -> Any:
    panels = {"mIoU, %": "miou", "precision, %": "mean_precision", "recall, %": "mean_accuracy"}
    wide = width == WIDTH
    layout = {"ncols": 3} if wide else {"nrows": 3, "sharex": True}
    size = width, 3.0 if wide else 6.5
    figure, axes = plotting().subplots(figsize=size, layout="constrained", **layout)
    for ax, (title, key) in zip(axes.flat, panels.items(), strict=True):
        for colour, (name, seeds) in zip(COLOURS * len(curves), curves.items(), strict=False):
            places = [point["threshold"] for point in seeds[0]]
            rows = [[np.nan if p.get(key) is None else p[key] for p in seed] for seed in seeds]
            values = 100 * np.array(rows, float)
            ax.plot(places, values.mean(0), color=colour, label=name)
            ax.fill_between(places, values.min(0), values.max(0), color=colour, alpha=0.2, lw=0)
        ax.set_title(title)
        if fixed:
            ax.axvline(fixed, color=GREY, linestyle=":")
    for ax in axes.flat if wide else axes[-1:]:
        ax.set_xlabel("threshold")
    handles = axes.flat[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside upper center", ncols=4 if wide else 2)
    return figure


def side_by_side(
    rows: list[Masks], suite: Suite, title: str, images: int | Sequence[str], out: Path
) -> Figure:
    """Rows of image, ground truth, and map and mask of the first and the last row of the suite."""
    figure = Figure(f"cams_{suite.slug}", title, "")
    here = [row for row in rows if (row.folder / "meta.json").is_file()]
    if not here:
        return figure._replace(missing=(Missing(f"the masks of {suite.folder}: no folder here"),))
    pair = [here[0], here[-1]] if len(here) > 1 else here
    try:
        trained = [row.run for row in here if (row.run / "config.yaml").is_file()]
        config = load_config((trained or [here[0].run])[0] / "config.yaml")
        split_data = open_split(config, str(suite.content.get("split")))
        shown = chosen(split_data, images)
    except InputError as error:
        return figure._replace(missing=(Missing(f"the images of {suite.label}: {error}"),))
    titles = ["image", *["ground truth"] * bool(split_data.ground_truth)]
    maps = {one: [split_data.truth(one)] * bool(split_data.ground_truth) for one in shown}
    missing = []
    for row in pair:
        files = {one: row.folder / CAMS / f"{one}.npz" for one in shown}
        with_maps = all(file.is_file() for file in files.values())
        if not with_maps and row.has_maps:
            missing.append(Missing(f"the maps of {row.name}", row.command))
        titles += [f"{row.name}: maps"] * with_maps
        titles.append(f"{row.name}: mask\nmIoU {percent(100 * (row.metrics[0]['miou'] or 0))}")
        for one in shown:
            maps[one] += [shaded(split_data, one, files[one])] if with_maps else []
            maps[one].append(read_map(row.folder, one))
    rule = "evenly spaced" if isinstance(images, int) else "as asked for"
    caption = (
        "Maps: each pixel in the colour of the class with the highest map, the stronger the higher "
        f"it is. Masks made with each image's labels; mIoU in % over the split. Images: {rule}."
    )
    figure = figure._replace(caption=caption, missing=tuple(missing))
    content = {"images": shown, "folders": [str(row.folder) for row in pair]}
    return with_gallery(figure, rows_of(split_data, maps, titles, shown), content, out)


def shaded(split_data: SplitData, name: str, file: Path) -> np.ndarray:
    """The image in grey, (H,W,3) uint8, under the highest of the maps of `file` in its colour."""
    grey = _DIMMED * read_image(split_data.images[name]).mean(2, keepdims=True).repeat(3, 2)
    try:
        with np.load(file, allow_pickle=False) as content:
            ids, maps = content["classes"], content["cams"].astype(np.float32)
        if not len(ids):
            return grey.astype(np.uint8)
        # Many methods save them at their working size.
        maps = resize(torch.from_numpy(maps)[None], grey.shape[:2])[0].numpy()
        height = maps.max(0)[..., None].clip(0, 1)
        colours = split_data.classes.palette[ids[maps.argmax(0)]]
        return (grey * (1 - height) + colours * height).astype(np.uint8)
    except (OSError, ValueError, KeyError, IndexError, RuntimeError):
        raise InputError(f"{file}: expected maps and classes of '{name}'; remove it") from None
