"""What a run was trained on: recorded, and held against the data that is there now."""

import json
import shutil
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import yaml
from tiny_run import make_run, save

import train_carb
import train_warmup
from datasets.files import File, list_files, list_zip
from datasets.fingerprint import file_sizes, fingerprint
from datasets.labels import load_classes
from utils.checkpoint import load_checkpoint
from utils.config import load_config
from utils.inputs import Inputs, differences, read_parts
from utils.run_folder import other_steps
from utils.safe.errors import InputError, InputWarning


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """FOLDER/data, and finished runs in warmup, carb: base views, masks without meta.json."""
    folder = tmp_path_factory.mktemp("inputs")
    make_data(folder)
    for script, name in ((train_warmup, "warmup"), (train_carb, "carb")):
        run(script, folder, name)
    return folder


def make_data(folder: Path) -> None:
    make_run(folder, dataset="folder")
    shutil.rmtree(folder / "run")
    data = folder / "data"
    for mask in sorted((data / "masks/train").iterdir()):
        target = data / "clip_masks" / mask.name
        target.parent.mkdir(exist_ok=True)
        shutil.copy(mask, target)


def run(script, folder: Path, name: str, *more: str) -> None:
    config = folder / "config.yaml"
    if not config.exists():
        values = load_config("configs/tiny_cpu.yaml").to_dict() | {
            "data_root": str(folder / "data"),
            "class_file": str(folder / "data/classes.yaml"),
            "image_labels": str(folder / "data/image_labels.json"),
            "pseudo_masks": str(folder / "data/clip_masks"),
            "views": "base",
            "classifier": "conv",
        }
        config.write_text(yaml.safe_dump(values))
    init = ["--init", str(folder / "warmup/last.pt")] if script is train_carb else []
    run_dir = ["--run-dir", str(folder / name), "--device", "cpu"]
    script.main(["--config", str(config), *init, *run_dir, *more])


def relabel(data: Path) -> None:
    path = data / "image_labels.json"
    labels = json.loads(path.read_text()) | {"t1": [1]}
    path.write_text(json.dumps(labels))


def add_two(data: Path) -> None:
    labels = json.loads((data / "image_labels.json").read_text())
    for name in ("t8", "t9"):
        for folder, source in (("images/train", "t1"), ("masks/train", "t1"), ("clip_masks", "t1")):
            shutil.copy(data / folder / f"{source}.png", data / folder / f"{name}.png")
        labels[name] = [0]
    (data / "image_labels.json").write_text(json.dumps(labels))


def rename(data: Path) -> None:
    for folder in ("images/train", "masks/train", "clip_masks"):
        (data / folder / "t1.png").rename(data / folder / "u1.png")
    labels = json.loads((data / "image_labels.json").read_text())
    labels["u1"] = labels.pop("t1")
    (data / "image_labels.json").write_text(json.dumps(labels))


def repaint(data: Path) -> None:
    path = data / "images/train/t2.png"
    path.write_bytes(path.read_bytes() + b"\0")


def other_mask(data: Path) -> None:
    for folder in ("clip_masks", "masks/train"):
        path = data / folder / "t3.png"
        path.write_bytes(path.read_bytes() + b"\0")


def other_prompt(data: Path) -> None:
    classes = {"classes": ["road", {"name": "pole", "small": True, "prompt": "post"}, "sky"]}
    (data / "classes.yaml").write_text(yaml.safe_dump(classes))


def other_order(data: Path) -> None:
    classes = {"classes": ["sky", {"name": "pole", "small": True}, "road"]}
    (data / "classes.yaml").write_text(yaml.safe_dump(classes))


