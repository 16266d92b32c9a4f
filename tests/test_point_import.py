"""Points of annotation tools: what is read from each form, and what is refused."""

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny

import prepare_data
from datasets.doctor.point_formats import FORMATS, format_of
from datasets.labels import load_classes
from datasets.points import read_points
from utils.safe.errors import InputError

WIDTH, HEIGHT = 40, 20


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data set of the images train/road 1 and train/b, without masks."""
    for name in ("train/road 1", "train/b", "val/c"):
        tiny.save(tmp_path / f"data/images/{name}.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    (tmp_path / "data/classes.yaml").write_text("classes: [road, traffic light, Car]\n")
    return tmp_path


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def imported(root: Path, path: Path, *options: str) -> dict[str, list[list[int]]]:
    """What prepare_data.py writes for an export."""
    out = root / "points.json"
    command = ["folder", "--root", str(root / "data"), "--import-points", str(path)]
    prepare_data.main([*command, "--points", str(out), "--workers", "0", *options])
    points = read_points(out, load_classes(root / "data/classes.yaml"))
    return {name: rows.tolist() for name, rows in points.items()}


# ---------------------------------------------------------------- good files, one for each tool


def cvat(points: str = '<points label="car" points="39.9,0.5;40,20"/>', **image: object) -> str:
    """An export of CVAT with the image "road 1", whose attributes may be replaced."""
    values = {"id": 0, "name": "some/where/road 1.png", "width": WIDTH, "height": HEIGHT} | image
    attributes = " ".join(f'{key}="{value}"' for key, value in values.items())
    return f"""<?xml version="1.0" encoding="utf-8"?>
