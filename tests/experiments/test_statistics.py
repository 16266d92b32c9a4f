"""Counts of image-level labels and Fig. 1: what is drawn is what was counted."""

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import test_object_labels
import yaml
from conftest import shared_data

from datasets.doctor.statistics import count_labels, statistics
from datasets.labels import load_classes
from experiments.figures.statistics import Labels, _draw, binned_ratios, draw, read_source
from experiments.figures.style import WIDTH
from utils.config import load_config
from utils.safe.errors import InputError

LABELS = [(0, 1), (0, 1, 2), (0,), (0, 2), ()]  # of four classes; the last is nowhere


def test_counts_by_hand():
    counts = count_labels(LABELS, 4)
    assert counts.by_number.tolist() == [1, 1, 2, 1, 0]
    assert counts.positive.tolist() == [4, 2, 2, 0]
    assert counts.together.tolist() == [[4, 2, 2, 0], [2, 2, 1, 0], [2, 1, 2, 0], [0, 0, 0, 0]]
    assert counts.num_images == 5 and counts.mean_classes == 8 / 5
    # 0 with 1, 2, 3; then 1 with 0, 2, 3; then 2 with 0, 1, 3; none for 3
    assert counts.co_occurrence_ratios().tolist() == [0.5, 0.5, 0, 1, 0.5, 0, 1, 0.5, 0]


def test_counts_are_those_of_a_plain_loop():
    rng = np.random.default_rng(0)
    labels = [tuple(np.flatnonzero(rng.random(9) < 0.4).tolist()) for _ in range(200)]
    counts = count_labels(labels, 9)
    for i in range(9):
        for j in range(9):
            assert counts.together[i, j] == sum(i in ids and j in ids for ids in labels)


def test_text_of_the_statistics(tmp_path):
    (tmp_path / "c.yaml").write_text("classes: [road, car, sky, tram]")
    classes = load_classes(tmp_path / "c.yaml")
    lines = [line.split() for line in statistics(LABELS, classes).splitlines()]
    assert " ".join(lines[0]) == "5 images, 1.60 classes per image"
    assert lines[2:6] == [["0", "1"], ["1", "1"], ["2", "2"], ["3", "1"]]
    expected = ("road 4 1", "car 2 3", "sky 2 3", "tram 0 5")
    assert lines[7:] == [line.split() for line in expected]
    assert statistics([], classes) == "no images with labels"


@pytest.mark.parametrize("both", range(1, 21))
def test_a_ratio_on_the_edge_of_a_bin_is_in_the_bin_it_begins(both):
    labels = [(0, 1)] * both + [(0,)] * (20 - both) + [(1,)] * 1000
    bins = binned_ratios(count_labels(labels, 2))
    assert bins.sum() == 2 and bins[min(both, 19)] >= 1


def folder_data(tmp_path: Path) -> Path:
    """A config on three training images and one other, with labels of all."""
    for name in ("train/a", "train/b", "train/c", "val/d"):
        file = tmp_path / f"data/images/{name}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"never opened")
    labels = {"a": [0, 1], "b": [0], "c": [0, 1], "d": [2]}
    (tmp_path / "data/labels.json").write_text(json.dumps(labels))
    (tmp_path / "data/classes.yaml").write_text("classes: [road, car, sky]")
    values = load_config("configs/tiny_cpu.yaml").to_dict() | {
        "data_root": str(tmp_path / "data"),
        "class_file": str(tmp_path / "data/classes.yaml"),
        "image_labels": str(tmp_path / "data/labels.json"),
    }
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


def sources(tmp_path: Path) -> dict[str, str]:
    voc = test_object_labels.make_voc(tmp_path / "VOC2012")
    coco = tmp_path / "instances_train2014.json"
    coco.write_text(json.dumps(test_object_labels.coco_content()))
    labels = tmp_path / "labels.json"
    labels.write_text('{"x/a": [0, "car"], "x/b": ["road"]}')
    config = folder_data(tmp_path)
    return {
        "config": str(config),
        "shipped": f"cityscapes:{labels}",
        "own": f"{tmp_path}/data/classes.yaml:{tmp_path}/data/labels.json",
        "voc": f"voc:{voc}",
        "coco": f"coco:{coco}",
    }


@pytest.mark.parametrize(
    ("kind", "title", "num_images", "classes", "positive"),
    [
        ("config", "data", 3, 3, {"road": 3, "car": 2, "sky": 0}),  # without the one of val
        ("shipped", "Cityscapes", 2, 19, {"road": 2, "car": 1}),
        ("own", "classes", 4, 3, {"road": 3, "car": 2, "sky": 1}),
        ("voc", "PASCAL VOC", 2, 20, {"aeroplane": 1, "person": 1, "tvmonitor": 1, "cat": 0}),
        ("coco", "MS COCO", 3, 2, {"person": 1, "toothbrush": 2}),
    ],
)
def test_sources(tmp_path, kind, title, num_images, classes, positive):
    found = read_source(sources(tmp_path)[kind])
    assert (found.title, found.counts.num_images, len(found.names)) == (title, num_images, classes)
    counted = dict(zip(found.names, found.counts.positive, strict=True))
    assert {name: counted[name] for name in positive} == positive


