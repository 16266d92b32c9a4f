"""Score a trained network on a split: mIoU and per-class table; pictures and exports on request.

Reads a checkpoint of train_*.py (which holds its config) or one of the authors' (with --config),
the images and the ground truth; writes OUT/metrics.json (default OUT: eval_<split> beside the
checkpoint). The same evaluation may be repeated there; the numbers of another checkpoint, step or
way of inference are replaced with --overwrite only.

    python eval.py --ckpt runs/cityscapes/carb/last.pt --split val
    torchrun --nproc_per_node=4 eval.py --ckpt ... --scales 0.75 1.0 1.25 --flip
    python eval.py --ckpt their.pth --config configs/official/cityscapes.yaml
    python eval.py --ckpt ... --split test --export-submission submission    # Cityscapes server

Takes torchrun, as gen_clip_masks.py, train_*.py and predict.py do (prepare_data.py does not): each
of n ranks takes every n-th image and the counts are added, so that any number of processes gives
the same numbers.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from datasets import open_dataset
from datasets.cityscapes import LABEL_ID_OF_TRAIN_ID
from datasets.labels import ClassTable
from datasets.loader import image_loader
from datasets.training import EvaluationSet
from datasets.transforms import normalize
from models.trained import load_trained
from utils.cli import parser, path
from utils.distributed import Ranks, barrier, cleanup, setup
from utils.evaluation_output import check_out, report, submission_name, zip_submission
from utils.inference import (
    add_options,
    options_from,
    predict_labels,
    progress_off,
)
from utils.mask_folder import check_no_inputs
from utils.metrics import ConfusionMatrix
from utils.safe.errors import InputError, run_script
from utils.safe.files import remove_unfinished
from utils.visualize import legend, overlay, save_image, save_mask


def main(argv: list[str]) -> None:
    # --- arguments and configuration
    arguments = parse(argv)
    options = options_from(arguments)
    trained = load_trained(arguments.ckpt, arguments.config, arguments.overrides)
    config, classes = trained.config, trained.classes
    split = arguments.split or config.val_split
    out = Path(arguments.out or Path(arguments.ckpt).parent / f"eval_{split}")
    if arguments.export_submission and config.dataset != "cityscapes":
        raise InputError(
            f"--export-submission is the Cityscapes server's format, 'dataset' is {config.dataset}"
        )

    # --- device, ranks
    ranks = setup(arguments.device)

    # --- data
    dataset = open_dataset(config.dataset, config.data_root)
    images = dataset.images(split)
    ground_truth = dataset.ground_truth(split) or None
    outputs = arguments.save_vis or arguments.save_predictions or arguments.export_submission
    if ground_truth is None and not outputs:
        raise InputError(
            f"the split '{split}' of {config.data_root} has no ground truth to score; add "
            "--save-vis, --save-predictions or --export-submission to predict all the same"
        )
    read, keep_picture = dataset.read_ground_truth, arguments.save_vis
    data = EvaluationSet(images, config.image_size, ground_truth, read, keep_picture)
    loader = image_loader(data, config, range(ranks.rank, len(data), ranks.world_size))

    # --- model
    model = trained.model.to(ranks.device)

    # --- output: what made the numbers, and that they can be written
    made_from = trained.origin | {
        "checkpoint": str(arguments.ckpt),
        "dataset": config.dataset,
        "split": split,
        "resize_to": config.image_size,
        "inference": options | {"precision": "bf16" if arguments.bf16 else "fp32"},
    }
    check_no_inputs(out / "predictions", images, images.values())  # beside it lies vis
    check_out(out, made_from, arguments.export_submission, arguments.overwrite)
    remove_unfinished(out, below=False)
    for pictures in (out / "predictions", out / "vis"):
        remove_unfinished(pictures)
    barrier()  # nobody writes while another rank still looks

    # --- loop
    matrix = evaluate(model, loader, classes, options, arguments, out, ranks)
    matrix.all_reduce()
    barrier()  # all pictures are written

    # --- report
    if ranks.is_main:
        if ground_truth is not None:
            report(matrix, classes, out, made_from | {"num_images": len(data)})
        if arguments.save_vis:
            save_image(out / "vis" / "legend.png", legend(classes.names, classes.palette))
        if arguments.export_submission:
            zip_submission(Path(arguments.export_submission), list(images))
        if ground_truth is None:
            print(f"{len(data)} images of {split}, no ground truth to score; pictures in {out}")
    cleanup()


def parse(argv: list[str]) -> argparse.Namespace:
    arguments = parser(__doc__, config_required=False)
    arguments.add_argument(
        "--ckpt", type=path, required=True, help="last.pt of a run, or the authors' .pth"
    )
    arguments.add_argument("--split", help="train, val or test (default: the config's val_split)")
    arguments.add_argument("--out", type=path, help="folder for metrics.json and pictures")
    arguments.add_argument("--save-vis", action="store_true", help="coloured PNGs and overlays")
    arguments.add_argument(
        "--save-predictions", action="store_true", help="PNGs of the class ids, full size"
    )
    arguments.add_argument(
        "--export-submission",
        type=path,
        metavar="DIR",
        help="label ids as the Cityscapes server wants them",
    )
    arguments.add_argument(
        "--overwrite", action="store_true", help="replace another evaluation's results in OUT"
    )
    add_options(arguments)
    return arguments.parse_args(argv)


def evaluate(
    model: nn.Module,
    loader: DataLoader,
    classes: ClassTable,
    options: dict[str, Any],
    arguments: argparse.Namespace,
    out: Path,
    ranks: Ranks,
) -> ConfusionMatrix:
    """This rank's counts; writes the pictures asked for."""
    matrix = ConfusionMatrix(len(classes), ranks.device)
    for sample in tqdm(loader, desc="eval", unit="image", disable=progress_off(ranks)):
        image = normalize(sample["image"][None].to(ranks.device), "imagenet")
        with torch.autocast(ranks.device.type, torch.bfloat16, enabled=arguments.bf16):
            prediction = predict_labels(model, image, tuple(sample["size"]), **options)[0]
        if "ground_truth" in sample:
            matrix.update(prediction, sample["ground_truth"])
        mask, name = prediction.cpu().numpy(), sample["name"]
        if arguments.save_predictions:
            save_mask(out / "predictions" / f"{name}.png", mask, classes.palette)
        if arguments.save_vis:
            picture = overlay(sample["picture"].numpy(), mask, classes.palette)
            save_mask(out / "vis" / f"{name}.png", mask, classes.palette)
            save_image(out / "vis" / f"{name}_overlay.png", picture)
        if arguments.export_submission:
            label_ids = np.array(LABEL_ID_OF_TRAIN_ID, np.uint8)[mask]
            save_image(Path(arguments.export_submission) / submission_name(name), label_ids)
    return matrix


if __name__ == "__main__":
    run_script(main)
