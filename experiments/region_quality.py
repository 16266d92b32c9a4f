"""Measure how often pseudo-masks are right in the two regions of CARB, for a checkpoint.

    python -m experiments.region_quality --ckpt runs/camvid_small/base_0/warmup.pt

Splits the training images into the consistent and the inconsistent region of Eq. (4) and (5), on
stored pseudo-masks, and counts against ground truth: the share of each region, and how often the
pseudo-mask and the filtered prediction S are right there. Overall and by class of the pseudo-mask.
Fig. 4 of the report (experiments/figures/regions.py) draws the same regions.
"""

import utils.threads  # noqa: F401  # isort: skip
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from datasets import open_dataset
from datasets.files import File, check_mask, read_mask
from datasets.ids import require
from datasets.image_labels import HOW_TO_LABEL
from datasets.labels import IGNORE_INDEX, multi_hot
from datasets.mask_folder import pseudo_mask_files
from datasets.split_labels import find_labels
from datasets.training import EvaluationSet
from datasets.transforms import normalize
from experiments.figures.style import markdown
from models.carb import filtered_prediction, split_regions
from models.inference import predict_logits
from models.trained import Trained, load_trained
from utils.cli import parser, path
from utils.distributed import setup
from utils.progress import progress
from utils.safe.errors import InputError, run_script


class Regions(NamedTuple):
    """Label maps of a training image, all long (H,W) on the CPU."""

    name: str
    pseudo_mask: Tensor
    prediction: Tensor  # S: among the classes of the image
    truth: Tensor | None  # None without ground truth


def main(argv: list[str]) -> None:
    arguments = parser(__doc__, config_required=False)
    arguments.add_argument("--ckpt", type=path, required=True)
    arguments = arguments.parse_args(argv)
    trained = load_trained(arguments.ckpt, arguments.config, arguments.overrides)
    trained.model.to(setup(arguments.device).device)
    config, classes = trained.config, trained.classes
    if config.pseudo_masks is None:
        raise InputError(f"{arguments.ckpt} names no pseudo_masks; add --set pseudo_masks=FOLDER")
    dataset = open_dataset(config.dataset, config.data_root)
    names = list(dataset.images(config.train_split))
    truths = dataset.ground_truth(config.train_split)
    require(names, truths, "ground truth", "it is what the masks are compared with")
    masks = pseudo_mask_files(config.pseudo_masks, names, classes.names)
    counts = torch.zeros(len(classes), 2, 3, dtype=torch.int64)
    for image in progress(regions(trained, masks), "regions", total=len(names)):
        counts += count(image, len(classes))
    print(table(counts, classes.names))


@torch.inference_mode()
def regions(trained: Trained, masks: dict[str, File]) -> Iterator[Regions]:
    """Pseudo-mask, prediction and ground truth of the training images named by `masks`."""
    config, num_classes = trained.config, len(trained.classes)
    dataset = open_dataset(config.dataset, config.data_root)
    images, truths = (of(config.train_split) for of in (dataset.images, dataset.ground_truth))
    path, split = config.image_labels, config.train_split
    labels = find_labels(dataset, split, path, trained.classes, images)
    require(masks, labels, f"labels in {path}", HOW_TO_LABEL)
    device = next(trained.model.parameters()).device
    samples = EvaluationSet({name: images[name] for name in masks}, config.image_size)
    for i, (name, file) in enumerate(masks.items()):
        sample = samples[i]
        mask = read_mask(file)
        check_mask(mask, file, sample["size"], num_classes)
        image = normalize(sample["image"][None].to(device), "imagenet")
        logits = predict_logits(trained.model, image, sample["size"])
        present = multi_hot(labels[name], num_classes)[None].to(device)
        prediction = filtered_prediction(logits, present, config.arithmetic.label_filter)[0].cpu()
        truth = dataset.read_ground_truth(truths[name]) if name in truths else None
        if truth is not None:
            check_mask(truth, truths[name], sample["size"])
            truth = torch.from_numpy(truth).long()
        yield Regions(name, torch.from_numpy(mask).long(), prediction, truth)


def count(image: Regions, num_classes: int) -> Tensor:
    """Pixel counts, int64 (K, 2, 3): class of the pseudo-mask; consistent or inconsistent region;
    all pixels with ground truth, those where the mask is right, those where S is right."""
    known = image.truth
    mask = image.pseudo_mask.masked_fill(known == IGNORE_INDEX, IGNORE_INDEX)
    counts = torch.zeros(num_classes, 2, 3, dtype=torch.int64)
    for column, region in enumerate(split_regions(mask, image.prediction)):
        kinds = region, region & (mask == known), region & (image.prediction == known)
        for kind, chosen in enumerate(kinds):
            counts[:, column, kind] = torch.bincount(mask[chosen], minlength=num_classes)
    return counts


def shares(counts: Tensor) -> list[float | None]:
    """Percentages from counts (2, 3): area of the consistent region, mask right in it; area of the
    inconsistent region, mask right in it, S right in it. None for a share of no pixels."""
    (all_c, mask_c, _), (all_i, mask_i, predicted_i) = counts.tolist()
    parts = (all_c, all_c + all_i), (mask_c, all_c), (all_i, all_c + all_i)
    parts += (mask_i, all_i), (predicted_i, all_i)
    return [100 * part / whole if whole else None for part, whole in parts]


def table(counts: Tensor, class_names: Sequence[str]) -> str:
    """Markdown table of counts (K, 2, 3): `shares` of all and of each class of the pseudo-mask."""
    head = ["class of the pseudo-mask", "consistent, % of pixels", "mask right in consistent, %"]
    head += ["inconsistent, % of pixels", "mask right in inconsistent, %"]
    head += ["network right in inconsistent, %"]
    rows = [("all", counts.sum(0)), *zip(class_names, counts, strict=True)]
    text = [[name, *("-" if s is None else f"{s:.1f}" for s in shares(row))] for name, row in rows]
    return markdown(head, text)


if __name__ == "__main__":
    run_script(main)
