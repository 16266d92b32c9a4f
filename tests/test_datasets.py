"""datasets/: layouts, files, classes, samples."""

import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import camvid_root, shared_data
from PIL import Image
from torch.utils.data import DataLoader

from datasets import DATASETS, open_dataset
from datasets.camvid import _color_table, usual_split
from datasets.cityscapes import LABEL_ID_OF_TRAIN_ID
from datasets.doctor.survey import labels_from_counts, survey
from datasets.files import File, read_image, read_mask
from datasets.image_labels import read_image_labels
from datasets.labels import default_palette, load_classes, multi_hot, voc_palette
from datasets.mask_folder import pseudo_mask_files
from datasets.training import EvaluationSet, TrainingSet
from datasets.transforms import TrainTransform
from datasets.wilddash2 import _read_panoptic, categories
from utils.batches import Draw
from utils.safe.errors import InputError, InputWarning

CLASSES = Path(__file__).resolve().parent.parent / "datasets" / "classes"


def save(path: Path, values: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def picture(height: int = 6, width: int = 8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def id_map(num_classes: int, height: int = 6, width: int = 8, seed: int = 0) -> np.ndarray:
    """Random ids with some 255."""
    ids = np.random.default_rng(seed).integers(0, num_classes + 1, (height, width), dtype=np.uint8)
    return np.where(ids == num_classes, 255, ids).astype(np.uint8)


# ---------------------------------------------------------------- classes


@pytest.mark.parametrize(
    ("name", "count"),
    [("cityscapes", 19), ("camvid", 11), ("wilddash2", 25), ("wilddash2_official", 25)],
)
def test_shipped_classes(name: str, count: int) -> None:
    classes = load_classes(CLASSES / f"{name}.yaml")
    assert len(classes) == count
    assert len({tuple(c) for c in classes.palette.tolist()}) == count
    renamed = {n: p for n, (p,) in zip(classes.names, classes.prompts, strict=True) if n != p}
    paper = {"vegetation": "tree", "terrain": "grass", "person": "pedestrian"}
    assert renamed == (paper if name in ("cityscapes", "wilddash2") else {})


def test_paper_prompts_are_on_all_three_sets() -> None:
    for name in ("cityscapes", "camvid", "wilddash2"):
        prompts = {p for (p,) in load_classes(CLASSES / f"{name}.yaml").prompts}
        assert {"tree", "pedestrian"} <= prompts
        assert not {"vegetation", "terrain", "person"} & prompts


def test_small_classes_of_the_shipped_files() -> None:
    things = {"pole", "traffic light", "traffic sign", "rider"}
    riding = {"person", "motorcycle", "bicycle"}
    more = {"billboard", "streetlight", "roadmarking"}
    for name, expected in (
        ("camvid", {"pole", "signsymbol", "pedestrian", "bicyclist"}),
        ("cityscapes", things | riding),
        ("wilddash2", things | riding | more),
        ("wilddash2_official", things | riding | more),
    ):
        classes = load_classes(CLASSES / f"{name}.yaml")
        assert {n for n, s in zip(classes.names, classes.small, strict=True) if s} == expected


def test_class_file_forms(tmp_path: Path) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(
        "classes:\n  - road\n  - {name: tree, prompt: [tree, bush], color: [1, 2, 3]}\n"
        "  - {name: car, prompt: vehicle, small: true}\n"
    )
    classes = load_classes(path)
    assert classes.names == ("road", "tree", "car")
    assert classes.prompts == (("road",), ("tree", "bush"), ("vehicle",))
    assert classes.small == (False, False, True)
    assert classes.palette[1].tolist() == [1, 2, 3]
    assert classes.palette[[0, 2]].tolist() == default_palette(3)[[0, 2]].tolist()
    for palette in (default_palette, voc_palette):
        assert len({tuple(c) for c in palette(255).tolist()} | {(0, 0, 0)}) == 256
    assert voc_palette(3).tolist() == [[128, 0, 0], [0, 128, 0], [128, 128, 0]]
    assert default_palette(255)[:2].tolist() == default_palette(2).tolist()


def cielab(colors: np.ndarray) -> np.ndarray:
    """sRGB 0 to 255 (K,3) -> CIELAB under D65, where distances are differences that people see."""
    shares = colors / 255
    linear = np.where(shares > 0.04045, ((shares + 0.055) / 1.055) ** 2.4, shares / 12.92)
    rows = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]
    xyz = linear @ np.transpose(rows) / [0.9505, 1, 1.089]
    x, y, z = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116).T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], 1)


