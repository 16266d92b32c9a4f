"""AMN: activations of a network that learns pixels from balanced seed labels; IRN's walk.

Lee, Kim, Park and Shin, "Threshold Matters in WSSS: Manipulating the Activation for the Robust and
Accurate Segmentation Model Against Thresholds", CVPR 2022; formulas after gaviotas/AMN @75c1999c
(no licence: written from the formulas), in models/amn.py. Boundaries and walk: Ahn, Cho and Kwak,
"Weakly Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019;
jiwoon-ahn/irn @a2ece003 (MIT), in models/irn.py and models/random_walk.py.

Reads images, image-level labels and the CAMs of baselines.cam; writes label maps and run folders
(RUN_DIR/seeds, RUN_DIR, RUN_DIR/irn_labels, RUN_DIR/irn), then OUT/<image id>.png with meta.json:

    python -m baselines.cam --config C --run-dir runs/cam --out cams --save-cams
    python -m baselines.amn --config C --run-dir runs/amn --cams cams --out masks --score

The same command resumes and skips finished parts; --overwrite starts over. --score: OUT/score.json.
--save-cams: OUT/cams/<image id>.npz, the maps after the walk. Memory at 512x1024: 1 GB an image of
a batch (ResNet-50, stride 16); 0.2 GB an image for IRN's pairs; less than 0.1 GB for the walk.

Deviations:
- no background class (driving scenes): C outputs; the seeds are the highest CAM of the image's
  classes, 255 where it is below 0.3 or leads by less than 0.05 (IRN's labels too, of AMN's maps);
  the loss is the mean over the classes of a batch (of background and foreground there); maps are
  stretched everywhere; L_pos of IRN has one part; labels are the highest map after the walk.
- no dense CRF on the seeds and on IRN's labels. crop_size is the working size, as in cam.py; the
  harness's augmentation without colours, scales 0.5 to 1.5.
- the loss leaves out a group without a pixel in the batch; the released one is then not a number.
- dropout is off at inference; the release leaves it on, so that its maps are random.
- with a background: the maps of another split than that of --cams are stretched everywhere.
- IRN: boundaries without displacements, which only instances need; 0.3 of AMN's steps, as there (3
  epochs of batches of 32, 5 of 16), but of batches as large as AMN's; edges are not padded.
- --arithmetic authors (default): IRN's momentum is the weight decay, as released; correct: 0.9.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import copy
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines.cam import STRIDE, pairs, without_dilation
from baselines.common import CamMasks
from baselines.stages import add_arguments, load_splits, make_masks, of_method, part_of, saved_cams
from datasets.files import read_mask
from datasets.fingerprint import fingerprint
from datasets.labels import has_background, load_classes
from datasets.mask_folder import pseudo_mask_files, read_made_from
from datasets.training import TrainingSet
from datasets.transforms import TrainTransform, normalize
from models.amn import AMNNetwork, amn_maps, balanced_loss, seed_labels
from models.build import build_network
from models.cam import build_cam_backbone, label_cams, network_sha256
from models.inference import resize
from models.irn import EdgeNetwork, centre_labels, check_pairs_fit, edge_losses
from models.random_walk import BACKGROUND, edge_walk, upsampled_walk
from models.training import poly_sgd, poly_step
from utils.cli import path, training_parser
from utils.config import load_config
from utils.distributed import cleanup, setup
from utils.run import Run
from utils.safe.errors import run_script
from utils.seed import WEIGHTS, derive

# From gaviotas/AMN, scripts and step/train_amn.py; those of the equations are in models/.
SEED_THRESHOLDS = (0.30, 0.05)  # below which a CAM is no foreground; is background
IRN_THRESHOLDS = (0.45, 0.15)  # the same of AMN's maps
LR, HEAD_LR, WEIGHT_DECAY = 5e-6, 1e-4, 1e-4  # Adam; the weight decay is IRN's too
SCALES = (1.0, 0.5, 1.5, 2.0)  # of the maps
POWER = 1.3  # of the maps before the walk
EDGE_LR = 0.1
SCALE_RANGE = (0.5, 1.5)  # of the augmentation
IRN_SHARE = 0.3  # of the steps: 3 epochs of batches of 32 there, AMN has 5 of 16


def build_adam(backbone: Iterable[nn.Parameter], head: Iterable[nn.Parameter]) -> torch.optim.Adam:
    """Adam with a learning rate for each part; the weight decay is added to the gradient."""
    groups = [{"params": backbone, "lr": LR}, {"params": head, "lr": HEAD_LR}]
    return torch.optim.Adam(groups, weight_decay=WEIGHT_DECAY)


class Labels(CamMasks):
    """Label maps, by a rule, of maps that a function makes of a sample at the working size.

    maps_of: sample, image uint8 (3,h,w), present (C) -> maps (C,h,w), 0 for absent classes. rule:
    maps (C,H,W) at the image's own size, present (C), `threshold` -> uint8 (H,W).
    """

    def __init__(self, maps_of: Callable, rule: Callable, *of_masks: Any) -> None:
        super().__init__(None, *of_masks)
        self.maps_of, self.rule = maps_of, rule

    def maps(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        present = self.present(sample)
        return self.maps_of(sample, sample["image"].to(present.device), present), present

    def labels(self, sample: dict[str, Any], cams: Tensor, present: Tensor) -> Tensor:
        maps = resize(cams[None].float(), tuple(sample["size"]))[0]
        return self.rule(maps, present, self.threshold)


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = parse_arguments(argv)
    config, arithmetic = load_config(arguments.config, arguments.overrides), arguments.arithmetic
    config = of_method(config, LR, WEIGHT_DECAY, STRIDE, arithmetic)
    check_pairs_fit(config.crop_size)
    run_dir, ranks = Path(arguments.run_dir), setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    train, split = load_splits(config, arguments, classes)
    first, count = int(has_background(classes)), len(classes)
    cams = saved_cams(Path(arguments.cams), train, config, classes)
    size, cache = config.crop_size, config.image_cache
    transform = TrainTransform(size, SCALE_RANGE, size, photometric_distortion=False)
    data = partial(TrainingSet, train.images, train.labels, count, transform, cache=cache)

    # --- networks, optimisers
    backbone = without_dilation(build_cam_backbone(config, STRIDE))
    edges = EdgeNetwork(copy.deepcopy(backbone)).to(ranks.device)
    model = AMNNetwork(backbone, count - first, count).to(ranks.device)
    trained = [p for p in model.backbone.parameters() if p.requires_grad]
    optimizer = build_adam(trained, model.head.parameters())
    of_edges = {"params": [p for p in edges.parameters() if p.requires_grad], "lr": EDGE_LR}
    edge_optimizer = poly_sgd([of_edges], WEIGHT_DECAY, arithmetic)

    # --- both trainings: a run that resumes, and the label maps it learns
    made_of = {"cams": read_made_from(cams.folder)[1]}

    def start(of_run: argparse.Namespace, stage: str, end: int, **parts: Any) -> Run:
        inputs = lambda: fingerprint(classes, data(), options=made_of)  # noqa: E731
        more = {"stage": stage, "end": end, "classes": classes, "inputs": inputs}
        return Run(of_run, config, ranks, parts=parts, **more)

    def write(folder: Path, maps_of: Callable, thresholds: tuple[float, float]) -> dict[str, Any]:
        labels = Labels(maps_of, seed_labels, train, classes, thresholds, config, ranks)
        labels.write(folder, {"method": "amn"} | made_of, arguments.overwrite, False)
        return pseudo_mask_files(folder, train.images)

    # --- AMN, from seeds
    def stored(sample: dict[str, Any], image: Tensor, present: Tensor) -> Tensor:
        """The CAMs of baselines.cam."""
        return cams.read(sample["name"])[0].to(image.device)

    run = start(arguments, "amn", config.steps, model=model, optimizer=optimizer)
    seeds = write(run_dir / "seeds", stored, SEED_THRESHOLDS)
    network = build_network(model, config, ranks)
    groups = torch.arange(count, device=ranks.device).clamp(max=1 if first else count)
    for step, batch in run.steps(data(masks=seeds)):
        image, labels, label = prepare(batch, ranks.device)
        logits = network(image, step, labels[:, first:, None, None])
        loss = balanced_loss(logits, centre_labels(label, logits.shape[-2:]), groups)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        run.log({"loss": loss}, batch["name"], LR)
    del network  # before the process group: its destructor would wait for ever
    run.close(goes_on=True)
    model.eval()

    # --- IRN, from AMN's maps
    def maps_at(stride: int, sample: dict[str, Any], image: Tensor, present: Tensor) -> Tensor:
        """AMN's maps at a share of the working size."""
        size = tuple((side - 1) // stride + 1 for side in image.shape[-2:])
        file = seeds.get(sample["name"]) if first else None
        seed = None if file is None else torch.from_numpy(read_mask(file))
        return amn_maps(model, pairs(image, SCALES), present, size, seed)

    made_of |= {"amn_sha256": network_sha256(model)}
    steps = max(1, round(IRN_SHARE * config.steps))
    run = start(part_of(arguments, "irn"), "irn", steps, model=edges, optimizer=edge_optimizer)
    label_maps = write(run_dir / "irn_labels", partial(maps_at, 1), IRN_THRESHOLDS)
    network = build_network(edges, config, ranks)
    for step, batch in run.steps(data(masks=label_maps)):
        image, _, label = prepare(batch, ranks.device)
        losses = edge_losses(network(image, step), label, first)
        run.log(losses, batch["name"], poly_step(losses["loss"], edge_optimizer, step, steps))
    del network
    run.close(goes_on=True)
    edges.eval()

    # --- masks
    def walked(sample: dict[str, Any], image: Tensor, present: Tensor) -> Tensor:
        """AMN's maps after the walk, at the working size."""
        maps, (pair,) = maps_at(4, sample, image, present) ** POWER, pairs(image, (1.0,))
        return upsampled_walk(edge_walk(maps, edges.boundaries(pair)), image.shape[-2:])

    masks = Labels(walked, label_cams, split, classes, BACKGROUND, config, ranks)
    made_of |= {"irn_sha256": network_sha256(edges), "arithmetic": arithmetic, "scales": SCALES}
    make_masks(masks, arguments, {"method": "amn"} | made_of)
    cleanup()


def prepare(batch: dict[str, Any], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised image (B,3,H,W), 0 on padding; image-level labels (B,K); label map (B,H,W)."""
    keys = ("image", "image_labels", "valid", "pseudo_mask")
    image, labels, valid, label = (batch[key].to(device) for key in keys)
    return normalize(image, "imagenet", valid), labels, label


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add_arguments(result)
    text = "folder that baselines.cam --save-cams wrote for the train_split (its --out)"
    result.add_argument("--cams", type=path, required=True, help=text)
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
