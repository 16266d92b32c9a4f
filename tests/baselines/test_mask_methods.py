"""The mask methods as a user runs them: two steps, resumed, killed; the masks; bad input."""

import importlib
import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import test_kill
import test_support_net
import tiny
import torch
from PIL import Image
from test_kill import assert_same_files, assert_same_run
from test_support_net import labels, make_copy, make_data, names
from tiny_clip import tiny_clip

from datasets import open_dataset
from datasets.fingerprint import data_of_masks
from datasets.labels import load_classes
from utils.checkpoint import load_checkpoint
from utils.config import load_config
from utils.safe.errors import InputError

scripts = test_kill.scripts
SIZE = (48, 80)  # the least for the pairs of IRN is 40 x 76
METHODS = ("cam", "psa", "seam", "clip_es", "clims", "amn")
RUNS = {  # run folders below RUN_DIR
    "cam": ("",),
    "psa": ("classifier", "affinity"),
    "seam": ("",),
    "clip_es": (),
    "clims": ("cam", ""),
    "amn": ("", "irn"),
}


def save_clip(path: Path, resnet: bool = False) -> None:
    torch.save(tiny_clip(resnet).state_dict(), path)


def save_cams(folder: Path, first: int) -> None:
    """The folder that baselines.cam --save-cams writes: each class on its part of the image."""
    config = load_config(folder / "config.yaml")
    classes = load_classes(config.class_file)
    images = open_dataset(config.dataset, config.data_root).images("train")
    ids = json.loads(Path(config.image_labels).read_text())
    ids = {name: tuple(ids[name]) for name in images}
    made_from = data_of_masks(config.dataset, "train", classes.names, images, ids)
    rng, out = np.random.default_rng(1), folder / "cam_masks"
    (out / "cams").mkdir(parents=True)
    (out / "meta.json").write_text(json.dumps({"made_from": made_from | {"method": "cam"}}))
    for name in images:
        kept = [c for c in ids[name] if c >= first]
        maps = rng.random((len(kept), *SIZE)).astype(np.float16) / 2
        for k in range(len(kept)):
            maps[k, :, SIZE[1] * k // len(kept) : SIZE[1] * (k + 1) // len(kept)] = 1
        np.savez(out / f"cams/{name}.npz", classes=np.array(kept, int), cams=maps)


def make_world(folder: Path, class_names: list[str], ids: dict[str, list[int]]) -> Path:
    test_support_net.SIZE, before = SIZE, test_support_net.SIZE
    try:
        make_data(folder, class_names, ids)
    finally:
        test_support_net.SIZE = before
    config = folder / "config.yaml"
    changes = {"clip_model": str(folder / "clip.pt"), "steps": 3, "checkpoint_every": 1}
    changes |= {"log_every": 1, "batch_size": 2}
    values = test_support_net.yaml.safe_load(config.read_text()) | changes
    config.write_text(test_support_net.yaml.safe_dump(values))
    save_clip(folder / "clip.pt")
    save_cams(folder, int(class_names[0] == "Background"))
    return folder


@pytest.fixture(scope="module")
def driving(tmp_path_factory) -> Path:
    """Three classes without a background."""
    ids = {"t0": [0, 1], "t1": [1, 2], "t2": [0, 2], "t3": [0, 1, 2], "v0": [0, 2], "v1": [1]}
    return make_world(tmp_path_factory.mktemp("driving"), ["road", "car", "sky"], ids)


@pytest.fixture(scope="module")
def things(tmp_path_factory) -> Path:
    """The background and two things; an image shows the background alone."""
    ids = {"t0": [0, 1], "t1": [0, 2], "t2": [0, 1, 2], "t3": [0], "v0": [0, 2]}
    return make_world(tmp_path_factory.mktemp("things"), ["Background", "cat", "dog"], ids)


def arguments(method: str, folder: Path, out: Path, *more: str) -> list[str]:
    config = ["--config", str(folder / "config.yaml"), "--device", "cpu"]
    if method == "amn":  # IRN's part takes 0.3 of the steps
        config += ["--cams", str(folder / "cam_masks"), "--set", "steps=5"]
    with_background = "Background" in (folder / "data/classes.yaml").read_text()
    if method == "clip_es" and not with_background:  # the CRF takes most of the time
        config += ["--crf", "none"]
    return [*config, "--run-dir", str(out / "run"), "--out", str(out / "masks"), *more]


def run(method: str, folder: Path, out: Path, *more: str) -> None:
    main = importlib.import_module(f"baselines.{method}").main
    main(arguments(method, folder, out, *more))


def options(method: str) -> tuple[str, ...]:
    """All that a method can write."""
    return "--save-cams", "--score", *["--keep-checkpoints"] * bool(RUNS[method])


@pytest.fixture(scope="module", params=METHODS)
def trained(request, driving, tmp_path_factory) -> tuple[str, Path]:
    """A method, and the folders run and masks of an uninterrupted run of it."""
    out = tmp_path_factory.mktemp(request.param)
    run(request.param, driving, out, *options(request.param))
    return request.param, out


def test_masks_have_the_form_of_the_interface(trained, driving) -> None:
    method, out = trained
    meta = json.loads((out / "masks/meta.json").read_text())["made_from"]
    assert (meta["method"], meta["arithmetic"]) == (method, "authors")
    present = json.loads((driving / "data/labels.json").read_text())
    for name in ("t0", "t1", "t2", "t3"):
        mask = np.array(Image.open(out / f"masks/{name}.png"))
        assert mask.shape == SIZE and {*np.unique(mask)} <= {*present[name], 255}
        with np.load(out / f"masks/cams/{name}.npz") as file:
            assert {*file["classes"]} <= {*present[name]}
            assert len(file["cams"]) == len(file["classes"])
            assert np.isfinite(file["cams"]).all()
            assert file["cams"].max(initial=0) <= 1
            # SEAM's maps are negative below their minimum (`baselines.seam`).
            assert method == "seam" or file["cams"].min(initial=0) >= 0
    assert 0 <= json.loads((out / "masks/score.json").read_text())["miou"] <= 1
    for folder in RUNS[method]:
        lines = tiny.read_metrics(out / "run" / folder)
        assert all(np.isfinite(line["loss"]) for line in lines)
        assert load_checkpoint(out / "run" / folder / "last.pt")["step"] == lines[-1]["step"]


def test_the_same_command_skips_what_is_done(trained, driving, tmp_path, capsys) -> None:
    method, before = trained
    out = tmp_path / "again"
    shutil.copytree(before, out)
    (out / "masks/t1.png").unlink()
    (out / "masks/cams/t2.npz").unlink()
    run(method, driving, out, *options(method))
    assert "4 masks, 2 of them new" in capsys.readouterr().out
    assert_same_files(before / "masks", out / "masks")


def test_a_resumed_run_is_the_same_bit_for_bit(trained, driving, tmp_path) -> None:
    """Every run folder is set back to its first step."""
    method, before = trained
    shutil.copytree(before / "run", tmp_path / "run") if RUNS[method] else None
    for folder in RUNS[method]:
        for path in (tmp_path / "run" / folder).glob("*.pt"):
            if path.name != "step_000001.pt":
                path.unlink()
        shutil.copy(
            tmp_path / "run" / folder / "step_000001.pt", tmp_path / "run" / folder / "last.pt"
        )
    run(method, driving, tmp_path, *options(method))
    for folder in RUNS[method]:
        assert_same_run(before / "run" / folder, tmp_path / "run" / folder)
    assert_same_files(before / "masks", tmp_path / "masks")


@pytest.mark.slow
def test_killed_anywhere_the_same_command_goes_on(scripts, trained, driving, tmp_path) -> None:
    method, before = trained
    command = arguments(method, driving, tmp_path, *options(method))
    command = [f"baselines/{method}.py", *command]
    for event in (20, 90, 160):
        scripts.run(*command, event=event)
    test_kill.finish(scripts, command)
    for folder in RUNS[method]:
        assert_same_run(before / "run" / folder, tmp_path / "run" / folder)
    assert_same_files(before / "masks", tmp_path / "masks")


@pytest.mark.slow
def test_amn_is_killed_in_each_of_its_parts(scripts, driving, tmp_path) -> None:
    run("amn", driving, tmp_path / "whole", *options("amn"))
    out = tmp_path / "killed"
    command = ["baselines/amn.py", *arguments("amn", driving, out, *options("amn"))]
    parts = ("run/seeds/t2", "run/step_000002", "run/irn_labels/t2", "run/irn/step_000001")
    for part in (*parts, "masks/cams/t2", "masks/t3"):
        (ended,) = scripts.run(*command, event=1, on=str(out / part))
        assert ended.status == -signal.SIGKILL, (part, ended.printed)
    test_kill.finish(scripts, command)
    for folder in RUNS["amn"]:
        assert_same_run(tmp_path / "whole/run" / folder, out / "run" / folder)
    for folder in ("masks", "run/seeds", "run/irn_labels"):
        assert_same_files(tmp_path / "whole" / folder, out / folder)


def test_no_ground_truth_is_read(trained, driving, tmp_path) -> None:
    method, before = trained
    spoilt = make_copy(driving, tmp_path / "spoilt")
    for path in (spoilt / "data/masks/train").iterdir():
        path.write_bytes(b"spoilt")
    run(method, spoilt, tmp_path, "--save-cams")
    for name in ("t0.png", "t3.png"):
        masks = before / "masks", tmp_path / "masks"
        assert (masks[0] / name).read_bytes() == (masks[1] / name).read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_data_with_a_background(things, tmp_path, method) -> None:
    run(method, things, tmp_path, "--score")
    mask = np.array(Image.open(tmp_path / "masks/t3.png"))
    assert {*np.unique(mask)} <= {0, 255}, "the background alone"
    for name in ("t0", "t1", "t2"):
        assert {*np.unique(Image.open(tmp_path / f"masks/{name}.png"))} <= {0, 1, 2, 255}


def test_the_other_arithmetic_gives_other_numbers(trained, driving, tmp_path) -> None:
    method, before = trained
    run(method, driving, tmp_path, "--save-cams", "--arithmetic", "correct")
    made_from = json.loads((tmp_path / "masks/meta.json").read_text())["made_from"]
    assert made_from["arithmetic"] == "correct"
    maps = [
        [np.load(out / f"masks/cams/t{i}.npz")["cams"] for i in range(4)]
        for out in (before, tmp_path)
    ]
    same = [np.array_equal(one, other) for one, other in zip(*maps, strict=True)]
    assert not all(same)
    if RUNS[method]:
        with pytest.raises(InputError, match="settings .momentum"):
            run(method, driving, tmp_path)


# ---- bad input


def damaged_cams(change: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: change(folder / "cam_masks")


def of_other_classes(folder: Path) -> None:
    meta = folder / "meta.json"
    meta.write_text(meta.read_text().replace("car", "cat"))


def with_cams(folder: Path) -> tuple[str, ...]:
    return ("--cams", str(folder / "cam_masks"))


BAD = [
    ("cam", labels(lambda x: x | {"t0": []}), (), "1 images have no class.*'t0'"),
    ("cam", labels(lambda x: x | {name: [0, 1] for name in x}), (), "no image has sky"),
    ("cam", names("road"), (), "only one class"),
    ("cam", None, ("--split", "trian"), "no split 'trian'"),
    ("cam", None, ("--set", "norm=group"), "norm: group"),
    ("cam", lambda f: shutil.rmtree(f / "data/masks"), ("--score",), "leave out --score"),
    ("psa", names("road"), (), "only one class"),
    ("psa", None, ("--set", "crop_size=[32,80]"), r"\[32, 80\] has no pair.*\[33, 65\]"),
    ("psa", None, ("--set", "norm=group"), "norm: group"),
    ("psa", damaged_cams(shutil.rmtree), with_cams, "baselines.cam --save-cams"),
    ("psa", damaged_cams(lambda f: (f / "cams/t1.npz").unlink()), with_cams, "1 of 4 .*t1.npz"),
    ("psa", damaged_cams(of_other_classes), with_cams, "other data .*car"),
    ("psa", None, lambda f: (*with_cams(f), "--split", "val"), "other data .*split"),
    ("clip_es", lambda f: save_clip(f / "clip.pt", True), (), "ResNet; CLIP-ES needs .* ViT"),
    ("clip_es", lambda f: (f / "clip.pt").unlink(), (), "clip_model .* neither a file"),
    ("clip_es", names("road"), (), "only one class"),
    ("clip_es", labels(lambda x: x | {"t0": []}), (), "1 images have no class.*'t0'"),
    ("clip_es", None, ("--split", "trian"), "no split 'trian'"),
    ("clims", lambda f: (f / "clip.pt").unlink(), (), "clip_model .* neither a file"),
    ("clims", None, ("--set", "norm=group"), "norm: group"),
    ("clims", labels(lambda x: x | {"t0": []}), (), "1 images have no class.*'t0'"),
    ("clims", labels(lambda x: x | {name: [0, 1] for name in x}), (), "no image has sky"),
    ("clims", names("road"), (), "only one class"),
    ("amn", damaged_cams(shutil.rmtree), (), "baselines.cam --save-cams"),
    ("amn", damaged_cams(lambda f: (f / "cams/t1.npz").unlink()), (), "1 of 4 .*t1.npz"),
    ("amn", damaged_cams(of_other_classes), (), "other data .*car"),
    ("amn", None, ("--set", "crop_size=[32,80]"), r"\[32, 80\] is too small.*\[40, 76\]"),
    ("amn", labels(lambda x: x | {"t0": []}), (), "1 images have no class.*'t0'"),
    ("amn", names("road"), (), "only one class"),
]


@pytest.mark.parametrize(("method", "change", "options", "told"), BAD)
def test_bad_input_ends_the_run_before_it_begins(
    driving, tmp_path, method, change, options, told
) -> None:
    folder = make_copy(driving, tmp_path / "copy")
    if change is not None:
        change(folder)
    options = options(folder) if callable(options) else options
    with pytest.raises(InputError, match=told):
        run(method, folder, folder, *options)
    assert not (folder / "run").exists() and not (folder / "masks").exists()


@pytest.mark.parametrize("method", METHODS)
def test_masks_among_the_images_are_refused(driving, tmp_path, method) -> None:
    more = ("--out", str(driving / "data/images/train"))
    with pytest.raises(InputError, match="holds images"):
        run(method, driving, tmp_path, *more)


def test_psa_takes_the_maps_of_another_method(driving, tmp_path) -> None:
    run("psa", driving, tmp_path, *with_cams(driving), "--set", "steps=2")
    assert not (tmp_path / "run/classifier").exists()
    meta = json.loads((tmp_path / "masks/meta.json").read_text())["made_from"]
    assert meta["cams"]["method"] == "cam"
    assert np.array(Image.open(tmp_path / "masks/t1.png")).shape == SIZE


def test_psa_stops_at_maps_it_cannot_read(driving, tmp_path) -> None:
    folder = make_copy(driving, tmp_path / "copy")
    (folder / "cam_masks/cams/t2.npz").write_bytes(b"spoilt")
    with pytest.raises(InputError, match=r"t2\.npz can't be read"):
        run("psa", folder, tmp_path, *with_cams(folder), "--set", "steps=4", "num_workers=0")
    assert not (tmp_path / "masks").exists()


def test_psa_makes_maps_of_both_splits(driving, tmp_path) -> None:
    run("psa", driving, tmp_path, "--split", "val", "--set", "steps=2")
    assert {p.name for p in (tmp_path / "masks").glob("*.png")} == {"v0.png", "v1.png"}
    assert len([*(tmp_path / "run/cams_train/cams").glob("t*.npz")]) == 4
    assert {*np.unique(Image.open(tmp_path / "masks/v1.png"))} == {1}


def test_maps_at_another_size_than_the_image(things, tmp_path) -> None:
    """The working size is crop_size; masks, and their scores, have the size of the image."""
    run("cam", things, tmp_path, "--score", "--save-cams", "--set", "crop_size=[24,40]", "steps=2")
    with np.load(tmp_path / "masks/cams/t0.npz") as file:
        assert file["cams"].shape == (1, 24, 40)
    assert np.array(Image.open(tmp_path / "masks/t0.png")).shape == SIZE
    scores = json.loads((tmp_path / "masks/score.json").read_text())
    curve = {row["threshold"]: row["miou"] for row in scores["thresholds"]}
    assert curve[0.15] == pytest.approx(scores["miou"])


def test_adam_is_restored_from_a_checkpoint(trained) -> None:
    method, out = trained
    if method != "amn":
        pytest.skip("trains without Adam")
    content = load_checkpoint(out / "run/last.pt")
    kept = content["optimizer"]["state"][0]
    assert kept["step"].item() == content["step"] and kept["exp_avg"].any()
