"""A YAML file that states what differs from the defaults -> one frozen, validated dataclass.

The defaults are those of configs/cityscapes.yaml, which explains every key. Run folders and
checkpoints hold all keys; what an older version wrote is translated by utils/old_config.py.
"""

import dataclasses
import difflib
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from utils.config_values import convert, plain, setting
from utils.old_config import new_name, translate
from utils.safe.errors import InputError
from utils.safe.files import replacing
from utils.safe.yaml_file import parse_yaml, read_yaml
from utils.teacher_settings import (
    TEACHERS,
    TeacherSettings,
    check_teacher,
    describe_teacher,
    name_teacher,
    resized,
)

# Who shares a weight of the inconsistent region: the paper's, then those of
# models/region_balance.py.
REGION_BALANCES = (
    *("global", "floor", "root", "class", "class_root", "class_agreement"),
    *("confidence", "recovery", "class_start"),
)

# What a key decides; stated beside each key below, RESULT where nothing is stated.
RESULT = "result"  # the numbers of a run
CARB = "carb"  # the numbers of the second stage only: one warm-up serves several of these
SPEED = "speed"  # the speed, and with it the last bits
PLACE = "place"  # the place of a file or folder; utils/inputs.py compares the content
UPKEEP = "upkeep"  # how often something is written, and by how many processes


def _path(default: str | None, group: str = PLACE, **more: Any) -> Any:
    """A file or folder, ~ and variables in it replaced (`utils.safe.paths`).

    With `address` it may be an address; with `of_data` it belongs to the data set.
    """
    return field(default=default, metadata={"path": True, "group": group} | more)


@dataclass(frozen=True, kw_only=True)
class Arithmetic:
    """Where the official code computes otherwise; the defaults are the preset `correct`."""

    clip_activation: Literal["quickgelu", "gelu"] = "quickgelu"
    clip_layer_norm_eps: float = setting(1e-5, 0)
    clip_normalization: Literal["clip", "imagenet"] = "clip"
    clip_padding: Literal["crop", "stretch"] = "crop"
    clip_position_embedding: Literal["grid", "count", "offset"] = "grid"
    key_smoothing_norm: Literal["channels", "tokens"] = "channels"
    label_filter: Literal["mask", "multiply"] = "mask"
    ignore_padding: bool = True
    local_view_per: Literal["image", "batch"] = "image"
    local_view_last_position: bool = True
    empty_region: Literal["zero", "nan"] = "zero"


