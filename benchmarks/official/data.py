"""The official training pipeline for one image, in OpenCV: BGR uint8 (H, W, 3) until normalisation.

Order: decode, resize the whole image, crop, flip, photometric distortion, normalise, pad, tensor.
The ground truth is decoded and transformed too, although training on CLIP's masks doesn't use it.
In the official program each operation draws its own random numbers; here they are given.
"""

import io
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from datasets.labels import IGNORE_INDEX
from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD, Augmentation
from utils.safe.errors import InputError


def opencv() -> ModuleType:
    """cv2, limited to one thread. Raises InputError if it is not installed."""
    try:
        import cv2
    except ImportError:
        raise InputError(
            "the official data pipeline needs OpenCV, which nothing else in this project needs: "
            "pip install -r benchmarks/requirements.txt"
        ) from None
    cv2.setNumThreads(0)
    return cv2


def sample(
    image: Path, label: Path, augmentation: Augmentation, crop_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Normalised RGB float32 (3, h, w) and label int64 (1, h, w) of two files."""
    cv2 = opencv()
    pixels = cv2.imdecode(np.frombuffer(image.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
    with Image.open(io.BytesIO(label.read_bytes())) as opened:
        ids = np.array(opened).squeeze().astype(np.uint8)
    return transform(pixels, ids, augmentation, crop_size)


def transform(
    image: np.ndarray, label: np.ndarray, a: Augmentation, crop_size: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """`sample` for a decoded image and label."""
    cv2 = opencv()
    height, width = a.size
    image = cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    label = cv2.resize(label, (width, height), interpolation=cv2.INTER_NEAREST)
    inside = (slice(a.top, a.top + crop_size[0]), slice(a.left, a.left + crop_size[1]))
    image, label = image[inside], label[inside]
    if a.flip:
        image, label = np.flip(image, axis=1), np.flip(label, axis=1).copy()
    image = normalise(distort(image, a))
    bottom, right = (crop - side for crop, side in zip(crop_size, label.shape, strict=True))
    padding = (0, bottom, 0, right, cv2.BORDER_CONSTANT)
    image = cv2.copyMakeBorder(image, *padding, value=0)
    label = cv2.copyMakeBorder(label, *padding, value=IGNORE_INDEX)
    pixels = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))
    return pixels, torch.from_numpy(label[None].astype(np.int64))


def distort(image: np.ndarray, a: Augmentation) -> np.ndarray:
    """Brightness, contrast, saturation and hue; the last two each convert to HSV and back."""
    cv2 = opencv()
    if a.brightness != 0:
        image = linear(image, offset=a.brightness)
    if a.contrast != 1 and not a.contrast_last:
        image = linear(image, factor=a.contrast)
    if a.saturation != 1:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[:, :, 1] = linear(hsv[:, :, 1], factor=a.saturation)
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if a.hue != 0:
        hsv = cv2.cvtColor(image, cv2.COLOR_BGR2HSV)
        hsv[:, :, 0] = (hsv[:, :, 0].astype(int) + a.hue) % 180
        image = cv2.cvtColor(hsv, cv2.COLOR_HSV2BGR)
    if a.contrast != 1 and a.contrast_last:
        image = linear(image, factor=a.contrast)
    return image


def linear(values: np.ndarray, factor: float = 1, offset: float = 0) -> np.ndarray:
    """uint8 -> uint8 through float32; clipped, then truncated."""
    return np.clip(values.astype(np.float32) * factor + offset, 0, 255).astype(np.uint8)


def normalise(image: np.ndarray) -> np.ndarray:
    """BGR uint8 -> RGB float32, minus the mean, over the standard deviation."""
    cv2 = opencv()
    image = image.copy().astype(np.float32)
    mean = np.float64(IMAGENET_MEAN).reshape(1, -1)
    factor = 1 / np.float64(IMAGENET_STD).reshape(1, -1)
    cv2.cvtColor(image, cv2.COLOR_BGR2RGB, image)
    cv2.subtract(image, mean, image)
    cv2.multiply(image, factor, image)
    return image
