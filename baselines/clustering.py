"""Region clustering, after the abstract of Wang et al.: tags -> clusters of regions -> a network.

Wang, Ma and You, "Deep clustering for weakly-supervised semantic segmentation in autonomous driving
scenes", Neurocomputing 381 (2020), 20-28. We had its abstract alone, no code or formulas: cluster
regions, relate clusters to tags, refine the labels iteratively. All else is ours: no number of the
paper is claimed, and the method must not go by the authors' name alone.

    python -m baselines.clustering --config C --run-dir runs/clustering --out masks --cams CAMS

Reads images, image-level labels and, with --cams, the maps of the training split that
`baselines.cam --save-cams --out CAMS` wrote. In three rounds regions get labels of their clusters
(RUN_DIR/labels_1, _2, _3) and the network learns from them (RUN_DIR/round_1, round_2, and RUN_DIR,
whose last.pt is for `eval.py --ckpt`). OUT/<image id>.png with meta.json: labels of a fourth round,
255 where unsure; --score: OUT/score.json. The same command resumes; --overwrite starts over.

Tags can't tell apart classes that are in the same images, as road and car in CamVid. The maps of
--cams decide between them; without, their regions have no label in round 1, later an arbitrary one.

Choices and deviations:
- the third stage of the config's backbone in place of a ResNet-50's; crop_size is the working size,
  into which images are fitted for the masks and in training, where smaller ones are padded.
- regions are at least 8 pixels wide, a cell of the features, and may have several parts.
- one network and one schedule over config.steps, a third for each round, which keeps weights and
  momentum of the one before and draws the same crops. Optimiser and augmentation: the config's.
- a class 'background' is a tag of every image, with score 0; its map is 1 - the highest map.
- max pi is over the classes of the image. All splits share the clusters of the training split.

Memory at 512x1024: 1.6 MB an image (4.9 GB for 2975) for the features before PCA, over all
processes, then 0.1 MB in each. The first process clusters, while the others wait.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from baselines.common import CamMasks
from baselines.stages import add_arguments, load_splits, part_of, saved_cams
from datasets.fingerprint import fingerprint
from datasets.labels import IGNORE_INDEX, load_classes, multi_hot
from datasets.mask_folder import pseudo_mask_files, read_made_from
from datasets.saved_maps import SavedMaps
from datasets.training import TrainingSet, build_transform
from datasets.transforms import normalize
from models.build import build_model, build_network, build_optimizer
from models.cam import build_cam_backbone, network_sha256, with_background
from models.carb import RegionRules, segmentation_loss, upsample
from models.kernels.pixel_losses import pixel_losses
from models.region_clusters import gathered, whiten
from models.region_labels import Clusters, check_ties, clustered, share_of
from models.superpixels import described, map_means
from models.training import sgd_step
from utils.cli import path, training_parser
from utils.config import Config, load_config
from utils.distributed import cleanup, on_main, setup
from utils.progress import progress
from utils.run import Run
from utils.safe.errors import InputError, run_script
from utils.schedule import poly_lr
from utils.seed import WEIGHTS, derive, generator

# Ours. The other settings are in models/: superpixels, region_clusters and region_labels.
ROUNDS, STRIDE = 3, 8  # stride: of the first features


class RegionLabels(CamMasks):
    """Label maps of a split whose regions have the labels of their clusters."""

    def __init__(self, network: nn.Module, clusters: Clusters | None, *of_masks: Any) -> None:
        """network: see `described`. clusters: needed for `maps`."""
        super().__init__(None, *of_masks)
        self.network, self.clusters = network, clusters

    def tags(self, name: str) -> Tensor:
        """y (C) of an image; the background is a tag of each."""
        return multi_hot((*self.split.labels[name], *range(self.first)), len(self.classes))

    def all_tags(self) -> Tensor:
        """y (I,C) of the images of the split."""
        return torch.stack([self.tags(name) for name in self.split.images])

    def maps(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Labels (h,w) at the working size; classes of the image (C)."""
        regions, features, pi = described(self.network, sample["image"].to(self.ranks.device))
        present = self.tags(sample["name"])
        return self.clusters.labels(features, pi, present)[regions], present

    def labels(self, sample: dict[str, Any], cams: Tensor, present: Tensor) -> Tensor:
        """The mask uint8 (H,W), at the image's own size, nearest."""
        resized = F.interpolate(cams[None, None].float(), tuple(sample["size"]))
        return resized[0, 0].to(torch.uint8)


