"""CAM: class activation maps of a classifier of images, as jiwoon-ahn/irn trains and sums them.

Zhou, Khosla, Lapedriza, Oliva and Torralba, "Learning Deep Features for Discriminative
Localization", CVPR 2016; formulas after jiwoon-ahn/irn @a2ece00 (MIT).

Reads images and image-level labels; writes a run folder RUN_DIR and, when it is trained, a folder
of pseudo-masks OUT/<image id>.png with meta.json, for `eval.py --masks` and a second stage:

    python -m baselines.cam --config C --run-dir runs/cam --out masks --save-cams --score

Run the same command again to resume both; --overwrite starts both over. --score: OUT/score.json.
--save-cams: OUT/cams/<image id>.npz, at the working size, which psa, amn, sec and clustering read.

Memory at 512x1024: 0.9 GiB an image of a batch, and 0.3 GiB for a ResNet-50 and its optimiser.

Deviations:
- no background class (driving scenes): the label is the highest map of the image's classes, without
  a threshold. Of a data set with one, class 0 has the constant score 0.15, as there.
- crop_size is the working size: training images have a long side of 0.64 to 1.28 times its own
  (320 to 640 for VOC's 500), and the maps are made at that size; image_size is not used. There,
  crops are squares of 512 pixels, and maps are made at the size of the image.
- steps and batch_size are the config's, the rates not. 3305 steps of 16 images there.
- the backbone is the config's, always with stride 16 and without dilation.
- --arithmetic authors (default): SGD with the momentum 1e-4, since the release passes the weight
  decay in its place; correct: 0.9 with the same rates, ten times as aggressive.
- a class of every image has a map without information; it is named at the start, nothing more.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from baselines.common import WorkingSizeMasks
from baselines.stages import (
    add_arguments,
    load_splits,
    long_sides,
    make_masks,
    of_method,
    train_classifier,
)
from datasets.labels import has_background, load_classes
from datasets.long_side import LongSideTransform, resize_bicubic
from datasets.transforms import normalize
from models.cam import KeepsStatistics, build_cam_backbone, network_sha256, normalize_cams
from models.inference import resize
from models.training import poly_sgd
from utils.cli import training_parser
from utils.config import load_config
from utils.distributed import cleanup, setup
from utils.safe.errors import run_script
from utils.seed import WEIGHTS, derive

# From jiwoon-ahn/irn, run_sample.py, step/train_cam.py, step/make_cam.py.
LR, CLASSIFIER_LR, WEIGHT_DECAY = 0.1, 1.0, 1e-4
LONG_SIDES = (0.64, 1.28)  # of the working size
SCALES = (1.0, 0.5, 1.5, 2.0)
BACKGROUND_THRESHOLD = 0.15
STRIDE, LOW_STRIDE = 16, 4  # of the network; of the maps for a walk
TRAINED = ("layer3", "layer4")  # and the classifier; the gradient stops before them


class Classifier(KeepsStatistics):
    """Images (B,3,H,W), normalised -> raw maps w F (B,C,h,w), float32, whose means are the logits.

    Batch norms keep their statistics; those of `TRAINED` stages train their weights and biases.
    """

    def __init__(self, backbone: nn.Module, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.classifier = nn.Conv2d(backbone.out_channels, num_classes, 1, bias=False)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name.startswith(TRAINED))

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.backbone(image)).float()

    def groups(self) -> list[dict[str, Any]]:
        """Groups of parameters for `poly_sgd`."""
        trained = [p for p in self.backbone.parameters() if p.requires_grad]
        of_classifier = {"params": [self.classifier.weight], "lr": CLASSIFIER_LR}
        return [{"params": trained, "lr": LR}, of_classifier]


def without_dilation(backbone: nn.Module) -> nn.Module:
    """The backbone with all its 3x3 convolutions undilated, in place."""
    for module in backbone.modules():
        if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
            module.dilation = module.padding = (1, 1)
    return backbone


def pairs(image: Tensor, scales: Sequence[float] = SCALES) -> Iterator[Tensor]:
    """Image uint8 (3,h,w) and its mirror image at each scale, normalised: (2,3,h_s,w_s)."""
    for scale in scales:
        size = tuple(max(1, round(side * scale)) for side in image.shape[-2:])
        view = normalize(resize_bicubic(image, size)[None], "imagenet")
        yield torch.cat([view, view.flip(-1)])


def both_views(maps: Tensor) -> Tensor:
    """o_s: relu of the maps (2,C,h,w) of a pair, the mirrored one flipped back, summed: (C,h,w)."""
    return maps[0].relu() + maps[1].relu().flip(-1)


def low_maps(outputs: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Sum of the o_s (C,.,.) at a quarter of the image's `size`, rounded up: (C,h,w)."""
    low = tuple((side - 1) // LOW_STRIDE + 1 for side in size)
    return sum(resize(one[None], low)[0] for one in outputs)


def full_maps(outputs: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Sum of the o_s (C,.,.) at the next multiples of STRIDE, cut to the image's `size`."""
    whole = tuple(STRIDE * ((side - 1) // STRIDE + 1) for side in size)
    return sum(resize(one[None], whole)[0] for one in outputs)[:, : size[0], : size[1]]


def normalized(maps: Tensor, present: Tensor) -> Tensor:
    """Maps (C,h,w) / (their maxima + 1e-5), 0 for absent classes (C)."""
    return normalize_cams((maps * present[:, None, None])[None])[0]


@torch.inference_mode()
def summed_maps(network: nn.Module, image: Tensor) -> Tensor:
    """`full_maps` (C,h,w) of an image uint8 (3,h,w) from all SCALES."""
    return full_maps([both_views(network(pair)) for pair in pairs(image)], image.shape[-2:])


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = parse_arguments(argv)
    config = load_config(arguments.config, arguments.overrides)
    config = of_method(config, LR, WEIGHT_DECAY, STRIDE, arguments.arithmetic)
    ranks = setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    train, split = load_splits(config, arguments, classes)

    # --- classifier
    backbone = without_dilation(build_cam_backbone(config, STRIDE))
    num_classes = len(classes) - has_background(classes)
    model = Classifier(backbone, num_classes).to(ranks.device)
    optimizer = poly_sgd(model.groups(), WEIGHT_DECAY, arguments.arithmetic)
    transform = LongSideTransform(long_sides(config, LONG_SIDES), config.crop_size)
    train_classifier(arguments, config, ranks, classes, train, model, optimizer, transform, "cam")

    # --- masks
    cams_of = partial(summed_maps, model.eval())
    masks = WorkingSizeMasks(cams_of, split, classes, BACKGROUND_THRESHOLD, config, ranks)
    made_from = {"method": "cam", "arithmetic": arguments.arithmetic, "scales": SCALES}
    made_from["network_sha256"] = network_sha256(model)
    make_masks(masks, arguments, made_from)
    cleanup()


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add_arguments(result)
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
