"""eval.py and predict.py on generated data: numbers, exports, ranks, and what a user gets wrong."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import golden_path
from PIL import Image
from test_shards import pack

import eval as evaluation
import predict
from datasets.labels import load_classes
from datasets.transforms import normalize
from models.build import build_model
from models.trained import load_trained
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import load_config
from utils.metrics import ConfusionMatrix
from utils.safe.errors import InputError
from utils.visualize import colourize

ROOT = Path(__file__).resolve().parent.parent
SIZES = [(40, 56), (48, 64), (30, 44)]  # (height, width): one kept, two resized


def _picture(rng: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    small = rng.integers(0, 256, (4, 5, 3)).astype(np.uint8)
    return Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.BILINEAR)


def _write_config(path: Path, **changes) -> Path:
    values = yaml.safe_load((ROOT / "configs" / "tiny_cpu.yaml").read_text())
    path.write_text(yaml.safe_dump(values | changes))
    return path


def _write_checkpoint(path: Path, config_path: Path) -> Path:
    torch.manual_seed(3)
    config, classes = load_config(config_path), load_classes(load_config(config_path).class_file)
    text = torch.nn.functional.normalize(torch.randn(len(classes), 16), dim=1)
    model = build_model(config, len(classes), text)
    content = {
        "stage": "carb",
        "step": 8,
        "model": model.state_dict(),
        "config": config.to_dict(),
        "class_names": list(classes.names),
        "palette": classes.palette.tolist(),
    }
    save_checkpoint(path, content)
    return path


@pytest.fixture
def folder(tmp_path) -> dict[str, Path]:
    """A 'folder' data set of five pictures with ground truth, its config and a checkpoint."""
    rng = np.random.default_rng(0)
    data = tmp_path / "data"
    for kind in ("images", "masks"):
        (data / kind / "val").mkdir(parents=True)
    for i in range(5):
        size = SIZES[i % 3]
        _picture(rng, size).save(data / "images" / "val" / f"p{i}.jpg")
        mask = rng.integers(0, 4, size).astype(np.uint8)
        mask[:, :4] = 255
        Image.fromarray(mask).save(data / "masks" / "val" / f"p{i}.png")
    (data / "classes.yaml").write_text("classes: [road, car, sky, tree]\n")
    config = _write_config(
        tmp_path / "config.yaml", data_root=str(data), class_file=str(data / "classes.yaml")
    )
    ckpt = _write_checkpoint(tmp_path / "run" / "last.pt", config)
    return {"data": data, "config": config, "ckpt": ckpt, "tmp": tmp_path}


def _metrics(path: Path) -> dict:
    return json.loads((path / "metrics.json").read_text())


def test_metrics_are_those_of_the_network_at_original_size(folder, capsys):
    evaluation.main(["--ckpt", str(folder["ckpt"]), "--device", "cpu"])
    found = _metrics(folder["tmp"] / "run" / "eval_val")
    model = load_trained(folder["ckpt"]).model
    matrix = ConfusionMatrix(4)
    for i in range(5):
        with Image.open(folder["data"] / "images" / "val" / f"p{i}.jpg") as picture:
            image = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        height, width = image.shape[1:]
        factor = min(64 / max(height, width), 48 / min(height, width))
        size = (int(height * factor + 0.5), int(width * factor + 0.5))
        image = torch.nn.functional.interpolate(image[None], size, mode="bilinear")
        with torch.no_grad():
            logits = model(normalize(image, "imagenet"))
        for step in (size, (height, width)):
            logits = torch.nn.functional.interpolate(logits, step, mode="bilinear")
        with Image.open(folder["data"] / "masks" / "val" / f"p{i}.png") as mask:
            matrix.update(logits.argmax(1)[0], torch.from_numpy(np.array(mask)))
    assert found["miou"] == matrix.miou()
    assert found["classes"] == matrix.to_dict(["road", "car", "sky", "tree"])["classes"]
    assert found["num_images"] == 5 and found["split"] == "val" and found["step"] == 8
    assert found["inference"]["scales"] == [1.0] and found["inference"]["precision"] == "fp32"
    printed = capsys.readouterr().out
    assert f"{100 * matrix.miou():.2f}" in printed and "metrics.json" in printed


def test_small_classes_are_those_of_the_class_file_now(folder, capsys):
    """A checkpoint does not hold them, and is evaluated without the class file too; not with one
    that has other classes now."""
    run = ["--ckpt", str(folder["ckpt"]), "--device", "cpu", "--out"]
    file, out = folder["data"] / "classes.yaml", folder["tmp"]
    evaluation.main([*run, str(out / "unmarked")])
    assert "mean small" not in capsys.readouterr().out
    file.write_text("classes: [road, {name: car, small: true}, sky, tree]\n")
    evaluation.main([*run, str(out / "marked")])
    assert "mean small" in capsys.readouterr().out
    found = _metrics(out / "marked")
    ious = [found["classes"][name]["iou"] for name in ("road", "sky", "tree")]
    assert found["miou_small"] == found["classes"]["car"]["iou"]
    assert found["miou_large"] == pytest.approx(np.mean(ious))
    file.write_text("classes: [road, car, {name: lake, small: true}, tree]\n")
    with pytest.raises(InputError, match="'sky' where the class file has 'lake'"):
        evaluation.main([*run, str(out / "other names")])
    file.unlink()
    evaluation.main([*run, str(out / "no file")])
    assert _metrics(out / "no file") == _metrics(out / "unmarked")


def test_evaluation_may_be_repeated_and_options_reach_the_network(folder):
    out = folder["tmp"] / "out"
    base = ["--ckpt", str(folder["ckpt"]), "--device", "cpu", "--out", str(out)]
    evaluation.main(base)
    first = _metrics(out)
    evaluation.main(base)
    assert _metrics(out) == first
    options = ["--scales", "0.5", "1.0", "--flip", "--window", "24", "32", "--stride", "12", "16"]
    evaluation.main([*base, *options, "--bf16", "--overwrite"])
    second = _metrics(out)
    assert second["inference"] == {
        "scales": [0.5, 1.0],
        "flip": True,
        "window": [24, 32],
        "stride": [12, 16],
        "precision": "bf16",
    }
    assert second["miou"] != first["miou"]
    assert not list(out.glob("*.tmp"))


def test_another_evaluation_is_never_overwritten_unasked(folder, monkeypatch):
    ckpt, out = folder["ckpt"], folder["tmp"] / "out"
    base = ["--device", "cpu", "--out", str(out), "--ckpt"]
    evaluation.main([*base, str(ckpt)])
    before = (out / "metrics.json").read_text()
    monkeypatch.chdir(ckpt.parent)
    evaluation.main([*base, "last.pt"])  # the same file
    before = before.replace(str(ckpt), "last.pt")
    assert (out / "metrics.json").read_text() == before

    other = ckpt.with_name("other.pt")
    shutil.copy(ckpt, other)
    later = load_checkpoint(ckpt) | {"step": 9}
    monkeypatch.setattr(evaluation, "predictions", lambda *_: pytest.fail("refused too late"))

    def refused(message, *arguments):
        with pytest.raises(InputError, match=rf"metrics\.json .*{message}.*--out.*--overwrite"):
            evaluation.main([*base, *arguments])
        assert (out / "metrics.json").read_text() == before

    refused(r"another checkpoint \(", str(other))
    refused(r"another inference \(", "last.pt", "--flip")
    refused(r"another inference \(", "last.pt", "--bf16")
    refused(r"another image_size \(", "last.pt", "--set", "image_size=[24, 32]")
    save_checkpoint(ckpt, later)
    refused(r"another step \(step: 8 -> 9\)", "last.pt")
    (out / "metrics.json").write_text(before[:50])
    before = before[:50]
    refused("can't be read", "last.pt")
    monkeypatch.undo()
    evaluation.main([*base, str(ckpt), "--overwrite"])
    assert _metrics(out)["step"] == 9


def test_output_folders_that_cannot_be_written_are_named_before_the_loop(folder, monkeypatch):
    file = folder["tmp"] / "file"
    file.write_text("")
    monkeypatch.setattr(evaluation, "predictions", lambda *_: pytest.fail("refused too late"))
    arguments = ["--ckpt", str(folder["ckpt"]), "--device", "cpu", "--out"]
    for out in (file, file / "below"):
        with pytest.raises(InputError, match=f"--out {out}: (File exists|Not a directory); name"):
            evaluation.main([*arguments, str(out)])
        with pytest.raises(InputError, match=f"--out {out}: (File exists|Not a directory); name"):
            predict.main([*arguments, str(out), str(folder["data"] / "images")])


@pytest.mark.parametrize("scale", ["0", "-1", "100000", "nan", "wide"])
def test_scales_out_of_bounds(scale, capsys):
    with pytest.raises(SystemExit) as stopped:
        evaluation.main(["--ckpt", "x", "--scales", "1", scale])
    assert stopped.value.code == 2
    assert "argument --scales: " in capsys.readouterr().err


def test_pictures_and_predictions(folder):
    out = folder["tmp"] / "out"
    evaluation.main(
        ["--ckpt", str(folder["ckpt"]), "--device", "cpu", "--out", str(out), "--save-vis"]
    )
    assert not (out / "predictions").exists()
    classes = load_classes(folder["data"] / "classes.yaml")
    matrix = ConfusionMatrix(4)
    for i in range(5):
        ids = np.array(Image.open(out / "vis" / f"p{i}.png"))
        truth = np.array(Image.open(folder["data"] / "masks" / "val" / f"p{i}.png"))
        matrix.update(torch.from_numpy(ids), torch.from_numpy(truth))
        shown = np.array(Image.open(out / "vis" / f"p{i}.png").convert("RGB"))
        np.testing.assert_array_equal(shown, colourize(ids, classes.palette))
        assert Image.open(out / "vis" / f"p{i}_overlay.png").size == shown.shape[1::-1]
    assert (out / "vis" / "legend.png").is_file()
    assert _metrics(out)["miou"] == matrix.miou()


def _cityscapes(tmp_path: Path) -> tuple[Path, list[str]]:
    rng = np.random.default_rng(1)
    root, stems = tmp_path / "cityscapes", []
    for split, city in (("test", "berlin"), ("test", "bonn"), ("val", "munster")):
        folder = root / "leftImg8bit" / split / city
        folder.mkdir(parents=True)
        for frame in (19, 20):
            stem = f"{city}_000001_{frame:06d}"
            _picture(rng, (32, 64)).save(folder / f"{stem}_leftImg8bit.png")
            if split == "test":
                stems.append(stem)
    return root, stems


def test_submission_holds_label_ids_of_every_test_image(tmp_path, capsys):
    labels = pytest.importorskip("cityscapesscripts.helpers.labels")
    tool = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    root, stems = _cityscapes(tmp_path)
    config = _write_config(
        tmp_path / "config.yaml",
        dataset="cityscapes",
        data_root=str(root),
        class_file=str(ROOT / "datasets" / "classes" / "cityscapes.yaml"),
    )
    ckpt = _write_checkpoint(tmp_path / "last.pt", config)
    submission, out = tmp_path / "submission", tmp_path / "out"
    arguments = ["--ckpt", str(ckpt), "--device", "cpu", "--split", "test", "--out", str(out)]
    with pytest.raises(InputError, match=r"no ground truth.*--export-submission"):
        evaluation.main(arguments)
    evaluation.main([*arguments, "--export-submission", str(submission), "--save-predictions"])
    assert str(submission) in capsys.readouterr().out
    with pytest.raises(InputError, match=r"submission\.zip is a finished.*--overwrite"):
        evaluation.main([*arguments, "--export-submission", str(submission)])
    assert not (out / "metrics.json").exists()
    for stem in stems:
        # Found by the server's own search, which refuses more than one file per image.
        tool.args.predictionPath, tool.args.predictionWalk = str(submission), None
        file = tool.getPrediction(tool.args, f"{stem}_gtFine_labelIds.png")
        ids = np.array(Image.open(file))
        train_ids = np.array(Image.open(out / "predictions" / stem.split("_")[0] / f"{stem}.png"))
        expected = [labels.trainId2label[int(k)].id for k in train_ids.ravel()]
        assert ids.shape == (32, 64) and ids.ravel().tolist() == expected
    with zipfile.ZipFile(tmp_path / "submission.zip") as archive:
        assert len(archive.namelist()) == len(stems) == 4
        assert archive.testzip() is None
        assert all("/" not in name for name in archive.namelist())


def test_submission_of_another_data_set_is_refused(folder):
    arguments = ["--ckpt", str(folder["ckpt"]), "--device", "cpu", "--export-submission", "x"]
    with pytest.raises(InputError, match="Cityscapes server"):
        evaluation.main(arguments)


@pytest.mark.slow
def test_two_processes_write_the_numbers_of_one(folder):
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    results = []
    for processes in (1, 2):
        out = folder["tmp"] / f"out{processes}"
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
        script = ["eval.py", "--ckpt", str(folder["ckpt"]), "--device", "cpu", "--out", str(out)]
        subprocess.run(
            [sys.executable, *launcher * (processes - 1), *script, "--save-predictions"],
            cwd=ROOT,
            env=environment,
            check=True,
            timeout=300,
        )
        names = sorted(p.name for p in (out / "predictions").iterdir())
        results.append(((out / "metrics.json").read_text(), names))
    assert results[0] == results[1]
    assert len(results[0][1]) == 5  # five images on two ranks: none twice, none left out


# --- the authors' checkpoints


def _official_data(tmp_path: Path, num_classes: int) -> Path:
    rng = np.random.default_rng(2)
    data = tmp_path / "official"
    for kind in ("images", "masks"):
        (data / kind / "val").mkdir(parents=True)
    _picture(rng, (40, 56)).save(data / "images" / "val" / "a.png")
    mask = rng.integers(0, num_classes, (40, 56)).astype(np.uint8)
    Image.fromarray(mask).save(data / "masks" / "val" / "a.png")
    names = [f"class {k}" for k in range(num_classes)]
    (data / "classes.yaml").write_text(yaml.safe_dump({"classes": names}))
    return _write_config(
        tmp_path / "official.yaml", data_root=str(data), class_file=str(data / "classes.yaml")
    )


def test_golden_official_checkpoint_evaluates(tmp_path, capsys):
    path = golden_path("official_checkpoint.pth")
    num_classes = len(load_checkpoint(path)["state_dict"]["decode_head.text_embeddings"])
    config = _official_data(tmp_path, num_classes)
    base = ["--ckpt", str(path), "--device", "cpu", "--out", str(tmp_path / "out")]
    with pytest.raises(InputError, match="--config configs/official/"):
        evaluation.main(base)
    evaluation.main([*base, "--config", str(config)])
    found = _metrics(tmp_path / "out")
    assert found["stage"] == "official" and len(found["classes"]) == num_classes
    shown = capsys.readouterr().out
    theirs = load_checkpoint(path)["meta"]["CLASSES"]
    assert f"note: {num_classes} of {num_classes} class names" in shown
    assert f"the first is '{theirs[0]}', here 'class 0'" in shown
    names = {"classes": [name.upper() for name in theirs]}  # the case does not matter
    (tmp_path / "official" / "classes.yaml").write_text(yaml.safe_dump(names))
    evaluation.main([*base, "--config", str(config)])
    assert "note:" not in capsys.readouterr().out


def test_golden_official_checkpoint_of_another_class_count(tmp_path):
    path = golden_path("official_checkpoint.pth")
    num_classes = len(load_checkpoint(path)["state_dict"]["decode_head.text_embeddings"])
    config = _official_data(tmp_path, num_classes + 4)
    with pytest.raises(InputError, match=rf"has {num_classes} classes.* has {num_classes + 4}"):
        evaluation.main(["--ckpt", str(path), "--config", str(config), "--device", "cpu"])


# --- masks


def _masks(folder, values) -> tuple[Path, list[str]]:
    """Masks of another program; `values` gives the ids of one from those of the ground truth."""
    masks = folder["tmp"] / "masks"
    masks.mkdir()
    for i in range(5):
        truth = np.array(Image.open(folder["data"] / "masks" / "val" / f"p{i}.png"))
        Image.fromarray(values(truth).astype(np.uint8)).save(masks / f"p{i}.png")
    return masks, ["--masks", str(masks), "--config", str(folder["config"]), "--device", "cpu"]


def _half(truth: np.ndarray) -> np.ndarray:
    """Wrong by one class below, without a label in every second column."""
    mask = np.where(truth == 255, 0, truth)
    mask[20:] = (mask[20:] + 1) % 4
    mask[:, ::2] = 255
    return mask


def test_masks_of_any_program_are_scored_where_they_have_labels(folder, capsys):
    masks, arguments = _masks(folder, _half)
    evaluation.main([*arguments, "--save-vis"])
    counts, known, given = np.zeros((4, 4), np.int64), 0, 0
    for i in range(5):
        truth = np.array(Image.open(folder["data"] / "masks" / "val" / f"p{i}.png"))
        mask = np.array(Image.open(masks / f"p{i}.png"))
        both = (truth != 255) & (mask != 255)
        np.add.at(counts, (truth[both], mask[both]), 1)
        known, given = known + (truth != 255).sum(), given + both.sum()
        shown = np.array(Image.open(folder["tmp"] / "masks_vis" / f"p{i}_overlay.png"))
        assert shown.shape == (*truth.shape, 3)
    right = counts.diagonal()
    found = json.loads((masks / "score.json").read_text())
    iou = right / (counts.sum(0) + counts.sum(1) - right)
    assert found["miou"] == pytest.approx(iou.mean(), abs=1e-12)
    assert found["confusion"] == counts.tolist()
    assert found["labelled_pixels"] == pytest.approx(given / known) and found["num_images"] == 5
    assert f"labelled pixels: {100 * given / known:.2f} %" in capsys.readouterr().out
    assert not [*masks.glob("*/")] and len([*masks.iterdir()]) == 6


def test_scores_of_masks_are_replaced_when_asked_only(folder):
    _, arguments = _masks(folder, _half)
    evaluation.main(arguments)
    evaluation.main(arguments)
    other = folder["tmp"] / "scores"
    evaluation.main([*arguments, "--out", str(other), "--save-vis"])
    assert {path.name for path in other.iterdir()} == {"score.json", "vis"}
    (folder["tmp"] / "masks").rename(folder["tmp"] / "moved")
    arguments[1] = str(folder["tmp"] / "moved")
    evaluation.main(arguments)
    with pytest.raises(InputError, match=r"another masks \(.*--overwrite"):
        evaluation.main([*arguments, "--out", str(other)])


def test_masks_without_ground_truth_can_be_looked_at(folder):
    shutil.rmtree(folder["data"] / "masks")
    (folder["data"] / "masks").mkdir()
    masks = folder["tmp"] / "masks"
    masks.mkdir()
    for i in range(5):
        Image.fromarray(np.zeros(SIZES[i % 3], np.uint8)).save(masks / f"p{i}.png")
    arguments = ["--masks", str(masks), "--config", str(folder["config"]), "--device", "cpu"]
    with pytest.raises(InputError, match=r"5 of 5 images have no ground truth.*add --save-vis"):
        evaluation.main(arguments)
    evaluation.main([*arguments, "--save-vis"])
    assert len([*(folder["tmp"] / "masks_vis").iterdir()]) == 6 and len([*masks.iterdir()]) == 5


def test_masks_that_do_not_fit(folder, capsys):
    masks, arguments = _masks(folder, _half)
    for wrong in (["--ckpt", "x"], ["--flip"], ["--scales", "2"], ["--save-predictions"]):
        with pytest.raises(SystemExit):
            evaluation.main([*arguments, *wrong])
        assert wrong[0] in capsys.readouterr().err
    with pytest.raises(SystemExit):
        evaluation.main(arguments[:2])
    assert "--masks needs --config" in capsys.readouterr().err
    Image.fromarray(np.full(SIZES[1], 4, np.uint8)).save(masks / "p1.png")
    with pytest.raises(InputError, match=r"p1\.png holds the ids \[4\]; expected 0 to 3 or 255"):
        evaluation.main(arguments)
    Image.fromarray(np.zeros((9, 9), np.uint8)).save(masks / "p1.png")
    with pytest.raises(InputError, match=r"p1\.png is 9x9 .*, its image 48x64"):
        evaluation.main(arguments)
    (masks / "p1.png").unlink()
    with pytest.raises(
        InputError, match=r"1 of 5 pseudo-masks are missing, the first is .*p1\.png"
    ):
        evaluation.main(arguments)
    meta = {"made_from": {"class_names": ["road", "car", "sky", "sea"], "split": "train"}}
    (masks / "meta.json").write_text(json.dumps(meta))
    with pytest.raises(InputError, match="'sea' where the class file has 'tree'"):
        evaluation.main([*arguments, "--split", "val"])
    with pytest.raises(InputError, match="no split 'train'|no images"):  # the masks' own
        evaluation.main(arguments)


# --- what a user gets wrong


def test_checkpoints_that_do_not_fit(folder):
    ckpt = str(folder["ckpt"])
    with pytest.raises(InputError, match="no checkpoint at"):
        evaluation.main(["--ckpt", str(folder["tmp"] / "gone.pt")])
    torch.save({"weights": 1}, folder["tmp"] / "other.pt")
    with pytest.raises(InputError, match=r"neither .* found keys weights"):
        evaluation.main(["--ckpt", str(folder["tmp"] / "other.pt")])
    with pytest.raises(InputError, match="another network than the config"):
        evaluation.main(["--ckpt", ckpt, "--set", "backbone=resnet34"])
    with pytest.raises(InputError, match="unknown key 'bakbone'"):
        evaluation.main(["--ckpt", ckpt, "--set", "bakbone=resnet34"])
    with pytest.raises(InputError, match="key=value"):
        evaluation.main(["--ckpt", ckpt, "--set", "backbone"])
    three = folder["tmp"] / "three.yaml"
    three.write_text("classes: [a, b, c]\n")
    with pytest.raises(InputError, match=r"4 classes.*three\.yaml has 3"):
        evaluation.main(["--ckpt", ckpt, "--set", f"class_file={three}"])


def test_data_that_do_not_fit(folder):
    arguments = ["--ckpt", str(folder["ckpt"]), "--device", "cpu"]
    with pytest.raises(InputError, match="no split 'nowhere'"):
        evaluation.main([*arguments, "--split", "nowhere"])
    with pytest.raises(InputError, match="no folder"):
        evaluation.main([*arguments, "--set", "data_root=nowhere"])
    with pytest.raises(InputError, match="--stride needs --window"):
        evaluation.main([*arguments, "--stride", "8", "8"])
    (folder["data"] / "masks" / "val" / "p1.png").unlink()
    with pytest.raises(InputError, match="1 of 5 images have no ground truth, the first is 'p1'"):
        evaluation.main(arguments)


def test_foreign_ids_in_the_ground_truth_are_pointed_out(folder, capsys):
    path = folder["data"] / "masks" / "val" / "p0.png"
    mask = np.array(Image.open(path))
    mask[0, 10:17] = 9
    Image.fromarray(mask).save(path)
    evaluation.main(["--ckpt", str(folder["ckpt"]), "--device", "cpu"])
    assert "7 labelled pixels have an id outside 0..3" in capsys.readouterr().out


def test_corrupt_image_in_a_loader_worker_is_one_message(folder):
    (folder["data"] / "images" / "val" / "p2.jpg").write_bytes(b"\xff\xd8 not a picture")
    arguments = ["--ckpt", str(folder["ckpt"]), "--device", "cpu"]
    with pytest.raises(InputError, match=r"cannot decode .*p2\.jpg"):
        evaluation.main([*arguments, "--set", "num_workers=0"])
    done = subprocess.run(
        [sys.executable, "eval.py", *arguments, "--set", "num_workers=1"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    messages = done.stderr.splitlines()  # no progress bar: that is for a terminal
    assert len(messages) == 1 and messages[0].startswith("error: cannot decode "), messages
    assert "p2.jpg" in messages[0]


# --- predict.py


def test_predict_a_folder_with_folders(folder):
    source, out = folder["data"] / "images", folder["tmp"] / "predictions"
    predict.main(["--ckpt", str(folder["ckpt"]), "--device", "cpu", str(source), "--out", str(out)])
    files = sorted(p.relative_to(out).as_posix() for p in out.rglob("*.png"))
    names = [f"val/p{i}{end}.png" for i in range(5) for end in ("", "_overlay")]
    assert files == sorted(["legend.png", *names])
    evaluation.main(
        ["--ckpt", str(folder["ckpt"]), "--save-predictions", "--out", str(folder["tmp"] / "eval")]
    )
    for i in range(5):  # the same labels as at evaluation, at the picture's own size
        a, b = (
            np.array(Image.open(path / f"p{i}.png"))
            for path in (out / "val", folder["tmp"] / "eval" / "predictions")
        )
        np.testing.assert_array_equal(a, b)
        assert a.shape == SIZES[i % 3]


def test_predict_images_in_shards(folder, tmp_path):
    source, shards, names = folder["data"] / "images/val", tmp_path / "shards", ("p0", "p3")
    pack(shards / "a-0.tar", {f"{n}.jpg": (source / f"{n}.jpg").read_bytes() for n in names})
    command = ["--ckpt", str(folder["ckpt"]), "--device", "cpu", "--confidence", "--out"]
    for name in {"p1", "p2", "p4"}:
        (source / f"{name}.jpg").unlink()
    for place in (source, shards):
        predict.main([*command, str(tmp_path / f"of_{place.name}"), str(place)])
    ends = ("", "_overlay", "_confidence")
    written = sorted(path.name for path in (tmp_path / "of_shards").iterdir())
    assert written == sorted(
        ["legend.png", "meta.json", *(f"{n}{e}.png" for n in names for e in ends)]
    )
    for file in written:
        expected = (tmp_path / "of_val" / file).read_bytes()
        assert (tmp_path / "of_shards" / file).read_bytes() == expected
    for more, says in (
        (["--labels", str(tmp_path / "labels")], "shards is no film; --labels, --every and"),
        ([], "has 7 of the 7 files.*--overwrite"),
    ):
        with pytest.raises(InputError, match=says):
            predict.main([*command, str(tmp_path / "of_shards"), str(shards), *more])
    with pytest.raises(InputError, match=r"a-0.tar is a tar; name its folder, .*shards"):
        predict.main([*command, str(tmp_path / "new"), str(shards / "a-0.tar")])
    assert not (tmp_path / "new").exists()


def test_predict_one_picture(folder, tmp_path):
    source = folder["data"] / "images" / "val" / "p0.jpg"
    out = tmp_path / "one"
    predict.main(["--ckpt", str(folder["ckpt"]), "--device", "cpu", str(source), "--out", str(out)])
    assert sorted(p.name for p in out.iterdir()) == [
        "legend.png", "meta.json", "p0.png", "p0_overlay.png",
    ]  # fmt: skip


def test_predict_replaces_its_results_when_asked_only(folder, tmp_path):
    source, out = folder["data"] / "images" / "val", tmp_path / "out"
    arguments = ["--ckpt", str(folder["ckpt"]), "--device", "cpu", str(source), "--out", str(out)]
    out.mkdir()
    (out / "p3_overlay.png").write_bytes(b"mine")
    (out / "notes.txt").write_text("no picture's output")
    with pytest.raises(InputError, match=r"has 1 of the 11 files.*p3_overlay\.png.*--overwrite"):
        predict.main(arguments)
    assert len(list(out.iterdir())) == 2 and (out / "p3_overlay.png").read_bytes() == b"mine"
    predict.main([*arguments, "--overwrite"])
    assert len(list(out.iterdir())) == 13 and (out / "p3_overlay.png").read_bytes() != b"mine"


@pytest.mark.parametrize("name, other", [("legend", "the legend"), ("p0_overlay", "image 'p0'")])
def test_predict_refuses_names_that_collide(folder, tmp_path, name, other):
    source = folder["data"] / "images" / "val"
    (source / "p1.jpg").rename(source / f"{name}.jpg")
    with pytest.raises(InputError, match=rf"{other} and the image '{name}' would both.*rename"):
        predict.main(["--ckpt", str(folder["ckpt"]), str(source), "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("alpha", ["7", "-0.1", "nan"])
def test_predict_opacity_out_of_bounds(alpha, capsys):
    with pytest.raises(SystemExit):
        predict.main(["--ckpt", "x", "y", "--out", "z", "--alpha", alpha])
    assert "argument --alpha: expected a number from 0 to 1" in capsys.readouterr().err


@pytest.mark.slow
def test_two_processes_predict_each_picture_once(folder):
    (folder["data"] / "images" / "val" / "p1.jpg").write_bytes(b"nothing")
    out = folder["tmp"] / "predictions"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    script = ["predict.py", "--ckpt", str(folder["ckpt"]), "--device", "cpu", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, *launcher, *script, str(folder["data"] / "images" / "val")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0 and "p1.jpg" in done.stderr
    assert done.stdout.count("4 of 5 images done") == 1
    files = sorted(p.name for p in out.iterdir())
    names = [f"p{i}{end}.png" for i in (0, 2, 3, 4) for end in ("", "_overlay")]
    assert files == sorted([*names, "legend.png", "meta.json"])


def test_predict_reports_unreadable_pictures_and_goes_on(folder):
    source, out = folder["data"] / "images" / "val", folder["tmp"] / "predictions"
    (source / "p1.jpg").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"left out:\n.*p1\.jpg"):
        predict.main(["--ckpt", str(folder["ckpt"]), str(source), "--out", str(out)])
    assert sorted(p.name for p in out.glob("p?.png")) == ["p0.png", "p2.png", "p3.png", "p4.png"]


def test_predict_never_overwrites_its_input(folder):
    arguments = ["--ckpt", str(folder["ckpt"]), "--device", "cpu"]
    source = folder["data"] / "images" / "val"
    with pytest.raises(InputError, match="is inside"):
        predict.main([*arguments, str(source), "--out", str(source / "out")])
    png = folder["data"] / "masks" / "val" / "p0.png"
    with pytest.raises(InputError, match="would overwrite"):
        predict.main([*arguments, str(png), "--out", str(png.parent)])
    with pytest.raises(InputError, match="no image, folder or film"):
        predict.main([*arguments, str(source / "gone"), "--out", "x"])
    (folder["tmp"] / "empty").mkdir()
    with pytest.raises(InputError, match="no images"):
        predict.main([*arguments, str(folder["tmp"] / "empty"), "--out", "x"])


MEASURED = """
import importlib, sys
from utils.cost import resident
importlib.import_module(sys.argv[1]).main(sys.argv[2:])
print(resident("VmHWM"))  # bytes; getrusage would count what pytest held before this process
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is measured as Linux counts it")
def test_a_picture_of_72_million_pixels_within_3_gib(tmp_path):
    rng, size = np.random.default_rng(0), (12000, 6000)
    for kind in ("images", "masks"):
        (tmp_path / kind / "val").mkdir(parents=True)
    small = Image.fromarray(rng.integers(0, 256, (60, 120, 3)).astype(np.uint8))
    small.resize(size, Image.Resampling.BILINEAR).save(tmp_path / "images/val/a.jpg")
    labels = Image.fromarray(rng.integers(0, 19, (60, 120)).astype(np.uint8))
    labels.resize(size, Image.Resampling.NEAREST).save(tmp_path / "masks/val/a.png")
    (tmp_path / "classes.yaml").write_text(f"classes: {[f'c{k}' for k in range(19)]}\n")
    paths = {"data_root": str(tmp_path), "class_file": str(tmp_path / "classes.yaml")}
    config = _write_config(tmp_path / "config.yaml", image_size=[256, 512], **paths)
    ckpt = str(_write_checkpoint(tmp_path / "run/last.pt", config))
    averaged = ["--scales", "0.75", "1.0", "--flip", "--window", "128", "256"]
    picture = [str(tmp_path / "images/val/a.jpg"), "--out", str(tmp_path / "out")]
    for script in (["eval", "--save-vis", *averaged], ["predict", *picture]):
        done = subprocess.run(
            [sys.executable, "-c", MEASURED, *script, "--ckpt", ckpt, "--device", "cpu"],
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        assert int(done.stdout.split()[-1]) < 3 << 30
    assert sum(_metrics(tmp_path / "run/eval_val")["confusion"][0]) > 0
    assert Image.open(tmp_path / "out/a_overlay.png").size == size


def test_metrics_are_written_before_anything_is_printed(folder, monkeypatch):
    def fail(*_, **__):
        raise UnicodeEncodeError("cp1252", "дорога", 0, 1, "a console without these letters")

    monkeypatch.setattr("builtins.print", fail)
    with pytest.raises(UnicodeEncodeError):
        evaluation.main(["--ckpt", str(folder["ckpt"]), "--device", "cpu"])
    assert _metrics(folder["tmp"] / "run" / "eval_val")["num_images"] == 5
