"""AffinityNet (PSA): CAMs spread by a random walk over learned affinities of neighbouring cells.

Ahn and Kwak, "Learning Pixel-level Semantic Affinity with Image-level Supervision for Weakly
Supervised Semantic Segmentation", CVPR 2018; formulas after jiwoon-ahn/psa @9493e59 (MIT).

Reads images and image-level labels, and with --cams the maps of an earlier method; writes, one
after another, the run folder RUN_DIR/classifier, masks and maps of it in RUN_DIR/cams_<split>, the
run folder RUN_DIR/affinity, and the pseudo-masks OUT/<image id>.png with meta.json:

    python -m baselines.psa --config C --run-dir runs/psa --out masks --score
    python -m baselines.psa --config C --run-dir runs/psa --out masks --cams cam_masks

--cams: folders that `baselines.cam --save-cams` wrote, of the training split and of --split, in
place of the own classifier. Run the same command again to resume; finished parts are skipped;
--overwrite starts all of it over. --score: OUT/score.json. --save-cams: the maps after the walk.

Memory at 512x1024: the classifier 2 GiB an image of a batch, AffinityNet as much, for a ResNet-50
of stride 8 (1.2 GiB with ResNet-38's weights and optimiser); the walk less than 0.1 GiB.

Deviations:
- the harness's ResNet of stride 8 in place of ResNet-38; its last three stages are conv4, conv5 and
  conv6; the stem and the first stage are frozen, and so are all batch norms. Both trainings start
  from the weights of the config; steps and batch_size are its, for each of the two.
- PAMR on the map of labels (10 steps) in place of the dense CRF at the size of the image.
- no background class (driving scenes): a reject channel (1 - max M)^4 takes its place in the labels
  of AffinityNet and is ignored there, so that pairs of the background do not exist and
  L = L_fg/2 + L_neg/2; the walk has no row of the background, the highest class wins.
- crop_size is the working size, as in baselines/cam.py; AffinityNet sees whole images.
- --arithmetic authors (default): the momentum of SGD is the weight decay, 5e-4, as released;
  correct: 0.9. As released, in both: pairs that begin in the last 4 rows or the outer 4 columns do
  not exist; AffinityNet's padding is black in training, and of the mean colour in the walk.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from baselines.cam import (
    SCALES,
    WorkingSizeMasks,
    add_arguments,
    load_splits,
    long_sides,
    of_method,
    pairs,
    train_classifier,
)
from baselines.common import CamMasks, Split
from datasets.fingerprint import data_of_masks, fingerprint
from datasets.labels import IGNORE_INDEX, ClassTable, has_background, load_classes, multi_hot
from datasets.long_side import LongSideTransform, color_jitter, draw_jitter, draw_offsets
from datasets.mask_folder import read_made_from
from datasets.saved_maps import SavedMaps
from datasets.training import EvaluationSet, TrainingSet
from datasets.transforms import normalize
from models.affinity import (
    EPS,
    RADIUS,
    STRIDE,
    AffinityHead,
    Taps,
    affinities,
    affinity_labels,
    affinity_losses,
    affinity_sample,
    as_planes,
    pair_labels,
    pooled,
    summed_views,
    to_multiple,
    walked_scores,
    with_background,
)
from models.build import build_network
from models.cam import build_cam_backbone, network_sha256
from models.inference import resize
from models.pamr import pamr
from models.training import poly_sgd, poly_step
from utils.batches import Draw
from utils.cli import path, training_parser
from utils.config import Config, load_config
from utils.distributed import Ranks, cleanup, setup
from utils.run import Run
from utils.safe.errors import InputError, run_script
from utils.seed import WEIGHTS, derive

# From jiwoon-ahn/psa, train_cls.py, train_aff.py, infer_cls.py, infer_aff.py, tool/imutils.py.
LR, NEW_LR, WEIGHT_DECAY = 0.1, 1.0, 5e-4  # of pretrained and of new weights
LONG_SIDES = (0.57, 1.14)  # of the working size
CHECK_THRESHOLD = 0.2  # of the classifier's own masks
SURE_CLASS, SURE_BACKGROUND, WALK_BACKGROUND = 4, 32, 16  # alpha: powers of (1 - max M)
WALK_BETA, WALK_STEPS = 8, 2**8
PAMR_STEPS, PAMR_DILATIONS = 10, (1, 2, 4, 8, 12, 24)  # ours, in place of the CRF


class PSANetwork(nn.Module):
    """Images (B,3,H,W), normalised -> what the head makes of the taps, float32."""

    def __init__(self, taps: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.taps, self.head = taps, head

    def forward(self, image: Tensor) -> Tensor:
        return self.head(*self.taps(image)).float()

    def groups(self) -> list[dict[str, Any]]:
        """Groups of parameters for `poly_sgd`; there are no biases that train."""
        old = [p for p in self.taps.parameters() if p.requires_grad]
        return [{"params": old, "lr": LR}, {"params": list(self.head.parameters()), "lr": NEW_LR}]


class ClassifierHead(nn.Module):
    """Taps -> raw maps (B,C,h,w) of the last one, half of its channels dropped in training."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.dropout = nn.Dropout2d(0.5)
        self.fc8 = nn.Conv2d(channels, num_classes, 1, bias=False)
        nn.init.xavier_uniform_(self.fc8.weight)

    def forward(self, *taps: Tensor) -> Tensor:
        return self.fc8(self.dropout(taps[-1]))


