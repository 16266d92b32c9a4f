"""SEC as a user runs it: seeds, what is read and written, resuming, bad input."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import test_support_net
import tiny
import torch
from test_kill import assert_same_run

import eval as evaluation
from baselines import sec as method
from baselines.common import load_split
from datasets.fingerprint import data_of_masks
from datasets.labels import load_classes
from datasets.saved_maps import save_maps
from models.sec import decays_of, seeds_of, without_padding
from utils.checkpoint import load_checkpoint
from utils.config import load_config
from utils.safe.errors import InputError

STEPS = ("steps=2", "checkpoint_every=1", "log_every=1", "batch_size=2")


def make_maps(folder: Path) -> Path:
    """FOLDER/cams/: meta.json, and maps that follow the halves of the images (`make_data`)."""
    config = load_config(folder / "config.yaml")
    classes = load_classes(config.class_file)
    split = load_split(config, "train", classes, trains=True)
    data = data_of_masks("folder", "train", classes.names, split.images, split.labels)
    (folder / "cams").mkdir()
    (folder / "cams/meta.json").write_text(json.dumps({"made_from": data | {"method": "cam"}}))
    for name, ids in split.labels.items():
        cams, present = torch.zeros(3, 8, 12), torch.zeros(3)
        for place, k in enumerate(ids):
            cams[k, :, 12 * place // len(ids) : 12 * (place + 1) // len(ids)] = 1
            present[k] = 1
        save_maps(folder / f"cams/cams/{name}.npz", cams, present, 0)
    return folder


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    images = {"t0": [0, 1], "t1": [0, 1], "t2": [1, 2], "t3": [1, 2], "t4": [0, 2], "t5": [0, 2]}
    folder = tmp_path_factory.mktemp("sec")
    test_support_net.make_data(folder, ["road", "car", "sky"], images | {"v0": [0, 2], "v1": [1]})
    return make_maps(folder)


def run(world: Path, run_dir: Path, *more: str, settings: tuple[str, ...] = STEPS) -> Path:
    config = ["--config", str(world / "config.yaml"), "--device", "cpu"]
    options = ["--run-dir", str(run_dir), "--cams", str(world / "cams"), *more]
    method.main([*config, *options, "--set", *settings])
    return run_dir


@pytest.fixture(scope="module")
def whole(world) -> Path:
    return run(world, world / "whole")


def test_seeds_are_above_a_fifth_and_the_smaller_one_wins() -> None:
    cams = torch.tensor([[[1.0, 0.9, 0.8, 0.1]], [[0.0, 0.0, 0.5, 0.0]], [[9.0, 9.0, 9.0, 9.0]]])
    found = seeds_of(cams, torch.tensor([1.0, 1.0, 0.0]), background=False)
    assert found.tolist() == [[[1, 1, 0, 0]], [[0, 0, 1, 0]], [[0, 0, 0, 0]]]
    assert not seeds_of(torch.zeros(2, 3, 3), torch.ones(2), background=False).any()
    cams = torch.arange(20.0).reshape(1, 4, 5)
    found = seeds_of(cams, torch.ones(1), background=True)
    assert found.shape == (2, 4, 5) and found[0].flatten().nonzero().flatten().tolist() == [0, 1]
    assert found[1].flatten().nonzero().flatten().tolist() == list(range(4, 20))


def test_decays_of_stuff_and_things(world) -> None:
    classes = load_classes(world / "data/classes.yaml")
    assert decays_of(classes).tolist() == pytest.approx([0.999, 0.996, 0.999])


def test_padding_is_cut_off() -> None:
    valid = torch.zeros(32, 48, dtype=torch.bool)
    valid[:17, :40] = True
    logits, image = without_padding(torch.zeros(3, 4, 6), torch.zeros(3, 32, 48), valid)
    assert logits.shape == (1, 3, 3, 5) and image.shape == (1, 3, 17, 40)


def test_a_run_and_its_scores(world, whole, tmp_path) -> None:
    content = load_checkpoint(whole / "last.pt")
    assert (content["stage"], content["step"]) == ("sec", 2)
    for line in tiny.read_metrics(whole):
        parts = [line[f"loss_{name}"] for name in ("seed", "expand", "constrain")]
        assert min(parts) > 0 and line["loss"] == pytest.approx(sum(parts), rel=1e-4)
    assert [line["lr"] for line in tiny.read_metrics(whole)] == pytest.approx([1e-3, 1e-5])
    config = load_config(whole / "config.yaml")
    assert (config.classifier, config.dropout, config.scale_range) == ("conv", 0.5, (1, 1))
    evaluation.main(
        ["--ckpt", str(whole / "last.pt"), "--device", "cpu", "--out", str(tmp_path / "scores")]
    )
    assert json.loads((tmp_path / "scores/metrics.json").read_text())["num_images"] == 2


def test_a_run_that_is_cut_off_goes_on_bit_for_bit(world, whole, tmp_path, monkeypatch) -> None:
    class Killed(BaseException):
        pass

    def step_or_die(*arguments) -> float:
        if arguments[2] == 1:
            raise Killed
        return take_step(*arguments)

    take_step = method.step_of_stages
    with monkeypatch.context() as patch:
        patch.setattr(method, "step_of_stages", step_or_die)
        with pytest.raises(Killed):
            run(world, tmp_path / "run")
    assert load_checkpoint(tmp_path / "run/last.pt")["step"] == 1
    assert_same_run(whole, run(world, tmp_path / "run"))


def test_ground_truth_is_never_read(world, whole, tmp_path) -> None:
    spoilt = test_support_net.make_copy(world, tmp_path / "spoilt")
    for file in (spoilt / "data/masks").rglob("*.png"):
        file.write_bytes(b"rubbish")
    classes = f"class_file={world / 'data/classes.yaml'}"
    other = load_checkpoint(run(spoilt, tmp_path / "run", "--set", classes) / "last.pt")["model"]
    ours = load_checkpoint(whole / "last.pt")["model"]
    assert all(torch.equal(value, other[key]) for key, value in ours.items())


def test_images_of_other_proportions(world, tmp_path) -> None:
    """A third of each crop is padding, which is in no loss."""
    settings = (*STEPS, "crop_size=[48,48]")
    assert np.isfinite(
        tiny.read_metrics(run(world, tmp_path / "run", settings=settings))[-1]["loss"]
    )


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda f: shutil.rmtree(f / "cams"), "cams has no meta.json.*baselines.cam --save-cams"),
        (lambda f: (f / "cams/cams/t3.npz").unlink(), "1 of 6 images have no maps.*t3.npz"),
        (test_support_net.names("road", "car", "tree"), "made from other data .class_names"),
        (test_support_net.labels(lambda x: x | {"t0": [1]}), "other data .image_labels_sha256"),
        (test_support_net.labels(lambda x: x | {"t0": []}), "1 images have no class"),
        (test_support_net.names("road"), "class"),
    ],
)
def test_bad_input_ends_the_run_before_training(world, tmp_path, change, told) -> None:
    folder = test_support_net.make_copy(world, tmp_path / "copy")
    change(folder)
    with pytest.raises(InputError, match=told):
        run(folder, folder / "run")
    assert not (folder / "run").exists()
