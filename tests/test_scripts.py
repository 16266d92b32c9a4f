"""The stages in order, as a user runs them, on a generated data set of Cityscapes' shape."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import tiny
import torch
from steps import counted

import eval as evaluation
import gen_clip_masks
import prepare_data
import train_carb
import train_warmup
from utils.checkpoint import load_checkpoint
from utils.safe.errors import InputError

ROWS = [(views, carb) for views in ("base", "local", "dual") for carb in ("false", "true")]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw data -> image-level labels -> pseudo-masks; then the training ground truth is spoilt."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny.make_cityscapes(folder / "data")
    tiny.make_clip(folder / "clip.pt")
    config = tiny.make_config(folder)
    root, labels = str(folder / "data"), str(folder / "image_labels.json")
    prepare_data.main(["cityscapes", "--root", root, "--out", labels, "--splits", "train", "val"])
    gen_clip_masks.main(["--config", str(config), "--score"])
    shutil.copytree(folder / "data" / "gtFine", folder / "ground_truth")
    for file in (folder / "data" / "gtFine" / "train").rglob("*.png"):
        file.write_bytes(b"training must not open this")
    return folder


def run_row(folder: Path, run: Path, views: str = "dual", carb: str = "true", *sets: str) -> Path:
    """Both training stages of a row of Table 1; returns the folder of the final checkpoint."""
    overrides = [f"views={views}", f"carb={carb}", *sets]
    arguments = ["--config", str(folder / "config.yaml"), "--device", "cpu"]
    arguments += [part for override in overrides for part in ("--set", override)]
    train_warmup.main([*arguments, "--run-dir", str(run / "warmup")])
    if carb == "false":
        return run / "warmup"
    init = ["--init", str(run / "warmup" / "last.pt")]
    train_carb.main([*arguments, *init, "--run-dir", str(run / "carb")])
    return run / "carb"


@pytest.mark.parametrize(("views", "carb"), ROWS)
def test_every_row_of_table_1_trains_and_evaluates(prepared, tmp_path, views, carb) -> None:
    run = run_row(prepared, tmp_path, views, carb)
    checkpoint = load_checkpoint(run / "last.pt")
    assert checkpoint["step"] == 8
    lines = tiny.read_metrics(tmp_path / "warmup")
    if carb == "true":
        lines += tiny.read_metrics(run)
        assert "w" in lines[-1] and "w" not in lines[0]
        assert len(counted(checkpoint["criterion"][0])["queue_consistent"]) == 4
    assert [line["step"] for line in lines] == list(range(1, 9))
    assert ("loss_consistent_local" in lines[0]) == (views != "base")
    assert all(0 <= line["consistent_fraction"] <= 1 for line in lines)
    assert all(sum(line["class_share"]) == pytest.approx(1) for line in lines)
    assert lines[0]["lr"] == pytest.approx(0.01) and lines[-1]["lr"] < 0.004
    evaluation.main(["--ckpt", str(run / "last.pt"), "--split", "val", "--device", "cpu"])
    metrics = json.loads((run / "eval_val" / "metrics.json").read_text())
    assert 0 <= metrics["miou"] <= 1 and metrics["num_images"] == 3


def test_masks_hold_only_the_classes_of_their_image(prepared) -> None:
    labels = json.loads((prepared / "image_labels.json").read_text())
    files = sorted((prepared / "clip_masks").rglob("*.png"))
    assert len(files) == 8
    for file in files:
        name = str(file.relative_to(prepared / "clip_masks").with_suffix(""))
        values = set(torch.from_numpy(tiny.np.array(tiny.Image.open(file))).unique().tolist())
        assert values <= set(labels[name])


def kept(run: Path) -> list[str]:
    return sorted(file.name for file in run.glob("step_*"))


def same_content(one: Path, other: Path) -> bool:
    """Weights, momentum, queues and step of two checkpoints."""
    a, b = load_checkpoint(one), load_checkpoint(other)
    momenta = [c["optimizer"]["state"] for c in (a, b)]
    return (
        (a["step"], a["stage"], a["criterion"]) == (b["step"], b["stage"], b["criterion"])
        and all(torch.equal(a["model"][key], b["model"][key]) for key in b["model"])
        and all(
            torch.equal(momenta[0][i]["momentum_buffer"], momenta[1][i]["momentum_buffer"])
            for i in momenta[1]
        )
    )


def test_keep_leaves_every_checkpoint(prepared, tmp_path) -> None:
    arguments = ["--config", str(prepared / "config.yaml"), "--device", "cpu"]
    arguments += ["--set", "views=base", "--set", "checkpoint_every=3", "--keep-checkpoints"]
    warmup, carb = tmp_path / "warmup", tmp_path / "carb"
    train_warmup.main([*arguments, "--run-dir", str(warmup)])
    train_carb.main([*arguments, "--init", str(warmup / "warmup.pt"), "--run-dir", str(carb)])
    assert kept(warmup) == ["step_000003.pt", "step_000004.pt"]
    assert kept(carb) == ["step_000006.pt", "step_000008.pt"]
    assert same_content(warmup / "step_000004.pt", warmup / "last.pt")
    assert same_content(carb / "step_000008.pt", carb / "last.pt")
    assert not same_content(carb / "step_000006.pt", carb / "last.pt")
    assert load_checkpoint(carb / "step_000006.pt")["step"] == 6


def test_without_keep_the_last_two_checkpoints_are_the_only_ones(prepared, tmp_path) -> None:
    run_row(prepared, tmp_path, "base")
    found = {str(file.relative_to(tmp_path)) for file in tmp_path.rglob("*.pt")}
    names = ("warmup/last.pt", "warmup/previous.pt", "warmup/warmup.pt")
    assert found == {*names, "carb/last.pt", "carb/previous.pt"}
    steps = [load_checkpoint(tmp_path / name)["step"] for name in names]
    assert steps == [4, 2, 4]
    assert load_checkpoint(tmp_path / "carb/previous.pt")["step"] == 6


@pytest.mark.parametrize("balance", ["global", "class_agreement"])
def test_stopped_and_started_again_equals_uninterrupted(
    prepared, tmp_path, monkeypatch, balance
) -> None:
    """Weights, momentum, queues and logs, bit for bit, in both stages."""
    more = ("dual", "true", f"region_balance={balance}")
    whole = run_row(prepared, tmp_path / "whole", *more)
    stops = iter([3, 7])
    real = train_warmup.prepare_views

    def stopping(*arguments, **keywords):
        if arguments[1] == stop:
            raise KeyboardInterrupt
        return real(*arguments, **keywords)

    monkeypatch.setattr(train_warmup, "prepare_views", stopping)
    monkeypatch.setattr(train_carb, "prepare_views", stopping)
    for _ in range(2):
        stop = next(stops)
        with pytest.raises(KeyboardInterrupt):
            run_row(prepared, tmp_path / "broken", *more)
    stop = None
    broken = run_row(prepared, tmp_path / "broken", *more)
    one, other = (load_checkpoint(run / "last.pt") for run in (whole, broken))
    assert one["criterion"] == other["criterion"]
    assert all(torch.equal(one["model"][key], other["model"][key]) for key in one["model"])
    momenta = [c["optimizer"]["state"] for c in (one, other)]
    assert all(
        torch.equal(momenta[0][i]["momentum_buffer"], momenta[1][i]["momentum_buffer"])
        for i in momenta[0]
    )
    for stage in ("warmup", "carb"):
        lines = [tiny.read_metrics(tmp_path / run / stage) for run in ("whole", "broken")]
        for line in (*lines[0], *lines[1]):
            del line["images_per_second"]
        assert lines[0] == lines[1]


def test_the_same_command_again_changes_nothing_and_says_so(prepared, tmp_path, capsys) -> None:
    run = run_row(prepared, tmp_path, "base")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*.pt")}
    run_row(prepared, tmp_path, "base")
    assert capsys.readouterr().out.count("is finished; --overwrite starts over") == 2
    assert {file: file.read_bytes() for file in tmp_path.rglob("*.pt")} == before
    with pytest.raises(InputError, match=r"other settings \(lr: 0.01 -> 0.02\)"):
        run_row(prepared, tmp_path, "base", "true", "lr=0.02")
    assert run.is_dir()


def test_overwrite_starts_anew_but_only_in_a_run_folder(prepared, tmp_path) -> None:
    arguments = ["--config", str(prepared / "config.yaml"), "--device", "cpu", "--overwrite"]
    arguments += ["--set", "views=base", "--run-dir", str(tmp_path / "run")]
    train_warmup.main(arguments)
    (tmp_path / "run/notes.txt").write_text("of the user")
    train_warmup.main([*arguments, "--set", "lr=0.02"])
    assert (tmp_path / "run/notes.txt").exists()
    assert load_checkpoint(tmp_path / "run" / "last.pt")["config"]["lr"] == 0.02
    (tmp_path / "run/config.yaml").unlink()  # its weights are not those of the new one
    train_warmup.main([*arguments, "--set", "lr=0.03"])
    assert load_checkpoint(tmp_path / "run" / "last.pt")["config"]["lr"] == 0.03
    precious = tmp_path / "other" / "thesis.txt"
    precious.parent.mkdir()
    precious.write_text("a year's work")
    with pytest.raises(InputError, match="nothing was removed"):
        train_warmup.main([*arguments[:-1], str(precious.parent)])
    assert precious.exists()


def test_a_run_folder_that_was_copied_in_part_goes_on(prepared, tmp_path, capsys) -> None:
    arguments = ["--config", str(prepared / "config.yaml"), "--device", "cpu", "--set"]
    arguments += ["views=base", "--run-dir"]
    train_warmup.main([*arguments, str(tmp_path / "run")])
    other = tmp_path / "runs/other"
    other.mkdir(parents=True)
    for name in ("config.yaml", "last.pt"):
        shutil.copyfile(tmp_path / "run" / name, tmp_path / "runs" / name)
    living = other / "last.pt.host.4242.tmp"  # of another run, below
    living.touch()
    capsys.readouterr()
    train_warmup.main([*arguments, str(tmp_path / "runs")])
    assert "is finished" in capsys.readouterr().out and living.exists()


@pytest.mark.parametrize(
    "pick", ["unfinished", "other schedule", "other optimiser", "other network", "no CARB"]
)
def test_carb_refuses_an_unfit_warmup(prepared, tmp_path, pick) -> None:
    run_row(prepared, tmp_path, "base", "false", "checkpoint_every=2")
    change, message = {
        "unfinished": ("warmup_steps=5", "expected step 5, found 4"),
        "other schedule": ("steps=9", r"other settings \(steps: 8 -> 9\)"),
        "other optimiser": ("momentum=0", r"other settings \(momentum: 0.9 -> 0.0\)"),
        "other network": ("aspp=v2", r"other settings \(aspp: v3 -> v2\)"),
        "no CARB": ("carb=false", "carb: false has no second stage"),
    }[pick]
    arguments = ["--config", str(prepared / "config.yaml"), "--device", "cpu"]
    arguments += ["--set", "views=base", "--set", change, "--run-dir", str(tmp_path / "carb")]
    with pytest.raises(InputError, match=message):
        train_carb.main([*arguments, "--init", str(tmp_path / "warmup" / "warmup.pt")])
    assert not (tmp_path / "carb").exists()


def test_a_warmup_serves_other_carb_settings(prepared, tmp_path) -> None:
    run_row(prepared, tmp_path, "base", "false")
    init = ["--init", str(tmp_path / "warmup" / "warmup.pt")]
    arguments = ["--config", str(prepared / "config.yaml"), "--device", "cpu"]
    arguments += ["--set", "views=base", "--set", "region_weight=1", *init]
    train_carb.main([*arguments, "--run-dir", str(tmp_path / "fixed")])
    assert tiny.read_metrics(tmp_path / "fixed")[-1]["w"] == 1


def test_a_failed_start_leaves_nothing_and_removes_nothing(prepared, tmp_path) -> None:
    with pytest.raises(InputError, match="no-such-labels"):
        run_row(prepared, tmp_path, "base", "true", "image_labels=no-such-labels.json")
    assert not (tmp_path / "warmup").exists()
    run_row(prepared, tmp_path, "base", "false")
    arguments = ["--config", str(prepared / "config.yaml"), "--device", "cpu", "--overwrite"]
    arguments += ["--set", "image_labels=no-such-labels.json", "--set", "views=base"]
    with pytest.raises(InputError, match="no-such-labels"):
        train_warmup.main([*arguments, "--run-dir", str(tmp_path / "warmup")])
    assert load_checkpoint(tmp_path / "warmup" / "last.pt")["step"] == 8


_OPENED: list[str] | None = None


def _record(event: str, arguments: tuple) -> None:
    if event == "open" and _OPENED is not None:
        _OPENED.append(str(arguments[0]))


sys.addaudithook(_record)


@pytest.mark.parametrize("layout", ["cityscapes", "camvid ids", "camvid segnet", "folder"])
def test_no_ground_truth_file_is_opened_in_training(prepared, tmp_path, layout) -> None:
    """Every file that Python opens while both stages run, with ground truth lying beside it."""
    pictures = sorted((prepared / "data" / "leftImg8bit" / "train").rglob("*.png"))
    images, masks = {
        "cityscapes": ("leftImg8bit/train/{0}", "gtFine/train/{0}"),
        "camvid ids": ("img/train", "mask/train"),
        "camvid segnet": ("train", "trainannot"),
        "folder": ("images/train", "masks/train"),
    }[layout]
    labels = {}
    for i, picture in enumerate(pictures):
        city, stem = picture.parent.name, picture.name.removesuffix("_leftImg8bit.png")
        name, suffixes = stem, (".png", ".png")
        if layout == "cityscapes":
            name = f"{city}/{stem}"
            suffixes = ("_leftImg8bit.png", "_gtFine_labelTrainIds.png")
        for place, suffix in zip((images, masks), suffixes, strict=True):
            target = tmp_path / "data" / place.format(city) / f"{stem}{suffix}"
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(picture, target)
        labels[name] = [i % 19, (i + 5) % 19]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    sets = [f"dataset={layout.split()[0]}", f"data_root={tmp_path / 'data'}"]
    sets += [f"image_labels={tmp_path / 'labels.json'}"]
    global _OPENED
    _OPENED = []
    try:
        run_row(prepared, tmp_path / "run", "dual", "true", *sets)
        opened = _OPENED
    finally:
        _OPENED = None
    below = [path.removeprefix(f"{tmp_path / 'data'}/") for path in opened if "/data/" in path]
    folder = images.format("trainburg")
    assert {path for path in below if path.endswith(".png")} == {
        path.removeprefix(f"{tmp_path / 'data'}/")
        for path in map(str, (tmp_path / "data" / folder).rglob("*.png"))
    }


def test_a_loss_that_is_not_finite_stops_the_run(prepared, tmp_path) -> None:
    with pytest.raises(InputError, match=r"not finite at step \d.*trainburg"):
        run_row(prepared, tmp_path, "base", "true", "lr=1e30")
    assert not (tmp_path / "carb" / "last.pt").exists()


def test_the_same_seed_gives_the_same_bits_with_any_number_of_workers(prepared, tmp_path) -> None:
    first, *others = (
        run_row(prepared, tmp_path / f"{run}", "local", "false", f"num_workers={count}")
        for run, count in enumerate((0, 0, 1, 2))
    )
    for other in others:
        assert same_content(first / "last.pt", other / "last.pt")
        lines = [tiny.read_metrics(run) for run in (first, other)]
        for line in (*lines[0], *lines[1]):
            del line["images_per_second"]
        assert lines[0] == lines[1]


def test_two_processes_train_and_evaluate(prepared, tmp_path) -> None:
    def torchrun(script: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc_per_node=2", script, "--device", "cpu", *arguments]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr[-2000:]

    config = str(prepared / "config.yaml")
    torchrun("train_warmup.py", "--config", config, "--run-dir", str(tmp_path / "warmup"))
    init = str(tmp_path / "warmup" / "last.pt")
    torchrun(
        "train_carb.py", "--config", config, "--init", init, "--run-dir", str(tmp_path / "carb")
    )
    last = str(tmp_path / "carb" / "last.pt")
    assert len(load_checkpoint(last)["criterion"]) == 2
    torchrun("eval.py", "--ckpt", last, "--out", str(tmp_path / "two"))
    evaluation.main(["--ckpt", last, "--out", str(tmp_path / "one"), "--device", "cpu"])
    one, two = (json.loads((tmp_path / n / "metrics.json").read_text()) for n in ("one", "two"))
    assert one == two
    with pytest.raises(InputError, match="written by 2 process"):
        run_dir = ["--run-dir", str(tmp_path / "carb")]
        train_carb.main(["--config", config, "--init", init, "--device", "cpu", *run_dir])
