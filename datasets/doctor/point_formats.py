"""Points in the files of annotation tools: what each file says, before it meets a data set.

A read function returns one `ToolImage` per image, in the order of the file. Raises InputError
naming the file, the image and the entry. Nothing in these files is executed.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from datasets.doctor.tool_files import (
    CVAT_MEMBER,
    cvat_images,
    is_number,
    is_zip,
    label_studio_tasks,
    members,
    read_bytes,
    read_json,
    read_xml,
    take,
)
from datasets.files import File
from utils.safe.errors import InputError

# fmt: off
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
    "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train",
    "tvmonitor",
)
# fmt: on
_LARGEST = 2**31  # pixels


class ToolPoint(NamedTuple):
    """A point as the tool has it: x and y in pixels, not rounded."""

    x: float
    y: float
    label: str
    where: str  # the entry, for messages


class ToolImage(NamedTuple):
    """The points of an image. names: what its file may be called, the likeliest first."""

    names: tuple[str, ...]
    size: tuple[int, int] | None  # (height, width), where the file says it
    points: list[ToolPoint]


def read_cvat(path: Path) -> list[ToolImage]:
    """ "CVAT for images 1.1": annotations.xml, or the zip that holds it.

    Only <points> right below an <image> are read; one element may hold several. Source:
    docs.cvat.ai, "XML annotation format".
    """
    file = File(str(path), CVAT_MEMBER if is_zip(_one_file(path)) else None)
    images = []
    for name, where, element in cvat_images(read_xml(file, "CVAT"), file):
        texts = [element.get(side, "") for side in ("height", "width")]
        if not all(re.fullmatch(r"[1-9]\d{0,8}", text) for text in texts):
            raise InputError(f"{where}: expected height and width in pixels, found {texts}")
        points = []
        for number, one in enumerate(element.iterfind("points")):
            entry, text = f"{where}, points {number + 1}", one.get("points", "")
            for pair in text.split(";"):
                try:
                    x, y = map(float, pair.split(","))
                except ValueError:
                    raise InputError(
                        f"{entry}: expected pairs x,y;x,y, found {text[:40]!r}"
                    ) from None
                points.append(ToolPoint(x, y, one.get("label", ""), entry))
        images.append(ToolImage((name,), (int(texts[0]), int(texts[1])), points))
    return images


def read_labelme(path: Path) -> list[ToolImage]:
    """LabelMe (labelmeai/labelme): a folder with a JSON for each image, or one such JSON.

    Only shapes of the type "point" are read.
    """
    files = [File(str(path))]
    if path.is_dir():
        files = [file for name, file in members(path).items() if name.lower().endswith(".json")]
    if not files:
        raise InputError(f"no JSON in {path}; LabelMe writes one beside each image")
    images = []
    for file in files:
        content = _json(Path(file.path))
        name = take(content, "imagePath", str, str(file))
        height = take(content, "imageHeight", int, str(file))
        width = take(content, "imageWidth", int, str(file))
        points = []
        for number, shape in enumerate(take(content, "shapes", list, str(file))):
            where = f"{file}, shape {number + 1}"
            if take(shape, "shape_type", object, where) != "point":
                continue
            pairs = take(shape, "points", list, where)
            is_pair = len(pairs) == 1 and isinstance(pairs[0], list) and len(pairs[0]) == 2
            if not is_pair or not all(map(is_number, pairs[0])):
                raise InputError(f"{where}: expected one point, [[x, y]], found {str(pairs)[:40]}")
            points.append(ToolPoint(*pairs[0], take(shape, "label", str, where), where))
        images.append(ToolImage((name,), (height, width), points))
    return images


def read_label_studio(path: Path) -> list[ToolImage]:
    """Label Studio's JSON, with KeyPointLabels: places are in percent of the image.

    Annotations that were cancelled are left out. Source: labelstud.io/tags/keypointlabels.
    """
    content = _json(path)
    first = content[0] if isinstance(content, list) and content else None
    if isinstance(first, dict) and "data" not in first and "image" in first:
        raise InputError(f'{path}, task 1 is of the form "JSON-MIN"; export as "JSON"')
    images = []
    for names, where, annotations in label_studio_tasks(content, path):
        points, sizes = [], set()
        for result in (result for results in annotations for result in results):
            if take(result, "type", object, where) == "keypointlabels":
                point, size = _key_point(result, where)
                points.append(point)
                sizes.add(size)
        if len(sizes) > 1:
            raise InputError(f"{where}: one image has the sizes {sorted(sizes)} (height, width)")
        images.append(ToolImage(names, next(iter(sizes), None), points))
    return images


def _key_point(result: dict[str, Any], where: str) -> tuple[ToolPoint, tuple[int, int]]:
    """A point of Label Studio, and (height, width) of its image."""
    width = take(result, "original_width", int, where)
    height = take(result, "original_height", int, where)
    if not (0 < width < _LARGEST and 0 < height < _LARGEST):
        raise InputError(
            f"{where}: expected the size of the image in pixels, found {width}x{height}"
        )
    if result.get("image_rotation", 0) != 0:
        raise InputError(
            f"{where}: the image was rotated in Label Studio (image_rotation), so that its points "
            "are not those of the stored image; save the rotated image and point at that"
        )
    value = take(result, "value", dict, where)
    x, y = (take(value, axis, int | float, where) for axis in ("x", "y"))
    if not (0 <= x <= 100 and 0 <= y <= 100):
        raise InputError(f"{where}: expected x and y in percent, 0 to 100, found {x} and {y}")
    labels = take(value, "keypointlabels", list, where)
    if len(labels) != 1 or not isinstance(labels[0], str):
        raise InputError(f"{where}: expected one label a point, found {str(labels)[:40]}")
    return ToolPoint(x * width / 100, y * height / 100, labels[0], where), (height, width)


def read_whats_the_point(path: Path) -> list[ToolImage]:
    """What's the Point (Bearman et al., ECCV 2016): points of PASCAL VOC 2012.

    `cls` counts the classes from 1, alphabetically; there are no points of the background. The
    form is described in the README of js-fan/PntWSSS.
    """
    content = _json(path)
    if not isinstance(content, dict):
        raise InputError(f'{path}: expected {{"2007_000032": [{{"x", "y", "cls", "rank"}}]}}')
    images = []
    for name in content:
        points = []
        for number, entry in enumerate(take(content, name, list, str(path))):
            where = f"{path}: image '{name}', point {number + 1}"
            x, y = (take(entry, axis, int | float, where) for axis in ("x", "y"))
            k = take(entry, "cls", int, where)
            if not 1 <= k <= len(VOC_CLASSES):
                raise InputError(f"{where}: expected cls of 1 to {len(VOC_CLASSES)}, found {k}")
            points.append(ToolPoint(x, y, VOC_CLASSES[k - 1], where))
        images.append(ToolImage((name,), None, points))
    return images


FORMATS: dict[str, Callable[[Path], list[ToolImage]]] = {
    "cvat": read_cvat,
    "labelme": read_labelme,
    "labelstudio": read_label_studio,
    "whats-the-point": read_whats_the_point,
}


def format_of(path: Path) -> str:
    """The tool that wrote a file, one of FORMATS. Raises InputError where that is unclear."""
    if path.is_dir():
        return "labelme"
    if (
        read_bytes(File(str(_one_file(path))))
        .lstrip(b"\xef\xbb\xbf \t\r\n")
        .startswith((b"<", b"PK"))
    ):
        return "cvat"
    content = _json(path)
    if isinstance(content, list):
        return "labelstudio"
    if isinstance(content, dict) and "shapes" in content:
        return "labelme"
    lists = [*content.values()] if isinstance(content, dict) else [None]
    if all(isinstance(one, list) and all(isinstance(e, dict) for e in one) for one in lists):
        return "whats-the-point"
    if all(isinstance(one, list) and all(isinstance(e, list) for e in one) for one in lists):
        raise InputError(
            f"{path} looks like a file of points already, not like an export of a tool; name it as "
            "--points, with --check, or as points in the config"
        )
    raise InputError(
        f"{path} is of no known tool; say which with --points-format {'|'.join(FORMATS)}"
    )


def _one_file(path: Path) -> Path:
    """The path of a file. Raises InputError for a folder, and where there is none."""
    if not path.exists():
        raise InputError(f"no {path}; --import-points names the file that an annotation tool wrote")
    if path.is_dir():
        raise InputError(f"{path} is a folder; expected the file that the tool wrote")
    return path


def _json(path: Path) -> Any:
    return read_json(File(str(_one_file(path))))
