"""run_demo.sh from end to end at a tiny size, and demo/report.py."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import program
import pytest
import torch
import yaml
from PIL import Image
from tiny_clip import tiny_clip

from datasets.labels import load_classes
from demo import report as demo_report
from demo.make_scenes import write_dataset
from utils.config import load_config
from utils.safe.errors import InputError

CLASSES = load_classes("demo/classes.yaml")


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """The program in a path with spaces, with a random CLIP beside it."""
    copy = tmp_path_factory.mktemp("a copy") / "of the program"
    copy.mkdir()
    torch.save(tiny_clip(resnet=True).state_dict(), copy.parent / "tiny clip.pt")
    return program.copy(copy)


def start(copy: Path, *arguments: str, **variables: object) -> subprocess.Popen:
    """run_demo.sh from another folder, with nothing in the environment and a light network."""
    settings = {
        "clip_model": copy.parent / "tiny clip.pt",
        "prompt_templates": "single",
        "backbone": "resnet18_eighth",
        "output_stride": 8,
        "backbone_weights": None,
        "crop_size": [64, 128],
        "patch_size": [32, 64],
        "checkpoint_every": 1,
    }
    for key, value in settings.items():
        arguments += ("--set", f"{key}={json.dumps(value, default=str)}")
    environment = {"PATH": os.environ["PATH"], "HOME": "", "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        ["bash", str(copy / "run_demo.sh"), *arguments],
        env=environment | {key: str(value) for key, value in variables.items()},
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that a signal reaches all of it, as Ctrl-C does
    )


def run(copy: Path, *arguments: str, **variables: object) -> subprocess.CompletedProcess:
    process = start(copy, *arguments, **variables)
    out, err = process.communicate()
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def results(run_dir: Path) -> dict[str, int]:
    """When what counts was written: all but the image and the notes of a start."""
    notes = {"demo.png", ".began", "config.yaml", "inputs.json", "lock"}
    files = [path for path in run_dir.rglob("*") if path.is_file() and path.name not in notes]
    return {str(path.relative_to(run_dir)): path.stat().st_mtime_ns for path in files}


@pytest.mark.slow
def test_interrupted_then_finished_then_nothing_left_to_do(copy) -> None:
    variables = {"STEPS": 12, "WARMUP": 8, "SEED": 3, "SCENES": "train=4 val=2", "DEVICE": "cpu"}
    warmup = copy / "runs/demo/warmup"
    first = start(copy, **variables)
    while not (warmup / "last.pt").exists() and first.poll() is None:
        time.sleep(0.02)
    os.killpg(first.pid, signal.SIGINT)
    printed = first.communicate()
    assert first.returncode != 0 and not (warmup / "warmup.pt").exists(), printed
    assert "run the same command again" in printed[1] and "Traceback" not in printed[1]

    second = run(copy, **variables)
    assert second.returncode == 0, second.stderr
    stages = re.findall(r"^== (\d) ", second.stdout, re.MULTILINE)
    assert stages == ["1", "2", "3", "4", "5", "5", "6"]
    log = (warmup / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(1, 9))
    assert f"{warmup.relative_to(copy)}: steps 1 to 8" not in second.stdout
    trained = load_config(copy / "runs/demo/carb/config.yaml")
    assert (trained.steps, trained.warmup_steps, trained.seed) == (12, 8, 3)
    rows = re.findall(r"^\| ([^|]+) \| (\S+) \| (\S+) \|", second.stdout, re.MULTILINE)
    assert [row[:2] for row in rows] == [
        ("CLIP pseudo-masks", "-"),
        ("warm-up", "8"),
        ("CARB", "12"),
    ]
    for row, file in zip(
        rows,
        ("masks_val/score", *(f"{s}/eval_val/metrics" for s in ("warmup", "carb"))),
        strict=True,
    ):
        content = json.loads((copy / f"runs/demo/{file}.json").read_text())
        assert row[2] == f"{100 * content['miou']:.1f}"
    with Image.open(copy / "runs/demo/demo.png") as image:
        assert image.width > 5 * 320 and image.height > 2 * 160
    before = results(copy / "runs/demo")

    third = run(copy, **variables)
    assert third.returncode == 0, third.stderr
    for part in ("0 of them new", "step 8, is finished", "step 12, is finished"):
        assert part in third.stdout
    assert third.stdout.count("metrics.json exists already") == 2
    assert third.stdout.endswith(second.stdout[second.stdout.index("== 6 report") :])
    assert results(copy / "runs/demo") == before

    other = run(copy, **variables | {"STEPS": 13})
    assert other.returncode == 2 and "Traceback" not in other.stderr
    assert "steps: 12 -> 13" in other.stderr and "need another --out" in other.stderr


@pytest.mark.slow
def test_stored_masks_without_carb_in_a_folder_of_ones_own(copy, tmp_path) -> None:
    data, out = tmp_path / "my scenes #1: few", tmp_path / "my run #1"
    variables = {"STEPS": 2, "SCENES": "train=3 val=2", "SCENE_SEED": 5, "SPLIT": "train"}
    options = ["--set", "views=base", "carb=false", "--device=cpu", f"--data={data}", "--out", out]
    done = run(copy, *map(str, options), **variables)
    assert done.returncode == 0, done.stderr
    assert len(list((data / "clip_masks").rglob("*.png"))) == 3
    assert json.loads((data / "meta.json").read_text())["seed"] == 5
    assert (data / "clip_text.pt").exists() and not (out / "carb").exists()
    assert not (tmp_path / "my scenes").exists() and not (tmp_path / "my run").exists()
    assert "| warm-up | 2 |" in done.stdout and "| CARB |" not in done.stdout
    assert "the 3 images of 'train', trained on" in done.stdout
    assert "no training step saw" not in done.stdout and "CARB's own gain" not in done.stdout


@pytest.mark.slow
def test_several_seeds_end_with_their_mean(copy) -> None:
    done = run(
        copy,
        "--split",
        "train",
        STEPS=2,
        SCENES="train=2 val=1",
        SEEDS=2,
        DEVICE="cpu",
        DATA="data/two",
    )
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        trained = load_config(copy / f"runs/demo_seeds/seed_{seed}/carb/config.yaml")
        assert trained.seed == seed
    assert "seed_1/masks_train: 2 masks, 0 of them new" in done.stdout
    assert re.search(r"^\| CARB \| 2 \| \d+\.\d( ± \d+\.\d)? \|", done.stdout, re.MULTILINE)
    assert "Mean and standard deviation of 2 seeds." in done.stdout


def test_what_it_cannot_use_is_said_before_anything_is_written(copy, tmp_path) -> None:
    where = {"RUN": tmp_path / "run", "DATA": tmp_path / "data"}
    for arguments, variables, message in (
        (("--overwrite",), {}, "found: --overwrite"),
        ((), {"STEPS": "many"}, "STEPS must be a number, found: many"),
        ((), {"SEEDS": "0"}, "SEEDS must be a number, found: 0"),
        (("--gpus", "0"), {}, "--gpus (NGPU) must be a number from 1 on, found: 0"),
        ((), {"STEPS": "1"}, "'warmup_steps' must be at least 1"),
        (("--set", "lrr=1"), {}, "did you mean 'lr'"),
    ):
        done = run(copy, *arguments, **where, **variables)
        assert done.returncode == 2 and done.stdout == ""
        assert message in done.stderr and done.stderr.count("error:") == 1
        assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- the report


@pytest.fixture
def folder(tmp_path) -> Path:
    """What run_demo.sh leaves behind, of three scenes; every mask is of one class."""
    write_dataset(tmp_path / "data", {"train": 1, "val": 3}, seed=1)
    run_dir = tmp_path / "run"
    numbers = {"split": "val", "num_images": 3}
    kinds = (("masks_val", "score", 2), ("warmup", "metrics", 7), ("carb", "metrics", 11))
    for kind, name, class_id in kinds:
        out = run_dir / kind
        if kind != "masks_val":
            out = out / "eval_val"
            numbers["step"] = 10 * class_id
        masks = out if kind == "masks_val" else out / "predictions"
        masks.mkdir(parents=True)
        numbers |= {"miou": class_id / 30, "miou_small": None, "miou_large": 0.5}
        (out / f"{name}.json").write_text(json.dumps(numbers))
        for i in range(3):
            mask = np.full((160, 320), class_id, np.uint8)
            Image.fromarray(mask).save(masks / f"val_{i:06d}.png")
    config = load_config("configs/tiny_cpu.yaml").to_dict() | {
        "data_root": str(tmp_path / "data"),
        "class_file": "demo/classes.yaml",
    }
    (run_dir / "warmup/config.yaml").write_text(yaml.safe_dump(config))
    (run_dir / "seconds.tsv").write_text("scenes\t2\nwarm-up\t30\nCARB\t9\nwarm-up\t4\n")
    return run_dir


def test_table_time_and_what_comes_next(folder, capsys) -> None:
    demo_report.main([str(folder)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[:5] == [
        "| | steps | mIoU | small classes | large classes |",
        "|---|---|---|---|---|",
        "| CLIP pseudo-masks | - | 6.7 | - | 50.0 |",
        "| warm-up | 70 | 23.3 | - | 50.0 |",
        "| CARB | 110 | 36.7 | - | 50.0 |",
    ]
    text = "\n".join(lines)
    assert "the 3 images of 'val', which no training step saw" in text
    assert "CARB's own gain" in text.replace("\n", " ") and "scripts/demo_ablation.sh" in text
    network = shlex.quote(str(folder / "carb/last.pt"))
    assert f".venv/bin/python predict.py --ckpt {network} IMAGES --out FOLDER" in text
    assert "Small: pole, traffic light, traffic sign, pedestrian, rider." in text
    assert "45 s in all: scenes 2, warm-up 34, CARB 9." in text
    assert "About demo.png: 3 evenly spaced images" in text
    assert (
        "nearly the same:\nfence and pole; traffic light and traffic sign; pedestrian and" in text
    )
    for part in (folder / "demo.png", folder / "carb/last.pt", "run_cityscapes.sh", "run.sh"):
        assert str(part) in text
    for script in re.findall(r"[\w/]+\.sh", text):
        assert (program.ROOT / script).is_file(), script


def with_classes(run_dir: Path, stage: str, **iou: float | None) -> None:
    """Write the IoU of classes into a stage's metrics.json."""
    path = run_dir / stage / "eval_val/metrics.json"
    content = json.loads(path.read_text())
    content["classes"] = {name: {"iou": value} for name, value in iou.items()}
    path.write_text(json.dumps(content))


