"""Tags of annotation tools: each documented form becomes the labels that it was written from.

The writers below follow the documents that datasets/doctor/tag_formats.py and tag_yolo.py name.
Programs that are not ours write or read most forms too: globox, pycocotools, datumaro (CVAT), and
the converter and importers of Label Studio and FiftyOne; none was tried on FiftyOne's samples.json,
for which FiftyOne needs a database. The tests with the last three are skipped in the usual
environment; that of tests/test_export_masks.py runs them:
    readers/bin/python -m pytest tests/test_tag_import.py -k "datumaro or converter or importer"
"""

import json
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import pytest
import tiny

import prepare_data
from datasets.doctor.tag_files import read_tags
from utils.safe.errors import InputError, InputNote, InputWarning

CLASSES = ("road", "traffic light", "Car")
LABELS = {"road 1.png": ["Car", "road"], "b.png": ["traffic_light"], "c.png": []}
IDS = {"road 1": [0, 2], "b": [1], "c": []}
UNSURE = {name: ids for name, ids in IDS.items() if ids}  # "c" counts as not annotated
Tags = Mapping[str, Sequence[str]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of the images train/{road 1,b,c} and val/v, without masks."""
    folder = tmp_path_factory.mktemp("tags") / "data"
    for i, name in enumerate(("train/road 1", "train/b", "train/c", "val/v")):
        tiny.save(folder / f"images/{name}.png", np.full((2, 3, 3), 9 * i, np.uint8))
    (folder / "classes.yaml").write_text(f"classes: [{', '.join(CLASSES)}]\n")
    return folder


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = content if isinstance(content, str | bytes) else json.dumps(content)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def imported(data: Path, out: Path, *options: str | Path) -> dict[str, list[int]]:
    """What prepare_data.py writes for the exports and options after --import-tags."""
    command = ["folder", "--root", str(data), "--workers", "0", "--out", str(out)]
    prepare_data.main([*command, "--import-tags", *map(str, options)])
    return json.loads(out.read_text())


# ---------------------------------------------------------------- good files, one for each form


def cvat(labels: Tags, version: str = "1.1") -> str:
    """Of an image's labels the first is a tag, the others are shapes."""
    names = sorted({label for of_image in labels.values() for label in of_image})
    known = "".join(f"<label><name>{escape(k)}</name><attributes/></label>" for k in names)
    task = (
        f"<id>4</id><name>n</name><size>{len(labels)}</size><mode>annotation</mode>"
        "<overlap>0</overlap><bugtracker></bugtracker><flipped>False</flipped>"
        f"<created>2026-01-01</created><updated>2026-01-02</updated><labels>{known}</labels>"
        f"<segments><segment><id>4</id><start>0</start><stop>{len(labels) - 1}</stop>"
        "<url>http://localhost:8080/?id=4</url></segment></segments>"
        "<owner><username>me</username><email></email></owner>"
    )
    shapes = [
        '<tag label={} source="manual"></tag>',
        '<box label={} xtl="0" ytl="0" xbr="1" ybr="1" occluded="0" z_order="0"></box>',
    ]
    images = [
        f'<image id="{number}" name={quoteattr(name)} width="3" height="2">'
        + "".join(shapes[i > 0].format(quoteattr(label)) for i, label in enumerate(of_image))
        + "</image>"
        for number, (name, of_image) in enumerate(labels.items())
    ]
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<annotations><version>{version}</version>'
        f"<meta><task>{task}</task><dumped>2026-01-02</dumped></meta>{''.join(images)}"
        "</annotations>"
    )


def cvat_zip(path: Path, labels: Tags) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("annotations.xml", cvat(labels))
        file.writestr("images/road 1.png", b"")
        file.writestr("__MACOSX/._annotations.xml", b"\0\5\26\7")
    return path


def result(kind: str, value: dict[str, Any]) -> dict[str, Any]:
    place = {"original_width": 3, "original_height": 2, "image_rotation": 0}
    return {"from_name": kind, "to_name": "img", "type": kind, "value": value, **place}


def label_studio(labels: Tags) -> list[dict[str, Any]]:
    """Choices for the first label of an image, boxes for the others; a cancelled annotation."""
    cancelled = {"was_cancelled": True, "result": [result("choices", {"choices": ["fog"]})]}
    tasks = []
    for number, (name, of_image) in enumerate(labels.items()):
        results = [result("choices", {"choices": [*of_image[:1]]})] if of_image else []
        box = {"x": 1, "y": 1, "width": 5, "height": 5, "rotation": 0}
        results += [result("rectanglelabels", box | {"rectanglelabels": [k]}) for k in of_image[1:]]
        annotation = {"id": number, "was_cancelled": False, "result": results}
        address = f"/data/upload/1/1a2b3c4d-{name.replace(' ', '%20')}"
        tasks.append(
            {
                "id": number,
                "data": {"image": address},
                "annotations": [annotation, cancelled],
                "predictions": [{"result": [result("choices", {"choices": ["snow"]})]}],
            }
        )
    return tasks


