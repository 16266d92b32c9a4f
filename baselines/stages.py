"""Stages of `main` that several methods share: options, settings, data, a classifier, masks."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.common import CamMasks, Split, load_split
from datasets.doctor.label_check import check_trainable
from datasets.fingerprint import data_of_masks, fingerprint
from datasets.ids import require
from datasets.labels import ClassTable, has_background
from datasets.long_side import LongSideTransform
from datasets.mask_writer import check_no_inputs
from datasets.saved_maps import SavedMaps
from datasets.training import TrainingSet
from datasets.transforms import normalize
from models.build import build_network
from models.cam import classification_loss
from models.training import MOMENTUM, POLY_POWER, poly_step
from utils.cli import path
from utils.config import Config
from utils.distributed import Ranks
from utils.run import Run
from utils.safe.files import check_folder

# ---- options and settings

MOMENTUM_OF = "momentum of SGD: the weight decay, by a mistake of the authors (default), or 0.9"


def add_arguments(
    result: argparse.ArgumentParser, arithmetic: str | None = MOMENTUM_OF, maps: bool = True
) -> None:
    """The options of all methods that make masks; arithmetic: what --arithmetic changes, if any.

    maps: whether a method has maps to save.
    """
    add = result.add_argument
    add("--out", type=path, required=True, help="folder of the masks")
    add("--split", help="split of the masks (default: train_split of the config)")
    add("--score", action="store_true", help="mIoU against ground truth, also to OUT/score.json")
    if maps:
        add("--save-cams", action="store_true", help="the maps too, to OUT/cams/<image id>.npz")
    if arithmetic:
        choices = {"choices": ("authors", "correct"), "default": "authors"}
        add("--arithmetic", **choices, help=arithmetic)


def part_of(arguments: argparse.Namespace, part: str) -> argparse.Namespace:
    """The arguments of a training in a folder of its own, RUN_DIR/part."""
    return argparse.Namespace(**vars(arguments) | {"run_dir": f"{arguments.run_dir}/{part}"})


def of_method(
    config: Config, lr: float, weight_decay: float, stride: int, arithmetic: str
) -> Config:
    """The config as a method with `poly_sgd` uses it, so that run folders and meta.json say it."""
    return dataclasses.replace(
        config,
        lr=lr,
        min_lr=0.0,
        poly_power=POLY_POWER,
        momentum=MOMENTUM if arithmetic == "correct" else weight_decay,
        weight_decay=weight_decay,
        output_stride=stride,
        image_size=config.crop_size,
        classifier="conv",
    )


def long_sides(config: Config, shares: tuple[float, float]) -> tuple[int, int]:
    """The least and the greatest long side, in shares of that of the working size."""
    low, high = (max(1, round(share * max(config.crop_size))) for share in shares)
    return low, high


# ---- data


def load_splits(
    config: Config, arguments: argparse.Namespace, classes: ClassTable
) -> tuple[Split, Split]:
    """The split to train on and that of the masks. Raises InputError where one of them fails."""
    check_trainable(classes)
    train = load_split(config, config.train_split, classes, trains=True)
    split = load_split(config, arguments.split or config.train_split, classes)
    check_out(split, arguments)
    return train, split


def check_out(split: Split, arguments: argparse.Namespace) -> None:
    """Raise InputError where --out can't have the masks or --score has no ground truth."""
    truths, out = split.data.ground_truth(split.name), Path(arguments.out)
    check_no_inputs(out, split.images, [*split.images.values(), *truths.values()])
    check_folder(out, "--out")
    if arguments.score:
        require(split.images, truths, "ground truth", "leave out --score")


def saved_cams(folder: Path, split: Split, config: Config, classes: ClassTable) -> SavedMaps:
    """The maps that an earlier method left for a split. Raises InputError where they don't fit."""
    data = data_of_masks(config.dataset, split.name, classes.names, split.images, split.labels)
    return SavedMaps(folder, split.images, data, int(has_background(classes)))


def labelled_images(
    config: Config, split: Split, classes: ClassTable, transform: Any
) -> TrainingSet:
    """Images of a split with image-level labels, augmented by `transform`."""
    cache = config.image_cache
    return TrainingSet(split.images, split.labels, len(classes), transform, cache=cache)


def inputs_of(batch: dict[str, Any], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Images (B,3,H,W), not normalised, image-level labels (B,K), and valid (B,H,W)."""
    image, labels, valid = (batch[key].to(device) for key in ("image", "image_labels", "valid"))
    return image, labels, valid


# ---- a classifier, masks


def train_classifier(
    arguments: argparse.Namespace,
    config: Config,
    ranks: Ranks,
    classes: ClassTable,
    split: Split,
    model: nn.Module,
    optimizer: torch.optim.SGD,
    transform: LongSideTransform,
    stage: str,
) -> None:
    """Train a network that gives raw maps, in arguments.run_dir, for config.steps; resumes."""
    dataset = labelled_images(config, split, classes, transform)
    run = Run(
        arguments,
        config,
        ranks,
        stage=stage,
        end=config.steps,
        classes=classes,
        inputs=lambda: fingerprint(classes, dataset),
        parts={"model": model, "optimizer": optimizer},
    )
    network, first = build_network(model, config, ranks), int(has_background(classes))
    for step, batch in run.steps(dataset):
        image, labels, valid = inputs_of(batch, ranks.device)
        maps = network(normalize(image, "imagenet", valid), step)
        loss = classification_loss(maps, labels[:, first:])
        lr = poly_step(loss, optimizer, step, config.steps)
        run.log({"loss": loss}, batch["name"], lr)
    del network  # before the process group: its destructor would wait for ever
    run.close(goes_on=True)


def make_masks(masks: CamMasks, arguments: argparse.Namespace, made_from: dict[str, Any]) -> None:
    """Write the masks to --out, and with --score their score; resumes."""
    out = Path(arguments.out)
    masks.write(out, made_from, arguments.overwrite, arguments.save_cams)
    if arguments.score:
        masks.score(out)
