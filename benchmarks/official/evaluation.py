"""The official evaluation: logits to a label map, and areas by histograms of floats."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from datasets.labels import IGNORE_INDEX


def label_map(logits: Tensor, input_size: tuple[int, int], size: tuple[int, int]) -> np.ndarray:
    """(1, C, h, w) -> int64 (H, W): bilinear to the network's input, again to `size`, argmax.

    The second resize is done even if the sizes are equal.
    """
    for target in (input_size, size):
        logits = F.interpolate(logits, target, mode="bilinear", align_corners=False)
    return logits.argmax(1)[0].cpu().numpy()


def areas(prediction: np.ndarray, label: np.ndarray, num_classes: int) -> tuple[Tensor, ...]:
    """Pixels per class of one image, float32 (C,): intersection, union, predicted, labelled."""
    prediction, label = torch.from_numpy(prediction), torch.from_numpy(label)
    known = label != IGNORE_INDEX
    prediction, label = prediction[known], label[known]
    right = prediction[prediction == label]
    intersection, predicted, labelled = (
        torch.histc(values.float(), num_classes, 0, num_classes - 1)
        for values in (right, prediction, label)
    )
    return intersection, predicted + labelled - intersection, predicted, labelled


def iou(totals: tuple[Tensor, ...]) -> Tensor:
    """IoU (C,) from the areas summed over the images; NaN for a class that occurs nowhere."""
    intersection, union, _, _ = totals
    return intersection / union
