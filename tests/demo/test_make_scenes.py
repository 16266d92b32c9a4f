"""demo/make_scenes.py: the scenes' statistics, repeatability, and the data set they make."""

import json
from pathlib import Path

import numpy as np
import pytest

import prepare_data
from datasets.files import read_image, read_mask
from datasets.folder import Folder
from datasets.image_labels import read_image_labels
from datasets.labels import has_background, load_classes
from demo import make_scenes as synthetic
from demo.make_scenes import (
    FIRST_INDEX,
    KINDS,
    generate,
    render_object,
    write_dataset,
)
from demo.scenes.canvas import CLASSES, SUPERSAMPLING, Camera, Canvas
from demo.scenes.develop import _majority
from demo.scenes.stock import fair_daylight
from demo.scenes.things import THING_CLASSES, _ground
from utils.safe.errors import InputError

ID = {name: i for i, name in enumerate(CLASSES)}
SMALL = ("pole", "traffic light", "traffic sign", "pedestrian", "rider")
SCENES = 200


@pytest.fixture(scope="module")
def masks() -> np.ndarray:
    return np.stack([generate(3, i)[1] for i in range(SCENES)])


@pytest.fixture(scope="module")
def shares(masks: np.ndarray) -> np.ndarray:
    """(scenes, classes): the share of the pixels."""
    counts = [np.bincount(mask.ravel(), minlength=len(CLASSES)) for mask in masks]
    return np.stack(counts) / masks[0].size


@pytest.mark.parametrize("kind", KINDS)
def test_class_file_names_the_ids(kind: str) -> None:
    classes = load_classes(KINDS[kind].class_file)
    assert classes.names == KINDS[kind].classes
    assert has_background(classes) == (kind == "things")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(160, 320), (96, 128), (33, 71), (150, 100)])
def test_form(size: tuple[int, int], kind: str) -> None:
    image, mask = generate(0, 1, size, kind)
    assert image.shape == (*size, 3) and image.dtype == np.uint8
    assert mask.shape == size and mask.dtype == np.uint8
    assert mask.max() < len(KINDS[kind].classes)
    assert image.flags.c_contiguous and image.std() > 10


@pytest.mark.parametrize("kind", KINDS)
def test_same_numbers_same_scene(kind: str) -> None:
    size = KINDS[kind].size
    first = generate(5, 7, size, kind)
    generate(5, 8, size, kind)  # what was drawn before does not matter
    again = generate(5, 7, size, kind)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for other in (generate(*numbers, size, kind) for numbers in ((5, 8), (6, 7), (7, 5))):
        assert not np.array_equal(first[0], other[0])
        assert not np.array_equal(first[1], other[1])


def test_mask_values(masks: np.ndarray) -> None:
    assert set(np.unique(masks)) == set(range(len(CLASSES)))


def test_classes_per_image(shares: np.ndarray) -> None:
    assert 8 <= (shares > 0).sum(1).mean() <= 10


def test_presence(shares: np.ndarray) -> None:
    present = dict(zip(CLASSES, (shares > 0).mean(0), strict=True))
    for name in ("road", "sidewalk", "building", "sky"):
        assert present[name] > 0.95, name
    assert 0.85 < present["car"] < 1
    for name in (*SMALL, "fence"):
        assert 0.3 < present[name] < 0.98, name


def test_small_classes_are_small(shares: np.ndarray) -> None:
    for name in SMALL:
        assert 0.0015 < shares[:, ID[name]].mean() < 0.006, name
    assert 0.2 < shares[:, ID["road"]].mean() < 0.45
    assert 0.03 < shares[:, ID["sidewalk"]].mean() < 0.15


def test_places(masks: np.ndarray) -> None:
    """Sky above, road below, cars and people between: image rows are 0 to 1 downwards."""
    rows = (np.arange(masks.shape[1]) + 0.5) / masks.shape[1]

    def middle(name: str) -> float:
        at = (masks == ID[name]).sum((0, 2))
        return float((rows * at).sum() / at.sum())

    assert middle("sky") < 0.3 < middle("traffic light") < middle("pedestrian")
    assert middle("road") > 0.7
    assert 0.45 < middle("car") < 0.7
    assert (masks[:, -1] == ID["sky"]).mean() == 0
    assert (masks[:, 0] == ID["road"]).mean() == 0


@pytest.fixture(scope="module")
def things() -> np.ndarray:
    """Pixels of each class: (scenes, classes)."""
    masks = [generate(3, i, (128, 128), "things")[1].ravel() for i in range(SCENES)]
    return np.stack([np.bincount(mask, minlength=len(THING_CLASSES)) for mask in masks])


def test_things_leave_a_background(things: np.ndarray) -> None:
    assert (things[:, 0] > 0.5 * 128 * 128).all()
    assert (things[:, 1:].sum(1) > 0).all()
    number = (things[:, 1:] > 0).sum(1)  # a sign and a light stand on a pole
    assert number.min() >= 1 and number.max() <= 4 and 2 < number.mean() < 2.8