@torch.inference_mode()
def classifier_maps(network: nn.Module, image: Tensor, size: tuple[int, int]) -> Tensor:
    """Sum of the CAMs (C,h,w) at `size` of an image uint8 (3,h,w): all SCALES and mirror images."""
    outputs = [maps.relu() for pair in pairs(image, SCALES) for maps in network(pair)]
    return summed_views(outputs, size)


class AffinitySet(Dataset):
    """Images at random places in the crop, with labels of the cells for AffinityNet."""

    points = None  # as a `TrainingSet` without any

    def __init__(
        self,
        images: EvaluationSet,
        cams: SavedMaps,
        crop_size: tuple[int, int],
        classes: ClassTable,
    ) -> None:
        self.images, self.cams, self.crop_size = images, cams, crop_size
        self.num_classes, self.background = len(classes), has_background(classes)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        """name, image uint8 (3,h,w), 0 around it; labels uint8 (h/8,w/8)."""
        sample = self.images[draw.index]
        size = tuple(sample["image"].shape[-2:])
        maps, present = self.cams.read(sample["name"])
        maps = resize(maps[None], size)[0][present > 0]
        generator = torch.Generator().manual_seed(draw.seed)
        image = color_jitter(sample["image"], *draw_jitter(generator))
        offsets = draw_offsets(size, self.crop_size, generator)
        flip = torch.rand((), generator=generator).item() < 0.5
        powers = (SURE_CLASS, SURE_BACKGROUND) if self.background else (SURE_CLASS,)
        stacks = torch.ones(len(powers), *size)  # of an image that shows the background alone
        if len(maps):
            stacks = torch.cat([with_background(maps, alpha) for alpha in powers])
        image, low = affinity_sample(image, stacks, self.crop_size, offsets, flip)
        refined = refine(image, low).chunk(len(powers))
        outside = low.amax(0) < EPS
        labels = affinity_labels(*refined).masked_fill(outside, IGNORE_INDEX)
        return {"name": sample["name"], "image": image, "labels": labels}


def refine(image: Tensor, low: Tensor) -> Tensor:
    """Maps (c,h/8,w/8) by PAMR on the image uint8 (3,h,w), reduced to their size."""
    return pamr(pooled(image.float())[None], low[None], PAMR_STEPS, PAMR_DILATIONS)[0]


