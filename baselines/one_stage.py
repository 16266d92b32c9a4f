"""1-Stage: one network that learns from its own refined masks.

Araslanov and Roth, "Single-Stage Semantic Segmentation from Image Labels", CVPR 2020; formulas
after visinf/1-stage-wseg @d905fca (Apache-2.0).

Reads images and image-level labels; writes a run folder RUN_DIR and, when it is trained, its
predictions OUT/<image id>.png with meta.json: it is a mask method, since its own head, which
injects global cues and mixes two depths, is no network that eval.py builds.

    python -m baselines.one_stage --config C --run-dir runs/one_stage --out predictions \\
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
- the backbone is the config's, of stride 16; its last stage is dilated, there it is not. The head
  is no wider than the backbone. Rates are those of the ResNet-50.
- the container of the views is as large as the largest of them, not a square of 768 pixels; no CRF.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import dataclasses
import itertools
from typing import Any

import torch
from torch import Tensor

from baselines.common import CamMasks, Split, load_split
from baselines.stages import add_arguments, check_out, inputs_of, labelled_images, make_masks
from datasets import open_dataset
from datasets.doctor.label_check import check_trainable
from datasets.fingerprint import fingerprint
from datasets.labels import has_background, load_classes
from datasets.long_side import LongSideTransform
from datasets.transforms import normalize
from models.build import build_network
from models.cam import build_cam_backbone, label_cams, network_sha256
from models.inference import resize
from models.one_stage import OneStageNetwork, mask_of_view, padded_view
from models.one_stage_losses import (
    class_scores,
    kept_classes,
    merged,
    one_stage_losses,
    present_channels,
    pseudo_labels,
    refine,
)
from utils.cli import training_parser
from utils.config import Config, load_config
from utils.distributed import cleanup, setup
from utils.run import Run
from utils.safe.errors import run_script
from utils.seed import WEIGHTS, derive

# From visinf/1-stage-wseg, configs/voc_resnet50.yaml, core/config.py.
LR, NEW_LR, MOMENTUM, WEIGHT_DECAY = 5e-4, 5e-3, 0.9, 5e-4  # constant; no decay of biases
MASK_START = 5 / 21  # share of the steps before the masks' loss
LONG_SIDES = (1.0, 1.05)  # of the working size; theirs: 0.9 to 1 of the area
STRIDE = 16
SCALES = (1.0, 0.75, 1.25, 1.5)  # of the predictions
BACKGROUND_POWER = 3
KEPT = 0.1  # the least probability of a class of an image without labels


class Predictions(CamMasks):
    """Label maps of a split; `given`: among the image-level labels of each image."""

    def __init__(self, network: OneStageNetwork, given: bool, *of_masks: Any) -> None:
        super().__init__(None, *of_masks)
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
            present = self.present(sample)[int(self.background) :]
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
    ranks = setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    check_trainable(classes)
    train = load_split(config, config.train_split, classes, trains=True)
    split = train if arguments.split in (None, train.name) else unlabelled(config, arguments.split)
    check_out(split, arguments)
    sides = tuple(round(share * max(config.crop_size)) for share in LONG_SIDES)
    transform = LongSideTransform(sides, config.crop_size, jitter=True)
    background = has_background(classes)
    dataset = labelled_images(config, train, classes, transform)

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
        image, labels, valid = inputs_of(batch, ranks.device)
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
    given = split is train
    masks = Predictions(model.eval(), given, split, classes, None, config, ranks)
    made_from = {"method": "one_stage", "gate": arguments.gate, "scales": SCALES}
    made_from["network_sha256"] = network_sha256(model)
    make_masks(masks, arguments, made_from)
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
    add_arguments(result, arithmetic=None)
    gates = {"choices": ("all", "none"), "default": "all"}
    result.add_argument("--gate", **gates, help="what a masks' loss needs: all classes, or none")
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
