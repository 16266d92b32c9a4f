"""The folder of pseudo-masks of a method that makes them from class activation maps (CAMs).

C counts the classes with a map: all K of the class file, or K - 1 where class 0 is the background
(`datasets.labels.has_background`).
"""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from datasets import SegmentationData, open_dataset
from datasets.doctor.label_check import check_classifiable
from datasets.fingerprint import data_of_masks
from datasets.image_labels import ImageLabels
from datasets.labels import ClassTable, has_background, multi_hot
from datasets.loader import image_loader
from datasets.mask_scores import score_masks
from datasets.mask_writer import mask_writer, open_mask_folder
from datasets.saved_maps import CAMS, save_maps
from datasets.split_labels import labels_of_split
from datasets.training import EvaluationSet
from datasets.transforms import normalize
from models.cam import label_cams, normalize_cams
from models.inference import resize
from utils.config import Config
from utils.distributed import Ranks, barrier, on_main
from utils.metrics import ConfusionMatrix
from utils.progress import progress

THRESHOLDS = tuple(step / 20 for step in range(1, 13))  # of the curve: 0.05, 0.10, ... 0.60


class Split(NamedTuple):
    """A split to make masks of: data set, name, images and image-level labels."""

    data: SegmentationData
    name: str
    images: dict[str, Any]
    labels: ImageLabels


def load_split(config: Config, name: str, classes: ClassTable, trains: bool = False) -> Split:
    """A split with its labels. Raises InputError where CAMs can't be learned or made from them."""
    data = open_dataset(config.dataset, config.data_root)
    images = data.images(name)
    labels = labels_of_split(data, name, config.image_labels, classes, images)
    check_classifiable(labels, classes, f"{config.image_labels} ({name})", trains)
    return Split(data, name, images, labels)


