"""Region clustering, after the abstract of Wang et al.: tags -> clusters of regions -> a network.

Wang, Ma and You, "Deep clustering for weakly-supervised semantic segmentation in autonomous driving
scenes", Neurocomputing 381 (2020), 20-28. Neither the authors' code nor their formulas were found,
only the abstract: tags recur over images, so regions are clustered with a deep network, clusters
are related to tags, tags then supervise the segmentation, and the noisy supervision is refined
iteratively. All else here is ours: no number of the paper is claimed, and the method must not go by
the authors' name alone. Equations: models/superpixels.py and models/region_clusters.py.

    python -m baselines.clustering --config C --run-dir runs/clustering --out masks --score \
        --cams CAMS

Reads images, image-level labels and, with --cams, the maps of the training split that
`baselines.cam --save-cams --out CAMS` wrote. Three rounds: regions of the training images are
clustered, clusters get the scores of the tags, regions get labels (RUN_DIR/labels_1, _2, _3), the
network learns from them. Round 1 clusters features of the pretrained backbone; rounds 2 and 3, and
the masks, features of the network so far. RUN_DIR/last.pt is the network after round 3, for
`eval.py --ckpt`; rounds 1 and 2 leave RUN_DIR/round_1 and round_2. It is a mask method: OUT/<image
id>.png with meta.json are the labels that a fourth round would learn from, 255 where unsure; those
of another split come from the clusters of the training split and the labels of its images. Run the
same command again to resume; --overwrite starts over. --score: OUT/score.json.

What tags can't say: classes that are in the same images have the same scores, as road and car in
each image of CamVid. They are named. The maps of --cams break the tie; without them such regions
have no label in round 1, and what the network makes of them later is arbitrary.

Choices that the design leaves open, and deviations from it:
- the config's backbone, its third stage, in place of a ResNet-50; crop_size is the working size,
  into which images are fitted in training and for the masks. Smaller images are padded in training.
- regions are at least 8 pixels wide, a cell of the features, and may have several parts.
- one network and one schedule over config.steps, a third for each round, which goes on with the
  weights and the momentum of the one before; each round draws the same crops. Optimiser and
  augmentation are the config's.
- a data set with a class 'background': it is a tag of every image, with score 0, so that a region
  is background where no tag speaks for its cluster; its map is 1 - the highest map.
- max pi is taken over the classes of the image.

Several processes share the images; k-means and the scores are computed by the first process, while
the others wait. Memory at 512x1024: the features of all regions before PCA, 1.6 MB an image
(4.9 GB for 2975 images) over all processes, then 0.1 MB an image in each; 13 MB for the shares of
regions in cells.
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

from baselines.common import CamMasks, Split, load_split
from datasets.doctor.label_check import check_trainable
from datasets.fingerprint import data_of_masks, fingerprint
from datasets.ids import require
from datasets.labels import IGNORE_INDEX, ClassTable, has_background, load_classes, multi_hot
from datasets.mask_folder import check_no_inputs, pseudo_mask_files, read_made_from
from datasets.saved_maps import SavedMaps
from datasets.training import TrainingSet, build_transform
from datasets.transforms import normalize
from models.build import build_model, build_network, build_optimizer
from models.cam import build_cam_backbone, network_sha256
from models.carb import RegionRules, segmentation_loss, upsample
from models.deeplabv3 import DeepLabV3
from models.kernels.pixel_losses import pixel_losses
from models.region_clusters import (
    Clusters,
    alike,
    cluster_means,
    first_labels,
    kmeans,
    membership,
    moments,
    nearest,
    refined_labels,
    tag_scores,
    whitened,
    whitening,
)
from models.superpixels import (
    map_means,
    region_features,
    region_means,
    superpixels,
    with_background,
)
from models.training import sgd_step
from utils.cli import path, training_parser
from utils.config import Config, load_config
from utils.distributed import Ranks, cleanup, gather_objects, on_main, setup
from utils.progress import progress
from utils.run import Run
from utils.safe.errors import InputError, run_script, warn
from utils.safe.files import check_folder
from utils.schedule import poly_lr
from utils.seed import WEIGHTS, derive, generator

# All ours: the design of the method.
REGIONS, COMPACTNESS, LEAST_SIDE, REGION_ITERATIONS = 400, 10.0, 8, 10  # of an image
STRIDE = 8  # of the first features
PLACE_WEIGHT, DIMS = 0.5, 64  # of the coordinates in a feature; of the features after PCA
CLUSTERS, ITERATIONS = 10, 20  # for each class; of k-means
NOISE, CAM_WEIGHT, MARGIN = 0.05, 1.0, 0.1  # epsilon; of the maps; of the best score, over |I_k|
ROUNDS, SURE = 3, 0.6  # probability from which the network is believed against the cluster


NO_LABEL = (
    "no region gets a label, since the tags tell no two classes of an image apart; maps of a "
    "classifier may: --cams FOLDER, which python -m baselines.cam --save-cams --out FOLDER writes"
)


class RegionLabels(CamMasks):
    """Label maps of a split whose regions have the labels of their clusters."""

    def __init__(
        self,
        network: nn.Module,
        split: Split,
        classes: ClassTable,
        config: Config,
        ranks: Ranks,
        clusters: Clusters | None = None,
    ) -> None:
        """network: see `described`. clusters: needed for `maps`."""
        super().__init__(None, split, classes, None, config, ranks)
        self.network, self.clusters = network, clusters

    def tags(self, name: str) -> Tensor:
        """y (C) of an image; the background is a tag of each."""
        return multi_hot((*self.split.labels[name], *range(self.first)), len(self.classes))

    def maps(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Labels (h,w) at the working size; classes of the image (C)."""
        regions, features, pi = described(self.network, sample["image"].to(self.ranks.device))
        scores, counts = self.clusters.of(features.cpu())
        present = self.tags(sample["name"])
        if pi is None:
            labels = first_labels(scores, counts, present, MARGIN)
        else:
            labels = refined_labels(pi.cpu(), scores, counts, present, SURE)
        return labels[regions.cpu()], present

    def labels(self, sample: dict[str, Any], cams: Tensor, present: Tensor) -> Tensor:
        """The mask uint8 (H,W), at the image's own size, nearest."""
        resized = F.interpolate(cams[None, None].float(), tuple(sample["size"]))
        return resized[0, 0].to(torch.uint8)


