"""Label maps in COCO's forms: masks as compressed RLE, and panoptic PNGs.

Source: cocodataset.org/#format-data. Both tell the classes of an image apart and not its objects,
so there is one entry per class and image, as in COCO's own stuff annotations. The id of a category
is the class id plus 1: many readers take 0 for the background.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

import numpy as np

from datasets.labels import ClassTable
from datasets.mask_exports.json_list import JsonList
from datasets.mask_exports.source import LabelMap, bounding_box, class_regions
from utils.safe.errors import needs_package
from utils.safe.files import replacing
from utils.visualize import save_image

Add = Callable[[LabelMap, Sequence[dict[str, Any]]], None]


def write_instances(path: Path, classes: ClassTable, masks: Iterable[LabelMap]) -> None:
    """Write COCO's JSON of instances; pixels without a label are in no annotation.

    The segmentation is compressed RLE and `iscrowd` is 0, as COCO has it for stuff: evaluations and
    training code leave annotations with ``iscrowd: 1`` out. Raises InputError where the package
    pycocotools is not installed.
    """
    with needs_package("--format coco-rle", "pycocotools"):
        from pycocotools import mask as rle
    count = 0
    with _coco_file(path, classes) as add:
        for number, one in enumerate(masks, 1):
            annotations = []
            for k, region in class_regions(one.labels):
                count += 1
                code = rle.encode(np.asfortranarray(region.view(np.uint8)))
                annotations.append(
                    {
                        "id": count,
                        "image_id": number,
                        "category_id": k + 1,
                        "segmentation": {
                            "size": list(region.shape),
                            "counts": code["counts"].decode("ascii"),
                        },
                        "area": int(np.count_nonzero(region)),
                        "bbox": bounding_box(region),
                        "iscrowd": 0,
                    }
                )
            add(one, annotations)


def write_panoptic(path: Path, classes: ClassTable, masks: Iterable[LabelMap]) -> None:
    """Write COCO's panoptic JSON at `path`, and the PNGs in a folder of the same name.

    A pixel holds the id of its segment as R + 256 G + 256^2 B: that of the category, or 0 where
    there is no label ("void"). All categories have ``isthing: 0``.
    """
    folder = path.with_suffix("")
    path.unlink(missing_ok=True)  # it must not describe PNGs that are about to change
    with _coco_file(path, classes, isthing=0) as add:
        for number, one in enumerate(masks, 1):
            colors = np.zeros((*one.labels.shape, 3), np.uint8)
            colors[..., 0] = one.labels + np.uint8(1)  # 255, no label, becomes 0
            save_image(folder / f"{one.name}.png", colors)
            segments = [
                {
                    "id": k + 1,
                    "category_id": k + 1,
                    "area": int(np.count_nonzero(region)),
                    "bbox": bounding_box(region),
                    "iscrowd": 0,
                }
                for k, region in class_regions(one.labels)
            ]
            file_name = f"{one.name}.png"
            add(one, [{"image_id": number, "file_name": file_name, "segments_info": segments}])


@contextmanager
def _coco_file(path: Path, classes: ClassTable, **of_category: Any) -> Iterator[Add]:
    """Context with add(label map, its annotations), which writes a COCO file piece by piece.

    Memory does not grow with the number of images: their entries wait in a temporary file.
    """
    categories = [
        {"id": k, "name": name, "supercategory": "", "color": color.tolist()} | of_category
        for k, (name, color) in enumerate(zip(classes.names, classes.palette, strict=True), 1)
    ]
    with (
        replacing(path) as temporary,
        temporary.open("w", encoding="utf-8", newline="\n") as file,
        TemporaryFile("w+", encoding="utf-8", newline="\n", dir=path.parent) as waiting,
    ):
        head = {"info": {"description": "Label maps, exported by export_masks.py"}}
        head |= {"licenses": [], "categories": categories}
        file.write(json.dumps(head, ensure_ascii=False)[:-1] + ',\n"annotations": ')
        with JsonList(file) as annotations, JsonList(waiting) as images:

            def add(one: LabelMap, of_image: Sequence[dict[str, Any]]) -> None:
                height, width = one.labels.shape
                size = {"width": width, "height": height}
                images.add({"id": images.count + 1, "file_name": one.image} | size)
                for annotation in of_image:
                    annotations.add(annotation)

            yield add
        file.write(',\n"images": ')
        waiting.seek(0)
        shutil.copyfileobj(waiting, file)
        file.write("}\n")
