"""SEAM: maps that agree over two sizes of an image, revised by the pixels' own similarity (PCM).

Wang, Zhang, Kan, Shan and Chen, "Self-supervised Equivariant Attention Mechanism for Weakly
Supervised Semantic Segmentation", CVPR 2020; formulas after YudeWang/SEAM @3212261 (MIT).

Reads images and image-level labels; writes a run folder RUN_DIR and, when it is trained, a folder
of pseudo-masks OUT/<image id>.png with meta.json, for `eval.py --masks` and a second stage:

    python -m baselines.seam --config C --run-dir runs/seam --out masks --save-cams --score

Run the same command again to resume both; --overwrite starts both over. --score: OUT/score.json.
--save-cams: OUT/cams/<image id>.npz, at the working size; the maps may be negative.

Memory at 512x1024, counted, not measured: with a ResNet-38 2.5 GiB an image of a batch, and 0.27
GiB for PCM's affinity; at test time 0.25 GiB of it at a time. 0.3 GiB for a ResNet-50 and its
optimiser.

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
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.cam import (
    WorkingSizeMasks,
    add_arguments,
    load_splits,
    long_sides,
    of_method,
    pairs,
)
from datasets.fingerprint import fingerprint
from datasets.labels import has_background, load_classes, multi_hot
from datasets.long_side import LongSideTransform
from datasets.training import TrainingSet
from datasets.transforms import normalize
from models.affinity import STRIDE, Taps
from models.build import build_network
from models.cam import build_cam_backbone, classification_loss, network_sha256
from models.inference import resize, resize_corners
from models.seam import EPS, SEAMNetwork, only_highest, with_rest
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
REDUCED = 0.3  # size of the second view
SHARE, POOLED = 0.2, 4  # of the entries in ECR; 1 of 4 pixels in the minimum pooling
SCALES = (0.5, 1.0, 1.5, 2.0)  # of the maps
BACKGROUND_THRESHOLD = 0.26


def reduced(image: Tensor) -> Tensor:
    """The second view of images (B,3,H,W): REDUCED times their size, rounded down."""
    return resize_corners(image, tuple(int(side * REDUCED) for side in image.shape[-2:]))


def max_norm(maps: Tensor) -> Tensor:
    """norm: relu of maps (B,C,h,w), from their minimum 0 to nearly 1; gradient through both ends.

    relu(p - b - 1e-5) / (a - b + 1e-5).
    """
    maps = maps.relu()
    high, low = (end((2, 3), keepdim=True) for end in (maps.amax, maps.amin))
    return (maps - low - EPS).relu() / (high - low + EPS)


def min_pool_loss(maps: Tensor) -> Tensor:
    """Mean of the lowest quarter of the pixels' highest maps (B,C,H,W), in each image."""
    highest = maps.amax(1).flatten(1)
    count = highest.shape[1] // POOLED
    return highest.topk(count, largest=False).values.relu().sum() / (count * len(maps))


def ecr_loss(cams: Tensor, revised: Tensor, first: int) -> Tensor:
    """ECR: mean of the largest fifth of |H(A) - R| (B,C,h,w), in each image; no gradient to A.

    Absent classes and the background count.
    """
    errors = (only_highest(cams, first).detach() - revised).abs().flatten(1)
    return errors.topk(int(errors.shape[1] * SHARE)).values.mean()


