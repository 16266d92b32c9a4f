"""The samples that training and evaluation see.

`TrainingSet` opens the files it is given and no others: ground truth never enters training unless
the caller hands it over (`baselines/supervised.py` does).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import Dataset

from datasets.cache import open_cached
from datasets.files import MASK_SUFFIXES, File, list_files, open_image, read_image, read_mask
from datasets.ids import difference, loose
from datasets.image_labels import ImageLabels
from datasets.labels import IGNORE_INDEX, multi_hot
from datasets.transforms import TrainTransform, fit_into, resize_image
from utils.collection import collection_paused
from utils.mask_folder import check_class_names
from utils.safe.errors import InputError


class Draw(NamedTuple):
    """Which image, and the seed of its augmentation; the sampler yields these."""

    index: int
    seed: int


class TrainingSet(Dataset):
    """Augmented images with image-level labels and, if given, masks."""

    def __init__(
        self,
        images: dict[str, File],
        image_labels: ImageLabels,
        num_classes: int,
        transform: TrainTransform,
        masks: dict[str, File] | None = None,
        read_masks: Callable[[File], np.ndarray] = read_mask,
        cache: str | Path | None = None,
    ) -> None:
        """`masks` has a mask file per image id: pseudo-masks, or labels for full supervision.

        `cache` is a folder for decoded images; None decodes them every time.
        Raises InputError when an image has no labels or no mask.
        """
        require(images, image_labels, "image-level labels", "prepare_data.py makes them")
        if masks is not None:
            advice = (
                "gen_clip_masks.py makes pseudo-masks; ground truth comes with the data set "
                "(prepare_data.py --check)"
            )
            require(images, masks, "masks", advice)
        self.names = list(images)
        self.images, self.image_labels, self.num_classes = images, image_labels, num_classes
        self.transform, self.masks, self.read_masks = transform, masks, read_masks
        self.cache = None if cache is None else Path(cache)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        """name, image uint8 (3,h,w), valid bool (h,w), image_labels float32 (K,) and, if there are
        masks, pseudo_mask int64 (h,w); (h,w) is the transform's crop size."""
        name = self.names[draw.index]
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
            "image_labels": multi_hot(self.image_labels[name], self.num_classes),
        }
        if mask is not None:
            sample["pseudo_mask"] = mask.long()
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
        keep_picture: bool = False,
    ) -> None:
        """`image_size` (height, width) is the box that images are fitted into; None leaves them."""
        if ground_truth is not None:
            require(images, ground_truth, "ground truth", "check it with prepare_data.py --check")
        self.names = list(images)
        self.images, self.image_size = images, image_size
        self.ground_truth, self.read_ground_truth = ground_truth, read_ground_truth
        self.keep_picture = keep_picture

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """name, image uint8 (3,h,w), size (H,W) before the resize and, if there is any,
        ground_truth uint8 (H,W); if kept, picture uint8 (H,W,3)."""
        name = self.names[index]
        image = _to_tensor(read_image(self.images[name]))
        size = tuple(image.shape[1:])
        sample = {"name": name, "size": size}
        if self.keep_picture:
            sample["picture"] = image.permute(1, 2, 0)
        if self.ground_truth is not None:
            values = self.read_ground_truth(self.ground_truth[name])
            check_mask(values, self.ground_truth[name], size)
            sample["ground_truth"] = torch.from_numpy(values)
        if self.image_size is not None:
            image = resize_image(image, fit_into(size, self.image_size))
        sample["image"] = image.contiguous()
        return sample


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
    # Whatever else lies there is ours; missing masks are told below.
    found, names = list_files(Path(folder), MASK_SUFFIXES, known=("",)), list(names)
    missing = [name for name in names if name not in found]
    if missing:
        list_files(Path(folder), MASK_SUFFIXES)  # names what lies there and is not read
        first = Path(folder) / f"{missing[0]}.png"
        raise InputError(
            f"{len(missing)} of {len(names)} pseudo-masks are missing, the first is {first}; "
            f"make them: python gen_clip_masks.py --config <the same config> --out {folder}"
        )
    return {name: found[name] for name in names}


def check_mask(
    values: np.ndarray, file: File, size: tuple[int, int], num_classes: int | None = None
) -> None:
    """Raise InputError when a mask does not fit its image or, if given, the class count."""
    if values.shape != size:
        raise InputError(
            f"{file} is {values.shape[0]}x{values.shape[1]} (height x width), "
            f"its image {size[0]}x{size[1]}; make the mask again from this image"
        )
    if num_classes is None:
        return
    found = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    wrong = [int(i) for i in found if num_classes <= i != IGNORE_INDEX]
    if wrong:
        raise InputError(
            f"{file} holds the ids {wrong}; expected 0 to {num_classes - 1} or {IGNORE_INDEX}"
        )


def require(images: Iterable[str], given: Mapping[str, Any], what: str, advice: str) -> None:
    """Raise InputError when an image is not among `given`."""
    images = dict.fromkeys(images)
    missing = [name for name in images if name not in given]
    if missing:
        others = [name for name in given if name not in images]
        alike = _alike(missing[0], others)
        shown = f" (there are some of '{others[0]}')" if others else ""
        if alike is not None:
            shown = f" (there are some of '{alike}': {difference(missing[0], alike)})"
        raise InputError(
            f"{len(missing)} of {len(images)} images have no {what}, the first is '{missing[0]}'"
            f"{shown}; {advice}"
        )


def _alike(name: str, others: Sequence[str]) -> str | None:
    """The first of `others` that a person can hardly tell from `name`."""
    for other in others:
        # Letters of two alphabets look the same, as the Latin and the Cyrillic a do.
        pairs = [(a, b) for a, b in zip(name, other, strict=False) if a != b]
        is_lookalike = len(name) == len(other) and all(a.isascii() != b.isascii() for a, b in pairs)
        if loose(name) == loose(other) or is_lookalike:
            return other
    return None


def _to_tensor(image: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(image).permute(2, 0, 1)