def find_clusters(labels: RegionLabels, cams: SavedMaps | None, t: int) -> Clusters:
    """The clusters of round t, of the regions of the training split; all processes call it.

    labels: of that split. cams: breaks ties. Raises InputError where round 1 labels no region.
    """
    ranks, places = labels.ranks, {name: i for i, name in enumerate(labels.split.images)}
    features, images, maps = [], [], []
    for sample in progress(labels.samples(places), f"regions {t}", ranks):
        regions, found, _ = described(labels.network, sample["image"].to(ranks.device))
        features.append(found)
        images.append(torch.full((len(found),), places[sample["name"]]))
        if cams is not None:
            one, _ = cams.read(sample["name"])
            maps.append(map_means(with_background(one) if labels.first else one, regions, STRIDE))
    features, mean, matrix = whiten(features, ranks)
    points, of_regions, *of_maps = gathered(features, images, maps)

    def cluster() -> Clusters:
        draws, tags = generator(labels.config.seed, WEIGHTS, t), labels.all_tags()
        *found, first = clustered(points, of_regions, tags, draws, ranks.device, *of_maps)
        share = 100 * share_of(first, needed=t == 1)
        print(f"{len(first)} regions in {len(found[0])} clusters, which label {share:.1f} %")
        return Clusters(mean, matrix, *found)

    return on_main(ranks, cluster)


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks, seed
    arguments = parse_arguments(argv)
    config = of_method(load_config(arguments.config, arguments.overrides))
    ends = [config.steps * t // ROUNDS for t in range(ROUNDS + 1)]
    out, run_dir, ranks = Path(arguments.out), Path(arguments.run_dir), setup(arguments.device)
    torch.manual_seed(derive(config.seed, WEIGHTS))

    # --- data
    classes = load_classes(config.class_file)
    train, split = load_splits(config, arguments, classes)
    cams = saved_cams(Path(arguments.cams), train, config, classes) if arguments.cams else None
    made_of = {"cams": None if cams is None else read_made_from(cams.folder)[1]}
    data = partial(TrainingSet, train.images, train.labels, len(classes), build_transform(config))
    data = partial(data, cache=config.image_cache)
    of_masks, of_training = ((one, classes, None, config, ranks) for one in (split, train))

    # --- networks, optimiser
    backbone = build_cam_backbone(config, STRIDE).to(ranks.device).eval()
    backbone.num_layers = 3  # the features of round 1
    model = build_model(config, len(classes), None).to(ranks.device)
    optimizer, rules = build_optimizer(config, model), RegionRules(sync=config.sync_region_stats)
    tags = RegionLabels(backbone, None, *of_training).all_tags()
    check_ties(tags, classes.names, has_maps=cams is not None)

    def run_of(t: int) -> Run:
        """Round t, restored; without a checkpoint the weights stay as they are."""
        return Run(
            arguments if t == ROUNDS else part_of(arguments, f"round_{t}"),
            config,
            ranks,
            stage="clustering",
            end=ends[t] - ends[t - 1],
            classes=classes,
            inputs=lambda: fingerprint(classes, data(), options=made_of),
            parts={"model": model, "optimizer": optimizer},
        )

    def write_labels(t: int, network: nn.Module, folder: Path, of_split: Any) -> RegionLabels:
        """Cluster the regions of the training split; write what labels a split lacks."""
        made_from = {"method": "clustering", "round": t, "network_sha256": network_sha256(network)}
        clusters, files = None, [folder / f"{name}.png" for name in of_split[0].images]
        if arguments.overwrite or on_main(ranks, lambda: not all(map(Path.exists, files))):
            clusters = find_clusters(RegionLabels(network, None, *of_training), cams, t)
        labels = RegionLabels(network, clusters, *of_split)
        labels.write(folder, made_from | made_of, arguments.overwrite, save_cams=False)
        return labels

    # --- rounds
    last = run_of(ROUNDS)  # first, so that a folder of another run is refused at once
    for t in range(1 if last.step == 0 else ROUNDS, ROUNDS + 1):
        run, folder = last if t == ROUNDS else run_of(t), run_dir / f"labels_{t}"
        if run.step == 0:
            write_labels(t, backbone if t == 1 else model.eval(), folder, of_training)
        masks = pseudo_mask_files(folder, train.images) if run.step < run.end else None
        network = build_network(model, config, ranks)
        for step, batch in run.steps(data(masks=masks)):
            keys, step = ("image", "valid", "pseudo_mask"), ends[t - 1] + step
            image, valid, mask = (batch[key].to(ranks.device) for key in keys)
            logits = upsample(network(normalize(image, "imagenet", valid), step), mask.shape[-2:])
            loss = segmentation_loss(pixel_losses(logits, mask)[0], mask, rules)
            lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.poly_power)
            sgd_step(loss, optimizer, lr)
            labelled = (mask != IGNORE_INDEX).float().mean()
            run.log({"loss": loss, "labelled_fraction": labelled}, batch["name"], lr)
        del network  # before the process group: its destructor would wait for ever
        run.close(goes_on=True)

    # --- masks
    masks = write_labels(ROUNDS + 1, model.eval(), out, of_masks)
    if arguments.score:
        masks.score(out)
    cleanup()


def of_method(config: Config) -> Config:
    """The config as the method uses it, so that run folders and meta.json say what was done."""
    if config.steps < ROUNDS:
        raise InputError(f"'steps' is {config.steps}, too few for {ROUNDS} rounds of a step each")
    return dataclasses.replace(config, image_size=config.crop_size, classifier="conv")


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add_arguments(result, arithmetic=None, maps=False)
    result.add_argument(
        "--cams", type=path, help="maps of baselines.cam --save-cams, to break ties"
    )
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
