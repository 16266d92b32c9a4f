"""A trained network out of a checkpoint, ours or the authors', with what it needs to be used."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datasets.labels import ClassTable, load_classes
from models.build import build_model
from models.deeplabv3 import DeepLabV3
from models.official import import_official_checkpoint, is_official_checkpoint
from utils.checkpoint import check_content, load_checkpoint, load_weights
from utils.class_names import compare_class_names, plain_name
from utils.config import Config, config_from_dict, load_config, parse_overrides
from utils.safe.errors import InputError


class Trained(NamedTuple):
    """A network in evaluation mode on the CPU, its config, its classes, where it comes from."""

    model: DeepLabV3
    config: Config
    classes: ClassTable
    origin: dict[str, Any]


def load_trained(
    checkpoint: str | Path, config_path: str | None = None, overrides: list[str] | None = None
) -> Trained:
    """Read a checkpoint of the training scripts, or one of the authors' (needs `config_path`).

    Our checkpoints hold their config; `config_path` takes its place, `overrides` change keys.
    Raises InputError when the network, or the classes' number, names or order do not fit.
    """
    content = load_checkpoint(checkpoint)
    if is_official_checkpoint(content):
        if config_path is None:
            raise InputError(
                f"{checkpoint} is one of the authors' checkpoints and says nothing about data: "
                "add --config configs/official/<data set>.yaml"
            )
        config = load_config(config_path, overrides)
        model, names = import_official_checkpoint(content, str(checkpoint))
        num_classes = len(model.classifier.text_embeddings)
        classes = load_classes(config.class_file)
        origin = {"stage": "official"}
    elif {"model", "config", "class_names", "palette"} <= content.keys():
        check_content(content, checkpoint)
        if config_path is None:
            values = content["config"] | parse_overrides(overrides or [])
            config = config_from_dict(values, f"{checkpoint} (config)")
        else:
            config = load_config(config_path, overrides)
        names = tuple(content["class_names"])
        if config.class_file == content["config"].get("class_file"):
            classes = _own_classes(content, config.class_file, checkpoint)
        else:
            classes = load_classes(config.class_file)
        num_classes = len(names)
        model = _build_untrained(config, num_classes, content["model"], checkpoint)
        load_weights(model, content["model"], checkpoint)
        origin = {"stage": content.get("stage"), "step": content.get("step")}
    else:
        raise InputError(
            f"{checkpoint} is neither a checkpoint of train_*.py nor one of the authors': found "
            f"keys {', '.join(map(str, list(content)[:5]))}"
        )
    if num_classes != len(classes):
        raise InputError(
            f"{checkpoint} has {num_classes} classes, {config.class_file} has {len(classes)}; "
            "give the config of the data set that it was trained on"
        )
    if origin["stage"] == "official":
        _compare_with_theirs(names, classes.names, f"{checkpoint}, {config.class_file}")
    else:
        compare_class_names(
            names,
            classes.names,
            f"{checkpoint} was trained",
            f"{config.class_file} must have the classes of the training, in their order (palette "
            "and prompts may differ): restore it, or name another with --set class_file=FILE",
        )
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    return Trained(model.eval(), config, classes, origin)


def _build_untrained(
    config: Config, num_classes: int, state: dict[str, Any], source: str | Path
) -> DeepLabV3:
    """The network of a config, on no device: nothing is allocated for what won't fit."""
    text = state.get("classifier.text_embeddings")
    if not isinstance(text, torch.Tensor) or text.ndim != 2:
        text = None
    if text is None and config.classifier == "text":
        raise InputError(
            f"{source} lacks its text embeddings (classifier.text_embeddings); copy the file "
            "again, or use another checkpoint of the run"
        )
    try:
        with torch.device("meta"):
            return build_model(config, num_classes, text, pretrained=False)
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes beyond all numbers
        raise InputError(f"{source}: its config describes no network: {error}") from None


def _own_classes(content: dict[str, Any], class_file: str, checkpoint: str | Path) -> ClassTable:
    """The classes of the training, with what the class file adds where it is there.

    A checkpoint is of use without its class file, which alone says which classes are small.
    """
    names = tuple(content["class_names"])
    palette = np.asarray(content["palette"], np.uint8)
    if len(palette) != len(names):
        raise InputError(
            f"{checkpoint}: 'palette' in the checkpoint has {len(palette)} colours for "
            f"{len(names)} classes; copy the file again"
        )
    try:
        now = load_classes(class_file)
    except (InputError, OSError):  # OSError: a name longer than the disk allows
        return ClassTable(names, tuple((name,) for name in names), palette)
    return ClassTable(now.names, now.prompts, palette, now.small)


def _compare_with_theirs(theirs: tuple[str, ...] | None, ours: tuple[str, ...], where: str) -> None:
    """Compare the names stored with the authors' weights to the class file's.

    They are those of the trainer's data set class and may be other words for the same, so that they
    are only noted; but a word that stands at two places is another order. Raises InputError.
    """
    if theirs is None or len(theirs) != len(ours):
        return
    known = {plain_name(name) for name in ours}
    pairs = [(a, b) for a, b in zip(theirs, ours, strict=True) if plain_name(a) != plain_name(b)]
    moved = [pair for pair in pairs if plain_name(pair[0]) in known]
    if moved:
        raise InputError(
            f"the classes stand in another order: '{moved[0][0]}' of the checkpoint is where the "
            f"class file has '{moved[0][1]}' ({where}); give the class file in the order of the "
            "checkpoint: --set class_file=FILE"
        )
    if pairs and os.environ.get("RANK", "0") == "0":
        print(
            f"note: {len(pairs)} of {len(ours)} class names of the checkpoint are not those of the "
            f"class file, the first is '{pairs[0][0]}', here '{pairs[0][1]}' ({where})"
        )