def label_studio_min(labels: Tags) -> list[dict[str, Any]]:
    """A bare text for a single choice, a mapping for several."""
    more = {"annotator": 1, "annotation_id": 7, "created_at": "", "updated_at": "", "lead_time": 1}
    entries = []
    for number, (name, of_image) in enumerate(labels.items()):
        entry = {"image": f"/data/upload/1/1a2b3c4d-{name}", "id": number, **more}
        if of_image:
            entry["tag"] = of_image[0] if len(of_image) == 1 else {"choices": [*of_image]}
        entries.append(entry)
    return entries


def labelme(folder: Path, labels: Tags) -> Path:
    """The first label of an image is a flag, the others are shapes."""
    for name, of_image in labels.items():
        shapes = [
            {
                "label": k,
                "points": [[0, 0], [1, 1]],
                "shape_type": "rectangle",
                "flags": {"no": True},
            }
            for k in of_image[1:]
        ]
        flags = {"night": False} | dict.fromkeys(of_image[:1], True)
        content = {"version": "5.4.1", "flags": flags, "shapes": shapes, "imageData": None}
        content |= {"imagePath": f"..\\images\\{name}", "imageHeight": 2, "imageWidth": 3}
        save(folder / f"{name[:-4]}.json", content)
    return folder


def fiftyone(labels: Tags) -> dict[str, Any]:
    classes = ["fog", "Car", "road", "traffic_light"]
    found = {name[:-4]: [classes.index(k) for k in labels[name]] for name in labels}
    return {"classes": classes, "labels": found}


def fiftyone_with_confidence(labels: Tags) -> dict[str, Any]:
    found = {n[:-4]: [{"label": k, "confidence": 0.5} for k in labels[n]] for n in labels}
    return {"classes": None, "labels": found}


def samples(labels: Tags) -> dict[str, Any]:
    found = []
    for name, of_image in labels.items():
        several = [{"_cls": "Classification", "tags": [], "label": label} for label in of_image]
        field = {"_cls": "Classifications", "classifications": several, "logits": None}
        found.append({"filepath": f"data/{name}", "tags": ["validation"], "weather": field})
    return {"samples": found}


def fiftyone_dataset(folder: Path, labels: Tags) -> Path:
    save(folder / "metadata.json", {"name": "n", "media_type": "image", "sample_fields": []})
    save(folder / "samples.json", samples(labels))
    return folder


def coco(labels: Tags) -> dict[str, Any]:
    names = ["bus", "Car", "road", "traffic_light"]
    categories = [{"id": 3 * k, "name": name, "supercategory": "x"} for k, name in enumerate(names)]
    images = [
        {"id": i, "file_name": name, "width": 3, "height": 2} for i, name in enumerate(labels)
    ]
    pairs = [(i, label) for i, of_image in enumerate(labels.values()) for label in of_image]
    annotations = [
        {"id": n, "image_id": i, "category_id": 3 * names.index(label), "iscrowd": n % 2}
        | {"bbox": [0, 0, 1, 1], "area": 1, "segmentation": [[0, 0, 1, 0, 1, 1]]}
        for n, (i, label) in enumerate(pairs)
    ]
    return {"images": images, "annotations": annotations, "categories": categories}


def coco_panoptic(labels: Tags) -> dict[str, Any]:
    content = coco(labels)
    for one in content["annotations"]:
        segment = {"id": 1, "category_id": one.pop("category_id"), "area": 1, "iscrowd": 0}
        one["segments_info"] = [segment]
    return content


def voc(folder: Path, labels: Tags) -> Path:
    for name, of_image in labels.items():
        part = "<part><name>wheel</name></part>"
        objects = [f"<object><name>{k}</name>{part}</object>" for k in of_image]
        head = f"<folder>f</folder><filename>{name}</filename>"
        save(folder / f"{name[:-4]}.xml", f"<annotation>{head}{''.join(objects)}</annotation>")
    save(folder / "ImageSets/Main/train.txt", "b\n")
    return folder


def yolo(folder: Path, labels: Tags, below: str = "labels/train/") -> Path:
    names = [k.replace("_", " ") for k in ("Car", "road", "traffic_light")]
    for name, of_image in labels.items():
        ids = [names.index(k.replace("_", " ")) for k in of_image]
        places = ["0.5 0.5 0.25 0.25", "0.1 0.1 0.2 0.1 0.2 0.2"]  # a box, a polygon
        lines = [f"{k} {places[i % 2]}\n" for i, k in enumerate(ids)]
        save(folder / f"{below}{name[:-4]}.txt", "".join(lines))
    listed = "".join(f"  {k}: {name}\n" for k, name in enumerate(names))
    save(folder / "data.yaml", f"path: .\ntrain: images/train\nnames:\n{listed}")
    save(folder / "train.txt", "images/train/b.png\n")
    return folder


def darknet(folder: Path, labels: Tags) -> Path:
    yolo(folder, labels, "obj_train_data/")
    (folder / "data.yaml").unlink()
    save(folder / "obj.data", "classes = 3\nnames = obj.names\n")
    return save(folder / "obj.names", "Car\nroad\ntraffic light\n\n").parent