<annotations><version>1.1</version><meta><task><name>n</name></task></meta>
<image {attributes}>{points}</image><image id="1" name="b.png" width="40" height="20"/>
</annotations>"""


def labelme(**replaced: object) -> dict[str, Any]:
    point = {"label": "Traffic_Light", "points": [[3.99, 4.0]], "shape_type": "point"}
    box = {"label": "tree", "points": [[0, 0], [1, 1]], "shape_type": "rectangle", "flags": {}}
    return {
        "version": "5.4.1",
        "flags": {},
        "shapes": [box, point | {"group_id": None, "mask": None}],
        "imagePath": "..\\images\\road 1.png",
        "imageData": None,
        "imageHeight": HEIGHT,
        "imageWidth": WIDTH,
    } | replaced


def label_studio(value: dict[str, Any] | None = None, **replaced: object) -> list[dict[str, Any]]:
    result = {
        "type": "keypointlabels",
        "original_width": WIDTH,
        "original_height": HEIGHT,
        "image_rotation": 0,
        "value": {"x": 50, "y": 99.9, "width": 0.5, "keypointlabels": ["Car"]} | (value or {}),
    } | replaced
    other = {"type": "choices", "value": {"choices": ["day"]}}
    cancelled = {"was_cancelled": True, "result": [result, result]}
    return [
        {
            "id": 1,
            "data": {"image": "/data/upload/1/1a2b3c4d-road%201.png"},
            "annotations": [{"result": [other, result], "was_cancelled": False}, cancelled],
        }
    ]


def whats_the_point(**replaced: object) -> dict[str, Any]:
    return {
        "b": [
            {"x": 1, "y": 2, "cls": 7, "rank": 1} | replaced,
            {"x": 40, "y": 2, "cls": 7, "rank": 2},
            {"x": -1, "y": 2, "cls": 7, "rank": 3},
        ]
    }


def test_cvat_gives_the_points_right_below_an_image(root: Path) -> None:
    others = '<box label="tree" xtl="1" ytl="1" xbr="2" ybr="2"/><tag label="day"/>'
    others += '<skeleton label="man"><points label="head" points="1,1"/></skeleton>'
    points = '<points label="CAR" points="39.9,0.5;40,20" z_order="5"><attribute/></points>'
    path = save(root / "annotations.xml", cvat(others + points))
    assert format_of(path) == "cvat"
    assert imported(root, path) == {"road 1": [[39, 0, 2], [39, 19, 2]]}


def test_cvat_is_read_out_of_its_zip(root: Path) -> None:
    with zipfile.ZipFile(root / "task.zip", "w") as file:
        file.writestr("images/road 1.png", b"")
        file.writestr("annotations.xml", cvat())
    assert imported(root, root / "task.zip") == {"road 1": [[39, 0, 2], [39, 19, 2]]}


def test_labelme_gives_shapes_of_the_type_point(root: Path) -> None:
    save(root / "labels/a/1.json", labelme())
    save(root / "labels/b.json", labelme(imagePath="B.PNG"))
    save(root / "labels/notes.txt", "no JSON")
    expected = {"road 1": [[3, 4, 1]], "b": [[3, 4, 1]]}
    assert imported(root, root / "labels") == expected
    assert imported(root, root / "labels/b.json", "--overwrite") == {"b": [[3, 4, 1]]}


def test_label_studio_gives_percent_of_the_image(root: Path) -> None:
    tasks = label_studio() + label_studio({"x": 0, "y": 100})
    tasks[1]["data"]["image"] = "s3://bucket/b.png?X-Amz-Signature=a/b.png"
    tasks[1]["completions"] = tasks[1].pop("annotations")
    path = save(root / "export.json", tasks)
    assert imported(root, path) == {"road 1": [[20, 19, 2]], "b": [[0, 19, 2]]}


def test_a_point_that_two_annotators_set_counts_once(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    tasks = label_studio()
    tasks[0]["annotations"] *= 2
    assert imported(root, save(root / "export.json", tasks)) == {"road 1": [[20, 19, 2]]}
    assert "points left out, set twice: 1" in capsys.readouterr().out


def test_label_studio_names_local_files_behind_an_equals_sign(root: Path) -> None:
    tasks = label_studio()
    tasks[0]["data"]["image"] = "/data/local-files/?d=b.png"
    assert [*imported(root, save(root / "export.json", tasks))] == ["b"]


@pytest.mark.parametrize(
    "address", ["https://a.org/c/b.png?sv=2020&sig=x%2Fy=", "https://a.org/o/c%2Fb.png?alt=media"]
)
def test_label_studio_names_files_in_a_cloud_before_the_question_mark(
    root: Path, address: str
) -> None:
    tasks = label_studio()
    tasks[0]["data"]["image"] = address
    assert [*imported(root, save(root / "export.json", tasks))] == ["b"]


def test_a_name_that_looks_like_an_upload_is_the_image_of_that_name(root: Path) -> None:
    image = root / "data/images/train/1a2b3c4d-road 1.png"
    image.write_bytes((root / "data/images/train/road 1.png").read_bytes())
    assert [*imported(root, save(root / "export.json", label_studio()))] == ["1a2b3c4d-road 1"]


def test_whats_the_point_drops_points_outside_and_counts_them(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    path = save(root / "whats_the_points.json", whats_the_point())
    assert imported(root, path) == {"b": [[1, 2, 2]]}
    assert "points left out, outside their image: 2" in capsys.readouterr().out


def test_the_tool_is_told_from_the_file(root: Path) -> None:
    forms = {
        "cvat": cvat(),
        "labelme": labelme(),
        "labelstudio": label_studio(),
        "whats-the-point": whats_the_point(),
    }
    assert forms.keys() == FORMATS.keys()
    for tool, content in forms.items():
        assert format_of(save(root / "file.json", content)) == tool
    with pytest.raises(InputError, match="no known tool; say which with --points-format cvat"):
        format_of(save(root / "file.json", {"a": 1}))
    with pytest.raises(InputError, match="file of points already.*--points, with --check"):
        format_of(save(root / "file.json", {"b": [[3, 4, "car"]]}))
    path = save(root / "file.json", cvat())
    with pytest.raises(InputError, match="not valid JSON"):
        imported(root, path, "--points-format", "labelme")


def test_a_folder_is_read_as_labelme_only(root: Path) -> None:
    with pytest.raises(InputError, match="data is a folder; expected the file"):
        imported(root, root / "data", "--points-format", "cvat")


# ---------------------------------------------------------------- labels, images, sizes


def test_unknown_labels_are_listed_once_with_their_numbers(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    unknown = '<points label="cra" points="1,1;2,2"/><points label="tree" points="3,3"/>'
    path = save(root / "a.xml", cvat(f'{unknown}<points label="road" points="4,4"/>'))
    message = r"2 labels are no class .*: 'cra' \(2 points; did you mean 'car'\?\), 'tree' \(1 poi"
    with pytest.raises(InputError, match=f"{message}.*--skip-unknown"):
        imported(root, path)
    assert imported(root, path, "--skip-unknown") == {"road 1": [[4, 4, 0]]}
    assert "points left out, of unknown labels: 3" in capsys.readouterr().out


def test_unknown_images_stop_the_import_or_are_left_out(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    tasks = label_studio() + label_studio()
    tasks[1]["data"]["image"] = "c.png"
    path = save(root / "e.json", tasks)
    with pytest.raises(
        InputError, match="1 of 2 images are not in train, the first is 'c.png'; .*"
    ):
        imported(root, path)
    assert [*imported(root, path, "--splits", "train", "val")] == ["c", "road 1"]
    assert [*imported(root, path, "--skip-unknown", "--overwrite")] == ["road 1"]
    assert "points left out, of unknown images: 1" in capsys.readouterr().out


def test_a_stem_of_two_images_is_refused(root: Path) -> None:
    tiny.save(root / "data/images/train/city/b.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    path = save(root / "p.json", whats_the_point())
    with pytest.raises(InputError, match="'b' may be .*images/train/b.png and .*city/b.png"):
        imported(root, path)


def test_two_entries_of_one_image_are_refused(root: Path) -> None:
    path = save(root / "e.json", label_studio() + label_studio())
    with pytest.raises(InputError, match="both mean the image 'road 1'; keep one"):
        imported(root, path)


def test_another_size_than_the_image_is_refused(root: Path) -> None:
    path = save(root / "a.xml", cvat(width=80))
    with pytest.raises(InputError, match=r"'some/where/road 1.png' is 80x20 .* 40x20"):
        imported(root, path)


def test_images_of_one_name_in_two_splits_are_kept_apart(root: Path) -> None:
    tiny.save(root / "data/images/val/b.png", np.zeros((HEIGHT, WIDTH, 3), np.uint8))
    assert [*imported(root, save(root / "p.json", whats_the_point()))] == ["train/b"]


LAUGHS = '<!DOCTYPE a [<!ENTITY l "ha"><!ENTITY m "&l;&l;&l;">]>'
SECRET = '<!DOCTYPE a [<!ENTITY s SYSTEM "file:///etc/passwd">]>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        # CVAT
        (cvat('<points label="car" points="41,1"/>'), r"points 1: \(41.0, 1.0\) lies outside"),
        (cvat('<points label="car" points="-0.1,1"/>'), "lies outside"),
        (cvat('<points label="car" points="nan,1"/>'), "lies outside"),
        (cvat('<points label="car" points="1,1e999"/>'), "lies outside"),
        (cvat('<points label="car" points="1"/>'), "expected pairs x,y;x,y, found '1'"),
        (cvat('<points label="car" points="1,2,3"/>'), "expected pairs"),
        (cvat('<points label="car"/>'), "expected pairs"),
        (cvat('<points points="1,1"/>'), r"'' \(1 point\)"),
        (cvat('<points label="car" points="1,1"/><points label="road" points="1.5,1"/>'),
         r"pixel \(1, 1\) has points of 'Car' and 'road'"),
        (cvat(width="4e1"), "expected height and width"),
        (cvat(width="9" * 5000), "expected height and width"),
        (cvat(name=""), "an <image> has no name"),
        (cvat().replace("1.1", "1.0"), "of version '1.0'; export .*for images 1.1"),
        (cvat().replace("annotations>", "annotation>"), "found <annotation>"),
        (cvat().replace("<meta>", '<track label="car"/><meta>'), "tracks of a film; export"),
        (cvat().replace("<annotations>", f"{LAUGHS}<annotations>"), "document type"),
        (cvat().replace("<annotations>", f"{SECRET}<annotations>"), "document type"),
        (cvat()[:-9], "not an XML file of CVAT"),
        (cvat().replace("utf-8", "none"), "not an XML file of CVAT: .*encoding"),
        ("<a>" * 100_000, "not an XML file of CVAT"),
        ("<a>" * 100_000 + "</a>" * 100_000, "found <a>"),
        (cvat(""), "no point in it, read as a file of cvat"),
        ("PK\x03\x04", "not a zip"),
        # LabelMe
        (labelme(imageWidth=None), "expected a whole number as 'imageWidth', found None"),
        (labelme(imageHeight=True), "expected a whole number as 'imageHeight', found True"),
        (labelme(imagePath=3), "expected a text as 'imagePath'"),
        (labelme(shapes={}), "expected a list as 'shapes'"),
        (labelme(shapes=[3]), "shape 1: expected 'shape_type', found 3"),
        (labelme(shapes=[{"shape_type": "point", "points": [[1, 2], [3, 4]], "label": "car"}]),
         "shape 1: expected one point"),
        (labelme(shapes=[{"shape_type": "point", "points": [[1, "2"]], "label": "car"}]),
         "expected one point"),
        (labelme(shapes=[{"shape_type": "point", "points": [[1, 10**400]], "label": "car"}]),
         "lies outside"),
        (labelme(shapes=[{"shape_type": "point", "points": [[1, float("nan")]], "label": "car"}]),
         "lies outside"),
        (labelme(shapes=[{"shape_type": "point", "points": [[1, 2]], "label": None}]),
         "expected a text as 'label'"),
        # Label Studio
        (label_studio({"x": 100.1}), "in percent, 0 to 100, found 100.1"),
        (label_studio({"x": float("nan")}), "in percent"),
        (label_studio({"x": 10**400}), "in percent"),
        (label_studio({"x": "5"}), "expected a number as 'x', found 5"),
        (label_studio({"keypointlabels": ["car", "road"]}), "expected one label a point"),
        (label_studio({"keypointlabels": [{}]}), "expected one label a point"),
        (label_studio(image_rotation=90), "rotated in Label Studio"),
        (label_studio(original_width=-1), "expected the size of the image"),
        (label_studio(original_width=10**4000), "expected the size of the image"),
        (label_studio(value=None, original_width=41), "is 41x20"),
        ([{"data": {"image": "b.png"}}], "task 1 .b.png.: expected 'annotations'"),
        ([{"data": {"img": "b.txt"}}], r"as 'image', or one field .* found none among \['img'\]"),
        ([{"data": {"image": "b.png"}, "annotations": [3]}], "expected 'result', found 3"),
        ([3], "task 1: expected 'data', found 3"),
        ([{"image": "b.png", "id": 1, "kp": []}], 'task 1 is of the form "JSON-MIN"; export as'),
        ([], "no point in it"),
        # What's the Point
        (whats_the_point(cls=0), "image 'b', point 1: expected cls of 1 to 20, found 0"),
        (whats_the_point(cls=21), "found 21"),
        (whats_the_point(cls="7"), "expected a whole number as 'cls'"),
        (whats_the_point(cls=15), r"'person' \(1 point\)"),
        (whats_the_point(x=None), "expected a number as 'x'"),
        # any
        ("", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ('{"b": [' + "9" * 5000 + "]}", "not valid JSON"),
        ("\xff", "no known tool|not valid JSON"),
    ],
    ids=range(58),
)  # fmt: skip
def test_a_wrong_export_is_refused_and_nothing_is_written(
    root: Path, content: object, message: str
) -> None:
    path = save(root / "export", content)
    with pytest.raises(InputError, match=message) as error:
        imported(root, path)
    assert "export" in str(error.value)
    assert not (root / "points.json").exists()


def sized_zip(path: Path) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("annotations.xml", "w", force_zip64=True) as member,
    ):
        for _ in range(300):
            member.write(bytes(1 << 20))


def other_zip(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("data.json", "[]")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (sized_zip, "annotations.xml has 314572800 bytes; expected at most"),
        (other_zip, "no item named 'annotations.xml'"),
        (Path.mkdir, "no JSON in"),
        (lambda path: None, "no .*--import-points names the file"),
    ],
    ids=["bomb", "other", "empty", "missing"],
)
def test_a_zip_or_folder_of_something_else_is_refused(
    root: Path, make: Callable[[Path], None], message: str
) -> None:
    make(root / "export.zip")
    with pytest.raises(InputError, match=message):
        imported(root, root / "export.zip")
