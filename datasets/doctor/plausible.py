"""Settings of a config that are implausible for its training images."""

import math
import os
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from datasets.doctor.sizes import median_size
from datasets.mask_folder import read_made_from
from datasets.transforms import fit_into
from datasets.windows import Size
from utils.config import Config
from utils.made_from import changed, listed
from utils.teacher_settings import TeacherSettings, describe_teacher

CLIP_SIDE = 224  # smaller images should be enlarged: CLIP was trained at this size


def implausible(config: Config, num_images: int, sizes: Sequence[Size] = ()) -> list[str]:
    """Settings that are valid but implausible, one line each: what was found and a better value.

    num_images: of the training split. sizes: (height, width) of some of its images, upright;
    without them only the config itself is checked.
    """
    found = [*_intervals(config), *_counts(config, num_images), *_sizes(config, sizes)]
    return found + _teachers(config)


def _intervals(config: Config) -> list[str]:
    stages = {"the run": config.steps}
    if config.carb:
        stages = {"the warm-up": config.warmup_steps, "CARB": config.steps - config.warmup_steps}
    stage, steps = min(stages.items(), key=lambda item: item[1])
    found = []
    if config.log_every > steps:
        found.append(
            f"log_every {config.log_every} is more than the {steps} steps of {stage}: no progress "
            f"is shown; e.g. log_every: {max(1, steps // 20)}"
        )
    if config.checkpoint_every > steps:
        found.append(
            f"checkpoint_every {config.checkpoint_every} is more than the {steps} steps of {stage}"
            f": a killed run loses them all; e.g. checkpoint_every: {max(1, steps // 5)}"
        )
    if not config.carb and config.warmup_steps > config.steps:
        found.append(
            f"warmup_steps {config.warmup_steps} is beyond steps {config.steps}: no warmup.pt will "
            "be kept for train_carb.py; lower it"
        )
    return found


def _counts(config: Config, num_images: int) -> list[str]:
    found = []
    if num_images == 0:
        found.append(f"train_split: {config.train_split} has no images; name a split that has some")
    elif config.batch_size > num_images:
        found.append(
            f"batch_size {config.batch_size} is more than the {num_images} images of "
            f"'{config.train_split}': a batch repeats some of them; lower it"
        )
    cores = available_cores()
    if config.num_workers > 2 * cores:
        found.append(
            f"num_workers {config.num_workers} is far more than the {cores} cores of this machine: "
            f"the processes compete for them; e.g. num_workers: {cores}"
        )
    if config.views != "dual" and not Path(config.pseudo_masks or "").is_dir():
        found.append(
            f"views: {config.views} trains on stored masks, but the folder "
            f"{config.pseudo_masks} does not exist; make them before training: gen_clip_masks.py"
        )
    return found


def _teachers(config: Config) -> list[str]:
    found, teacher = [], config.teacher
    if config.views != "base" and teacher.short_side is not None:
        found.append(
            f"teacher.short_side {teacher.short_side}: in training, CLIP sees every view resized "
            "to it, so that local_resize no longer decides the size of the local view; for the "
            "training step use teacher: fast, and name this teacher in teacher.stored"
        )
    if config.views == "dual" and teacher.stored:
        found.append(
            f"teacher.stored is {describe_teacher(asdict(teacher.stored))}, but views: dual trains "
            "on no stored masks, only on those that the teacher makes in training; views: local "
            "trains on stored masks of the whole image"
        )
    if config.views != "dual":
        options = read_made_from(Path(config.pseudo_masks or ""))[1].get("options")
        made = asdict(TeacherSettings()) | options if isinstance(options, dict) else {}
        other = made and changed(made, asdict(config.stored_teacher))
        if other:
            key = "teacher.stored" if teacher.stored else "teacher"
            found.append(
                f"the masks in {config.pseudo_masks} were made by another teacher than {key} "
                f"({listed(other)}); make them again with gen_clip_masks.py --overwrite, or name "
                "their teacher in teacher.stored"
            )
    return found


def _sizes(config: Config, sizes: Sequence[Size]) -> list[str]:
    found = []
    cells = [math.ceil(side / config.output_stride) for side in config.crop_size]
    if max(config.aspp_dilations) >= min(cells):
        found.append(
            f"aspp_dilations {list(config.aspp_dilations)} reach beyond the map of "
            f"{as_text(cells)} cells (crop_size / output_stride), which is all padding; "
            f"e.g. aspp_dilations: {dilations(min(cells))}"
        )
    typical = median_size(sizes) if sizes else config.image_size
    filled = statistics.mean(_filled(config, size) for size in sizes or [config.image_size])
    if filled < 0.5:
        found.append(
            f"images of {as_text(typical)}, scaled to image_size {as_text(config.image_size)} "
            f"and by scale_range, fill {100 * filled:.0f} % of crop_size "
            f"{as_text(config.crop_size)}, the rest is padding; lower or turn crop_size"
        )
    fitted = fit_into(typical, config.image_size)
    factor = max(fitted) / max(typical)
    if (factor > 2 or _is_below(typical, config.crop_size)) and min(fitted) > CLIP_SIDE:
        found.append(
            f"the images (typically {as_text(typical)}) are enlarged {factor:.1f} times to "
            f"image_size {as_text(config.image_size)}, for crop_size {as_text(config.crop_size)}: "
            "more work without more detail; lower both"
        )
    return found


def _filled(config: Config, size: Size) -> float:
    """Share of a crop that an image fills at the middle of scale_range."""
    ratio = sum(config.scale_range) / 2
    box = tuple(max(1, int(side * ratio)) for side in config.image_size)
    inside = map(min, fit_into(size, box), config.crop_size)
    return math.prod(inside) / math.prod(config.crop_size)


def crop_to_reach(config: Config, sizes: Sequence[Size]) -> Size | None:
    """crop_size, which no image should be smaller than; None where most of `sizes` are.

    `implausible` reports these, unless they are so small that CLIP needs them enlarged.
    """
    most_below = sizes and _is_below(median_size(sizes), config.crop_size)
    return None if most_below else config.crop_size


def _is_below(size: Size, crop_size: Size) -> bool:
    return size[0] < crop_size[0] or size[1] < crop_size[1]


def dilations(cells: int, first: int = 12) -> list[int]:
    """Dilations of an ASPP on a map whose shorter side has `cells` cells.

    At most `first` and its multiples, in proportion to the paper's 12, 24, 36 on 64 cells.
    """
    step = max(1, min(first, cells // 5))
    return [d for d in (step, 2 * step, 3 * step) if d < cells] or [1]


def available_cores() -> int:
    """Processor cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):  # not on macOS and Windows
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def as_text(size: Sequence[int]) -> str:
    """(480, 640) -> '480x640', height first."""
    return "x".join(map(str, size))