@pytest.mark.parametrize(
    "change, told",
    [
        (relabel, r"labels of t1: \[0, 1, 2\] -> \[1\]\); to use these .* again with --overwrite$"),
        (add_two, "6 -> 8 images"),
        (rename, "'t1' -> 'u1'"),
        (repaint, "bytes of image t2: .* -> "),
        (other_mask, "bytes of mask t3: .* -> "),
        (other_prompt, "prompts of class 1: pole -> post"),
        (other_order, "'road' where the class file has 'sky' .class 0"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(trained, tmp_path, change, told) -> None:
    check_other_data(trained, tmp_path / "copy", train_warmup, "warmup", change, told)


def check_other_data(trained, folder, script, name, change, told) -> None:
    shutil.copytree(trained, folder)
    (folder / "config.yaml").unlink()
    run(script, folder, name)  # moved as a whole: the same data
    before = (folder / name / "inputs.json").read_bytes()
    change(folder / "data")
    with pytest.raises(InputError, match=told):
        run(script, folder, name)
    assert (folder / name / "inputs.json").read_bytes() == before
    if script is train_warmup:
        with pytest.raises(InputError, match=told):  # CARB after a warm-up on other data
            run(train_carb, folder, "new")
    run(script, folder, name, "--overwrite")
    run(script, folder, name)


def test_several_changes_are_all_named(trained, tmp_path) -> None:
    """As in the issue: images were added and a label was corrected."""
    shutil.copytree(trained, tmp_path / "copy")
    (tmp_path / "copy/config.yaml").unlink()
    for change in (add_two, relabel):
        change(tmp_path / "copy/data")
    with pytest.raises(InputError, match=r"other data \(6 -> 8 images; labels of t1: .*\)"):
        run(train_warmup, tmp_path / "copy", "warmup")
    (tmp_path / "copy/warmup/inputs.json").unlink()  # then the checkpoint alone knows
    with pytest.raises(InputError, match=r"other data \(other images, labels, masks\)"):
        run(train_warmup, tmp_path / "copy", "warmup")


def test_a_run_from_before_goes_on_and_records(trained, tmp_path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    (folder / "config.yaml").unlink()
    content = load_checkpoint(folder / "warmup/last.pt")
    assert content["inputs"] == Inputs([], read_parts(folder / "warmup")).digests()
    torch.save({k: v for k, v in content.items() if k != "inputs"}, folder / "warmup/last.pt")
    (folder / "warmup/inputs.json").unlink()
    relabel(folder / "data")
    run(train_warmup, folder, "warmup")
    assert read_parts(folder / "warmup")["labels"]["t1"] == [1]


def test_masks_are_known_by_what_they_were_made_from(tmp_path) -> None:
    make_run(tmp_path)
    classes = load_classes(tmp_path / "data/classes.yaml")
    images = list_files(tmp_path / "data/images/train")
    masks = list_files(tmp_path / "data/masks/train")
    folder = tmp_path / "data/masks/train"

    dataset = SimpleNamespace(images=images, image_labels=None, masks=masks, points=None)

    def look() -> dict:
        return fingerprint(classes, dataset, str(folder)).parts()

    plain = look()
    assert plain["masks"]["sizes"] == file_sizes(masks)
    made = {"class_names": list(classes.names), "split": "train", "ratio": [1.0], "num_images": 6}
    (folder / "meta.json").write_text(json.dumps({"made_from": made}))
    first = look()
    assert first["masks"]["made_from"] == made | {"precision": "fp32"}
    assert first["masks"]["sizes"] == file_sizes(masks)
    made |= {"ratio": [2.0], "images_sha256": "0"}
    (folder / "meta.json").write_text(json.dumps({"made_from": made}))
    with pytest.warns(InputWarning, match="were made when image files had other sizes"):
        second = look()
    assert differences(first, second) == "masks made with other settings (ratio: [1.0] -> [2.0])"
    assert differences(plain, second) == "other masks"
    assert differences(first, first) == "" and differences({}, first) == ""


def test_sizes_are_the_same_in_a_zip(tmp_path) -> None:
    for name in ("a/b.png", "c.png"):
        save(tmp_path / "images" / name, np.full((2, len(name)), 7))
    with zipfile.ZipFile(tmp_path / "images.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in (tmp_path / "images").rglob("*.png"):
            archive.write(path, f"images/{path.relative_to(tmp_path / 'images')}")
    on_disk = file_sizes(list_files(tmp_path / "images"))
    assert on_disk == file_sizes(list_zip(tmp_path / "images.zip", "images/", (".png",)))
    assert list(on_disk) == ["a/b", "c"] and min(on_disk.values()) > 50


@pytest.mark.parametrize("text", ["", "[]", "{", '{"images": 3}', '{"images": {}, "labels": 0}'])
def test_a_damaged_record_is_no_error_of_its_own(tmp_path, text) -> None:
    (tmp_path / "inputs.json").write_text(text)
    recorded = read_parts(tmp_path)
    found = differences(recorded, {"images": {"a": 1}, "labels": {"a": [0]}})
    assert isinstance(found, str) and bool(found) == ("images" in recorded)


# ---- more or fewer steps


def test_more_steps_need_another_run_and_another_warm_up() -> None:
    config = load_config("configs/tiny_cpu.yaml", ["steps=20"])
    text = other_steps(Path("runs/a"), {"steps": 8}, config)
    assert "learning rate" in text and text.endswith("Start over with --run-dir runs/a_20_steps")
    text = other_steps(Path("c"), {"steps": 8}, config, "w/last.pt")
    expected = "--run-dir c_20_steps and the warm-up too: --run-dir w_20_steps"
    assert text.endswith(f"Start over with {expected}")


def test_as_many_steps_need_no_word() -> None:
    config = load_config("configs/tiny_cpu.yaml")
    assert other_steps(Path("a"), {"steps": config.steps}, config) == ""


def test_sizes_of_a_slow_disk_are_asked_for_at_once(tmp_path, monkeypatch) -> None:
    files = {}
    for i in range(200):
        (tmp_path / f"{i}.png").write_bytes(b"x" * i)
        files[str(i)] = File(str(tmp_path / f"{i}.png"))
    quick = file_sizes(files)
    monkeypatch.setattr("datasets.fingerprint._QUICK", 0)
    assert file_sizes(files) == quick == {str(i): i for i in range(200)}
