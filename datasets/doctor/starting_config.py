"""A config to start from: sizes, steps and intervals derived from the images of a data set."""

import math
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from datasets import SegmentationData
from datasets.doctor.plausible import CLIP_SIDE, as_text, available_cores, dilations
from datasets.doctor.sizes import median_size, sample_sizes
from datasets.doctor.survey import has_all_masks
from datasets.image_labels import HOW_TO_LABEL
from datasets.labels import load_classes
from datasets.split_labels import labels_beside
from datasets.windows import Size
from utils.config import Config, config_from_dict, load_config, read_settings
from utils.safe.errors import InputError
from utils.safe.files import check_folder, replacing
from utils.safe.yaml_file import parse_yaml

_ROOT = Path(__file__).resolve().parent.parent.parent
_GRID = 16  # crops are multiples of it: pixels of a patch of CLIP's ViT, two cells of the network
_PORTRAIT = 0.9  # share of images with one orientation from which crops have it too
_LOG = (1, 2, 5, 10, 20, 50)
_SAVE = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000)


class Choice(NamedTuple):
    """A value of a config, and a few words on why."""

    value: Any
    why: str


class Start(NamedTuple):
    """A shipped config to derive from, and its limits."""

    template: str
    pixels: int  # of an image, at most
    side: int  # of an image's shorter side, at least
    crop_pixels: int
    passes: int  # over the images
    steps: tuple[int, int]  # at least, at most
    warmup: float  # share of the steps


PAPER = Start("configs/folder.yaml", 1024 * 2048, CLIP_SIDE, 512 * 1024, 80, (1000, 60000), 16 / 30)
MINIATURE = Start("demo/config.yaml", 160 * 320, 64, 128 * 256, 20, (100, 400), 0.8)


def write_starting_config(
    path: Path,
    name: str,
    dataset: SegmentationData,
    class_file: Path,
    labels: str | None,
    miniature: bool,
    overwrite: bool,
) -> str:
    """Write a config for the data set to `path`; return its values, reasons and the next steps.

    name: the kind of data set. labels: a file of labels; None looks for one beside the images.
    miniature: for a dry run with the miniature CLIP. Raises InputError where the file
    exists, or where the data set has fewer than two readable images.
    """
    start = MINIATURE if miniature else PAPER
    if path.is_dir():
        raise InputError(f"{path} is a folder; name a file, e.g. {path / 'mine.yaml'}")
    if path.exists() and not overwrite:
        raise InputError(f"{path} exists already; name another file, or --overwrite to replace it")
    check_folder(path.parent, "--write-config")
    splits = dataset.splits()
    train = "train" if "train" in splits else splits[0]
    images = dataset.images(train)
    sizes = sample_sizes(images)
    if len(images) < 2 or not sizes:
        raise InputError(
            f"expected at least 2 images that can be read in '{train}' of {dataset.root}, found "
            f"{min(len(images), len(sizes))}; prepare_data.py --check names what is wrong"
        )
    template = load_config(_ROOT / start.template)
    root = Path(dataset.root)
    beside = labels or labels_beside(root, load_classes(class_file), None, is_needed=True)
    label_file = Path(beside or root / "image_labels.json")
    chosen = _data(name, dataset, class_file, label_file, start)
    chosen |= _splits(splits, train)
    chosen |= _numbers(len(images), sizes, template, start)
    _write(path, chosen, start, f"{len(images)} images of {dataset.root}")
    load_config(path)
    width = max(map(len, chosen))
    lines = [f"wrote {path}, from {len(images)} images of '{train}':"]
    lines += [f"  {key:{width}}  {_yaml(c.value)}  {c.why}".rstrip() for key, c in chosen.items()]
    lines += _outlook(len(images), chosen, template, start)
    config, folder = shlex.quote(str(path)), shlex.quote(str(root))
    command = f"  python prepare_data.py {name} --root {folder}"
    if label_file.is_file():
        to_label = []
    elif has_all_masks(dataset, [train]):
        to_label = [f"{command} --out {shlex.quote(str(label_file))}"]
    else:
        suggested = shlex.quote(str(root / "suggested")) + " --miniature" * miniature
        to_label = [
            f"  # there are no labels yet; {HOW_TO_LABEL}",
            f"{command} --suggest {suggested}  # then correct them on its page.html",
            f"{command} --labels labels.csv --out {shlex.quote(str(label_file))}",
        ]
    given = f" --labels {shlex.quote(labels)}" if labels else ""
    return "\n".join(
        [
            *lines,
            "next:",
            *to_label,
            f"{command}{given} --check --config {config}",
            f"  python gen_clip_masks.py --config {config} --save-vis",
            f"  bash run.sh {config}",
        ]
    )


def _data(
    name: str, dataset: SegmentationData, class_file: Path, labels: Path, start: Start
) -> dict[str, Choice]:
    mark = "_miniature" if start is MINIATURE else ""
    root, here = Path(dataset.root), Path.cwd()
    if class_file.is_relative_to(here):  # a shipped one: the config works in any clone
        class_file = class_file.relative_to(here)
    return {
        "dataset": Choice(name, ""),
        "data_root": Choice(str(root), ""),
        "class_file": Choice(str(class_file), ""),
        "image_labels": Choice(str(labels), "" if labels.is_file() else "does not exist yet"),
        "pseudo_masks": Choice(str(root / f"clip_masks{mark}"), "made by gen_clip_masks.py"),
        "clip_text": Choice(str(root / f"clip_text{mark}.pt"), "made when it is needed"),
    }