def test_no_thing_is_in_every_image(things: np.ndarray) -> None:
    present = dict(zip(THING_CLASSES, (things > 0).mean(0), strict=True))
    assert present.pop("background") == 1 and 0.5 < present.pop("pole") < 0.8
    assert all(0.15 < share < 0.4 for share in present.values()), present


def test_things_are_large(things: np.ndarray) -> None:
    """Those that the class file does not call small cover a fifteenth of their images or more."""
    classes = load_classes(KINDS["things"].class_file)
    for i, (name, small) in enumerate(zip(classes.names, classes.small, strict=True)):
        share = things[things[:, i] > 0, i].mean() / 128**2
        assert small == (share < 1 / 15), (name, share)


def test_the_ground_holds_no_thing() -> None:
    names = {ID[name] for name in THING_CLASSES[1:]}
    for i in range(60):
        rng = np.random.default_rng(i)
        camera = Camera(200 * rng.uniform(1.3, 2.2), 64, 60, 1.3)
        canvas = Canvas((64, 64), camera, fair_daylight(rng))
        _ground(canvas, rng)
        ids = set(np.unique(np.asarray(canvas.image.getchannel("A"))))
        assert canvas.image.width == 64 * SUPERSAMPLING and not ids & names


@pytest.mark.parametrize("kind", KINDS)
def test_image_and_mask_are_aligned(kind: str) -> None:
    """Edges of the image are stronger along the mask's borders than beside them."""
    on, off = [], []
    for i in range(12):
        image, mask = generate(11, i, KINDS[kind].size, kind)
        grey = image.astype(float).mean(2)
        step = np.abs(np.diff(grey, axis=1))
        border = np.diff(mask.astype(int), axis=1) != 0
        moved = np.roll(border, 6, axis=1) & ~border
        on.append(step[border].mean())
        off.append(step[moved].mean())
    assert np.mean(on) > 2 * np.mean(off)


def test_class_is_not_a_color() -> None:
    """Mean colours of a class spread over the scenes further than the classes' means differ."""
    means = {name: [] for name in ("road", "sidewalk", "building")}
    for i in range(30):
        image, mask = generate(13, i)
        for name, values in means.items():
            if (mask == ID[name]).sum() > 50:
                values.append(image[mask == ID[name]].mean(0))
    spread = np.mean([np.std(values, axis=0).mean() for values in means.values()])
    centres = np.array([np.mean(values, axis=0) for values in means.values()])
    assert spread > centres.std(0).mean()


def test_camera_and_ground_agree() -> None:
    camera = Camera(focal=600, center=300, horizon=150, height=1.5, x=1.0, curve=0.001)
    first, x, z = camera.ground((160, 320))
    points = np.stack((x, np.zeros_like(x), np.broadcast_to(z, x.shape)), -1)
    place = camera.project(points)
    rows, columns = np.mgrid[first:160, 0:320]
    assert np.allclose(place[..., 0] / 2, columns + 0.5, atol=0.05)
    assert np.allclose(place[..., 1] / 2, rows + 0.5, atol=0.01)
    point = camera.point(*points[40, 7].tolist())
    assert np.allclose(point, place[40, 7], atol=1e-3)


def test_majority() -> None:
    blocks = {(1, 2, 2, 3): 2, (1, 2, 3, 4): 1, (5, 6, 6, 6): 6, (1, 2, 3, 3): 3, (4, 4, 2, 4): 4}
    for block, expected in blocks.items():
        assert _majority(np.array(block).reshape(2, 2))[0, 0] == expected, block


@pytest.mark.parametrize("name", CLASSES)
def test_object_images(name: str) -> None:
    image = render_object(name, np.random.default_rng(4), (72, 64))
    again = render_object(name, np.random.default_rng(4), (72, 64))
    other = render_object(name, np.random.default_rng(5), (72, 64))
    assert image.shape == (72, 64, 3) and image.dtype == np.uint8
    assert np.array_equal(image, again) and not np.array_equal(image, other)
    assert image.std() > 3


def test_dataset_folder(tmp_path: Path) -> None:
    out = tmp_path / "a b" / "scenes"
    counts = {"train": 5, "val": 2}
    write_dataset(out, counts, seed=4, size=(48, 96))
    folder, classes = Folder(out), load_classes(out / "classes.yaml")
    labels = read_image_labels(out / "image_labels.json", len(classes))
    assert folder.splits() == ["train", "val"]
    names = [name for split in counts for name in folder.images(split)]
    assert len(names) == 7 and sorted(labels) == sorted(names)  # no name in two splits
    for split, count in counts.items():
        images, ground_truth = folder.images(split), folder.ground_truth(split)
        assert len(images) == count and list(images) == list(ground_truth)
        for i, name in enumerate(images):
            image, mask = generate(4, FIRST_INDEX[split] + i, (48, 96))
            assert np.array_equal(folder.read_ground_truth(ground_truth[name]), mask)
            assert np.abs(read_image(images[name]).astype(int) - image).mean() < 6  # JPEG
            assert labels[name] == tuple(np.unique(mask))


