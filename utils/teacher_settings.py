"""How CLIP's class scores are made: the parts of `teacher` and `teacher.stored`, and presets."""

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal

import yaml

from utils.config_values import plain, setting
from utils.safe.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TeacherSettings:
    """How CLIP's class scores are made; the defaults are the preset `maskclip`.

    stored: the teacher of the masks that gen_clip_masks.py stores, where it is another than the one
    inside the training step.
    """

    residual: bool = True
    mlp: bool = True
    key_smoothing: float = setting(0.0, 0, 1)
    prompt_denoising: float = setting(0.0, 0, 1)
    attention: Literal["value", "qk", "qq", "kk", "qq+kk", "calibrated"] = "value"
    gaussian_std: float = setting(0.0, 0)
    middle_blocks: tuple[int, ...] | tuple[()] = setting((), 0)
    middle_weight: float = setting(0.0, 0, 1)
    calibrated_blocks: tuple[int, int, int, int] | tuple[()] = setting((), 0)
    calibrated_beta: float = setting(0.4, 0, 1)
    pamr_steps: int = setting(0, 0)
    pamr_dilations: tuple[int, ...] = setting((8, 16), 1)
    short_side: int | None = setting(None, 1)
    window: tuple[int, int] | None = setting(None, 1)
    stride: tuple[int, int] | None = setting(None, 1)
    templates: Literal["average", "experts"] = "average"
    stored: "TeacherSettings | None" = None


_ATTENTION_ALONE = {"residual": False, "mlp": False}
_WINDOWS = {"short_side": 560, "window": (224, 224), "stride": (112, 112)}  # NACLIP's protocol
_NACLIP = _ATTENTION_ALONE | {"attention": "kk", "gaussian_std": 5.0}
_CALIBRATED = _ATTENTION_ALONE | _WINDOWS | {"attention": "calibrated"}

# A preset with the name of a method has the windows of its published numbers too.
TEACHERS: dict[str, TeacherSettings] = {
    "maskclip": TeacherSettings(),  # as CARB runs it (Kim et al. 2024)
    "maskclip_plain": TeacherSettings(**_ATTENTION_ALONE),  # MaskCLIP (Zhou et al. 2022)
    "clearclip": TeacherSettings(  # ClearCLIP (Lan et al. 2024)
        **_ATTENTION_ALONE, attention="qq", short_side=448, window=(224, 224)
    ),
    "sclip": TeacherSettings(attention="qq+kk", **_WINDOWS),  # SCLIP (Wang et al. 2024)
    "naclip": TeacherSettings(**_NACLIP, **_WINDOWS),  # NACLIP (Hajimiri et al. 2025)
    "naclip_pamr": TeacherSettings(**_NACLIP, **_WINDOWS, pamr_steps=10),  # the same, refined
    "scclip": TeacherSettings(**_CALIBRATED),  # SC-CLIP (Bai et al. 2024)
    "fast": TeacherSettings(**_NACLIP),  # for the training step: NACLIP's attention, no windows
    "strong": TeacherSettings(**_CALIBRATED, pamr_steps=10),  # for stored masks: scclip, PAMR
}


def resized(size: tuple[int, int], short_side: int | None) -> tuple[int, int]:
    """(height, width) of an image whose shorter side is resized to `short_side`; None: as it is."""
    if short_side is None:
        return size
    factor = short_side / min(size)
    return tuple(int(side * factor + 0.5) for side in size)


def name_teacher(parts: dict[str, Any]) -> str | dict[str, Any]:
    """The preset with these parts, or a mapping: the nearest preset and the parts that differ.

    Missing parts have their defaults. The result is a valid value of `teacher`.
    """
    parts = {key: value for key, value in parts.items() if key != "stored"}

    def differing(preset: str) -> dict[str, Any]:
        usual = plain(dataclasses.asdict(TEACHERS[preset]))
        whole = dataclasses.asdict(TeacherSettings()) | parts
        return {key: one for key, one in plain(whole).items() if one != usual[key]}

    nearest = min(TEACHERS, key=lambda preset: len(differing(preset)))
    others = differing(nearest)
    if "window" in others or "stride" in others:  # null means the window's size: said in numbers
        others["stride"] = plain(parts.get("stride") or parts.get("window"))
    return {"preset": nearest} | others if others else nearest


