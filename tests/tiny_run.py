"""A run folder on a 'folder' data set of three classes, with a network of random weights."""

import json
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image

from datasets.labels import load_classes
from models.build import build_model
from utils.checkpoint import save_checkpoint
from utils.config import load_config, save_config

SIZE = (24, 32)
COUNT = 6  # images t0, t1, ... to train on


def make_run(folder: Path, **changes: object) -> Path:
    """FOLDER/data, and FOLDER/run/warmup with config.yaml, metrics.jsonl and warmup.pt.

    Returns FOLDER/run.
    """
    rng = np.random.default_rng(0)
    data = folder / "data"
    for i in range(COUNT):
        save(data / f"images/train/t{i}.png", rng.integers(0, 256, (*SIZE, 3)))
        truth = rng.integers(0, 3, SIZE)
        truth[:3] = 255
        save(data / f"masks/train/t{i}.png", truth)
    classes = {"classes": ["road", {"name": "pole", "small": True}, "sky"]}
    (data / "classes.yaml").write_text(yaml.safe_dump(classes))
    labels = {f"t{i}": [0, 1, 2] if i else [0, 2] for i in range(COUNT)}
    (data / "image_labels.json").write_text(json.dumps(labels))
    values = load_config("configs/tiny_cpu.yaml").to_dict() | {
        "data_root": str(data),
        "class_file": str(data / "classes.yaml"),
        "image_labels": str(data / "image_labels.json"),
        "pseudo_masks": str(data / "clip_masks"),
    }
    stage = folder / "run/warmup"
    stage.mkdir(parents=True)
    (stage / "config.yaml").write_text(yaml.safe_dump(values | changes))
    config = load_config(stage / "config.yaml")
    save_config(config, stage / "config.yaml")
    (stage / "metrics.jsonl").write_text('{"step": 4}\n')
    names = load_classes(config.class_file)
    torch.manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(3, 16), dim=1)
    content = {"stage": "warmup", "step": 4, "config": config.to_dict()}
    content |= {"class_names": list(names.names), "palette": names.palette.tolist()}
    save_checkpoint(
        stage / "warmup.pt", content | {"model": build_model(config, 3, text).state_dict()}
    )
    return folder / "run"


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values.astype(np.uint8)).save(path)