PRESETS: dict[str, dict[str, Any]] = {
    "teacher": TEACHERS,
    "arithmetic": {
        "correct": Arithmetic(),
        "official": Arithmetic(
            clip_activation="gelu",
            clip_layer_norm_eps=1e-6,
            clip_normalization="imagenet",
            clip_padding="stretch",
            clip_position_embedding="count",
            key_smoothing_norm="tokens",
            label_filter="multiply",
            ignore_padding=False,
            local_view_per="batch",
            local_view_last_position=False,
            empty_region="nan",
        ),
    },
}


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a result. Sizes are (height, width) in pixels.

    A key added later has a default that changes nothing, so that older runs can still be read.
    Paths are held, saved and compared with ~ and variables replaced.
    """

    # data
    dataset: str = "cityscapes"  # a name that datasets/__init__.py knows
    data_root: str = _path("data/cityscapes", of_data=True)
    class_file: str = _path("datasets/classes/cityscapes.yaml", of_data=True)
    image_labels: str = _path("data/cityscapes/image_labels.json", of_data=True)
    pseudo_masks: str | None = _path("data/cityscapes/clip_masks", of_data=True)
    clip_text: str = _path("data/cityscapes/clip_text.pt", of_data=True)
    points: str | None = _path(None)
    train_split: str = "train"
    val_split: str = "val"

    # sizes and augmentation
    image_size: tuple[int, int] = setting((1024, 2048), 1)
    scale_range: tuple[float, float] = setting((0.5, 2.0), 0.01)
    crop_size: tuple[int, int] = setting((512, 1024), 1)
    patch_size: tuple[int, int] = setting((512, 256), 1)
    local_resize: tuple[float, float] = setting((1.0, 2.0), 0.01)
    photometric_distortion: bool = True

    # schedule
    steps: int = setting(30000, 1)
    warmup_steps: int = setting(16000, 0)
    batch_size: int = setting(8, 1)
    lr: float = setting(0.005, 0)
    seed: int = setting(0, 0)

    # machine
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    channels_last: bool | Literal["auto"] = setting(False, group=SPEED)
    compile: bool = setting(False, group=SPEED)
    num_workers: int = setting(4, 0, group=UPKEEP)
    image_cache: str | None = _path(None, group=UPKEEP)
    log_every: int = setting(50, 1, group=UPKEEP)
    checkpoint_every: int = setting(2000, 1, group=UPKEEP)

    # the method
    views: Literal["base", "local", "dual"] = "dual"
    carb: bool = setting(True, group=CARB)
    queue_size: int = setting(5, 1, group=CARB)
    region_weight: Literal["adaptive"] | float = setting("adaptive", 0, group=CARB)
    region_balance: Literal[REGION_BALANCES] = setting("global", group=CARB)
    clip_model: str = _path("ViT-B/16")
    prompt_templates: str = _path("clip85", group=RESULT)
    teacher: TeacherSettings = TEACHERS["maskclip"]

    # network and optimiser
    backbone: str = "resnet50"
    backbone_weights: str | None = _path("imagenet", address=True)
    backbone_weights_partial: bool = False
    norm: Literal["batch", "group"] = "batch"
    output_stride: Literal[4, 8, 16] = 8
    aspp: Literal["v3", "v2"] = "v3"
    aspp_dilations: tuple[int, ...] = setting((12, 24, 36), 1)
    dropout: float = setting(0.0, 0, 1)
    classifier: Literal["text", "conv"] = "text"
    min_lr: float = setting(0.0001, 0)
    poly_power: float = setting(0.9, 0)
    momentum: float = setting(0.9, 0, 1)
    weight_decay: float = setting(0.0005, 0)

    # leave alone
    sync_region_stats: bool = False
    arithmetic: Arithmetic = Arithmetic()

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts: what YAML and a checkpoint can hold."""
        values = plain(dataclasses.asdict(self))
        if values["teacher"]["stored"]:
            del values["teacher"]["stored"]["stored"]
        return values

    @property
    def auto(self) -> list[str]:
        """The keys whose value is `auto`: the device of a training decides it."""
        return [key for key in ("precision", "channels_last") if getattr(self, key) == "auto"]

    def resolved(self, have_bf16: Callable[[], bool]) -> "Config":
        """This config without `auto`; have_bf16: see `utils.distributed.Ranks.all_have_bf16`."""
        if not self.auto:
            return self
        bf16 = have_bf16()
        precision = {"auto": "bf16" if bf16 else "fp32"}.get(self.precision, self.precision)
        chosen = {"precision": precision, "channels_last": bf16 and precision == "bf16"}
        return dataclasses.replace(self, **{key: chosen[key] for key in self.auto})

    def resolved_like(self, run: "Config") -> "Config":
        """This config with what `auto` became in a run, the config of its folder or checkpoint."""
        return dataclasses.replace(self, **{key: getattr(run, key) for key in self.auto})

    @property
    def stored_teacher(self) -> TeacherSettings:
        """The teacher of the masks that gen_clip_masks.py stores."""
        return self.teacher.stored or self.teacher

    def teacher_of_masks(self) -> str:
        """One line about the teacher of the stored masks, and the key that holds it."""
        key = "teacher.stored" if self.teacher.stored else "teacher"
        return f"teacher of the masks ({key}): {describe_teacher(vars(self.stored_teacher))}"

    def masks_of(self, split: str) -> str:
        """The folder for pseudo-masks of a split. Raises InputError with ``pseudo_masks: null``."""
        if not self.pseudo_masks:
            raise InputError("the config has pseudo_masks: null; name a folder with --out")
        return self.pseudo_masks if split == self.train_split else f"{self.pseudo_masks}_{split}"


