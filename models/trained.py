"""A trained network from a checkpoint, ours or an official one, ready to use."""

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
from utils.config import Config, config_from_dict, load_config, override, parse_overrides
from utils.safe.errors import InputError


class Trained(NamedTuple):
    """A network in evaluation mode on the CPU, its config, its classes and its origin."""

    model: DeepLabV3
    config: Config
    classes: ClassTable
    origin: dict[str, Any]


def load_trained(
    checkpoint: str | Path, config_path: str | None = None, overrides: list[str] | None = None
) -> Trained:
    """Read a checkpoint of the training scripts, or an official one (needs `config_path`).

    Our checkpoints hold their config; `config_path` replaces it, `overrides` change keys.
    Raises InputError when the network, or the classes' number, names or order do not fit.
    """
    content = load_checkpoint(checkpoint)
    if is_official_checkpoint(content):
        if config_path is None:
            raise InputError(
                f"{checkpoint} is an official checkpoint, which does not name its data: "
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
            values = override(content["config"], parse_overrides(overrides or []))
            config = config_from_dict(values, f"{checkpoint} (config)")
        else:
            config = load_config(config_path, overrides)
        names = tuple(content["class_names"])
        parts = {str(key).partition(".")[0] for key in content["model"]}
        if "backbone" in parts and "aspp" not in parts:
            raise InputError(
                f"{checkpoint} holds no segmentation network, only one that makes masks "
                f"({content.get('stage')}); score the folder of its masks: eval.py --masks"
            )
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
            f"{checkpoint} is neither a checkpoint of train_*.py nor an official one: found "
            f"keys {', '.join(map(str, list(content)[:5]))}"
        )
    if num_classes != len(classes):
        raise InputError(
            f"{checkpoint} has {num_classes} classes, {config.class_file} has {len(classes)}; "
            "give the config of the data set that it was trained on"
        )
    if origin["stage"] == "official":
        _compare_official_names(names, classes.names, f"{checkpoint}, {config.class_file}")
    else:
        compare_class_names(
            names,
            classes.names,
            f"{checkpoint} was trained",
            f"{config.class_file} must have the classes of the training, in their order (palette "
            "and prompts may differ): restore it, or name another with --set class_file=FILE",
        )
    if config.channels_last is True:  # not auto, which is for training
        model.to(memory_format=torch.channels_last)
    return Trained(model.eval(), config, classes, origin)


def _build_untrained(
    config: Config, num_classes: int, state: dict[str, Any], source: str | Path
) -> DeepLabV3:
    """The network of a config, on "meta": nothing is allocated for a misfit."""
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
    except (RuntimeError, TypeError, OverflowError) as error:  # sizes too large
        raise InputError(f"{source}: its config describes no network: {error}") from None


def _own_classes(content: dict[str, Any], class_file: str, checkpoint: str | Path) -> ClassTable:
    """The classes of the training, completed from the class file if it exists.

    A checkpoint can be used without its class file, which alone marks small classes.
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
    except (InputError, OSError):  # OSError: a name too long for the disk
        return ClassTable(names, tuple((name,) for name in names), palette)
    return ClassTable(now.names, now.prompts, palette, now.small)


def _compare_official_names(
    official: tuple[str, ...] | None, ours: tuple[str, ...], where: str
) -> None:
    """Compare the names stored with official weights to the class file's.

    They may be synonyms, so a difference is only noted; but the same name at another place means
    another order. Raises InputError.
    """
    if official is None or len(official) != len(ours):
        return
    known = {plain_name(name) for name in ours}
    pairs = [(a, b) for a, b in zip(official, ours, strict=True) if plain_name(a) != plain_name(b)]
    moved = [pair for pair in pairs if plain_name(pair[0]) in known]
    if moved:
        raise InputError(
            f"the classes are in another order: '{moved[0][0]}' of the checkpoint is where the "
            f"class file has '{moved[0][1]}' ({where}); give the class file in the order of the "
            "checkpoint: --set class_file=FILE"
        )
    if pairs and os.environ.get("RANK", "0") == "0":
        print(
            f"note: {len(pairs)} of {len(ours)} class names of the checkpoint differ from the "
            f"class file, the first is '{pairs[0][0]}', here '{pairs[0][1]}' ({where})"
        )
