"""Label maps as predictions of Label Studio: tasks with brush masks, and a labelling interface.

Source: labelstud.io/guide/predictions, /tags/brushlabels and /guide/storage (local storage).
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree

from datasets.labels import ClassTable
from datasets.mask_exports.brush_rle import encode_brush
from datasets.mask_exports.json_list import JsonList
from datasets.mask_exports.source import LabelMap, class_regions
from utils.safe.files import replacing, sha256

_FROM, _TO = "brush", "image"  # names of the two tags, which tasks and interface share


def write_tasks(
    path: Path, classes: ClassTable, masks: Iterable[LabelMap], images: str, version: str
) -> None:
    """Write the tasks, each with one prediction: a brush mask for each class of its image.

    images: name of the folder of images, below the root of Label Studio's local files. version: a
    text that names these predictions in the tool. Pixels without a label stay unpainted.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        with JsonList(file) as tasks:
            for one in masks:
                tasks.add(_task(one, classes, images, version))
        file.write("\n")


def _task(one: LabelMap, classes: ClassTable, images: str, version: str) -> dict[str, Any]:
    height, width = one.labels.shape
    results = [
        {
            "id": sha256(f"{one.name}\n{k}")[:16],
            "type": "brushlabels",
            "from_name": _FROM,
            "to_name": _TO,
            "original_width": width,
            "original_height": height,
            "image_rotation": 0,
            "value": {
                "format": "rle",
                "rle": encode_brush(region),
                "brushlabels": [classes.names[k]],
            },
        }
        for k, region in class_regions(one.labels)
    ]
    address = "/data/local-files/?d=" + quote(f"{images}/{one.image}")
    return {
        "data": {"image": address},
        "predictions": [{"model_version": version, "result": results}],
    }


def write_interface(path: Path, classes: ClassTable) -> None:
    """Write the labelling interface (XML) with the classes and their colours."""
    view = ElementTree.Element("View")
    ElementTree.SubElement(view, "Image", name=_TO, value="$image", zoom="true")
    labels = ElementTree.SubElement(view, "BrushLabels", name=_FROM, toName=_TO)
    for name, color in zip(classes.names, classes.palette.tolist(), strict=True):
        background = "#{:02x}{:02x}{:02x}".format(*color)
        ElementTree.SubElement(labels, "Label", value=name, background=background)
    ElementTree.indent(view)
    with replacing(path) as temporary:
        temporary.write_text(ElementTree.tostring(view, "unicode") + "\n", encoding="utf-8")
