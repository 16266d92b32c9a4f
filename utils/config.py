"""One flat YAML file -> one frozen, validated dataclass.

Every key must be in the file: a run is described whole by one page, without inheritance and without
hidden defaults. `configs/cityscapes.yaml` says in comments what each key does.
"""

import dataclasses
import difflib
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from utils.config_values import convert
from utils.safe.errors import InputError
from utils.safe.files import replacing
from utils.safe.yaml_file import parse_yaml, read_yaml


def _choice(*options: str) -> Any:
    return field(metadata={"choices": options})


def _bounded(low: float | None = None, high: float | None = None) -> Any:
    return field(metadata={"low": low, "high": high})


def _path(address: bool = False, **more: Any) -> Any:
    """A file or folder, ~ and variables replaced (`utils.safe.paths`); or, if so, an address."""
    return field(metadata={"path": True, "address": address}, **more)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Everything that decides a result. Sizes are (height, width) in pixels.

    A key added later has a default, which changes nothing, so that older runs can still be read.
    Paths are held, saved and compared with ~ and variables replaced.
    """

    # data
    dataset: str = _choice("cityscapes", "camvid", "wilddash2", "folder")
    data_root: str = _path()
    class_file: str = _path()
    image_labels: str = _path()
    pseudo_masks: str | None = _path()
    train_split: str
    val_split: str
    num_workers: int = _bounded(0)
    image_cache: str | None = _path(default=None)

    # image augmentation
    resize_to: tuple[int, int] = _bounded(1)
    ratio_range: tuple[float, float] = _bounded(0.01)
    crop_size: tuple[int, int] = _bounded(1)
    flip_probability: float = _bounded(0, 1)
    photometric_distortion: bool
    ignore_padding: bool

    # CLIP and its pseudo-masks
    clip_model: str = _path()
    clip_text: str = _path()
    prompt_templates: str = _path()
    clip_activation: str = _choice("quickgelu", "gelu")
    clip_layer_norm_eps: float = _bounded(0)
    clip_normalization: str = _choice("clip", "imagenet")
    clip_residual: bool
    clip_mlp: bool
    clip_padding: str = _choice("crop", "stretch")
    clip_position_embedding: str = _choice("grid", "count")
    key_smoothing: float = _bounded(0, 1)
    key_smoothing_norm: str = _choice("channels", "tokens")
    prompt_denoising: float = _bounded(0, 1)
    absent_classes: str = _choice("masked", "multiplied")

    # segmentation network
    backbone: str = _choice("resnet18", "resnet34", "resnet50", "resnet101")
    backbone_width: int = _bounded(1)
    backbone_layers: int = _bounded(1, 4)
    stem: str = _choice("conv7", "v1c")
    bottleneck_stride: str = _choice("3x3", "1x1")
    output_stride: int = _choice(4, 8, 16)
    backbone_weights: str | None = _path(address=True)
    backbone_sha256: str | None
    backbone_weights_partial: bool
    aspp: str = _choice("v3", "v2")
    aspp_dilations: tuple[int, ...] = _bounded(1)
    dropout: float = _bounded(0, 1)
    classifier: str = _choice("text", "conv")

    # views
    views: str = _choice("base", "local", "dual")
    patch_size: tuple[int, int] = _bounded(1)
    local_ratio: tuple[float, float] = _bounded(0.01)
    patch_draw: str = _choice("image", "batch")
    patch_law: str = _choice("inclusive", "official")

    # CARB
    carb: bool
    warmup_steps: int = _bounded(0)
    queue_size: int = _bounded(1)
    balance: str = _choice("adaptive", "fixed")
    balance_coefficient: float = _bounded(0)
    empty_region: str = _choice("zero", "nan")
    sync: bool

    # optimisation
    steps: int = _bounded(1)
    batch_size: int = _bounded(1)
    lr: float = _bounded(0)
    min_lr: float = _bounded(0)
    power: float = _bounded(0)
    momentum: float = _bounded(0, 1)
    weight_decay: float = _bounded(0)
    precision: str = _choice("fp32", "bf16")
    channels_last: bool
    compile: bool
    seed: int = _bounded(0)
    log_every: int = _bounded(1)
    checkpoint_every: int = _bounded(1)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and lists: what YAML and a checkpoint can hold."""
        return {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in dataclasses.asdict(self).items()
        }