_FIELDS = {f.name: f for f in dataclasses.fields(Config)}
_TYPES = typing.get_type_hints(Config)
_PARTS = {
    key: {f.name: f for f in dataclasses.fields(type(Config.__dict__[key]))} for key in PRESETS
}
_PART_TYPES = {key: typing.get_type_hints(type(Config.__dict__[key])) for key in PRESETS}
# Every key: lr, teacher, teacher.mlp, ...
KEYS = (*_FIELDS, *(f"{key}.{part}" for key, parts in _PARTS.items() for part in parts))
# And those that a config or --set may name beside them.
_OF_STORED = ("preset", *(part for part in _PARTS["teacher"] if part != "stored"))
_ACCEPTED = (
    *KEYS,
    *(f"{key}.preset" for key in PRESETS),
    *(f"teacher.stored.{part}" for part in _OF_STORED),
)


def keys_of(*groups: str) -> frozenset[str]:
    """The keys of these groups: RESULT, CARB, SPEED, PLACE, UPKEEP."""
    return frozenset(n for n, f in _FIELDS.items() if f.metadata.get("group", RESULT) in groups)


def flatten(values: dict[str, Any]) -> dict[str, Any]:
    """Parts under a name of their own: {"teacher": {"mlp": True}} -> {"teacher.mlp": True}.

    `teacher.stored` stays one value, the line of `describe_teacher`.
    """
    flat = {}
    for key, value in values.items():
        if key in PRESETS and isinstance(value, dict):
            flat |= {f"{key}.{part}": one for part, one in value.items()}
        else:
            flat[key] = value
    stored = flat.get("teacher.stored")
    if isinstance(stored, dict) and "preset" not in stored:
        flat["teacher.stored"] = describe_teacher(stored)
    return flat


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file and apply ``key=value`` overrides, see parse_overrides.

    Raises InputError naming the file, the key, the type expected and, for an unknown key, the
    nearest valid one.
    """
    values = override(read_settings(path), parse_overrides(overrides or []))
    return config_from_dict(values, source=str(path))


def override(values: dict[str, Any], overrides: dict[str, Any]) -> dict[str, Any]:
    """`values` of a file or checkpoint, changed by `overrides`, of --set for example.

    A preset in `overrides`, or a value for the whole of its key, replaces every part in `values`.
    """
    for key in (*PRESETS, "teacher.stored"):
        if key in overrides or f"{key}.preset" in overrides:
            values = _without(values, key)
    return values | overrides


def _without(values: dict[str, Any], key: str) -> dict[str, Any]:
    kept = {k: v for k, v in values.items() if k != key and not str(k).startswith(f"{key}.")}
    whole, _, part = key.partition(".")
    if part and isinstance(kept.get(whole), dict):
        kept[whole] = _without(kept[whole], part)
    return kept


def read_settings(path: str | Path) -> dict[str, Any]:
    """The settings that a config file states; old names from older run folders are translated."""
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"no config file at {path}; the shipped ones are in configs/, the demo's "
            "is demo/config.yaml"
        )
    values = read_yaml(path)
    if values is None:  # comments only: the defaults
        return {}
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected 'key: value' lines, found {type(values).__name__}")
    return translate(values, str(path))


def parse_overrides(overrides: list[str]) -> dict[str, Any]:
    """``["lr=1e-3", "crop_size=[512, 512]", "teacher.mlp=false"]`` -> the values.

    They are read as YAML, but the value of a text key is taken literally: a path may contain `#`
    or `: ` or be a number. Quotes around the whole value, and null, mean the same as in YAML.
    Raises InputError for anything that is not key=value or not YAML.
    """
    values = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise InputError(
                f"--set {override}: expected key=value without blanks, e.g. --set lr=0.01 seed=1 "
                "(put inputs before --set)"
            )
        try:
            values[key] = text if _is_literal(key, text) else parse_yaml(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {override}: the value is not valid YAML: {error}") from None
        if key not in _ACCEPTED:
            raise InputError(f"--set {override}: {_unknown(key, values[key])}")
    return values


def _is_literal(key: str, text: str) -> bool:
    if _TYPES.get(key) not in (str, str | None):
        return False
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return not quoted and text not in ("", "~", "null", "Null", "NULL")


def config_from_dict(values: dict[str, Any], source: str) -> Config:
    """Validate `values`; other keys take their defaults. `source` is named in every message.

    ``teacher.mlp`` changes a part of ``teacher``, which may be a preset's name or a mapping of
    parts, in which ``preset`` names the preset that they change.
    """
    for key, value in values.items():
        if key not in _ACCEPTED:
            raise InputError(f"{source}: {_unknown(str(key), value)}")
    whole = {key: value for key, value in values.items() if key in _FIELDS}
    needed = [n for n, f in _FIELDS.items() if f.metadata.get("of_data") and n not in whole]
    if whole.get("dataset", Config.dataset) != Config.dataset and needed:
        raise InputError(
            f"{source}: missing key{'s' * (len(needed) > 1)} {', '.join(needed)}; without them "
            f"'dataset: {whole['dataset']}' would use files of Cityscapes"
        )
    converted = {}
    for key in _FIELDS:
        if key in PRESETS:
            prefix = f"{key}."
            parts = {k.removeprefix(prefix): v for k, v in values.items() if k.startswith(prefix)}
            converted[key] = _with_parts(source, key, whole.get(key, {}), parts)
        elif key in whole:
            metadata = _FIELDS[key].metadata
            converted[key] = convert(source, key, whole[key], _TYPES[key], metadata)
    config = Config(**converted)
    _check_together(config, source)
    return config


def _unknown(key: str, value: Any) -> str:
    if found := new_name(key, value):
        return found
    near = difflib.get_close_matches(key.lower(), _ACCEPTED, n=1)
    hint = f"did you mean '{near[0]}'?" if near else "configs/cityscapes.yaml has every key"
    return f"unknown key '{key}'; {hint}"


def _with_parts(source: str, key: str, value: Any, parts: dict[str, Any]) -> Any:
    """A preset, changed by `parts`. `value` is its name or a mapping of parts with it in `preset`.

    Without `preset` it is the first one. `key`: teacher, teacher.stored or arithmetic.
    """
    group = key.partition(".")[0]
    presets = PRESETS[group]
    names = _PARTS[group] if key == group else _OF_STORED[1:]
    parts = _without_windows(parts)
    if isinstance(value, dict):
        parts = _without_windows(value) | parts
    elif isinstance(value, str) and value in presets:
        parts = {"preset": value} | parts
    else:
        raise InputError(
            f"{source}: '{key}' must be {', '.join(presets)}, or a mapping of parts "
            f"({', '.join(names)}); found {value!r}{_similar(value, presets)}"
        )
    preset = parts.pop("preset", next(iter(presets)))
    if not (isinstance(preset, str) and preset in presets):
        raise InputError(
            f"{source}: '{key}.preset' must be one of {', '.join(presets)}; found {preset!r}"
            f"{_similar(preset, presets)}"
        )
    of_stored = {}
    for part in list(parts):
        if f"{key}.{part}" not in _ACCEPTED:
            raise InputError(f"{source}: {_unknown(f'{key}.{part}', parts[part])}")
        if part.startswith("stored."):
            of_stored[part.removeprefix("stored.")] = parts.pop(part)
    stored = parts.pop("stored", None)
    types = _PART_TYPES[group]
    settings = dataclasses.replace(
        presets[preset],
        **{
            part: convert(source, f"{key}.{part}", one, types[part], _PARTS[group][part].metadata)
            for part, one in parts.items()
        },
    )
    if group == "teacher":
        check_teacher(settings, source, key)
        if settings.stride == settings.window:  # one spelling for the same masks
            settings = dataclasses.replace(settings, stride=None)
    if stored is None and of_stored:
        of_step = name_teacher(dataclasses.asdict(settings))
        stored = {} if "preset" in of_stored else of_step
    if stored is not None:
        stored = _with_parts(source, f"{key}.stored", stored, of_stored)
        if stored != settings:
            settings = dataclasses.replace(settings, stored=stored)
    return settings


def _without_windows(parts: dict[str, Any]) -> dict[str, Any]:
    """Where `parts` take the windows of a preset or file away, they take its stride away too."""
    if "window" in parts and parts["window"] is None:
        return parts | {"stride": parts.get("stride")}
    return parts


def _similar(found: Any, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(found).lower(), names, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


def save_config(config: Config, path: str | Path) -> None:
    """Write all keys as YAML that `load_config` reads back to an equal config."""
    text = yaml.safe_dump(config.to_dict(), sort_keys=False, default_flow_style=None)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _check_windows(config: Config, source: str) -> None:
    """Refuse windows that are larger than what the teacher sees.

    Images have any shape, so that only `models.maskclip.check_images` knows them after short_side.
    """
    stored = "teacher.stored" if config.teacher.stored else "teacher"
    seen = []
    if config.stored_teacher.short_side is None:
        seen += [(stored, config.stored_teacher, "the images ('image_size')", config.image_size)]
    if config.views == "dual":
        seen += [("teacher", config.teacher, "the global view ('crop_size')", config.crop_size)]
    if config.views != "base":
        ratio = np.float32(config.local_resize[0])  # as `LocalViewSampler.view` in models/views.py
        local = tuple(max(1, int(np.float32(side) * ratio)) for side in config.patch_size)
        view = "the smallest local view ('patch_size' x 'local_resize')"
        seen += [("teacher", config.teacher, view, local)]
    for key, teacher, view, size in seen:
        size = resized(size, teacher.short_side)
        if teacher.window and any(w > s for w, s in zip(teacher.window, size, strict=True)):
            raise InputError(
                f"{source}: '{key}' has window: {list(teacher.window)}: it is larger than {view}, "
                f"{list(size)} where the teacher sees it; set {key}.window=null, a smaller one, or "
                f"a larger {key}.short_side, to which the image is resized first"
            )


def _check_together(config: Config, source: str) -> None:
    _check_windows(config, source)
    if config.views != "base" and config.teacher.templates == "experts":
        raise InputError(
            f"{source}: 'teacher' has templates: experts, which are ranked on the whole data set "
            f"and are for stored masks; with views: {config.views} the teacher also works in the "
            "training step: set teacher.templates=average teacher.stored.templates=experts"
        )
    for key in ("scale_range", "local_resize"):
        low, high = getattr(config, key)
        if low > high:
            raise InputError(f"{source}: '{key}' must be [low, high], found {[low, high]}")
    if config.views != "base" and any(
        p > c for p, c in zip(config.patch_size, config.crop_size, strict=True)
    ):
        raise InputError(
            f"{source}: 'patch_size' {list(config.patch_size)} must fit into "
            f"'crop_size' {list(config.crop_size)}"
        )
    if config.views != "dual" and config.pseudo_masks is None:
        raise InputError(
            f"{source}: views: {config.views} trains on stored masks, so 'pseudo_masks' must name "
            "their folder (made by gen_clip_masks.py)"
        )
    if config.region_balance != "global" and config.region_weight != "adaptive":
        raise InputError(
            f"{source}: 'region_balance' {config.region_balance} computes its weights from the "
            f"adaptive w, found region_weight: {config.region_weight:g}; set one of them only"
        )
    if config.carb and config.warmup_steps == 0:
        raise InputError(f"{source}: 'warmup_steps' must be at least 1 with carb: true")
    if config.carb and config.warmup_steps >= config.steps:
        raise InputError(
            f"{source}: 'warmup_steps' ({config.warmup_steps}) must be below 'steps' "
            f"({config.steps}) with carb: true"
        )
