"""Region clustering: the equations by hand; training and masks as a user makes them."""

import itertools
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import test_kill
import test_sec
import test_support_net
import tiny
import torch
from PIL import Image
from test_kill import assert_same_files, assert_same_run

import eval as evaluation
from baselines import clustering as method
from models import region_labels
from models.cam import with_background
from models.region_clusters import kmeans, moments, nearest, whitened, whitening
from models.region_labels import (
    alike,
    cluster_means,
    first_labels,
    membership,
    refined_labels,
    tag_scores,
)
from models.superpixels import (
    lab,
    map_means,
    region_features,
    region_means,
    superpixels,
)
from utils.checkpoint import load_checkpoint
from utils.config import load_config
from utils.safe.errors import InputError, InputWarning

scripts = test_kill.scripts
STEPS = ("steps=6", "checkpoint_every=1", "log_every=1", "batch_size=2")
TRAIN = {"t0": [0, 1], "t1": [0, 1], "t2": [1, 2], "t3": [1, 2], "t4": [0, 2], "t5": [0, 2]}
PARTS = ("labels_1", "labels_2", "labels_3")


# ---- regions


def draws(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_lab_of_known_colours() -> None:
    colours = torch.tensor([[255, 255, 255], [0, 0, 0], [255, 0, 0], [0, 0, 255], [119] * 3])
    found = lab(colours.T[:, None].to(torch.uint8))[:, 0].T
    expected = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [50, 0, 0]]
    assert torch.allclose(found, torch.tensor(expected), atol=0.05)


def test_superpixels_follow_an_edge() -> None:
    """Two centres, columns 0 to 3 and 4 to 7; the white column 3 is nearer to the white centre."""
    image = torch.zeros(3, 4, 8, dtype=torch.uint8)
    image[:, :, 3:] = 255
    assert superpixels(image, 2, 10, 1, 10).tolist() == [[0, 0, 0, 1, 1, 1, 1, 1]] * 4


