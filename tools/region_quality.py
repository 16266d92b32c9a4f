"""How right pseudo-masks are in the two regions of CARB, for a checkpoint (analysis, not training).

    python -m tools.region_quality --ckpt runs/camvid_small/base_0/warmup.pt

Splits the training images into the consistent and the inconsistent region of Eq. (4) and (5), on
stored pseudo-masks, and counts against ground truth: the share of each region, and how often the
pseudo-mask and the filtered prediction S are right there. Overall and by class of the pseudo-mask.
"""

import torch
from tqdm import tqdm

from datasets import open_dataset
from datasets.files import read_mask
from datasets.image_labels import read_image_labels
from datasets.labels import IGNORE_INDEX, multi_hot
from datasets.training import EvaluationSet, pseudo_mask_files
from datasets.transforms import normalize
from models.carb import filtered_prediction, split_regions
from models.trained import load_trained
from utils.cli import parser
from utils.errors import run_script
from utils.inference import predict_logits


@torch.inference_mode()
def main(argv: list[str]) -> None:
    arguments = parser(__doc__, config_required=False)
    arguments.add_argument("--ckpt", required=True)
    arguments = arguments.parse_args(argv)
    trained = load_trained(arguments.ckpt, arguments.config, arguments.overrides)
    config, classes = trained.config, trained.classes
    dataset = open_dataset(config.dataset, config.data_root)
    images = dataset.images(config.train_split)
    labels = read_image_labels(config.image_labels, len(classes), classes.names)
    masks = pseudo_mask_files(config.pseudo_masks, images, classes.names)
    samples = EvaluationSet(
        images,
        config.resize_to,
        dataset.ground_truth(config.train_split),
        dataset.read_ground_truth,
    )
    # [class of the pseudo-mask, consistent or not, (pixels, mask right, prediction right)]
    counts = torch.zeros(len(classes), 2, 3, dtype=torch.int64)
    for i in tqdm(range(len(samples)), "regions", disable=None):
        sample = samples[i]
        name, truth = sample["name"], sample["ground_truth"].long()
        image = normalize(sample["image"][None], "imagenet")
        logits = predict_logits(trained.model, image, sample["size"])
        present = multi_hot(labels[name], len(classes))[None]
        prediction = filtered_prediction(logits, present, config.absent_classes)[0]
        mask = torch.from_numpy(read_mask(masks[name])).long()
        mask = mask.masked_fill(truth == IGNORE_INDEX, IGNORE_INDEX)
        for column, region in enumerate(split_regions(mask, prediction)):
            pseudo, known, predicted = mask[region], truth[region], prediction[region]
            for kind, chosen in enumerate((..., pseudo == known, predicted == known)):
                counts[:, column, kind] += torch.bincount(pseudo[chosen], minlength=len(classes))
    print(
        "| pseudo-mask says | consistent | mask right there | inconsistent | mask right | S right |"
    )
    print("|---|---|---|---|---|---|")
    for name, row in [("all", counts.sum(0)), *zip(classes.names, counts, strict=True)]:
        area = row[:, 0] / row[:, 0].sum()
        (_, right, _), (_, wrong_right, predicted) = (100 * row / row[:, :1]).tolist()
        print(
            f"| {name} | {100 * area[0]:.1f} | {right:.1f} | {100 * area[1]:.1f} "
            f"| {wrong_right:.1f} | {predicted:.1f} |"
        )


if __name__ == "__main__":
    run_script(main)
