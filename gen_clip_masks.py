"""Pseudo-masks from CLIP for a whole split, at the size of the images (Eq. 1 of the paper, Fig. 3).

Reads the images and their image-level labels; writes OUT/<image id>.png (class ids, paletted; 255
where an image has no label) and OUT/meta.json, which says what the masks were made from.

    python gen_clip_masks.py --config configs/cityscapes.yaml --score
    torchrun --nproc_per_node=2 gen_clip_masks.py --config ...      # more machines: docs/scaling.md

Fig. 3 (b): --ratio 2, (c): --grid 2x2, (d): both. The same command again goes on where it stopped,
on any number of processes; --overwrite starts anew.
"""

import argparse
import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from datasets import SegmentationData, open_dataset
from datasets.files import File, read_mask
from datasets.image_labels import ImageLabels
from datasets.label_check import check_trainable
from datasets.labels import IGNORE_INDEX, ClassTable, load_classes, multi_hot
from datasets.loader import image_loader
from datasets.split_labels import labels_of_split
from datasets.training import EvaluationSet, check_mask, require
from datasets.transforms import normalize
from models.clip_features import MaskCLIPOptions
from models.clip_loading import clip_sha256
from models.fused_scores import mean_scores
from models.maskclip import MaskCLIP, build_maskclip, to_pseudo_mask
from models.text import get_text_embeddings, load_templates, model_name
from utils.cli import add_trust, parser
from utils.config import Config, load_config
from utils.distributed import Ranks, all_reduce, barrier, cleanup, setup
from utils.errors import InputError, run_script
from utils.files import write_json
from utils.ground_truth import score_notes
from utils.mask_folder import begin_masks, check_no_inputs, mask_writer, open_mask_folder
from utils.metrics import ConfusionMatrix
from utils.progress import progress


def main(argv: list[str]) -> None:
    # --- arguments and configuration
    arguments = parse_arguments(argv)
    config = load_config(arguments.config, arguments.overrides)
    split = arguments.split or config.train_split
    if not (arguments.out or config.pseudo_masks):
        raise InputError(f"{arguments.config} has pseudo_masks: null; name a folder with --out")
    out = Path(arguments.out or config.pseudo_masks)
    files = [path for path in (out, *out.parents) if path.exists() and not path.is_dir()]
    if files:
        raise InputError(f"{out} can't be a folder of masks: {files[0]} is a file")
    ranks = setup(arguments.device)

    # --- data
    classes = load_classes(config.class_file)
    dataset = open_dataset(config.dataset, config.data_root)
    images = dataset.images(split)
    check_no_inputs(out, images, [*images.values(), *dataset.ground_truth(split).values()])
    labels = labels_of_split(dataset, split, config.image_labels, classes, images)
    check_trainable(classes, labels if split == config.train_split else None)
    if arguments.score:
        require(images, dataset.ground_truth(split), "ground truth", "leave out --score")

    # --- masks
    text = get_text_embeddings(config, classes, trust=arguments.trust)
    made_from = describe(arguments, config, split, classes, labels, text)
    overwrite = arguments.overwrite
    todo, unfinished = open_mask_folder(out, list(images), made_from, overwrite, ranks)
    if todo:
        maskclip = build_maskclip(config, classes, ranks.device, arguments.trust, arguments.bf16)
        begin_masks(out, todo, made_from, config, overwrite, ranks)
        mine = {name: images[name] for name in todo[ranks.rank :: ranks.world_size]}
        write_masks(out, maskclip, mine, labels, classes, arguments, config, ranks)
    barrier()
    for path in unfinished:
        path.unlink(missing_ok=True)
    if ranks.is_main:
        print(f"{out}: all {len(images)} masks are there, {len(todo)} of them made now")
    if arguments.score:
        score(out, dataset, split, classes, ranks)
    cleanup()


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = parser(__doc__)
    add = result.add_argument
    add("--out", help="folder of the masks (default: pseudo_masks of the config)")
    add("--split", help="default: train_split of the config")
    add("--ratio", type=float, nargs="+", default=[1.0], help="resize ratios; scores are averaged")
    add("--grid", default="1x1", metavar="RxC", help="rows x columns of crops, each seen by itself")
    add("--flip", action="store_true", help="average with the scores of the mirrored image")
    add("--bf16", action="store_true", help="run CLIP in bfloat16: faster, slightly other masks")
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


