"""Samples for training and evaluation.

`TrainingSet` opens only the files it is given: ground truth enters training only if the caller
passes it (`baselines/supervised.py` does).
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets import open_dataset
from datasets.cache import open_cached
from datasets.doctor.label_check import check_some_masks, check_trainable
from datasets.files import (
    File,
    check_mask,
    open_image,
    read_image,
    read_mask,
)
from datasets.ids import require
from datasets.image_labels import HOW_TO_LABEL, ImageLabels
from datasets.labels import ClassTable, multi_hot
from datasets.mask_folder import pseudo_mask_files
from datasets.points import Points
from datasets.split_labels import labels_of_split
from datasets.transforms import TrainTransform, fit_into, resize_image
from utils.batches import Draw
from utils.config import Config
from utils.distributed import Ranks, on_main


def training_set(config: Config, classes: ClassTable, ranks: Ranks) -> "TrainingSet":
    """Training images with image-level labels and, for views base and local, stored pseudo-masks.

    Raises InputError, on all ranks, where something is missing or does not fit the classes.
    """
    source, split = open_dataset(config.dataset, config.data_root), config.train_split
    images = source.images(split)
    image_labels = labels_of_split(source, split, config.image_labels, classes, images)
    check_trainable(classes, image_labels)
    masks = None
    if config.views != "dual":
        masks = pseudo_mask_files(config.pseudo_masks, images, classes.names, split)
        on_main(ranks, lambda: check_some_masks(masks, read_mask, classes, image_labels))
    transform = build_transform(config)
    return TrainingSet(
        images, image_labels, len(classes), transform, masks, cache=config.image_cache
    )


def build_transform(config: Config) -> TrainTransform:
    """Augmentation of training images."""
    return TrainTransform(
        config.image_size,
        config.scale_range,
        config.crop_size,
        photometric_distortion=config.photometric_distortion,
    )


class TrainingSet(Dataset):
    """Augmented images with image-level labels and, if given, masks and points."""

    def __init__(
        self,
        images: dict[str, File],
        image_labels: ImageLabels | None,
        num_classes: int,
        transform: TrainTransform,
        masks: dict[str, File] | None = None,
        read_masks: Callable[[File], np.ndarray] = read_mask,
        cache: str | Path | None = None,
        points: Points | None = None,
    ) -> None:
        """Keep the files; nothing is read yet.

        image_labels: None where they are not used; a sample's label vector is then 0. masks: a
        mask file per image id: pseudo-masks, or ground truth for full supervision. cache: folder
        for decoded images; None decodes them every time. points: of each image.

        Raises InputError when an image has no labels, no mask or no entry in the points.
        """
        if image_labels is not None:
            require(images, image_labels, "image-level labels", HOW_TO_LABEL)
        if masks is not None:
            advice = (
                "gen_clip_masks.py makes pseudo-masks; ground truth comes with the data set "
                "(prepare_data.py --check)"
            )
            require(images, masks, "masks", advice)
        if points is not None:
            require(images, points, "points", "prepare_data.py --points simulates them")
        self.names = list(images)
        self.images, self.image_labels, self.num_classes = images, image_labels, num_classes
        self.transform, self.masks, self.read_masks = transform, masks, read_masks
        self.cache = None if cache is None else Path(cache)
        self.points = points

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        """name, image uint8 (3,h,w), valid bool (h,w), image_labels float32 (K,) and, where they
        are given, pseudo_mask int64 (h,w) and points float32 (n,3), rows (x, y, class), also those
        outside the crop; (h,w) is the transform's crop size."""
        name = self.names[draw.index]
        labels = () if self.image_labels is None else self.image_labels[name]
        file = self.images[name]
        size, read = open_image(file) if self.cache is None else open_cached(self.cache, file)
        mask = None if self.masks is None else self._mask(self.masks[name], size)
        augmentation = self.transform.draw(size, torch.Generator().manual_seed(draw.seed))
        source = _to_tensor(read(self.transform.source(size, augmentation)))
        image, mask, valid = self.transform.apply(source, mask, augmentation, size)
        sample = {
            "name": name,
            "image": image,
            "valid": valid,
            "image_labels": multi_hot(labels, self.num_classes),
        }
        if mask is not None:
            sample["pseudo_mask"] = mask.long()
        if self.points is not None:
            points = torch.from_numpy(self.points[name])
            sample["points"] = self.transform.apply_points(points, augmentation, size)
        return sample

    def _mask(self, file: File, size: tuple[int, int]) -> torch.Tensor:
        values = self.read_masks(file)
        check_mask(values, file, size, self.num_classes)
        return torch.from_numpy(values)


class EvaluationSet(Dataset):
    """Whole images, resized as at test time, with the original size and any ground truth."""

    def __init__(
        self,
        images: dict[str, File],
        image_size: tuple[int, int] | None,
        ground_truth: dict[str, File] | None = None,
        read_ground_truth: Callable[[File], np.ndarray] = read_mask,
        keep_original: bool = False,
    ) -> None:
        """image_size: box (height, width) that images are fitted into; None keeps their size."""
        if ground_truth is not None:
            require(images, ground_truth, "ground truth", "check it with prepare_data.py --check")
        self.names = list(images)
        self.images, self.image_size = images, image_size
        self.ground_truth, self.read_ground_truth = ground_truth, read_ground_truth
        self.keep_original = keep_original

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """name, image uint8 (3,h,w), size (H,W) before the resize and, if there is any,
        ground_truth uint8 (H,W); if kept, original uint8 (H,W,3)."""
        name = self.names[index]
        pixels = read_image(self.images[name])
        sample = {"name": name, **whole_image(pixels, self.image_size)}
        if self.keep_original:
            sample["original"] = torch.from_numpy(pixels)
        if self.ground_truth is not None:
            values = self.read_ground_truth(self.ground_truth[name])
            check_mask(values, self.ground_truth[name], sample["size"])
            sample["ground_truth"] = torch.from_numpy(values)
        return sample


def whole_image(pixels: np.ndarray, image_size: tuple[int, int] | None) -> dict[str, Any]:
    """size and image of an `EvaluationSet` for pixels uint8 (H,W,3); image_size: as there."""
    image = _to_tensor(pixels)
    size = tuple(image.shape[1:])
    if image_size is not None:
        image = resize_image(image, fit_into(size, image_size))
    return {"size": size, "image": image.contiguous()}


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)
