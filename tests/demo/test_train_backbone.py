"""The backbone's training on images of one thing: its files, its repeatability, its images."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from demo import object_images, train_backbone
from demo.object_images import CANVAS, PHOTOGRAPH, compose, photographs, place
from demo.scenes.canvas import CLASSES
from models.backbone_weights import load_backbone_weights
from models.build import build_model
from models.resnet import ResNet
from utils.config import load_config
from utils.safe.errors import InputError

SHIPPED = Path("demo/weights/backbone.pt")


def _train(out: Path, monkeypatch, *more: str) -> dict:
    monkeypatch.setattr(train_backbone, "NUM_HELD_OUT", 12)
    sizes = ["--steps", "2", "--batch-size", "4", "--photographs", "12", "--layers", "3"]
    train_backbone.main(["--out", str(out), *sizes, *more])
    return json.loads(out.with_suffix(".json").read_text())


def test_a_short_run_writes_what_build_model_takes(tmp_path, monkeypatch):
    log = _train(tmp_path / "backbone.pt", monkeypatch)
    state = torch.load(tmp_path / "backbone.pt", weights_only=True)
    network = ResNet(18, width=16, layers=3)
    expected = {name for name in network.state_dict() if "num_batches" not in name}
    assert set(state) == expected
    assert all(value.dtype == torch.float16 for value in state.values())
    config = load_config(
        "configs/tiny_cpu.yaml",
        [
            "backbone=resnet18_quarter",
            "output_stride=4",
            "classifier=conv",
            "backbone_weights_partial=false",
            f"backbone_weights={tmp_path / 'backbone.pt'}",
        ],
    )
    model = build_model(config, len(CLASSES), None)
    assert torch.equal(model.backbone.conv1.weight, state["conv1.weight"].float())
    assert torch.equal(model.backbone.layer3[1].bn2.running_var, state["layer3.1.bn2.running_var"])
    assert log["seed"] == 102 and log["steps"] == 2 and log["versions"]["scenes"] >= 1
    assert [line["step"] for line in log["training"]] == [2]
    assert log["training"][0]["loss"] > 0
    assert set(log["held_out_accuracy"]) == {"96", "48", "32", "24"}
    assert set(log["held_out_accuracy_by_class"]) == set(CLASSES)


def test_the_same_seed_gives_the_same_bits(tmp_path, monkeypatch):
    first = _train(tmp_path / "a.pt", monkeypatch, "--seed", "5")
    torch.rand(3)  # the state of torch's own generator does not matter
    again = _train(tmp_path / "b.pt", monkeypatch, "--seed", "5")
    other = _train(tmp_path / "c.pt", monkeypatch, "--seed", "6")
    a, b, c = (torch.load(tmp_path / f"{x}.pt", weights_only=True) for x in "abc")
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert first["training"] == again["training"] != other["training"]
    assert not torch.equal(a["conv1.weight"], c["conv1.weight"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "--steps must be at least 1, found 0"),
        (["--batch-size", "1"], "--batch-size must be at least 2, found 1"),
        (["--photographs", "0"], "--photographs must be at least 1"),
        (["--seed", "-1"], "--seed must be at least 0"),
        (["--threads", "0"], "--threads must be at least 1"),
        (["--depth", "20"], r"--depth must be one of \[18, 34, 50, 101\], found 20"),
        (["--layers", "5"], "--layers must be 1 to 4, found 5"),
        (["--out", "backbone.json"], r"--out must end in \.pt"),
    ],
)
def test_bad_arguments_get_a_message(arguments, message):
    with pytest.raises(InputError, match=message):
        train_backbone.main(["--out", "unused.pt", *arguments])


def test_diverged_weights_are_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(train_backbone, "LR", 1e8)
    with pytest.raises(InputError, match="diverged"):
        _train(tmp_path / "backbone.pt", monkeypatch)
    assert not list(tmp_path.iterdir())


def test_photographs_are_the_classes_in_turn_and_do_not_depend_on_their_number():
    few, ids = photographs(3, 7, train_backbone.TRAIN, "")
    more, more_ids = photographs(13, 7, train_backbone.TRAIN, "")
    assert few.shape == (3, 3, PHOTOGRAPH, PHOTOGRAPH) and few.dtype == torch.uint8
    assert torch.equal(few, more[:3]) and ids.tolist() == [0, 1, 2]
    assert more_ids[12] == 0 and not torch.equal(more[12], more[0])
    held_out, _ = photographs(1, 7, train_backbone.HELD_OUT, "")
    assert not torch.equal(held_out[0], few[0])


def test_a_photograph_is_placed_small_or_cut():
    white = torch.full((3, PHOTOGRAPH, PHOTOGRAPH), 255, dtype=torch.uint8)
    black = torch.zeros_like(white)
    small = place(white, black, 24, 5, 30)
    expected = torch.zeros(3, CANVAS, CANVAS, dtype=torch.uint8)
    expected[:, 5:29, 30:54] = 255
    assert torch.equal(small, expected)
    ramp = torch.arange(PHOTOGRAPH, dtype=torch.uint8).expand(3, PHOTOGRAPH, PHOTOGRAPH)
    assert torch.equal(place(ramp, black, 96, -9, -20), ramp[:, :CANVAS, 20 : 20 + CANVAS])


def test_images_have_photographs_of_all_sizes(monkeypatch):
    """Whatever is drawn, an image is whole; small and cut ones both come."""
    monkeypatch.setattr(object_images, "distort", lambda image, rng: image)
    white = torch.full((3, PHOTOGRAPH, PHOTOGRAPH), 255, dtype=torch.uint8)
    rng = np.random.default_rng(0)
    shares = []
    for _ in range(200):
        image = compose(white, torch.zeros_like(white), rng)
        assert image.shape == (3, CANVAS, CANVAS) and image.dtype == torch.uint8
        shares.append((image == 255).float().mean().item())
    assert min(shares) < 0.13 and shares.count(1.0) > 20  # 22 of 64 pixels squared is 0.12


def test_the_shipped_backbone_fits_its_network_and_its_log():
    assert SHIPPED.stat().st_size < 2e6
    log = json.loads(SHIPPED.with_suffix(".json").read_text())
    backbone = ResNet(log["depth"], log["width"], log["layers"], output_stride=4)
    load_backbone_weights(backbone, str(SHIPPED), log["sha256"])
    assert log["sha256"] == hashlib.sha256(SHIPPED.read_bytes()).hexdigest()
    assert log["training"][-1]["step"] == log["steps"]
    assert log["held_out_accuracy"]["96"] > log["held_out_accuracy"]["24"] > 0.5
