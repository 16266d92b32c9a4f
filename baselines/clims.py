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
- the harness's ResNet, output stride and augmentation, and its bilinear resizing (PIL's bicubic
  there). Crops may lack a class of their image; take crop_size near image_size.
- the classifier of the start is trained here, for a third of the steps more, with the losses and
  rates of jiwoon-ahn/irn: batch norms and the stages up to the second stay as they are.
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
import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from baselines.common import CamMasks, load_split
from datasets.doctor.label_check import check_trainable
from datasets.fingerprint import fingerprint
from datasets.ids import require
from datasets.labels import has_background, load_classes
from datasets.mask_folder import check_no_inputs
from datasets.training import TrainingSet, build_transform
from datasets.transforms import normalize
from models.backbone_weights import load_backbone_weights
from models.build import build_network
from models.cam import classification_loss, network_sha256, rescale
from models.clip_features import grid_stride, is_resnet
from models.clip_loading import clip_sha256, load_clip
from models.clip_miniature import KnownTokens, can_read
from models.inference import resize
from models.resnet import ResNet, named_resnet
from models.text import load_templates, text_embeddings
from models.training import poly_sgd, poly_step
from utils.cli import path, training_parser
from utils.config import Config, load_config
from utils.distributed import cleanup, first_on_each_machine, setup
from utils.run import Run
from utils.safe.errors import InputError, run_script
from utils.safe.files import check_folder
from utils.seed import WEIGHTS as DRAW_OF_WEIGHTS
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
SCALES = (1.0, 0.5, 1.5, 2.0)  # of the maps
CELL = 16  # pixels; the maps have a size that is a multiple of it before they are cut
BACKGROUND_THRESHOLD = 0.15
START_LR, START_CLASSIFIER_LR = 0.1, 1.0  # of the classifier: jiwoon-ahn/irn, step/train_cam.py
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


class Classifier(nn.Module):
    """Images (B,3,H,W), normalised -> raw maps W f (B,C,h,w), float32; their means are logits.

    is_start: the batch norms, and all up to the second stage, keep what they start with (the
    classifier of irn). Otherwise the stem alone has no gradient, and the norms' statistics move.
    """

    def __init__(self, backbone: ResNet, num_classes: int, is_start: bool) -> None:
        super().__init__()
        self.backbone, self.is_start = backbone, is_start
        self.classifier = nn.Conv2d(backbone.out_channels, num_classes, 1, bias=False)
        for name, parameter in backbone.named_parameters():
            trained = ("layer3", "layer4") if is_start else "layer"
            parameter.requires_grad_(name.startswith(trained))

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.backbone(image)).float()

    def train(self, mode: bool = True) -> "Classifier":
        super().train(mode)
        for module in self.modules() if self.is_start else ():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self

    def groups(self, lr: float, classifier_lr: float) -> list[dict]:
        """Groups of parameters of an optimiser."""
        trained = [p for p in self.backbone.parameters() if p.requires_grad]
        rates = (trained, lr), ([self.classifier.weight], classifier_lr)
        return [{"params": params, "lr": rate} for params, rate in rates]


def both_views(maps: Tensor, of_mirrored: Tensor) -> Tensor:
    """relu of the maps of an image plus those of its mirror image, mirrored back: all (...,h,w)."""
    return maps.relu() + of_mirrored.relu().flip(-1)