def _splits(splits: Sequence[str], train: str) -> dict[str, Choice]:
    others = [split for split in ("val", "test") if split in splits and split != train]
    val = Choice(others[0], "") if others else Choice(train, "no other images: these are shown")
    return {"train_split": Choice(train, ""), "val_split": val}


def _numbers(
    num_images: int, sizes: Sequence[Size], template: Config, start: Start
) -> dict[str, Choice]:
    """Sizes, dilations, batch, steps and intervals."""
    image_size, why = _image_size(sizes, start)
    crop, crop_why = _crop(image_size, sizes, start)
    close = max(crop) > 0.55 * max(image_size) or min(crop) > 0.55 * min(image_size)
    ratio = [0.75, 1.5] if close else list(template.scale_range)
    height = min(crop[0], 512, 2 * crop[1])
    patch = [_multiple(height), _multiple(height / 2)]
    cells = min(-(-side // template.output_stride) for side in crop)
    batch = min(template.batch_size, 1 << (num_images.bit_length() - 1))
    wanted = num_images * start.passes / batch
    steps = _rounded(min(max(wanted, start.steps[0]), start.steps[1]))
    warmup = _rounded(steps * start.warmup)
    last = steps - warmup
    workers = min(template.num_workers, available_cores() - 1)
    return {
        "image_size": Choice(list(image_size), why),
        "scale_range": Choice(ratio, "random scale on top of that"),
        "crop_size": Choice(list(crop), crop_why),
        "patch_size": Choice(patch, "the local view, as in the paper half as wide as high"),
        "aspp_dilations": Choice(
            dilations(cells, template.aspp_dilations[0]), f"for a map {cells} cells high or wide"
        ),
        "steps": Choice(steps, f"{steps * batch / num_images:.0f} passes over the images"),
        "warmup_steps": Choice(warmup, f"{100 * warmup / steps:.0f} % of the steps, then CARB"),
        "batch_size": Choice(batch, ""),
        "log_every": Choice(_below(_LOG, min(steps / 50, last / 4)), "steps a line of progress"),
        "checkpoint_every": Choice(
            _below(_SAVE, min(steps / 10, last / 2)), "steps that a killed run loses at most"
        ),
        "num_workers": Choice(workers, f"{available_cores()} cores here"),
    }


def _image_size(sizes: Sequence[Size], start: Start) -> tuple[Size, str]:
    typical = median_size(sizes)
    found = f"the images are typically {as_text(typical)} (median of {len(sizes)})"
    factor = max(1.0, start.side / min(typical))
    factor = min(factor, math.sqrt(start.pixels / math.prod(typical)))
    if factor == 1:
        return typical, found
    height, width = (max(_GRID, round(side * factor / 8) * 8) for side in typical)
    why = "enlarged for CLIP" if factor > 1 else "more would be slow and is more than CLIP saw"
    return (height, width), f"{found}; {why}"


def _crop(image_size: Size, sizes: Sequence[Size], start: Start) -> tuple[Size, str]:
    portrait = sum(height > width for height, width in sizes) / len(sizes)
    if 1 - _PORTRAIT < portrait < _PORTRAIT:
        side = _multiple(min(0.8 * min(image_size), math.sqrt(start.crop_pixels)))
        return (side, side), f"{100 * portrait:.0f} % of the images are upright: a square fits all"
    factor = min(0.8, math.sqrt(start.crop_pixels / math.prod(image_size)))
    height, width = (_multiple(factor * side) for side in image_size)
    return (height, width), f"{100 * factor:.0f} % of the sides: the global view"


def _outlook(
    num_images: int, chosen: dict[str, Choice], template: Config, start: Start
) -> list[str]:
    """How much work training will be, and what not to expect."""
    if start is MINIATURE:
        return [
            "A dry run with the miniature CLIP, which knows drawn streets only: it shows that all "
            "stages work, not how good they are."
        ]
    work = math.prod(chosen["crop_size"].value) * chosen["batch_size"].value * chosen["steps"].value
    paper = math.prod(template.crop_size) * template.batch_size * template.steps
    lines = [f"Training is about {work / paper:.2g} times the work of the paper's on Cityscapes."]
    if num_images < 300:
        lines.append(
            f"The paper's smallest set has 367 images: the result with {num_images} is uncertain. "
            "Look at CLIP's masks before training; they are what it learns from."
        )
    return lines


def _write(path: Path, chosen: dict[str, Choice], start: Start, source: str) -> None:
    """Write the chosen values, each with its reason, and what else the shipped config states."""
    lines = [
        f"# Written by prepare_data.py --write-config from {source}; change what you like.",
        "# configs/cityscapes.yaml explains every key and has the default of those left out here.",
    ]
    for key, (value, why) in chosen.items():
        lines.append(f"{key}: {_yaml(value)}" + (f"   # {why}" if why else ""))
    for key, value in read_settings(_ROOT / start.template).items():
        if key not in chosen:
            lines.append(f"{key}: {_yaml(value)}")
    text = "\n".join(lines) + "\n"
    config_from_dict(parse_yaml(text), str(path))
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _yaml(value: Any) -> str:
    """YAML of a value, on one line."""
    listed = yaml.safe_dump([value], default_flow_style=True, width=math.inf, allow_unicode=True)
    return listed.strip()[1:-1]


def _multiple(side: float) -> int:
    return max(_GRID, int(side) // _GRID * _GRID)


def _rounded(number: float) -> int:
    """`number` rounded to two digits."""
    number = round(number)
    return round(number, min(0, 2 - len(str(number))))


def _below(choices: Sequence[int], limit: float) -> int:
    return max(choice for choice in choices if choice <= max(1, limit))
