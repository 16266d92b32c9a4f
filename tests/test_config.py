"""utils/config.py: every shipped config is whole, and each mistake gets a message that helps."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from utils.config import Config, config_from_dict, load_config, parse_overrides, save_config
from utils.safe.errors import InputError

CONFIGS = sorted(path for path in Path("configs").rglob("*.yaml") if path.parent.name != "suites")


@pytest.mark.parametrize("path", CONFIGS, ids=str)
def test_shipped_configs_load_and_round_trip(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    keys = {field.name for field in dataclasses.fields(Config)}
    assert set(yaml.safe_load(path.read_text(encoding="utf-8"))) == keys


def test_a_run_from_before_a_key_was_added_is_read() -> None:
    values = load_config("configs/cityscapes.yaml").to_dict()
    del values["image_cache"]
    assert config_from_dict(values, "old").image_cache is None


def test_overrides_and_numbers_yaml_reads_as_text() -> None:
    config = load_config("configs/cityscapes.yaml", ["lr=1e-4", "crop_size=[512, 512]"])
    assert config.lr == 1e-4 and config.crop_size == (512, 512)
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.lr = 1.0


PATHS = ["/tmp/a #1", "a: b", "2026", "1e-4", "true", "#1", "[a", "a  b", "it's", '"a', "a=b", "ä"]


@pytest.mark.parametrize("text", PATHS)
@pytest.mark.parametrize("key", ["data_root", "backbone_weights"])
def test_a_text_stands_for_itself(key: str, text: str) -> None:
    config = load_config("configs/cityscapes.yaml", [f"{key}={text}"])
    assert getattr(config, key) == text
    # as experiments/ablation.py hands it on, and as JSON
    dumped = yaml.safe_dump(text, width=10**6, allow_unicode=True).splitlines()[0]
    for quoted in (dumped, json.dumps(text)):
        assert parse_overrides([f"{key}={quoted}"]) == {key: text}


@pytest.mark.parametrize("null", ["null", "~", ""])
def test_null_is_for_keys_that_may_be_without(null: str) -> None:
    assert (
        load_config("configs/cityscapes.yaml", [f"backbone_weights={null}"]).backbone_weights
        is None
    )
    assert parse_overrides(["backbone_weights='null'"]) == {"backbone_weights": "null"}
    with pytest.raises(InputError, match="'data_root' must be a text, found None"):
        load_config("configs/cityscapes.yaml", [f"data_root={null}"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("warmup_step=5", "unknown key 'warmup_step'; did you mean 'warmup_steps'"),
        ("lr=fast", "'lr' must be a number, found 'fast'"),
        ("lr=.nan", "'lr' must be a number"),
        ("steps=1.5", "'steps' must be a whole number"),
        ("steps=true", "'steps' must be a whole number"),
        ("carb=1", "'carb' must be true or false"),
        ("crop_size=512", "'crop_size' must be a list of 2 whole numbers"),
        ("aspp_dilations=[]", "'aspp_dilations' must be a list of whole numbers"),
        ("views=both", "'views' must be one of base, local, dual"),
        ("precision=fp16", "'precision' must be one of fp32, bf16"),
        ("flip_probability=2", "'flip_probability' must be between 0.0 and 1.0|between 0 and 1"),
        ("queue_size=0", "'queue_size' must be at least 1"),
        ("patch_size=[600, 256]", "must fit into 'crop_size'"),
        ("warmup_steps=30000", "must be below 'steps'"),
        ("warmup_steps=0", "must be at least 1 with carb: true"),
        ("local_ratio=[2, 1]", r"must be \[low, high\]"),
        ("seed", "expected key=value"),
        ("lr=[", "not valid YAML"),
        ("data_root='a'b'", "not valid YAML"),
    ],
)
def test_mistakes_are_named(override: str, expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        load_config("configs/cityscapes.yaml", [override])


def test_stored_masks_are_demanded_where_they_are_read() -> None:
    with pytest.raises(InputError, match="gen_clip_masks.py"):
        load_config("configs/cityscapes.yaml", ["views=base", "pseudo_masks=null"])


def test_a_key_given_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(Path("configs/cityscapes.yaml").read_text() + "\nlr: 7.0\n")
    with pytest.raises(InputError, match="the key 'lr' stands twice"):
        load_config(path)


def test_a_missing_key_and_a_missing_file(tmp_path: Path) -> None:
    values = yaml.safe_load(Path("configs/cityscapes.yaml").read_text())
    del values["queue_size"], values["lr"]
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(InputError, match=f"{path}: missing keys queue_size, lr"):
        load_config(path)
    with pytest.raises(InputError, match="no config file at"):
        load_config(tmp_path / "none.yaml")
    path.write_text("- a list")
    with pytest.raises(InputError, match="found list"):
        load_config(path)


def test_cityscapes_yaml_explains_every_key() -> None:
    text = Path("configs/cityscapes.yaml").read_text()
    for field in dataclasses.fields(Config):
        assert f"\n{field.name}: " in text