def in_a_file(name: str, write: Callable[[Tags], Any]) -> Callable[[Path, Tags], Path]:
    return lambda folder, labels: save(folder / name, write(labels))


WRITERS: dict[str, tuple[str, Callable[[Path, Tags], Path], dict[str, list[int]]]] = {
    "cvat": ("CVAT", in_a_file("a.xml", cvat), UNSURE),
    "cvat-zip": ("CVAT", cvat_zip, UNSURE),
    "label-studio": ("Label Studio", in_a_file("a.json", label_studio), IDS),
    "json-min": ("Label Studio (JSON-MIN)", in_a_file("a.json", label_studio_min), IDS),
    "labelme": ("LabelMe", labelme, IDS),
    "fiftyone": ("FiftyOne", in_a_file("labels.json", fiftyone), IDS),
    "fiftyone-dict": ("FiftyOne", in_a_file("labels.json", fiftyone_with_confidence), IDS),
    "fiftyone-dataset": ("FiftyOne (samples)", fiftyone_dataset, IDS),
    "coco": ("COCO", in_a_file("a.json", coco), IDS),
    "coco-panoptic": ("COCO", in_a_file("a.json", coco_panoptic), IDS),
    "voc": ("PASCAL VOC", voc, IDS),
    "yolo": ("YOLO", yolo, IDS),
    "darknet": ("YOLO", darknet, IDS),
}