def slic_by_hand(image: torch.Tensor, cells: tuple[int, int], side: tuple[int, int], m: float):
    """Three iterations, pixel by pixel; m: of the places."""
    colours, (height, width) = lab(image).double().numpy(), image.shape[-2:]
    pixels = [(*colours[:, y, x], m * y, m * x) for y in range(height) for x in range(width)]
    pixels = np.array(pixels).reshape(height, width, 5)
    home = {(y, x): (y // side[0], x // side[1]) for y, x in np.ndindex(height, width)}
    grid = list(np.ndindex(cells))
    own = dict(home)
    for _ in range(4):
        centres = {c: np.mean([pixels[p] for p in own if own[p] == c], 0) for c in grid}
        for p, (row, column) in home.items():
            near = [c for c in grid if abs(c[0] - row) < 2 and abs(c[1] - column) < 2]
            own[p] = min(near, key=lambda c: ((pixels[p] - centres[c]) ** 2).sum())
    return [[own[y, x] for x in range(width)] for y in range(height)]


def test_superpixels_equal_those_by_hand() -> None:
    """14 x 22 pixels of 24 regions: spacing 3.58, 4 x 6 cells of 4 x 4, the last ones cut off."""
    image = torch.randint(0, 256, (3, 4, 6), generator=draws(1)).float()
    image = torch.nn.functional.interpolate(image[None], (14, 22), mode="bilinear")[0].byte()
    found = superpixels(image, 24, 10, 2, 3)
    expected = slic_by_hand(image, (4, 6), (4, 4), 10 / math.sqrt(14 * 22 / 24))
    ids = {c: i for i, c in enumerate(sorted({c for row in expected for c in row}))}
    assert found.tolist() == [[ids[c] for c in row] for row in expected]


@pytest.mark.parametrize("size", [(40, 56), (7, 200), (1, 1), (9, 8)])
def test_superpixels_of_any_size(size: tuple[int, int]) -> None:
    image = torch.randint(0, 256, (3, *size), generator=draws()).byte()
    found = superpixels(image, 400, 10, 8, 10)
    count = int(found.max()) + 1
    assert found.shape == size and found.unique().tolist() == list(range(count))
    assert count <= max(1, size[0] * size[1] / 30)
    assert torch.equal(found, superpixels(image, 400, 10, 8, 10))


def test_means_of_regions() -> None:
    """A map of 1 x 2 cells on 2 x 4 pixels; region 0 has three pixels of cell 0 and one of 1."""
    regions = torch.tensor([[0, 0, 1, 1], [0, 1, 0, 1]])
    maps = torch.tensor([[[8.0, 4.0]], [[0.0, 1.0]]])
    assert region_means(maps, regions).tolist() == [[7, 0.25], [5, 0.75]]
    features = region_features(maps, regions, 0.5)
    y, x = (0.25 + 0.25 + 0.75 + 0.75) / 4, (0.125 + 0.375 + 0.125 + 0.625) / 4
    assert torch.allclose(features[0], torch.tensor([7, 0.25, y / 2, x / 2]))
    large = maps.repeat_interleave(6, 1).repeat_interleave(6, 2)
    assert torch.allclose(map_means(large, regions, 2), region_means(maps, regions))
    constant = region_means(torch.full((3, 5, 7), 2.5), torch.arange(99).reshape(9, 11) // 10)
    assert torch.allclose(constant, torch.full((10, 3), 2.5))


def test_the_background_has_what_the_other_maps_leave() -> None:
    cams = torch.tensor([[[0.2, 0.9]], [[0.5, 0.0]]])
    assert torch.allclose(with_background(cams)[0], torch.tensor([[0.5, 0.1]]))
    assert torch.equal(with_background(cams)[1:], cams)


# ---- clusters


def test_whitening() -> None:
    """Four points: variance 4 along (3, 4) / 5, 1 across; a third coordinate that is constant."""
    along, across = torch.tensor([0.6, 0.8, 0]), torch.tensor([-0.8, 0.6, 0])
    place = [(s * 2 * 2**0.5 * along) for s in (1, -1)] + [s * 2**0.5 * across for s in (1, -1)]
    points = torch.stack(place) + torch.tensor([1.0, 2.0, 3.0])
    parts = [moments(points[:1]), moments(points[1:])]
    mean, matrix = whitening(*(sum(x) for x in zip(*parts, strict=True)), 64)
    assert torch.allclose(mean, torch.tensor([1.0, 2.0, 3.0]))
    assert matrix.shape == (3, 2), "the constant coordinate is gone"
    expected = torch.stack([along / 2, across], 1)
    assert torch.allclose(matrix * matrix[0].sign() * expected[0].sign(), expected, atol=1e-5)
    assert whitening(*moments(points), 1)[1].shape == (3, 1)
    noise = torch.randn(500, 6, generator=draws()) @ torch.randn(6, 6, generator=draws(1))
    mean, matrix = whitening(*moments(noise), 6)
    assert torch.allclose(((noise - mean) @ matrix).T.cov(correction=0), torch.eye(6), atol=1e-3)
    assert torch.allclose(whitened(noise, mean, matrix).norm(dim=1), torch.ones(500))


@pytest.mark.parametrize("seed", range(4))
def test_kmeans_finds_groups_that_are_far_apart(seed: int) -> None:
    corners = torch.tensor([[0.0, 0], [10, 0], [0, 10]])
    offsets = torch.tensor([[0.1, 0], [-0.1, 0], [0, 0.1], [0, -0.1]])
    points = (corners[:, None] + offsets).flatten(0, 1)
    centres = kmeans(points, 3, 20, draws(seed))
    assert torch.allclose(centres[centres.sum(1).sort().indices[:1]], corners[:1], atol=1e-5)
    assert sorted(centres.round(decimals=3).tolist()) == sorted(corners.tolist())
    assert torch.equal(centres, kmeans(points, 3, 20, draws(seed)))
    ids, distances = nearest(points, centres)
    assert ids.bincount().tolist() == [4, 4, 4]
    assert torch.allclose(distances, torch.full((12,), 0.01), atol=1e-5)


def test_kmeans_never_gets_worse() -> None:
    points = torch.randn(300, 4, generator=draws(5))
    sums = [nearest(points, kmeans(points, 12, n, draws(1)))[1].sum() for n in range(12)]
    assert all(later <= earlier * (1 + 1e-6) for earlier, later in itertools.pairwise(sums))
    assert sums[-1] < sums[0]


def test_empty_clusters_move_to_the_farthest_points(monkeypatch) -> None:
    """Both centres start at 0: one is empty, and moves to the point farthest from 0."""
    start = lambda points, k, generator: torch.zeros(k, 1)  # noqa: E731
    monkeypatch.setattr("models.region_clusters._plus_plus", start)
    points = torch.tensor([[0.0], [1.0], [2.0], [9.0]])
    assert kmeans(points, 2, 1, draws()).flatten().tolist() == [3, 9]
    assert kmeans(points, 2, 2, draws()).flatten().tolist() == [1, 9]


def test_kmeans_of_few_or_equal_points() -> None:
    points = torch.tensor([[1.0, 2], [3, 4]])
    assert sorted(kmeans(points, 10, 20, draws()).tolist()) == points.tolist()
    same = torch.ones(5, 2)
    assert kmeans(same, 3, 20, draws()).isfinite().all()


def test_the_scores_of_tags_by_hand() -> None:
    """Cluster 0 has images 0 and 1, cluster 1 image 2. Class 0 is in each image, 1 in the first."""
    members = membership(torch.tensor([0, 0, 1, 0]), torch.tensor([0, 1, 2, 0]), 2, 3)
    assert members.tolist() == [[1, 1, 0], [0, 0, 1]]
    tags = torch.tensor([[1.0, 1], [1, 0], [1, 0]])
    found = tag_scores(members, tags, 0.05)
    has, lacks = math.log(0.95 * 3), math.log(0.05 * 3 / 2)
    expected = [[0, has + lacks], [0, lacks]]  # p_0 is cut to 0.95
    assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64), atol=1e-6)


def test_a_class_that_is_in_every_image_has_score_0() -> None:
    """So it does not depend on the cluster: tags say nothing about it."""
    tags = torch.randint(0, 2, (30, 4), generator=draws(2)).float()
    tags[:, 2] = 1
    clusters, images = torch.randint(0, 6, (200,)), torch.randint(0, 30, (200,))
    scores = tag_scores(membership(clusters, images, 6, 30), tags, 0.05)
    assert torch.allclose(scores[:, 2], torch.zeros(6, dtype=torch.float64), atol=1e-6)


def test_means_of_clusters() -> None:
    values = torch.tensor([[1.0, 0], [3, 0], [5, 2]])
    assert cluster_means(values, torch.tensor([0, 0, 2]), 3).tolist() == [[2, 0], [0, 0], [5, 2]]


def test_classes_of_the_same_images() -> None:
    tags = torch.tensor([[1.0, 1, 1, 0], [1, 0, 1, 1]])
    assert alike(tags) == [[0, 2]] and alike(tags[:, :2]) == []


def test_the_first_labels() -> None:
    """Four images: a lead below 0.4 gives no label; only present classes count."""
    scores = torch.tensor([[1.0, 0.5, 9], [1, 0.61, 9], [0.2, 0.6, 9], [-2, -9, 0]])
    counts = torch.full((4,), 4.0)
    found = first_labels(scores, counts, torch.tensor([1.0, 1, 0]), 0.1)
    assert found.tolist() == [0, 255, 1, 0]
    assert first_labels(scores, counts, torch.tensor([0.0, 1, 0]), 0.1).tolist() == [1] * 4
    each = torch.tensor([[1.0, 1, 0], [1, 0, 0], [0, 0, 1], [1, 0, 1]])
    assert first_labels(scores, counts, each, 0.1).tolist() == [0, 0, 2, 2]


def test_the_refined_labels() -> None:
    """log pi + Lambda / |I|, two images a cluster, class 2 absent."""
    pi = torch.tensor([[0.55, 0.2, 0.25], [0.65, 0.05, 0.3], [0.6, 0.1, 0.3], [0.3, 0.2, 0.5]])
    scores = torch.tensor([[0.0, 1, 99], [0, 1, 99], [0, 6, 99], [4, 0, 99]])
    found = refined_labels(pi, scores, torch.full((4,), 2.0), torch.tensor([1.0, 1, 0]), 0.6)
    # 0: they disagree, 0.55 is not sure; 1: they disagree, 0.65 is sure, log 13 > 0.5;
    # 2: 0.6 is sure, log 6 < 3; 3: both say 0, sure or not
    assert found.tolist() == [255, 0, 1, 0]


# ---- as a user runs it


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """Three classes, two images of each pair of them, and maps that are the ground truth."""
    folder = tmp_path_factory.mktemp("clustering")
    test_support_net.make_data(folder, ["road", "car", "sky"], TRAIN | {"v0": [0, 2], "v1": [1]})
    return test_sec.make_maps(folder)


def arguments(world: Path, out: Path, *more: str) -> list[str]:
    config = ["--config", str(world / "config.yaml"), "--device", "cpu", "--set", *STEPS]
    return [*config, "--run-dir", str(out / "run"), "--out", str(out / "masks"), *more]


def run(world: Path, out: Path, *more: str) -> Path:
    method.main(arguments(world, out, *more))
    return out


@pytest.fixture(scope="module")
def whole(world) -> Path:
    return run(world, world / "whole", "--score")


def accuracy(world: Path, masks: Path) -> float:
    """Share of the labelled pixels of the training masks that are right."""
    right, labelled = 0, 0
    for name in TRAIN:
        mask = np.asarray(Image.open(masks / f"{name}.png"))
        truth = np.asarray(Image.open(world / f"data/masks/train/{name}.png"))
        right, labelled = right + (mask == truth).sum(), labelled + (mask != 255).sum()
    return right / labelled


def assert_same(one: Path, other: Path) -> None:
    for part in ("run", "run/round_1", "run/round_2"):
        assert_same_run(one / part, other / part)
    for part in (*(f"run/{labels}" for labels in PARTS), "masks"):
        assert_same_files(one / part, other / part)


def test_three_rounds_and_masks(world, whole) -> None:
    ends = {"run/round_1": 2, "run/round_2": 2, "run": 2}
    rates = []
    for part, end in ends.items():
        content = load_checkpoint(whole / part / "last.pt")
        assert (content["stage"], content["step"]) == ("clustering", end)
        lines = tiny.read_metrics(whole / part)
        assert all(0 < line["labelled_fraction"] <= 1 for line in lines)
        rates += [line["lr"] for line in lines]
    assert rates == sorted(rates, reverse=True) and len({*rates}) == 6, "one schedule"
    config = load_config(whole / "run/config.yaml")
    assert (config.classifier, config.image_size) == ("conv", config.crop_size)
    for t, part in enumerate((*(f"run/{labels}" for labels in PARTS), "masks"), 1):
        made_from = json.loads((whole / part / "meta.json").read_text())["made_from"]
        assert (made_from["method"], made_from["round"]) == ("clustering", t)
        assert made_from["cams"] is None
        for name, ids in TRAIN.items():
            mask = np.asarray(Image.open(whole / part / f"{name}.png"))
            assert mask.shape == test_support_net.SIZE and {*np.unique(mask)} <= {*ids, 255}
    scores = json.loads((whole / "masks/score.json").read_text())
    assert scores["num_images"] == 6 and 0 < scores["labelled_pixels"] <= 1
    evaluation.main(
        ["--ckpt", str(whole / "run/last.pt"), "--device", "cpu", "--out", str(whole / "eval")]
    )
    assert json.loads((whole / "eval/metrics.json").read_text())["num_images"] == 2


def test_another_split_has_the_classes_of_its_images(world, whole, tmp_path) -> None:
    shutil.copytree(whole / "run", tmp_path / "run")
    run(world, tmp_path, "--split", "val")
    assert {path.name for path in (tmp_path / "masks").glob("*.png")} == {"v0.png", "v1.png"}
    for name, ids in (("v0", {0, 2, 255}), ("v1", {1})):
        assert {*np.unique(Image.open(tmp_path / f"masks/{name}.png"))} <= ids


def die_at(monkeypatch, name: str, call: int) -> type[BaseException]:
    """A function dies at a call, counted from 0."""

    class Killed(BaseException):
        pass

    module = method if hasattr(method, name) else region_labels
    do: Callable = getattr(module, name)
    calls = iter(range(1000))

    def do_or_die(*given, **more):
        if next(calls) == call:
            raise Killed
        return do(*given, **more)

    monkeypatch.setattr(module, name, do_or_die)
    return Killed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "call"),
    [  # one call of first_labels is for all regions, the others for an image each
        *(("kmeans", 1), ("sgd_step", 3), ("refined_labels", 3), ("refined_labels", 15)),
        *(pytest.param("kmeans", call, marks=pytest.mark.slow) for call in (0, 2, 3)),
        *(pytest.param("sgd_step", call, marks=pytest.mark.slow) for call in (1, 2, 5)),
        pytest.param("first_labels", 4, marks=pytest.mark.slow),
        pytest.param("refined_labels", 10, marks=pytest.mark.slow),
    ],
)
def test_a_run_that_is_killed_goes_on_bit_for_bit(
    world, whole, tmp_path, monkeypatch, name, call
) -> None:
    with monkeypatch.context() as patch:
        killed = die_at(patch, name, call)
        with pytest.raises(killed):
            run(world, tmp_path, "--score")
    assert_same(whole, run(world, tmp_path, "--score"))


