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
from torch import Tensor, nn

from baselines.common import load_split
from baselines.stages import inputs_of, labelled_images, saved_cams
from datasets.doctor.label_check import check_trainable
from datasets.fingerprint import fingerprint
from datasets.labels import has_background, load_classes
from datasets.mask_folder import read_made_from
from datasets.transforms import TrainTransform, normalize
from models.build import build_model, build_network
from models.inference import resize
from models.sec import decays_of, sec_losses, seeds_of, without_padding
from utils.cli import path, training_parser
from utils.config import Config, load_config
from utils.distributed import setup
from utils.run import Run
from utils.safe.errors import run_script
from utils.seed import WEIGHTS, derive

# From kolesman/SEC, training/: train.prototxt and solver.prototxt.
LR, MOMENTUM, WEIGHT_DECAY, DROPOUT = 1e-3, 0.9, 5e-4, 0.5
NEW = 10  # times the rate, of new layers; biases learn at twice their layer's, without decay
STAGES = 4  # of equal length; the rate is a tenth of the one before


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
    maps = saved_cams(Path(arguments.cams), train, config, classes)
    whole = TrainTransform(config.image_size, config.scale_range, config.crop_size, 0, False)
    dataset = labelled_images(config, train, classes, whole)

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
        image, labels, valid = inputs_of(batch, ranks.device)
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