@pytest.mark.filterwarnings("ignore::utils.safe.errors.InputWarning")
@pytest.mark.parametrize("form", WRITERS)
def test_labels_written_in_the_form_of_a_tool_come_back(
    form: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    kind, write, expected = WRITERS[form]
    path = write(tmp_path / "export", LABELS)
    assert imported(data, tmp_path / "l.json", path) == expected
    assert f": {kind}, 3 images, 3 labels" in capsys.readouterr().out
    meta = json.loads((tmp_path / "l.meta.json").read_text())
    assert meta["class_names"] == [*CLASSES]


@pytest.mark.parametrize("form", ["labelme", "voc", "yolo", "darknet", "coco"])
def test_a_zip_is_read_like_its_folder(form: str, tmp_path: Path) -> None:
    folder = WRITERS[form][1](tmp_path / "export", LABELS)
    folder = folder if folder.is_dir() else folder.parent
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as file:
        for path in folder.rglob("*"):
            file.write(path, path.relative_to(folder))
    (zipped,), (unpacked,) = read_tags(tmp_path / "e.zip"), read_tags(folder)
    assert sorted(zipped.images) == sorted(unpacked.images)


def test_files_of_other_writers_are_read(data: Path, tmp_path: Path) -> None:
    globox = pytest.importorskip("globox")
    boxes = globox.AnnotationSet()
    for name, labels in LABELS.items():
        found = [globox.BoundingBox(label=k, xmin=0, ymin=0, xmax=1, ymax=1) for k in labels]
        boxes.add(globox.Annotation(name, (3, 2), found))
    boxes.save_coco(tmp_path / "coco.json", auto_ids=True)
    boxes.save_pascal_voc(tmp_path / "voc")
    boxes.save_labelme(tmp_path / "labelme")
    boxes.save_yolo_v5(tmp_path / "yolo", label_to_id={"Car": 0, "road": 1, "traffic_light": 2})
    save(tmp_path / "yolo/classes.txt", "Car\nroad\ntraffic_light\n")
    expected = {
        name[:-4]: frozenset((k,) for k in labels) for name, labels in sorted(LABELS.items())
    }
    for path in ("coco.json", "voc", "labelme", "yolo"):
        (file,) = read_tags(tmp_path / path)
        found = {one.names[0].removesuffix(".png"): one.tags for one in file.images}
        assert found == expected, path


def test_the_fixture_of_coco_is_read_by_its_own_library(tmp_path: Path) -> None:
    library = pytest.importorskip("pycocotools.coco")
    api = library.COCO(str(save(tmp_path / "a.json", coco(LABELS))))
    for image in api.loadImgs(api.getImgIds()):
        of_image = api.loadAnns(api.getAnnIds(imgIds=image["id"]))
        names = {one["name"] for one in api.loadCats([a["category_id"] for a in of_image])}
        assert names == {*LABELS[image["file_name"]]}


def test_the_fixture_of_cvat_is_read_by_datumaro(tmp_path: Path) -> None:
    """As unpacked from CVAT's zip: annotations.xml beside the folder of images."""
    dataset = pytest.importorskip("datumaro", reason="pip install datumaro").Dataset
    path = save(tmp_path / "annotations.xml", cvat(LABELS))
    for name in LABELS:
        tiny.save(tmp_path / f"images/{name}", np.zeros((2, 3, 3), np.uint8))
    read = dataset.import_from(str(tmp_path), "cvat")
    categories = {type(one).__name__: one for one in read.categories().values()}["LabelCategories"]
    found = {
        f"{item.id}.png": {categories[one.label].name for one in item.annotations} for item in read
    }
    assert found == {name: {*labels} for name, labels in LABELS.items()}
    assert found == {name: tags or set() for name, tags in tags_of(path).items()}


def test_label_studios_converter_makes_json_min_of_the_fixture(tmp_path: Path) -> None:
    reason = "pip install label-studio-converter"
    library = pytest.importorskip("label_studio_converter", reason=reason)
    tasks = label_studio(LABELS | {"d.png": []})
    results = [result("taxonomy", {"taxonomy": [["vehicle", "car"], ["road"]]})]
    results += [result("choices", {"choices": ["fog", "snow"]})]
    tasks[1]["annotations"].append({"result": results})
    tasks[3]["annotations"] = []  # where all tasks are exported
    tags = ("Choices", "RectangleLabels", "Taxonomy")
    controls = "".join(f'<{tag} name="{tag.lower()}" toName="img"/>' for tag in tags)
    interface = f'<View><Image name="img" value="$image"/>{controls}</View>'
    path = save(tmp_path / "a.json", tasks)
    converter = library.Converter(interface, str(tmp_path))
    converter.convert_to_json_min(str(path), str(tmp_path / "min"), is_dir=False)
    (file,) = read_tags(tmp_path / "min")
    assert file.kind == "Label Studio (JSON-MIN)"
    assert tags_of(tmp_path / "min") == tags_of(path)


@pytest.mark.parametrize("write", [fiftyone, fiftyone_with_confidence])
def test_the_fixtures_of_fiftyone_are_read_by_its_own_importer(
    write: Callable[[Tags], Any], tmp_path: Path
) -> None:
    library = pytest.importorskip("fiftyone.utils.data.importers", reason="pip install fiftyone")
    path = save(tmp_path / "labels.json", write(LABELS))
    for name in LABELS:
        save(tmp_path / f"data/{name}", b"")
    with library.FiftyOneImageClassificationDatasetImporter(str(tmp_path)) as read:
        found = {
            Path(image).stem: {one.label for one in labels.classifications}
            for image, _, labels in read
        }
    assert found == tags_of(path)


# ---------------------------------------------------------------- what counts as a tag


def tags_of(path: Path) -> dict[str, set[str] | None]:
    (file,) = read_tags(path)
    return {
        one.names[0]: None if one.tags is None else {"/".join(tag) for tag in one.tags}
        for one in file.images
    }


def test_cvat_counts_every_shape_but_not_the_parts_of_a_skeleton(tmp_path: Path) -> None:
    kinds = ("tag", "box", "polygon", "polyline", "points", "ellipse", "mask", "cuboid")
    inside = '<attribute name="a">1</attribute>'
    shapes = "".join(f'<{kind} label="{kind}">{inside}</{kind}>' for kind in kinds)
    shapes += '<skeleton label="man"><points label="head" points="1,1"/></skeleton>'
    text = cvat({"b.png": []}).replace("</image>", f"{shapes}</image>")
    assert tags_of(save(tmp_path / "a.xml", text)) == {"b.png": {*kinds, "man"}}


def test_label_studio_counts_all_regions_of_all_annotators(tmp_path: Path) -> None:
    tasks = label_studio({"b.png": []})
    kinds = ("keypointlabels", "polygonlabels", "brushlabels", "ellipselabels", "labels")
    results = [result(kind, {kind: [kind, "two"]}) for kind in kinds]
    results += [result("textarea", {"text": ["no"]}), result("rating", {"rating": 3})]
    tasks[0]["annotations"] += [{"result": results}, {"result": []}]
    found = tags_of(save(tmp_path / "a.json", tasks))
    assert found == {"/data/upload/1/1a2b3c4d-b.png": {*kinds, "two"}}


@pytest.mark.parametrize("is_min", [False, True])
def test_the_image_of_label_studio_may_have_any_field(is_min: bool, tmp_path: Path) -> None:
    """The labelling interface names it: <Image name="img" value="$camera"/>."""
    tasks = (label_studio_min if is_min else label_studio)({"b.png": ["road"]})
    fields = tasks[0] if is_min else tasks[0]["data"]
    fields["camera"] = fields.pop("image") + "?token=a/b"
    path = save(tmp_path / "a.json", tasks)
    assert tags_of(path) == {"/data/upload/1/1a2b3c4d-b.png": {"road"}}
    fields["back"] = "c.jpg"
    with pytest.raises(InputError, match="task 1: .*'image', or .*found 2 .camera, back.; rename"):
        tags_of(save(path, tasks))
    fields |= {"back": 1, "camera": "https://bucket/b"}
    with pytest.raises(InputError, match="task 1: .*'image', or .*found none among .*'camera'"):
        tags_of(save(path, tasks))


@pytest.mark.parametrize("is_min", [False, True])
def test_of_a_taxonomy_the_last_known_part_counts(is_min: bool, data: Path, tmp_path: Path) -> None:
    paths = [["vehicle", "car", "estate"], ["ground", "Road"]]
    value = {"taxonomy": paths}
    tasks = label_studio({"b.png": []})
    tasks[0]["annotations"][0]["result"].append(result("taxonomy", value))
    if is_min:
        tasks = [{"image": "b.png", "id": 1, "tax": [value]}]
    path = save(tmp_path / "a.json", tasks)
    with pytest.warns(InputWarning, match="2 of 3 images of 'train' have no annotation"):
        assert imported(data, tmp_path / "l.json", path) == {"b": [0, 2]}
    paths.append(["vehicle", "tram"])
    with pytest.raises(InputError, match="1 label is no class .*'vehicle/tram' .1 image"):
        imported(data, tmp_path / "l.json", save(path, tasks))


def test_json_min_has_an_entry_for_each_annotator(tmp_path: Path) -> None:
    two = [{"image": "b.png", "id": 1, "one": "road"}, {"image": "b.png", "id": 1, "one": "car"}]
    assert tags_of(save(tmp_path / "a.json", two)) == {"b.png": {"road", "car"}}


def test_json_min_tells_a_task_without_an_annotation(tmp_path: Path) -> None:
    of_task = [("b.png", None), ("c.png", 7), ("d.png", None), ("d.png", 8)]
    content = [{"image": image, "id": 1, "annotation_id": number} for image, number in of_task]
    found = tags_of(save(tmp_path / "a.json", content))
    assert found == {"b.png": None, "c.png": set(), "d.png": set()}


def test_json_min_names_the_fields_that_it_leaves_out(tmp_path: Path) -> None:
    """Other answers than labels, and data of the task."""
    entry = {"image": "b.png", "id": 1, "tag": ["road", {"choices": ["car", "bus"]}]}
    entry |= {"stars": [{"rating": 3}], "place": {"city": "Ulm"}, "seen": True, "sun": None}
    entry |= {"agreement": 0.5, "sizes": [2, 3], "corners": [[0, 0], [2, 1.5]], "empty": []}
    path = save(tmp_path / "a.json", [entry, entry])
    with pytest.warns(InputNote, match="no labels in the mappings of stars, place, which are left"):
        assert tags_of(path) == {"b.png": {"road", "car", "bus"}}


@pytest.mark.parametrize("kind", ["Classification", "Detection", "Keypoint"])
def test_fiftyone_samples_may_have_one_label_or_detections(kind: str, tmp_path: Path) -> None:
    one = {"_cls": kind, "label": "car", "attributes": {}}
    several = {"_cls": f"{kind}s", f"{kind.lower()}s": [one, one | {"label": "road"}]}
    content = {"samples": [{"filepath": "a.png", "f": one}, {"filepath": "b.png", "f": several}]}
    content["samples"].append({"filepath": "c.png", "f": None})
    path = save(tmp_path / "samples.json", content)
    assert tags_of(path) == {"a.png": {"car"}, "b.png": {"car", "road"}, "c.png": None}


def test_who_has_annotated_without_a_tag_differs_from_nobody(data: Path, tmp_path: Path) -> None:
    """Label Studio without an annotation, null of FiftyOne, and an image of CVAT without labels."""
    tasks = label_studio(LABELS)
    tasks[1]["annotations"] = tasks[1]["annotations"][1:]  # "b" has a cancelled annotation only
    content = {"labels": {"road 1": "car", "b": None, "c": []}}
    old = json.loads(json.dumps(tasks).replace("annotations", "completions"))  # before version 1
    old = json.loads(json.dumps(old).replace("was_cancelled", "skipped"))
    for export in (tasks, old, content):
        path = save(tmp_path / "a.json", export)
        with pytest.warns(InputWarning) as told:
            found = imported(data, tmp_path / "l.json", path, "--overwrite")
        assert found.keys() == {"road 1", "c"} and found["c"] == []
        texts = [str(one.message) for one in told]
        missing = "1 of 3 images of 'train' have no annotation and get no labels: b;"
        assert [text for text in texts if text.startswith(missing)]
        assert [text for text in texts if "1 image annotated without any class: c;" in text]


# ---------------------------------------------------------------- names of labels and images


def test_unknown_labels_stop_the_import_all_at_once(data: Path, tmp_path: Path) -> None:
    labels = {"b.png": ["cra", "tree"], "c.png": ["tree", "road"], "road 1.png": ["road"]}
    first = save(tmp_path / "a.xml", cvat(labels))
    second = save(tmp_path / "b.json", label_studio({"v.png": ["lamp"]}))
    out = tmp_path / "l.json"
    message = (
        r"3 labels are no class of the class file: 'cra' \(1 image; did you mean 'car'\?\), "
        r"'lamp' \(1 image\), 'tree' \(2 images\); map .*--rename OLD=NEW.*--skip-unknown"
    )
    with pytest.raises(InputError, match=message):
        imported(data, out, first, second)
    assert not out.exists()
    options = ("--rename", "CRA=car", "lamp=traffic_light", "--skip-unknown")
    with pytest.warns(InputNote, match=r"left out: 1 label is no class .*'tree' \(2 images\)"):
        found = imported(data, out, first, second, *options)
    assert found == {"b": [2], "c": [0], "road 1": [0], "v": [1]}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["tree"], "--rename tree: expected OLD=NEW, NEW one of road, traffic light, Car"),
        (["tree=lamp"], "expected OLD=NEW, NEW one of road"),
        (["oak=road"], "no file has the label 'oak', only road, tree"),
        (["tree=road", "Tree=car"], "'Tree' is given another name before"),
    ],
)
def test_a_wrong_rename_is_refused(
    given: list[str], message: str, data: Path, tmp_path: Path
) -> None:
    path = save(tmp_path / "a.xml", cvat({"b.png": ["tree", "road"]}))
    with pytest.raises(InputError, match=message):
        imported(data, tmp_path / "l.json", path, "--rename", *given)


