"""AMN: activations of a network that learns pixels from balanced seed labels; IRN's walk.

Lee, Kim, Park and Shin, "Threshold Matters in WSSS: Manipulating the Activation for the Robust and
Accurate Segmentation Model Against Thresholds", CVPR 2022; formulas after gaviotas/AMN @75c1999c
(no licence: written from the formulas). Boundaries and random walk: Ahn, Cho and Kwak, "Weakly
Supervised Learning of Instance Segmentation with Inter-pixel Relations", CVPR 2019;
jiwoon-ahn/irn @a2ece003 (MIT).

Reads images, image-level labels and the CAMs of baselines.cam; writes label maps and run folders
(RUN_DIR/seeds, RUN_DIR, RUN_DIR/irn_labels, RUN_DIR/irn), then OUT/<image id>.png with meta.json:

    python -m baselines.cam --config C --run-dir runs/cam --out cams --save-cams
    python -m baselines.amn --config C --run-dir runs/amn --cams cams --out masks --score

Run the same command again to resume; finished parts are skipped; --overwrite starts over. --score:
OUT/score.json. --save-cams: OUT/cams/<image id>.npz, the maps after the walk.

Memory at 512x1024: 1 GB an image of a batch for a ResNet-50 of stride 16; 0.2 GB an image for the
pairs of IRN; the walk less than 0.1 GB.

Deviations:
- no background class (driving scenes): C outputs; the seeds are the highest CAM of the image's
  classes, 255 where it is below 0.3 or leads by less than 0.05; the loss is the mean over the
  classes of a batch (of background and foreground there); maps are stretched everywhere; L_pos of
  IRN has one part; labels are the highest map after the walk.
- no dense CRF on the seeds. crop_size is the working size, as in baselines/cam.py; the harness's
  augmentation without colours, scales 0.5 to 1.5.
- a batch lacks what it has no pixel of; the released loss is then not a number.
- dropout is off at inference; the release leaves it on, so that its maps are random.
- the maps of a split other than that of --cams are stretched everywhere.
- IRN: boundaries without displacements, which only instances need; a number of steps in the
  proportion of the images seen (0.3 of AMN's); edges are not padded to a square.
- --arithmetic authors (default): IRN's momentum is the weight decay, as released; correct: 0.9.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import copy
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from baselines.cam import STRIDE, add_arguments, load_splits, of_method, pairs, without_dilation
from baselines.common import CamMasks
from datasets.files import read_mask
from datasets.fingerprint import data_of_masks, fingerprint
from datasets.labels import IGNORE_INDEX, has_background, load_classes, multi_hot
from datasets.mask_folder import pseudo_mask_files, read_made_from
from datasets.saved_maps import SavedMaps
from datasets.training import TrainingSet
from datasets.transforms import TrainTransform, normalize
from models.build import build_network
from models.cam import build_cam_backbone, label_cams, network_sha256
from models.inference import resize
from models.random_walk import (
    BACKGROUND,
    by_path_length,
    edge_walk,
    neighbours,
    path_affinities,
    upsampled_walk,
)
from models.resnet import ResNet
from models.training import poly_sgd, poly_step
from utils.cli import path, training_parser
from utils.config import load_config
from utils.distributed import cleanup, setup
from utils.run import Run
from utils.safe.errors import InputError, run_script
from utils.seed import WEIGHTS, derive

# From gaviotas/AMN, scripts, net/resnet50_amn.py and step/train_amn.py; pairs and edges: irn.
SEED_THRESHOLDS = (0.30, 0.05)  # below which a CAM is no foreground; is background
IRN_THRESHOLDS = (0.45, 0.15)  # the same of AMN's maps
DILATIONS = (6, 12, 18, 24)
DROPOUT = 0.1
LR, HEAD_LR, WEIGHT_DECAY = 5e-6, 1e-4, 1e-4  # Adam; the weight decay is IRN's too
SCALES = (1.0, 0.5, 1.5, 2.0)  # of the maps
POWER = 1.3  # of the maps before the walk
EDGE_LR = 0.1
SCALE_RANGE = (0.5, 1.5)  # of the augmentation
IRN_SHARE = 0.3  # of the steps: 3 epochs of batches of 32 there, AMN has 5 of 16
SEED_MARGIN = 0.05  # ours: what leads by less is no seed without a background
SMOOTHING = 0.4
EDGE_CHANNELS, EDGE_GROUPS = 32, 4
RADIUS = 10  # of the pairs of IRN's training
EPS = 1e-5


def two_threshold_labels(foreground: Tensor, background: Tensor) -> Tensor:
    """IRN's rule: both (H,W), 0 for the background, at a high and at a low threshold -> (H,W).

    The first where it has a class, 0 where both have none, else 255.
    """
    unsure = (foreground == 0) & (background != 0)
    return foreground.masked_fill(unsure, IGNORE_INDEX)


def highest_row(maps: Tensor, threshold: float) -> Tensor:
    """Arg max (H,W) of [threshold ; maps (K,H,W)]: 0 is the background."""
    return torch.cat([torch.full_like(maps[:1], threshold), maps]).argmax(0)


def seed_labels(
    maps: Tensor, present: Tensor, first: int, thresholds: tuple[float, float] = SEED_THRESHOLDS
) -> Tensor:
    """Label map uint8 (H,W) of maps (C,H,W), 0 for classes that are not present (C).

    first: 1 with a background: IRN's rule with two thresholds. Otherwise the highest present map,
    255 where it is below the first of SEED_THRESHOLDS or leads by less than SEED_MARGIN.
    """
    if first:
        return two_threshold_labels(*(highest_row(maps, t) for t in thresholds)).byte()
    shown = maps.masked_fill(present[:, None, None] == 0, -torch.inf)
    best, rows = torch.cat([shown, torch.full_like(shown[:1], -torch.inf)]).topk(2, 0)
    unsure = (best[0] < SEED_THRESHOLDS[0]) | (best[0] - best[1] < SEED_MARGIN)
    return rows[0].masked_fill(unsure, IGNORE_INDEX).byte()


def centre_labels(label: Tensor, size: tuple[int, int]) -> Tensor:
    """Labels (...,H,W) at `size` (h,w): the pixel floor((i + 0.5) H / h), as PIL's nearest."""
    rows, columns = (
        ((torch.arange(n, device=label.device) + 0.5) * side / n).long()
        for n, side in zip(size, label.shape[-2:], strict=True)
    )
    return label[..., rows[:, None], columns]


