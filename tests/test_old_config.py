"""utils/old_config.py: what earlier versions wrote is read, their names are refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_run
import torch
import yaml

from models.trained import load_trained
from utils.checkpoint import load_checkpoint, load_training_checkpoint, save_checkpoint
from utils.cli import training_parser
from utils.config import KEYS, config_from_dict, load_config, save_config
from utils.old_config import translate
from utils.run_folder import changed_settings
from utils.safe.errors import InputError

SHIPPED = yaml.safe_load(Path(__file__).with_name("old_configs.yaml").read_text(encoding="utf-8"))
CITY = SHIPPED["configs/cityscapes.yaml"]


def old_config(path: str = "configs/tiny_cpu.yaml", **changes: Any) -> dict[str, Any]:
    """As config.yaml of a run folder and the checkpoints had it: every key."""
    return CITY | SHIPPED[path] | changes


@pytest.mark.parametrize("path", [path for path in SHIPPED if Path(path).is_file()])
def test_a_run_of_a_shipped_config_is_read_as_todays_config(path: str, tmp_path: Path) -> None:
    expected = load_config(path).to_dict()
    saved = tmp_path / "config.yaml"
    saved.write_text(yaml.safe_dump(old_config(path)))
    found = load_config(saved)
    for key, value in expected.items():
        assert found.to_dict()[key] == value, key
    save_config(found, saved)
    assert load_config(saved) == found and "resize_to" not in saved.read_text()
    with_override = load_config(saved, ["teacher.mlp=false", "seed=9"])
    assert not with_override.teacher.mlp and with_override.seed == 9


def test_a_run_from_before_the_image_cache_is_read() -> None:
    values = old_config()
    del values["image_cache"]
    assert config_from_dict(translate(values, "old"), "old").image_cache is None


@pytest.mark.parametrize(
    ("parts", "name"),
    [({}, "maskclip"), ({"residual": False, "mlp": False}, "maskclip_plain")],
)
def test_a_run_from_before_there_were_other_teachers_is_read(parts, name, tmp_path) -> None:
    config = load_config("configs/tiny_cpu.yaml", [f"teacher={name}"])
    values = config.to_dict()
    parts = {"residual": True, "mlp": True} | parts
    values["teacher"] = parts | {"key_smoothing": 0.0, "prompt_denoising": 0.0}
    assert config_from_dict(values, "checkpoint") == config  # as checkpoints have it
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    assert changed_settings(load_config(tmp_path / "config.yaml").to_dict(), config) == ""


@pytest.mark.parametrize(
    ("changes", "key", "value"),
    [
        ({"balance": "fixed", "balance_coefficient": 0.5}, "region_weight", 0.5),
        ({"sync": True}, "sync_region_stats", True),
        ({"clip_mlp": False, "key_smoothing": 0.3}, "teacher.key_smoothing", 0.3),
        ({"patch_law": "official"}, "arithmetic.local_view_last_position", False),
        ({"absent_classes": "multiplied"}, "arithmetic.label_filter", "multiply"),
        ({"backbone": "resnet101", "backbone_width": 64}, "backbone", "resnet101"),
        (
            {"backbone_weights": "w.pth", "backbone_sha256": "0" * 8},
            "backbone_weights",
            "w.pth#sha256=00000000",
        ),
    ],
)
def test_what_no_shipped_config_had(changes: dict, key: str, value: object) -> None:
    assert translate(old_config(**changes), "old")[key] == value


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"balance_coefficient": 2.0}, "balance_coefficient: 2.0"),
        ({"flip_probability": 0.1}, "flip_probability: 0.1"),
        ({"backbone_width": 12}, "backbone: resnet18, backbone_width: 12"),
        ({"backbone_width": [1]}, r"backbone_width: \[1\]"),
    ],
)
def test_what_todays_keys_cannot_say_is_refused(changes: dict, found: str) -> None:
    with pytest.raises(
        InputError, match=rf"^run/config.yaml is from an earlier version and has.*{found}"
    ):
        translate(old_config(**changes), "run/config.yaml")


@pytest.mark.parametrize("key", sorted(CITY.keys() - set(KEYS)))
def test_every_old_name_alone_is_refused_with_the_new_one(key: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"'{key}' is now '?(?P<new>[a-z_.]+)") as error:
        load_config("configs/cityscapes.yaml", [f"{key}={json.dumps(CITY[key])}"])
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({key: CITY[key], "lr": 0.1}))
    with pytest.raises(InputError, match=f"mine.yaml: '{key}' is now"):
        load_config(tmp_path / "mine.yaml")
    if "; write " in str(error.value):  # what it says to write is taken
        new, value = str(error.value).rpartition("; write ")[2].split(": ")
        load_config("configs/cityscapes.yaml", [f"{new}={value}"])


def test_old_flags_are_abbreviations_of_the_new_ones() -> None:
    old = ["--keep", "--trust"]
    given = training_parser("").parse_args(["--config", "c", "--run-dir", "r", *old])
    assert given.keep_checkpoints and given.trust_torchscript


def test_a_checkpoint_of_an_earlier_version(tmp_path: Path) -> None:
    tiny_run.make_run(tmp_path)
    path = tmp_path / "run/warmup/warmup.pt"
    now = load_trained(path)
    paths = ("data_root", "class_file", "image_labels", "pseudo_masks")
    old = old_config(**{key: getattr(now.config, key) for key in paths})
    content = load_checkpoint(path) | {"config": old, "world_size": 1, "optimizer": {}}
    content["criterion"] = [{"queue_consistent": [], "queue_inconsistent": []}]
    content["log"] = {"sums": {"balance": torch.ones(())}, "num_steps": 1, "seconds": 1.0}
    save_checkpoint(path, content)
    then = load_trained(path)
    assert then.config == now.config
    state = now.model.state_dict()
    assert all(value.equal(state[key]) for key, value in then.model.state_dict().items())
    assert load_trained(path, overrides=["image_size=[24, 32]"]).config.image_size == (24, 32)
    read = load_training_checkpoint(path)
    assert config_from_dict(read["config"], "checkpoint") == now.config
    assert read["log"]["sums"] == {"w": 1}  # what metrics.jsonl calls it today


def test_a_path_of_a_shipped_file_that_was_moved_finds_the_file(tmp_path: Path) -> None:
    root = Path("demo").resolve().parent
    if not (root / "demo/weights/clip.pt").is_file():
        pytest.skip("demo/ is not here")
    config = load_config("configs/tiny_cpu.yaml", [f"clip_model={root}/models/miniature/clip.pt"])
    assert Path(config.clip_model) == root / "demo/weights/clip.pt"
    gone = f"clip_model={tmp_path}/models/miniature/clip.pt"
    assert load_config("configs/tiny_cpu.yaml", [gone]).clip_model == gone.partition("=")[2]
