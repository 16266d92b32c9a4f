"""Fig. 4 of the paper: pseudo-mask, prediction of the network, and the region where both agree.

Needs no matplotlib.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets.files import read_image
from datasets.mask_folder import pseudo_mask_files
from experiments.figures import commands
from experiments.figures.galleries import (
    Rows,
    SplitData,
    chosen,
    open_split,
    rows_of,
    with_gallery,
)
from experiments.figures.runs import Run
from experiments.figures.style import Figure, Missing
from experiments.region_quality import Regions, count, regions, shares, table
from models.carb import split_regions
from models.trained import load_trained
from utils.distributed import setup
from utils.safe.errors import InputError
from utils.visualize import colourize

INCONSISTENT = (255, 255, 255)
_CPU_PIXELS = 10_000_000  # pixels that a ResNet-50 processes in minutes on a CPU
_NAME, _TITLE = "fig4_regions", "Fig. 4: consistent and inconsistent region"


def draw(
    run: Run,
    images: int | Sequence[str],
    out: Path,
    device: str | None = None,
    counted: int | None = None,
) -> list[Figure]:
    """Fig. 4 of a run.

    images: number of training images to show, evenly spaced, or their ids; counted: number of
    evenly spaced images with ground truth in the table (50; on a CPU as few as are quick).
    """
    figure = Figure(_NAME, _TITLE, "")
    checkpoint = checkpoint_of(run)
    if checkpoint is None:
        return [figure._replace(missing=(Missing(f"a warm-up or CARB network of {run.label}"),))]
    trained = load_trained(checkpoint)
    config, classes = trained.config, trained.classes
    try:
        split_data = open_split(config, config.train_split)
        shown = chosen(split_data, images)
    except InputError as error:
        return [figure._replace(missing=(Missing(f"the images of {run.label}: {error}"),))]
    where = setup(device).device
    if counted is None:
        counted = 50
        if where.type == "cpu":
            pixels = read_image(split_data.images[shown[0]])[..., 0].size
            counted = min(counted, max(len(shown), _CPU_PIXELS // pixels))
    counting = [name for name in chosen(split_data, counted) if name in split_data.ground_truth]
    names = dict.fromkeys([*shown, *counting])
    folder = Path(config.pseudo_masks or run.folder / f"masks_{config.train_split}")
    missing = []
    if not Path(config.image_labels).is_file():
        missing.append(Missing(f"the labels {config.image_labels}", commands.labels(config)))
    if not all((folder / f"{name}.png").is_file() for name in names):
        what = f"masks of '{config.train_split}' in {folder}"
        missing.append(Missing(what, commands.masks(checkpoint.parent, folder)))
    if missing:
        return [figure._replace(missing=tuple(missing))]

    trained.model.to(where)
    seen: dict[str, Regions] = {}
    counts = torch.zeros(len(classes), 2, 3, dtype=torch.int64)
    for image in regions(trained, pseudo_mask_files(folder, names, classes.names)):
        if image.name in counting:
            counts += count(image, len(classes))
        if image.name in shown:
            seen[image.name] = image

    step = trained.origin["step"]
    caption = (
        f"Training images{', evenly spaced' * isinstance(images, int)}, with the pseudo-masks in "
        f"{folder} and the prediction of {checkpoint} (step {step}) among each image's classes."
    )
    content: dict[str, Any] = {"checkpoint": str(checkpoint), "step": step, "masks": str(folder)}
    content["consistent"] = {name: consistent_share(seen[name]) for name in shown}
    if counting:
        content |= {"counted_images": len(counting), "pixels": by_class(counts, classes.names)}
        tables = (f"{finding(counts)}\n\n{table(counts, classes.names)}",)
        figure = figure._replace(tables=tables)
        caption += f" The table counts the pixels of {len(counting)} training images."
    rows = panels_of([seen[name] for name in shown], split_data)
    return [with_gallery(figure._replace(caption=caption), rows, content, out)]


def checkpoint_of(run: Run) -> Path | None:
    """Checkpoint of the network that CARB starts from, or else of CARB; None without either."""
    folders = [run.stages[name].folder for name in ("warmup", "carb") if name in run.stages]
    files = [folder / name for folder in folders for name in ("warmup.pt", "last.pt")]
    return next((file for file in files if file.is_file()), None)


def finding(counts: Tensor) -> str:
    """The table's main result in a sentence (Markdown); empty if a region has no pixel."""
    _, _, area, mask, network = shares(counts.sum(0))
    if area is None or mask is None:
        return ""
    return (
        f"**Where pseudo-mask and network disagree ({area:.0f} % of the pixels), the mask is right "
        f"on {mask:.0f} % and the network on {network:.0f} %.** "
        "CARB weights the loss there by w."
    )


def by_class(counts: Tensor, class_names: Sequence[str]) -> dict[str, Any]:
    """The counts (K, 2, 3) of `experiments.region_quality.count`, as named values."""
    kinds = ("all", "mask_right", "prediction_right")
    return {
        name: {
            region: dict(zip(kinds, row, strict=True))
            for region, row in zip(("consistent", "inconsistent"), rows, strict=True)
        }
        for name, rows in zip(class_names, counts.tolist(), strict=True)
    }


def panels_of(shown: list[Regions], split_data: SplitData) -> Rows:
    """Rows of image, pseudo-mask, prediction, consistent region and ground truth (if any)."""
    maps = {}
    for image in shown:
        region = colourize(image.pseudo_mask.numpy(), split_data.classes.palette)
        region[split_regions(image.pseudo_mask, image.prediction)[1].numpy()] = INCONSISTENT
        maps[image.name] = [image.pseudo_mask.numpy(), image.prediction.numpy(), region]
        maps[image.name] += [] if image.truth is None else [image.truth.numpy()]
    titles = ["image", "(a) pseudo-mask", "(b) prediction", "(c) consistent region", "ground truth"]
    titles = titles[: 1 + max(map(len, maps.values()))]
    notes = [describe(image, len(split_data.classes)) for image in shown]
    return rows_of(split_data, maps, titles, notes, ("inconsistent", INCONSISTENT))


def consistent_share(image: Regions) -> float | None:
    """Consistent share (0..1) of the pixels with a pseudo-label; None without such pixels."""
    consistent, inconsistent = split_regions(image.pseudo_mask, image.prediction)
    labelled = int((consistent | inconsistent).sum())
    return int(consistent.sum()) / labelled if labelled else None


def describe(image: Regions, num_classes: int) -> str:
    """The line above an image's row."""
    share = consistent_share(image)
    if share is None:
        return f"{image.name}: no pseudo-label"
    text = f"{image.name}: {100 * share:.0f} % consistent"
    if image.truth is None:
        return text
    _, inside, _, outside, _ = shares(count(image, num_classes).sum(0))
    right = [("it", inside), ("the rest", outside)]
    right = [f"{share:.0f} % of {where}" for where, share in right if share is not None]
    return f"{text}; pseudo-mask right on {' and on '.join(right)}" if right else text