def smoothed_targets(label: Tensor, count: int) -> Tensor:
    """(B,h,w) -> (B,count,h,w): 1 - SMOOTHING at the label, SMOOTHING / (count - 1) elsewhere.

    255 counts as class 0; the loss leaves its pixels out.
    """
    label = label.masked_fill(label == IGNORE_INDEX, 0)
    is_label = torch.arange(count, device=label.device)[:, None, None] == label[:, None]
    return torch.where(is_label, 1 - SMOOTHING, SMOOTHING / (count - 1))


def balanced_loss(logits: Tensor, label: Tensor, groups: Tensor, released: bool = False) -> Tensor:
    """Mean over groups of the mean cross-entropy of their pixels with `smoothed_targets`.

    logits (B,C,h,w), label (B,h,w), groups (C): that of each class. Over the groups that occur in
    the batch, 0 where none does; released: over all, NaN where one does not occur.
    """
    losses = -(smoothed_targets(label, logits.shape[1]) * logits.log_softmax(1)).sum(1)
    group = groups[label.clamp(max=len(groups) - 1)].masked_fill(label == IGNORE_INDEX, -1)
    inside = [group == g for g in groups.unique()]
    means = [
        (losses * pixels).sum() / pixels.sum() for pixels in inside if released or pixels.any()
    ]
    return torch.stack(means).mean() if means else logits.sum() * 0


class LabelHead(nn.Module):
    """Features (B,D,h,w) and image-level labels (B,L) -> logits (B,C,h,w).

    Features are multiplied with e = W y + b, channel by channel; then the sum of four dilated 3x3
    convolutions.
    """

    def __init__(self, channels: int, num_labels: int, num_classes: int) -> None:
        super().__init__()
        self.label_enc = nn.Linear(num_labels, channels)
        self.classifier = nn.Sequential(nn.Dropout(DROPOUT), Branches(channels, num_classes))

    def forward(self, features: Tensor, labels: Tensor) -> Tensor:
        return self.classifier(features * self.label_enc(labels)[..., None, None])


