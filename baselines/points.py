"""Single-stage training from points, after Akiva and Dana (WACV 2023, arXiv:2106.10309).

After the abstract, with details from the authors' later public repositories; no number of the paper
is claimed. One network, from scratch, learns from points and, after the first fifth of the steps,
also from pseudo-masks that each step makes from the network's own scores (models/point_masks.py):
refined along the edges of the image, weighted by the distance to the points, cut off by class.

From the abstract: a single stage, no pretrained weights (``backbone_weights: null``), no
classification task, masks made on the fly, refined and filtered in space. From Kitware/geowatch
(the first author's commits of May and June 2021 and of February 2022): group norm with standardised
weights (``norm: group``), PAMR of 10 iterations with these dilations, a cut-off by class.

Deviations, all ours: the form of the point loss; the distance weight and its schedule; a cut-off of
0.5 times the highest score of the class outside padding (0.75 there, and at least 0.2, later 0);
cells of 4 x 4 pixels; the step from which masks are used; the weight of their loss. The
network is this project's DeepLabV3, without that repository's decoder, cue injection and stochastic
gate, with an ordinary last convolution; schedule and learning rate are the config's. Under torchrun
a loss is the mean of the processes' means, unless ``sync_region_stats: true``. A data set with a
class 'background' needs points of it.

    python -m baselines.points --config demo/points.yaml --run-dir runs/points
    torchrun --nproc_per_node=2 -m baselines.points --config ... --run-dir ...

Reads the images and the points file of the key `points`, never ground truth or image-level labels;
writes RUN_DIR/{config.yaml, metrics.jsonl, last.pt}. --without masks: points only. Run the same
command again to resume; --overwrite starts over.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from datasets import open_dataset
from datasets.doctor.label_check import check_trainable
from datasets.fingerprint import fingerprint
from datasets.labels import ClassTable, load_classes
from datasets.points import points_of_split
from datasets.training import TrainingSet, build_transform
from datasets.transforms import normalize
from models.build import build_model, build_network, build_optimizer, build_text
from models.carb import CORRECT, RegionRules, class_share, region_means, segmentation_loss, upsample
from models.kernels.pixel_losses import pixel_losses
from models.point_masks import STRIDE, Parts, pixels_of, pseudo_mask
from models.preview import draw_maps, fixed_draws
from models.training import sgd_step
from utils.batches import collate
from utils.cli import number, training_parser
from utils.config import Config, load_config
from utils.distributed import Ranks, autocast, setup
from utils.run import Run
from utils.safe.errors import InputError, run_script
from utils.schedule import poly_lr
from utils.seed import WEIGHTS, derive

START = 0.2  # t0 / T, the share of the steps before masks are used; ours (there: 5 epochs of 200)
SCALE = (0.05, 0.45)  # s0 and s1 of the distance weight, in shorter sides of the crop; ours
WEIGHT = 1.0  # lambda, of the loss in the pseudo-masks; ours


def point_loss(
    logits: Tensor, points: list[Tensor], size: tuple[int, int], rules: RegionRules = CORRECT
) -> Tensor:
    """L_point = -(1/N) sum of log softmax(f(p))_c over the N points (p, c) inside; 0 without any.

    f(p) is the bilinear value of logits (B,K,h,w) at the centre of pixel p, which is that of the
    logits upsampled to `size` (H,W).
    """
    pixels, ids, inside = pixels_of(points, size, logits.device)
    extent = torch.tensor([size[1], size[0]], device=logits.device)
    places = (pixels + 0.5) * 2 / extent - 1  # in grid_sample's range of -1 to 1
    at_points = F.grid_sample(
        logits.float(), places[:, None], padding_mode="border", align_corners=False
    )
    losses = F.cross_entropy(at_points[:, :, 0], ids, reduction="none")
    return region_means(losses, [inside], rules)[0][0]


def point_losses(
    logits: Tensor,
    points: list[Tensor],
    size: tuple[int, int],
    mask: Tensor | None,
    rules: RegionRules = CORRECT,
) -> dict[str, Tensor]:
    """L = L_point + lambda L_mask, L_mask = mean over labelled cells of -log softmax(f)_y.

    mask: y of `pseudo_mask`; None: L_mask is 0. Minimise ``["loss"]``; the rest is detached and
    for the log.
    """
    loss = loss_points = point_loss(logits, points, size, rules)
    loss_masks, shares = torch.zeros_like(loss), loss.new_zeros(logits.shape[1])
    if mask is not None:
        losses, _ = pixel_losses(upsample(logits, mask.shape[-2:]), mask)
        loss_masks = segmentation_loss(losses, mask, rules)
        loss = loss_points + WEIGHT * loss_masks
        shares = class_share(mask, logits.shape[1])
    log = {"loss_points": loss_points, "loss_masks": loss_masks}
    log |= {"labelled_fraction": shares.sum(), "class_share": shares}
    return {"loss": loss} | {key: value.detach() for key, value in log.items()}


def distance_scale(step: int, steps: int, shorter_side: int) -> float:
    """s_t = S (s0 + (s1 - s0) (t - t0) / (T - t0)) in pixels, S the crop's shorter side."""
    start = START * steps
    progress = max(0.0, (step - start) / (steps - start))
    return shorter_side * (SCALE[0] + (SCALE[1] - SCALE[0]) * progress)


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = parse_arguments(argv)
    parts = parts_of(arguments)
    config = load_config(arguments.config, arguments.overrides)
    if config.points is None:
        raise InputError(
            f"{arguments.config} has points: null; name a file with --set points=FILE "
            "(prepare_data.py imports points, or simulates them from ground truth)"
        )
    ranks = setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes, split = load_classes(config.class_file), config.train_split
    check_trainable(classes)
    images = open_dataset(config.dataset, config.data_root).images(split)
    points = points_of_split(config.points, images, classes, arguments.allow_unpointed, split)
    images = {name: images[name] for name in points}
    transform, cache = build_transform(config), config.image_cache
    dataset = TrainingSet(images, None, len(classes), transform, cache=cache, points=points)

    # --- network, optimiser
    text = build_text(config, classes, arguments.trust_torchscript)
    model = build_model(config, len(classes), text).to(ranks.device)
    optimizer, rules = build_optimizer(config, model), RegionRules(sync=config.sync_region_stats)
    run = Run(
        arguments,
        config,
        ranks,
        stage="points",
        end=config.steps,
        classes=classes,
        inputs=lambda: fingerprint(classes, dataset, options=parts._asdict()),
        parts={"model": model, "optimizer": optimizer},
        preview=lambda: draw(config, classes, ranks, model, dataset, run.step, parts),
    )
    network = build_network(model, config, ranks)

    # --- loop
    for step, batch in run.steps(dataset):
        image, valid = (batch[k].to(ranks.device, non_blocking=True) for k in ("image", "valid"))
        points, mask = batch["points"], None
        logits = network(normalize(image, "imagenet", valid), step)
        scale = distance_scale(step, config.steps, min(config.crop_size))
        if uses_masks(step, config.steps, parts):
            mask = pseudo_mask(logits, image, valid, points, scale, parts)
        losses = point_losses(logits, points, config.crop_size, mask, rules)
        lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.poly_power)
        sgd_step(losses["loss"], optimizer, lr)
        run.log(losses | {"distance_scale": torch.tensor(scale)}, batch["name"], lr)
    del network  # before the process group: its destructor would wait for ever
    run.close()