def test_several_files_are_put_together(data: Path, tmp_path: Path) -> None:
    train = save(tmp_path / "train.json", coco({"road 1.png": ["road"], "b.png": ["Car"]}))
    val = save(tmp_path / "val.json", coco({"val/v.png": ["road"]}))
    more = save(tmp_path / "a.xml", cvat({"c.png": ["Car"], "x/b.png": ["road"]}))
    with pytest.warns(InputNote, match="1 image in several files"):
        found = imported(data, tmp_path / "l.json", train, val, more)
    assert found == {"road 1": [0], "b": [0, 2], "c": [2], "v": [0]}


def test_unknown_images_stop_the_import_or_are_left_out(data: Path, tmp_path: Path) -> None:
    labels = {name: ["road"] for name in ("b.png", "c.png", "road 1.png", "z.png")}
    path, out = save(tmp_path / "a.json", coco(labels)), tmp_path / "l.json"
    other = save(tmp_path / "a.xml", cvat({"b.png": ["road"], "y.png": []}))  # y: not annotated
    with pytest.raises(
        InputError, match="1 of 4 images with labels are not in train, val, the first is 'z.png'"
    ):
        imported(data, out, path)
    with pytest.warns(InputNote, match="left out: 1 image with labels, not in train, val"):
        found = imported(data, out, path, other, "--skip-unknown")
    assert found == {"road 1": [0], "b": [0], "c": [0]}
    with pytest.warns(InputWarning, match="2 of 3 images of 'train' have no annotation"):
        assert imported(data, out, other, "--overwrite") == {"b": [0]}