def seam_losses(
    views: list[tuple[Tensor, Tensor]], labels: Tensor, first: int, min_pool: float
) -> dict[str, Tensor]:
    """Losses of two views, (cam, rv) of each (B,C,.,.), the second smaller; labels (B,K).

    L = mean of the two L_cls + min_pool mean of the two L_rvmin + L_er + L_ecr1 + L_ecr2.
    """
    channels = torch.cat([torch.ones_like(labels[:, :first]), labels], 1)[..., None, None]
    size = views[1][0].shape[-2:]
    losses, normed = {}, []
    for i, (cam, revised) in enumerate(views, 1):
        losses[f"loss_cls{i}"] = classification_loss(cam[:, first:], labels)
        losses[f"loss_rvmin{i}"] = min_pool_loss((revised * channels)[:, first:])
        # at full size first, then reduced, then filtered
        normed.append([resize_corners(max_norm(maps), size) * channels for maps in (cam, revised)])
    (cam1, revised1), (cam2, revised2) = normed
    losses["loss_er"] = (cam1 - cam2)[:, first:].abs().mean()
    cam1, cam2 = with_rest(cam1, first), with_rest(cam2, first)
    losses["loss_ecr1"] = ecr_loss(cam2, revised1, first)
    losses["loss_ecr2"] = ecr_loss(cam1, revised2, first)
    losses["loss_cls"] = (losses["loss_cls1"] + losses["loss_cls2"]) / 2
    losses["loss_rvmin"] = (losses["loss_rvmin1"] + losses["loss_rvmin2"]) / 2
    losses["loss"] = losses["loss_cls"] + losses["loss_er"]
    losses["loss"] = losses["loss"] + losses["loss_ecr1"] + losses["loss_ecr2"]
    if min_pool:
        losses["loss"] = losses["loss"] + min_pool * losses["loss_rvmin"]
    return losses


@torch.inference_mode()
def revised_cams(network: Callable, image: Tensor, first: int) -> Tensor:
    """Sum of rv of the classes over SCALES and mirror images: uint8 (3,h,w) -> (K,h,w)."""
    size, total = image.shape[-2:], 0
    for pair in pairs(image, SCALES):
        [(_, revised)] = network(pair)
        plain, mirrored = resize(revised[:, first:], size)
        total = total + plain + mirrored.flip(-1)
    return total


def normalize_signed(cams: Tensor) -> Tensor:
    """M: maps (B,C,h,w) from their minimum b to nearly 1; what is below b + 1e-5 is negative.

    (v - b - 1e-5) / (a - b + 1e-5) with v = 0 where v < b + 1e-5; not clamped, as the authors'.
    """
    cams = cams.relu()
    high, low = cams.amax((2, 3), keepdim=True), cams.amin((2, 3), keepdim=True)
    cams = torch.where(cams < low + EPS, 0, cams)
    return (cams - low - EPS) / (high - low + EPS)


class SignedMasks(WorkingSizeMasks):
    """Masks of maps that `normalize_signed` normalises."""

    def maps(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """M (C,h,w), negative for absent classes; classes (C)."""
        labels, device = self.split.labels[sample["name"]], self.ranks.device
        present = multi_hot(labels, len(self.classes))[self.first :].to(device)
        image = sample["image"].to(device)
        cams = self.cams_of(image, tuple(image.shape[-2:])) * present[:, None, None]
        return normalize_signed(cams[None])[0], present


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
    out, ranks = Path(arguments.out), setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    train, split = load_splits(config, arguments, classes)
    transform = LongSideTransform(long_sides(config, LONG_SIDES), config.crop_size, jitter=True)
    cache, first = config.image_cache, int(has_background(classes))
    dataset = TrainingSet(train.images, train.labels, len(classes), transform, cache=cache)

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
        keys = ("image", "image_labels", "valid")
        image, labels, valid = (batch[key].to(ranks.device) for key in keys)
        image = normalize(image, "imagenet", valid)
        views = network(image, step, reduced(image))
        losses = seam_losses(views, labels[:, first:], first, min_pool)
        lr = poly_step(losses["loss"], optimizer, step, config.steps)
        run.log(losses, batch["name"], lr)
    del network  # before the process group: its destructor would wait for ever
    run.close(goes_on=True)

    # --- masks
    model.eval()
    masks = SignedMasks(
        lambda image, _: revised_cams(model, image, first),
        split,
        classes,
        BACKGROUND_THRESHOLD,
        config,
        ranks,
    )
    made_from = {"method": "seam", "arithmetic": arguments.arithmetic, "min_pool": min_pool}
    made_from |= {"scales": SCALES, "network_sha256": network_sha256(model)}
    masks.write(out, made_from, arguments.overwrite, arguments.save_cams)
    if arguments.score:
        masks.score(out)
    cleanup()


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add_arguments(result)
    weight = {"type": number(1e3, zero=True), "metavar": "WEIGHT"}
    result.add_argument("--min-pool", **weight, help="of L_rvmin (default: 1 with a background)")
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
