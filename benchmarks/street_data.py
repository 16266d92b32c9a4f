"""Data of the paper's sizes without a download: drawn streets as JPEGs, a CLIP of random weights.

    python -m benchmarks.street_data FOLDER [--quick]

FOLDER gets 48 training and 16 validation images of 2048x1024 (drawn by demo/), a state dict of a
ViT-B/16 CLIP and config.yaml: configs/cityscapes.yaml on these data, with 8 workers and without
pretrained weights. Nothing that is measured depends on the weights but the pseudo-masks. --quick:
small images, a small CLIP and a small network.
"""

import argparse
import os
from pathlib import Path

import torch
import yaml

from demo.make_scenes import write_dataset
from models.clip_loading import openai_clip
from utils.cli import path
from utils.safe.errors import run_script
from utils.safe.files import replacing

COUNTS = {"train": 48, "val": 16}
# embed_dim, image_resolution, vision layers, width and patch size, context_length, vocab_size,
# transformer width, heads and layers
VIT_B_16 = (512, 224, 12, 768, 16, 77, 49408, 512, 8, 12)
SMALL_CLIP = (32, 32, 3, 64, 8, 77, 49408, 64, 1, 1)
QUICK = {
    "image_size": [64, 128],
    "crop_size": [64, 128],
    "patch_size": [32, 32],
    "batch_size": 4,
    "num_workers": 1,
    "log_every": 1,
    "backbone": "resnet18_eighth",
}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=path)
    parser.add_argument("--quick", action="store_true", help="small images, CLIP and network")
    arguments = parser.parse_args(argv)
    folder = Path(arguments.folder)
    print(f"written: {write(folder, arguments.quick)}")


def write(folder: Path, quick: bool = False) -> Path:
    """Write images, CLIP and config.yaml, whose path is returned; finished parts are kept."""
    counts = {"train": 4, "val": 2} if quick else COUNTS
    size = (64, 128) if quick else (1024, 2048)
    workers = 0 if quick else (os.cpu_count() or 1)
    write_dataset(folder / "data", counts, size=size, num_workers=workers)
    clip = folder / "clip.pt"
    if not clip.is_file():
        torch.manual_seed(0)
        model = openai_clip().model.CLIP(*(SMALL_CLIP if quick else VIT_B_16))
        with replacing(clip) as temporary:
            torch.save(model.half().state_dict(), temporary)
    settings = {
        "dataset": "folder",
        "data_root": str(folder / "data"),
        "class_file": str(folder / "data" / "classes.yaml"),
        "image_labels": str(folder / "data" / "image_labels.json"),
        "pseudo_masks": str(folder / "masks"),
        "clip_text": str(folder / "clip_text.pt"),
        "clip_model": str(clip),
        "prompt_templates": "single",
        "backbone_weights": None,
        "precision": "auto",
        "channels_last": "auto",
        "num_workers": 8,
        "log_every": 5,
        "checkpoint_every": 10**6,
    }
    config = folder / "config.yaml"
    with replacing(config) as temporary:
        temporary.write_text(yaml.safe_dump(settings | (QUICK if quick else {})), encoding="utf-8")
    return config


if __name__ == "__main__":
    run_script(main)
