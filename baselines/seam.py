"""SEAM: maps that agree over two sizes of an image, revised by the pixels' own similarity (PCM).

Wang, Zhang, Kan, Shan and Chen, "Self-supervised Equivariant Attention Mechanism for Weakly
Supervised Semantic Segmentation", CVPR 2020; formulas after YudeWang/SEAM @3212261 (MIT).

Reads images and image-level labels; writes a run folder RUN_DIR and, when it is trained, a folder
of pseudo-masks OUT/<image id>.png with meta.json, for `eval.py --masks` and a second stage:

    python -m baselines.seam --config C --run-dir runs/seam --out masks --save-cams --score

Run the same command again to resume both; --overwrite starts both over. --score: OUT/score.json.
--save-cams: OUT/cams/<image id>.npz, at the working size; the maps may be negative.

Memory at 512x1024, counted, not measured: with a ResNet-38 2.5 GiB an image of a batch, and PCM's
affinity 0.25 GiB, of which training holds up to five and the maps two. 0.3 GiB for a ResNet-50 and
its optimiser.

Deviations:
- the config's ResNet in place of ResNet-38, stride 8: conv4, conv5 and conv6 are its last three
  stages, the stem and the first stage are frozen; it has no dropout of its own.
- no background class (driving scenes): no channel 0 anywhere; the label is the highest map of the
  image's classes. The minimum pooling presumes that a quarter of the pixels is background: its
  weight is 0 (--min-pool 1 is the literal transfer). A data set with a background has channel 0,
  the weight 1 and the constant score 0.26, as there.
- crop_size is the working size: training images have a long side of 1 to 1.71 times its own (448 to
  768 for crops of 448), and the maps are made at that size; image_size is not used.
- steps and batch_size are the config's, the rates not. 10576 steps of 8 images there.
- 20 % of the entries is counted with the classes of the data, not with 21.
- --arithmetic authors (default): SGD with the momentum 5e-4, since the release passes the weight
  decay in its place; correct: 0.9 with the same rates, ten times as aggressive.
- the maps are the masks. There, an affinity network of other rates follows (baselines.psa).
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from baselines.cam import pairs
from baselines.common import WorkingSizeMasks
from baselines.stages import (
    add_arguments,
    inputs_of,
    labelled_images,
    load_splits,
    long_sides,
    make_masks,
    of_method,
)
from datasets.fingerprint import fingerprint
from datasets.labels import has_background, load_classes
from datasets.long_side import LongSideTransform
from datasets.transforms import normalize
from models.affinity import STRIDE
from models.affinity_network import Taps
from models.build import build_network
from models.cam import build_cam_backbone, network_sha256
from models.inference import resize
from models.seam import REDUCED, SEAMNetwork, normalize_signed, reduced, seam_losses
from models.training import poly_sgd, poly_step
from utils.cli import number, training_parser
from utils.config import load_config
from utils.distributed import cleanup, setup
from utils.run import Run
from utils.safe.errors import InputError, run_script
from utils.seed import WEIGHTS, derive

# From YudeWang/SEAM, train_SEAM.py, infer_SEAM.py and network/resnet38_SEAM.py.
LR, NEW_LR, WEIGHT_DECAY = 0.01, 0.1, 5e-4
LONG_SIDES = (1.0, 1.71)  # of the working size
SCALES = (0.5, 1.0, 1.5, 2.0)  # of the maps
BACKGROUND_THRESHOLD = 0.26


@torch.inference_mode()
def revised_cams(network: Callable, image: Tensor, first: int) -> Tensor:
    """Sum of rv of the classes over SCALES and mirror images: uint8 (3,h,w) -> (K,h,w)."""
    size, total = image.shape[-2:], 0
    for pair in pairs(image, SCALES):
        [(_, revised)] = network(pair)
        plain, mirrored = resize(revised[:, first:], size)
        total = total + plain + mirrored.flip(-1)
    return total


class SignedMasks(WorkingSizeMasks):
    """Masks of maps that may be negative."""

    normalized = staticmethod(normalize_signed)


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = parse_arguments(argv)
    config = load_config(arguments.config, arguments.overrides)
    config = of_method(config, LR, WEIGHT_DECAY, STRIDE, arguments.arithmetic)
    if min(config.crop_size) * REDUCED < 2:
        raise InputError(
            f"'crop_size' {list(config.crop_size)} leaves less than 2 pixels of a side in the "
            f"second view, {REDUCED} times as large; raise crop_size"
        )
    ranks = setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    train, split = load_splits(config, arguments, classes)
    transform = LongSideTransform(long_sides(config, LONG_SIDES), config.crop_size, jitter=True)
    dataset = labelled_images(config, train, classes, transform)
    first = int(has_background(classes))

    # --- network, optimiser
    backbone = Taps(build_cam_backbone(config, STRIDE))
    model = SEAMNetwork(backbone, backbone.channels, len(classes), first).to(ranks.device)
    rates = zip(model.groups(), (LR, NEW_LR), strict=True)
    groups = [{"params": parameters, "lr": lr} for parameters, lr in rates]
    optimizer = poly_sgd(groups, WEIGHT_DECAY, arguments.arithmetic)
    min_pool = float(first) if arguments.min_pool is None else arguments.min_pool
    run = Run(
        arguments,
        config,
        ranks,
        stage="seam",
        end=config.steps,
        classes=classes,
        inputs=lambda: fingerprint(classes, dataset, options={"min-pool": min_pool}),
        parts={"model": model, "optimizer": optimizer},
    )
    network = build_network(model, config, ranks)

    # --- loop
    for step, batch in run.steps(dataset):
        image, labels, valid = inputs_of(batch, ranks.device)
        image = normalize(image, "imagenet", valid)
        views = network(image, step, reduced(image))
        losses = seam_losses(views, labels[:, first:], first, min_pool)
        lr = poly_step(losses["loss"], optimizer, step, config.steps)
        run.log(losses, batch["name"], lr)
    del network  # before the process group: its destructor would wait for ever
    run.close(goes_on=True)

    # --- masks
    cams_of = partial(revised_cams, model.eval(), first=first)
    masks = SignedMasks(cams_of, split, classes, BACKGROUND_THRESHOLD, config, ranks)
    made_from = {"method": "seam", "arithmetic": arguments.arithmetic, "min_pool": min_pool}
    made_from |= {"scales": SCALES, "network_sha256": network_sha256(model)}
    make_masks(masks, arguments, made_from)
    cleanup()


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add_arguments(result)
    weight = {"type": number(1e3, zero=True), "metavar": "WEIGHT"}
    result.add_argument(
        "--min-pool", **weight, help="of L_rvmin (default: 1, without a background 0)"
    )
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
