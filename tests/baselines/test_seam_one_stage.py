"""SEAM and 1-Stage as a user runs them, and what the reference cases don't show."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import test_kill
import tiny
import torch
from PIL import Image
from test_kill import assert_same_files, assert_same_run
from test_support_net import SIZE, labels, make_copy, make_data, names

import eval as evaluation
import train_warmup
from baselines import one_stage, seam
from models.affinity_network import Taps
from models.inference import resize_corners
from models.one_stage import OneStageNetwork, draw_gate, stochastic_gate
from models.one_stage_losses import one_stage_losses
from models.resnet import named_resnet
from models.seam import SEAMNetwork, only_highest, with_rest
from utils.checkpoint import load_checkpoint
from utils.config import load_config
from utils.safe.errors import InputError

scripts = test_kill.scripts
METHODS = {"seam": seam, "one_stage": one_stage}
QUICK = ("--set", "steps=2", "checkpoint_every=1", "log_every=1", "batch_size=2")


@pytest.fixture(scope="module")
def driving(tmp_path_factory) -> Path:
    """Three classes without a background."""
    images = {"t0": [0, 1], "t1": [1, 2], "t2": [0, 2], "v0": [0, 2], "v1": [1]}
    return make_data(tmp_path_factory.mktemp("driving"), ["road", "car", "sky"], images)


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> Path:
    """The background and three things; an image shows the background alone."""
    images = {"t0": [0, 1], "t1": [0, 2], "t2": [0, 3], "t3": [0], "v0": [0, 2]}
    return make_data(tmp_path_factory.mktemp("things"), ["Background", "cat", "dog", "cup"], images)


def run(method: str, folder: Path, out: Path, *more: str) -> None:
    config = ["--config", str(folder / "config.yaml"), "--device", "cpu", *QUICK]
    places = ["--run-dir", str(out / "run"), "--out", str(out / "masks")]
    METHODS[method].main([*config, *places, *more])


@pytest.fixture(scope="module")
def trained(driving, tmp_path_factory) -> dict[str, Path]:
    """The folders run and masks of each method, with all options and checkpoints."""
    folders = {}
    for method in METHODS:
        folders[method] = tmp_path_factory.mktemp(method)
        options = ("--score", "--save-cams", "--keep-checkpoints")
        run(method, driving, folders[method], *options)
    return folders


# ---- as a user runs them


@pytest.mark.parametrize("method", METHODS)
def test_masks_have_the_form_of_the_others(trained, driving, tmp_path, method):
    folder = trained[method]
    ids_of = json.loads((driving / "data/labels.json").read_text())
    made_from = json.loads((folder / "masks/meta.json").read_text())["made_from"]
    assert (made_from["method"], made_from["split"]) == (method, "train")
    assert sorted(p.name for p in (folder / "masks").glob("*.png")) == [
        "t0.png",
        "t1.png",
        "t2.png",
    ]
    for name in ("t0", "t1", "t2"):
        mask = np.asarray(Image.open(folder / f"masks/{name}.png"))
        assert mask.shape == SIZE and {*np.unique(mask)} <= {*ids_of[name]}
        with np.load(folder / f"masks/cams/{name}.npz", allow_pickle=False) as file:
            assert file["classes"].tolist() == ids_of[name]
            assert file["cams"].shape == (len(ids_of[name]), *SIZE)
            assert file["cams"].dtype == np.float16 and np.isfinite(file["cams"]).all()
    assert json.loads((folder / "masks/score.json").read_text())["labelled_pixels"] == 1
    config = ["--config", str(driving / "config.yaml"), "--device", "cpu"]
    second = ["views=base", "carb=false", "classifier=conv", "steps=1", "batch_size=2"]
    second.append(f"pseudo_masks={folder / 'masks'}")
    train_warmup.main([*config, "--run-dir", str(tmp_path / "run"), "--set", *second])
    with pytest.raises(InputError, match=r"no segmentation network.*eval\.py --masks"):
        evaluation.main(["--ckpt", str(folder / "run/last.pt"), "--device", "cpu"])


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_resumes_bit_for_bit_and_skips_what_is_done(
    trained, driving, tmp_path, method, capsys
):
    (tmp_path / "run").mkdir()
    for name in ("config.yaml", "inputs.json", "lock", "metrics.jsonl", "command.txt", "git.txt"):
        shutil.copy(trained[method] / "run" / name, tmp_path / "run" / name)
    step_1 = trained[method] / "run/step_000001.pt"
    for name in (step_1.name, "last.pt"):
        shutil.copy(step_1, tmp_path / "run" / name)
    options = ("--score", "--save-cams", "--keep-checkpoints")
    run(method, driving, tmp_path, *options)
    assert_same_run(trained[method] / "run", tmp_path / "run")
    assert_same_files(trained[method] / "masks", tmp_path / "masks")
    (tmp_path / "masks/t1.png").unlink()
    (tmp_path / "masks/cams/t0.npz").unlink()
    capsys.readouterr()
    run(method, driving, tmp_path, *options)
    shown = capsys.readouterr().out
    assert "step 2, is finished" in shown and "3 masks, 2 of them new" in shown
    assert_same_files(trained[method] / "masks", tmp_path / "masks")


@pytest.mark.parametrize("method", METHODS)
def test_no_ground_truth_is_read(trained, driving, tmp_path, method):
    spoilt = make_copy(driving, tmp_path / "spoilt")
    for path in (spoilt / "data/masks/train").iterdir():
        path.write_bytes(b"spoilt")
    class_file = f"class_file={driving / 'data/classes.yaml'}"
    run(method, spoilt, tmp_path, "--save-cams", "--set", class_file)
    one, other = (load_checkpoint(f / "run/last.pt") for f in (trained[method], tmp_path))
    assert test_kill.same_value(one["model"], other["model"])
    for name in ("t0.png", "cams/t1.npz"):
        masks = trained[method] / "masks", tmp_path / "masks"
        assert (masks[0] / name).read_bytes() == (masks[1] / name).read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_a_background_is_channel_0(things, tmp_path, method):
    run(method, things, tmp_path, "--save-cams", "--score")
    for name, ids in (("t1", {0, 2}), ("t3", {0})):
        assert {*np.unique(Image.open(tmp_path / f"masks/{name}.png"))} <= ids
        with np.load(tmp_path / f"masks/cams/{name}.npz", allow_pickle=False) as file:
            own = ids if method == "one_stage" else ids - {0}
            assert file["classes"].tolist() == sorted(own)
    model = load_checkpoint(tmp_path / "run/last.pt")["model"]
    channels = {"seam": "fc8.weight", "one_stage": "head.last_conv.8.weight"}
    assert len(model[channels[method]]) == {"seam": 4, "one_stage": 3}[method]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes(scripts, driving, tmp_path, method):
    """Also batch norms without a gradient in a head whose others are joined over the processes."""
    command = [f"baselines/{method}.py", "--config", driving / "config.yaml", "--device", "cpu"]
    places = ["--run-dir", tmp_path / "run", "--out", tmp_path / "masks"]
    test_kill.finish(scripts, [*command, *QUICK, *places], 2)
    assert load_checkpoint(tmp_path / "run/last.pt")["step"] == 2
    assert len([*(tmp_path / "masks").glob("t*.png")]) == 3


def test_seam_without_a_background_leaves_the_minimum_pooling_out(trained, things, tmp_path):
    line = tiny.read_metrics(trained["seam"] / "run")[0]
    parts = ("loss_cls", "loss_er", "loss_ecr1", "loss_ecr2")
    assert line["loss"] == pytest.approx(sum(line[part] for part in parts), rel=1e-4)
    assert line["loss_rvmin"] > 0
    run("seam", things, tmp_path, "--set", "steps=1")
    line = tiny.read_metrics(tmp_path / "run")[0]
    total = sum(line[part] for part in (*parts, "loss_rvmin"))
    assert line["loss"] == pytest.approx(total, rel=1e-4)


def test_seam_with_the_momentum_that_was_meant(trained, driving, tmp_path):
    run("seam", driving, tmp_path, "--arithmetic", "correct")
    momenta = [load_config(f / "run/config.yaml").momentum for f in (trained["seam"], tmp_path)]
    assert momenta == [5e-4, 0.9]
    meta = json.loads((tmp_path / "masks/meta.json").read_text())
    assert meta["made_from"]["arithmetic"] == "correct"
    one, other = (load_checkpoint(f / "run/last.pt") for f in (trained["seam"], tmp_path))
    groups = [content["optimizer"]["param_groups"] for content in (one, other)]
    assert [[g["momentum"] for g in group] for group in groups] == [[5e-4] * 2, [0.9] * 2]
    rates = [g["initial_lr"] for g in groups[0]]
    assert rates == [0.01, 0.1] and not torch.equal(
        one["model"]["fc8.weight"], other["model"]["fc8.weight"]
    )


def test_one_stage_predicts_other_splits_without_their_labels(trained, driving, tmp_path):
    folder = make_copy(driving, tmp_path / "copy")
    labels(lambda x: {name: ids for name, ids in x.items() if name.startswith("t")})(folder)
    shutil.copytree(trained["one_stage"] / "run", tmp_path / "run")
    class_file = f"class_file={driving / 'data/classes.yaml'}"
    run("one_stage", folder, tmp_path, "--split", "val", "--score", "--set", class_file)
    masks = [np.asarray(Image.open(tmp_path / f"masks/{name}.png")) for name in ("v0", "v1")]
    assert all(mask.shape == SIZE and mask.max() < 3 for mask in masks)
    assert json.loads((tmp_path / "masks/score.json").read_text())["split"] == "val"


def test_the_rates_of_one_stage_are_constant(trained):
    content = load_checkpoint(trained["one_stage"] / "run/last.pt")
    groups = content["optimizer"]["param_groups"]
    rates = [(g["lr"], g["momentum"], g["weight_decay"]) for g in groups]
    assert rates == [(5e-4, 0.9, 5e-4), (5e-3, 0.9, 5e-4), (5e-3, 0.9, 0.0)]
    lines = tiny.read_metrics(trained["one_stage"] / "run")
    assert {line["lr"] for line in lines} == {5e-4}
    assert lines[0]["gate_open"] == lines[0]["loss_mask"] == 0, "before the share of 5 in 21"


# ---- equations


def test_the_gate_of_one_stage():
    """Two images: both classes claimed; one of two."""
    targets = torch.zeros(2, 2, 4, 4)
    targets[0, 0, 0], targets[0, 1, 1], targets[1, 0, 2] = 1, 1, 1
    logits, labelled = torch.randn(2, 2, 4, 4), torch.ones(2, 2)
    found = {gate: one_stage_losses(logits, labelled, False, targets, gate) for gate in
             ("all", "none")}  # fmt: skip
    assert found["all"]["gate_open"] == 0.5
    ce = torch.nn.functional.cross_entropy(logits, targets.argmax(1), reduction="none")
    first = (ce[0, :2] * 4 / 9).sum() / 16
    second = (ce[1, 2] * 0 / 5).sum() / 16  # all pixels of one class: its weight is 0
    assert found["all"]["loss_mask"].item() == pytest.approx(first.item() / 2, rel=1e-5)
    assert found["none"]["loss_mask"].item() == pytest.approx((first + second).item() / 2, rel=1e-5)
    assert one_stage_losses(logits, labelled, False, None, "all")["loss_mask"] == 0


def test_the_stochastic_gate_has_the_mean_of_the_deep_maps():
    torch.manual_seed(0)
    deep, shallow = torch.randn(1, 3, 1, 1), torch.randn(1, 3, 1, 1)
    drawn = draw_gate(torch.zeros(1, 3, 200, 200), 0.3)
    assert drawn.mean().item() == pytest.approx(0.7, abs=0.01)
    mixed = stochastic_gate(deep, shallow, 0.3, drawn).mean((2, 3), keepdim=True)
    torch.testing.assert_close(mixed, deep, atol=0.03, rtol=0)


def test_the_highest_class_and_the_rest():
    maps = torch.tensor([9.0, 0.2, 0.7, 0.7]).view(1, 4, 1, 1)
    assert only_highest(maps, 1).flatten().tolist() == pytest.approx([9, 0, 0.7, 0.7])
    assert with_rest(maps, 1).flatten().tolist() == pytest.approx([0.3, 0.2, 0.7, 0.7])
    assert only_highest(maps, 0).flatten().tolist() == [9, 0, 0, 0]
    assert torch.equal(with_rest(maps, 0), maps)


@pytest.mark.parametrize("name", ["resnet18_eighth", "resnet18_quarter"])
def test_taps_of_seam_end_on_one_grid_and_its_norms_are_kept(name):
    backbone = Taps(named_resnet(name, 8))
    network = SEAMNetwork(backbone, backbone.channels, 3, 0).train()
    norms = {k: v.clone() for k, v in network.state_dict().items() if "bn" in k}
    image = torch.randn(2, 3, 40, 56)
    views = network(image, resize_corners(image, (12, 17)))
    assert [x.shape[-2:] for view in views for x in view] == [(40, 56)] * 2 + [(12, 17)] * 2
    sum(x.sum() for view in views for x in view).backward()
    frozen = {k for k, p in network.named_parameters() if p.grad is None}
    stem = ("backbone.backbone.conv1", "backbone.backbone.layer1")
    expected = {k for k, _ in network.named_parameters()
                if k.startswith(stem) or ".bn" in k or "downsample.1" in k}  # fmt: skip
    assert frozen == expected and frozen
    assert all(torch.equal(network.state_dict()[k], v) for k, v in norms.items())


def test_one_stage_keeps_the_norms_of_its_backbone_alone():
    network = OneStageNetwork(named_resnet("resnet18_eighth", 16), 3, False).train()
    before = {k: v.clone() for k, v in network.state_dict().items() if "running" in k}
    logits = network(torch.randn(2, 3, 40, 56))
    assert logits.shape == (2, 3, 10, 14)
    logits.square().sum().backward()
    after = network.state_dict()
    moved = {k for k, v in before.items() if not torch.equal(after[k], v)}
    kept = ("backbone.", "head.aspp.")
    assert moved == {k for k in before if not k.startswith(kept)} and moved
    lacking = {k for k, p in network.named_parameters() if p.grad is None}
    frozen = {k for k, p in network.named_parameters() if not p.requires_grad}
    assert lacking == frozen and "backbone.conv1.weight" in frozen


# ---- bad input


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (labels(lambda x: x | {"t0": []}), (), r"labels\.json \(train\): 1 images have no class"),
        (labels(lambda x: x | {name: [0, 1] for name in x}), (), r"no image has sky"),
        (names("road", "Background", "sky"), (), "'background' must be class 0"),
        (names("road"), (), "one class|1 class"),
        (None, ("--split", "trian"), "no split 'trian'"),
        (None, ("--set", "norm=group"), "norm: group is for networks that start from nothing"),
        (
            lambda f: shutil.rmtree(f / "data/masks"),
            ("--score",),
            "ground truth.*leave out --score",
        ),
    ],
)
def test_bad_input_ends_the_run_before_training(driving, tmp_path, method, change, options, told):
    folder = make_copy(driving, tmp_path / "copy")
    if change is not None:
        change(folder)
    with pytest.raises(InputError, match=told):
        run(method, folder, folder, *options)
    assert not (folder / "run").exists() and not (folder / "masks").exists()


def test_crops_too_small_for_the_second_view_are_refused(driving, tmp_path):
    with pytest.raises(InputError, match=r"\[6, 48\] leaves less than 2 pixels.*raise crop_size"):
        run("seam", driving, tmp_path, "--set", "crop_size=[6,48]", "patch_size=[4,8]")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "option"), [("seam", ("--min-pool", "1")), ("one_stage", ("--gate", "none"))]
)
def test_another_option_is_another_run(trained, driving, tmp_path, method, option):
    shutil.copytree(trained[method] / "run", tmp_path / "run")
    with pytest.raises(InputError, match=rf"other options \({option[0][2:]}"):
        run(method, driving, tmp_path, *option)


@pytest.mark.parametrize("method", METHODS)
def test_pictures_smaller_than_the_crop_lie_in_zeros(driving, tmp_path, method):
    run(method, driving, tmp_path, "--set", "crop_size=[48,64]", "steps=1")
    mask = np.asarray(Image.open(tmp_path / "masks/t0.png"))
    assert mask.shape == SIZE and {*np.unique(mask)} <= {0, 1}