def test_a_finished_run_is_skipped(world, whole, tmp_path, monkeypatch, capsys) -> None:
    shutil.copytree(whole, tmp_path / "copy")
    killed = die_at(monkeypatch, "described", 0)
    run(world, tmp_path / "copy", "--score")
    assert "6 masks, 0 of them new" in capsys.readouterr().out
    (tmp_path / "copy/masks/t3.png").unlink()
    with pytest.raises(killed):
        run(world, tmp_path / "copy", "--score")


def test_ground_truth_is_never_read(world, whole, tmp_path) -> None:
    spoilt = test_support_net.make_copy(world, tmp_path / "spoilt")
    for file in (spoilt / "data/masks").rglob("*.png"):
        file.write_bytes(b"rubbish")
    classes = f"class_file={world / 'data/classes.yaml'}"
    other = run(spoilt, tmp_path, "--set", classes)
    weights = [load_checkpoint(folder / "run/last.pt")["model"] for folder in (whole, other)]
    assert all(torch.equal(value, weights[1][key]) for key, value in weights[0].items())
    for name in TRAIN:
        files = [(folder / f"masks/{name}.png").read_bytes() for folder in (whole, other)]
        assert files[0] == files[1]


def always_present(world: Path, folder: Path) -> Path:
    """A copy of the world where each image has road and car, and half of them sky."""
    folder.mkdir()
    images = {f"t{i}": [0, 1, 2] if i % 2 else [0, 1] for i in range(6)}
    test_support_net.make_data(folder, ["road", "car", "sky"], images)
    return test_sec.make_maps(folder)


