"""Segmentation metrics from one confusion matrix over the whole data set."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from utils.distributed import all_reduce
from utils.ground_truth import score_notes

_AT_A_TIME = 1 << 24  # pixels: counting takes 20 bytes for each


class ConfusionMatrix:
    """Exact pixel counts of (ground truth, prediction) pairs.

    Counts are int64: float32 stops counting at 2**24 and Cityscapes val has 1e9 pixels.
    Ground-truth ids outside 0..K-1 other than the ignored one have no class, but predictions there
    still count as false positives (as in the official evaluation): they fill an extra row.
    """

    def __init__(self, num_classes: int, device: torch.device | str = "cpu"):
        assert num_classes <= 255, f"class ids have 8 bits and 255 is reserved: {num_classes}"
        self.num_classes = num_classes
        self.counts = torch.zeros(num_classes + 1, num_classes, dtype=torch.int64, device=device)
        self.ignored = torch.zeros((), dtype=torch.int64, device=device)  # pixels left out
        # Pixels of each class, and of ids that are no class, without a prediction.
        self.unlabelled = torch.zeros(num_classes + 1, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, ground_truth: Tensor, ignore_index: int = 255) -> None:
        """Count two integer maps of one shape, (H,W) or (B,H,W); `ignore_index` is in 0..255.

        Fastest in uint8. Ignored pixels are counted too and their row is dropped afterwards, since
        selecting the others costs more than the counting. An `ignore_index` that is a class
        ignores the pixels of that class.
        """
        assert 0 <= ignore_index <= 255, f"ignore_index is in 0..255: {ignore_index}"
        if prediction.shape != ground_truth.shape:
            raise ValueError(
                f"prediction {tuple(prediction.shape)} and ground truth "
                f"{tuple(ground_truth.shape)} must have one shape"
            )
        if torch.iinfo(ground_truth.dtype).max < ignore_index:
            raise ValueError(
                f"a ground truth of {ground_truth.dtype} can't hold the ignored id {ignore_index}; "
                "give it as uint8"
            )
        pairs = zip(
            prediction.flatten().split(_AT_A_TIME),
            ground_truth.flatten().split(_AT_A_TIME),
            strict=True,
        )
        for some, truths in pairs:
            if some.numel():
                self._count(some, truths, ignore_index)

    def update_labelled(self, mask: Tensor, ground_truth: Tensor, ignore_index: int = 255) -> None:
        """`update` with the pixels that have a label in `mask`; both are uint8.

        The others, `ignore_index` in `mask`, are counted by their class in the ground truth.
        """
        mask, ground_truth = mask.to(self.counts.device), ground_truth.to(self.counts.device)
        unlabelled = mask == ignore_index
        lost = ground_truth[unlabelled & (ground_truth != ignore_index)].long()
        lost = lost.clamp(max=self.num_classes).bincount(minlength=self.num_classes + 1)
        self.unlabelled += lost
        self.update(mask, ground_truth.masked_fill(unlabelled, ignore_index), ignore_index)
        self.ignored -= lost.sum()

    def _count(self, prediction: Tensor, ground_truth: Tensor, ignore_index: int) -> None:
        K, device = self.num_classes, self.counts.device
        prediction, ground_truth = prediction.to(device), ground_truth.to(device)
        if ground_truth.dtype != torch.uint8:
            ground_truth = ground_truth.long()  # int8 has no 256 to compare with
            eight_bit = (ground_truth >= 0) & (ground_truth < 256)
            ground_truth = ground_truth.where(eight_bit, 256).to(torch.int32)
        if not self._all_classes(prediction):
            prediction = prediction.masked_fill(ground_truth == ignore_index, 0)
            if not self._all_classes(prediction):
                raise ValueError(f"predictions must be class ids 0..{K - 1}")
        pairs = torch.add(prediction.to(torch.int32), ground_truth, alpha=K)
        counts = torch.bincount(pairs.flatten(), minlength=257 * K).view(257, K)
        self.ignored += counts[ignore_index].sum()
        counts[ignore_index] = 0
        self.counts[:K] += counts[:K]
        self.counts[K] += counts[K:].sum(0)

    def _all_classes(self, prediction: Tensor) -> bool:
        low, high = torch.stack(torch.aminmax(prediction)).tolist()  # one wait for a GPU
        return 0 <= low <= high < self.num_classes

    def all_reduce(self) -> None:
        """Sum the counts over all ranks, in place."""
        all_reduce(self.counts)
        all_reduce(self.ignored)
        all_reduce(self.unlabelled)

    def areas(self) -> tuple[Tensor, Tensor, Tensor]:
        """(K,) int64 pixel counts per class: intersection, ground truth, prediction; on the CPU."""
        counts = self.counts.cpu()
        return counts.diagonal(), counts[:-1].sum(1), counts.sum(0)

    def iou(self) -> Tensor:
        """(K,) float64 intersection over union; NaN for a class neither present nor predicted."""
        intersection, truth, predicted = self.areas()
        return intersection.double() / (truth + predicted - intersection)

    def miou(self) -> float:
        """Mean IoU over the classes that have one."""
        return self.iou().nanmean().item()

    def pixel_accuracy(self) -> float:
        """Share of the labelled pixels that are right."""
        intersection, truth, _ = self.areas()
        return (intersection.sum().double() / truth.sum()).item()

    def labelled_share(self) -> float:
        """Share of the pixels with ground truth that have a prediction: 0 to 1; 0 without any."""
        counted = int(self.counts.sum())
        return counted / max(1, counted + int(self.unlabelled.sum()))

    def miou_by_size(self, small: Sequence[bool]) -> dict[str, float]:
        """Mean IoU over the classes marked in `small` (K) and over the others; NaN without a value.

        Empty when no class is marked.
        """
        if not any(small):
            return {}
        marked, iou = torch.tensor(small), self.iou()
        return {"small": iou[marked].nanmean().item(), "large": iou[~marked].nanmean().item()}

    def class_accuracy(self) -> Tensor:
        """(K,) float64 share of each class's pixels that are right (recall); NaN when absent."""
        intersection, truth, _ = self.areas()
        return intersection.double() / truth

    def precision(self) -> Tensor:
        """(K,) float64 share of each class's predictions that are right; NaN without any."""
        intersection, _, predicted = self.areas()
        return intersection.double() / predicted

    def notes(self, class_names: Sequence[str], split: str) -> list[str]:
        """Caveats to print beside the scores; usually none."""
        intersection, truth, _ = self.areas()
        right, pixels = int(intersection.sum()), (truth + self.unlabelled[:-1].cpu()).tolist()
        return score_notes(pixels, int(self.ignored), right, class_names, split)

    def to_dict(self, class_names: Sequence[str], small: Sequence[bool] = ()) -> dict[str, Any]:
        """Everything as plain numbers in 0..1, unrounded; None where there is no value (JSON).

        With `small` classes marked also miou_small and miou_large. "confusion" holds the pixel
        counts: row = class of the ground truth, column = class predicted; below the K rows one
        more for ground-truth ids without a class, if there are such pixels.
        """
        other = bool(self.counts[-1].any())
        columns = {
            "iou": self.iou(),
            "accuracy": self.class_accuracy(),
            "precision": self.precision(),
        }
        intersection, truth, predicted = self.areas()
        return {
            "miou": _number(self.miou()),
            **{f"miou_{size}": _number(v) for size, v in self.miou_by_size(small).items()},
            "pixel_accuracy": _number(self.pixel_accuracy()),
            "mean_accuracy": _number(self.class_accuracy().nanmean().item()),
            "mean_precision": _number(self.precision().nanmean().item()),
            "classes": {
                name: {key: _number(column[k].item()) for key, column in columns.items()}
                | {
                    "intersection": int(intersection[k]),
                    "ground_truth": int(truth[k]),
                    "predicted": int(predicted[k]),
                }
                for k, name in enumerate(class_names)
            },
            "confusion": self.counts[: self.num_classes + other].tolist(),
        }

    def table(self, class_names: Sequence[str], small: Sequence[bool] = ()) -> str:
        """Percent per class and in the mean, two decimals; '-' where there is no value.

        With `small` classes marked also the mean IoU of these and of the others.
        """
        rows = list(
            zip(class_names, self.iou(), self.class_accuracy(), self.precision(), strict=True)
        )
        width = max(len("pixel accuracy"), *map(len, class_names))
        lines = [f"{'class':{width}}    IoU    Acc   Prec"]
        lines += [
            f"{name:{width}} {' '.join(_percent(float(v)) for v in row)}" for name, *row in rows
        ]
        lines.append("-" * len(lines[0]))
        mean_accuracy = self.class_accuracy().nanmean().item()
        lines.append(f"{'mean':{width}} {_percent(self.miou())} {_percent(mean_accuracy)}")
        lines += [
            f"{f'mean {size}':{width}} {_percent(value)}"
            for size, value in self.miou_by_size(small).items()
        ]
        lines.append(f"{'pixel accuracy':{width}} {_percent(self.pixel_accuracy())}")
        return "\n".join(lines)


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value


def _percent(value: float) -> str:
    return "     -" if math.isnan(value) else f"{100 * value:6.2f}"
