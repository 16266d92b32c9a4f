"""Score a trained network or a folder of masks on a split: mIoU and a table of classes.

Network: reads a checkpoint of train_*.py, which holds its config, or an official one with --config,
the images and the ground truth; writes OUT/metrics.json (default OUT: eval_<split> beside the
checkpoint), and overlays, predictions and a submission on request.

Masks: reads FOLDER/<image id>.png, class ids that gen_clip_masks.py or any other program wrote, and
the ground truth; writes OUT/score.json (default OUT: FOLDER). Pixels of 255 in a mask have no label
and don't count; the share of the others is printed. --save-vis writes overlays to FOLDER_vis, or to
OUT/vis.

    python eval.py --ckpt runs/cityscapes/carb/last.pt --split val
    torchrun --nproc_per_node=4 eval.py --ckpt ... --scales 0.75 1.0 1.25 --flip
    python eval.py --ckpt official.pth --config configs/official/cityscapes.yaml
    python eval.py --ckpt ... --split test --export-submission submission    # Cityscapes server
    python eval.py --masks clip_masks --config configs/cityscapes.yaml --split train --save-vis

The same evaluation may be repeated; scores of another checkpoint, folder, step or inference option
are replaced only with --overwrite. Runs under torchrun: each of n ranks takes every n-th image and
the counts are added, so that any number of processes gives the same scores.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
from pathlib import Path

import numpy as np

from datasets import open_dataset
from datasets.cityscapes import LABEL_ID_OF_TRAIN_ID
from datasets.ids import require
from datasets.labels import load_classes
from datasets.loader import image_loader
from datasets.mask_folder import read_made_from
from datasets.mask_scores import score_masks
from datasets.mask_writer import check_no_inputs
from datasets.training import EvaluationSet
from models.inference import add_options, options_from, predictions
from models.trained import load_trained
from utils.cli import parser, path
from utils.config import load_config
from utils.distributed import Ranks, barrier, cleanup, setup
from utils.evaluation_output import (
    check_scores,
    check_submission,
    report,
    submission_name,
    zip_submission,
)
from utils.metrics import ConfusionMatrix
from utils.overlap import ahead
from utils.progress import progress
from utils.safe.errors import InputError, run_script
from utils.safe.files import remove_unfinished
from utils.visualize import legend, save_image, save_mask, save_overlay

_OF_NETWORKS = ("save_predictions", "export_submission")
_OF_NETWORKS += ("scales", "flip", "window", "stride", "bf16")


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    ranks = setup(arguments.device)
    if arguments.masks:
        evaluate_masks(arguments, ranks)
    else:
        evaluate_network(arguments, ranks)
    cleanup()


def evaluate_network(arguments: argparse.Namespace, ranks: Ranks) -> None:
    """Predict the split and score the predictions; write the files that `arguments` asks for."""
    # --- model and data
    options = options_from(arguments)
    trained = load_trained(arguments.ckpt, arguments.config, arguments.overrides)
    config, classes = trained.config, trained.classes
    split = arguments.split or config.val_split
    out = Path(arguments.out or Path(arguments.ckpt).parent / f"eval_{split}")
    submission = arguments.export_submission and Path(arguments.export_submission)
    if submission and config.dataset != "cityscapes":
        raise InputError(
            f"--export-submission is the Cityscapes server's format, 'dataset' is {config.dataset}"
        )
    dataset = open_dataset(config.dataset, config.data_root)
    images = dataset.images(split)
    ground_truth = dataset.ground_truth(split) or None
    outputs = arguments.save_vis or arguments.save_predictions or submission
    if ground_truth is None and not outputs:
        raise InputError(
            f"the split '{split}' of {config.data_root} has no ground truth to score; add "
            "--save-vis, --save-predictions or --export-submission to predict anyway"
        )
    read, keep_original = dataset.read_ground_truth, arguments.save_vis
    data = EvaluationSet(images, config.image_size, ground_truth, read, keep_original)
    loader = image_loader(data, config.num_workers, ranks)

    # --- output: what determines the scores, and whether they can be written
    made_from = trained.origin | {
        "checkpoint": str(arguments.ckpt),
        "dataset": config.dataset,
        "split": split,
        "resize_to": config.image_size,
        "inference": options | {"precision": "bf16" if arguments.bf16 else "fp32"},
    }
    check_no_inputs(out / "predictions", images, images.values())  # vis is beside it
    check_scores(out / "metrics.json", made_from, arguments.overwrite)
    if submission:
        check_submission(submission, arguments.overwrite)
    remove_unfinished(out, below=False)
    for folder in (out / "predictions", out / "vis"):
        remove_unfinished(folder)
    barrier()  # no rank writes while another one still checks

    # --- loop
    model, matrix = trained.model.to(ranks.device), ConfusionMatrix(len(classes), ranks.device)
    samples = progress(ahead(loader), "eval", ranks, len(loader))
    for sample, labels, _ in predictions(model, samples, ranks.device, options, arguments.bf16):
        if ground_truth is not None:
            matrix.update(labels, sample["ground_truth"])
        mask, name = labels.cpu().numpy(), sample["name"]
        if arguments.save_predictions:
            save_mask(out / "predictions" / f"{name}.png", mask, classes.palette)
        if arguments.save_vis:
            save_mask(out / "vis" / f"{name}.png", mask, classes.palette)
            image = sample["original"].numpy()
            save_overlay(out / "vis" / f"{name}_overlay.png", image, mask, classes.palette)
        if submission:
            label_ids = np.array(LABEL_ID_OF_TRAIN_ID, np.uint8)[mask]
            save_image(submission / submission_name(name), label_ids)
    matrix.all_reduce()
    barrier()  # all images are written

    # --- report
    if not ranks.is_main:
        return
    if ground_truth is not None:
        content = made_from | {"num_images": len(data)}
        report(matrix, classes.names, classes.small, out / "metrics.json", content)
    if arguments.save_vis:
        save_image(out / "vis" / "legend.png", legend(classes.names, classes.palette))
    if submission:
        zip_submission(submission, list(images))
    if ground_truth is None:
        print(f"{len(data)} images of {split}, no ground truth to score; images in {out}")


def evaluate_masks(arguments: argparse.Namespace, ranks: Ranks) -> None:
    """Score a folder of masks, or without ground truth only draw them, with --save-vis."""
    config = load_config(arguments.config, arguments.overrides)
    classes = load_classes(config.class_file)
    folder, out = Path(arguments.masks), Path(arguments.out or arguments.masks)
    split = arguments.split or read_made_from(folder)[1].get("split", config.val_split)
    dataset = open_dataset(config.dataset, config.data_root)
    images, ground_truth = dataset.images(split), dataset.ground_truth(split)
    if ground_truth or not arguments.save_vis:
        advice = "see prepare_data.py --check, or add --save-vis to draw them without scores"
        require(images, ground_truth, "ground truth", advice)
    made_from = {"split": split} | ({} if out == folder else {"masks": str(folder)})
    check_scores(out / "score.json", made_from, arguments.overwrite)
    barrier()  # no rank writes while another one still checks
    scores = out / "score.json" if ground_truth else None
    vis = out / "vis" if arguments.out else Path(f"{folder}_vis")
    score_masks(folder, dataset, split, classes, ranks, scores, vis if arguments.save_vis else None)


def parse(argv: list[str]) -> argparse.Namespace:
    result = parser(__doc__, config_required=False)
    add = result.add_argument
    subject = result.add_mutually_exclusive_group(required=True)
    subject.add_argument("--ckpt", type=path, help="last.pt of a run, or an official .pth")
    subject.add_argument("--masks", type=path, metavar="FOLDER", help="label maps <image id>.png")
    add("--split", help="train, val or test (default: the masks' own, or the config's val_split)")
    add("--out", type=path, help="folder for the scores and images")
    add("--save-vis", action="store_true", help="overlays; for a network also coloured PNGs")
    add("--save-predictions", action="store_true", help="PNGs of the class ids, full size")
    add(
        "--export-submission",
        type=path,
        metavar="DIR",
        help="label ids for the Cityscapes server",
    )
    add("--overwrite", action="store_true", help="replace another evaluation's results in OUT")
    add_options(result)
    arguments = result.parse_args(argv)
    if arguments.masks and not arguments.config:
        result.error("--masks needs --config, which names the data set and the classes")
    given = [k for k in _OF_NETWORKS if getattr(arguments, k) != result.get_default(k)]
    if arguments.masks and given:
        result.error(f"--{given[0].replace('_', '-')} is for --ckpt; masks are scored as they are")
    return arguments


if __name__ == "__main__":
    run_script(main)