@pytest.mark.parametrize("grey", [60, 110, 180])
def test_default_colours_are_told_apart_on_a_street(grey) -> None:
    """Half over grey, as an overlay; compared with Pascal VOC's, of which some are nearly black."""

    def closest(palette: np.ndarray) -> float:
        shown = cielab(palette / 2 + grey / 2)
        distances = np.linalg.norm(shown[:, None] - shown, axis=2)
        return distances[~np.eye(len(shown), dtype=bool)].min()

    assert closest(default_palette(12)) > 1.3 * closest(voc_palette(12))
    assert cielab(default_palette(20))[:, 0].min() > 35 > cielab(voc_palette(20))[:, 0].min()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("classes: road", "classes:"),
        ("names: [road]", "classes:"),
        ("classes: []", "classes:"),
        ("classes: [road, {name: car, colour: [0, 0, 0]}]", "class 1.*colour"),
        ("classes: [road, no]", "class 1.*False"),
        ("classes: [{name: car, color: [0, 0, 300]}]", "class 0.*color"),
        ("classes: [{name: car, prompt: []}]", "class 0.*prompt"),
        ("classes: [{name: car, small: 1}]", "class 0.*'small' must be true or false, found 1"),
        ("classes: [road, car, road]", "repeated: road"),
        ("classes: [road", "not valid YAML"),
        ("classes: [road]\nclasses: [car]", "'classes' is given twice"),
        ("classes: [Road, car, road]", "'Road' and 'road' differ only in .*rename one"),
        ("classes: [road, car, 'car ']", "'car' and 'car ' differ only in"),
        ("classes: [{name: car, prompt: a, prompt: b}]", "'prompt' is given twice"),
    ],
)
def test_bad_class_files(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(InputError, match=f"c.yaml.*{message}"):
        load_classes(tmp_path / "c.yaml")


def test_missing_class_file() -> None:
    with pytest.raises(InputError, match=r"no class file at nowhere.yaml"):
        load_classes("nowhere.yaml")


def test_multi_hot() -> None:
    assert multi_hot((0, 3), 5).tolist() == [1, 0, 0, 1, 0]
    assert multi_hot((), 2).tolist() == [0, 0]


# ---------------------------------------------------------------- pictures


def test_read_image_modes(tmp_path: Path) -> None:
    rgb = picture()
    path = tmp_path / "a.png"
    alpha = np.dstack([rgb, np.full(rgb.shape[:2], 7, np.uint8)])
    for values in (rgb, alpha):
        assert np.array_equal(read_image(File(str(save(path, values)))), rgb)
    grey = rgb[..., 0]
    for values in (grey, grey.astype(np.uint16) * 256 + 99):  # 16 bit: the high byte
        result = read_image(File(str(save(path, values))))
        assert np.array_equal(result, np.repeat(grey[..., None], 3, axis=2))
    Image.fromarray(np.full((4, 4, 3), (250, 10, 10), np.uint8)).convert("CMYK").save(
        tmp_path / "a.jpg", quality=100
    )
    red = read_image(File(str(tmp_path / "a.jpg")))
    assert red.shape == (4, 4, 3) and red[0, 0, 0] > 200 > 60 > red[0, 0, 1]
    save(tmp_path / "a.tiff", np.ones((2, 2), np.float32))
    with pytest.raises(InputError, match=r"a.tiff.*floating"):
        read_image(File(str(tmp_path / "a.tiff")))


@pytest.mark.parametrize("content", [b"", b"nothing", b"<html>404</html>"])
def test_what_is_no_picture_is_said_in_plain_words(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.png").write_bytes(content)
    for read in (read_image, read_mask):
        with pytest.raises(InputError) as error:
            read(File(str(tmp_path / "a.png")))
        expected = f"cannot decode {tmp_path}/a.png: {len(content)} bytes, not an image"
        assert str(error.value).startswith(expected) and "BytesIO" not in str(error.value)


def test_read_image_turns_upright(tmp_path: Path) -> None:
    rgb = picture(4, 6)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise
    Image.fromarray(rgb).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(File(str(tmp_path / "a.png"))), np.rot90(rgb, -1))


def test_read_mask_keeps_numbers(tmp_path: Path) -> None:
    ids = id_map(19)
    path = tmp_path / "m.png"
    assert np.array_equal(read_mask(File(str(save(path, ids)))), ids)
    assert np.array_equal(read_mask(File(str(save(path, ids.astype(np.uint16))))), ids)
    paletted = Image.fromarray(ids)
    paletted.putpalette([9, 9, 9] * 256)  # one colour for all: the numbers must come from the index
    paletted.save(path)
    assert np.array_equal(read_mask(File(str(path))), ids)


def test_read_mask_refuses_colours(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"one channel.*RGB"):
        read_mask(File(str(save(tmp_path / "m.png", picture()))))
    with pytest.raises(InputError, match=r"JPEG"):
        read_mask(File(str(save(tmp_path / "m.jpg", id_map(3)))))
    with pytest.raises(InputError, match=r"up to 300"):
        read_mask(File(str(save(tmp_path / "m.png", np.full((2, 2), 300, np.uint16)))))


def test_unreadable_files(tmp_path: Path) -> None:
    whole = save(tmp_path / "a.png", picture(40, 40)).read_bytes()
    for name, content in (
        ("cut.png", whole[: len(whole) // 2]),
        ("text.png", b"not a picture"),
        ("empty.png", b""),
        ("damaged.png", whole[:60] + bytes(50) + whole[110:]),
    ):
        (tmp_path / name).write_bytes(content)
        for read in (read_image, read_mask):
            with pytest.raises(InputError, match=name):
                read(File(str(tmp_path / name)))
    with pytest.raises(InputError, match=r"gone.png"):
        read_image(File(str(tmp_path / "gone.png")))


# ---------------------------------------------------------------- layouts


def camvid_original(root: Path, names: list[str], ids: dict[str, np.ndarray]) -> None:
    colors = load_classes(CLASSES / "camvid.yaml").palette
    for name in names:
        save(root / "701_StillsRaw_full" / f"{name}.png", picture())
        table = np.zeros((256, 3), np.uint8)  # void is black
        table[:11] = colors
        save(root / "LabeledApproved_full" / f"{name}_L.png", table[ids[name]])


def test_camvid_layouts_agree(tmp_path: Path) -> None:
    names = ["0001TP_006690", "0006R0_f00930", "0016E5_07959", "Seq05VD_f00000"]
    splits = dict(zip(names, ["train", "train", "val", "test"], strict=True))
    ids = {name: id_map(11, seed=i) for i, name in enumerate(names)}
    camvid_original(tmp_path / "original", names, ids)
    for name, split in splits.items():
        save(tmp_path / "segnet" / split / f"{name}.png", picture())
        void11 = np.where(ids[name] == 255, 11, ids[name]).astype(np.uint8)
        save(tmp_path / "segnet" / f"{split}annot" / f"{name}.png", void11)
        save(tmp_path / "ids" / "img" / split / f"{name}.jpg", picture())
        save(tmp_path / "ids" / "mask" / split / f"{name}.png", ids[name])
    for layout in ("original", "segnet", "ids"):
        dataset = open_dataset("camvid", tmp_path / layout)
        assert dataset.layout == layout
        assert dataset.splits() == ["train", "val", "test"]
        for split in dataset.splits():
            expected = [name for name in names if splits[name] == split]
            assert list(dataset.images(split)) == expected
            masks = dataset.ground_truth(split)
            assert list(masks) == expected
            for name in expected:
                assert np.array_equal(dataset.read_ground_truth(masks[name]), ids[name])


def kaggle(root: Path, names: dict[str, str]) -> dict[str, np.ndarray]:
    """CamVid as on Kaggle: name -> split. Every colour of the release is in each label file."""
    items = yaml.safe_load((CLASSES / "camvid_colors.yaml").read_text())["colors"]
    items.append({"name": "Void", "color": [0, 0, 0], "class": None})
    classes = load_classes(CLASSES / "camvid.yaml").names
    table = np.array([classes.index(i["class"]) if i["class"] else 255 for i in items], np.uint8)
    expected = {}
    for seed, (name, split) in enumerate(names.items()):
        order = np.random.default_rng(seed).permutation(np.repeat(np.arange(32), 4)).reshape(8, 16)
        save(root / split / f"{name}.png", picture(8, 16))
        colors = np.array([i["color"] for i in items], np.uint8)
        save(root / f"{split}_labels" / f"{name}_L.png", colors[order])
        expected[name] = table[order]
    return expected


def test_camvid_as_on_kaggle(tmp_path: Path) -> None:
    names = {"0001TP_009210": "train", "0016E5_07959": "val", "Seq05VD_f00000": "test"}
    expected = kaggle(tmp_path / "k", names)
    dataset = open_dataset("camvid", tmp_path / "k")
    assert dataset.splits() == ["train", "val", "test"]
    for name, split in names.items():
        assert list(dataset.images(split)) == list(dataset.ground_truth(split)) == [name]
        ids = dataset.read_ground_truth(dataset.ground_truth(split)[name])
        assert np.array_equal(ids, expected[name])
    assert dataset.layout == "kaggle"


def test_camvid_labels_of_other_colours_are_refused(tmp_path: Path) -> None:
    ids = {"0016E5_07959": np.zeros((40, 60), np.uint8)}
    ids["0016E5_07959"][:, 30:], ids["0016E5_07959"][0] = 1, 3
    camvid_original(tmp_path, list(ids), ids)
    dataset = open_dataset("camvid", tmp_path)
    (file,) = dataset.ground_truth("val").values()
    colors = np.array(Image.open(file.path))
    smoothed = Image.fromarray(colors).resize((31, 20), Image.Resampling.BILINEAR)
    odd = colors.copy()
    odd[0, :2] = (1, 2, 3)  # 2 of 2400: as the release has
    for values, message in (
        (np.array(smoothed), r"_L.png: \d.* % .* colours of no class, e.g. \[.*smoothing"),
        (colors[..., ::-1], r"_L.png: 48.8 % .*e.g. \[0, 0, 128\]; red and blue are swapped"),
        (colors + 1, r"100 % of the pixels"),
    ):
        save(Path(file.path), values)
        with pytest.raises(InputError, match=message):
            dataset.read_ground_truth(file)
    save(Path(file.path), odd)
    expected = ids["0016E5_07959"].copy()
    expected[0, :2] = 255
    assert np.array_equal(dataset.read_ground_truth(file), expected)


def test_camvid_split_lists(tmp_path: Path) -> None:
    ids = {name: id_map(11) for name in ("a", "b", "c")}
    camvid_original(tmp_path, list(ids), ids)
    dataset = open_dataset("camvid", tmp_path)
    with pytest.raises(InputError, match=r"'a'.*train.txt"):
        dataset.images("train")
    (tmp_path / "train.txt").write_text("/SegNet/CamVid/train/c.png /SegNet/trainannot/c.png\na\n")
    assert list(dataset.images("train")) == ["a", "c"]
    (tmp_path / "LabeledApproved_full" / "a_L.png").unlink()
    assert list(dataset.ground_truth("train")) == ["c"]
    (tmp_path / "val.txt").write_text("d.png\n")
    with pytest.raises(InputError, match=r"val.txt names 'd'"):
        dataset.images("val")


def test_camvid_colors() -> None:
    """Every listed colour is its class, the class colours among them; all others are void."""
    table = _color_table()
    classes = load_classes(CLASSES / "camvid.yaml")
    items = yaml.safe_load((CLASSES / "camvid_colors.yaml").read_text())["colors"]
    assert len(items) == 31
    for item in items:
        red, green, blue = item["color"]
        assert table[red * 65536 + green * 256 + blue] == classes.names.index(item["class"])
    for k, (red, green, blue) in enumerate(classes.palette.tolist()):
        assert table[red * 65536 + green * 256 + blue] == k
    assert np.count_nonzero(table != 255) == 31


def test_usual_camvid_split_on_the_real_names() -> None:
    dataset = open_dataset("camvid", camvid_root())
    for split in ("train", "val"):
        assert {usual_split(name) for name in dataset.images(split)} == {split}
    names = read_image_labels(shared_data("image_labels/camvid.json"), 11)
    splits = [usual_split(name) for name in names]
    assert [splits.count(split) for split in ("train", "val", "test")] == [367, 101, 233]


CITY = ("aachen/aachen_000000_000019", "bonn/bonn_000001_000019")


def cityscapes_tree(root: Path) -> dict[str, np.ndarray]:
    """Both cities in train with label ids, one in val with train ids, one in test."""
    label_ids = {
        name: np.random.default_rng(i).integers(0, 34, (4, 8), dtype=np.uint8)
        for i, name in enumerate(CITY)
    }
    for name in CITY:
        save(root / "leftImg8bit" / "train" / f"{name}_leftImg8bit.png", picture(4, 8))
        save(root / "gtFine" / "train" / f"{name}_gtFine_labelIds.png", label_ids[name])
        save(root / "gtFine" / "train" / f"{name}_gtFine_color.png", picture(4, 8))
    for split in ("val", "test"):
        save(root / "leftImg8bit" / split / f"{CITY[0]}_leftImg8bit.png", picture(4, 8))
        save(root / "gtFine" / split / f"{CITY[0]}_gtFine_labelIds.png", label_ids[CITY[0]])
    save(root / "gtFine" / "val" / f"{CITY[0]}_gtFine_labelTrainIds.png", id_map(19, 4, 8))
    return label_ids


@pytest.mark.parametrize("zipped", [False, True])
def test_cityscapes(tmp_path: Path, zipped: bool) -> None:
    root = tmp_path / "tree"
    label_ids = cityscapes_tree(root)
    if zipped:
        (tmp_path / "zips").mkdir()
        for kind in ("leftImg8bit", "gtFine"):
            with zipfile.ZipFile(tmp_path / "zips" / f"{kind}_trainvaltest.zip", "w") as archive:
                archive.writestr("README", "")
                for path in sorted((root / kind).rglob("*")):
                    archive.write(path, path.relative_to(root))
        root = tmp_path / "zips"
    dataset = open_dataset("cityscapes", root)
    assert dataset.splits() == ["train", "val", "test"]
    images, masks = dataset.images("train"), dataset.ground_truth("train")
    assert list(images) == list(masks) == list(CITY)
    for name in CITY:
        train_ids = dataset.read_ground_truth(masks[name])
        for value in range(34):
            known = value in LABEL_ID_OF_TRAIN_ID
            expected = LABEL_ID_OF_TRAIN_ID.index(value) if known else 255
            assert (train_ids[label_ids[name] == value] == expected).all()
        assert np.array_equal(read_image(images[name]), picture(4, 8))
    (file,) = dataset.ground_truth("val").values()
    assert np.array_equal(dataset.read_ground_truth(file), id_map(19, 4, 8))
    assert dataset.ground_truth("test") == {} and list(dataset.images("test")) == [CITY[0]]

    loader = DataLoader(EvaluationSet(images, None), batch_size=None, num_workers=2)
    assert [sample["name"] for sample in loader] == list(CITY)


def test_label_ids_that_cityscapes_does_not_have(tmp_path: Path) -> None:
    cityscapes_tree(tmp_path)
    dataset = open_dataset("cityscapes", tmp_path)
    file = dataset.ground_truth("train")[CITY[0]]
    for values in (np.full((4, 8), 34, np.uint8), np.arange(32, dtype=np.uint8).reshape(4, 8) * 8):
        save(Path(file.path), values)
        with pytest.raises(
            InputError, match=r"labelIds.png: [\d.]+ % .* ids that no label of City"
        ):
            dataset.read_ground_truth(file)
    save(Path(file.path), np.full((4, 8), 255, np.uint8))  # license plate, -1
    assert (dataset.read_ground_truth(file) == 255).all()


def test_cityscapes_ids_are_the_official_ones() -> None:
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    official = {label.trainId: label.id for label in labels if 0 <= label.trainId < 255}
    assert dict(enumerate(LABEL_ID_OF_TRAIN_ID)) == official
    classes = load_classes(CLASSES / "cityscapes.yaml")
    by_id = {label.id: label for label in labels}
    assert classes.names == tuple(by_id[i].name for i in LABEL_ID_OF_TRAIN_ID)
    assert classes.palette.tolist() == [list(by_id[i].color) for i in LABEL_ID_OF_TRAIN_ID]


def test_damaged_zip(tmp_path: Path) -> None:
    (tmp_path / "leftImg8bit_trainvaltest.zip").write_bytes(b"half a download")
    with pytest.raises(InputError, match=r"leftImg8bit_trainvaltest.zip.*download"):
        open_dataset("cityscapes", tmp_path)
    path = tmp_path / "flipped.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.png", bytes(range(256)) * 20)
    content = bytearray(path.read_bytes())
    content[60:80] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"flipped.zip:a.png"):
        read_image(File(str(path), "a.png"))


def wilddash_release(root: Path) -> dict[str, np.ndarray]:
    """Two images with category ids as label files and as a panoptic file."""
    maps, annotations = {}, []
    for i, name in enumerate(("ae0000_100000", "zw0014_100000")):
        category_ids = np.random.default_rng(i).integers(0, 81, (5, 7), dtype=np.uint8)
        maps[name] = category_ids
        save(root / "images" / f"{name}.jpg", picture(5, 7))
        save(root / "labels" / f"{name}.png", category_ids)
        segments = category_ids.astype(np.int64) * 70001 + i + 1  # COCO: R + 256 G + 65536 B
        rgb = np.stack([segments % 256, segments // 256 % 256, segments // 65536], axis=-1)
        save(root / "panoptic" / f"{name}.png", rgb.astype(np.uint8))
        info = [
            {"id": int(c) * 70001 + i + 1, "category_id": int(c)} for c in np.unique(category_ids)
        ]
        annotations.append({"file_name": f"{name}.png", "image_id": name, "segments_info": info})
    named = [{"id": i, "name": name} for i, (name, _) in enumerate(categories())]
    named[1]["name"], named[20]["name"] = "Ego vehicle", "trafficsignfront"  # other spellings
    content = {"categories": named, "annotations": annotations}
    (root / "panoptic.json").write_text(json.dumps(content))
    (root / "train.txt").write_text("ae0000_100000.jpg\n")
    (root / "val.txt").write_text("zw0014_100000\n")
    return maps


def test_wilddash2_release(tmp_path: Path) -> None:
    maps = wilddash_release(tmp_path)
    class_ids = np.array([class_id for _, class_id in categories()], np.uint8)
    for kind in ("labels", "panoptic"):
        dataset = open_dataset("wilddash2", tmp_path)
        assert dataset.splits() == ["train", "val"]
        for split, name in (("train", "ae0000_100000"), ("val", "zw0014_100000")):
            assert list(dataset.images(split)) == [name]
            (file,) = dataset.ground_truth(split).values()
            assert kind in file.path
            assert np.array_equal(dataset.read_ground_truth(file), class_ids[maps[name]])
        if kind == "labels":
            (tmp_path / "labels").rename(tmp_path / "hidden")


def test_panoptic_segments_that_are_not_described(tmp_path: Path) -> None:
    wilddash_release(tmp_path)
    (tmp_path / "labels").rename(tmp_path / "hidden")
    _read_panoptic.cache_clear()
    dataset = open_dataset("wilddash2", tmp_path)
    (file,) = dataset.ground_truth("train").values()
    colors = np.array(Image.open(file.path))
    colors[0, 0] = 0  # no segment
    save(Path(file.path), colors)
    assert dataset.read_ground_truth(file)[0, 0] == 255
    for values in (colors[..., ::-1], colors ^ 4):
        save(Path(file.path), values)
        with pytest.raises(InputError, match=r"segment ids that panoptic.json doesn't give"):
            dataset.read_ground_truth(file)
    content = json.loads((tmp_path / "panoptic.json").read_text())
    del content["annotations"][0]
    (tmp_path / "panoptic.json").write_text(json.dumps(content))
    _read_panoptic.cache_clear()
    with pytest.warns(InputWarning, match=r"does not describe 1 of the images of 'train'"):
        assert dataset.ground_truth("train") == {}
    _read_panoptic.cache_clear()


def test_wilddash2_authors_layout(tmp_path: Path) -> None:
    ids = id_map(25)
    save(tmp_path / "img/train/a.jpg", picture())
    save(tmp_path / "mask/train/a_labelTrainIds.png", ids)
    dataset = open_dataset("wilddash2", tmp_path)
    assert list(dataset.images("train")) == list(dataset.ground_truth("train")) == ["a"]
    assert np.array_equal(dataset.read_ground_truth(dataset.ground_truth("train")["a"]), ids)


def test_wilddash2_needs_split_lists_and_known_categories(tmp_path: Path) -> None:
    wilddash_release(tmp_path)
    (tmp_path / "train.txt").write_text("ae0000_100000\nxx0000_100000\n")
    with pytest.raises(InputError, match=r"train.txt names 'xx0000_100000'"):
        open_dataset("wilddash2", tmp_path).images("train")
    for name in ("train", "val"):
        (tmp_path / f"{name}.txt").unlink()
    with pytest.raises(InputError, match=r"(?s)no train.txt or val.txt.*not published"):
        open_dataset("wilddash2", tmp_path)
    (tmp_path / "val.txt").write_text("zw0014_100000\n")
    (tmp_path / "panoptic.json").write_text('{"categories": [{"id": 99, "name": "ufo"}]}')
    _read_panoptic.cache_clear()
    with pytest.raises(InputError, match=r"unknown category 99 'ufo'"):
        open_dataset("wilddash2", tmp_path).ground_truth("val")


def test_wilddash2_categories_follow_the_release_policy() -> None:
    policy = json.loads(shared_data("wilddash2/wd2_unified_label_policy.json").read_text())
    names = load_classes(CLASSES / "wilddash2.yaml").names
    evaluated = {entry["wd2_name"]: entry["wd2eval_name"] for entry in policy["mapping"]}
    ids = {category["name"]: category["id"] for category in policy["per_ds"]["wd2"]}
    assert len(categories()) == len(ids) == 81
    for i, (name, class_id) in enumerate(categories()):
        assert ids[name] == i
        scored = None if class_id == 255 else names[class_id].replace(" ", "")
        expected = evaluated[name] if evaluated[name] not in ("unlabeled", "onrails") else None
        assert scored == expected
    assert {class_id for _, class_id in categories()} == set(range(25)) | {255}


def test_folder(tmp_path: Path) -> None:
    save(tmp_path / "a/images/sub/x.jpg", picture())
    save(tmp_path / "a/images/y.PNG", picture())
    save(tmp_path / "a/masks/sub/x.png", id_map(3))
    (tmp_path / "a/images/notes.txt").write_text("")
    dataset = open_dataset("folder", tmp_path / "a")
    assert dataset.splits() == ["train"]
    assert list(dataset.images("train")) == ["sub/x", "y"]
    assert list(dataset.ground_truth("train")) == ["sub/x"]
    save(tmp_path / "b/images/train/x.jpg", picture())
    save(tmp_path / "b/images/val/z.jpg", picture())
    dataset = open_dataset("folder", tmp_path / "b")
    assert dataset.splits() == ["train", "val"] and list(dataset.images("val")) == ["z"]
    assert dataset.ground_truth("val") == {}
    save(tmp_path / "b/images/val/z.png", picture())
    with pytest.raises(InputError, match=r"z.jpg and .*z.png"):
        dataset.images("val")


@pytest.mark.parametrize("name", DATASETS)
def test_missing_data(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"no folder"):
        open_dataset(name, tmp_path / "gone")
    with pytest.raises(InputError, match=r"(?s)expected.*<name>|expected.*<city>"):
        open_dataset(name, tmp_path)
    with pytest.raises(InputError, match=r"must be one of .*wilddash2.*; found 'kitti'"):
        open_dataset("kitti", tmp_path)


def test_missing_split() -> None:
    dataset = open_dataset("camvid", camvid_root())
    with pytest.raises(InputError, match=r"no split 'trian', only train"):
        dataset.images("trian")


# ---------------------------------------------------------------- samples


def small_set(root: Path, num_images: int = 3) -> dict[str, File]:
    return {
        f"i{i}": File(str(save(root / "img" / f"i{i}.png", picture(12, 16, seed=i))))
        for i in range(num_images)
    }


TRANSFORM = TrainTransform((12, 16), (0.5, 1.5), (10, 14))


def test_training_sample(tmp_path: Path) -> None:
    images = small_set(tmp_path)
    for i, name in enumerate(images):
        save(tmp_path / "masks" / f"{name}.png", id_map(4, 12, 16, seed=i))
    masks = pseudo_mask_files(tmp_path / "masks", images)
    labels = {"i0": (0, 3), "i1": (1,), "i2": (), "other": (2,)}
    dataset = TrainingSet(images, labels, 4, TRANSFORM, masks)
    assert len(dataset) == 3
    sample = dataset[Draw(0, seed=5)]
    assert sample["name"] == "i0"
    assert sample["image"].shape == (3, 10, 14) and sample["image"].dtype == torch.uint8
    assert sample["valid"].shape == (10, 14) and sample["valid"].dtype == torch.bool
    assert sample["image_labels"].tolist() == [1, 0, 0, 1]
    assert sample["pseudo_mask"].shape == (10, 14) and sample["pseudo_mask"].dtype == torch.int64
    again, other = dataset[Draw(0, seed=5)], dataset[Draw(0, seed=6)]
    assert torch.equal(again["image"], sample["image"])
    assert not torch.equal(other["image"], sample["image"])
    assert "pseudo_mask" not in TrainingSet(images, labels, 4, TRANSFORM)[Draw(1, 0)]
    loader = DataLoader(dataset, batch_sampler=[[Draw(0, 5), Draw(2, 1)]], num_workers=1)
    (batch,) = loader
    assert torch.equal(batch["image"][0], sample["image"]) and batch["name"] == ["i0", "i2"]


def test_training_set_opens_only_what_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Images lie in a data set with ground truth beside them, which must stay closed."""
    ids = id_map(11)
    for split in ("train", "val"):
        save(tmp_path / "img" / split / f"{split}.png", picture())
        save(tmp_path / "mask" / split / f"{split}.png", ids)
    opened = []
    read = File.read
    monkeypatch.setattr(File, "read", lambda file: opened.append(file) or read(file))
    images = open_dataset("camvid", tmp_path).images("train")
    dataset = TrainingSet(images, {"train": (1,)}, 11, TRANSFORM)
    for seed in range(5):
        dataset[Draw(0, seed)]
    assert set(opened) == set(images.values())


def test_training_set_names_what_is_missing(tmp_path: Path) -> None:
    images = small_set(tmp_path)
    labels = dict.fromkeys(images, (0,))
    with pytest.raises(InputError, match=r"2 of 3 images.*'i1'.*prepare_data.py"):
        TrainingSet(images, {"i0": (0,)}, 4, TRANSFORM)
    with pytest.raises(InputError, match=r"3 of 3 pseudo-masks.*i0.png.*gen_clip_masks.py"):
        pseudo_mask_files(tmp_path / "nothing", images)
    wrong_size = {name: File(str(save(tmp_path / "s.png", id_map(4, 11, 16)))) for name in images}
    with pytest.raises(InputError, match=r"s.png is 11x16.*12x16"):
        TrainingSet(images, labels, 4, TRANSFORM, wrong_size)[Draw(0, 0)]
    wrong_id = {name: File(str(save(tmp_path / "w.png", id_map(6, 12, 16)))) for name in images}
    with pytest.raises(InputError, match=r"w.png.*\[4, 5\].*0 to 3 or 255"):
        TrainingSet(images, labels, 4, TRANSFORM, wrong_id)[Draw(0, 0)]


def test_evaluation_set(tmp_path: Path) -> None:
    images = small_set(tmp_path)
    masks = {name: File(str(save(tmp_path / f"{name}.png", id_map(4, 12, 16)))) for name in images}
    sample = EvaluationSet(images, (20, 30), masks)[1]
    assert sample["name"] == "i1" and sample["size"] == (12, 16)
    assert sample["image"].shape == (3, 20, 27) and sample["image"].is_contiguous()
    assert np.array_equal(sample["ground_truth"], id_map(4, 12, 16))
    plain = EvaluationSet(images, None)[0]
    assert np.array_equal(plain["image"].permute(1, 2, 0), picture(12, 16, seed=0))
    assert "ground_truth" not in plain
    for other, how in (("I1", "in capital letters only"), ("\u04561", "u04561.* look the same")):
        of_other = {"i0": (0,), other: (1,), "i2": (2,)}
        with pytest.raises(InputError, match=rf"the first is 'i1' \(there are .*{how}"):
            TrainingSet(images, of_other, 4, TRANSFORM)
    with pytest.raises(InputError, match=r"1 of 3 images have no ground truth"):
        EvaluationSet(images, None, {name: masks[name] for name in ("i0", "i1")})


# ---------------------------------------------------------------- real labels

# Objects of the full-size ground truth that no pixel of the half-size one shows: image, class id.
LOST_AT_HALF_SIZE = {
    ("0006R0_f00960", 9),  # pedestrian
    ("0006R0_f02970", 8),  # car
    ("0006R0_f03000", 8),
    ("0006R0_f03030", 8),
    ("0006R0_f03060", 8),
    ("0006R0_f03090", 8),
    ("0006R0_f03120", 8),
    ("0016E5_00630", 9),
    ("0016E5_05760", 8),
    ("0016E5_05760", 9),
}


def test_real_camvid_labels() -> None:
    published = read_image_labels(shared_data("image_labels/camvid.json"), 11)
    dataset = open_dataset("camvid", camvid_root())
    found = survey(dataset, ["train", "val"], 11, workers=0)
    ours = {name: ids for (_, name), ids in labels_from_counts(found, 11).items()}
    assert len(ours) == 468
    pairs = {(name, i) for name, ids in ours.items() for i in ids}
    published_pairs = {(name, i) for name in ours for i in published[name]}
    assert published_pairs - pairs == LOST_AT_HALF_SIZE
    assert pairs <= published_pairs


def test_real_class_counts_of_the_other_sets() -> None:
    for name, count in (("cityscapes", 3475), ("wilddash2", 4256)):
        classes = load_classes(CLASSES / f"{name}.yaml")
        labels = read_image_labels(shared_data(f"image_labels/{name}.json"), len(classes))
        assert len(labels) == count
        assert {i for ids in labels.values() for i in ids} == set(range(len(classes)))
        pattern = r"\w+/\w+_\d{6}_\d{6}" if name == "cityscapes" else r"[a-z]{2}\d{4}_100000"
        assert all(re.fullmatch(pattern, image_id) for image_id in labels)
