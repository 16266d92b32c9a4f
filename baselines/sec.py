"""SEC: seed, expand and constrain. One network learns from seeds of CAMs, labels and a dense CRF.

Kolesnikov and Lampert, "Seed, Expand and Constrain", ECCV 2016; formulas after kolesman/SEC
@c7841905 (MIT), whose TensorFlow port (xtudbxk/SEC-tensorflow) computes otherwise.

Reads images, image-level labels and the maps that `baselines.cam --save-cams` left for the training
split; writes RUN_DIR/{config.yaml, metrics.jsonl, last.pt} for `eval.py --ckpt`:

    python -m baselines.cam --config C --run-dir runs/cam --out masks/cam --save-cams
    python -m baselines.sec --config C --run-dir runs/sec --cams masks/cam

Run the same command again to resume; --overwrite starts over. Memory of the CRF at 41x81 cells:
44 MB an image, one after another.

Deviations:
- this project's DeepLabV3 with a convolution as classifier in place of VGG16 DeepLab-LargeFOV:
  batch norms, ImageNet's colours. All its layers behind the backbone are new here, and learn at the
  rate of the authors' one new layer.
- crop_size is the size of the input, into which whole images are fitted with their proportions
  (321x321 without them there), in training and in evaluation; image_size is not used. steps and
  batch_size are the config's (8000 of 15 images there). Padding is in no loss.
- no background class (driving scenes): no background term in L_expand; stuff has the background's
  decay. A mean over no class, and an image without seeds, give 0; NaN in the release.
- the grid has other sizes than 41x41: the decays are q^(1681/n) for n cells, which keeps the shares
  of the ranking, and the CRF's widths are shares of the height.
- seeds: the CAMs of baselines.cam, above 0.2 of their maximum, in place of a VGG16's. Background
  seeds are the tenth of the cells with the lowest maps, in place of the lowest saliency.
- the CRF is exact (models/dense_crf.py), an approximation there. No CRF at test time.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import dataclasses
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.common import load_split
from datasets.doctor.label_check import check_trainable
from datasets.fingerprint import data_of_masks, fingerprint
from datasets.labels import ClassTable, has_background, load_classes
from datasets.mask_folder import read_made_from
from datasets.saved_maps import SavedMaps
from datasets.training import TrainingSet
from datasets.transforms import TrainTransform, normalize
from models.build import build_model, build_network
from models.dense_crf import SEC_TRAINING, mean_field, resized_kernels
from models.inference import resize
from utils.class_names import plain_name
from utils.cli import path, training_parser
from utils.config import Config, load_config
from utils.distributed import setup
from utils.run import Run
from utils.safe.errors import run_script
from utils.seed import WEIGHTS, derive

# From kolesman/SEC, training/: the layers, train.prototxt and solver.prototxt.
FLOOR = 1e-4  # of the probabilities, and of the CRF's marginals
DECAY, BACKGROUND_DECAY = 0.996, 0.999  # q of L_expand
GRID = 41  # their height and width, in cells
SEED_THRESHOLD, BACKGROUND_SEEDS = 0.2, 0.1  # of the maximum of a map; share of the cells
LR, MOMENTUM, WEIGHT_DECAY, DROPOUT = 1e-3, 0.9, 5e-4, 0.5
NEW = 10  # times the rate, of new layers; biases learn at twice their layer's, without decay
STAGES = 4  # of equal length; the rate is a tenth of the one before
# Ours: classes that are large like their background.
STUFF = {
    *("road", "sidewalk", "building", "wall", "vegetation", "tree", "terrain", "grass", "sky"),
}


def floored_softmax(logits: Tensor) -> Tensor:
    """p of logits (B,C,h,w): softmax + 1e-4, normalised again."""
    floored = logits.softmax(1) + FLOOR
    return floored / floored.sum(1, keepdim=True)


def seed_loss(p: Tensor, seeds: Tensor) -> Tensor:
    """L_seed = -mean over images of sum(S log p) / sum(S), sums over classes and pixels.

    p, seeds (B,C,h,w). A pixel may be the seed of several classes. An image without seeds gives 0
    (NaN in the release).
    """
    sums = (seeds * p.log()).sum((1, 2, 3))
    return -(sums / seeds.sum((1, 2, 3)).clamp(min=1)).mean()


def rank_pooling(p: Tensor, decays: Tensor) -> Tensor:
    """G_c = sum_j q_c^j p_(j) / sum_j q_c^j, p_(0) >= p_(1) >= ...: p (B,C,h,w), q (C) -> (B,C)."""
    ranked = p.flatten(2).sort(dim=2, descending=True).values
    weights = decays[:, None].double() ** torch.arange(ranked.shape[2], device=p.device)
    return (ranked * (weights / weights.sum(1, keepdim=True)).to(p)).sum(2)


def expand_loss(p: Tensor, labels: Tensor, decays: Tensor, background: bool) -> Tensor:
    """L_expand, the mean over images of

        -mean over present c of log G_c - mean over absent c of log(1 - max_u p_c) - log G_0

    p (B,C,h,w), labels (B,C), decays: q (C). background: class 0 is the last term and none of the
    others, whatever its label says; without one there is no such term. A mean over no class is 0
    (NaN in the release).
    """
    pooled, highest = rank_pooling(p, decays).log(), (1 - p.amax((2, 3))).log()
    first = int(background)
    present = labels[:, first:]
    loss = _mean_of(pooled[:, first:], present) + _mean_of(highest[:, first:], 1 - present)
    if background:
        loss = loss + pooled[:, 0]
    return -loss.mean()


def _mean_of(values: Tensor, chosen: Tensor) -> Tensor:
    """Mean over c of the values (B,C) where `chosen` (B,C) is 1; 0 where there are none."""
    return (values * chosen).sum(1) / chosen.sum(1).clamp(min=1)


def crf_targets(scores: Tensor, images: Tensor, scale: float = 1.0) -> Tensor:
    """log Q of the CRF of raw scores (B,C,h,w), which are the negative unaries; (B,C,h,w).

    images uint8 (B,3,H,W) are resized to the grid. scale: of the CRF's widths. Q is at least 1e-4,
    and normalised again.
    """
    images = on_grid(images, scores.shape[-2:])
    pairs = zip(scores.detach(), images, strict=True)
    kernels = resized_kernels(SEC_TRAINING, scale)
    q = torch.stack([mean_field(-score, image, kernels) for score, image in pairs])
    q = q.clamp(min=FLOOR)
    return (q / q.sum(1, keepdim=True)).log()


def on_grid(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Images uint8 (B,3,H,W) at `size`, corners aligned, in whole levels."""
    resized = F.interpolate(images.float(), size, mode="bilinear", align_corners=True)
    return resized.round().clamp(0, 255)


