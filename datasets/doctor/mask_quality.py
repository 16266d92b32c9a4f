"""How good a folder of pseudo-masks is: overlays for the eye, mIoU against ground truth."""

from pathlib import Path

import torch

from datasets import SegmentationData
from datasets.files import File, read_image, read_mask
from datasets.labels import IGNORE_INDEX, ClassTable
from datasets.training import check_mask
from utils.distributed import Ranks, all_reduce, barrier
from utils.ground_truth import score_notes
from utils.metrics import ConfusionMatrix
from utils.progress import progress
from utils.safe.files import write_json
from utils.visualize import legend, overlay, save_image


def save_overlays(
    vis: Path, masks: Path, images: dict[str, File], classes: ClassTable, ranks: Ranks
) -> None:
    """Each mask over its image, where that is not there yet or older than the mask; a legend."""
    names = list(images)[ranks.rank :: ranks.world_size]
    for name in progress(names, "overlays", ranks):
        picture, mask = vis / f"{name}_overlay.png", masks / f"{name}.png"
        if picture.exists() and picture.stat().st_mtime_ns >= mask.stat().st_mtime_ns:
            continue
        ids, pixels = read_mask(File(str(mask))), read_image(images[name])
        check_mask(ids, File(str(mask)), pixels.shape[:2], len(classes))
        save_image(picture, overlay(pixels, ids, classes.palette))
    barrier()
    if ranks.is_main:
        save_image(vis / "legend.png", legend(classes.names, classes.palette))
        print(f"{vis}: all {len(images)} overlays are there, colours in {vis / 'legend.png'}")


def score_masks(
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