def test_folders_decide_between_images_of_one_name(tmp_path: Path) -> None:
    for name in ("train/bonn/1", "train/ulm/1", "val/bonn/1"):
        tiny.save(tmp_path / f"d/images/{name}.png", np.zeros((2, 3, 3), np.uint8))
    save(tmp_path / "d/classes.yaml", "classes: [road, car]\n")
    labels = {"x/train/bonn/1.png": ["road"], "ulm/1.png": ["car"], "val\\bonn\\1.png": ["car"]}
    path = save(tmp_path / "a.xml", cvat(labels))
    found = imported(tmp_path / "d", tmp_path / "l.json", path)
    assert found == {"train/bonn/1": [0], "train/ulm/1": [1], "val/bonn/1": [1]}
    path = save(tmp_path / "a.xml", cvat({"bonn/1.png": ["road"]}))
    with pytest.raises(InputError, match="'bonn/1.png' may be .*bonn/1.png and .*bonn/1.png; name"):
        imported(tmp_path / "d", tmp_path / "l.json", path)


def test_two_entries_of_one_image_are_refused(data: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "a.json", label_studio({"b.png": ["Car"], "x/b.png": ["road"]}))
    with pytest.raises(InputError, match="both mean the image 'b'; keep one"):
        imported(data, tmp_path / "l.json", path)


def test_check_reports_all_problems_and_writes_nothing(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    path = save(tmp_path / "a.json", coco({"b.png": ["bus"], "z.png": ["road"], "c.png": []}))
    with pytest.raises(SystemExit, match="1"):
        imported(data, tmp_path / "l.json", path, "--check")
    shown = capsys.readouterr().out
    assert "'bus' (1 image)" in shown and "the first is 'z.png'" in shown
    assert "('road 1') has no image-level labels" in shown and "labels of 'c' are empty" in shown
    assert not (tmp_path / "l.json").exists()


def test_check_and_statistics_go_before_writing_good_labels(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    labels = {
        "b.png": ["Car"],
        "c.png": ["road"],
        "road 1.png": ["traffic light"],
        "v.png": ["Car"],
    }
    path = save(tmp_path / "a.xml", cvat(labels))
    found = imported(data, tmp_path / "l.json", path, "--check", "--stats")
    assert found == {"b": [2], "c": [0], "road 1": [1], "v": [2]}
    shown = capsys.readouterr().out
    assert "4 images checked, 0 problems" in shown and "train: " in shown
    other = save(tmp_path / "b.xml", cvat(labels | {"b.png": ["road"]}))
    with pytest.raises(InputError, match="already holds different labels .*--overwrite"):
        imported(data, tmp_path / "l.json", other)
    assert imported(data, tmp_path / "l.json", other, "--overwrite")["b"] == [0]


def test_files_without_a_single_class_write_nothing(data: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "a.json", coco({"b.png": []}))
    with pytest.raises(InputError, match="no image of the data set has a label of a class"):
        imported(data, tmp_path / "l.json", path)
    assert not (tmp_path / "l.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rename", "a=road"], "--rename is for --import-tags"),
        (["--import-tags", "a.xml", "--points", "p.json"], "--import-tags needs --out FILE"),
        (["--import-tags", "gone.xml", "--stats"], "no gone.xml; --import-tags names what"),
        (["--import-tags", "a.xml", "--labels", "l.json"], "not allowed with"),
    ],
)
def test_options_without_effect_are_refused(
    options: list[str], message: str, data: Path, capsys: pytest.CaptureFixture
) -> None:
    with pytest.raises((InputError, SystemExit)) as error:
        prepare_data.main(["folder", "--root", str(data), *options])
    assert message in str(error.value) + capsys.readouterr().err