def describe_teacher(parts: dict[str, Any]) -> str:
    """`name_teacher` as one line of YAML, which --set takes: naclip, or {preset: naclip, ...}."""
    name = name_teacher(parts)
    if isinstance(name, str):
        return name
    line = yaml.safe_dump(name, sort_keys=False, default_flow_style=True, width=float("inf"))
    return line.strip()


def check_teacher(teacher: Any, source: str, key: str) -> None:
    """Refuse parts that exclude each other; models/clip_features.py knows what CLIP's tower can.

    teacher: `TeacherSettings`, or the model's options, whose names are the same. source and key are
    named in the message.
    """

    def refuse(found: str, reason: str) -> None:
        raise InputError(f"{source}: '{key}' has {found}: {reason}")

    attention = f"attention: {teacher.attention}"
    if teacher.attention == "calibrated" and (teacher.residual or teacher.mlp):
        refuse(
            attention,
            f"it has no residual and no MLP; set {key}.residual=false {key}.mlp=false",
        )
    if teacher.gaussian_std > 0 and teacher.attention in ("value", "calibrated"):
        refuse(
            f"gaussian_std: {teacher.gaussian_std:g} with {attention}",
            "the Gaussian is added to the logits of qk, qq or kk; "
            f"set {key}.gaussian_std=0, or {key}.attention=kk",
        )
    if teacher.middle_blocks and teacher.attention in ("value", "calibrated"):
        refuse(
            f"middle_blocks: {list(teacher.middle_blocks)} with {attention}",
            "the attention of middle blocks is mixed into qk, qq, kk or qq+kk; "
            f"set {key}.middle_blocks=[] {key}.middle_weight=0, or another attention",
        )
    if len(set(teacher.middle_blocks)) < len(teacher.middle_blocks):
        refuse(f"middle_blocks: {list(teacher.middle_blocks)}", "name each block once")
    if bool(teacher.middle_blocks) != (teacher.middle_weight > 0):
        refuse(
            f"middle_blocks: {list(teacher.middle_blocks)} with middle_weight: "
            f"{teacher.middle_weight:g}",
            f"one needs the other, e.g. {key}.middle_blocks=[5,6,7,8] {key}.middle_weight=0.2",
        )
    if teacher.stride and not teacher.window:
        refuse(f"stride: {list(teacher.stride)}", f"there are no windows; set {key}.window too")
    if teacher.stride and any(s > w for s, w in zip(teacher.stride, teacher.window, strict=True)):
        refuse(
            f"stride: {list(teacher.stride)} with window: {list(teacher.window)}",
            "pixels between the windows would have no scores; a stride is at most the window: set "
            f"{key}.stride too",
        )
    later = f"window: {list(teacher.window)}" if teacher.window else ""
    later = later or (f"pamr_steps: {teacher.pamr_steps}" if teacher.pamr_steps else "")
    if teacher.prompt_denoising > 0 and later:
        refuse(
            f"prompt_denoising: {teacher.prompt_denoising:g} with {later}",
            "it removes classes by a score of -100, which would be averaged with cosines of other "
            f"windows or pixels; set {key}.prompt_denoising=0",
        )
    if teacher.key_smoothing > 0 and later:
        refuse(
            f"key_smoothing: {teacher.key_smoothing:g} with {later}",
            "its scores are sums of probabilities at some positions, whose scale differs from "
            f"window to window and from pixel to pixel; set {key}.key_smoothing=0",
        )
    if teacher.window and teacher.short_side and min(teacher.window) > teacher.short_side:
        refuse(
            f"window: {list(teacher.window)} with short_side: {teacher.short_side}",
            f"the window is larger than the image; set a larger {key}.short_side or a smaller "
            f"{key}.window",
        )
