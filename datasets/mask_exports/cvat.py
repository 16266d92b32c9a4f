"""Label maps as the zip that CVAT imports as "Segmentation mask 1.1".

Source: docs.cvat.ai/docs/dataset_management/formats/format-smask; its form is that of Pascal VOC's
segmentation.
"""

import io
from collections.abc import Iterable
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import numpy as np
from PIL import Image

from datasets.labels import ClassTable, voc_palette
from datasets.mask_exports.source import LabelMap, refuse_class_name
from utils.safe.errors import InputError
from utils.safe.files import replacing
from utils.visualize import IGNORED_COLOR, colourize

_BACKGROUND = "background"  # CVAT's name of black pixels, which belong to no label


def write_cvat(path: Path, classes: ClassTable, masks: Iterable[LabelMap]) -> None:
    """Write the zip; a class becomes one mask per image, pixels without a label are background.

    SegmentationClass has the classes' colours, SegmentationObject the k-th colour of Pascal VOC for
    the mask of class k - 1. Raises InputError for classes and image names that its text files can't
    hold.
    """
    _check_classes(classes)
    objects, names = voc_palette(len(classes)), []
    with replacing(path) as temporary, ZipFile(temporary, "w") as archive:
        lines = [f"{_BACKGROUND}:0,0,0::"]
        for name, color in zip(classes.names, classes.palette.tolist(), strict=True):
            lines.append(f"{name}:{','.join(map(str, color))}::")
        _add(archive, "labelmap.txt", "\n".join(["# label:color:parts:actions", *lines, ""]))
        for one in masks:
            _check_name(one.name)
            names.append(one.name)
            for folder, palette in (("Class", classes.palette), ("Object", objects)):
                image = colourize(one.labels, palette)
                _add(archive, f"Segmentation{folder}/{one.name}.png", _png(image))
        _add(archive, "ImageSets/Segmentation/default.txt", "\n".join([*names, ""]))


def _add(archive: ZipFile, name: str, content: str | bytes) -> None:
    entry = ZipInfo(name)  # of a fixed date: the same masks give the same zip
    entry.compress_type = ZIP_DEFLATED if isinstance(content, str) else ZIP_STORED
    entry.external_attr = 0o644 << 16
    archive.writestr(entry, content)


def _png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG")
    return stream.getvalue()


def _check_classes(classes: ClassTable) -> None:
    refuse_class_name(classes, _BACKGROUND, "CVAT")
    of_color: dict[tuple[int, ...], list[str]] = {IGNORED_COLOR: ["pixels without a label"]}
    for name, color in zip(classes.names, classes.palette.tolist(), strict=True):
        of_color.setdefault(tuple(color), []).append(name)
        if ":" in name or name.startswith("#") or name != name.strip():
            raise InputError(
                f"the class name {name!r} can't be written in CVAT's labelmap.txt: no ':', no '#' "
                "in front, no blanks around it; rename it in a class file: --class-file"
            )
    for color, names in of_color.items():
        if len(names) > 1:
            raise InputError(
                f"CVAT's masks tell classes apart by colour, and {', '.join(names)} share "
                f"{list(color)}; give each a colour of its own in a class file: --class-file"
            )


def _check_name(name: str) -> None:
    if name.startswith("#") or name != name.strip() or len(name.splitlines()) != 1:
        raise InputError(
            f"the image name {name!r} can't be written in CVAT's list of images: no '#' in front, "
            "no blanks around it, no line end; rename the image and its mask"
        )
