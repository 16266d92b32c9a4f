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
    config_from_dict,
    describe_teacher,
    flatten,
    keys_of,
    load_config,
    name_teacher,
    parse_overrides,
    save_config,
)
from utils.made_from import changed
from utils.run_folder import changed_settings
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
        usual = Config().to_dict() | flatten(Config().to_dict())
        # named in every config with data of its own
        of_data = ("data_root", "class_file", "image_labels", "pseudo_masks", "clip_text")
        assert [k for k, v in stated.items() if v == usual.get(k, ...) and k not in of_data] == []


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


def of(*overrides: str) -> Config:
    return load_config("configs/cityscapes.yaml", list(overrides))


@pytest.mark.parametrize("preset", PRESETS["teacher"])
def test_a_preset_is_named_chosen_and_saved(preset: str, tmp_path: Path) -> None:
    settings = PRESETS["teacher"][preset]
    for config in (of(f"teacher={preset}"), of(f"teacher={{preset: {preset}}}")):
        assert config.teacher == config.stored_teacher == settings
        assert name_teacher(config.to_dict()["teacher"]) == preset
    changed_one = of(f"teacher={preset}", "teacher.calibrated_beta=0.7")
    assert changed_one.teacher == dataclasses.replace(settings, calibrated_beta=0.7)
    assert name_teacher(changed_one.to_dict()["teacher"]) == {
        "preset": preset,
        "calibrated_beta": 0.7,
    }
    save_config(changed_one, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == changed_one


def test_a_preset_on_the_command_line_replaces_the_parts_of_the_file(tmp_path: Path) -> None:
    presets, saved = PRESETS["teacher"], tmp_path / "config.yaml"
    save_config(of("teacher={preset: naclip, stored: strong}", "arithmetic=official"), saved)
    stated = tmp_path / "stated.yaml"
    stated.write_text("teacher: naclip\nteacher.mlp: true\nteacher.stored: strong\n")
    for path in (saved, stated, Path("configs/cityscapes.yaml")):
        for named in ("teacher=fast", "teacher.preset=fast", "teacher={preset: fast}"):
            assert load_config(path, [named]).teacher == presets["fast"]
            both = load_config(path, [named, "teacher.pamr_steps=3", "teacher.stored.preset=sclip"])
            assert both.stored_teacher == presets["sclip"]
            fast = dataclasses.replace(both.teacher, stored=None)
            assert fast == dataclasses.replace(presets["fast"], pamr_steps=3)
        for named in ("teacher.stored=naclip_pamr", "teacher.stored.preset=naclip_pamr"):
            config = load_config(path, [named])
            assert config.stored_teacher == presets["naclip_pamr"]
            step = load_config(path, ["teacher.stored=null"]).teacher
            assert dataclasses.replace(config.teacher, stored=None) == step
        assert load_config(path, ["arithmetic.preset=correct"]).arithmetic == Arithmetic()
        official = load_config(path, ["arithmetic.preset=official", "arithmetic.empty_region=zero"])
        assert official.arithmetic == dataclasses.replace(
            PRESETS["arithmetic"]["official"], empty_region="zero"
        )
    # other parts of the step's teacher are not those of the stored one
    config = of("teacher=fast", "teacher.gaussian_std=3", "teacher.stored.preset=strong")
    assert config.stored_teacher == presets["strong"]


def test_what_is_printed_of_a_teacher_is_what_set_takes() -> None:
    stride = ("teacher=naclip", "teacher.window=[24, 24]", "teacher.stride=[24, 24]")
    assert of(*stride).teacher.stride is None  # as without a stride
    for settings, expected in (
        (("teacher=strong",), "strong"),
        (stride, "{preset: naclip, window: [24, 24], stride: [24, 24]}"),
        (("teacher=naclip", "teacher.window=null"), "{preset: fast, short_side: 560}"),
        (
            ("teacher=fast", "teacher.middle_blocks=[5, 6]", "teacher.middle_weight=1e-5"),
            "{preset: fast, middle_blocks: [5, 6], middle_weight: 1.0e-05}",
        ),
        (
            ("views=base", "teacher.templates=experts", "teacher.attention=qq+kk"),
            "{preset: maskclip, attention: qq+kk, templates: experts}",
        ),
    ):
        config = of(*settings)
        text = describe_teacher(dataclasses.asdict(config.teacher))
        read = of("views=base", f"teacher={text}").teacher
        assert read == config.teacher and "\n" not in text
        assert text == expected


def test_without_windows_there_is_no_stride(tmp_path: Path) -> None:
    whole = dataclasses.replace(PRESETS["teacher"]["naclip"], window=None, stride=None)
    save_config(of("teacher={preset: naclip, stored: strong}"), tmp_path / "config.yaml")
    for path in ("configs/cityscapes.yaml", tmp_path / "config.yaml"):
        assert load_config(path, ["teacher=naclip", "teacher.window=null"]).teacher == whole
        assert load_config(path, ["teacher={preset: naclip, window: null}"]).teacher == whole
    stored = load_config(tmp_path / "config.yaml", ["teacher.stored.window=null"]).stored_teacher
    strong = PRESETS["teacher"]["strong"]
    assert stored == dataclasses.replace(strong, window=None, stride=None)
    with pytest.raises(InputError, match="there are no windows"):
        of("teacher=naclip", "teacher.window=null", "teacher.stride=[8, 8]")


def test_the_teacher_of_stored_masks(tmp_path: Path) -> None:
    presets = PRESETS["teacher"]
    config = of("teacher={preset: fast, stored: strong}")
    assert dataclasses.replace(config.teacher, stored=None) == presets["fast"]
    assert config.stored_teacher == presets["strong"]
    save_config(config, tmp_path / "config.yaml")
    assert load_config(tmp_path / "config.yaml") == config
    assert "stored" not in config.to_dict()["teacher"]["stored"]
    text = (tmp_path / "config.yaml").read_text()
    assert config_from_dict(yaml.safe_load(text), "") == config  # as in a checkpoint
    # a part of it, of a preset or of the teacher in the step
    both = ("teacher.preset=fast", "teacher.stored=strong", "teacher.stored.pamr_steps=0")
    assert of(*both).stored_teacher == presets["scclip"]
    assert dataclasses.replace(of(*both).teacher, stored=None) == presets["fast"]
    one = of("teacher=fast", "teacher.stored.pamr_steps=10")
    assert one.stored_teacher == dataclasses.replace(presets["fast"], pamr_steps=10)
    # none, and the same one
    assert of("teacher={preset: fast, stored: strong}", "teacher.stored=null") == of("teacher=fast")
    assert of("teacher=fast", "teacher.stored=fast") == of("teacher=fast")


def test_another_stored_teacher_is_another_setting() -> None:
    fast = "teacher.preset=fast"
    assert of(fast).teacher == PRESETS["teacher"]["fast"]
    ways = [of(fast), of(fast, "teacher.stored=strong"), of(fast, "teacher.stored=naclip")]
    ways += [of(fast, "teacher.stored={preset: strong, calibrated_beta: 0.3}")]
    texts = ["None", "strong", "naclip", "{preset: strong, calibrated_beta: 0.3}"]
    for old, before in zip(ways, texts, strict=True):
        for new, after in zip(ways, texts, strict=True):
            found = changed_settings(old.to_dict(), new)
            assert found == ("" if old == new else f"teacher.stored: {before} -> {after}")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["teacher.gaussian_std=5"], "gaussian_std: 5 with attention: value: .*attention=kk"),
        (["teacher=scclip", "teacher.gaussian_std=5"], "with attention: calibrated"),
        (["teacher.attention=calibrated"], "set teacher.residual=false teacher.mlp=false"),
        (["teacher=strong", "teacher.mlp=true"], "'teacher' has attention: calibrated: "),
        (["teacher.stored.attention=calibrated"], "set teacher.stored.residual=false"),
        (["teacher.middle_blocks=[5]", "teacher.middle_weight=0.2"], "mixed into qk, qq, kk or"),
        (["teacher=fast", "teacher.middle_blocks=[5]"], "one needs the other"),
        (["teacher=fast", "teacher.middle_weight=0.5"], "one needs the other"),
        (["teacher=fast", "teacher.middle_blocks=[5, 6, 5]", "teacher.middle_weight=0.2"], "once"),
        (
            ["teacher=naclip", "teacher.prompt_denoising=0.5"],
            r"denoising: 0.5 with window: \[22",
        ),
        (
            ["teacher.prompt_denoising=0.5", "teacher.pamr_steps=2"],
            "with pamr_steps: 2: .*-100",
        ),
        (["teacher=naclip", "teacher.key_smoothing=0.5"], r"with window: \[224, 224\]: .*sums of"),
        (["teacher.key_smoothing=0.5", "teacher.pamr_steps=2"], "set teacher.key_smoothing=0"),
        (["teacher.stride=[112, 112]"], "set teacher.window too"),
        (["teacher=naclip", "teacher.stride=[112, 225]"], "pixels between the windows"),
        (["teacher=naclip", "teacher.window=[600, 600]"], "larger than the image"),
        (["teacher=naclip", "teacher.window=[560, 561]"], r"local view .*\[1120, 560\] where the"),
        (
            ["teacher=naclip", "patch_size=[256, 512]", "teacher.window=[560, 1121]"],
            r"the global view .*\[560, 1120\] where the teacher sees it",
        ),
        (["local_resize=[0.999, 1]", "teacher.window=[512, 256]"], r"local view .*\[511, 255\]"),
        (["teacher.window=[512, 257]"], r"larger than the smallest local view .*\[512, 256\]"),
        (["teacher.window=[513, 200]"], r"larger than the global view .*\[512, 1024\]"),
        (["views=base", "teacher.window=[1025, 9]"], r"larger than the images .*\[1024, 2048\]"),
        (["teacher.templates=experts"], "views: dual .* teacher.stored.templates=experts"),
        (["views=local", "teacher.templates=experts"], "views: local"),
    ],
)
def test_parts_of_a_teacher_that_exclude_each_other(overrides: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=f"^configs/cityscapes.yaml: .*{expected}"):
        of(*overrides)


