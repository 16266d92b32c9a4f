"""Label maps as Cityscapes' polygons: <image id>_gtFine_polygons.json.

Source: github.com/mcordts/cityscapesScripts, README and helpers/annotation.py.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from datasets.labels import IGNORE_INDEX, ClassTable
from datasets.mask_exports.source import LabelMap, refuse_class_name
from utils.safe.errors import needs_package
from utils.safe.files import replacing

UNLABELLED = "unlabeled"  # Cityscapes' spelling; its id is 0, its train id 255


def polygon_file(name: str) -> str:
    """The file of an image, where Cityscapes' label tool looks for it."""
    return f"{name.removesuffix('_leftImg8bit')}_gtFine_polygons.json"


def write_polygons(out: Path, classes: ClassTable, masks: Iterable[LabelMap]) -> None:
    """Write `polygon_file` of each label map below `out`.

    Raises InputError where the package opencv-python-headless is not installed.
    """
    refuse_class_name(classes, UNLABELLED, "Cityscapes")
    _opencv()
    for one in masks:
        height, width = one.labels.shape
        content = {"imgHeight": height, "imgWidth": width}
        content["objects"] = polygons(one.labels, classes)
        with replacing(out / polygon_file(one.name)) as temporary:
            temporary.write_text(json.dumps(content, ensure_ascii=False) + "\n", encoding="utf-8")


def polygons(labels: np.ndarray, classes: ClassTable) -> list[dict[str, Any]]:
    """Objects of a label map (H,W), in the order in which they are to be drawn.

    An object is a set of pixels of one label, connected through 4-neighbours. Its polygon runs
    through the centres of its outermost pixels, and covers holes: what is inside is drawn later.
    Pillow's `ImageDraw.polygon`, which cityscapesScripts draws with, fills a polygon with its
    border, so that drawing all gives the same pixels again. Pixels without a label are objects too.
    """
    cv2, found = _opencv(), []
    for value in np.flatnonzero(np.bincount(labels.ravel(), minlength=256)):
        name = UNLABELLED if value == IGNORE_INDEX else classes.names[value]
        where = (labels == value).view(np.uint8)
        _, numbers, boxes, _ = cv2.connectedComponentsWithStats(where, connectivity=4)
        for number, (left, top, width, height, _) in enumerate(boxes.tolist()):
            if number == 0:  # all other labels
                continue
            part = numbers[top : top + height, left : left + width] == number
            polygon = _outline(cv2, part) + np.array([left, top])
            found.append((width * height, name, polygon.tolist()))
    # What lies inside another object has a smaller bounding box.
    found.sort(key=lambda one: one[0], reverse=True)
    return [{"label": name, "polygon": polygon} for _, name, polygon in found]


def _outline(cv2: Any, part: np.ndarray) -> np.ndarray:
    """(N,2) int x and y, N >= 3, of the outer contour of a connected bool (H,W)."""
    contours, _ = cv2.findContours(part.view(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    outline = contours[0].reshape(-1, 2)
    return np.pad(outline, ((0, max(0, 3 - len(outline))), (0, 0)), mode="edge")


def _opencv() -> Any:
    with needs_package("--format cityscapes", "opencv-python-headless"):
        import cv2
    return cv2