# ---------------------------------------------------------------- bad files

LAUGHS = '<!DOCTYPE a [<!ENTITY l "ha"><!ENTITY m "&l;&l;&l;">]>'
ONE = {"b.png": ["Car"]}
IMAGE = {"id": 0, "file_name": "b.png"}
FIELD = {"_cls": "Classification", "label": "car"}


def changed(content: Any, **values: Any) -> Any:
    return content | values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # any
        ("", "is no file of CVAT, Label Studio"),
        ("{", "is not valid JSON"),
        ("[" * 100_000, "is not valid JSON: brackets are nested"),
        ('{"labels": [' + "9" * 5000 + "]}", "is not valid JSON"),
        ("\xff", "is no file of"),
        (b"\xff\xfe{", "is no file of"),
        (b'{"labels": "\xff"}', "is not valid JSON"),
        ({"a": 1}, "is no file of"),
        ({"b": [0], "c": ["road"]}, "image-level labels is read with --labels"),
        ([{"image_id": 3, "category_id": 1}], "is no file of"),
        ([3], "is no file of"),
        (b"PK\x03\x04", "is not a readable zip"),
        # XML
        (cvat(ONE).replace("<annotations>", f"{LAUGHS}<annotations>"), "document type"),
        (cvat(ONE)[:-9], "is not an XML file of an annotation tool"),
        (cvat(ONE).replace("utf-8", "none"), "is not an XML file .*encoding"),
        ("<a>" * 100_000, "is not an XML file"),
        ("<html></html>", "expected <annotations> of version 1.1, found <html>"),
        (cvat(ONE, "1.0"), "of version '1.0'; export the task as"),
        (cvat(ONE).replace("<meta>", '<track label="car"/><meta>'), "tracks of a film; export"),
        (cvat(ONE).replace('label="Car"', ""), "image 'b.png': <tag>, entry 1, has no label"),
        (cvat(ONE).replace('name="b.png"', ""), "an <image> has no name"),
        ("<annotation><object><bndbox/></object></annotation>", "<object> 1 has no <name>"),
        # Label Studio
        ([{"data": {"image": "b.png"}}], r"task 1 \(b.png\): expected 'annotations'"),
        ([{"data": {"img": "b"}}], "as 'image', or one field .*found none among .'img'.;"),
        ([{"data": {"image": "b.png"}, "annotations": [3]}], "expected 'result', found 3"),
        ([{"image": "b.png", "a": {"choices": "car"}}], "expected a list as 'choices'"),
        ([{"image": "b.png", "a": {"choices": [3]}}], "expected texts as 'choices', found 3"),
        ([{"image": "b.png", "a": {"taxonomy": ["a"]}}], "expected lists of texts as 'taxonomy'"),
        ([{"image": "b.png", "a": {"taxonomy": [[]]}}], "expected lists of texts as 'taxonomy'"),
        ([{"image": "b.png"}, 3], "task 2: expected a mapping, found 3"),
        ([{"image": "b.png", "tag": [["car"]]}],
         "task 1: expected a text, .* as 'tag', found .*'car'.*; export the tasks as \"JSON\""),
        ([{"image": "b.png", "tag": ["road", [{"choices": ["car"]}]]}], "as 'tag', found .*'road'"),
        # LabelMe
        ({"shapes": []}, "expected 'imagePath'"),
        ({"shapes": [{}], "imagePath": "b.png"}, "shape 1: expected 'label'"),
        ({"shapes": [], "imagePath": "b.png", "flags": {"a": 1}}, "flags that are true or false"),
        ({"shapes": [], "imagePath": "b.png", "flags": ["a"]}, "flags that are true or false"),
        # FiftyOne
        ({"labels": []}, "expected a mapping as 'labels'"),
        ({"labels": 3}, "expected a mapping as 'labels', found 3"),
        ({"labels": {"b": 0}}, "image 'b': expected a label, found 0"),
        ({"labels": {"b": 2}, "classes": ["a", "b"]}, "expected one of 2 classes, found 2"),
        ({"labels": {"b": -1}, "classes": ["a", "b"]}, "expected one of 2 classes, found -1"),
        ({"labels": {"b": True}, "classes": ["a"]}, "expected a label, found True"),
        ({"labels": {"b": 10**400}, "classes": ["a"]}, "expected one of 1 classes"),
        ({"labels": {"b": "a"}, "classes": 3}, "expected a list of texts as 'classes'"),
        ({"labels": {"b": [None]}}, "expected a label, found None"),
        ({"samples": [{}]}, "sample 1: expected 'filepath'"),
        ({"samples": [{"filepath": "b", "x": FIELD, "y": FIELD}]}, "fields x, y have labels; exp"),
        ({"samples": [{"filepath": "b", "x": {"_cls": "Keypoints", "keypoints": 3}}]},
         "image 'b': expected a list of labels, found 3"),
        ({"samples": [{"filepath": "a", "x": FIELD}, {"filepath": "b", "x": [["car"]]}]},
         "image 'b': expected labels or null as 'x', found .*'car'.*; export it again"),
        # COCO
        (changed(coco(ONE), categories=3), "expected a list as 'categories', found 3"),
        ({"images": [], "annotations": []}, "expected 'categories'"),
        (changed(coco(ONE), images=[IMAGE, IMAGE]), "image 2: the id 0 is given twice"),
        (changed(coco(ONE), images=[{"id": 0}]), "image 1: expected 'file_name'"),
        (changed(coco(ONE), images=[changed(IMAGE, id=True)]), "as 'id', found True"),
        (changed(coco(ONE), categories=[]), "annotation 1: category_id 3 is no category"),
        (changed(coco(ONE), images=[]), "annotation 1: image_id 0 is none of the file's images"),
        (changed(coco(ONE), annotations=[{"image_id": 0, "category_id": 10**400}]), "no category"),
        (changed(coco(ONE), annotations=[{"image_id": 0, "category_id": [3]}]), "as 'category_id'"),
        (changed(coco(ONE), annotations=[{"image_id": 0, "caption": "a"}]), "'category_id', found"),
    ],
    ids=range(59),
)  # fmt: skip
def test_a_wrong_file_is_refused(content: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_tags(save(tmp_path / "export", content))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "holds no labels of CVAT"),
        ({"a.txt": "0 0.5 0.5 1 1"}, "no .txt with the names of its classes"),
        ({"a.txt": "0 0.5 0.5 1", "obj.names": "car"}, "line 1: expected the number of a class"),
        ({"a.txt": "car 0 0 1 1", "obj.names": "car"}, "line 1: expected the number of a class"),
        ({"a.txt": "0.5 0 0 1 1", "obj.names": "car"}, "line 1: expected the number of a class"),
        ({"a.txt": "\n1 0 0 1 1", "obj.names": "car"}, "line 2: class 1, but .*names has 1 names"),
        ({"a.txt": "9" * 5000 + " 0 0 1 1", "obj.names": "car"}, "class 99999999999999999999, but"),
        ({"a.txt": b"\xff", "obj.names": "car"}, "a.txt is not a text file"),
        ({"a.txt": "", "obj.names": ""}, "expected the name of a class in each line"),
        ({"a.txt": "", "obj.names": "car\n\nbus"}, "expected the name of a class in each line"),
        ({"a.txt": "", "data.yaml": "names: {1: car}"}, "names of the classes 0, 1, 2"),
        ({"a.txt": "", "data.yaml": "names: [car"}, "data.yaml is not valid YAML"),
        ({"a.txt": "", "data.yaml": "names: [a]", "classes.txt": "b"}, "name other classes"),
        ({"a.txt": "", "classes.txt": "b", "a.xml": "<a/>"}, "has labels of YOLO .* and a.xml"),
        ({"a.json": coco(ONE), "a.xml": cvat(ONE)}, r"files of several tools, .*CVAT.* and .*COCO"),
        ({"a.json": coco(ONE), "package.json": {"name": "n"}}, "package.json is no file of"),
    ],
    ids=range(16),
)  # fmt: skip
def test_a_wrong_folder_is_refused(files: dict[str, Any], message: str, tmp_path: Path) -> None:
    folder = tmp_path / "export"
    folder.mkdir()
    for name, content in files.items():
        save(folder / name, content)
    with pytest.raises(InputError, match=message):
        read_tags(folder)


