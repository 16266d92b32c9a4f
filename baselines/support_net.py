"""MainNet and SupportNet: CAMs sharpened by regional contrast (RCM) and widened over scales (MAM).

Yoon, Kweon, Jeong, Kim and Yoon, "Exploring Pixel-level Self-supervision for Weakly Supervised
Semantic Segmentation", arXiv 2112.05351: after the abstract, with details from the authors' later
public repositories (KAIST-vilab/AEFT, sangrockEG/S2C). No number of the paper is claimed.

Reads images and image-level labels; writes a run folder RUN_DIR and, when it is trained, a folder
of pseudo-masks OUT/<image id>.png with meta.json, for `eval.py --masks` and a second stage:

    python -m baselines.support_net --config C --run-dir runs/support_net --out masks --score \\
        --set lr=0.01
    python train_warmup.py --config C --run-dir runs/second --set views=base carb=false \\
        classifier=conv pseudo_masks=masks

Run the same command again to resume both; --overwrite starts both over. --without rcm mam is the
plain CAM of as many steps. --score: OUT/score.json. --save-cams: OUT/cams/<image id>.npz.

Deviations, and what the sources leave open:
- the harness's ResNet in place of ResNet-38d, and its augmentation; one learning rate, and no
  momentum (theirs too, in effect): the config's `momentum` and `classifier` are not read.
  Three phases of one schedule (L_cls, + L_RCM, + L_MAM) in place of three trainings.
- prototypes come from a queue of the last 5, which is an option there. Their default takes them
  from the other images of the batch, which may not have the class. Under torchrun each process has
  a queue of its own.
- losses on the grid of the features, not at image size; MAM on the first half of the images of each
  process (of the batch there).
- no background class (driving scenes): pixels of no region are left out of RCM, in place of a
  background prototype; the label is the highest present class, without a threshold.
- padding: part of the image for the logits, as there; it is in no region and its maps are 0.
- images without a foreground class train the classifier only.
- the threshold of the background is fixed; theirs is searched on ground truth.
- a run whose maps grow a hundredfold in MAM stops.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import copy
import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor

from baselines.common import CamMasks
from baselines.stages import add_arguments, inputs_of, labelled_images, load_splits, make_masks
from datasets.fingerprint import fingerprint
from datasets.labels import IGNORE_INDEX, has_background, load_classes
from datasets.training import build_transform
from datasets.transforms import normalize
from models.build import build_network, build_optimizer
from models.cam import (
    build_cam_network,
    classification_loss,
    multi_scale_cams,
    network_sha256,
    rescale,
)
from models.multiscale_attention import attention_loss, attention_targets
from models.regional_contrast import Prototypes, contrast_loss, region_masks, region_vectors
from models.support_net import (
    Guard,
    mean_of_present,
    on_grid,
    present_cams,
    region_shares,
    update_support,
)
from models.training import sgd_step
from utils.cli import training_parser
from utils.config import Config, load_config
from utils.distributed import all_reduce, autocast, cleanup, setup
from utils.run import Run
from utils.safe.errors import InputError, run_script
from utils.schedule import poly_lr
from utils.seed import WEIGHTS, derive

# From KAIST-vilab/AEFT, train_moco.py and infer.py, where nothing else is said.
CHANNELS = 256  # of the features
SUPPORT_SCALES = (1.0, 0.5, 1.5, 2.0)  # also those of the masks; 1 comes first
MAIN_SCALES = (1.0, 0.5, 2.0)
# Their SGD gets the weight decay, 5e-4, where it expects the momentum, so that it has practically
# none: the config's momentum is not used. With 0.9, their rate of 0.01 is 0.1.
MOMENTUM = 0.0
# Ours: where L_RCM and L_MAM begin, as shares of the steps; background.
RCM_START, MAM_START = 0.6, 0.8
BACKGROUND_THRESHOLD = 0.25


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = parse_arguments(argv)
    config = load_config(arguments.config, arguments.overrides)
    config = dataclasses.replace(config, momentum=MOMENTUM, classifier="conv")
    without = sorted(set(arguments.without))
    starts = phase_starts(config, without)
    ranks = setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    train, split = load_splits(config, arguments, classes)
    dataset = labelled_images(config, train, classes, build_transform(config))

    # --- MainNet, SupportNet, optimiser
    first = int(has_background(classes))  # id of the first class with a map
    rest = len(classes) - 1 if first else IGNORE_INDEX
    model = build_cam_network(config, len(classes) - first, CHANNELS).to(ranks.device)
    support = copy.deepcopy(model).requires_grad_(False).eval()
    prototypes, guard = Prototypes(len(classes), CHANNELS, ranks.device), Guard()
    optimizer = build_optimizer(config, model)
    parts = {"model": model, "optimizer": optimizer, "support": support}
    run = Run(
        arguments,
        config,
        ranks,
        stage="support_net",
        end=config.steps,
        classes=classes,
        inputs=lambda: fingerprint(classes, dataset, options={"without": without}),
        parts=parts | {"prototypes": prototypes, "guard": guard},
    )
    network = build_network(model, config, ranks)

    # --- loop
    for step, batch in run.steps(dataset):
        image, labels, valid = prepare(batch, first, ranks.device)
        use = {loss for loss, start in starts.items() if step >= start}
        half = slice((len(image) + 1) // 2)
        others = [rescale(image[half], scale) for scale in MAIN_SCALES[1:] if "mam" in use]
        (features, cams), *at_scales = network(image, step, *others)
        valid = on_grid(valid, cams)
        of_main = present_cams(cams, labels, valid)
        losses = {"loss_cls": classification_loss(cams, labels)}
        losses |= dict.fromkeys(("loss_rcm", "loss_mam", "mam_weight"), cams.new_zeros(()))
        regions = torch.full_like(valid, IGNORE_INDEX, dtype=torch.long)
        if use:
            if step == min(starts.values()):
                support.load_state_dict(model.state_dict())
            with torch.no_grad(), autocast(ranks.device, config.precision):
                found = support(*(rescale(image, scale) for scale in SUPPORT_SCALES))
            of_support = [present_cams(maps, labels, valid) for _, maps in found]
        if "rcm" in use:
            at_1 = region_masks(of_support[0], labels, valid, rest)
            prototypes.add(*region_vectors(found[0][0], at_1, len(classes)))
            regions = region_masks(sum(of_support), labels, valid, rest)
            losses["loss_rcm"] = contrast_loss(features, *prototypes.vectors(), regions)
        if "mam" in use:
            maps = [present_cams(x, labels[half], valid[half]) for _, x in at_scales]
            maps = [of_main[half], *maps]
            targets, weights = attention_targets(maps, [x[half] for x in of_support])
            losses["loss_mam"] = attention_loss(maps, targets)
            losses["mam_weight"] = mean_of_present(weights, labels[half])
        losses["loss"] = losses["loss_cls"] + losses["loss_rcm"] + losses["loss_mam"]
        cam_mean = mean_of_present(of_main.detach().mean((2, 3)), labels)
        cam_mean = all_reduce(cam_mean.clone()) / ranks.world_size
        if "mam" in use:
            guard.check(cam_mean.item(), step)
        lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.poly_power)
        sgd_step(losses["loss"], optimizer, lr)
        if use:
            update_support(support, model)
        shares = region_shares(regions, len(classes), first)
        run.log(losses | {"cam_mean": cam_mean} | shares, batch["name"], lr)
    del network  # before the process group: its destructor would wait for ever
    run.close(goes_on=True)

    # --- masks
    cams_of = partial(multi_scale_cams, model.eval(), scales=SUPPORT_SCALES)
    masks = CamMasks(cams_of, split, classes, BACKGROUND_THRESHOLD, config, ranks)
    made_from = {"method": "support_net", "without": without, "scales": SUPPORT_SCALES}
    made_from["network_sha256"] = network_sha256(model)
    make_masks(masks, arguments, made_from)
    cleanup()


def prepare(batch: dict[str, Any], first: int, device: torch.device) -> tuple[Tensor, ...]:
    """Normalised image (B,3,H,W), labels of the classes with a map (B,C), valid (B,H,W)."""
    image, labels, valid = inputs_of(batch, device)
    return normalize(image, "imagenet", valid), labels[:, first:], valid


def phase_starts(config: Config, without: list[str]) -> dict[str, int]:
    """The first step of L_RCM and of L_MAM, where used. Raises InputError where sizes don't do."""
    starts = {"rcm": int(RCM_START * config.steps), "mam": int(MAM_START * config.steps)}
    if not 0 < starts["rcm"] < starts["mam"] < config.steps:
        raise InputError(
            f"'steps' is {config.steps}, too few for three phases (from step 0, {starts['rcm']} "
            f"and {starts['mam']}); the least is 3"
        )
    smallest = min(*MAIN_SCALES, *SUPPORT_SCALES)
    cells = [side * smallest / config.output_stride for side in config.crop_size]
    if min(cells) <= 1:
        raise InputError(
            f"'crop_size' {list(config.crop_size)} at scale {smallest} is less than 2 cells at "
            f"output_stride {config.output_stride}; raise crop_size or lower output_stride"
        )
    return {loss: start for loss, start in starts.items() if loss not in without}


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add_arguments(result, arithmetic=None)
    parts = {"nargs": "+", "choices": ("rcm", "mam"), "default": []}
    result.add_argument("--without", **parts, help="losses to leave out")
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