def summed(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Sum of maps of several scales (B,C,.,.), each resized to `size`: (B,C,H,W)."""
    return sum(resize(one, size) for one in maps)


def full_maps(maps: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """`summed` at the next multiples of CELL, cut to `size`."""
    whole = tuple(-(-side // CELL) * CELL for side in size)
    return summed(maps, whole)[..., : size[0], : size[1]]


@torch.inference_mode()
def clims_cams(model: Classifier, image: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (1,C,H,W) at `size` of an image (1,3,h,w), from SCALES and mirror images."""
    views = [rescale(image, scale) for scale in SCALES]
    maps = [both_views(model(view), model(view.flip(-1))) for view in views]
    return resize(full_maps(maps, image.shape[-2:]), size)


class Masks(CamMasks):
    """Masks in which a class whose map is zero has no part."""

    def maps(self, sample: dict) -> tuple[Tensor, Tensor]:
        cams, present = super().maps(sample)
        return cams, present * (cams.amax((1, 2)) > 0)


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = parse_arguments(argv)
    config = load_config(arguments.config, arguments.overrides)
    out, ranks, arithmetic = Path(arguments.out), setup(arguments.device), arguments.arithmetic
    torch.manual_seed(derive(config.seed, DRAW_OF_WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    check_trainable(classes)
    train = load_split(config, config.train_split, classes, trains=True)
    split = load_split(config, arguments.split or config.train_split, classes)
    truths = split.data.ground_truth(split.name)
    check_no_inputs(out, split.images, [*split.images.values(), *truths.values()])
    check_folder(out, "--out")
    if arguments.score:
        require(split.images, truths, "ground truth", "leave out --score")
    transform, cache = build_transform(config), config.image_cache
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

    # --- networks, optimisers
    start = build_classifier(config, len(text), is_start=True).to(ranks.device)
    model = build_classifier(config, len(text), is_start=False).to(ranks.device)
    stage = "clims" + (f" --arithmetic {arithmetic}" if arithmetic != "authors" else "")
    clip = {"weights": clip_sha256(config.clip_model)}
    options = {"classes": classes, "inputs": lambda: fingerprint(classes, dataset, clip=clip)}
    optimizer = poly_sgd(model.groups(LR, CLASSIFIER_LR), WEIGHT_DECAY, arithmetic)
    parts = {"model": model, "optimizer": optimizer}
    run = Run(arguments, config, ranks, stage=stage, end=config.steps, parts=parts, **options)

    # --- the classifier that it starts from
    steps = max(1, round(START_SHARE * config.steps))
    start_optimizer = poly_sgd(
        start.groups(START_LR, START_CLASSIFIER_LR), WEIGHT_DECAY, arithmetic
    )
    parts = {"model": start, "optimizer": start_optimizer}
    of_start = argparse.Namespace(**vars(arguments) | {"run_dir": f"{arguments.run_dir}/cam"})
    start_run = Run(of_start, config, ranks, stage=stage, end=steps, parts=parts, **options)
    network = build_network(start, config, ranks)
    for step, batch in start_run.steps(dataset):
        image, labels = prepare(batch, first, ranks.device)
        loss = classification_loss(network(image, step), labels)
        lr = poly_step(loss, start_optimizer, step, steps)
        start_run.log({"loss": loss}, batch["name"], lr)
    del network  # before the process group: its destructor would wait for ever
    start_run.close(goes_on=True)
    if run.step == 0:
        model.load_state_dict(start.state_dict())

    # --- loop
    network = build_network(model, config, ranks)
    for step, batch in run.steps(dataset):
        image, labels = prepare(batch, first, ranks.device)
        maps = network(image, step).sigmoid()
        losses = clims_losses(maps, image, labels, clip_model, text, rivals, is_mean=not first)
        lr = poly_step(losses["loss"], optimizer, step, config.steps)
        run.log(losses, batch["name"], lr)
    del network
    run.close(goes_on=True)

    # --- masks
    cams_of = partial(clims_cams, model.eval())
    masks = Masks(cams_of, split, classes, BACKGROUND_THRESHOLD, config, ranks)
    made_from = {"method": "clims", "arithmetic": arithmetic, "scales": SCALES}
    made_from["network_sha256"] = network_sha256(model)
    masks.write(out, made_from, arguments.overwrite, arguments.save_cams)
    if arguments.score:
        masks.score(out)
    cleanup()


def build_classifier(config: Config, num_classes: int, is_start: bool) -> Classifier:
    """The network of the config's backbone with its pretrained weights, on the CPU."""
    if config.norm != "batch":
        raise InputError(
            f"norm: {config.norm} is for networks that start from nothing; CLIMS keeps the batch "
            "norms of pretrained weights: set norm=batch"
        )
    backbone = named_resnet(config.backbone, config.output_stride)
    if config.backbone_weights is not None:
        load_backbone_weights(backbone, config.backbone_weights, config.backbone_weights_partial)
    return Classifier(backbone, num_classes, is_start)


def prepare(batch: dict, first: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Normalised image (B,3,H,W), 0 on padding; labels of the classes with a map (B,C)."""
    image, labels, valid = (batch[key].to(device) for key in ("image", "image_labels", "valid"))
    return normalize(image, "imagenet", valid), labels[:, first:]


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add = result.add_argument
    add("--out", type=path, required=True, help="folder of the masks")
    add("--split", help="split of the masks (default: train_split of the config)")
    add("--score", action="store_true", help="mIoU against ground truth, also to OUT/score.json")
    add("--save-cams", action="store_true", help="the maps too, to OUT/cams/<image id>.npz")
    add("--arithmetic", choices=("authors", "correct"), default="authors", help="of the momentum")
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