class Branches(nn.Module):
    """Sum of 3x3 convolutions with DILATIONS, with bias."""

    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        for i, d in enumerate(DILATIONS):
            convolution = nn.Conv2d(channels, num_classes, 3, padding=d, dilation=d)
            nn.init.normal_(convolution.weight, std=0.01)
            nn.init.zeros_(convolution.bias)
            self.add_module(f"c{i}", convolution)

    def forward(self, features: Tensor) -> Tensor:
        return sum(convolution(features) for convolution in self.children())


def build_adam(backbone: Iterable[nn.Parameter], head: Iterable[nn.Parameter]) -> torch.optim.Adam:
    """Adam with a learning rate for each part; the weight decay is added to the gradient."""
    groups = [{"params": backbone, "lr": LR}, {"params": head, "lr": HEAD_LR}]
    return torch.optim.Adam(groups, weight_decay=WEIGHT_DECAY)


def merged_views(logits: Tensor, of_mirrored: Tensor) -> Tensor:
    """Mean of the logits of an image and those of its mirror image, mirrored back: (...,h,w)."""
    return (logits + of_mirrored.flip(-1)) / 2


def activations(logits: Sequence[Tensor], size: tuple[int, int]) -> Tensor:
    """Softmax over all channels of the mean logits (1,C,.,.) of the scales, at `size`: (C,H,W)."""
    return torch.stack([resize(one, size)[0] for one in logits]).mean(0).softmax(0)


def stretched(maps: Tensor, where: Tensor) -> Tensor:
    """(p - min) / (max - min + 1e-5) of each map (K,H,W), in the pixels (H,W) of `where` alone."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return torch.where(where, (maps - low) / (high - low + EPS), maps)


class Network(nn.Module):
    """Images (B,3,H,W), normalised, and labels (B,L,1,1) -> logits (B,C,h,w), float32.

    Batch norms keep their statistics; the stem has no gradient.
    """

    def __init__(self, backbone: ResNet, num_labels: int, num_classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = LabelHead(backbone.out_channels, num_labels, num_classes)
        for name, parameter in backbone.named_parameters():
            parameter.requires_grad_(name.startswith("layer"))

    def forward(self, image: Tensor, labels: Tensor) -> Tensor:
        return self.head(self.backbone(image), labels.flatten(1)).float()

    def train(self, mode: bool = True) -> "Network":
        super().train(mode)
        for module in self.modules():
            if isinstance(module, _BatchNorm):
                module.eval()
        return self


@torch.inference_mode()
def amn_maps(
    network: Network, image: Tensor, labels: Tensor, size: tuple[int, int], seed: Tensor | None
) -> Tensor:
    """Maps (L,h,w) at `size` of an image uint8 (3,H,W), 0 for absent classes (L).

    seed: label map (H',W') where 0 is a background, whose pixels are not stretched.
    """
    both = labels.expand(2, -1)[..., None, None]
    logits = [merged_views(*network(pair, both))[None] for pair in pairs(image, SCALES)]
    maps = activations(logits, size)[-len(labels) :]
    everywhere = torch.ones(size, dtype=torch.bool, device=maps.device)
    where = everywhere if seed is None else centre_labels(seed.to(maps.device), size) != 0
    return stretched(maps, where) * labels[:, None, None]


class EdgeNetwork(nn.Module):
    """Images (B,3,H,W), normalised -> logits of the boundaries (B,1,h,w) at a quarter of the size.

    The maps of the pooling and the stages of a fixed backbone, each: 1x1 convolution, group norm,
    enlarged, ReLU; then all together, 1x1.
    """

    def __init__(self, backbone: ResNet) -> None:
        super().__init__()
        self.backbone = backbone.requires_grad_(False).eval()
        stages = self.stages(torch.zeros(1, 3, 64, 64))
        self.factors = [stages[1].shape[-1] // stage.shape[-1] for stage in stages]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv2d(stage.shape[1], EDGE_CHANNELS, 1, bias=False),
                nn.GroupNorm(EDGE_GROUPS, EDGE_CHANNELS),
            )
            for stage in stages
        )
        self.edge = nn.Conv2d(EDGE_CHANNELS * len(stages), 1, 1)

    @torch.no_grad()
    def stages(self, image: Tensor) -> list[Tensor]:
        """The maps after the pooling and after each stage."""
        net = self.backbone
        stem = net.stem(image) if net.deep_stem else net.relu(net.bn1(net.conv1(image)))
        maps = [net.maxpool(stem)]
        for layer in range(net.num_layers):
            maps.append(getattr(net, f"layer{layer + 1}")(maps[-1]))
        return maps

    def forward(self, image: Tensor) -> Tensor:
        stages = self.stages(image)
        height, width = stages[1].shape[-2:]
        found = []
        for stage, layer, factor in zip(stages, self.layers, self.factors, strict=True):
            maps = layer(stage)
            size = tuple(factor * side for side in maps.shape[-2:])
            found.append(resize(maps, size).relu()[..., :height, :width])
        return self.edge(torch.cat(found, 1)).float()

    def train(self, mode: bool = True) -> "EdgeNetwork":
        super().train(mode)
        self.backbone.eval()
        return self

    @torch.inference_mode()
    def boundaries(self, image: Tensor) -> Tensor:
        """Boundary map (h,w) in [0,1] of an image uint8 (3,H,W): mean logits of both views."""
        (pair,) = pairs(image, (1.0,))
        return merged_views(*self(pair)[:, 0]).sigmoid()


def sources(maps: Tensor, radius: int) -> Tensor:
    """The cells of (...,h,w) whose pairs all lie inside: (...,h-r,w-2r), r = radius - 1."""
    r = radius - 1
    return maps[..., : maps.shape[-2] - r, r : maps.shape[-1] - r]


def targets(maps: Tensor, radius: int, offset: tuple[int, int]) -> Tensor:
    """The cells at an offset (dy,dx) from those of `sources`."""
    (dy, dx), r = offset, radius - 1
    height, width = maps.shape[-2] - r, maps.shape[-1] - 2 * r
    return maps[..., dy : dy + height, r + dx : r + dx + width]


def pair_offsets(radius: int) -> list[tuple[int, int]]:
    """(dy,dx) of the pairs, in IRN's order."""
    return by_path_length(neighbours(radius))