def constrain_loss(p: Tensor, log_q: Tensor) -> Tensor:
    """L_constrain = mean over images and pixels of sum over c of Q log(Q / p); (B,C,h,w) each."""
    return (log_q.exp() * (log_q - p.log())).sum(1).mean()


def seeds_of(cams: Tensor, present: Tensor, background: bool) -> Tensor:
    """S (C,h,w) of maps (C',h,w) >= 0: present maps above 0.2 of their maximum.

    Of several classes of a cell the one with the fewest cells wins. background: C = C' + 1, and
    class 0 has the cells with the lowest maps, a tenth of them, that are no other seed.
    """
    cams = cams * present[:, None, None]
    over = cams > SEED_THRESHOLD * cams.amax((1, 2), keepdim=True)
    areas = over.sum((1, 2))[:, None, None]
    rank = torch.where(over, over[0].numel() - areas, -1)
    winner = F.one_hot(rank.argmax(0), len(cams)).permute(2, 0, 1).bool()
    seeds = over & winner
    if background:
        highest = cams.amax(0)
        lowest = highest <= highest.flatten().kthvalue(tenth(highest.numel())).values
        seeds = torch.cat([(lowest & ~seeds.any(0))[None], seeds])
    return seeds.to(cams.dtype)


def tenth(cells: int) -> int:
    """The number of background seeds among the cells."""
    return max(1, int(BACKGROUND_SEEDS * cells))


def decays_of(classes: ClassTable) -> Tensor:
    """q (C) for a grid of GRID x GRID cells."""
    large = [plain_name(name) in STUFF for name in classes.names]
    if has_background(classes):
        large = [True] + [False] * (len(classes) - 1)
    return torch.tensor([BACKGROUND_DECAY if one else DECAY for one in large])


