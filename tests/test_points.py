"""Points: their file, what is refused, and the simulated ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import tiny
from conftest import camvid_root

import prepare_data
from datasets import open_dataset
from datasets.components import connected_components, erosion_depth
from datasets.files import File, list_files
from datasets.labels import ClassTable, default_palette, load_classes
from datasets.points import points_of_split, read_points, simulate_points, write_points
from utils.safe.errors import InputError, InputWarning

NAMES = ("road", "traffic light", "Car")
CLASSES = ClassTable(NAMES, tuple((name,) for name in NAMES), default_palette(3))
VOC = ClassTable(("Background", "cat"), (("background",), ("cat",)), default_palette(2))


def save_images(folder: Path, *names: str) -> dict[str, File]:
    """Black images, 20 pixels wide and 10 high."""
    for name in names:
        tiny.save(folder / f"{name}.png", np.zeros((10, 20, 3), np.uint8))
    return list_files(folder)


def written(path: Path, content: object) -> Path:
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


# ---------------------------------------------------------------- the file


def test_a_point_has_a_place_and_a_class_by_id_or_name(tmp_path: Path) -> None:
    content = {"a/1.jpg": [[4, 9, "car"], [17.9, 0.2, 0], [3, 3, "TRAFFIC LIGHT"]], "b": []}
    points = read_points(written(tmp_path / "p.json", content), CLASSES)
    assert points["a/1"].tolist() == [[4, 9, 2], [17, 0, 0], [3, 3, 1]]
    assert points["b"].shape == (0, 3) and points["b"].dtype == np.int64


def test_what_is_written_is_read_back_one_image_a_line_and_sorted(tmp_path: Path) -> None:
    points = {"b/é": np.array([[4, 9, 2], [1, 0, 0]]), "a": np.zeros((0, 3), np.int64)}
    write_points(tmp_path / "new/p.json", points, CLASSES)
    text = (tmp_path / "new/p.json").read_text(encoding="utf-8")
    assert text.splitlines()[1].startswith('"a": []') and len(text.splitlines()) == 4
    assert '[4, 9, "Car"]' in text
    again = read_points(tmp_path / "new/p.json", CLASSES)
    assert all(np.array_equal(points[name], again[name]) for name in points)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["p.json"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": [[1, 2, 3]]}, "image 'a', point 1: expected a class id 0..2.*found 3"),
        ({"a": [[1, 2, 1], [1, 2, 3]]}, "point 2: .*counted from 1"),
        ({"a": [[1, 2, "cra"]]}, "found 'cra'; did you mean 'car'"),
        ({"a": [[1, 2, True]]}, "found True"),
        ({"a": [[1, 2, 1.0]]}, "found 1.0"),
        ({"a": [[1, 2, None]]}, "found None"),
        ({"a": [[1, 2, [0]]]}, r"found \[0\]"),
        ({"a": [[1, 2]]}, r"point 1: expected \[x, y, class\], found \[1, 2\]"),
        ({"a": [7]}, "found 7"),
        ({"a": [{"x": 1}]}, "found {"),
        ({"a": [[-0.5, 2, 0]]}, "not negative, found"),
        ({"a": [["1", 2, 0]]}, "expected x and y in pixels"),
        ({"a": [[True, 2, 0]]}, "expected x and y in pixels"),
        ('{"a": [[NaN, 2, 0]]}', "finite"),
        ('{"a": [[1, 1e999, 0]]}', "finite"),
        ('{"a": [[1, 1' + "0" * 400 + ", 0]]}", "finite"),
        ({"a": [[1, 1, 0]], "a.png": []}, "'a' is listed twice"),
        ('{"a": [], "a": []}', "'a' is listed twice"),
        ({"a": [[1, 1, 0]] * 10_001}, "image 'a': 10001 points; expected at most 10000"),
        ({"a": 3}, "found 3 for 'a'"),
        ({"a": {"b": []}}, "for 'a'"),
        ([], "expected {.*import-points"),
        ({}, "no image in it"),
        ("", "not valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("<!doctype html>", "an HTML page"),
        ("\ufeff{", "not valid JSON"),
    ],
    ids=range(27),
)
def test_a_wrong_file_is_refused(tmp_path: Path, content: object, message: str) -> None:
    path = written(tmp_path / "p.json", content)
    with pytest.raises(InputError, match=message) as error:
        read_points(path, CLASSES)
    assert str(path) in str(error.value)


def test_a_missing_file_is_refused_with_the_command_that_makes_it(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no points at .*--points .*--import-points"):
        read_points(tmp_path / "p.json", CLASSES)


# ---------------------------------------------------------------- points of images


def test_points_come_under_the_ids_of_the_images(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", "a/1", "é", "c", "d.png")
    content = {
        "A\\1.PNG": [[0, 0, 0]],
        "train/e\u0301": [[19, 9, 1]],
        "c": [[5, 5, 2]],
        "d.png.png": [[1, 1, 1]],
        "val/c": [[900, 900, 0]],  # another image, of another size
    }
    points = points_of_split(written(tmp_path / "p.json", content), images, CLASSES)
    expected = {"a/1": [[0, 0, 0]], "c": [[5, 5, 2]], "d.png": [[1, 1, 1]], "é": [[19, 9, 1]]}
    assert {name: rows.tolist() for name, rows in points.items()} == expected
    assert list(points) == list(images)


EACH = [[0, 0, 0], [1, 0, 1], [2, 0, 2]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"a": [*EACH, [20, 0, 0]], "b": EACH}, "'a', point 4: .20, 0. lies outside .*20 .*wide"),
        ({"a": [*EACH, [0, 10, 0]], "b": EACH}, "'a', point 4: .0, 10. lies outside"),
        ({"a": [*EACH, [1, 0, 0]], "b": EACH}, r"pixel \(1, 0\) .*'traffic light' and 'road'"),
        ({"a": EACH, "c": EACH}, "1 of 2 .* no point .*'b' .*'c'.*points --allow-unpointed"),
        ({"a": EACH, "b": []}, "1 of 2 images have no point .*'b'"),
        ({"a": EACH, "train/a": EACH}, "'a' and 'train/a' both mean the image 'a'"),
        ({"./a": EACH, ".//a.png": EACH}, "both mean the image 'a'"),
    ],
    ids=range(7),
)
def test_points_that_do_not_fit_the_images_are_refused(
    tmp_path: Path, content: dict, message: str
) -> None:
    images = save_images(tmp_path / "images", "a", "b")
    with pytest.raises(InputError, match=message):
        points_of_split(written(tmp_path / "p.json", content), images, CLASSES)


def test_images_without_points_can_be_left_out(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", "a", "b")
    path = written(tmp_path / "p.json", {"a": [*EACH, [1, 0, 1]]})
    with pytest.warns(InputWarning, match="1 of 2 images have no point and are left out.*'b'"):
        assert [*points_of_split(path, images, CLASSES, allow_unpointed=True)] == ["a"]
    path = written(tmp_path / "p.json", {"x": EACH})
    with pytest.raises(InputError, match="2 of 2 images have no point"):
        points_of_split(path, images, CLASSES, allow_unpointed=True)


def test_a_class_without_points_gets_a_warning_and_the_background_needs_some(
    tmp_path: Path,
) -> None:
    images = save_images(tmp_path / "images", "a")
    path = written(tmp_path / "p.json", {"a": [[0, 0, 1]]})
    with pytest.warns(InputWarning, match="no point of road, Car"):
        points_of_split(path, images, CLASSES)
    with pytest.raises(InputError, match="'Background'.*point at the background"):
        points_of_split(path, images, VOC)


def test_an_image_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    images = save_images(tmp_path / "images", "a")
    (tmp_path / "images/a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match="size of .*a.png can't be read"):
        points_of_split(written(tmp_path / "p.json", {"a": EACH}), images, CLASSES)


# ---------------------------------------------------------------- components and simulated points


def flood_fill(mask: np.ndarray) -> np.ndarray:
    """`connected_components`, pixel by pixel."""
    found = np.full(mask.shape, -1)
    number = 0
    for start in np.ndindex(mask.shape):
        if found[start] >= 0:
            continue
        left = [start]
        found[start] = number
        while left:
            y, x = left.pop()
            for place in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)):
                inside = 0 <= place[0] < mask.shape[0] and 0 <= place[1] < mask.shape[1]
                if inside and found[place] < 0 and mask[place] == mask[start]:
                    found[place] = number
                    left.append(place)
        number += 1
    return found


def test_components_equal_a_flood_fill() -> None:
    rng = np.random.default_rng(0)
    for number in range(200):
        shape = rng.integers(1, 30, 2)
        values = rng.integers(0, 2 + number % 4, shape).astype(np.uint8)
        assert np.array_equal(connected_components(values), flood_fill(values))
    spiral = np.zeros((41, 41), np.uint8)  # one long component: unions meet many rows later
    for ring in range(0, 20, 2):
        spiral[ring : 41 - ring, ring] = spiral[ring, ring : 41 - ring] = 1
        spiral[40 - ring, ring : 41 - ring] = spiral[ring + 2 : 41 - ring, 40 - ring] = 1
        spiral[ring + 2, ring : ring + 3] = 1
    assert np.array_equal(connected_components(spiral), flood_fill(spiral))


def test_erosions_stop_at_the_edge_of_a_component_and_of_the_image() -> None:
    values = np.zeros((9, 11), int)
    values[:, 9:] = 1
    depth = erosion_depth(values, 3)
    assert depth[4].tolist() == [0, 1, 2, 3, 3, 3, 2, 1, 0, 0, 0]
    assert depth[:, 4].tolist() == [0, 1, 2, 3, 3, 3, 2, 1, 0]


def two_cars() -> np.ndarray:
    """A road (0) with two cars (2) of 49 and 16 pixels, a pixel of class 1, and void."""
    mask = np.zeros((20, 30), np.uint8)
    mask[2:9, 2:9] = 2
    mask[12:16, 20:24] = 2
    mask[0, 29] = 1
    mask[17:, :5] = 255
    return mask


def test_each_component_gets_a_point_of_its_inside() -> None:
    mask = two_cars()
    for seed in range(50):
        x, y, k = simulate_points(mask, "component", 10, np.random.default_rng(seed)).T
        assert k.tolist() == [0, 1, 2, 2] and (mask[y, x] == k).all()
        assert (x[2], y[2]) == (5, 5)  # the only pixel that survives three erosions
        assert 21 <= x[3] <= 22 and 13 <= y[3] <= 14  # those that survive one
        assert (x[1], y[1]) == (29, 0)  # smaller than 10 pixels, but the largest of its class
    assert simulate_points(mask, "component", 20, np.random.default_rng(0))[:, 2].tolist() == [
        *(0, 1, 2)
    ]
    assert len(simulate_points(np.full((4, 4), 255), "component", 1, np.random.default_rng(0))) == 0


def test_one_point_for_each_class_may_lie_in_each_of_its_components() -> None:
    rng = np.random.default_rng(0)
    points = np.stack([simulate_points(two_cars(), "class", 10, rng) for _ in range(100)])
    assert (points[:, :, 2] == [0, 1, 2]).all()
    assert {x < 10 for x in points[:, 2, 0].tolist()} == {True, False}


def test_draws_are_uniform() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((8, 8), np.uint8)  # four pixels survive three erosions
    places = [tuple(simulate_points(mask, "component", 1, rng)[0]) for _ in range(2000)]
    counts = [places.count(place) for place in sorted({*places})]
    assert len(counts) == 4 and min(counts) > 400


def test_points_of_camvid() -> None:
    classes = load_classes("datasets/classes/camvid.yaml")
    dataset = open_dataset("camvid", camvid_root())
    files = [*dataset.ground_truth("train").values()][::10]
    points = [
        simulate_points(dataset.read_ground_truth(file), "component", 50, np.random.default_rng(0))
        for file in files
    ]
    numbers = [len(rows) for rows in points]
    assert 30 < np.mean(numbers) < 45 and min(numbers) >= 5
    assert {k for rows in points for k in rows[:, 2]} == {*range(len(classes))}


# ---------------------------------------------------------------- prepare_data.py


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two training images of blocks of all classes, one for validation, and their masks."""
    rng = np.random.default_rng(0)
    for name in ("train/a", "train/b", "val/c"):
        ids = np.kron(rng.permutation([0, 1, 2] * 2).reshape(2, 3), np.ones((10, 12), int))
        ids[0] = 255
        tiny.save(tmp_path / f"data/masks/{name}.png", ids.astype(np.uint8))
        picture = rng.integers(0, 256, (20, 36, 3), dtype=np.uint8)
        tiny.save(tmp_path / f"data/images/{name}.png", picture)
    (tmp_path / "data/classes.yaml").write_text("classes: [road, traffic light, Car]\n")
    return tmp_path


