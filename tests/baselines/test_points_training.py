"""Training from points: the losses, what is read, what a run leaves, resuming, two processes."""

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import test_kill
import test_point_masks
import torch
import yaml
from test_kill import assert_same_run
from test_point_masks import one_batch, resized
from test_ranks import together
from test_tensorboard import needs_package, pictures
from tiny import read_metrics
from tiny_run import COUNT, SIZE, save

import eval as evaluation
from baselines import points as method
from baselines.points import WEIGHT, distance_scale, point_loss, point_losses
from models.build import build_model
from models.carb import RegionRules, upsample
from models.point_masks import pseudo_mask
from utils.checkpoint import load_checkpoint
from utils.config import load_config
from utils.distributed import Ranks
from utils.safe.errors import InputError

scripts = test_kill.scripts
STEPS = 6


# ---- losses


def log_softmax(values: np.ndarray, axis: int) -> np.ndarray:
    values = values - values.max(axis, keepdims=True)
    return values - np.log(np.exp(values).sum(axis, keepdims=True))


@pytest.mark.parametrize("size", test_point_masks.SIZES)
def test_losses_of_a_batch_are_those_of_plain_arithmetic(size) -> None:
    logits, image, valid, points = one_batch(size)
    mask = pseudo_mask(logits, image, valid, points, 6.0)
    found = point_losses(logits, points, size, mask)
    exact = logits.double().numpy()

    at_points, full = [], log_softmax(resized(exact, size), 1)
    for b, own in enumerate(points):
        for x, y, k in own.tolist():
            column, row = int(np.floor(x + 0.5)), int(np.floor(y + 0.5))
            if 0 <= column < size[1] and 0 <= row < size[0]:
                at_points.append(-full[b, int(k), row, column])
    target, cells = mask.numpy(), log_softmax(resized(exact, tuple(mask.shape[-2:])), 1)
    in_cells = [-cells[b, target[b, i, j], i, j] for b, i, j in np.argwhere(target != 255)]

    assert len(at_points) == 5 and 10 < len(in_cells) < target.size
    loss_points, loss_masks = np.mean(at_points), np.mean(in_cells)
    assert float(found["loss_points"]) == pytest.approx(loss_points, abs=1e-5)
    assert float(found["loss_masks"]) == pytest.approx(loss_masks, abs=1e-5)
    assert float(found["loss"]) == pytest.approx(loss_points + WEIGHT * loss_masks, abs=1e-5)
    shares = [(target == k).mean() for k in range(4)]
    np.testing.assert_allclose(found["class_share"], shares, atol=1e-6)
    assert float(found["labelled_fraction"]) == pytest.approx(np.mean(target != 255), abs=1e-6)