def test_bars_are_the_counts_and_so_is_the_data(tmp_path):
    """The heights of all bars, of the image and of the JSON beside it."""
    given = sources(tmp_path)
    figure = draw([given["config"], given["coco"], given["voc"]], tmp_path / "out")[0]
    assert [path.name for path in figure.images] == [
        "fig1_statistics.png",
        "fig1_statistics_2.png",
    ]
    assert all(path.with_suffix(".svg").is_file() for path in figure.images)
    assert "images with both / images with the first one" in figure.caption
    assert f"data: training images; MS COCO: images of {tmp_path}" in figure.caption
    content = json.loads(figure.data.read_text())["data_sets"]
    assert [one["num_images"] for one in content] == [3, 3, 2]
    assert content[0]["images_by_number_of_classes"] == [0, 1, 2, 0]
    assert content[0]["classes"]["car"] == {"positive": 2, "negative": 1}
    assert sum(content[0]["pairs_by_co_occurrence_ratio"]) == 4  # sky has no image
    assert figure.tables[0].splitlines()[2].split(" | ")[:4] == ["| data", "3", "3", "1.7"]
    assert figure.tables[0].splitlines()[2].endswith("| 0 % | 50 % | road |")

    sets = [read_source(given["config"]), read_source(given["coco"])]
    image = _draw(sets, sets, WIDTH)
    axes = [part for part in image.get_axes() if part.patches]
    heights = [[bar.get_height() for bar in part.patches] for part in axes]
    assert heights[0] == content[0]["images_by_number_of_classes"]
    assert heights[1] == content[1]["images_by_number_of_classes"]
    assert heights[2] == content[0]["pairs_by_co_occurrence_ratio"]
    assert heights[4] == [3, 2, 0, 0, 1, 3]  # positive, then negative on top of it
    assert [bar.get_y() for bar in axes[4].patches] == [0, 0, 0, 3, 2, 0]
    assert [label.get_text() for label in axes[4].get_xticklabels()] == ["road", "car", "sky"]
    assert axes[0].get_xlim() == axes[1].get_xlim() and axes[2].get_xlim() == axes[3].get_xlim()


@pytest.mark.parametrize("sizes", [(19, 11), (80, 20), (80, 80), (12,)])
def test_class_names_do_not_overlap(sizes):
    rng = np.random.default_rng(0)
    sets = []
    for size in sizes:
        labels = [tuple(np.flatnonzero(rng.random(size) < 0.2).tolist()) for _ in range(50)]
        names = tuple(f"traffic sign {i}" for i in range(size))
        sets.append(Labels("x", "images", names, count_labels(labels, size)))
    image = _draw(sets, sets, WIDTH)
    image.canvas.draw()
    whole = image.get_window_extent()
    for axes in image.get_axes():
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        if axes.get_xticklabels()[0].get_rotation() == 90:
            assert len(boxes) in sizes
            assert all(a.x1 <= b.x0 + 0.5 for a, b in pairwise(boxes))
            assert all(whole.y0 <= box.y0 and whole.x0 <= box.x0 for box in boxes)


def test_what_is_not_there_is_named_with_its_command(tmp_path):
    config = folder_data(tmp_path)
    (tmp_path / "data/labels.json").unlink()
    figure = draw([str(config), sources(tmp_path / "more")["voc"]], tmp_path / "out")[0]
    assert len(figure.images) == 1
    (missing,) = figure.missing
    assert missing.what == "the image-level labels of data"
    assert missing.command == (
        f"python prepare_data.py folder --root {tmp_path}/data "
        f"--class-file {tmp_path}/data/classes.yaml --out {tmp_path}/data/labels.json"
    )
    nothing = draw(["configs/cityscapes.yaml"], tmp_path / "none")[0]
    assert nothing.images == () and "data/cityscapes" in nothing.missing[0].what
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere.yaml", "no config file at nowhere.yaml"),
        ("cityscape:labels.json", "no class file at cityscape"),
        ("cityscapes:labels.json", "no image labels at labels.json"),
        ("voc:nowhere", "no nowhere; expected VOC2012"),
    ],
)
def test_sources_that_are_wrong(tmp_path, source, message):
    with pytest.raises(InputError, match=message):
        draw([source], tmp_path)


def test_labels_of_other_images_are_refused(tmp_path):
    config = folder_data(tmp_path)
    (tmp_path / "data/labels.json").write_text('{"d": [0]}')
    with pytest.raises(InputError, match="no label of the 3 images in 'train'.*prepare_data.py"):
        read_source(str(config))


def test_real_camvid_has_road_and_car_everywhere(tmp_path):
    """What the paper reads off its figure: road and car in all images, eight or more classes."""
    values = load_config("configs/camvid.yaml").to_dict() | {
        "data_root": str(shared_data("camvid")),
        "image_labels": str(shared_data("image_labels") / "camvid.json"),
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    _, _, names, counts = read_source(str(tmp_path / "config.yaml"))
    always = [n for n, p in zip(names, counts.positive, strict=True) if p == 367]
    assert counts.num_images == 367 and always == ["road", "car"]
    assert counts.by_number[8:].sum() / 367 > 0.95