def describe(
    arguments: argparse.Namespace,
    config: Config,
    split: str,
    classes: ClassTable,
    image_labels: ImageLabels,
    text_embeddings: torch.Tensor,
) -> dict[str, Any]:
    """All that decides the masks, for meta.json."""
    labels = json.dumps(sorted(image_labels.items()))
    return {
        "dataset": config.dataset,
        "split": split,
        "num_images": len(image_labels),
        "image_labels_sha256": hashlib.sha256(labels.encode()).hexdigest(),
        "class_names": classes.names,
        "clip_model": model_name(config.clip_model),
        "clip_sha256": clip_sha256(config.clip_model),
        "text_sha256": hashlib.sha256(text_embeddings.numpy().tobytes()).hexdigest(),
        "prompts": classes.prompts,
        "templates": load_templates(config.prompt_templates),
        "normalization": config.clip_normalization,
        "options": dataclasses.asdict(MaskCLIPOptions.from_config(config)),
        "resize_to": config.resize_to,
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
    loader = image_loader(EvaluationSet(images, config.resize_to), config)
    with mask_writer(out, classes.palette) as write:
        for sample in progress(loader, "masks", ranks):
            image = normalize(sample["image"][None].to(ranks.device), config.clip_normalization)
            with torch.autocast(ranks.device.type, torch.bfloat16, enabled=arguments.bf16):
                scores = mean_scores(
                    maskclip, image, sample["size"], arguments.ratio, arguments.grid, arguments.flip
                )
            labels = multi_hot(image_labels[sample["name"]], len(classes))[None].to(ranks.device)
            mask = to_pseudo_mask(scores, labels, config.absent_classes)[0].to(torch.uint8)
            write(sample["name"], mask.cpu().numpy())


def score(
    out: Path, dataset: SegmentationData, split: str, classes: ClassTable, ranks: Ranks
) -> None:
    """mIoU of the masks in `out` over the pixels with a label in them: a table and score.json."""
    confusion = ConfusionMatrix(len(classes), ranks.device)
    in_truth = torch.zeros(256, dtype=torch.int64, device=ranks.device)  # pixels per id
    truths = dataset.ground_truth(split)
    names = list(dataset.images(split))
    for name in progress(names[ranks.rank :: ranks.world_size], "score", ranks):
        truth = dataset.read_ground_truth(truths[name])
        file = File(str(out / f"{name}.png"))
        mask = read_mask(file)
        check_mask(mask, file, truth.shape, len(classes))
        truth, mask = torch.from_numpy(truth), torch.from_numpy(mask)
        in_truth += torch.bincount(truth.flatten(), minlength=256).to(ranks.device)
        confusion.update(mask, truth.masked_fill(mask == IGNORE_INDEX, IGNORE_INDEX))
    confusion.all_reduce()
    all_reduce(in_truth)
    if ranks.is_main:
        *pixels, ignored = in_truth.tolist()
        share = int(confusion.counts.sum()) / max(1, sum(pixels))
        content = {"split": split, "num_images": len(names), "labelled_pixels": share}
        content |= confusion.to_dict(classes.names, classes.small)
        write_json(out / "score.json", content)
        print(confusion.table(classes.names, classes.small))
        print(f"labelled pixels: {100 * share:.2f} %")
        right = int(confusion.areas()[0].sum())
        for note in score_notes(pixels[: len(classes)], ignored, right, classes.names, split):
            print(f"note: {note}")


if __name__ == "__main__":
    run_script(main)