def prepare(root: Path, *options: object) -> Path:
    """prepare_data.py with --points, the path of which is returned."""
    out = root / "points.json"
    command = ["folder", "--root", root / "data", "--points", out, "--workers", 0, *options]
    prepare_data.main([*map(str, command)])
    return out


def checked(root: Path, capsys: pytest.CaptureFixture, status: int = 0) -> str:
    """What --check says, without what it says of the images and labels."""
    capsys.readouterr()
    if status:
        with pytest.raises(SystemExit):
            prepare(root, "--check")
    else:
        prepare(root, "--check")
    lines = capsys.readouterr().out.splitlines()
    return "\n".join(line for line in lines if "point" in line)


def test_simulated_points_depend_on_seed_id_and_mask_only(root: Path) -> None:
    first = read_points(prepare(root), CLASSES)
    assert first.keys() == {"a", "b"}
    prepare(root)  # the same again
    with pytest.raises(InputError, match="something else than these .* of 2 images.*--overwrite"):
        prepare(root, "--points-seed", 1)
    other = read_points(prepare(root, "--points-seed", 1, "--overwrite"), CLASSES)
    assert not np.array_equal(first["a"][:, :2], other["a"][:, :2])
    for kind in ("images", "masks"):
        (root / f"data/{kind}/train/a.png").unlink()
    again = read_points(prepare(root, "--splits", "val", "train", "--overwrite"), CLASSES)
    assert again.keys() == {"b", "c"} and np.array_equal(again["b"], first["b"])


