"""AffinityNet (PSA): CAMs spread by a random walk over learned affinities of neighbouring cells.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly
Supervised Semantic Segmentation", CVPR 2018; formulas after jiwoon-ahn/psa @9493e59 (MIT).

Reads images and image-level labels, and with --cams the maps of an earlier method; writes, one
after another, the run folder RUN_DIR/classifier, masks and maps of it in RUN_DIR/cams_<split>, the
run folder RUN_DIR/affinity, and the pseudo-masks OUT/<image id>.png with meta.json:

    python -m baselines.psa --config C --run-dir runs/psa --out masks --score
    python -m baselines.psa --config C --run-dir runs/psa --out masks --cams cam_masks

--cams: folders that `baselines.cam --save-cams` wrote, of the training split and of --split, in
place of the own classifier. Run the same command again to resume; finished parts are skipped;
--overwrite starts all of it over. --score: OUT/score.json. --save-cams: the maps after the walk.

Memory at 512x1024: the classifier 2 GiB an image of a batch, AffinityNet as much, for a ResNet-50
of stride 8; the walk less than 0.1 GiB.

Deviations:
- the harness's ResNet of stride 8 in place of ResNet-38; its last three stages are conv4, conv5 and
  conv6; the stem and the first stage are frozen, and so are all batch norms. Both trainings start
  from the weights of the config; steps and batch_size are its, for each of the two.
- PAMR on the map of labels (10 steps) in place of the dense CRF at the size of the image.
- no background class (driving scenes): a reject channel (1 - max M)^4 takes its place in the labels
  of AffinityNet and is ignored there, so that pairs of the background do not exist and
  L = L_fg/2 + L_neg/2; the walk has no row of the background, the highest class wins.
- crop_size is the working size, as in baselines/cam.py; AffinityNet sees whole images.
- --arithmetic authors (default): the momentum of SGD is the weight decay, 5e-4, as released;
  correct: 0.9. As released, in both: pairs that begin in the last 4 rows or the outer 4 columns do
  not exist; AffinityNet's padding is black in training, and of the mean colour in the walk.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.cam import SCALES, pairs
from baselines.common import CamMasks, Split, WorkingSizeMasks
from baselines.stages import (
    add_arguments,
    labelled_images,
    load_splits,
    long_sides,
    make_masks,
    of_method,
    part_of,
    saved_cams,
    train_classifier,
)
from datasets.fingerprint import fingerprint
from datasets.labels import ClassTable, has_background, load_classes
from datasets.long_side import LongSideTransform
from datasets.mask_folder import read_made_from
from datasets.saved_maps import SavedMaps
from datasets.transforms import normalize
from models.affinity import (
    RADIUS,
    STRIDE,
    affinities,
    affinity_losses,
    pair_labels,
    summed_views,
    walk_maps,
)
from models.affinity_network import build_affinity_network, build_psa_classifier
from models.affinity_set import AffinitySet
from models.build import build_network
from models.cam import network_sha256, with_background
from models.inference import resize
from models.training import poly_sgd, poly_step
from utils.cli import path, training_parser
from utils.config import Config, load_config
from utils.distributed import Ranks, cleanup, setup
from utils.run import Run
from utils.safe.errors import InputError, run_script
from utils.seed import WEIGHTS, derive

# From jiwoon-ahn/psa, train_cls.py, train_aff.py, infer_cls.py, infer_aff.py.
LR, NEW_LR, WEIGHT_DECAY = 0.1, 1.0, 5e-4  # of pretrained and of new weights
LONG_SIDES = (0.57, 1.14)  # of the working size
CHECK_THRESHOLD = 0.2  # of the classifier's own masks
WALK_BACKGROUND = 16  # alpha: power of (1 - max M)


@torch.inference_mode()
def classifier_maps(network: nn.Module, image: Tensor) -> Tensor:
    """Sum of the CAMs (C,h,w) of an image uint8 (3,h,w): all SCALES and mirror images."""
    outputs = [maps.relu() for pair in pairs(image, SCALES) for maps in network(pair)]
    return summed_views(outputs, image.shape[-2:])


class WalkMasks(CamMasks):
    """Masks of the CAMs after the walk, over the affinities of a network (`cams_of`)."""

    def __init__(self, saved: SavedMaps, *of_masks: Any) -> None:
        super().__init__(*of_masks)
        self.saved = saved

    def maps(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Scores (C,H,W) after the walk, less that of a background; classes (C)."""
        present, image = self.present(sample), sample["image"].to(self.ranks.device)
        maps = self.saved.read(sample["name"])[0][None].to(image.device)
        maps = resize(maps, tuple(image.shape[-2:]))[0] * present[:, None, None]
        if self.first:
            maps = with_background(maps, WALK_BACKGROUND)
        scores = self.cams_of(image, maps)
        if self.first:
            scores = scores[1:] - scores[:1]
        return resize(scores[None], tuple(sample["size"]))[0], present

    def curve(self) -> list[dict[str, float | None]]:
        """No scores at thresholds: the background has a row of its own."""
        return []


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks
    arguments = parse_arguments(argv)
    config, arithmetic = load_config(arguments.config, arguments.overrides), arguments.arithmetic
    config = of_method(config, LR, WEIGHT_DECAY, STRIDE, arithmetic)
    check_size(config.crop_size)
    ranks = setup(arguments.device)

    # --- data, CAMs
    classes = load_classes(config.class_file)
    train, split = load_splits(config, arguments, classes)
    splits = [train] if split.name == train.name else [train, split]
    folders = [Path(folder) for folder in arguments.cams]
    if not folders:
        folders = make_cams(arguments, config, ranks, classes, splits)
    of_split = {read_made_from(folder)[1].get("split"): folder for folder in folders}
    folders = [of_split.get(one.name, folders[0]) for one in splits]
    maps = [saved_cams(*pair, config, classes) for pair in zip(folders, splits, strict=True)]
    made_of = [read_made_from(folder)[1] for folder in folders]

    # --- AffinityNet
    torch.manual_seed(derive(config.seed, WEIGHTS))
    model = build_affinity_network(config).to(ranks.device)
    optimizer = poly_sgd(model.groups(LR, NEW_LR), WEIGHT_DECAY, arithmetic)
    dataset = AffinitySet(train.images, maps[0], config.crop_size, classes)
    inputs = labelled_images(config, train, classes, None)  # for the record
    run = Run(
        part_of(arguments, "affinity"),
        config,
        ranks,
        stage="psa",
        end=config.steps,
        classes=classes,
        inputs=lambda: fingerprint(classes, inputs, options={"cams": made_of[0]}),
        parts={"model": model, "optimizer": optimizer},
    )
    network = build_network(model, config, ranks)
    for step, batch in run.steps(dataset):
        image, labels = (batch[key].to(ranks.device) for key in ("image", "labels"))
        affinity = affinities(network(normalize(image, "imagenet"), step))
        losses = affinity_losses(affinity, pair_labels(labels), has_background(classes))
        lr = poly_step(losses["loss"], optimizer, step, config.steps)
        run.log(losses, batch["name"], lr)
    del network  # before the process group: its destructor would wait for ever
    run.close(goes_on=True)

    # --- walk
    cams_of, threshold = partial(walk_maps, model.eval()), 0.0  # less the background's score
    masks = WalkMasks(maps[-1], cams_of, split, classes, threshold, config, ranks)
    made_from = {"method": "psa", "arithmetic": arithmetic, "cams": made_of[-1]}
    make_masks(masks, arguments, made_from | {"network_sha256": network_sha256(model)})
    cleanup()