@pytest.mark.slow
def test_classes_of_every_image_are_named_and_the_maps_break_the_tie(world, tmp_path) -> None:
    folder = always_present(world, tmp_path / "copy")
    with pytest.warns(InputWarning, match=r"same images: road, car; without --cams their") as told:
        run(folder, tmp_path / "tags")
    assert any("classifier of images learns nothing: road, car" in str(x.message) for x in told)
    first = {
        i for n in TRAIN for i in np.unique(Image.open(tmp_path / f"tags/run/labels_1/{n}.png"))
    }
    assert first <= {2, 255}, "what tags can't tell has no label"
    with pytest.warns(InputWarning, match=r"road, car; the maps of --cams decide between them"):
        run(folder, tmp_path / "maps", "--cams", str(folder / "cams"))
    assert accuracy(folder, tmp_path / "maps/run/labels_1") > 0.9
    made_from = json.loads((tmp_path / "maps/masks/meta.json").read_text())["made_from"]
    assert made_from["cams"]["method"] == "cam"
    with pytest.raises(InputError, match=r"other options \(cams:"):
        run(folder, tmp_path / "maps")


def test_with_a_background_class(tmp_path) -> None:
    """Images show the background and one of three things, or none."""
    images = {"t0": [0, 1], "t1": [0, 2], "t2": [0, 3], "t3": [0, 1], "t4": [0, 2], "t5": [0]}
    test_support_net.make_data(tmp_path, ["Background", "cat", "dog", "cup"], images)
    labels = {name: ids[1:] for name, ids in images.items()}  # no tag of the background
    (tmp_path / "data/labels.json").write_text(json.dumps(labels))
    run(tmp_path, tmp_path)
    for name, ids in images.items():
        for part in ("run/labels_1", "masks"):
            mask = np.asarray(Image.open(tmp_path / part / f"{name}.png"))
            assert {*np.unique(mask)} <= {*ids, 255}
    assert (np.asarray(Image.open(tmp_path / "run/labels_1/t5.png")) == 0).all()