def pair_affinities(edge: Tensor, radius: int) -> Tensor:
    """1 - max over the path of a boundary map (h,w): (pairs,h-r,w-2r)."""
    return sources(path_affinities(edge, pair_offsets(radius)), radius)


def pair_labels(label: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """Of labels (B,h,w), for each pair: whether it is equal; whether both have a label.

    Both bool (B,pairs,h-r,w-2r).
    """
    others = [targets(label, radius, offset) for offset in pair_offsets(radius)]
    other, own = torch.stack(others, 1), sources(label, radius)[:, None]
    return other == own, (other != IGNORE_INDEX) & (own != IGNORE_INDEX)


def mean_over(values: Tensor, pairs: Tensor) -> Tensor:
    """Sum over pairs / (their number + 1e-5)."""
    return (values * pairs).sum() / (pairs.sum() + EPS)


def affinity_losses(affinity: Tensor, label: Tensor, radius: int, first: int) -> dict[str, Tensor]:
    """L_pos, L_neg and (L_pos + L_neg) / 2 of affinities (B,pairs,.,.) and labels (B,h,w).

    -log(a + 1e-5) of equal pairs, -log(1 + 1e-5 - a) of others. first: 1 where label 0 is a
    background, whose pairs are half of L_pos.
    """
    equal, valid = pair_labels(label, radius)
    positive = equal & valid
    is_background = (sources(label, radius) == 0)[:, None]
    parts = [positive & is_background, positive & ~is_background] if first else [positive]
    near = -(affinity + EPS).log()
    pos = torch.stack([mean_over(near, part) for part in parts]).mean()
    neg = mean_over(-(1 + EPS - affinity).log(), valid & ~equal)
    return {"loss": (pos + neg) / 2, "loss_pos": pos, "loss_neg": neg}


def displacement_losses(field: Tensor, label: Tensor, radius: int) -> tuple[Tensor, Tensor]:
    """L_fg and L_bg of displacements (B,2,h,w): half the mean distance, over both axes, of
    d(source) - d(target) from the offset (dy,dx), and from 0 in the background.

    IRN trains them for instances; masks of classes need the boundaries alone.
    """
    equal, valid = pair_labels(label, radius)
    of_background = equal & valid & (sources(label, radius) == 0)[:, None]
    of_foreground = equal & valid & ~of_background
    offsets = pair_offsets(radius)
    moved = torch.stack(
        [sources(field, radius) - targets(field, radius, offset) for offset in offsets], 2
    )  # (B,2,pairs,h-r,w-2r)
    wanted = field.new_tensor(offsets).T[:, :, None, None]
    far, still = (moved - wanted).abs().sum(1), moved.abs().sum(1)
    losses = (far, of_foreground), (still, of_background)
    return tuple((x * pairs).sum() / (2 * pairs.sum() + EPS) for x, pairs in losses)


class Labels(CamMasks):
    """Label maps, by a rule, of maps that a function makes of a sample at the working size.

    maps_of: sample, image uint8 (3,h,w), present (C) -> maps (C,h,w), 0 for absent classes. rule:
    maps (C,H,W) at the image's own size, present (C) -> uint8 (H,W).
    """

    def __init__(self, maps_of: Callable, rule: Callable, *of_masks: Any) -> None:
        super().__init__(None, *of_masks)
        self.maps_of, self.rule = maps_of, rule

    def maps(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        ids, device = self.split.labels[sample["name"]], self.ranks.device
        present = multi_hot(ids, len(self.classes))[self.first :].to(device)
        return self.maps_of(sample, sample["image"].to(device), present), present

    def labels(self, sample: dict[str, Any], cams: Tensor, present: Tensor) -> Tensor:
        return self.rule(resize(cams[None].float(), tuple(sample["size"]))[0], present)


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = parse_arguments(argv)
    config, arithmetic = load_config(arguments.config, arguments.overrides), arguments.arithmetic
    config = of_method(config, LR, WEIGHT_DECAY, STRIDE, arithmetic)
    check_crop(config.crop_size)
    out, run_dir, ranks = Path(arguments.out), Path(arguments.run_dir), setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    train, split = load_splits(config, arguments, classes)
    first, count = int(has_background(classes)), len(classes)
    of_train = config.dataset, train.name, classes.names, train.images, train.labels
    cams = SavedMaps(Path(arguments.cams), list(train.images), data_of_masks(*of_train), first)
    transform = TrainTransform(
        config.crop_size, SCALE_RANGE, config.crop_size, photometric_distortion=False
    )
    data = partial(
        TrainingSet, train.images, train.labels, count, transform, cache=config.image_cache
    )
    of_masks = classes, BACKGROUND, config, ranks

    # --- networks, optimisers
    backbone = without_dilation(build_cam_backbone(config, STRIDE))
    edges = EdgeNetwork(copy.deepcopy(backbone)).to(ranks.device)
    model = Network(backbone, count - first, count).to(ranks.device)
    trained = [p for p in model.backbone.parameters() if p.requires_grad]
    optimizer = build_adam(trained, model.head.parameters())
    made_of = {"cams": read_made_from(Path(arguments.cams))[1]}
    run = Run(
        arguments,
        config,
        ranks,
        classes=classes,
        stage="amn",
        end=config.steps,
        inputs=lambda: fingerprint(classes, data(), options=made_of),
        parts={"model": model, "optimizer": optimizer},
    )

    # --- seeds
    def stored(sample: dict[str, Any], image: Tensor, present: Tensor) -> Tensor:
        """The CAMs of baselines.cam."""
        return cams.read(sample["name"])[0].to(image.device)

    seeds = Labels(stored, partial(seed_labels, first=first), train, *of_masks)
    seeds.write(run_dir / "seeds", {"method": "amn"} | made_of, arguments.overwrite, False)
    seed_files = pseudo_mask_files(run_dir / "seeds", train.images)

    # --- AMN
    network = build_network(model, config, ranks)
    groups = torch.arange(count, device=ranks.device).clamp(max=1 if first else count)
    for step, batch in run.steps(data(masks=seed_files)):
        image, labels, label = prepare(batch, ranks.device)
        logits = network(image, step, labels[:, first:, None, None])
        label = centre_labels(label, logits.shape[-2:])
        loss = balanced_loss(logits, label, groups)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        run.log({"loss": loss}, batch["name"], LR)
    del network  # before the process group: its destructor would wait for ever
    run.close(goes_on=True)
    model.eval()

    def maps_at(stride: int, sample: dict[str, Any], image: Tensor, present: Tensor) -> Tensor:
        """AMN's maps at a share of the working size."""
        size = tuple((side - 1) // stride + 1 for side in image.shape[-2:])
        has_seed = first and sample["name"] in seed_files
        seed = torch.from_numpy(read_mask(seed_files[sample["name"]])) if has_seed else None
        return amn_maps(model, image, present, size, seed)

    # --- IRN
    made_of |= {"amn_sha256": network_sha256(model)}
    edge_optimizer = poly_sgd(
        [{"params": [p for p in edges.parameters() if p.requires_grad], "lr": EDGE_LR}],
        WEIGHT_DECAY,
        arithmetic,
    )
    of_irn = argparse.Namespace(**vars(arguments) | {"run_dir": str(run_dir / "irn")})
    steps = max(1, round(IRN_SHARE * config.steps))
    run = Run(
        of_irn,
        config,
        ranks,
        classes=classes,
        stage="irn",
        end=steps,
        inputs=lambda: fingerprint(classes, data(), options=made_of),
        parts={"model": edges, "optimizer": edge_optimizer},
    )
    rule = partial(seed_labels, first=first, thresholds=IRN_THRESHOLDS)
    labels = Labels(partial(maps_at, 1), rule, train, *of_masks)
    labels.write(run_dir / "irn_labels", {"method": "amn"} | made_of, arguments.overwrite, False)
    label_files = pseudo_mask_files(run_dir / "irn_labels", train.images)
    network = build_network(edges, config, ranks)
    for step, batch in run.steps(data(masks=label_files)):
        image, _, label = prepare(batch, ranks.device)
        edge = network(image, step)
        label = centre_labels(label, edge.shape[-2:])
        affinity = torch.stack([pair_affinities(one[0].sigmoid(), RADIUS) for one in edge])
        losses = affinity_losses(affinity, label, RADIUS, first)
        run.log(losses, batch["name"], poly_step(losses["loss"], edge_optimizer, step, steps))
    del network
    run.close(goes_on=True)
    edges.eval()

    # --- masks
    def walked(sample: dict[str, Any], image: Tensor, present: Tensor) -> Tensor:
        """AMN's maps after the walk, at the working size."""
        maps = maps_at(4, sample, image, present) ** POWER
        return upsampled_walk(edge_walk(maps, edges.boundaries(image)), image.shape[-2:])

    threshold = BACKGROUND if first else None
    masks = Labels(walked, partial(label_cams, threshold=threshold), split, *of_masks)
    made_from = {"method": "amn", "arithmetic": arithmetic, "scales": SCALES} | made_of
    made_from["irn_sha256"] = network_sha256(edges)
    masks.write(out, made_from, arguments.overwrite, arguments.save_cams)
    if arguments.score:
        masks.score(out)
    cleanup()


def prepare(batch: dict[str, Any], device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Normalised image (B,3,H,W), 0 on padding; image-level labels (B,K); label map (B,H,W)."""
    keys = ("image", "image_labels", "valid", "pseudo_mask")
    image, labels, valid, label = (batch[key].to(device) for key in keys)
    return normalize(image, "imagenet", valid), labels, label


def check_crop(size: tuple[int, int]) -> None:
    """Raise InputError where IRN's pairs don't fit into a crop."""
    least = 4 * RADIUS, 8 * RADIUS - 4
    if size[0] < least[0] or size[1] < least[1]:
        raise InputError(
            f"'crop_size' {list(size)} is too small for IRN, whose pairs of cells are up to "
            f"{RADIUS - 1} apart at a quarter of the size; the least is {list(least)}"
        )


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add_arguments(result)
    text = "folder that baselines.cam --save-cams wrote for the train_split (its --out)"
    result.add_argument("--cams", type=path, required=True, help=text)
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