@torch.inference_mode()
def described(network: nn.Module, image: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Regions (h,w) of an image uint8 (3,h,w), features phi (R,D+2), mean probabilities (R,C).

    network: a backbone, which has no probabilities; or a whole network, whose features are those
    before the classifier.
    """
    regions = superpixels(image, REGIONS, COMPACTNESS, LEAST_SIDE, REGION_ITERATIONS)
    pixels, pi = normalize(image[None], "imagenet"), None
    if isinstance(network, DeepLabV3):
        maps = network.aspp(network.backbone(pixels))
        pi = region_means(network.classifier(maps).softmax(1)[0], regions)
    else:
        maps = network(pixels)
    return regions, region_features(maps[0], regions, PLACE_WEIGHT), pi


def find_clusters(labels: RegionLabels, cams: SavedMaps | None, t: int) -> Clusters:
    """The clusters of round t, of the regions of the training split; all processes call it.

    labels: of that split. cams: breaks ties. Raises InputError where round 1 labels no region.
    """
    split, config, ranks = labels.split, labels.config, labels.ranks
    places = {name: i for i, name in enumerate(split.images)}
    features, images, maps, total = [], [], [], (0, 0, 0)
    for sample in progress(labels.samples(split.images), f"regions {t}", ranks):
        name = sample["name"]
        regions, found, _ = described(labels.network, sample["image"].to(ranks.device))
        features.append(found.cpu())
        total = [a + b for a, b in zip(total, moments(features[-1]), strict=True)]
        images.append(torch.full((len(found),), places[name]))
        if cams is not None:
            of_image = with_background(cams.read(name)[0]) if labels.first else cams.read(name)[0]
            maps.append(map_means(of_image, regions.cpu(), STRIDE))
    total = [sum(parts) for parts in zip(*gather_objects(total), strict=True)]
    mean, matrix = on_main(ranks, lambda: whitening(*total, DIMS))
    features = [whitened(one, mean, matrix) for one in features]
    own = [torch.cat(part) for part in (features, images, maps) if part]
    everyone = [torch.cat(parts) for parts in zip(*filter(None, gather_objects(own)), strict=True)]

    def cluster() -> Clusters:
        order = everyone[1].argsort(stable=True)  # the same for any number of processes
        points, of_image, *of_maps = (part[order] for part in everyone)
        draws, k = generator(config.seed, WEIGHTS, t), CLUSTERS * len(labels.classes)
        centres = kmeans(points.to(ranks.device), k, ITERATIONS, draws).cpu()
        ids, _ = nearest(points, centres)
        members = membership(ids, of_image, len(centres), len(places))
        tags = torch.stack([labels.tags(name) for name in places])
        scores, counts = tag_scores(members, tags, NOISE), members.sum(1)
        for one in of_maps:
            scores += CAM_WEIGHT * counts[:, None] * cluster_means(one, ids, len(centres))
        found = first_labels(scores[ids], counts[ids], tags[of_image], MARGIN)
        share = (found != IGNORE_INDEX).double().mean().item()
        if t == 1 and share == 0:
            raise InputError(NO_LABEL)
        print(f"{len(ids)} regions in {len(centres)} clusters, which label {100 * share:.1f} %")
        return Clusters(mean, matrix, centres, scores, counts)

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
    check_trainable(classes)
    train = load_split(config, config.train_split, classes, trains=True)
    split = load_split(config, arguments.split or config.train_split, classes)
    truths = split.data.ground_truth(split.name)
    check_no_inputs(out, split.images, [*split.images.values(), *truths.values()])
    check_folder(out, "--out")
    if arguments.score:
        require(split.images, truths, "ground truth", "leave out --score")
    cams = find_cams(arguments.cams, train, classes, config.dataset)
    made_of = {"cams": None if cams is None else read_made_from(cams.folder)[1]}
    data = partial(TrainingSet, train.images, train.labels, len(classes), build_transform(config))
    data = partial(data, cache=config.image_cache)

    # --- networks, optimiser
    backbone = build_cam_backbone(config, STRIDE).to(ranks.device).eval()
    backbone.num_layers = 3  # the features of round 1
    model = build_model(config, len(classes), None).to(ranks.device)
    optimizer, rules = build_optimizer(config, model), RegionRules(sync=config.sync_region_stats)
    tell_ties(RegionLabels(backbone, train, classes, config, ranks), cams)

    def run_of(t: int) -> Run:
        """Round t, restored; without a checkpoint the weights stay as they are."""
        part = {} if t == ROUNDS else {"run_dir": str(run_dir / f"round_{t}")}
        return Run(
            argparse.Namespace(**vars(arguments) | part),
            config,
            ranks,
            stage="clustering",
            end=ends[t] - ends[t - 1],
            classes=classes,
            inputs=lambda: fingerprint(classes, data(), options=made_of),
            parts={"model": model, "optimizer": optimizer},
        )

    def write_labels(t: int, network: nn.Module, to: Split, folder: Path) -> RegionLabels:
        """Cluster the regions of the training split, write the labels of `to` that are missing."""
        made_from = {"method": "clustering", "round": t, "network_sha256": network_sha256(network)}
        clusters, files = None, [folder / f"{name}.png" for name in to.images]
        if arguments.overwrite or on_main(ranks, lambda: not all(map(Path.exists, files))):
            clusters = find_clusters(RegionLabels(network, train, classes, config, ranks), cams, t)
        labels = RegionLabels(network, to, classes, config, ranks, clusters)
        labels.write(folder, made_from | made_of, arguments.overwrite, save_cams=False)
        return labels

    # --- rounds
    last = run_of(ROUNDS)  # first, so that a folder of another run is refused at once
    for t in range(1 if last.step == 0 else ROUNDS, ROUNDS + 1):
        run, folder = last if t == ROUNDS else run_of(t), run_dir / f"labels_{t}"
        if run.step == 0:
            write_labels(t, backbone if t == 1 else model.eval(), train, folder)
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
    masks = write_labels(ROUNDS + 1, model.eval(), split, out)
    if arguments.score:
        masks.score(out)
    cleanup()


def of_method(config: Config) -> Config:
    """The config as the method uses it, so that run folders and meta.json say what was done."""
    if config.steps < ROUNDS:
        raise InputError(f"'steps' is {config.steps}, too few for {ROUNDS} rounds of a step each")
    return dataclasses.replace(config, image_size=config.crop_size, classifier="conv")


def find_cams(
    folder: str | None, train: Split, classes: ClassTable, dataset: str
) -> SavedMaps | None:
    """The maps of --cams, if given. Raises InputError where they are of other data."""
    if folder is None:
        return None
    data = data_of_masks(dataset, train.name, classes.names, train.images, train.labels)
    return SavedMaps(Path(folder), train.images, data, int(has_background(classes)))


def tell_ties(labels: RegionLabels, cams: SavedMaps | None) -> None:
    """Warn of classes that tags can't tell apart; InputError where these are all and no maps are
    given."""
    tags, names = torch.stack([labels.tags(n) for n in labels.split.images]), labels.classes.names
    groups = alike(tags)
    for group in groups:
        told = "without --cams their regions have no label in round 1, and arbitrary ones later"
        warn(
            "the tags can't tell these classes apart, which are in the same images: "
            f"{', '.join(names[c] for c in group)}; "
            + (told if cams is None else "the maps of --cams decide between them")
        )
    shown = [{*one.nonzero().flatten().tolist()} for one in tags]
    if cams is None and all(any(ids <= {*group} for group in groups) for ids in shown):
        raise InputError(NO_LABEL)


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = training_parser(__doc__)
    add = result.add_argument
    add("--out", type=path, required=True, help="folder of the masks")
    add("--split", help="split of the masks (default: train_split of the config)")
    add("--score", action="store_true", help="mIoU against ground truth, also to OUT/score.json")
    add("--cams", type=path, help="maps of baselines.cam --save-cams, to break ties")
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
