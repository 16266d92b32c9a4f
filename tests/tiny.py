"""A generated data set of Cityscapes' shape and a random miniature CLIP, for the script tests."""

import json
from pathlib import Path

import clip.model
import numpy as np
import torch
import yaml
from PIL import Image

from datasets.cityscapes import LABEL_ID_OF_TRAIN_ID
from utils.config import load_config, save_config

CLASSES = 19
SIZE = (48, 64)


def make_cityscapes(root: Path, num_train: int = 8, num_val: int = 3) -> Path:
    """leftImg8bit/ and gtFine/ with labelIds: blocks of classes, coloured by class, with noise."""
    rng = np.random.default_rng(0)
    colors = rng.integers(0, 256, (CLASSES, 3))
    for split, count in (("train", num_train), ("val", num_val), ("test", 2)):
        for i in range(count):
            blocks = rng.integers(0, CLASSES, (3, 4))
            ids = np.kron(blocks, np.ones((SIZE[0] // 3, SIZE[1] // 4), int))
            noise = rng.integers(-30, 31, (*SIZE, 3))
            image = np.clip(colors[ids] + noise, 0, 255).astype(np.uint8)
            stem = f"{split}burg/{split}burg_{i:06d}_000019"
            save(root / f"leftImg8bit/{split}/{stem}_leftImg8bit.png", image)
            if split != "test":
                label_ids = np.array(LABEL_ID_OF_TRAIN_ID, np.uint8)[ids]
                label_ids[:4] = 1  # ego vehicle: ignored
                save(root / f"gtFine/{split}/{stem}_gtFine_labelIds.png", label_ids)
    return root


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


def make_clip(path: Path) -> Path:
    """A CLIP of 3 narrow layers with random weights, as a plain state dict."""
    torch.manual_seed(0)
    model = clip.model.CLIP(
        embed_dim=32,
        image_resolution=32,
        vision_layers=3,
        vision_width=64,
        vision_patch_size=8,
        context_length=77,
        vocab_size=49408,
        transformer_width=64,
        transformer_heads=1,
        transformer_layers=1,
    )
    torch.save(model.state_dict(), path)
    return path


def make_config(folder: Path, **changes: object) -> Path:
    """configs/tiny_cpu.yaml on the data below `folder`."""
    values = load_config("configs/tiny_cpu.yaml").to_dict() | {
        "dataset": "cityscapes",
        "data_root": str(folder / "data"),
        "class_file": "datasets/classes/cityscapes.yaml",
        "image_labels": str(folder / "image_labels.json"),
        "pseudo_masks": str(folder / "clip_masks"),
        "clip_model": str(folder / "clip.pt"),
        "clip_text": str(folder / "clip_text.pt"),
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values | changes), encoding="utf-8")
    save_config(load_config(path), path)
    return path


def make_world(folder: Path, **changes: object) -> Path:
    """A data set, a CLIP, a config and image-level labels, all below `folder`, which it returns."""
    make_cityscapes(folder / "data")
    make_clip(folder / "clip.pt")
    make_config(folder, **changes)
    labels = {f"trainburg/trainburg_{i:06d}_000019": [i, i + 4, i + 8] for i in range(8)}
    (folder / "image_labels.json").write_text(json.dumps(labels))
    return folder


def read_metrics(run_dir: Path) -> list[dict]:
    """The lines of a run's metrics.jsonl."""
    return [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