class CamMasks:
    """Pseudo-masks of a split from normalised maps: made, resumed and scored."""

    def __init__(
        self,
        cams_of: Callable[[Tensor, tuple[int, int]], Tensor],
        split: Split,
        classes: ClassTable,
        threshold: float | None,
        config: Config,
        ranks: Ranks,
    ) -> None:
        """cams_of: normalised image (1,3,h,w), size -> sums of maps (1,C,H,W). threshold: of the
        background; it is not used where there is none."""
        self.cams_of, self.split, self.classes = cams_of, split, classes
        self.config, self.ranks = config, ranks
        self.first = int(has_background(classes))  # id of the first class with a map
        self.threshold = threshold if self.first else None

    def present(self, sample: dict[str, Any]) -> Tensor:
        """0 or 1 for each class with a map (C), of an image's labels."""
        labels = multi_hot(self.split.labels[sample["name"]], len(self.classes))
        return labels[self.first :].to(self.ranks.device)

    def maps(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Normalised maps (C,H,W) at the image's own size, 0 for absent classes; classes (C)."""
        present = self.present(sample)
        image = normalize(sample["image"][None].to(self.ranks.device), "imagenet")
        cams = self.cams_of(image, tuple(sample["size"])) * present[:, None, None]
        return normalize_cams(cams)[0], present

    def labels(self, sample: dict[str, Any], cams: Tensor, present: Tensor) -> Tensor:
        """The mask uint8 (H,W) of what `maps` returns for a sample."""
        return label_cams(cams, present, self.threshold)

    def write(self, out: Path, made_from: dict[str, Any], overwrite: bool, save_cams: bool) -> None:
        """Write OUT/<image id>.png, and with `save_cams` OUT/cams/<image id>.npz (`save_maps`).

        Images that are there are skipped. Raises InputError, on all ranks, where the folder holds
        masks made from something else.
        """
        split, ranks, images = self.split, self.ranks, self.split.images
        if ranks.is_main:
            data = self.config.dataset, split.name, self.classes.names, images, split.labels
            more = {"threshold": self.threshold, "resize_to": self.config.image_size}
            made_from = data_of_masks(*data) | more | made_from
        todo = open_mask_folder(out, list(images), made_from, overwrite, ranks)
        files = {name: out / CAMS / f"{name}.npz" for name in images}
        if overwrite and ranks.is_main:
            for file in files.values():
                file.unlink(missing_ok=True)
        if save_cams:
            lacking = on_main(ranks, lambda: [n for n in images if not files[n].exists()])
            todo = list(dict.fromkeys([*todo, *lacking]))
        barrier()
        meta = {"made_from": made_from, "config": self.config.to_dict()}
        with mask_writer(out, todo, self.classes.palette, meta, overwrite, ranks) as write:
            for sample in progress(self.samples(todo), "masks", ranks):
                cams, present = self.maps(sample)
                if save_cams:  # first: an image with a mask has its maps
                    save_maps(files[sample["name"]], cams, present, self.first)
                write(sample["name"], self.labels(sample, cams, present).cpu().numpy())
        if ranks.is_main:
            print(f"{out}: {len(images)} masks, {len(todo)} of them new")

    def score(self, out: Path) -> None:
        """Write OUT/score.json as gen_clip_masks.py does; with a background also "thresholds"."""
        curve = [] if self.threshold is None else self.curve()
        scored = self.split.data, self.split.name, self.classes, self.ranks
        more = {"thresholds": curve} if curve else {}
        score_masks(out, *scored, scores=out / "score.json", more=more)
        if curve and self.ranks.is_main:
            print(" ".join(f"{key:>14}" for key in curve[0]))
            for row in curve:
                print(" ".join(f"{'-' if v is None else f'{v:.4f}':>14}" for v in row.values()))
            print(
                f"the masks have the threshold {self.threshold}, which was fixed beforehand; do "
                "not choose the best value above: its score comes from the ground truth it is "
                "scored on"
            )

    def curve(self) -> list[dict[str, float | None]]:
        """Scores of the label maps at each of THRESHOLDS, from maps that are made once more."""
        matrices = [ConfusionMatrix(len(self.classes), self.ranks.device) for _ in THRESHOLDS]
        data, names = self.split.data, self.classes.names
        truths = data.ground_truth(self.split.name)
        ways = [copy.copy(self) for _ in THRESHOLDS]
        for way, threshold in zip(ways, THRESHOLDS, strict=True):
            way.threshold = threshold
        for sample in progress(self.samples(self.split.images), "thresholds", self.ranks):
            cams, present = self.maps(sample)
            truth = torch.from_numpy(data.read_ground_truth(truths[sample["name"]]))
            for way, matrix in zip(ways, matrices, strict=True):
                matrix.update(way.labels(sample, cams, present), truth)
        rows = []
        for threshold, matrix in zip(THRESHOLDS, matrices, strict=True):
            matrix.all_reduce()
            scores = matrix.to_dict(names)
            keys = ("miou", "mean_precision", "mean_accuracy")
            rows.append({"threshold": threshold} | {key: scores[key] for key in keys})
        return rows

    def samples(self, names: Iterable[str]) -> Any:
        """Loader of images of the split, this rank's share."""
        images = {name: self.split.images[name] for name in names}
        data = EvaluationSet(images, self.config.image_size)
        return image_loader(data, self.config.num_workers, self.ranks)


class WorkingSizeMasks(CamMasks):
    """Masks of maps that are made from uint8 images, at the working size: `config.image_size`.

    cams_of: image uint8 (3,h,w) -> sums of maps (C,h,w).
    """

    normalized = staticmethod(normalize_cams)  # of maps (B,C,h,w), 0 for absent classes

    def maps(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Normalised maps (C,h,w); classes (C)."""
        present, image = self.present(sample), sample["image"].to(self.ranks.device)
        cams = self.cams_of(image) * present[:, None, None]
        return self.normalized(cams[None])[0], present

    def labels(self, sample: dict[str, Any], cams: Tensor, present: Tensor) -> Tensor:
        """The mask uint8 (H,W), at the image's own size."""
        return label_cams(resize(cams[None], sample["size"])[0], present, self.threshold)