def test_point_loss_is_that_of_the_upsampled_logits() -> None:
    logits, _, _, points = one_batch((13, 18))
    logits.requires_grad_()
    losses = upsample(logits, (13, 18)).log_softmax(1)
    taken = [losses[0, 0, 0, 0], losses[0, 2, 8, 3], losses[0, 2, 11, 15]]
    expected = -torch.stack([*taken, losses[1, 1, 5, 5], losses[1, 3, 6, 5]]).mean()
    found = point_loss(logits, points, (13, 18))
    torch.testing.assert_close(found, expected)
    gradients = [torch.autograd.grad(loss, logits)[0] for loss in (found, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("points", [torch.tensor([[99.0, 2, 1]]), torch.zeros(0, 3)])
@pytest.mark.parametrize("sync", [False, True])
def test_without_a_point_or_a_label_the_loss_and_its_gradient_are_0(points, sync) -> None:
    logits = torch.randn(2, 4, 3, 4, requires_grad=True)
    mask = torch.full((2, 3, 4), 255)
    losses = point_losses(logits, [points, points], (12, 16), mask, RegionRules(sync=sync))
    losses["loss"].backward()
    assert losses["loss"] == 0 and losses["labelled_fraction"] == 0
    assert torch.equal(logits.grad, torch.zeros_like(logits))


def test_the_distance_weight_grows_from_the_start_of_the_masks_on() -> None:
    assert [distance_scale(t, 100, 200) for t in (0, 20)] == [10, 10]
    assert distance_scale(60, 100, 200) == pytest.approx(50)
    assert distance_scale(100, 100, 200) == pytest.approx(90)


# ---- runs


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of three classes in blocks, ground truth, points, a config of STEPS steps."""
    folder = tmp_path_factory.mktemp("points")
    rng = np.random.default_rng(0)
    points = {}
    for split, count in (("train", COUNT), ("val", 2)):
        for i in range(count):
            ids = np.kron(rng.integers(0, 3, (3, 4)), np.ones((SIZE[0] // 3, SIZE[1] // 4), int))
            image = ids[..., None] * 80 + rng.integers(0, 60, (*SIZE, 3))
            save(folder / f"data/images/{split}/t{i}.png", image)
            save(folder / f"data/masks/{split}/t{i}.png", ids)
            if split == "train":
                places = [(4, 4), (12, 20), (28, 12), (20, 4)]
                points[f"t{i}"] = [[x, y, int(ids[y, x])] for x, y in places]
    (folder / "data/classes.yaml").write_text("classes: [road, pole, sky]\n")
    (folder / "data/points.json").write_text(json.dumps(points))
    values = load_config("configs/tiny_cpu.yaml").to_dict() | {
        "data_root": str(folder / "data"),
        "class_file": str(folder / "data/classes.yaml"),
        "image_labels": str(folder / "nowhere.json"),
        "points": str(folder / "data/points.json"),
        "image_size": list(SIZE),
        "crop_size": list(SIZE),
        "steps": STEPS,
        "log_every": 2,
        "carb": False,
        "views": "base",
        "norm": "group",
        "classifier": "conv",
        "output_stride": 4,
        "aspp": "v2",
        "dropout": 0.1,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values))
    return folder


@pytest.fixture(scope="module")
def whole(world) -> Path:
    return run(world, world / "whole")


def arguments(world: Path, run_dir: Path, *more: str) -> list[str]:
    config = ["--config", str(world / "config.yaml"), "--device", "cpu"]
    return [*config, "--run-dir", str(run_dir), *more]


def run(world: Path, run_dir: Path, *more: str) -> Path:
    method.main(arguments(world, run_dir, *more))
    return run_dir


def same_weights(one: Path, other: Path) -> bool:
    models = [load_checkpoint(run_dir / "last.pt")["model"] for run_dir in (one, other)]
    return all(torch.equal(models[0][key], models[1][key]) for key in models[0])


def test_what_a_run_leaves(world, whole, tmp_path) -> None:
    """Masks after the first fifth, and a checkpoint that eval.py scores as it is."""
    content = load_checkpoint(whole / "last.pt")
    assert content["stage"] == "points" and content["step"] == STEPS
    lines = read_metrics(whole)
    keys = {"step", "lr", "loss", "loss_points", "loss_masks", "labelled_fraction"}
    assert set(lines[0]) == keys | {"class_share", "distance_scale", "images_per_second"}
    assert all(
        sum(line["class_share"]) == pytest.approx(line["labelled_fraction"]) for line in lines
    )
    assert [line["loss_masks"] > 0 for line in lines] == [False, True, True]
    ckpt = ["--ckpt", str(whole / "last.pt"), "--device", "cpu", "--out", str(tmp_path / "scores")]
    evaluation.main(ckpt)
    assert json.loads((tmp_path / "scores/metrics.json").read_text())["num_images"] == 2


def test_the_log_line_names_points_and_losses(world, tmp_path, capsys) -> None:
    run(world, tmp_path / "run")
    printed = capsys.readouterr().out
    assert f"24 points of {world / 'data/points.json'}" in printed and "views" not in printed
    last = next(line for line in printed.splitlines() if line.startswith("step 6/6"))
    assert all(f" {name} " in last for name in ("loss", "L_point", "L_mask", "labelled"))


def test_ground_truth_and_image_labels_are_never_read(world, whole, tmp_path) -> None:
    """Spoilt masks change no bit; the config names a file of labels that does not exist."""
    shutil.copytree(world / "data", tmp_path / "data")
    for file in (tmp_path / "data/masks").rglob("*.png"):
        file.write_bytes(b"rubbish")
    spoilt = run(world, tmp_path / "run", "--set", f"data_root={tmp_path / 'data'}")
    assert same_weights(whole, spoilt)


@pytest.mark.parametrize("stop", [2, 3])
def test_a_run_that_is_cut_off_goes_on_bit_for_bit(
    world, whole, tmp_path, monkeypatch, stop
) -> None:
    class Killed(BaseException):
        pass

    def step_or_die(*step) -> None:
        if len(taken) == stop:
            raise Killed
        taken.append(sgd_step(*step))

    taken, sgd_step = [], method.sgd_step
    with monkeypatch.context() as patch:
        patch.setattr(method, "sgd_step", step_or_die)
        with pytest.raises(Killed):
            run(world, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/last.pt")["step"] == 2
    assert_same_run(whole, run(world, tmp_path / "run"))


@pytest.mark.slow
def test_two_processes_end_where_one_does(world, tmp_path) -> None:
    """Up to rounding, with means over both."""
    options = ["--set", "sync_region_stats=true", "dropout=0.0", "steps=4"]
    together(2, in_one_of_two, arguments(world, tmp_path / "two", *options))
    two = load_checkpoint(tmp_path / "two/last.pt")
    assert two["world_size"] == 2 and two["step"] == 4
    alone = load_checkpoint(run(world, tmp_path / "one", *options) / "last.pt")
    for key, value in alone["model"].items():
        torch.testing.assert_close(two["model"][key], value, atol=1e-4, rtol=0)


def in_one_of_two(_: Ranks, command: list[str]) -> None:
    method.main(command)


@pytest.mark.parametrize(
    "options", [["--without", "refinement"], ["--without", "distance"], ["--discs", "4"]]
)
def test_each_part_matters(world, whole, tmp_path, options) -> None:
    other = run(world, tmp_path / "run", *options)
    assert not same_weights(whole, other)
    if "--discs" in options:
        assert read_metrics(other)[0]["labelled_fraction"] > 0
    with pytest.raises(InputError, match=r"other options \(\w+: .* -> .*same options"):
        run(world, tmp_path / "run")


def test_points_only(world, tmp_path) -> None:
    lines = read_metrics(run(world, tmp_path / "run", "--without", "masks"))
    assert all(line["loss"] == line["loss_points"] for line in lines)
    assert not any(line["labelled_fraction"] or line["loss_masks"] for line in lines)


def test_a_run_does_not_go_on_with_other_points(world, whole, tmp_path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    content = json.loads((world / "data/points.json").read_text())
    content["t1"][0][0] = 5
    (tmp_path / "points.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"other data \(points of t1: "):
        run(world, tmp_path / "run", "--set", f"points={tmp_path / 'points.json'}")


def test_images_without_points_are_left_out_on_request(world, tmp_path, capsys) -> None:
    content = json.loads((world / "data/points.json").read_text())
    content["t2"] = []
    (tmp_path / "points.json").write_text(json.dumps(content))
    options = ["--set", f"points={tmp_path / 'points.json'}", "steps=1"]
    with pytest.raises(InputError, match="'t2'.*--allow-unpointed"):
        run(world, tmp_path / "run", *options)
    with pytest.warns(UserWarning, match="1 of 6 images"):
        run(world, tmp_path / "run", "--allow-unpointed", *options)
    assert "data: 5 images" in capsys.readouterr().out


def test_the_demos_config_starts_from_nothing() -> None:
    config = load_config("demo/points.yaml")
    assert config.norm == "group" and config.backbone_weights is None
    assert distance_scale(config.steps, config.steps, min(config.crop_size)) < config.crop_size[0]
    model = build_model(config, 12, None)
    assert model(torch.zeros(1, 3, 32, 48)).shape == (1, 12, 8, 12)


@needs_package
@pytest.mark.parametrize("options, panels", [([], 4), (["--without", "masks"], 3)])
def test_tensorboard_shows_points_and_masks(world, tmp_path, options, panels) -> None:
    plain = run(world, tmp_path / "plain", *options)
    shown = run(world, tmp_path / "shown", "--tensorboard", *options)
    assert same_weights(plain, shown)
    images = pictures(shown)
    assert list(images) == [2, 4, 6]
    assert np.abs(images[2].astype(int) - images[6]).sum() > 0


@pytest.mark.slow
def test_killed_anywhere_the_same_command_goes_on(scripts, world, whole, tmp_path) -> None:
    command = ["baselines/points.py", *arguments(world, tmp_path / "points")]
    ended = scripts.run(*command[:1], *arguments(world, world / "counted"))
    assert [one.status for one in ended] == [0]
    for seed in range(4):
        event = random.Random(seed).randint(1, ended[0].events)
        scripts.run(*command, event=event)
    test_kill.finish(scripts, command)
    assert_same_run(whole, tmp_path / "points")
