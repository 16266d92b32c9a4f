"""1-Stage: one network that learns from its own refined masks.

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020; formulas
after visinf/1-stage-wseg @d905fca (Apache-2.0).

Reads images and image-level labels; writes a run folder RUN_DIR and, when it is trained, its
predictions OUT/<image id>.png with meta.json: it is a mask method, since its own head, which
injects global cues and mixes two depths, is no network that eval.py builds.

    python -m baselines.one_stage --config C --run-dir runs/one_stage --out predictions \
        --split val --score

The training split is labelled among the classes of each image, other splits among those that the
network finds; their image-level labels are not read. Run the same command again to resume both;
--overwrite starts both over. --score: OUT/score.json. --save-cams: OUT/cams/<image id>.npz, the
masks, at the working size.

Memory at 512x1024: 2 GiB an image of a batch; PAMR of 20 classes at 128x256 0.3 GiB, without
gradient; 0.5 GiB for a ResNet-50, head and optimiser.

Deviations:
- no background class (driving scenes): no constant logit; softmax, scores and masks of the classes.
  The label is the highest mask of the image's classes, or of those whose score exceeds 0.1 in a
  view (of all, if none does). A data set with a background has the constant, as there.
- a mask loss needs a pixel of each of the image's classes, which ten classes an image almost never
  have: gate_open in the log is the share of images with one. --gate none drops that condition.
- crop_size is the working size: training images have a long side of 1 to 1.05 times its own, cut to
  it; there RandomResizedCrop also changes the proportions. image_size is not used. Pixels beside
  the image get no pseudo-label.
- steps and batch_size are the config's; the masks' loss begins after 5 of 21 shares of them. 13881
  steps of 16 images there. The last network is kept, not the best on ground truth.
- the backbone is the config's, of stride 16; its last stage is dilated, there it is not. Rates are
  those of the ResNet-50.
- the container of the views is as large as the largest of them, not a square of 768 pixels; no CRF.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import dataclasses
import itertools
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from baselines.common import CamMasks, Split, load_split
from datasets import open_dataset
from datasets.doctor.label_check import check_trainable
from datasets.fingerprint import fingerprint
from datasets.ids import require
from datasets.labels import ClassTable, has_background, load_classes, multi_hot
from datasets.long_side import LongSideTransform
from datasets.mask_folder import check_no_inputs
from datasets.training import TrainingSet
from datasets.transforms import normalize
from models.build import build_network
from models.cam import build_cam_backbone, classification_loss, label_cams, network_sha256
from models.inference import resize, resize_corners
from models.one_stage import OneStageNetwork, mask_of_view, padded_view
from models.pamr import pamr
from utils.cli import path, training_parser
from utils.config import Config, load_config
from utils.distributed import Ranks, cleanup, setup
from utils.run import Run
from utils.safe.errors import run_script
from utils.safe.files import check_folder
from utils.seed import WEIGHTS, derive

# From visinf/1-stage-wseg, configs/voc_resnet50.yaml, core/config.py, models/mods/pamr.py.
LR, NEW_LR, MOMENTUM, WEIGHT_DECAY = 5e-4, 5e-3, 0.9, 5e-4  # constant; no decay of biases
MASK_START = 5 / 21  # share of the steps before the masks' loss
LONG_SIDES = (1.0, 1.05)  # of the working size; theirs: 0.9 to 1 of the area
STRIDE = 16
DILATIONS, ITERATIONS = (1, 2, 4, 8, 12, 24), 10  # of PAMR
FOREGROUND, BACKGROUND, FLOOR = 0.6, 0.7, 0.2  # f_c, f_0 and the least threshold of a pseudo-label
FOCAL_POWER, FOCAL_EPS = 3, 0.01
SCALES = (1.0, 0.75, 1.25, 1.5)  # of the predictions
BACKGROUND_POWER = 3
KEPT = 0.1  # the least probability of a class of an image without labels


def focal_penalty(means: Tensor) -> Tensor:
    """(1 - m)^3 ln(0.01 + m) of the mean m of a mask over the map."""
    return (1 - means) ** FOCAL_POWER * (FOCAL_EPS + means).log()


def class_scores(logits: Tensor, background: bool) -> Tensor:
    """s_c = sum_i m_ci x_ci / (1 + sum_i m_ci) + focal penalty, m the softmax of x (B,C,h,w).

    Normalised global weighted pooling; (B,K), without the background's.
    """
    masks = logits.softmax(1)
    pooled = (masks * logits).sum((2, 3)) / (1 + masks.sum((2, 3)))
    return (pooled + focal_penalty(masks.mean((2, 3))))[:, int(background) :]


def present_channels(labels: Tensor, background: bool) -> Tensor:
    """Labels (B,K) -> 0 or 1 for each channel (B,C); the background is in every image."""
    return torch.cat([torch.ones_like(labels[:, :1]), labels], 1) if background else labels


@torch.no_grad()
def refine(image: Tensor, masks: Tensor, labels: Tensor, background: bool) -> Tensor:
    """dec: masks (B,C,h,w) by PAMR, at the size of image (B,3,H,W), absent classes 0.

    image: RGB of 0..1, resized to the masks before. Not normalised again.
    """
    refined = pamr(resize_corners(image, masks.shape[-2:]), masks, ITERATIONS, DILATIONS)
    return cleaned(refined, image.shape[-2:], labels, background)


def cleaned(masks: Tensor, size: tuple[int, int], labels: Tensor, background: bool) -> Tensor:
    """Masks (B,C,h,w) at `size`, those of absent classes 0."""
    return resize_corners(masks, size) * present_channels(labels, background)[:, :, None, None]


@torch.no_grad()
def pseudo_labels(
    masks: Tensor,
    background: bool,
    foreground: float = FOREGROUND,
    floor: float = FLOOR,
    of_background: float = BACKGROUND,
) -> Tensor:
    """G: 1 where a mask (B,C,H,W) exceeds max(f_c max over the map, floor), 0 elsewhere.

    A pixel claimed by two channels is nobody's.
    """
    factors = masks.new_full((masks.shape[1],), foreground)
    if background:
        factors[0] = of_background
    highest = masks.amax((2, 3), keepdim=True)
    claimed = masks > (highest * factors[:, None, None]).clamp(min=floor)
    return (claimed & (claimed.sum(1, keepdim=True) == 1)).to(masks.dtype)


def gate_of(targets: Tensor, labels: Tensor, background: bool) -> Tensor:
    """1 for each image all of whose classes, and no others, have a pixel in G, else 0: (B)."""
    found = (targets.sum((2, 3)) > 0).sum(1)
    return (found == labels.sum(1) + int(background)).to(targets.dtype)


def mask_losses(logits: Tensor, targets: Tensor, gate: Tensor) -> Tensor:
    """gate (1/HW) sum of w_c CE(x, c) over the pixels of G (B,C,H,W): (B).

    w_c = (n - n_c) / (1 + n), n_c the pixels of a channel in the image, n their sum. The mean runs
    over all pixels, also those of no channel.
    """
    logits = resize_corners(logits, targets.shape[-2:])
    counts = targets.sum((2, 3), keepdim=True)
    total = counts.sum(1, keepdim=True)
    weights = ((total - counts) / (1 + total) * targets).sum(1)
    losses = F.cross_entropy(logits, targets.argmax(1), reduction="none")
    return gate * (weights * losses).mean((1, 2))


def one_stage_losses(
    logits: Tensor, labels: Tensor, background: bool, targets: Tensor | None, gate: str
) -> dict[str, Tensor]:
    """L = L_cls + L_mask of logits (B,C,h,w), labels (B,K) and G (B,C,H,W); None: L_cls alone.

    gate: "all", see `gate_of`, or "none". L_mask counts an image whose gate is shut as 0.
    """
    scores = class_scores(logits, background)
    loss_cls = classification_loss(scores[..., None, None], labels)
    loss_mask = opened = labelled = loss_cls.new_zeros(())
    if targets is not None:
        gates = gate_of(targets, labels, background)
        opened, labelled = gates.mean(), targets.sum(1).mean()
        gates = gates if gate == "all" else torch.ones_like(gates)
        loss_mask = mask_losses(logits, targets, gates).mean()
    losses = {"loss": loss_cls + loss_mask, "loss_cls": loss_cls, "loss_mask": loss_mask}
    return losses | {"gate_open": opened, "labelled_fraction": labelled}


def merged(masks: Tensor, present: Tensor, background: bool, power: float) -> Tensor:
    """Sum of masks (C,H,W) of the views / their number; absent classes 0, background ^ power."""
    result = masks * present_channels(present[None], background)[0][:, None, None]
    if background:
        result[0] = result[0] ** power
    return result


def kept_classes(scores: Tensor, threshold: float) -> Tensor:
    """Class scores (V,K) of the views -> 0 or 1 for each class: sigmoid > threshold in a view."""
    return (scores.sigmoid() > threshold).any(0).float()


class Predictions(CamMasks):
    """Label maps of a split; `given`: among the image-level labels of each image."""

    def __init__(
        self,
        network: OneStageNetwork,
        split: Split,
        classes: ClassTable,
        config: Config,
        ranks: Ranks,
        given: bool,
    ) -> None:
        super().__init__(None, split, classes, None, config, ranks)
        self.network, self.given = network, given
        self.background, self.first = bool(self.first), 0  # the background has a mask too

    @torch.inference_mode()
    def maps(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Masks (C,h,w) at the working size; channels that the image has (C)."""
        image, masks, scores = sample["image"].to(self.ranks.device), 0, []
        size = tuple(image.shape[1:])
        container = tuple(max(1, round(side * max(SCALES))) for side in size)
        for scale, mirrored in itertools.product(SCALES, (False, True)):
            view, pixels = padded_view(image, scale, mirrored, container)
            logits = self.network(pixels)
            scores.append(class_scores(logits, self.background)[0])
            masks = masks + mask_of_view(logits.softmax(1), view, container, size)
        if self.given:
            labels = multi_hot(self.split.labels[sample["name"]], len(self.classes))
            present = labels[int(self.background) :].to(image.device)
        else:
            present = kept_classes(torch.stack(scores), KEPT)
            if not self.background and not present.any():
                present = torch.ones_like(present)
        masks = merged(masks / (2 * len(SCALES)), present, self.background, BACKGROUND_POWER)
        return masks, present_channels(present[None], self.background)[0]

    def labels(self, sample: dict[str, Any], cams: Tensor, present: Tensor) -> Tensor:
        """The mask uint8 (H,W), at the image's own size."""
        return label_cams(resize(cams[None], sample["size"])[0], present, None)


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = parse_arguments(argv)
    config = of_method(load_config(arguments.config, arguments.overrides))
    out, ranks = Path(arguments.out), setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    check_trainable(classes)
    train = load_split(config, config.train_split, classes, trains=True)
    split = train if arguments.split in (None, train.name) else unlabelled(config, arguments.split)
    truths = split.data.ground_truth(split.name)
    check_no_inputs(out, split.images, [*split.images.values(), *truths.values()])
    check_folder(out, "--out")
    if arguments.score:
        require(split.images, truths, "ground truth", "leave out --score")
    sides = tuple(round(share * max(config.crop_size)) for share in LONG_SIDES)
    transform = LongSideTransform(sides, config.crop_size, jitter=True)
    cache, background = config.image_cache, has_background(classes)
    dataset = TrainingSet(train.images, train.labels, len(classes), transform, cache=cache)

    # --- network, optimiser
    backbone, first = build_cam_backbone(config, STRIDE), int(background)
    model = OneStageNetwork(backbone, len(classes) - first, background).to(ranks.device)
    optimizer = torch.optim.SGD(groups_of(model), LR, MOMENTUM, weight_decay=WEIGHT_DECAY)
    run = Run(
        arguments,
        config,
        ranks,
        stage="one_stage",
        end=config.steps,
        classes=classes,
        inputs=lambda: fingerprint(classes, dataset, options={"gate": arguments.gate}),
        parts={"model": model, "optimizer": optimizer},
    )
    network = build_network(model, config, ranks)

    # --- loop
    for step, batch in run.steps(dataset):
        keys = ("image", "image_labels", "valid")
        image, labels, valid = (batch[key].to(ranks.device) for key in keys)
        labels, targets = labels[:, first:], None
        logits = network(normalize(image, "imagenet", valid), step)
        if step >= MASK_START * config.steps:
            masks = refine(image / 255, logits.detach().softmax(1), labels, background)
            targets = pseudo_labels(masks, background) * valid[:, None]
        losses = one_stage_losses(logits, labels, background, targets, arguments.gate)
        losses["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()
        run.log(losses, batch["name"], LR)
    del network  # before the process group: its destructor would wait for ever
    run.close(goes_on=True)

    # --- predictions
    masks = Predictions(model.eval(), split, classes, config, ranks, given=split is train)
    made_from = {"method": "one_stage", "gate": arguments.gate, "scales": SCALES}
    made_from["network_sha256"] = network_sha256(model)
    masks.write(out, made_from, arguments.overwrite, arguments.save_cams)
    if arguments.score:
        masks.score(out)
    cleanup()


def of_method(config: Config) -> Config:
    """The config as the method uses it, so that run folders and meta.json say what was done."""
    return dataclasses.replace(
        config,
        lr=LR,
        min_lr=LR,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
        output_stride=STRIDE,
        image_size=config.crop_size,
        classifier="conv",
    )


def unlabelled(config: Config, name: str) -> Split:
    """A split whose image-level labels are not read."""
    data = open_dataset(config.dataset, config.data_root)
    images = data.images(name)
    return Split(data, name, images, dict.fromkeys(images, ()))


def groups_of(model: OneStageNetwork) -> list[dict[str, Any]]:
    """Parameters of the backbone, of the head, and the biases of the head, with their rates."""
    old = [p for p in model.backbone.parameters() if p.requires_grad]
    named = {name: p for name, p in model.head.named_parameters() if p.requires_grad}
    biases = [p for name, p in named.items() if name.endswith(".bias")]
    weights = [p for name, p in named.items() if not name.endswith(".bias")]
    return [
        {"params": old},
        {"params": weights, "lr": NEW_LR},
        {"params": biases, "lr": NEW_LR, "weight_decay": 0.0},
    ]


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add = result.add_argument
    add("--out", type=path, required=True, help="folder of the predictions")
    add("--split", help="split of the predictions (default: train_split of the config)")
    add("--score", action="store_true", help="mIoU against ground truth, also to OUT/score.json")
    add("--save-cams", action="store_true", help="the masks too, to OUT/cams/<image id>.npz")
    add("--gate", choices=("all", "none"), default="all", help="images with a masks' loss")
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
