"""export_masks.py: each format is read back, by a reader that is not ours, to the same pixels.

The tests with datumaro, which needs another Pillow, and label-studio-converter are skipped in the
usual environment. One for them takes the other packages from the usual one:
    usual=$(python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
    python -m venv readers
    readers/bin/pip install datumaro fiftyone label-studio-converter pytest
    echo "$usual" > readers/lib/python3.11/site-packages/usual.pth
    readers/bin/python -m pytest tests/test_export_masks.py -k "datumaro or label_studio_masks"
"""

import io
import json
import os
import re
import shutil
import sys
import warnings
import weakref
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from conftest import camvid_root
from own_data import copied, cut, endless, gone, write
from PIL import Image, ImageDraw

import export_masks
from datasets.files import read_mask
from datasets.labels import ClassTable, default_palette, load_classes, voc_palette
from datasets.mask_exports.brush_rle import encode_brush
from datasets.mask_exports.cityscapes_polygons import polygons, write_polygons
from datasets.mask_exports.coco import write_instances, write_panoptic
from datasets.mask_exports.cvat import write_cvat
from datasets.mask_exports.label_studio import write_tasks
from datasets.mask_exports.source import LabelMap, find_masks, without_small_regions
from utils.safe.errors import InputError
from utils.safe.xml_file import parse_xml
from utils.visualize import save_mask

ROOT = Path(__file__).resolve().parent.parent
NAMES = ["straße", "traffic light", 'a "b" <c> & d', "信号", *(f"class {k}" for k in range(4, 200))]
PALETTE = default_palette(254)[50:250]
FILES = {
    "coco-rle": "instances.json",
    "coco-panoptic": "panoptic.json",
    "cvat": "masks.zip",
    "label-studio": "tasks.json",
    "cityscapes": "a_gtFine_polygons.json",
}