def uses_masks(step: int, steps: int, parts: Parts) -> bool:
    """Whether a step has L_mask: discs from the start, pseudo-masks from t0."""
    return parts.discs is not None or (parts.masks and step >= START * steps)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add = result.add_argument
    rows = {"nargs": "+", "default": [], "choices": ("masks", "refinement", "distance")}
    add("--without", **rows, help="parts to leave out; masks: train on the points only")
    add(
        "--discs",
        type=number(1e4),
        metavar="RADIUS",
        help="discs of RADIUS pixels around the points in place of pseudo-masks",
    )
    add("--allow-unpointed", action="store_true", help="leave out images without any point")
    return result.parse_args(argv)


def parts_of(arguments: argparse.Namespace) -> Parts:
    """The parts of the method in use. Raises InputError for options that exclude each other."""
    without = sorted({*arguments.without})
    if arguments.discs is not None and without:
        raise InputError(
            f"--discs puts discs in place of the pseudo-masks; leave out --without {without[0]}"
        )
    if "masks" in without and len(without) > 1:
        raise InputError("--without masks makes no pseudo-masks at all; leave out its other parts")
    return Parts(*(part not in without for part in Parts._fields[:3]), arguments.discs)


def draw(
    config: Config,
    classes: ClassTable,
    ranks: Ranks,
    model: nn.Module,
    dataset: TrainingSet,
    step: int,
    parts: Parts,
) -> np.ndarray:
    """Image, points, pseudo-mask and prediction of up to four images, for TensorBoard.

    `model` is in training mode afterwards; no random generator is used.
    """
    draws = fixed_draws(len(dataset), config.batch_size, config.seed)
    batch = collate([dataset[one] for one in draws])
    image, valid = (batch[key].to(ranks.device) for key in ("image", "valid"))
    model.eval()
    with torch.no_grad(), autocast(ranks.device, config.precision):
        logits = model.forward(normalize(image, "imagenet", valid))
    model.train()
    scale = distance_scale(step, config.steps, min(config.crop_size))
    make = partial(pseudo_mask, logits, image, valid, batch["points"], scale)
    maps = {"points": make(Parts(discs=STRIDE))}
    maps |= {"pseudo-mask": make(parts)} if uses_masks(step, config.steps, parts) else {}
    maps["prediction"] = upsample(logits, config.crop_size).argmax(1)
    return draw_maps(batch["image"], maps, classes, "no label")


if __name__ == "__main__":
    run_script(main)
