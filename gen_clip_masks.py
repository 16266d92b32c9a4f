"""Pseudo-masks from CLIP for a whole split, at the size of the images (Eq. 1 of the paper, Fig. 3).

Reads the images and their image-level labels; writes OUT/<image id>.png (class ids, paletted; 255
where an image has no label) and OUT/meta.json, which says what the masks were made from.

    python gen_clip_masks.py --config configs/cityscapes.yaml --score
    torchrun --nproc_per_node=2 gen_clip_masks.py --config ...      # more machines: docs/scaling.md

Fig. 3 (b): --ratio 2, (c): --grid 2x2, (d): both. The same command again goes on where it stopped,
on any number of processes; --overwrite starts anew. --save-vis shows the masks over the images:
OUT_vis/<image id>_overlay.png and OUT_vis/legend.png.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from datasets import open_dataset
from datasets.doctor.label_check import check_trainable
from datasets.doctor.mask_quality import save_overlays, score_masks
from datasets.files import File
from datasets.fingerprint import images_sha256
from datasets.image_labels import ImageLabels
from datasets.labels import ClassTable, load_classes, multi_hot
from datasets.loader import image_loader
from datasets.split_labels import labels_of_split
from datasets.training import EvaluationSet, require
from datasets.transforms import normalize
from models.build import build_maskclip_options, build_teacher
from models.clip_loading import clip_sha256
from models.fused_scores import mean_scores
from models.maskclip import MaskCLIP, to_pseudo_mask
from models.text import get_text_embeddings, load_templates, model_name
from utils.cli import add_trust, parser, path
from utils.config import Config, load_config
from utils.distributed import Ranks, barrier, cleanup, setup
from utils.mask_folder import begin_masks, check_no_inputs, mask_writer, open_mask_folder
from utils.progress import progress
from utils.safe.errors import InputError, run_script


def main(argv: list[str]) -> None:
    # --- arguments and configuration
    arguments = parse_arguments(argv)
    config = load_config(arguments.config, arguments.overrides)
    split = arguments.split or config.train_split
    out = mask_folder(arguments, config, split)
    vis = Path(f"{out}_vis")
    ranks = setup(arguments.device)

    # --- data
    classes = load_classes(config.class_file)
    dataset = open_dataset(config.dataset, config.data_root)
    images = dataset.images(split)
    for folder in (out, vis)[: 1 + arguments.save_vis]:
        check_no_inputs(folder, images, [*images.values(), *dataset.ground_truth(split).values()])
    labels = labels_of_split(dataset, split, config.image_labels, classes, images)
    check_trainable(classes, labels if split == config.train_split else None)
    if arguments.score:
        require(images, dataset.ground_truth(split), "ground truth", "leave out --score")

    # --- masks
    text = get_text_embeddings(config, classes, trust=arguments.trust_torchscript)
    made_from = {}  # rank 0 compares and writes it
    if ranks.is_main:
        made_from = describe(arguments, config, split, classes, images, labels, text)
    overwrite = arguments.overwrite
    todo, unfinished = open_mask_folder(out, list(images), made_from, overwrite, ranks)
    if todo:
        maskclip = build_teacher(
            config, classes, ranks.device, arguments.trust_torchscript, arguments.bf16
        )
        begin_masks(out, todo, made_from, config, overwrite, ranks)
        mine = {name: images[name] for name in todo[ranks.rank :: ranks.world_size]}
        write_masks(out, maskclip, mine, labels, classes, arguments, config, ranks)
    barrier()
    for old in unfinished:
        old.unlink(missing_ok=True)
    if ranks.is_main:
        print(f"{out}: all {len(images)} masks are there, {len(todo)} of them made now")
    if arguments.save_vis:
        save_overlays(vis, out, images, classes, ranks)
    if arguments.score:
        score_masks(out, dataset, split, classes, ranks)
    cleanup()


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = parser(__doc__)
    add = result.add_argument
    add(
        "--out",
        type=path,
        help="default: pseudo_masks of the config; with --split <pseudo_masks>_<split>",
    )
    add("--split", help="default: train_split of the config")
    add("--ratio", type=float, nargs="+", default=[1.0], help="resize ratios; scores are averaged")
    add("--grid", default="1x1", metavar="RxC", help="rows x columns of crops, each seen by itself")
    add("--flip", action="store_true", help="average with the scores of the mirrored image")
    add("--bf16", action="store_true", help="run CLIP in bfloat16: faster, slightly other masks")
    add("--save-vis", action="store_true", help="overlays on the images and a legend, to OUT_vis")
    add("--score", action="store_true", help="mIoU against ground truth, also to score.json")
    add("--overwrite", action="store_true", help="make all masks anew")
    add_trust(result)
    arguments = result.parse_args(argv)
    grid = arguments.grid.split("x")
    if not (len(grid) == 2 and all(part.isdecimal() and 1 <= int(part) <= 16 for part in grid)):
        result.error(f"--grid: expected rows x columns from 1x1 to 16x16, found {arguments.grid}")
    if not all(0 < ratio <= 16 for ratio in arguments.ratio):
        result.error(f"--ratio: expected numbers above 0, up to 16, found {arguments.ratio}")
    arguments.grid = (int(grid[0]), int(grid[1]))
    return arguments


def mask_folder(arguments: argparse.Namespace, config: Config, split: str) -> Path:
    """Where the masks go. Raises InputError when no folder is named, or a file is in its place."""
    if not (arguments.out or config.pseudo_masks):
        raise InputError(f"{arguments.config} has pseudo_masks: null; name a folder with --out")
    out = Path(arguments.out or config.pseudo_masks)
    if not arguments.out and split != config.train_split:
        out = Path(f"{out}_{split}")
    files = [path for path in (out, *out.parents) if path.exists() and not path.is_dir()]
    if files:
        raise InputError(f"{out} can't be a folder of masks: {files[0]} is a file")
    return out


def describe(
    arguments: argparse.Namespace,
    config: Config,
    split: str,
    classes: ClassTable,
    images: dict[str, File],
    image_labels: ImageLabels,
    text_embeddings: torch.Tensor,
) -> dict[str, Any]:
    """All that decides the masks, for meta.json."""
    labels = json.dumps(sorted(image_labels.items()))
    return {
        "dataset": config.dataset,
        "split": split,
        "num_images": len(image_labels),
        "images_sha256": images_sha256(images),
        "image_labels_sha256": hashlib.sha256(labels.encode()).hexdigest(),
        "class_names": classes.names,
        "clip_model": model_name(config.clip_model),
        "clip_sha256": clip_sha256(config.clip_model),
        "text_sha256": hashlib.sha256(text_embeddings.numpy().tobytes()).hexdigest(),
        "prompts": classes.prompts,
        "templates": load_templates(config.prompt_templates),
        "normalization": config.arithmetic.clip_normalization,
        "options": dataclasses.asdict(build_maskclip_options(config)),
        "resize_to": config.image_size,
        "ratio": arguments.ratio,
        "grid": arguments.grid,
        "flip": arguments.flip,
        "precision": "bf16" if arguments.bf16 else "fp32",
    }


def write_masks(
    out: Path,
    maskclip: MaskCLIP,
    images: dict[str, File],
    image_labels: ImageLabels,
    classes: ClassTable,
    arguments: argparse.Namespace,
    config: Config,
    ranks: Ranks,
) -> None:
    """One mask after the other, each at the original size of its image."""
    loader = image_loader(EvaluationSet(images, config.image_size), config)
    with mask_writer(out, classes.palette) as write:
        for sample in progress(loader, "masks", ranks):
            image = normalize(
                sample["image"][None].to(ranks.device), config.arithmetic.clip_normalization
            )
            with torch.autocast(ranks.device.type, torch.bfloat16, enabled=arguments.bf16):
                scores = mean_scores(
                    maskclip, image, sample["size"], arguments.ratio, arguments.grid, arguments.flip
                )
            labels = multi_hot(image_labels[sample["name"]], len(classes))[None].to(ranks.device)
            mask = to_pseudo_mask(scores, labels, config.arithmetic.label_filter)[0].to(torch.uint8)
            write(sample["name"], mask.cpu().numpy())


if __name__ == "__main__":
    run_script(main)
