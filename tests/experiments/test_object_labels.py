"""Image-level labels of PASCAL VOC and MS COCO, in their formats and damaged."""

import json
from pathlib import Path

import pytest

from experiments.object_labels import VOC_CLASSES, read_coco, read_voc
from utils.safe.errors import InputError

BOXES = {
    "2007_000032": ["aeroplane", "person", "aeroplane"],
    "2007_000039": ["tvmonitor"],
    "2007_000063": ["dog", "chair"],
    "2008_000001": [],
}


def make_voc(root: Path) -> Path:
    """VOC2012 with parts of objects, which are named too, and lists of both kinds."""
    for name, boxes in BOXES.items():
        objects = "".join(
            f"<object><name>{box}</name><difficult>1</difficult>"
            "<part><name>head</name></part></object>"
            for box in boxes
        )
        text = f"<annotation><filename>{name}.jpg</filename>{objects}</annotation>"
        file = root / f"Annotations/{name}.xml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    lists = {
        "Segmentation/train.txt": "2007_000032\n2007_000039\n",
        "Main/trainval.txt": "".join(f"{name}\n" for name in BOXES),
        "Main/dog_train.txt": "2007_000032 -1\n2007_000063  1\n",
        "Segmentation/train_aug.txt": "/JPEGImages/2007_000063.jpg /SegmentationClassAug/x.png\n",
    }
    for name, text in lists.items():
        (root / "ImageSets" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "ImageSets" / name).write_text(text)
    return root


def coco_content() -> dict:
    return {
        "images": [{"id": 7}, {"id": 9}, {"id": 500}],
        "categories": [{"id": 90, "name": "toothbrush"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"image_id": 7, "category_id": 90, "iscrowd": 0},
            {"image_id": 7, "category_id": 1, "iscrowd": 1},
            {"image_id": 7, "category_id": 1, "iscrowd": 0},
            {"image_id": 9, "category_id": 90, "iscrowd": 0},
        ],
    }


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", {"2007_000032": (0, 14), "2007_000039": (19,)}),
        (
            "ImageSets/Main/trainval.txt",
            {
                "2007_000032": (0, 14),
                "2007_000039": (19,),
                "2007_000063": (8, 11),
                "2008_000001": (),
            },
        ),
        ("ImageSets/Segmentation/train_aug.txt", {"2007_000063": (8, 11)}),
    ],
)
def test_voc_lists(tmp_path, path, expected):
    labels, names = read_voc(make_voc(tmp_path) / path)
    assert labels == expected
    assert names == VOC_CLASSES and len(names) == 20 and list(names) == sorted(names)


def test_voc_list_of_one_class_is_refused(tmp_path):
    with pytest.raises(InputError, match="dog_train.txt is the list of one class; give train.txt"):
        read_voc(make_voc(tmp_path) / "ImageSets/Main/dog_train.txt")


BOMB = '<!DOCTYPE a [<!ENTITY b "aaaa"><!ENTITY c "&b;&b;">]><annotation>&c;</annotation>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB.encode(), "document type"),
        (BOMB.encode("utf-16"), "document type"),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><annotation/>', "document type"),
        (b"<annotation>&b;</annotation>", "undefined entity"),
        (b"<annotation><object>", "not an annotation of PASCAL VOC"),
        (b"", "not an annotation of PASCAL VOC"),
        (b"\xff\xfe\x00", "not an annotation of PASCAL VOC"),
        (b'<?xml version="1.0" encoding="none"?><annotation/>', "encoding"),
        (b"<annotation><object><name>tank</name></object></annotation>", "'tank'.*no classes"),
        (b"<annotation><object/></annotation>", "''.*no classes"),
        (None, "No such file"),
    ],
)
def test_damaged_voc_annotations_are_named(tmp_path, content, message):
    file = make_voc(tmp_path) / "Annotations/2007_000039.xml"
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(InputError, match=rf"2007_000039\.xml.*{message}"):
        read_voc(tmp_path)


def test_coco(tmp_path):
    path = tmp_path / "instances_train2014.json"
    path.write_text(json.dumps(coco_content()))
    labels, names = read_coco(path)
    assert names == ("person", "toothbrush")  # in the order of the ids 1 and 90
    assert labels == {"7": (0, 1), "9": (1,), "500": ()}


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda c: c["annotations"].append({"image_id": 8, "category_id": 1}), "KeyError: 8"),
        (lambda c: c["annotations"].append({"image_id": 7, "category_id": 2}), "KeyError: 2"),
        (lambda c: c["annotations"].append(None), "TypeError"),
        (lambda c: c.pop("categories"), "KeyError: 'categories'"),
        (lambda c: c.update(images=3), "TypeError"),
        (lambda c: c.update(images=[], annotations=[]), "has no images"),
    ],
)
def test_damaged_coco_is_named(tmp_path, damage, message):
    content = coco_content()
    damage(content)
    path = tmp_path / "instances_train2014.json"
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=f"instances_train2014.json .*{message}"):
        read_coco(path)


@pytest.mark.parametrize("content", [b"", b"[1, 2]", b'{"images": [', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_coco_file_at_all(tmp_path, content):
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match="not an instances_.*download it again"):
        read_coco(path)


@pytest.mark.parametrize("read", [read_voc, read_coco])
def test_files_that_are_not_there(tmp_path, read):
    with pytest.raises(InputError, match=f"no {tmp_path}.*; expected"):
        read(tmp_path / "nowhere")