@pytest.mark.slow
def test_images_smaller_than_the_crop(world, tmp_path) -> None:
    """A third of each crop is padding, which has no label; masks have the images' own size."""
    run(world, tmp_path, "--set", "crop_size=[48,48]", "steps=3")
    assert Image.open(tmp_path / "masks/t0.png").size == test_support_net.SIZE[::-1]
    shares = [line["labelled_fraction"] for line in tiny.read_metrics(tmp_path / "run")]
    assert max(shares) < 0.8


@pytest.mark.slow
def test_two_processes_make_what_one_makes(world, whole, scripts, tmp_path) -> None:
    command = ["baselines/clustering.py", *arguments(world, tmp_path, "--score")]
    test_kill.finish(scripts, command, ranks=2)
    assert_same_files(whole / "run/labels_1", tmp_path / "run/labels_1")
    assert load_checkpoint(tmp_path / "run/last.pt")["world_size"] == 2
    first = [tiny.read_metrics(out / "run/round_1")[0]["loss"] for out in (whole, tmp_path)]
    assert np.isfinite(first).all()
    assert len(list((tmp_path / "masks").glob("*.png"))) == 6


# ---- bad input


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (None, ("--set", "steps=2"), "'steps' is 2, too few for 3 rounds"),
        (None, ("--set", "norm=group"), "norm: group is for networks that start from nothing"),
        (None, ("--split", "trian"), "no split 'trian'"),
        (None, ("--cams", "data"), r"data has no meta\.json.*baselines.cam --save-cams"),
        (test_support_net.names("road"), (), "class"),
        (test_support_net.labels(lambda x: x | {"t0": []}), (), r"1 images have no class.*'t0'"),
        (test_support_net.labels(lambda x: x | {"v0": []}), ("--split", "val"), r"\(val\): 1 im"),
        (
            test_support_net.labels(lambda x: x | {"t0": [1]}),
            ("--cams", "cams"),
            "made from other data .image_labels_sha256",
        ),
        (
            test_support_net.labels(lambda x: x | {name: [0, 1, 2] for name in TRAIN}),
            (),
            "no region gets a label.*--cams FOLDER",
        ),
        (
            lambda folder: shutil.rmtree(folder / "data/masks"),
            ("--score",),
            "ground truth.*leave out --score",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::utils.safe.errors.InputWarning")
@pytest.mark.filterwarnings("ignore::utils.safe.errors.InputNote")
def test_bad_input_ends_the_run_before_training(
    world, tmp_path, monkeypatch, change, options, told
) -> None:
    folder = test_support_net.make_copy(world, tmp_path / "copy")
    monkeypatch.chdir(folder)
    shutil.rmtree(folder / "whole", ignore_errors=True)
    if change is not None:
        change(folder)
    with pytest.raises(InputError, match=told):
        run(folder, folder, *options)
    assert not (folder / "run").exists() and not (folder / "masks").exists()