def test_a_point_for_each_class_and_small_components(root: Path) -> None:
    each = read_points(prepare(root, "--points-per", "class"), CLASSES)
    assert [rows[:, 2].tolist() for rows in each.values()] == [[0, 1, 2]] * 2
    # Components have 108 to 240 pixels, and less than that none: the largest of each class stays.
    large = read_points(prepare(root, "--min-area", 1000, "--overwrite"), CLASSES)
    assert [rows[:, 2].tolist() for rows in large.values()] == [[0, 1, 2]] * 2


def test_points_are_written_with_the_split_where_two_splits_share_a_name(root: Path) -> None:
    for kind in ("images", "masks"):
        (root / f"data/{kind}/val/c.png").rename(root / f"data/{kind}/val/a.png")
    out = prepare(root, "--splits", "train", "val")
    assert read_points(out, CLASSES).keys() == {"train/a", "train/b", "val/a"}
    images = list_files(root / "data/images/train")
    assert points_of_split(out, images, CLASSES).keys() == {"a", "b"}


def test_check_finds_nothing_in_simulated_points(root: Path, capsys: pytest.CaptureFixture) -> None:
    prepare(root, "--splits", "train", "val")
    assert checked(root, capsys) == ""


def test_check_warns_of_points_outside_their_class(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    out = prepare(root)
    points = read_points(out, CLASSES)
    points["b"][0, 2] = (points["b"][0, 2] + 1) % 3
    write_points(out, points, CLASSES)
    total = sum(map(len, points.values()))
    text = checked(root, capsys)
    assert f"warning: {out}: 1 of {total} points lie outside their class" in text
    assert "masks/train/b.png" in text


def test_check_warns_of_points_made_for_a_smaller_image(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    out = prepare(root)
    points = {name: rows // [2, 2, 1] for name, rows in read_points(out, CLASSES).items()}
    write_points(out, points, CLASSES)
    assert "upper left quarters of the images" in checked(root, capsys)


def test_check_names_what_training_refuses(root: Path, capsys: pytest.CaptureFixture) -> None:
    written(root / "points.json", {"a": [[0, 0, 0]], "z": [[0, 0, 0]]})
    text = checked(root, capsys, status=1)
    assert "there are points of 'z', but there is no such image" in text
    assert "1 of 2 images have no point" in text
    written(root / "points.json", {"a": [[0, 0, 0]], "b": [[0, 0, 2]]})
    assert "no point of traffic light" in checked(root, capsys)
    (root / "data/classes.yaml").write_text("classes: [background, traffic light, Car]\n")
    written(root / "points.json", {"a": [[0, 0, 1]], "b": [[0, 0, 2]]})
    assert "point at the background" in checked(root, capsys, status=1)


def test_points_replace_labels_and_masks(root: Path, capsys: pytest.CaptureFixture) -> None:
    prepare(root)
    for path in (root / "data/masks").rglob("*.png"):
        path.unlink()
    assert checked(root, capsys) == ""
    prepare(root, "--stats", "--splits", "train")
    assert "no images with labels" in capsys.readouterr().out


def test_statistics_count_points_per_image_and_class(
    root: Path, capsys: pytest.CaptureFixture
) -> None:
    out = written(root / "points.json", {"a": [[0, 0, 0], [5, 5, 0], [9, 9, 2]], "b": [[1, 1, 2]]})
    content = out.read_bytes()
    prepare(root, "--stats")
    text = capsys.readouterr().out.partition("\nPoints\n")[2]
    assert "train: 2 images with points, 2.0 points per image (1 to 3), 0.278%" in text
    rows = {
        line.rsplit(maxsplit=2)[0].strip(): line.split()[-2:] for line in text.splitlines() if line
    }
    assert rows["road"] == ["2", "1"] and rows["traffic light"] == ["0", "0"]
    assert rows["Car"] == ["2", "2"] and "val: no images with points" in text
    assert out.read_bytes() == content