_FIELDS = {f.name: f for f in dataclasses.fields(Config)}
_TYPES = typing.get_type_hints(Config)


def load_config(path: str | Path, overrides: list[str] | None = None) -> Config:
    """Read a YAML file and apply ``key=value`` overrides, see parse_overrides.

    Raises InputError naming the file, the key, the type expected and, for an unknown key, the
    nearest valid one.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no config file at {path}; the shipped ones are in configs/")
    values = read_yaml(path)
    if not isinstance(values, dict):
        raise InputError(f"{path}: expected 'key: value' lines, found {type(values).__name__}")
    return config_from_dict(values | parse_overrides(overrides or []), source=str(path))


def parse_overrides(overrides: list[str]) -> dict[str, Any]:
    """``["lr=1e-3", "crop_size=[512, 512]"]`` -> the values.

    They are read as YAML, but the value of a text key stands for itself: a path may hold `#` or
    `: ` or be a number. Quotes around the whole of it and null mean what they mean in YAML.
    Raises InputError for what is not key=value or not YAML.
    """
    values = {}
    for override in overrides:
        key, separator, text = override.partition("=")
        if not separator:
            raise InputError(
                f"--set {override}: expected key=value without blanks, e.g. --set lr=0.01 seed=1 "
                "(an input that follows --set stands before it)"
            )
        try:
            values[key] = text if _stands_for_itself(key, text) else parse_yaml(text)
        except yaml.YAMLError as error:
            raise InputError(f"--set {override}: the value is not valid YAML: {error}") from None
    return values


def _stands_for_itself(key: str, text: str) -> bool:
    if _TYPES.get(key) not in (str, str | None):
        return False
    quoted = len(text) > 1 and text[0] == text[-1] and text[0] in "'\""
    return not quoted and text not in ("", "~", "null", "Null", "NULL")


def config_from_dict(values: dict[str, Any], source: str) -> Config:
    """Validate `values`; `source` (a file name) opens every message."""
    for key in values:
        if key not in _FIELDS:
            near = difflib.get_close_matches(str(key).lower(), _FIELDS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else "configs/cityscapes.yaml has every key"
            raise InputError(f"{source}: unknown key '{key}'; {hint}")
    missing = [
        k for k, f in _FIELDS.items() if k not in values and f.default is dataclasses.MISSING
    ]
    if missing:
        raise InputError(
            f"{source}: missing key{'s' * (len(missing) > 1)} {', '.join(missing)}; "
            "configs/cityscapes.yaml has every key with a comment"
        )
    config = Config(
        **{
            key: convert(source, key, value, _TYPES[key], _FIELDS[key].metadata)
            for key, value in values.items()
        }
    )
    _check_together(config, source)
    return config


def save_config(config: Config, path: str | Path) -> None:
    """Write the resolved config as YAML that `load_config` reads back to an equal one."""
    text = yaml.safe_dump(config.to_dict(), sort_keys=False, default_flow_style=None)
    with replacing(Path(path)) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _check_together(config: Config, source: str) -> None:
    for key in ("ratio_range", "local_ratio"):
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
            "their folder"
            " (made by gen_clip_masks.py)"
        )
    if config.carb and config.warmup_steps == 0:
        raise InputError(f"{source}: 'warmup_steps' must be at least 1 with carb: true")
    if config.carb and config.warmup_steps >= config.steps:
        raise InputError(
            f"{source}: 'warmup_steps' ({config.warmup_steps}) must be below 'steps' "
            f"({config.steps}) "
            "with carb: true"
        )