def test_an_image_of_yolo_may_be_called_like_a_list(tmp_path: Path) -> None:
    folder = yolo(tmp_path / "y", {"train.png": ["Car"], "b.png": ["road"]})
    assert tags_of(folder) == {"labels/train/train": {"Car"}, "labels/train/b": {"road"}}


def test_a_text_file_of_yolo_alone_asks_for_its_folder(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no file of .*; of YOLO, name the folder"):
        read_tags(save(tmp_path / "a.txt", "0 0.5 0.5 1 1"))


@pytest.mark.parametrize("name", ["../a.json", "/a.json", "x/../../a.json", "c:\\a.json"])
def test_a_zip_whose_names_leave_its_folder_is_refused(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as file:
        file.writestr(name, json.dumps(coco(ONE)))
    with pytest.raises(InputError, match="leaves its folder; don't use this zip"):
        read_tags(tmp_path / "e.zip")


def test_a_zip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.doctor.tool_files._LONGEST", 1000)
    with zipfile.ZipFile(tmp_path / "e.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.json", " " * 1001)
    with pytest.raises(InputError, match="a.json has 1001 bytes; expected at most 1000; .*unpack"):
        read_tags(tmp_path / "e.zip")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="not a regular file"):
        read_tags(tmp_path / "pipe")