def make_cams(
    arguments: argparse.Namespace,
    config: Config,
    ranks: Ranks,
    classes: ClassTable,
    splits: Sequence[Split],
) -> list[Path]:
    """Train a classifier in RUN_DIR/classifier on the first split; folders of the splits' maps."""
    torch.manual_seed(derive(config.seed, WEIGHTS))
    model = build_psa_classifier(config, len(classes) - has_background(classes)).to(ranks.device)
    optimizer = poly_sgd(model.groups(LR, NEW_LR), WEIGHT_DECAY, arguments.arithmetic)
    transform = LongSideTransform(long_sides(config, LONG_SIDES), config.crop_size, jitter=True)
    part, stage = part_of(arguments, "classifier"), "psa classifier"
    train_classifier(part, config, ranks, classes, splits[0], model, optimizer, transform, stage)
    made_from = {"method": "psa classifier", "arithmetic": arguments.arithmetic, "scales": SCALES}
    made_from |= {"network_sha256": network_sha256(model)}
    cams_of, folders = partial(classifier_maps, model.eval()), []
    for split in splits:
        masks = WorkingSizeMasks(cams_of, split, classes, CHECK_THRESHOLD, config, ranks)
        folders.append(Path(arguments.run_dir) / f"cams_{split.name}")
        masks.write(folders[-1], made_from, arguments.overwrite, save_cams=True)
    return folders


def check_size(size: tuple[int, int]) -> None:
    """Raise InputError where the map of a crop has no pairs."""
    least = STRIDE * (RADIUS - 1) + 1, STRIDE * (2 * RADIUS - 2) + 1
    if size[0] < least[0] or size[1] < least[1]:
        raise InputError(
            f"'crop_size' {list(size)} has no pair of cells within {RADIUS} of each other; the "
            f"least is {list(least)}"
        )


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add_arguments(result)
    result.add_argument("--cams", type=path, nargs="+", default=[], help="folders of earlier maps")
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
