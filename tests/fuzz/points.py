"""Readers of points: our file, and those of annotation tools."""

from datasets.doctor.point_formats import (
    format_of,
    read_cvat,
    read_label_studio,
    read_labelme,
    read_whats_the_point,
)
from datasets.labels import ClassTable, default_palette
from datasets.points import read_points
from tests.fuzz.labels import of_json
from tests.fuzz.reading import NAMES, Target

CVAT = b"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><image id="0" name="a.png" width="40" height="20">
<points label="car" points="39.9,0.5;40,20"/><box label="road" xtl="1"/></image></annotations>"""


def point_targets() -> dict[str, Target]:
    """Points of ours and of four tools."""
    classes = ClassTable(NAMES, tuple((name,) for name in NAMES), default_palette(len(NAMES)))
    labelme = {
        "shapes": [{"label": "car", "points": [[3.5, 4.0]], "shape_type": "point"}],
        "imagePath": "..\\a.png",
        "imageHeight": 20,
        "imageWidth": 40,
    }
    key_point = {
        "type": "keypointlabels",
        "original_width": 40,
        "original_height": 20,
        "image_rotation": 0,
        "value": {"x": 50, "y": 99.9, "keypointlabels": ["car"]},
    }
    task = {
        "data": {"image": "/upload/1a2b3c4d-a%20.png"},
        "annotations": [{"result": [key_point], "was_cancelled": False}],
    }
    voc = {"2007_000032": [{"x": 1, "y": 2, "cls": 7, "rank": 1}]}
    ours = {"a/b.jpg": [[1, 2, "car"], [0.5, 3, 0]], "c": []}
    xml = (b"<", b">", b"/>", b"<!DOCTYPE a [", b'<!ENTITY l "ha">', b"&l;", b"&#0;", b"<track>")
    xml += (b"<a>" * 3000, b"1e999", b"nan", b",", b";", b"\xff\xfe", b"9" * 5000, b"PK\x03\x04")
    return {
        "points-json": of_json(lambda p: read_points(p, classes), ours),
        "points-cvat": Target(".xml", read_cvat, [CVAT], xml),
        "points-labelme": of_json(read_labelme, labelme),
        "points-labelstudio": of_json(read_label_studio, [task]),
        "points-voc": of_json(read_whats_the_point, voc),
        "points-any": of_json(format_of, labelme, [task], voc),
    }
