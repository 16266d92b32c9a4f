"""Where Fig. 1 takes image-level labels from: a config, a file of labels, PASCAL VOC, MS COCO."""

from pathlib import Path
from typing import NamedTuple

from datasets import open_dataset
from datasets.doctor.statistics import LabelCounts, count_labels
from datasets.image_labels import read_image_labels
from datasets.labels import load_classes
from datasets.split_labels import find_labels
from experiments.figures import commands
from experiments.figures.style import Missing
from experiments.object_labels import read_coco, read_voc
from utils.config import Config, load_config
from utils.safe.errors import InputError
from utils.safe.paths import expand

TITLES = {"cityscapes": "Cityscapes", "camvid": "CamVid", "wilddash2": "WildDash2"}
_CLASS_FILES = Path(__file__).parent.parent.parent / "datasets" / "classes"


class Labels(NamedTuple):
    """The counts of one data set."""

    title: str
    images: str  # which of its images: "training images"
    names: tuple[str, ...]
    counts: LabelCounts


def read_source(source: str) -> Labels | Missing:
    """The labels that a source names.

    CONFIG.yaml          its image_labels, of its training images
    CLASSES:LABELS.json  image-level labels of all images in the file; CLASSES is a class file or
                         the name of one in datasets/classes (cityscapes:image_labels.json)
    voc:FOLDER           VOC2012/, or one of the lists in its ImageSets/
    coco:FILE            annotations/instances_train2014.json
    """
    kind, separator, path = source.rpartition(":")
    if not separator or Path(source).is_file():
        return _from_config(expand(source))
    path = expand(path)
    counted = f"images of {path}"
    if kind == "voc":
        labels, names = read_voc(path)
        title = "PASCAL VOC"
    elif kind == "coco":
        labels, names = read_coco(path)
        title = "MS COCO"
    else:
        shipped = _CLASS_FILES / f"{kind}.yaml"
        names = load_classes(shipped if shipped.is_file() else expand(kind)).names
        labels = read_image_labels(path, len(names), names)
        title = TITLES.get(Path(kind).stem, Path(kind).stem)
    return Labels(title, counted, names, count_labels(list(labels.values()), len(names)))


def _from_config(path: str) -> Labels | Missing:
    config = load_config(path)
    title = data_set(config)
    if not Path(config.data_root).is_dir():
        return Missing(f"the images of {title} in {config.data_root} (README, Data)")
    if not Path(config.image_labels).is_file():
        return Missing(f"the image-level labels of {title}", commands.labels(config))
    classes = load_classes(config.class_file)
    dataset = open_dataset(config.dataset, config.data_root)
    images = dataset.images(config.train_split)
    labels = find_labels(dataset, config.train_split, config.image_labels, classes, images)
    known = list(labels.values())
    if not known:
        raise InputError(
            f"{config.image_labels} has no label of the {len(images)} images in "
            f"'{config.train_split}' of {config.data_root}; make them again: "
            f"{commands.labels(config)}"
        )
    return Labels(title, "training images", classes.names, count_labels(known, len(classes)))


def data_set(config: Config) -> str:
    """Its name, for readers."""
    return TITLES.get(config.dataset, Path(config.data_root).name)