def test_dataset_goes_on_and_refuses_others(tmp_path: Path, monkeypatch: object) -> None:
    write_dataset(tmp_path, {"train": 3}, seed=1, size=(32, 64))
    files = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}
    (tmp_path / "masks/train/train_000001.png").unlink()
    (tmp_path / "image_labels.json").unlink()
    drawn = []
    monkeypatch.setattr(
        synthetic, "generate", lambda *which: drawn.append(which) or generate(*which)
    )
    write_dataset(tmp_path, {"train": 3}, seed=1, size=(32, 64))
    assert drawn == [(1, 1, (32, 64), "streets")]
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == files
    with pytest.raises(InputError, match="seed: 1 -> 2"):
        write_dataset(tmp_path, {"train": 3}, seed=2, size=(32, 64))
    (tmp_path / "meta.json").unlink()
    with pytest.raises(InputError, match="holds something else"):
        write_dataset(tmp_path, {"train": 3}, seed=1, size=(32, 64))


def test_things_are_a_folder_of_their_own(tmp_path: Path) -> None:
    out = str(tmp_path / "things")
    arguments = ["--kind", "things", "--root", out, "--count", "train=4", "--workers", "0"]
    synthetic.main(arguments)
    files = {p: p.read_bytes() for p in Path(out).rglob("*") if p.is_file()}
    (Path(out) / "images/train/train_000002.jpg").unlink()
    synthetic.main(arguments)
    assert {p: p.read_bytes() for p in Path(out).rglob("*") if p.is_file()} == files
    classes = load_classes(f"{out}/classes.yaml")
    labels = read_image_labels(f"{out}/image_labels.json", len(classes))
    assert classes.names == THING_CLASSES and len(labels) == 4
    for name, mask in Folder(out).ground_truth("train").items():
        assert labels[name] == tuple(np.unique(read_mask(mask)))
    meta = json.loads((Path(out) / "meta.json").read_text())
    assert meta["kind"] == "things" and meta["version"] == 1 and meta["size"] == [128, 128]
    with pytest.raises(InputError, match="holds other scenes.*kind"):
        synthetic.main(arguments[2:])
    with pytest.raises(InputError, match="holds other scenes.*seed"):
        synthetic.main([*arguments, "--seed", "1"])


def test_dataset_is_the_same_for_any_number_of_processes(tmp_path: Path) -> None:
    for workers in (0, 2):
        write_dataset(tmp_path / str(workers), {"val": 4}, 9, (32, 64), num_workers=workers)
    one, two = (
        {p.relative_to(root): p.read_bytes() for p in root.rglob("*") if p.is_file()}
        for root in (tmp_path / "0", tmp_path / "2")
    )
    assert one == two and len(one) == 4 * 2 + 3
    meta = json.loads((tmp_path / "0/meta.json").read_text())
    assert meta["seed"] == 9 and meta["classes"] == list(CLASSES)


def test_bad_requests(tmp_path: Path) -> None:
    for bad in (
        lambda: generate(-1, 0),
        lambda: generate(0, -1),
        lambda: generate(0, 0, (8, 320)),
        lambda: render_object("bus", np.random.default_rng(0)),
        lambda: write_dataset(tmp_path, {"training": 3}),
        lambda: write_dataset(tmp_path, {"train": 0}),
        lambda: write_dataset(tmp_path, {}),
    ):
        with pytest.raises(InputError):
            bad()
    assert not list(tmp_path.iterdir())
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(InputError, match="holds something else"):
        write_dataset(file, {"train": 1})


def test_masks_are_read_back_as_ids(tmp_path: Path) -> None:
    write_dataset(tmp_path, {"test": 1}, size=(40, 80))
    (file,) = Folder(tmp_path).ground_truth("test").values()
    assert np.array_equal(read_mask(file), generate(0, FIRST_INDEX["test"], (40, 80))[1])


def test_prepare_data_writes_scenes_that_pass_its_own_check(tmp_path) -> None:
    root = str(tmp_path / "scenes")
    synthetic.main(["--root", root, "--count", "train=2", "val=1", "--workers=0"])
    labels = f"{root}/image_labels.json"
    checked = ["folder", "--root", root, "--class-file", f"{root}/classes.yaml"]
    prepare_data.main([*checked, "--labels", labels, "--check", "--workers=0"])
    with pytest.raises(InputError, match="expected split=number"):
        synthetic.main(["--root", root, "--count", "train"])


def test_the_check_finds_nothing_in_the_scenes(tmp_path, capsys):
    root = str(tmp_path / "scenes")
    synthetic.main(["--root", root, "--count", "train=6", "val=2"])
    labels = ["--labels", f"{root}/image_labels.json", "--config", "demo/config.yaml"]
    prepare_data.main(["folder", "--root", root, "--check", *labels, "--workers", "0"])
    problems = [s for s in capsys.readouterr().out.splitlines() if "no training image has" not in s]
    assert problems[1] == "8 images checked, 0 problems, 1 warnings" or problems[1].endswith(
        "0 problems"
    )
