"""Record of what a run trains on, for `utils.inputs` to store and compare."""

import json
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

from datasets.files import File
from datasets.image_labels import ImageLabels
from datasets.labels import ClassTable
from datasets.mask_folder import read_made_from
from datasets.training import TrainingSet
from utils.collection import collection_paused
from utils.inputs import Inputs
from utils.safe.errors import warn
from utils.safe.files import sha256

_THREADS, _CHUNK = 16, 64  # a network disk answers many requests at once, each of them slowly
_QUICK = 2e-5  # seconds per file, on a local disk


@collection_paused()
def fingerprint(
    classes: ClassTable,
    dataset: TrainingSet,
    mask_folder: str | None = None,
    clip: Mapping[str, str | None] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Inputs:
    """Record of ids and sizes of the files; reading their content would take as long as training.

    For masks of gen_clip_masks.py in `mask_folder` it includes what they were made from. `clip` is
    `MaskCLIP.sha256` of the CLIP that makes masks in training. `options`: those of the command line
    that decide the numbers. Raises InputError.
    """
    images, image_labels, masks = dataset.images, dataset.image_labels, dataset.masks
    parts: dict[str, Any] = {"prompts": classes.prompts, "images": file_sizes(images)}
    if image_labels is not None:
        parts["labels"] = {name: image_labels[name] for name in images}
    if masks is not None:
        folder, made_from = (None, {}) if mask_folder is None else read_made_from(Path(mask_folder))
        if made_from:
            made_of = made_from.pop("images_sha256", None)  # the run records its images itself
            as_many = made_from.get("num_images") == len(images)
            if as_many and made_of not in (None, _sha256(parts["images"])):
                warn(
                    f"the masks in {folder} were made when image files had other sizes or names; "
                    "make them again if images were replaced: gen_clip_masks.py --overwrite"
                )
        sizes = file_sizes({name: masks[name] for name in images})
        parts["masks"] = {"made_from": made_from, "sizes": sizes}
    if dataset.points is not None:
        parts["points"] = {name: dataset.points[name].tolist() for name in images}
    if clip is not None:
        parts["clip"] = dict(clip)
    if options is not None:
        parts["options"] = dict(options)
    return Inputs(list(classes.names), parts)


def data_of_masks(
    dataset: str,
    split: str,
    class_names: Sequence[str],
    images: Mapping[str, File],
    image_labels: ImageLabels,
) -> dict[str, Any]:
    """The data that a folder of masks is made from, for its meta.json. Raises InputError."""
    labels = json.dumps(sorted(image_labels.items()))
    return {
        "dataset": dataset,
        "split": split,
        "num_images": len(image_labels),
        "images_sha256": images_sha256(images),
        "image_labels_sha256": sha256(labels),
        "class_names": list(class_names),
    }


def images_sha256(images: Mapping[str, File]) -> str:
    """Digest of ids and sizes, which shows that an image was replaced."""
    return _sha256(file_sizes(images))


def _sha256(sizes: dict[str, int]) -> str:
    return sha256(json.dumps(sorted(sizes.items())))


def file_sizes(files: Mapping[str, File]) -> dict[str, int]:
    """Image id -> bytes. Raises InputError naming a file that is missing."""
    waiting = list(files.values())
    start = time.perf_counter()
    sizes, rest = _sizes(waiting[:_CHUNK]), waiting[_CHUNK:]
    if time.perf_counter() - start < _QUICK * _CHUNK:  # threads would only slow it down
        return dict(zip(files, sizes + _sizes(rest), strict=True))
    chunks = [rest[i : i + _CHUNK] for i in range(0, len(rest), _CHUNK)]
    with ThreadPoolExecutor(_THREADS) as pool:
        return dict(zip(files, chain(sizes, *pool.map(_sizes, chunks)), strict=True))


def _sizes(files: list[File]) -> list[int]:
    return [file.size() for file in files]
