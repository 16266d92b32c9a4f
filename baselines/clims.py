"""CLIMS: CAMs whose masked images CLIP recognises as the class, and their complements not.

Xie, Hou, Ye and Shen, "CLIMS: Cross Language Image Matching for Weakly Supervised Semantic
Segmentation", CVPR 2022; formulas after CVI-SZU/CLIMS @f9546d32 (MIT).

Reads images and image-level labels; writes the run folders RUN_DIR/cam (the classifier that it
starts from) and RUN_DIR, then OUT/<image id>.png with meta.json, for `eval.py --masks` and a second
stage:

    python -m baselines.clims --config C --run-dir runs/clims --out masks --score

Run the same command again to resume; finished parts are skipped; --overwrite starts over. --score:
OUT/score.json. --save-cams: OUT/cams/<image id>.npz.

Memory at 512x1024: 1 GB an image of a batch for a ResNet-50 of stride 16, and 30 MB a masked image
of 224 pixels for the gradient of ViT-B/32, twice as many as the classes of the batch's images.

Deviations:
- the config's backbone, of stride 16 and without dilation; crop_size is the working size, as in
  baselines/cam.py. A crop may lack a class of its image.
- the classifier of the start is that of baselines/cam.py, trained here, a third of
  the steps more.
- no background class (driving scenes): the label is the highest map of the image's classes, without
  a threshold; a class whose map is zero is left out. L_CBS has the prompts that name no class of a
  street and is divided by the number of pairs: a street has many times the classes of a VOC image.
- labels are not refined by a random walk (theirs: IRN).
- a batch without a class has L_REG alone; one of a single pair is trained on. Theirs stop.
- each masked image is encoded once, not twice; texts once, not in every step; CLIP in float32.
- prompts of the class file in place of names. A miniature CLIP reads the templates of the config,
  and has those background prompts whose words it knows.
- --arithmetic authors (default): the momentum is the weight decay, 1e-4, as released; correct: 0.9.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import copy
import dataclasses
import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.cam import (
    BACKGROUND_THRESHOLD,
    LONG_SIDES,
    SCALES,
    STRIDE,
    Classifier,
    WorkingSizeMasks,
    add_arguments,
    load_splits,
    long_sides,
    of_method,
    summed_maps,
    train_classifier,
    without_dilation,
)
from baselines.cam import LR as START_LR
from baselines.cam import WEIGHT_DECAY as START_WEIGHT_DECAY
from datasets.fingerprint import fingerprint
from datasets.labels import has_background, load_classes
from datasets.long_side import LongSideTransform
from datasets.training import TrainingSet
from datasets.transforms import normalize
from models.build import build_network
from models.cam import build_cam_backbone, network_sha256
from models.clip_features import grid_stride, is_resnet
from models.clip_loading import clip_sha256, load_clip
from models.clip_miniature import KnownTokens, can_read
from models.text import load_templates, text_embeddings
from models.training import poly_sgd, poly_step
from utils.cli import training_parser
from utils.config import load_config
from utils.distributed import cleanup, first_on_each_machine, setup
from utils.run import Run
from utils.safe.errors import run_script
from utils.seed import WEIGHTS as OF_WEIGHTS
from utils.seed import derive

# From CVI-SZU/CLIMS, README.md, clip_loss.py, step/train_clims.py.
TEMPLATE = "a photo of {}."
WEIGHTS = {"otm": 10.0, "btm": 24.0, "cbs": 1.0, "reg": 0.2}
THRESHOLD = 0.26  # of a cosine to a background prompt
LIMITS = (1e-4, 0.9999)  # of a cosine inside a logarithm
LR, CLASSIFIER_LR, WEIGHT_DECAY = 2.5e-4, 2.5e-3, 1e-4
PROMPTS = (
    "tree",
    "river",
    "sea",
    "lake",
    "water",
    "railway",
    "railroad",
    "track",
    "stone",
    "rocks",
)
START_SHARE = 1 / 3  # of the steps: 5 epochs there, 15 here
OF_STREETS = ("tree", "railway", "railroad", "track")  # ours: prompts that name what a street has


def clip_side(visual: nn.Module) -> int:
    """Pixels of a side of the square that an image tower takes: 224 for most."""
    tower = visual.attnpool if is_resnet(visual) else visual
    return math.isqrt(len(tower.positional_embedding) - 1) * grid_stride(visual)


def image_features(clip_model: nn.Module, images: Tensor) -> Tensor:
    """Unit rows (M,E) of images (M,3,s,s)."""
    return F.normalize(clip_model.encode_image(images), dim=1)


def masked_images(maps: Tensor, images: Tensor, labels: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """A x and (1 - A) x of each pair of an image and its class, image by image: two (M,3,s,s).

    maps A (B,C,h,w), images x (B,3,H,W), normalised (0 is the mean colour), labels (B,C).
    """
    of, classes = labels.nonzero(as_tuple=True)
    resize = {"size": (side, side), "mode": "bilinear", "align_corners": True}
    shown = F.interpolate(maps[of, classes][:, None], **resize)
    images = F.interpolate(images, **resize)[of]
    return shown * images, (1 - shown) * images


def object_loss(similarity: Tensor) -> Tensor:
    """L_OTM = -mean log clamp(f t), over pairs."""
    return -similarity.clamp(*LIMITS).log().mean()


def background_loss(similarity: Tensor) -> Tensor:
    """L_BTM = -mean log(1 - clamp(b t)), over pairs."""
    return -(1 - similarity.clamp(*LIMITS)).log().mean()


def suppression_loss(cosines: Tensor, threshold: float) -> Tensor:
    """L_CBS = -sum of log(1 - f u) over pairs and prompts u (M,J) with f u above the threshold."""
    return -(1 - cosines[cosines > threshold]).log().sum()


def area_loss(maps: Tensor) -> Tensor:
    """L_REG: mean of all maps (B,C,h,w), those of absent classes too."""
    return maps.mean()


def clims_losses(
    maps: Tensor,
    images: Tensor,
    labels: Tensor,
    clip_model: nn.Module,
    text: Tensor,
    rivals: Tensor,
    is_mean: bool = False,
    threshold: float = THRESHOLD,
    weights: dict[str, float] = WEIGHTS,
) -> dict[str, Tensor]:
    """L = 10 L_OTM + 24 L_BTM + L_CBS + 0.2 L_REG; the terms are detached and for the log.

    maps, images, labels: of `masked_images`. text: unit rows of the classes (C,E); rivals: of the
    background prompts (J,E). is_mean: L_CBS divided by the number of pairs. Without a pair (their
    code stops there) L_REG alone counts.
    """
    terms = dict.fromkeys(("otm", "btm", "cbs"), maps.sum() * 0) | {"reg": area_loss(maps)}
    classes = labels.nonzero()[:, 1]
    if len(classes):
        shown, hidden = masked_images(maps, images, labels, clip_side(clip_model.visual))
        found = image_features(clip_model, torch.cat([shown, hidden]))
        of_class, of_rest = ((part * text[classes]).sum(1) for part in found.chunk(2))
        terms |= {"otm": object_loss(of_class), "btm": background_loss(of_rest)}
        terms["cbs"] = suppression_loss(found[: len(classes)] @ rivals.T, threshold)
        terms["cbs"] = terms["cbs"] / (len(classes) if is_mean else 1)
    loss = sum(weights[name] * term for name, term in terms.items())
    return {"loss": loss} | {f"loss_{name}": term.detach() for name, term in terms.items()}


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
    torch.manual_seed(derive(config.seed, OF_WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    train, split = load_splits(config, arguments, classes)
    transform = LongSideTransform(long_sides(config, LONG_SIDES), config.crop_size)
    cache = config.image_cache
    dataset = TrainingSet(train.images, train.labels, len(classes), transform, cache=cache)
    first = int(has_background(classes))  # id of the first class with a map

    # --- CLIP and its texts
    load = partial(load_clip, config.clip_model, arguments.trust_torchscript)
    clip_model = first_on_each_machine(load).to(ranks.device)
    is_miniature = isinstance(clip_model.token_embedding, KnownTokens)
    templates = load_templates(config.prompt_templates) if is_miniature else (TEMPLATE,)
    words = [word for word in PROMPTS if first or word not in OF_STREETS]
    words = [word for word in words if can_read(clip_model, word)]
    prompts = (*classes.prompts[first:], *((word,) for word in words))
    rows = text_embeddings(clip_model, prompts, templates)
    text, rivals = rows.split([len(rows) - len(words), len(words)])
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
    of_start = argparse.Namespace(**vars(arguments) | {"run_dir": f"{arguments.run_dir}/cam"})
    steps = max(1, round(START_SHARE * config.steps))
    of_cam = of_method(config, START_LR, START_WEIGHT_DECAY, STRIDE, arithmetic)
    train_classifier(
        of_start,
        dataclasses.replace(of_cam, steps=steps),
        ranks,
        classes,
        train,
        start,
        poly_sgd(start.groups(), START_WEIGHT_DECAY, arithmetic),
        transform,
        "cam",
    )
    if run.step == 0:
        model.load_state_dict(start.state_dict())

    # --- loop
    network = build_network(model, config, ranks)
    for step, batch in run.steps(dataset):
        keys = ("image", "image_labels", "valid")
        image, labels, valid = (batch[key].to(ranks.device) for key in keys)
        image, labels = normalize(image, "imagenet", valid), labels[:, first:]
        maps = network(image, step).sigmoid()
        losses = clims_losses(maps, image, labels, clip_model, text, rivals, is_mean=not first)
        lr = poly_step(losses["loss"], optimizer, step, config.steps)
        run.log(losses, batch["name"], lr)
    del network  # before the process group: its destructor would wait for ever
    run.close(goes_on=True)

    # --- masks
    model.eval()
    masks = Masks(
        lambda image, _: summed_maps(model, image),
        split,
        classes,
        BACKGROUND_THRESHOLD,
        config,
        ranks,
    )
    made_from = {"method": "clims", "arithmetic": arithmetic, "scales": SCALES}
    made_from["network_sha256"] = network_sha256(model)
    masks.write(Path(arguments.out), made_from, arguments.overwrite, arguments.save_cams)
    if arguments.score:
        masks.score(Path(arguments.out))
    cleanup()


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add_arguments(result)
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
