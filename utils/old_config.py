"""Configs of earlier versions, which had 67 keys, all of them in every file.

The settings in an older run folder or checkpoint are translated as a whole (`translate`). An old
name in a config that states some keys, or in --set, is refused with the new one (`new_name`).
"""

from pathlib import Path
from typing import Any

from utils.safe.errors import InputError

# Old key -> new key, or part of `teacher` or `arithmetic`.
_RENAMED = {
    "resize_to": "image_size",
    "ratio_range": "scale_range",
    "local_ratio": "local_resize",
    "power": "poly_power",
    "sync": "sync_region_stats",
    "clip_residual": "teacher.residual",
    "clip_mlp": "teacher.mlp",
    "key_smoothing": "teacher.key_smoothing",
    "prompt_denoising": "teacher.prompt_denoising",
    "clip_activation": "arithmetic.clip_activation",
    "clip_layer_norm_eps": "arithmetic.clip_layer_norm_eps",
    "clip_normalization": "arithmetic.clip_normalization",
    "clip_padding": "arithmetic.clip_padding",
    "clip_position_embedding": "arithmetic.clip_position_embedding",
    "key_smoothing_norm": "arithmetic.key_smoothing_norm",
    "absent_classes": "arithmetic.label_filter",
    "ignore_padding": "arithmetic.ignore_padding",
    "patch_draw": "arithmetic.local_view_per",
    "patch_law": "arithmetic.local_view_last_position",
    "empty_region": "arithmetic.empty_region",
}
VALUES: dict[tuple[str, Any], Any] = {
    ("absent_classes", "masked"): "mask",
    ("absent_classes", "multiplied"): "multiply",
    ("patch_law", "inclusive"): True,
    ("patch_law", "official"): False,
}
# Shipped files that were moved.
_MOVED = {
    "datasets/classes/synthetic.yaml": "demo/classes.yaml",
    "models/miniature/clip.pt": "demo/weights/clip.pt",
    "models/miniature/templates.txt": "demo/templates.txt",
    "models/miniature/trunk.pt": "demo/weights/backbone.pt",
}
# (backbone, width, layers, stem, bottleneck_stride) -> the name in models/resnet.py
_BACKBONES = {
    (name, 64, 4, "conv7", "3x3"): name
    for name in ("resnet18", "resnet34", "resnet50", "resnet101")
} | {
    ("resnet18", 16, 3, "conv7", "3x3"): "resnet18_quarter",
    ("resnet18", 8, 4, "conv7", "3x3"): "resnet18_eighth",
    ("resnet50", 64, 3, "conv7", "1x1"): "resnet50_caffe_c4",
    ("resnet50", 64, 4, "v1c", "3x3"): "resnet50_v1c",
    ("resnet101", 64, 4, "v1c", "3x3"): "resnet101_v1c",
}
_BACKBONE_KEYS = ("backbone", "backbone_width", "backbone_layers", "stem", "bottleneck_stride")
# Keys that became part of another key or a constant -> what to write now.
_MERGED = {
    "balance": "region_weight: adaptive, or a number (balance: fixed with balance_coefficient: 0.5 "
    "is region_weight: 0.5)",
    "backbone_width": "the name in 'backbone', e.g. backbone: resnet18_quarter for width 16",
    "backbone_layers": "the name in 'backbone', e.g. backbone: resnet50_caffe_c4 for three stages",
    "stem": "the name in 'backbone', e.g. backbone: resnet50_v1c for stem: v1c",
    "bottleneck_stride": "the name in 'backbone', e.g. resnet50_caffe_c4 for a stride on the 1x1",
    "backbone_sha256": "the end of 'backbone_weights': ADDRESS#sha256=2cccc1ad",
    "flip_probability": "fixed at 0.5 (datasets/transforms.py); leave it out",
}
_MERGED["balance_coefficient"] = _MERGED["balance"]
_UNCHANGED = {
    *("dataset", "data_root", "class_file", "image_labels", "pseudo_masks", "train_split"),
    *("val_split", "num_workers", "crop_size", "photometric_distortion", "clip_model", "clip_text"),
    *("prompt_templates", "backbone", "output_stride", "backbone_weights", "aspp", "dropout"),
    *("backbone_weights_partial", "aspp_dilations", "classifier", "views", "patch_size", "carb"),
    *("warmup_steps", "queue_size", "steps", "batch_size", "lr", "min_lr", "momentum"),
    *("weight_decay", "precision", "channels_last", "compile", "seed", "log_every"),
    "checkpoint_every",
}
_KEYS = _UNCHANGED | _RENAMED.keys() | _MERGED.keys()  # and image_cache, which some lack


def translate(values: dict[str, Any], source: str) -> dict[str, Any]:
    """Settings of an older run under the current keys; other settings are returned unchanged.

    Raises InputError where the current keys can't express an old one.
    """
    if not values.keys() >= _KEYS:
        return values
    new = renamed(values)
    backbone = tuple(values[key] for key in _BACKBONE_KEYS)
    name = next((name for old, name in _BACKBONES.items() if old == backbone), None)
    if name is None:
        described = ", ".join(f"{k}: {v}" for k, v in zip(_BACKBONE_KEYS, backbone, strict=True))
        raise _inexpressible(
            source, described, "add it to models/resnet.py and to _BACKBONES in utils/old_config.py"
        )
    new["backbone"] = name
    weights, sha256 = values["backbone_weights"], values["backbone_sha256"]
    if sha256 is not None and f"-{sha256}." not in str(weights):  # else it is in the name
        new["backbone_weights"] = f"{weights}#sha256={sha256}"
    if values["flip_probability"] != 0.5:
        found = f"flip_probability: {values['flip_probability']}"
        raise _inexpressible(source, found, "it is 0.5 now")
    if values["balance"] != "fixed" and values["balance_coefficient"] != 1:
        found = f"balance_coefficient: {values['balance_coefficient']}"
        raise _inexpressible(source, found, "the adaptive weight has no factor now")
    return new


def renamed(values: dict[str, Any]) -> dict[str, Any]:
    """Settings with the current names for those of `_RENAMED` and for the region weight."""
    new = {}
    for key, value in values.items():
        if key in _RENAMED:
            new[_RENAMED[key]] = _new_value(key, value)
        elif key not in _MERGED:
            new[key] = moved(value) if isinstance(value, str) else value
    if "balance" in values:
        fixed = values["balance"] == "fixed"
        new["region_weight"] = (
            values.get("balance_coefficient", 1.0) if fixed else values["balance"]
        )
    return new


def moved(path: str) -> str:
    """Where a shipped file is now, for a path of an earlier version at which no file is left."""
    for old, new in _MOVED.items():
        if Path(path).as_posix().endswith(old) and not Path(path).exists():
            found = Path(path).as_posix().removesuffix(old) + new
            return found if path == old or Path(found).exists() else path
    return path


def new_name(key: str, value: Any) -> str | None:
    """What to write instead of an old key; None for a key that never existed."""
    if key in _RENAMED:
        new = _new_value(key, value)
        text = str(new).lower() if isinstance(new, bool) else new
        return f"'{key}' is now '{_RENAMED[key]}'; write {_RENAMED[key]}: {text}"
    if key in _MERGED:
        return f"'{key}' is now {_MERGED[key]}"
    return None


def _new_value(key: str, value: Any) -> Any:
    return next((new for old, new in VALUES.items() if old == (key, value)), value)


def _inexpressible(source: str, found: str, why: str) -> InputError:
    return InputError(
        f"{source} is from an earlier version and has {found}; {why}. The version that wrote it "
        "(git.txt in the run folder) can still use it"
    )