def test_gained_and_lost_classes_are_named(folder, capsys) -> None:
    before = {"road": 0.5, "sky": 0.6, "car": 0.1, "tree": 0.2, "pole": 0.3, "fence": None}
    with_classes(folder, "warmup", **before, rider=0.05, building=0.4)
    after = {"road": 0.45, "sky": 0.6, "car": 0.15, "tree": 0.4, "pole": 0.31, "fence": 0.2}
    with_classes(folder, "carb", **after, rider=0.0, building=0.43)
    demo_report.main([str(folder)])
    text = capsys.readouterr().out
    assert "CARB gained: tree 20.0 -> 40.0, car 10.0 -> 15.0, building 40.0 -> 43.0 and 1" in text
    assert "CARB lost: rider 5.0 -> 0.0, road 50.0 -> 45.0.\n" in text  # ties by name
    with_classes(folder, "carb", **before, rider=0.05, building=0.4)
    demo_report.main([str(folder)])
    text = capsys.readouterr().out
    assert "CARB gained: no class.\nCARB lost: no class.\n" in text


def test_mean_and_spread_over_seeds(folder, capsys) -> None:
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    for run_dir, miou, sky in ((folder, 0.30, 0.5), (other, 0.34, 0.8)):
        path = run_dir / "carb/eval_val/metrics.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"miou": miou}))
        with_classes(run_dir, "warmup", sky=0.4)
        with_classes(run_dir, "carb", sky=sky)
    demo_report.main([str(folder), str(other)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| CLIP pseudo-masks | - | 6.7 | - | 50.0 |"
    assert lines[4] == "| CARB | 110 | 32.0 ± 2.8 | - | 50.0 |"
    assert "Mean and standard deviation of 2 seeds." in lines
    assert lines[-2:] == ["CARB gained: sky 40.0 -> 65.0.", "CARB lost: no class."]
    assert not (folder / "demo.png").exists()
    shutil.rmtree(other / "carb")
    with pytest.raises(InputError, match="different stages"):
        demo_report.main([str(folder), str(other)])


def test_images_trained_on_are_not_called_unseen(folder, capsys) -> None:
    config = folder / "warmup/config.yaml"
    config.write_text(config.read_text().replace("train_split: train", "train_split: val"))
    demo_report.main([str(folder)])
    text = capsys.readouterr().out
    assert "the 3 images of 'val', trained on." in text and "no training step saw" not in text


def test_without_carb_nothing_is_said_of_its_gain(folder, capsys) -> None:
    shutil.rmtree(folder / "carb")
    demo_report.main([str(folder)])
    text = capsys.readouterr().out
    assert "CARB's own gain" not in text and str(folder / "warmup/last.pt") in text


def test_image_shows_every_column_and_the_legend(folder) -> None:
    demo_report.main([str(folder), "--images", "2"])
    with Image.open(folder / "demo.png") as image:
        pixels = np.array(image)
    step = 320 + 6
    with Image.open(folder.parent / "data/images/val/val_000000.jpg") as image:
        first = np.array(image)
    top = next(y for y in range(200) if np.array_equal(pixels[y, 6:326], first[0]))
    with Image.open(folder.parent / "data/images/val/val_000001.jpg") as image:
        second = np.array(image)[0]
    lower = next(y for y in range(top + 160, 450) if np.array_equal(pixels[y, 6:326], second))
    assert (pixels[top + 166 : lower - 6, 6:326] < 128).any()  # its image id stands above it
    for name, y in (("val_000000", top), ("val_000001", lower)):
        panels = [pixels[y : y + 160, 6 + k * step :][:, :320] for k in range(5)]
        with Image.open(folder.parent / f"data/images/val/{name}.jpg") as image:
            assert np.array_equal(panels[0], np.array(image))
        with Image.open(folder.parent / f"data/masks/val/{name}.png") as mask:
            assert np.array_equal(panels[1], CLASSES.palette[np.array(mask)])
        for panel, class_id in zip(panels[2:], (2, 7, 11), strict=True):
            assert (panel == CLASSES.palette[class_id]).all()
    below = pixels[lower + 160 + 6 :]
    for color in CLASSES.palette:
        assert (below == color).all(-1).sum() > 300
    # headings and legend are inside: white at the rim
    for rim in (pixels[:4], pixels[-4:], pixels[:, :4], pixels[:, -4:]):
        assert (rim == 255).all()


def test_a_report_that_cannot_be_made(folder) -> None:
    score = folder / "masks_val/score.json"
    whole = score.read_text()
    for text, message in (
        (json.dumps(json.loads(whole) | {"num_images": 2}), "scored on different images"),
        ("{", "score.json can't be read"),
    ):
        score.write_text(text)
        with pytest.raises(InputError, match=message):
            demo_report.main([str(folder)])
    score.write_text(whole)
    (folder / "seconds.tsv").write_text("warm-up\n")
    with pytest.raises(InputError, match=r"seconds\.tsv: expected .*'warm-up'"):
        demo_report.main([str(folder)])
    (folder / "carb/eval_val/metrics.json").unlink()
    with pytest.raises(
        InputError, match=r"no .*carb/eval_val/metrics\.json; make it with bash run_demo\.sh"
    ):
        demo_report.main([str(folder)])


def test_help_names_every_option(copy) -> None:
    for arguments in (["--help"], ["-h"], ["--set", "seed=1", "--help"]):
        command = ["bash", str(copy / "run_demo.sh"), *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0 and done.stderr == ""
        for option in ("--gpus", "--data", "--out", "--split", "--set", "--device"):
            assert f"\n{option} " in done.stdout
        assert "set -euo" not in done.stdout and "demo/config.yaml" in done.stdout