def sec_losses(
    logits: Tensor, image: Tensor, labels: Tensor, seeds: Tensor, decays: Tensor, background: bool
) -> dict[str, Tensor]:
    """The three losses of one image: logits (1,C,h,w), image uint8 (1,3,H,W), labels (1,C)."""
    p, (height, width) = floored_softmax(logits), logits.shape[-2:]
    decays = decays ** (GRID * GRID / (height * width))
    log_q = crf_targets(logits, image, height / GRID)
    return {
        "loss_seed": seed_loss(p, seeds),
        "loss_expand": expand_loss(p, labels, decays, background),
        "loss_constrain": constrain_loss(p, log_q),
    }


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = parse_arguments(argv)
    config = of_method(load_config(arguments.config, arguments.overrides))
    ranks = setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    check_trainable(classes)
    background = has_background(classes)
    train = load_split(config, config.train_split, classes, trains=True)
    of_maps = data_of_masks(config.dataset, train.name, classes.names, train.images, train.labels)
    maps = SavedMaps(Path(arguments.cams), train.images, of_maps, int(background))
    whole = TrainTransform(config.image_size, config.scale_range, config.crop_size, 0, False)
    cache = config.image_cache
    dataset = TrainingSet(train.images, train.labels, len(classes), whole, cache=cache)

    # --- network, optimiser
    model = build_model(config, len(classes), None).to(ranks.device)
    optimizer = torch.optim.SGD(groups(model), momentum=MOMENTUM)
    made_from = read_made_from(maps.folder)[1]
    run = Run(
        arguments,
        config,
        ranks,
        stage="sec",
        end=config.steps,
        classes=classes,
        inputs=lambda: fingerprint(classes, dataset, options={"cams": made_from}),
        parts={"model": model, "optimizer": optimizer},
    )
    network = build_network(model, config, ranks)

    # --- loop
    decays = decays_of(classes).to(ranks.device)
    for step, batch in run.steps(dataset):
        image, labels, valid = (
            batch[key].to(ranks.device) for key in ("image", "image_labels", "valid")
        )
        logits = network(normalize(image, "imagenet", valid), step).float()
        found = []
        for i, name in enumerate(batch["name"]):
            one, pixels = without_padding(logits[i], image[i], valid[i])
            cams, present = (x.to(ranks.device) for x in maps.read(name))
            seeds = seeds_of(resize(cams[None], one.shape[-2:])[0], present, background)
            found.append(
                sec_losses(one, pixels, labels[i : i + 1], seeds[None], decays, background)
            )
        losses = {key: torch.stack([one[key] for one in found]).mean() for key in found[0]}
        losses["loss"] = sum(losses.values())
        lr = step_of_stages(losses["loss"], optimizer, step, config.steps)
        run.log(losses, batch["name"], lr)
    del network  # before the process group: its destructor would wait for ever
    run.close()


def without_padding(logits: Tensor, image: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (C,h,w) and image (3,H,W) without the padding, which is at the bottom and right.

    valid (H,W). Both get a first axis of 1. A cell that is partly padding stays.
    """
    rows, columns = int(valid.any(1).sum()), int(valid.any(0).sum())
    height = -(-rows * logits.shape[-2] // valid.shape[0])
    width = -(-columns * logits.shape[-1] // valid.shape[1])
    return logits[None, :, :height, :width], image[None, :, :rows, :columns]


def groups(model: nn.Module) -> list[dict[str, Any]]:
    """Groups of parameters: rates and weight decay of old and new weights and biases."""
    found: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        kind = not name.startswith("backbone."), name.endswith("bias")
        found.setdefault(kind, []).append(parameter)
    return [
        {
            "params": parameters,
            "initial_lr": (rate := LR * (NEW if is_new else 1) * (2 if is_bias else 1)),
            "lr": rate,
            "weight_decay": 0.0 if is_bias else WEIGHT_DECAY,
        }
        for (is_new, is_bias), parameters in found.items()
    ]


def step_of_stages(loss: Tensor, optimizer: torch.optim.SGD, step: int, steps: int) -> float:
    """Backward and one step, counted from 0, of `groups`; returns the rate of the old weights."""
    factor = 0.1 ** (STAGES * step // steps)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return LR * factor


def of_method(config: Config) -> Config:
    """The config as the method uses it, so that the run folder says what was done."""
    return dataclasses.replace(
        config,
        image_size=config.crop_size,
        scale_range=(1.0, 1.0),
        photometric_distortion=False,
        lr=LR,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        dropout=DROPOUT,
        classifier="conv",
    )


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    told = "folder of masks of the training split that baselines.cam --save-cams wrote"
    result.add_argument("--cams", type=path, required=True, help=told)
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