class WalkMasks(CamMasks):
    """Masks of the CAMs after the walk, over the affinities of a network (`cams_of`)."""

    def __init__(self, saved: SavedMaps, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.saved = saved

    def maps(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Scores (C,H,W) after the walk, less that of a background; classes (C)."""
        device, size = self.ranks.device, tuple(sample["image"].shape[-2:])
        labels = multi_hot(self.split.labels[sample["name"]], len(self.classes))
        present = labels[self.first :].to(device)
        maps, _ = self.saved.read(sample["name"])
        maps = resize(maps[None].to(device), size)[0] * present[:, None, None]
        if self.first:
            maps = with_background(maps, WALK_BACKGROUND)
        scores = self.cams_of(sample["image"].to(device), maps)
        if self.first:
            scores = scores[1:] - scores[:1]
        return resize(scores[None], tuple(sample["size"]))[0], present

    def curve(self) -> list[dict[str, float | None]]:
        """No scores at thresholds: the background has a row of its own."""
        return []


@torch.no_grad()
def walk_maps(network: nn.Module, image: Tensor, maps: Tensor) -> Tensor:
    """Maps (C,h,w) of an image uint8 (3,h,w) after the walk: (C,h,w)."""
    features = network(to_multiple(normalize(image[None], "imagenet")))
    low = pooled(maps)
    planes = as_planes(affinities(features)[0], low.shape[-2:])
    size = tuple(image.shape[-2:])
    return walked_scores(low, planes, size, WALK_BETA, WALK_STEPS, RADIUS)[1]


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = parse_arguments(argv)
    config = load_config(arguments.config, arguments.overrides)
    config = of_method(config, LR, WEIGHT_DECAY, STRIDE, arguments.arithmetic)
    check_size(config)
    out, ranks = Path(arguments.out), setup(arguments.device)

    # --- data, CAMs
    classes = load_classes(config.class_file)
    train, split = load_splits(config, arguments, classes)
    splits = {one.name: one for one in (train, split)}
    folders = [Path(folder) for folder in arguments.cams]
    if not folders:
        make_cams(arguments, config, ranks, classes, train, splits)
        folders = [cams_folder(arguments, name) for name in splits]
    saved = find_cams(folders, splits, config.dataset, classes)

    # --- AffinityNet
    torch.manual_seed(derive(config.seed, WEIGHTS))
    model = build_affinity_network(config).to(ranks.device)
    train_affinity(arguments, config, ranks, classes, train, model, saved[train.name])

    # --- walk
    threshold = 0.0  # of the scores less the background's
    cams_of = partial(walk_maps, model.eval())
    masks = WalkMasks(saved[split.name], cams_of, split, classes, threshold, config, ranks)
    made_from = {"method": "psa", "arithmetic": arguments.arithmetic}
    made_from["cams"] = read_made_from(saved[split.name].folder)[1]
    made_from["network_sha256"] = network_sha256(model)
    masks.write(out, made_from, arguments.overwrite, arguments.save_cams)
    if arguments.score:
        masks.score(out)
    cleanup()


def make_cams(
    arguments: argparse.Namespace,
    config: Config,
    ranks: Ranks,
    classes: ClassTable,
    train: Split,
    splits: Mapping[str, Split],
) -> None:
    """Train the classifier in RUN_DIR/classifier; write its masks and maps of the splits."""
    torch.manual_seed(derive(config.seed, WEIGHTS))
    taps = Taps(build_cam_backbone(config, STRIDE))
    head = ClassifierHead(taps.channels[-1], len(classes) - has_background(classes))
    model = PSANetwork(taps, head).to(ranks.device)
    optimizer = poly_sgd(model.groups(), WEIGHT_DECAY, arguments.arithmetic)
    transform = LongSideTransform(long_sides(config, LONG_SIDES), config.crop_size, jitter=True)
    part, stage = part_of(arguments, "classifier"), "psa classifier"
    train_classifier(part, config, ranks, classes, train, model, optimizer, transform, stage)
    made_from = {"method": "psa classifier", "arithmetic": arguments.arithmetic, "scales": SCALES}
    made_from["network_sha256"] = network_sha256(model)
    cams_of = partial(classifier_maps, model.eval())
    for name, split in splits.items():
        masks = WorkingSizeMasks(cams_of, split, classes, CHECK_THRESHOLD, config, ranks)
        masks.write(cams_folder(arguments, name), made_from, arguments.overwrite, save_cams=True)


def train_affinity(
    arguments: argparse.Namespace,
    config: Config,
    ranks: Ranks,
    classes: ClassTable,
    split: Split,
    model: PSANetwork,
    saved: SavedMaps,
) -> None:
    """Train AffinityNet in RUN_DIR/affinity for config.steps; resumes."""
    background = has_background(classes)
    images = EvaluationSet(split.images, config.image_size)
    dataset = AffinitySet(images, saved, config.crop_size, classes)
    inputs = TrainingSet(split.images, split.labels, len(classes), None)  # for the record
    options = {"cams": read_made_from(saved.folder)[1]}
    optimizer = poly_sgd(model.groups(), WEIGHT_DECAY, arguments.arithmetic)
    run = Run(
        part_of(arguments, "affinity"),
        config,
        ranks,
        stage="psa",
        end=config.steps,
        classes=classes,
        inputs=lambda: fingerprint(classes, inputs, options=options),
        parts={"model": model, "optimizer": optimizer},
    )
    network = build_network(model, config, ranks)
    for step, batch in run.steps(dataset):
        image, labels = (batch[key].to(ranks.device) for key in ("image", "labels"))
        features = network(normalize(image, "imagenet"), step)
        losses = affinity_losses(affinities(features), pair_labels(labels), background)
        lr = poly_step(losses["loss"], optimizer, step, config.steps)
        run.log(losses, batch["name"], lr)
    del network  # before the process group: its destructor would wait for ever
    run.close(goes_on=True)


def build_affinity_network(config: Config) -> PSANetwork:
    """AffinityNet on the config's backbone and weights, on the CPU."""
    taps = Taps(build_cam_backbone(config, STRIDE))
    return PSANetwork(taps, AffinityHead(taps.channels))


def find_cams(
    folders: Sequence[Path], splits: Mapping[str, Split], dataset: str, classes: ClassTable
) -> dict[str, SavedMaps]:
    """The maps of each split, from the folder that has them. Raises InputError where one lacks."""
    of_split = {read_made_from(folder)[1].get("split"): folder for folder in folders}
    first, found = int(has_background(classes)), {}
    for name, split in splits.items():
        data = data_of_masks(dataset, name, classes.names, split.images, split.labels)
        found[name] = SavedMaps(of_split.get(name, folders[0]), split.images, data, first)
    return found


def check_size(config: Config) -> None:
    """Raise InputError where the map of a crop has no pairs."""
    least = STRIDE * (RADIUS - 1) + 1, STRIDE * (2 * RADIUS - 2) + 1
    if config.crop_size[0] < least[0] or config.crop_size[1] < least[1]:
        raise InputError(
            f"'crop_size' {list(config.crop_size)} has no pair of cells within {RADIUS} of each "
            f"other; the least is {list(least)}"
        )


def cams_folder(arguments: argparse.Namespace, split: str) -> Path:
    return Path(arguments.run_dir) / f"cams_{split}"


def part_of(arguments: argparse.Namespace, part: str) -> argparse.Namespace:
    """The arguments of a training in a folder of its own."""
    return argparse.Namespace(**vars(arguments) | {"run_dir": f"{arguments.run_dir}/{part}"})


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add_arguments(result)
    add = result.add_argument
    add("--cams", type=path, nargs="+", default=[], help="folders of maps of an earlier method")
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