def blocks(rng: np.random.Generator, height: int, width: int, ids: list[int]) -> np.ndarray:
    """Rectangles of ids, with single pixels of others."""
    coarse = rng.choice(ids, (height // 4 + 1, width // 3 + 1))
    mask = np.kron(coarse, np.ones((4, 3), int))[:height, :width]
    return np.where(rng.random(mask.shape) < 0.1, rng.choice(ids, mask.shape), mask).astype(
        np.uint8
    )


def label_maps() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    dot = np.full((9, 11), 255, np.uint8)
    dot[8, 10], dot[0, 3] = 130, 0
    return {
        "a": blocks(rng, 13, 31, [0, 1, 2, 255]),
        "city one/é 2 & #3": blocks(rng, 21, 8, [1, 127, 128, 199, 255]),
        "city one/legend": np.full((6, 5), 3, np.uint8),
        "dot": dot,
        "ignored": np.full((1, 7), 255, np.uint8),
        "line": np.arange(200, dtype=np.uint8)[None],
        "long": np.full((130, 131), 7, np.uint8),  # longer than one run of the brush's code
    }


def save_folder(folder: Path, maps: dict[str, np.ndarray]) -> None:
    """FOLDER/masks as gen_clip_masks.py writes it, and FOLDER/images."""
    for number, (name, labels) in enumerate(maps.items()):
        save_mask(folder / f"masks/{name}.png", labels, PALETTE)
        image = folder / f"images/{name}.{('jpg', 'png')[number % 2]}"
        image.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.zeros((*labels.shape, 3), np.uint8)).save(image)
    meta = {"made_from": {"class_names": NAMES}, "git": None}
    (folder / "masks/meta.json").write_text(json.dumps(meta))


@pytest.fixture(scope="module")
def maps() -> dict[str, np.ndarray]:
    return label_maps()


@pytest.fixture(scope="module")
def exported(maps, tmp_path_factory) -> Callable[[str], Path]:
    """The folder of a format, exported when it is first asked for."""
    folder = tmp_path_factory.mktemp("exported")
    save_folder(folder, maps)

    def export(form: str) -> Path:
        out = folder / form
        if not out.exists():
            images = ["--images", str(folder / "images")]
            command = [str(folder / "masks"), "--format", form, "--out", str(out), *images]
            export_masks.main(command)
        return out

    return export


def check_same(found: dict[str, np.ndarray], maps: dict[str, np.ndarray]) -> None:
    assert found.keys() == maps.keys()
    for name, labels in maps.items():
        np.testing.assert_array_equal(found[name], labels, err_msg=name)


def id_of(file_name: str) -> str:
    return file_name.rpartition(".")[0]


# --- COCO


def test_coco_masks_are_read_by_pycocotools(exported, maps):
    pytest.importorskip("pycocotools")
    from pycocotools import mask as rle
    from pycocotools.coco import COCO

    coco = COCO(exported("coco-rle") / "instances.json")
    assert [coco.cats[k + 1]["name"] for k in range(200)] == NAMES
    assert [coco.cats[k + 1]["color"] for k in range(200)] == PALETTE.tolist()
    found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        labels = np.full((image["height"], image["width"]), 255, np.uint8)
        for annotation in coco.loadAnns(coco.getAnnIds(image["id"])):
            region = coco.annToMask(annotation).astype(bool)
            assert (labels[region] == 255).all() and region.sum() == annotation["area"]
            assert rle.toBbox(annotation["segmentation"]).tolist() == annotation["bbox"]
            assert annotation["iscrowd"] == 0
            labels[region] = annotation["category_id"] - 1
        found[id_of(image["file_name"])] = labels
        assert (exported("coco-rle").parent / "images" / image["file_name"]).is_file()
    check_same(found, maps)
    assert coco.getAnnIds(catIds=coco.getCatIds(catNms=["信号"])) != []


def test_coco_panoptic_ids_follow_the_documented_formula(exported, maps):
    content = json.loads((exported("coco-panoptic") / "panoptic.json").read_text(encoding="utf-8"))
    images = {one["id"]: one for one in content["images"]}
    names = {one["id"]: one["name"] for one in content["categories"]}
    assert {one["isthing"] for one in content["categories"]} == {0}
    found = {}
    for annotation in content["annotations"]:
        with Image.open(exported("coco-panoptic") / "panoptic" / annotation["file_name"]) as image:
            red, green, blue = np.moveaxis(np.array(image).astype(int), 2, 0)
        ids = red + 256 * green + 256**2 * blue
        size = images[annotation["image_id"]]
        assert ids.shape == (size["height"], size["width"])
        labels = np.full(ids.shape, 255, np.uint8)
        for segment in annotation["segments_info"]:
            region = ids == segment["id"]
            rows, columns = np.nonzero(region)
            left, top, width, height = segment["bbox"]
            assert (left, top) == (columns.min(), rows.min())
            assert (left + width - 1, top + height - 1) == (columns.max(), rows.max())
            assert segment["area"] == region.sum() and segment["iscrowd"] == 0
            labels[region] = NAMES.index(names[segment["category_id"]])
        assert (ids[labels == 255] == 0).all()  # void
        found[id_of(size["file_name"])] = labels
        assert id_of(annotation["file_name"]) == id_of(size["file_name"])
    check_same(found, maps)


def read_by_datumaro(path: Path, form: str, maps: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Image id -> label map of datumaro, which has a mask for each class of an image."""
    dataset = pytest.importorskip("datumaro", reason="pip install datumaro").Dataset
    read, found = dataset.import_from(str(path), form), {}
    categories = {type(one).__name__: one for one in read.categories().values()}["LabelCategories"]
    for item in read:
        labels = np.full(maps[item.id].shape, 255, np.uint8)
        for annotation in item.annotations:
            assert (labels[annotation.image == 1] == 255).all()
            labels[annotation.image == 1] = NAMES.index(categories[annotation.label].name)
        assert len(item.annotations) == len(set(np.unique(maps[item.id])) - {255})
        found[item.id] = labels
    return found


def test_coco_panoptic_is_read_by_datumaro(exported, maps, tmp_path):
    """In COCO's folders: images/ beside annotations/, which holds the export."""
    shutil.copytree(exported("coco-panoptic"), tmp_path / "annotations")
    shutil.copytree(exported("coco-panoptic").parent / "images", tmp_path / "images")
    path = tmp_path / "annotations/panoptic.json"
    check_same(read_by_datumaro(path, "coco_panoptic", maps), maps)


# --- CVAT


def test_cvat_zip_has_the_documented_form(exported, maps):
    with zipfile.ZipFile(exported("cvat") / "masks.zip") as archive:
        assert archive.testzip() is None

        def text(name: str) -> str:
            return archive.read(name).decode("utf-8")

        def colors(name: str) -> np.ndarray:
            with Image.open(io.BytesIO(archive.read(name))) as image:
                assert image.mode == "RGB"
                return np.array(image)

        lines = [line.split(":") for line in text("labelmap.txt").splitlines() if line[0] != "#"]
        assert lines[0] == ["background", "0,0,0", "", ""] and {len(line) for line in lines} == {4}
        ids = {tuple(map(int, line[1].split(","))): k for k, line in enumerate(lines[1:])}
        ids[0, 0, 0] = 255
        assert [line[0] for line in lines[1:]] == NAMES
        names = text("ImageSets/Segmentation/default.txt").splitlines()
        found, objects = {}, {}
        voc = {(0, 0, 0): 255} | {tuple(c): k for k, c in enumerate(voc_palette(200).tolist())}
        for name in names:
            for into, of, where in ((found, ids, "Class"), (objects, voc, "Object")):
                image = colors(f"Segmentation{where}/{name}.png").tolist()
                into[name] = np.array([[of[tuple(color)] for color in row] for row in image])
        assert len(archive.namelist()) == 2 + 2 * len(maps)
    check_same(found, maps)
    check_same(objects, maps)


def test_cvat_zip_is_read_by_datumaro(exported, maps, tmp_path):
    """CVAT imports this format with datumaro, as Pascal VOC."""
    with zipfile.ZipFile(exported("cvat") / "masks.zip") as archive:
        archive.extractall(tmp_path)
    check_same(read_by_datumaro(tmp_path, "voc_instance_segmentation", maps), maps)


# --- Label Studio


def decode_brush(code: list[int]) -> np.ndarray:
    """The values that a code stands for: written from the README of @thi.ng/rle-pack."""
    bits, place = "".join(f"{byte:08b}" for byte in code), 0

    def take(count: int) -> int:
        nonlocal place
        place += count
        assert place <= len(bits)
        return int(bits[place - count : place], 2)

    total, word = take(32), take(5) + 1
    sizes = [take(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < total:
        is_run, count = take(1), take(sizes[take(2)]) + 1
        values += [take(word)] * count if is_run else [take(word) for _ in range(count)]
    assert len(values) == total and len(bits) - place < 8
    return np.array(values, np.uint8)


def painted(tasks: list[dict], decode: Callable[[list[int]], np.ndarray]) -> dict[str, np.ndarray]:
    """Image id -> label map that the predictions of tasks paint."""
    found, ids = {}, []
    for task in tasks:
        query = parse_qs(urlsplit(task["data"]["image"]).query, strict_parsing=True)
        (path,), (prediction,) = query["d"], task["predictions"]
        assert path.startswith("images/")
        labels = None
        for result in prediction["result"]:
            size = (result["original_height"], result["original_width"])
            labels = np.full(size, 255, np.uint8) if labels is None else labels
            assert (result["type"], result["value"]["format"]) == ("brushlabels", "rle")
            values = decode(result["value"]["rle"]).reshape(*size, 4)
            assert np.isin(values, (0, 255)).all() and (values == values[..., :1]).all()
            region, (label,) = values[..., 3] == 255, result["value"]["brushlabels"]
            assert (labels[region] == 255).all()
            labels[region] = NAMES.index(label)
            ids.append(result["id"])
        found[id_of(path.removeprefix("images/"))] = labels
    assert len(set(ids)) == len(ids)
    return found


@pytest.mark.parametrize("whose", ["documentation", "label-studio-converter"])
def test_label_studio_masks_are_decoded(exported, maps, whose):
    decode = decode_brush
    if whose == "label-studio-converter":
        decode = pytest.importorskip("label_studio_converter.brush").decode_rle
    tasks = json.loads((exported("label-studio") / "tasks.json").read_text(encoding="utf-8"))
    found = painted(tasks, decode)
    assert found.pop("ignored") is None  # a task without a painted pixel
    check_same(found, {name: labels for name, labels in maps.items() if name != "ignored"})


def test_label_studio_interface_has_the_classes_and_fits_the_tasks(exported):
    view = parse_xml((exported("label-studio") / "interface.xml").read_bytes())
    image, brush = view.find("Image"), view.find("BrushLabels")
    assert [label.get("value") for label in brush] == NAMES
    assert brush[0].get("background") == "#" + bytes(PALETTE[0].tolist()).hex()
    assert image.get("value") == "$image" and brush.get("toName") == image.get("name")
    tasks = json.loads((exported("label-studio") / "tasks.json").read_text(encoding="utf-8"))
    results = [result for task in tasks for result in task["predictions"][0]["result"]]
    pairs = {(result["from_name"], result["to_name"]) for result in results}
    assert pairs == {(brush.get("name"), image.get("name"))}


def test_brush_code_by_hand():
    """Head: 8 values; 8 bits each; lengths of 3, 4, 8 and 16 bits. Two runs of four values."""
    head = f"{8:032b}" + f"{7:05b}" + "".join(f"{size - 1:04b}" for size in (3, 4, 8, 16))
    runs = "1" + "00" + f"{3:03b}" + f"{255:08b}" + "1" + "00" + f"{3:03b}" + f"{0:08b}"
    bits = (head + runs).ljust(88, "0")
    expected = [int(bits[k : k + 8], 2) for k in range(0, 88, 8)]
    assert encode_brush(np.array([[True, False]])) == expected


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 63, 64, 65, 16383, 16384, 16385, 40000])
def test_brush_runs_of_every_length(count):
    region = np.ones((1, count + 3), bool)
    region[0, [0, -1]] = False
    values = decode_brush(encode_brush(region))
    np.testing.assert_array_equal(values, np.repeat(region.ravel() * np.uint8(255), 4))


# --- Cityscapes


def draw(height: int, width: int, objects: list[dict], ids: dict[str, int]) -> np.ndarray:
    """As json2labelImg of cityscapesScripts draws: in order, by Pillow."""
    image = Image.new("L", (width, height), 255)
    for one in objects:
        points = [tuple(point) for point in one["polygon"]]
        ImageDraw.Draw(image).polygon(points, fill=ids[one["label"]])
    return np.array(image)


def test_polygons_give_the_same_pixels(exported, maps):
    pytest.importorskip("cv2")
    found, ids = {}, {name: k for k, name in enumerate(NAMES)} | {"unlabeled": 255}
    for name in maps:
        file = exported("cityscapes") / f"{name}_gtFine_polygons.json"
        content = json.loads(file.read_text(encoding="utf-8"))
        size = content["imgHeight"], content["imgWidth"]
        found[name] = draw(*size, content["objects"], ids)
        assert all(len(one["polygon"]) >= 3 for one in content["objects"])
    check_same(found, maps)


def test_polygons_are_read_by_cityscapesscripts(tmp_path):
    pytest.importorskip("cv2")
    pytest.importorskip("cityscapesscripts")
    from cityscapesscripts.preparation.json2labelImg import json2labelImg

    from datasets.cityscapes import LABEL_ID_OF_TRAIN_ID

    classes = load_classes(ROOT / "datasets/classes/cityscapes.yaml")
    labels = blocks(np.random.default_rng(1), 61, 83, [*range(19), 255])
    write_polygons(tmp_path, classes, [LabelMap("aachen/a_0_1", None, labels)])
    file = tmp_path / "aachen/a_0_1_gtFine_polygons.json"
    for encoding in ("trainIds", "ids"):
        json2labelImg(str(file), str(tmp_path / f"{encoding}.png"), encoding)
    with Image.open(tmp_path / "trainIds.png") as image:
        np.testing.assert_array_equal(np.array(image), labels)
    of_train_id = np.zeros(256, np.uint8)  # 255 becomes "unlabeled", id 0
    of_train_id[:19] = LABEL_ID_OF_TRAIN_ID
    with Image.open(tmp_path / "ids.png") as image:
        np.testing.assert_array_equal(np.array(image), of_train_id[labels])


def test_polygons_of_random_maps():
    """Rings, diagonals, lines and noise: holes and what is in them come in the right order."""
    pytest.importorskip("cv2")
    rng = np.random.default_rng(2)
    classes = ClassTable(("a", "b", "c"), (("a",), ("b",), ("c",)), default_palette(3))
    ids = {"a": 0, "b": 1, "c": 2, "unlabeled": 255}
    for case in range(120):
        height, width = rng.integers(1, 20, 2)
        values = [0, 1, 2, 255][: rng.integers(1, 5)]
        if case % 3 == 0:
            labels = rng.choice(values, (height, width)).astype(np.uint8)
        elif case % 3 == 1:
            labels = blocks(rng, height, width, values)
        else:  # rings inside rings, in two norms
            y, x = np.mgrid[:height, :width] - 9
            distance = np.maximum(abs(x), abs(y)) if case % 2 else abs(x) + abs(y)
            labels = np.array(values, np.uint8)[distance // rng.integers(1, 3) % len(values)]
        objects = polygons(labels, classes)
        np.testing.assert_array_equal(draw(height, width, objects, ids), labels, f"case {case}")


@pytest.mark.slow
def test_polygons_of_real_masks():
    pytest.importorskip("cv2")
    classes = load_classes(ROOT / "datasets/classes/camvid.yaml")
    ids = {name: k for k, name in enumerate(classes.names)} | {"unlabeled": 255}
    masks = find_masks(camvid_root() / "mask/val")
    for file in list(masks.values())[::4]:
        labels = read_mask(file)
        np.testing.assert_array_equal(draw(*labels.shape, polygons(labels, classes), ids), labels)


# --- what is exported


def test_files_beside_the_masks_of_predict_are_left_out(tmp_path):
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    save_mask(tmp_path / "p/legend.png", np.zeros((4, 5), np.uint8), PALETTE)
    # Odd names: two without a partner, and two of label maps, which have a palette.
    for name in ("a", "sub/b", "c_overlay", "confidence/d", "sub/b_confidence", "d", "d_overlay"):
        save_mask(tmp_path / f"p/{name}.png", np.zeros((4, 5), np.uint8), PALETTE)
    beside = ("a_overlay", "sub/b_overlay", "c_overlay_overlay", "a_confidence")
    for name in (*beside, "confidence/a", "confidence/sub/b"):
        (tmp_path / f"p/{name}.png").parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(rgb if "overlay" in name else rgb[..., 0])
        image.save(tmp_path / f"p/{name}.png")
    names = ["a", "c_overlay", "confidence/d", "d", "d_overlay", "legend", "sub/b"]
    names.append("sub/b_confidence")
    assert sorted(find_masks(tmp_path / "p")) == names
    Image.fromarray(rgb).save(tmp_path / "p/legend.png")  # as predict.py draws it
    assert sorted(find_masks(tmp_path / "p")) == [name for name in names if name != "legend"]


def test_class_file_gives_names_and_colours_where_the_folder_has_none(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_mask("masks/a.png", np.array([[0, 1, 255]], np.uint8), PALETTE)
    command = ["masks", "--format", "cvat", "--out", "out"]
    with pytest.raises(InputError, match=r"class names of the masks in masks .*--class-file"):
        export_masks.main(command)
    Path("c.yaml").write_text("classes: [{name: x, color: [1, 2, 3]}, y]")
    export_masks.main([*command, "--class-file", "c.yaml"])
    with zipfile.ZipFile("out/masks.zip") as archive:
        assert "\nx:1,2,3::\ny:" in archive.read("labelmap.txt").decode()


def test_masks_without_a_palette_get_the_default_colours(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_folder(tmp_path, {"a": np.array([[0, 1, 255]], np.uint8)})
    Image.fromarray(np.array([[0, 1, 255]], np.uint8)).save("masks/a.png")
    export_masks.main(["masks", "--format", "cvat", "--out", "out"])
    with zipfile.ZipFile("out/masks.zip") as archive:
        first = ",".join(map(str, default_palette(1)[0]))
        assert f"\n{NAMES[0]}:{first}::\n" in archive.read("labelmap.txt").decode()


def test_cityscapes_images_have_a_suffix_that_ids_lack(tmp_path, monkeypatch):
    pytest.importorskip("pycocotools")
    monkeypatch.chdir(tmp_path)
    save_folder(tmp_path, {"aachen/a_0_1": np.zeros((3, 4), np.uint8)})
    Path("images/aachen/a_0_1.jpg").rename("images/aachen/a_0_1_leftImg8bit.jpg")
    command = ["masks", "--format", "coco-rle", "--images", "images", "--out", "out"]
    export_masks.main(command)
    content = json.loads(Path("out/instances.json").read_text())
    assert content["images"][0]["file_name"] == "aachen/a_0_1_leftImg8bit.jpg"


def test_polygons_of_such_images_are_named_without_the_suffix(tmp_path, monkeypatch):
    pytest.importorskip("cv2")
    monkeypatch.chdir(tmp_path)
    save_folder(tmp_path, {"a_0_1_leftImg8bit": np.zeros((3, 4), np.uint8)})
    command = ["masks", "--format", "cityscapes", "--out", "out"]
    export_masks.main(command)
    assert [path.name for path in Path("out").iterdir()] == ["a_0_1_gtFine_polygons.json"]
    copied("masks/a_0_1_leftImg8bit.png", "masks/a_0_1.png")()
    with pytest.raises(InputError, match="two label maps .*a_0_1_gtFine_polygons.json; rename one"):
        export_masks.main([*command, "--overwrite"])


def test_label_studio_paths_start_with_the_folder_as_it_is_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_folder(tmp_path, {"a": np.zeros((3, 4), np.uint8)})
    Path("frames of today").symlink_to("images")
    for given, shown in (("frames of today", "frames%20of%20today"), ("masks/../images", "images")):
        command = ["masks", "--format", "label-studio", "--images", given, "--out", "out"]
        export_masks.main([*command, "--overwrite"])
        (task,) = json.loads(Path("out/tasks.json").read_text())
        assert task["data"]["image"] == f"/data/local-files/?d={shown}/a.jpg"


def test_small_regions_lose_their_label(tmp_path, monkeypatch):
    labels = np.array([[0, 0, 1, 2], [3, 0, 2, 2], [3, 255, 1, 1]], np.uint8)
    expected = np.array([[0, 0, 255, 2], [255, 0, 2, 2], [255, 255, 255, 255]], np.uint8)
    np.testing.assert_array_equal(without_small_regions(labels, 3), expected)
    pytest.importorskip("cv2")
    monkeypatch.chdir(tmp_path)
    save_folder(tmp_path, {"a": labels})
    export_masks.main(["masks", "--format", "cityscapes", "--out", "out", "--min-area", "3"])
    content = json.loads(Path("out/a_gtFine_polygons.json").read_text())
    ids = {name: k for k, name in enumerate(NAMES)} | {"unlabeled": 255}
    np.testing.assert_array_equal(draw(3, 4, content["objects"], ids), expected)


WRITERS = {
    "coco-rle": lambda out, classes, maps: write_instances(out / "i.json", classes, maps),
    "coco-panoptic": lambda out, classes, maps: write_panoptic(out / "p.json", classes, maps),
    "cvat": lambda out, classes, maps: write_cvat(out / "m.zip", classes, maps),
    "label-studio": lambda out, classes, maps: write_tasks(out / "t", classes, maps, "i", "v"),
    "cityscapes": write_polygons,
}
PACKAGES = {"coco-rle": "pycocotools", "cityscapes": "cv2"}


@pytest.mark.parametrize("form", FILES)
def test_label_maps_are_exported_one_at_a_time(tmp_path, form):
    pytest.importorskip(PACKAGES.get(form, "numpy"))
    classes = ClassTable(("a", "b"), (("a",), ("b",)), default_palette(2))
    seen: list[weakref.ref] = []

    def maps() -> Iterator[LabelMap]:
        for number in range(6):
            labels = np.full((5, 6), number % 2, np.uint8)
            assert sum(ref() is not None for ref in seen) <= 1
            seen.append(weakref.ref(labels))
            yield LabelMap(f"n{number}", f"n{number}.jpg", labels)

    WRITERS[form](tmp_path, classes, maps())
    assert len(seen) == 6


# --- what a user gets wrong


@pytest.fixture
def case(tmp_path, monkeypatch) -> Path:
    """Two masks with images, to break; and the working folder."""
    labels = blocks(np.random.default_rng(3), 9, 12, [0, 1, 255])
    save_folder(tmp_path, {"a": labels, "sub/b": labels})
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents() -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in Path().rglob("*") if p.is_file()}


@pytest.mark.parametrize("form", FILES)
def test_results_are_replaced_when_asked_only(case, form):
    pytest.importorskip(PACKAGES.get(form, "numpy"))
    command = ["masks", "--format", form, "--images", "images", "--out", "out"]
    export_masks.main(command)
    Path("out/notes.txt").write_text("mine")
    first = contents()
    message = rf"out has \d of the \d files already, the first is {FILES[form]}.*--overwrite"
    with pytest.raises(InputError, match=message):
        export_masks.main(command)
    Path("out", FILES[form]).write_bytes(b"old")
    export_masks.main([*command, "--overwrite"])
    assert contents() == first  # the same bytes again


def nothing() -> None:
    """Break nothing."""


def classes_of(text: str) -> Callable[[], object]:
    return write("c.yaml", text)


RGB = np.zeros((9, 12, 3), np.uint8)
C = ("--class-file", "c.yaml")
CASES = [
    (gone("masks"), (), "no folder at masks", "holds label maps"),
    (lambda: [gone("masks/a.png")(), gone("masks/sub")()], (), "no label maps", "predict.py"),
    (gone("masks/meta.json"), (), "class names of the masks", "--class-file"),
    (write("masks/meta.json", "{"), (), "class names of the masks", "--class-file"),
    (write("masks/meta.json", '{"made_from": {"class_names": ["a", "a"]}}'), (),
     "meta.json: expected different class names", "--class-file"),
    (write("masks/meta.json", '{"made_from": {"class_names": [1, 2]}}'), (),
     "meta.json: expected different class names", "--class-file"),
    (write("masks/meta.json", '{"made_from": {"class_names": []}}'), (),
     "meta.json: expected different class names", "--class-file"),
    (write("masks/meta.json", '{"made_from": {"class_names": ["a"]}}'), (),
     r"masks/a.png holds the ids \[1\]", "expected 0 to 0 or 255"),
    (nothing, C, "no class file at c.yaml", "datasets/classes/"),
    (classes_of("classes: [a, b]"), C, "masks in masks were made for other classes: 'straße'",
     "name the class file"),
    (cut("masks/sub/b.png"), (), "cannot decode masks/sub/b.png", "copy or download"),
    (write("masks/sub/b.png", "text"), (), "sub/b.png: 4 bytes", "copy or download"),
    (endless("masks/sub/b.png"), (), "sub/b.png: more than .* pixels", "smaller"),
    (write("masks/sub/b.png", RGB), (), "sub/b.png: expected one channel of class ids", "grey"),
    (lambda: [gone("masks/a.png")(), os.mkfifo("masks/a.png")], (), "a.png: not a regular file",
     "remove it"),
    (gone("images"), (), "no folder at --images images", "holds the images"),
    (gone("images/a.jpg"), (), "1 of 2 images have no file in images, the first is 'a'",
     "--images"),
    (copied("images/a.jpg", "images/a.png"), (), "images/a.jpg and images/a.png differ", "keep"),
    (write("images/a.jpg", RGB[1:]), (), r"masks/a.png is 9x12 .*its image 8x12", "again"),
    (write("images/a.jpg", "text"), (), "cannot read the size of images/a.jpg", "download"),
    (nothing, ("--out", "masks/new"), "--out masks/new would write inside masks", "another"),
    (nothing, ("--out", "images"), "--out images would write inside images", "another"),
    (classes_of("x"), ("--out", "c.yaml"), "--out c.yaml", "name a folder to write to"),
]  # fmt: skip
CVAT_CASES = [
    ("classes: [{name: a, color: [1, 2, 3]}, {name: b, color: [1, 2, 3]}]", "a, b share", "own"),
    ("classes: [a, {name: b, color: [0, 0, 0]}]", r"without a label, b share \[0, 0, 0\]", "own"),
    ("classes: [Background, b]", "'Background' can't be exported: CVAT", "another name"),
    ("classes: [a, 'b:c']", "'b:c' can't be written in CVAT's labelmap", "rename"),
    ("classes: [a, '#b']", "'#b' can't be written in CVAT's labelmap", "rename"),
]


@pytest.mark.parametrize("form", ["coco-panoptic", "label-studio"])
@pytest.mark.parametrize("row", CASES, ids=lambda row: row[2][:30])
def test_one_message_and_nothing_half_written(case, row, form):
    change, more, says, remedy = row
    change()
    command = ["masks", "--format", form, "--out", "out", "--images", "images", *more]
    before = {*Path().rglob("*")}
    with pytest.raises(InputError) as raised:
        export_masks.main(command)
    assert re.search(f"{says}.*{remedy}", str(raised.value), re.DOTALL), raised.value
    left = {*Path().rglob("*")} - before
    assert all(path.is_dir() or path.suffix in (".png", ".xml") for path in left), left
    assert not any("tmp" in path.name for path in left), left


def test_formats_that_name_images_need_them(case):
    for form in ("coco-rle", "coco-panoptic", "label-studio"):
        with pytest.raises(InputError, match=f"--format {form} names the image files.*--images"):
            export_masks.main(["masks", "--format", form, "--out", "out"])
    assert not Path("out").exists()


@pytest.mark.parametrize("text, says, remedy", CVAT_CASES)
def test_classes_that_cvat_cannot_tell_apart(case, text, says, remedy):
    write("c.yaml", text)()
    gone("masks/meta.json")()
    command = ["masks", "--format", "cvat", "--out", "out", *C]
    with warnings.catch_warnings(), pytest.raises(InputError, match=f"{says}.*{remedy}"):
        warnings.simplefilter("ignore")  # of the class file: two classes share a colour
        export_masks.main(command)
    assert not Path("out").exists()


@pytest.mark.parametrize("name", ["#a", " a", "a\nb", "a\u2028b"])
def test_image_names_that_cvat_cannot_list(case, name):
    Path("masks/a.png").rename(f"masks/{name}.png")
    with pytest.raises(InputError, match="image name .* can't be written in CVAT's list.*rename"):
        export_masks.main(["masks", "--format", "cvat", "--out", "out"])
    assert [*Path("out").iterdir()] == []


def test_a_class_called_unlabeled_is_no_class_of_cityscapes(case):
    write("masks/meta.json", '{"made_from": {"class_names": ["a", "Unlabeled"]}}')()
    with pytest.raises(InputError, match="'Unlabeled' can't be exported: Cityscapes.*another name"):
        export_masks.main(["masks", "--format", "cityscapes", "--out", "out"])
    assert not Path("out").exists()


def test_a_name_in_another_encoding_is_refused(case):
    Path("masks/a.png").rename("masks/a\udcff.png")
    Path("images/a.jpg").rename("images/a\udcff.jpg")
    for form in ("coco-panoptic", "cvat", "label-studio"):  # explained by utils.safe.errors
        with pytest.raises(UnicodeEncodeError):
            export_masks.main(
                ["masks", "--format", form, "--images", "images", "--out", f"out {form}"]
            )
        assert not any(path.suffix in (".json", ".zip") for path in Path(f"out {form}").iterdir())


@pytest.mark.parametrize(
    "form, package", [("coco-rle", "pycocotools"), ("cityscapes", "opencv-python-headless")]
)
def test_a_missing_package_is_named(case, monkeypatch, form, package):
    monkeypatch.setitem(sys.modules, PACKAGES[form], None)
    command = ["masks", "--format", form, "--images", "images", "--out", "out"]
    with pytest.raises(InputError, match=f"--format {form} needs .*pip install {package}"):
        export_masks.main(command)
    assert not Path("out").exists()


@pytest.mark.parametrize("value", ["0", "-1", "x", "1.5", "²", ""])
def test_min_area_is_a_number_of_pixels(case, capsys, value):
    with pytest.raises(SystemExit):
        export_masks.main(["masks", "--format", "cvat", "--out", "out", "--min-area", value])
    assert "--min-area: expected a whole number of at least 1" in capsys.readouterr().err


def test_a_full_disk_leaves_no_export(case, full_disk):
    if isinstance(full_disk, str):
        pytest.skip(full_disk)
    with pytest.raises(InputError, match=r"--out .*No space left.*name a folder"):
        export_masks.main(["masks", "--format", "cvat", "--out", str(full_disk / "out")])
