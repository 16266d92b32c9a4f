"""Import of points from annotation tools: their images and labels become those of a data set."""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.doctor.point_formats import FORMATS, ToolImage, ToolPoint, format_of
from datasets.doctor.tool_images import places_of, unknown_labels
from datasets.files import File
from datasets.labels import ClassTable
from datasets.points import check_places, size_of
from datasets.split_labels import Images, Place
from datasets.windows import Size
from utils.class_names import plain_name
from utils.safe.errors import InputError

_SKIP = "--skip-unknown leaves them out"


class Imported(NamedTuple):
    """Points of an export, and how many entries were left out, with the reason."""

    points: dict[Place, np.ndarray]  # int64 (n,3) rows (x, y, class id); images with points only
    left_out: Counter[str]


def import_points(
    path: Path, tool: str | None, images: Images, classes: ClassTable, skip_unknown: bool
) -> Imported:
    """The points of an annotation tool's file for the images of some splits.

    tool: one of FORMATS; None tells it from the file. Labels are matched with class names without
    regard to case, blanks, hyphens and underscores; images by file name, as `places_of` does.
    skip_unknown: leave out labels and images that the data set does not have.

    Raises InputError where a label or an image is unknown, where a name fits two images, where an
    image had another size in the tool, and where a point lies outside. Points outside their image
    are left out of What's the Point alone, which has some.
    """
    tool = tool or format_of(path)
    found = [image for image in FORMATS[tool](path) if image.points]
    if not found:
        raise InputError(f"{path} has no point in it, read as a file of {tool}")
    left_out: Counter[str] = Counter()
    classes_of = {plain_name(name): k for k, name in enumerate(classes.names)}
    unknown = Counter(p.label for one in found for p in one.points)
    unknown = {label: n for label, n in unknown.items() if plain_name(label) not in classes_of}
    if unknown and not skip_unknown:
        listed = unknown_labels(unknown, "point", classes.names)
        raise InputError(f"{path}: {listed}; rename them, or {_SKIP}")
    left_out["of unknown labels"] = sum(unknown.values())

    places = places_of(path, [one.names for one in found], images)
    lost = [one for one in found if one.names not in places]
    if lost and not skip_unknown:
        raise InputError(
            f"{path}: {len(lost)} of {len(found)} images are not in {', '.join(images)}, the first "
            f"is '{lost[0].names[0]}'; name their splits (--splits), or {_SKIP}"
        )
    left_out["of unknown images"] = sum(len(one.points) for one in lost)

    points: dict[Place, np.ndarray] = {}
    for one in found:
        if one.names not in places:
            continue
        split, name = places[one.names]
        size = _checked_size(path, one, images[split][name])
        rows = []
        for point in one.points:
            if plain_name(point.label) not in classes_of:
                continue
            place = _pixel(point, size, has_edge=tool != "whats-the-point")
            if place is not None:
                rows.append((*place, classes_of[plain_name(point.label)]))
            elif tool == "whats-the-point":
                left_out["outside their image"] += 1
            else:
                raise InputError(
                    f"{point.where}: ({point.x}, {point.y}) lies outside the image, which is "
                    f"{size[1]} pixels wide and {size[0]} high; move the point and export again"
                )
        if rows:
            kept = list(dict.fromkeys(rows))  # two annotators may have set one point
            left_out["set twice"] += len(rows) - len(kept)
            points[split, name] = np.array(kept, np.int64)
            check_places(path, name, points[split, name], size, classes)
    return Imported(points, +left_out)


def _checked_size(path: Path, one: ToolImage, file: File) -> Size:
    """(height, width) of the image. Raises InputError where the tool has another size."""
    size = size_of(file)
    if one.size is not None and tuple(one.size) != tuple(size):
        raise InputError(
            f"{path}: the image '{one.names[0]}' is {one.size[1]}x{one.size[0]} (width x height) "
            f"there, but {file} is {size[1]}x{size[0]}; point at the images that are trained on"
        )
    return size


def _pixel(point: ToolPoint, size: Size, has_edge: bool) -> tuple[int, int] | None:
    """(x, y) of the pixel that a point lies in; None outside the image, and for NaN.

    has_edge: a point on the image's right or lower edge lies in its last pixels.
    """
    (height, width), (x, y) = size, (point.x, point.y)
    if not (0 <= x <= width and 0 <= y <= height) or (not has_edge and (x == width or y == height)):
        return None
    return min(int(x), width - 1), min(int(y), height - 1)
