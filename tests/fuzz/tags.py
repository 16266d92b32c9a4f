"""Readers of image-level tags of annotation tools."""

import io
import zipfile
from typing import Any

from datasets.doctor.tag_files import read_tags
from datasets.doctor.tag_import import label_names, tags_by_image
from datasets.doctor.tag_yolo import names_files, of_yolo
from datasets.files import File
from datasets.labels import ClassTable, default_palette
from tests.fuzz.labels import of_json
from tests.fuzz.points import CVAT
from tests.fuzz.reading import NAMES, Target

VOC = b"<annotation><filename>a.png</filename><object><name>car</name></object></annotation>"


def tag_targets() -> dict[str, Target]:
    """Files of seven tools, read and matched with a data set."""
    classes = ClassTable(NAMES, tuple((name,) for name in NAMES), default_palette(len(NAMES)))
    images = {"train": {"a": File("images/train/a.png"), "b": File("images/train/b.png")}}

    def read(path: Any) -> None:
        files = read_tags(path)
        tags_by_image(files, label_names(classes, [], files), True, ["train"], images)

    def read_yolo(path: Any) -> None:
        names = path.with_suffix(".names")
        names.write_bytes(b"car\nroad\n")
        files = {file.name: File(str(file)) for file in (path, names)}
        list(of_yolo(files, names_files(files)))

    def read_names(path: Any) -> None:
        names_files({path.name: File(str(path))})

    choice = {"type": "choices", "value": {"choices": ["car"]}}
    taxonomy = {"type": "taxonomy", "value": {"taxonomy": [["vehicle", "car"]]}}
    task = {
        "data": {"image": "/upload/1a2b3c4d-a.png"},
        "annotations": [{"result": [choice, taxonomy], "was_cancelled": False}],
    }
    small = {"image": "a.png", "id": 1, "one": "car", "more": [{"taxonomy": [["x", "road"]]}]}
    shape = {"label": "car", "points": [[1, 2]], "shape_type": "point"}
    labelme = {"imagePath": "a.png", "flags": {"road": True}, "shapes": [shape]}
    fiftyone = {"classes": ["car"], "labels": {"a": [0], "b": None}}
    field = {"_cls": "Classifications", "classifications": [{"label": "car"}]}
    samples = {"samples": [{"filepath": "a.png", "f": field}]}
    coco = {
        "images": [{"id": 1, "file_name": "a.png"}],
        "categories": [{"id": 7, "name": "car"}],
        "annotations": [{"image_id": 1, "category_id": 7}],
    }
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("annotations.xml", CVAT)
    xml = (b"<", b">", b"/>", b"<!DOCTYPE a [", b'<!ENTITY l "ha">', b"&l;", b"&#0;", b"<track>")
    words = (b"0", b"1", b" ", b"\n", b"nan", b"1e999", b"9" * 5000, b"\xff", b"\xef\xbb\xbf")
    return {
        "tags-json": of_json(read, [task], [small], labelme, fiftyone, samples, coco),
        "tags-xml": Target(".xml", read, [CVAT, VOC], xml),
        "tags-zip": Target(".zip", read, [packed.getvalue()], (b"../", b"PK\x03\x04")),
        "tags-yolo": Target(".txt", read_yolo, [b"0 0.5 0.5 1 1\n1 0 0 1 1\n"], words),
        "tags-yolo-names": Target(".yaml", read_names, [b"names: {0: car, 1: road}\n"], words),
    }
