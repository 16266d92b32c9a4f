"""CLIMS: CAMs whose masked images CLIP recognises as the class, and their complements not.

Xie, Hou, Ye and Shen, "CLIMS: Cross Language Image Matching for Weakly Supervised Semantic
Segmentation", CVPR 2022; formulas after CVI-SZU/CLIMS @f9546d32 (MIT).

Reads images and image-level labels; writes the run folders RUN_DIR/cam (the classifier that it
starts from) and RUN_DIR, then OUT/<image id>.png with meta.json, for `eval.py --masks` and a second
stage:

    python -m baselines.clims --config C --run-dir runs/clims --out masks --score

Run the same command again to resume; finished parts are skipped; --overwrite starts over. --score:
OUT/score.json. --save-cams: OUT/cams/<image id>.npz.

Memory at 512x1024: 1 GB an image of a batch for a ResNet-50 of stride 16, and about 120 MB a masked
image of 224 pixels for the gradient of ViT-B/16 (30 of ViT-B/32), twice as many as the classes of
the batch's images.

Deviations:
- the config's backbone, of stride 16 and without dilation; crop_size is the working size, as in
  baselines/cam.py. A crop may lack a class of its image.
- the classifier of the start is that of baselines/cam.py, trained here: a third of the steps more.
- no background class (driving scenes): the label is the highest map of the image's classes, without
  a threshold; a class whose map is zero is left out. L_CBS has the prompts that name no class of a
  street and is divided by the number of pairs: a street has many times the classes of a VOC image.
- labels are not refined by a random walk (theirs: IRN).
- a batch without a class has L_REG alone; one of a single pair is trained on. Theirs stop.
- CLIP is the config's (theirs: ViT-B/32), in float32; each masked image is encoded once, not twice;
  texts once, not in every step.
- prompts of the class file in place of names. A miniature CLIP reads the templates of the config,
  and has those background prompts whose words it knows.
- --arithmetic authors (default): the momentum is the weight decay, 1e-4, as released; correct: 0.9.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import copy
import dataclasses
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from baselines.cam import (
    BACKGROUND_THRESHOLD,
    LONG_SIDES,
    SCALES,
    STRIDE,
    Classifier,
    summed_maps,
    without_dilation,
)
from baselines.cam import LR as START_LR
from baselines.cam import WEIGHT_DECAY as START_WEIGHT_DECAY
from baselines.common import WorkingSizeMasks
from baselines.stages import (
    add_arguments,
    inputs_of,
    labelled_images,
    load_splits,
    long_sides,
    make_masks,
    of_method,
    part_of,
    train_classifier,
)
from datasets.fingerprint import fingerprint
from datasets.labels import has_background, load_classes
from datasets.long_side import LongSideTransform
from datasets.transforms import normalize
from models.build import build_network
from models.cam import build_cam_backbone, network_sha256
from models.clims import clims_losses
from models.clip_loading import clip_sha256, load_clip
from models.text import texts_and_rivals
from models.training import poly_sgd, poly_step
from utils.cli import training_parser
from utils.config import load_config
from utils.distributed import cleanup, first_on_each_machine, setup
from utils.run import Run
from utils.safe.errors import run_script
from utils.seed import WEIGHTS, derive

# From CVI-SZU/CLIMS, README.md, step/train_clims.py.
TEMPLATE = "a photo of {}."
LR, CLASSIFIER_LR, WEIGHT_DECAY = 2.5e-4, 2.5e-3, 1e-4
PROMPTS = (
    *("tree", "river", "sea", "lake", "water", "railway", "railroad", "track", "stone", "rocks"),
)
START_SHARE = 1 / 3  # of the steps: 5 epochs there, 15 here
OF_STREETS = ("tree", "railway", "railroad", "track")  # ours: prompts that name what a street has


class Network(Classifier):
    """The classifier of baselines/cam.py; here only the stem has no gradient, and norms train."""

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__(backbone, num_classes)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name.startswith("layer"))

    def train(self, mode: bool = True) -> "Network":
        return nn.Module.train(self, mode)

    def groups(self) -> list[dict[str, Any]]:
        rates = (LR, CLASSIFIER_LR)
        return [group | {"lr": lr} for group, lr in zip(super().groups(), rates, strict=True)]


class Masks(WorkingSizeMasks):
    """Masks in which a class whose map is zero has no part."""

    def maps(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        cams, present = super().maps(sample)
        return cams, present * (cams.amax((1, 2)) > 0)


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = parse_arguments(argv)
    config, arithmetic = load_config(arguments.config, arguments.overrides), arguments.arithmetic
    config = of_method(config, LR, WEIGHT_DECAY, STRIDE, arithmetic)
    ranks = setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    train, split = load_splits(config, arguments, classes)
    transform = LongSideTransform(long_sides(config, LONG_SIDES), config.crop_size)
    dataset = labelled_images(config, train, classes, transform)
    first = int(has_background(classes))  # id of the first class with a map

    # --- CLIP and its texts
    load = partial(load_clip, config.clip_model, arguments.trust_torchscript)
    clip_model = first_on_each_machine(load).to(ranks.device)
    words = [word for word in PROMPTS if first or word not in OF_STREETS]
    of_texts = classes.prompts[first:], words, TEMPLATE, config.prompt_templates
    text, rivals, _, _ = texts_and_rivals(clip_model, *of_texts)
    clip = {"weights": clip_sha256(config.clip_model)}

    # --- network, optimiser
    backbone = without_dilation(build_cam_backbone(config, STRIDE))
    start = Classifier(backbone, len(text)).to(ranks.device)
    model = Network(copy.deepcopy(backbone), len(text)).to(ranks.device)
    optimizer = poly_sgd(model.groups(), WEIGHT_DECAY, arithmetic)
    run = Run(
        arguments,
        config,
        ranks,
        stage="clims",
        end=config.steps,
        classes=classes,
        inputs=lambda: fingerprint(classes, dataset, clip=clip),
        parts={"model": model, "optimizer": optimizer},
    )

    # --- the classifier that it starts from
    part, steps = part_of(arguments, "cam"), max(1, round(START_SHARE * config.steps))
    of_cam = of_method(config, START_LR, START_WEIGHT_DECAY, STRIDE, arithmetic)
    of_cam = dataclasses.replace(of_cam, steps=steps)
    of_start = poly_sgd(start.groups(), START_WEIGHT_DECAY, arithmetic)
    train_classifier(part, of_cam, ranks, classes, train, start, of_start, transform, "cam")
    if run.step == 0:
        model.load_state_dict(start.state_dict())

    # --- loop
    network = build_network(model, config, ranks)
    for step, batch in run.steps(dataset):
        image, labels, valid = inputs_of(batch, ranks.device)
        image, labels = normalize(image, "imagenet", valid), labels[:, first:]
        maps = network(image, step).sigmoid()
        losses = clims_losses(maps, image, labels, clip_model, text, rivals, is_mean=not first)
        lr = poly_step(losses["loss"], optimizer, step, config.steps)
        run.log(losses, batch["name"], lr)
    del network  # before the process group: its destructor would wait for ever
    run.close(goes_on=True)

    # --- masks
    cams_of = partial(summed_maps, model.eval())
    masks = Masks(cams_of, split, classes, BACKGROUND_THRESHOLD, config, ranks)
    made_from = {"method": "clims", "arithmetic": arithmetic, "scales": SCALES}
    made_from["network_sha256"] = network_sha256(model)
    make_masks(masks, arguments, made_from)
    cleanup()


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add_arguments(result)
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
