"""A trained network out of a checkpoint, ours or the authors', with what it needs to be used."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from datasets.labels import ClassTable, load_classes
from models.deeplabv3 import DeepLabV3, build_model
from models.official import import_official_checkpoint, is_official_checkpoint
from utils.checkpoint import check_content, load_checkpoint, load_weights
from utils.config import Config, config_from_dict, load_config, parse_overrides
from utils.errors import InputError


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
    Raises InputError when the network or the number of classes does not fit.
    """
    content = load_checkpoint(checkpoint)
    if is_official_checkpoint(content):
        if config_path is None:
            raise InputError(
                f"{checkpoint} is one of the authors' checkpoints and says nothing about data: "
                "add --config configs/official/<data set>.yaml"
            )
        config = load_config(config_path, overrides)
        model, their_names = import_official_checkpoint(content, str(checkpoint))
        num_classes = len(model.classifier.text_embeddings)
        classes = load_classes(config.class_file)
        _note_other_names(their_names, classes.names, f"{checkpoint}, {config.class_file}")
        origin = {"stage": "official"}
    elif {"model", "config", "class_names", "palette"} <= content.keys():
        check_content(content, checkpoint)
        if config_path is None:
            values = content["config"] | parse_overrides(overrides or [])
            config = config_from_dict(values, f"{checkpoint} (config)")
        else:
            config = load_config(config_path, overrides)
        if config.class_file == content["config"].get("class_file"):
            names = tuple(content["class_names"])
            palette = np.asarray(content["palette"], np.uint8)
            if len(palette) != len(names):
                raise InputError(
                    f"{checkpoint}: 'palette' in the checkpoint has {len(palette)} colours for "
                    f"{len(names)} classes; copy the file again"
                )
            prompts = tuple((name,) for name in names)
            classes = ClassTable(names, prompts, palette, _small(config.class_file, names))
        else:
            classes = load_classes(config.class_file)
        num_classes = len(content["class_names"])
        model = _network_of(config, num_classes, content["model"], checkpoint)
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
    if config.channels_last:
        model.to(memory_format=torch.channels_last)
    return Trained(model.eval(), config, classes, origin)


def _network_of(
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


def _small(class_file: str, names: tuple[str, ...]) -> tuple[bool, ...]:
    """Which classes are small: the class file's word where it is there and has the same classes.

    A checkpoint does not hold it, and is of use without the class file.
    """
    try:
        classes = load_classes(class_file)
    except (InputError, OSError):  # OSError: a name longer than the disk allows
        return ()
    return classes.small if classes.names == names else ()


def _note_other_names(theirs: tuple[str, ...] | None, ours: tuple[str, ...], where: str) -> None:
    """Say so when the names stored with the authors' weights are not the class file's, in order.

    No error: they are those of the trainer's data set class and may be other words for the same.
    """
    if theirs is None or len(theirs) != len(ours) or os.environ.get("RANK", "0") != "0":
        return
    pairs = [(a, b) for a, b in zip(theirs, ours, strict=True) if a.lower() != b.lower()]
    if pairs:
        print(
            f"note: {len(pairs)} of {len(ours)} class names of the checkpoint are not the class "
            f"file's, the first is '{pairs[0][0]}', here '{pairs[0][1]}' ({where})"
        )