def test_parts_of_a_teacher_that_go_together() -> None:
    of("teacher=naclip", "teacher.middle_blocks=[5, 6]", "teacher.middle_weight=0.2")
    of("teacher.window=[512, 256]", "teacher.stride=[512, 1]")
    wide = ("teacher=naclip", "teacher.window=[560, 1120]")  # the whole crop, the whole patch
    of(*wide, "patch_size=[256, 512]")
    of("teacher.key_smoothing=0.5", "teacher.prompt_denoising=0.5", "teacher.short_side=448")
    of("views=base", "teacher=naclip", "teacher.window=[560, 9999]")  # images have any shape
    of("views=base", "teacher.window=[1024, 2048]", "teacher.templates=experts")
    of("teacher.stored.templates=experts", "views=local")
    of("teacher=scclip", "teacher.calibrated_blocks=[1, 2, 1, 3]")


def test_settings_are_compared_part_by_part() -> None:
    old = Config().to_dict()
    new = load_config(
        "configs/cityscapes.yaml", ["teacher.mlp=false", "lr=0.1", "seed=1", "num_workers=9"]
    ).to_dict()
    found = changed(flatten(old), flatten(new), {"seed", *keys_of(PLACE, UPKEEP)})
    assert found == {"lr": "0.005 -> 0.1", "teacher.mlp": "True -> False"}
    assert keys_of(CARB) == {"carb", "queue_size", "region_weight", "region_balance"}


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
        ("teacher=best", r"'teacher' must be maskclip, .* or a mapping of parts \(residual, mlp, "),
        ("teacher=stron", "'teacher' must be .*; found 'stron'; did you mean 'strong'?"),
        ("teacher={preset: fats}", "'teacher.preset' must be one of .*did you mean 'fast'?"),
        ("teacher.stored=naclp", "'teacher.stored' must be .*; did you mean 'naclip'?"),
        ("teacher.stored.windw=1", "'teacher.stored.windw'; did you mean 'teacher.stored.window'"),
        ("teacher.stored={stored: fast}", "unknown key 'teacher.stored.stored'"),
        (
            "teacher.attention=nearest",
            "'teacher.attention' must be one of value, qk, qq, kk, qq.kk, c",
        ),
        ("teacher.window=224", "'teacher.window' must be a list of 2 whole numbers or null"),
        ("teacher.window=[0, 224]", "'teacher.window' must be at least 1"),
        ("teacher.middle_blocks=5", r"'teacher.middle_blocks' must be a list of whole .* or \[\]"),
        ("teacher.calibrated_blocks=[3]", "must be a list of 4 whole numbers or"),
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
        ("precision=fp16", "'precision' must be one of auto, fp32, bf16"),
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
