"""utils/config.py: every shipped config is whole, and each mistake gets a message that helps."""

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from program import SHIPPED_CONFIGS

from utils.config import (
    CARB,
    PLACE,
    PRESETS,
    UPKEEP,
    Arithmetic,
    Config,
    TeacherSettings,
    flatten,
    keys_of,
    load_config,
    parse_overrides,
    save_config,
)
from utils.made_from import changed
from utils.safe.errors import InputError


@pytest.mark.parametrize("path", SHIPPED_CONFIGS, ids=str)
def test_shipped_configs_load_and_round_trip(path: Path, tmp_path: Path) -> None:
    config = load_config(path)
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    keys = {field.name for field in dataclasses.fields(Config)}
    assert set(yaml.safe_load((tmp_path / "config.yaml").read_text(encoding="utf-8"))) == keys


@pytest.mark.parametrize("path", SHIPPED_CONFIGS, ids=str)
def test_shipped_configs_state_what_differs(path: Path) -> None:
    """configs/cityscapes.yaml is the exception: it has, and explains, every key."""
    stated = flatten(yaml.safe_load(path.read_text(encoding="utf-8")))
    if path.name == "cityscapes.yaml" and path.parent.name == "configs":
        assert stated == flatten(Config().to_dict())
        for line in path.read_text(encoding="utf-8").splitlines():
            assert line.count("#") or not line.strip() or line.endswith(":")
    else:
        usual = Config().to_dict()
        # named in every config with data of its own
        of_data = ("data_root", "class_file", "image_labels", "pseudo_masks", "clip_text")
        assert [k for k, v in stated.items() if v == usual[k] and k not in of_data] == []


def test_no_file_is_the_paper() -> None:
    assert load_config("configs/cityscapes.yaml") == Config()


def test_teacher_and_arithmetic_are_presets_or_parts(tmp_path: Path) -> None:
    def load(text: str, *overrides: str) -> Config:
        (tmp_path / "c.yaml").write_text(text)
        return load_config(tmp_path / "c.yaml", list(overrides))

    assert load("teacher: maskclip_plain").teacher == TeacherSettings(residual=False, mlp=False)
    assert load("teacher: {mlp: false}").teacher == TeacherSettings(mlp=False)
    assert load("teacher: maskclip_plain", "teacher.mlp=true").teacher.mlp
    official = load("arithmetic: official\narithmetic.clip_padding: crop").arithmetic
    assert official == dataclasses.replace(PRESETS["arithmetic"]["official"], clip_padding="crop")
    assert load("arithmetic: official", "arithmetic=correct") == load("")
    assert load("", "arithmetic={empty_region: nan}").arithmetic == Arithmetic(empty_region="nan")
    # the official preset differs from the correct one in every part
    for part in dataclasses.fields(Arithmetic):
        assert getattr(PRESETS["arithmetic"]["official"], part.name) != part.default


def test_settings_are_compared_part_by_part() -> None:
    old = Config().to_dict()
    new = load_config(
        "configs/cityscapes.yaml", ["teacher.mlp=false", "lr=0.1", "seed=1", "num_workers=9"]
    ).to_dict()
    found = changed(flatten(old), flatten(new), {"seed", *keys_of(PLACE, UPKEEP)})
    assert found == {"lr": "0.005 -> 0.1", "teacher.mlp": "True -> False"}
    assert keys_of(CARB) == {"carb", "queue_size", "region_weight"}


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
        ("teacher.mpl=true", "unknown key 'teacher.mpl'; did you mean 'teacher.mlp'"),
        ("teacher={mpl: true}", "unknown key 'teacher.mpl'; did you mean 'teacher.mlp'"),
        ("teacher=best", "'teacher' must be maskclip, maskclip_plain, or a mapping of its parts"),
        ("arithmetic.ignore_padding=1", "'arithmetic.ignore_padding' must be true or false"),
        ("region_weight=fixed", "'region_weight' must be adaptive or a number, found 'fixed'"),
        ("region_weight=-1", "'region_weight' must be at least 0"),
        ("lr=fast", "'lr' must be a number, found 'fast'"),
        ("lr=.nan", "'lr' must be a number"),
        ("steps=1.5", "'steps' must be a whole number"),
        ("steps=true", "'steps' must be a whole number"),
        ("carb=1", "'carb' must be true or false"),
        ("crop_size=512", "'crop_size' must be a list of 2 whole numbers"),
        ("aspp_dilations=[]", "'aspp_dilations' must be a list of whole numbers"),
        ("views=both", "'views' must be one of base, local, dual"),
        ("precision=fp16", "'precision' must be one of fp32, bf16"),
        ("dropout=2", "'dropout' must be between 0 and 1"),
        ("queue_size=0", "'queue_size' must be at least 1"),
        ("patch_size=[600, 256]", "must fit into 'crop_size'"),
        ("warmup_steps=30000", "must be below 'steps'"),
        ("warmup_steps=0", "must be at least 1 with carb: true"),
        ("local_resize=[2, 1]", r"must be \[low, high\]"),
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
    with pytest.raises(InputError, match="the key 'lr' is given twice"):
        load_config(path)


def test_a_missing_key_and_a_missing_file(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("dataset: folder\ndata_root: data\npseudo_masks: null\n")
    with pytest.raises(InputError, match=f"{path}: missing keys class_file, image_labels, clip_te"):
        load_config(path)  # else it would use Cityscapes' classes
    with pytest.raises(InputError, match="no config file at"):
        load_config(tmp_path / "none.yaml")
    path.write_text("- a list")
    with pytest.raises(InputError, match="found list"):
        load_config(path)
