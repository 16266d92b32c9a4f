"""Scores and overlays of a folder of pseudo-masks."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch

from datasets import SegmentationData
from datasets.files import check_mask, read_image, read_mask
from datasets.labels import ClassTable
from datasets.mask_folder import pseudo_mask_files
from datasets.mask_writer import check_no_inputs
from utils.distributed import Ranks
from utils.evaluation_output import report
from utils.metrics import ConfusionMatrix
from utils.progress import progress
from utils.safe.files import parse_json
from utils.visualize import legend, save_image, save_overlay


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
