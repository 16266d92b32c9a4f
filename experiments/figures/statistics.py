"""Fig. 1 of the paper: classes per image, co-occurrence, and images with and without each class."""

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets import open_dataset
from datasets.doctor.statistics import LabelCounts, count_labels
from datasets.image_labels import read_image_labels
from datasets.labels import load_classes
from datasets.split_labels import find_labels
from experiments.figures import commands
from experiments.figures.runs import DATA_SETS, data_set
from experiments.figures.style import (
    BLUE,
    ORANGE,
    WIDTH,
    Figure,
    Missing,
    markdown,
    plotting,
    save_data,
    save_figure,
)
from experiments.object_labels import read_coco, read_voc
from utils.config import load_config
from utils.safe.errors import InputError
from utils.safe.paths import expand

BINS = 20  # of the co-occurrence ratio, from 0 to 1
MANY = 8  # classes in an image: the paper says that most driving scenes have as many
_CLASS_FILES = Path(__file__).parents[2] / "datasets" / "classes"
_NAMES_IN_A_ROW = 45  # class names that are readable side by side


class Labels(NamedTuple):
    """The label counts of one data set."""

    title: str
    images: str  # which images were counted: "training images"
    names: tuple[str, ...]
    counts: LabelCounts


def draw(sources: list[str], out: Path) -> list[Figure]:
    """Fig. 1, with two data sets in each image; `read_source` explains the sources."""
    found = [read_source(source) for source in sources]
    sets = [one for one in found if isinstance(one, Labels)]
    missing = tuple(one for one in found if isinstance(one, Missing))
    caption = (
        "(a) Images by their number of classes. (b) Ordered pairs of different classes by their "
        "co-occurrence ratio: images with both / images with the first one. (c) Images with "
        "(positive) and without (negative) each class. Counted from image-level labels; horizontal "
        f"axes are shared. {'; '.join(f'{one.title}: {one.images}' for one in sets)}."
    )
    figure = Figure("fig1_statistics", "Fig. 1: statistics of the data sets", caption)
    if not sets:
        return [figure._replace(missing=missing)]
    images: list[Path] = []
    for i in range(0, len(sets), 2):
        name = figure.name + (f"_{i // 2 + 1}" if i else "")
        images += save_figure(partial(_draw, sets[i : i + 2], sets), out, name)
    data = save_data(out, figure.name, {"data_sets": [describe(one) for one in sets]})
    tables = (table(sets),)
    return [figure._replace(images=tuple(images), data=data, tables=tables, missing=missing)]


def binned_ratios(counts: LabelCounts) -> np.ndarray:
    """(BINS,) int64: pairs of classes by co-occurrence ratio, 1 in the last bin."""
    # In floating point, 3/20 * 20 is slightly below 3.
    places = np.floor(counts.co_occurrence_ratios() * BINS + 1e-9).astype(np.int64)
    return np.bincount(places.clip(max=BINS - 1), minlength=BINS)


def describe(one: Labels) -> dict[str, Any]:
    """The plotted values of a data set, for the JSON file."""
    counts = one.counts
    return {
        "data_set": one.title,
        "images": one.images,
        "num_images": counts.num_images,
        "images_by_number_of_classes": counts.by_number.tolist(),
        "pairs_by_co_occurrence_ratio": binned_ratios(counts).tolist(),
        "classes": {
            name: {"positive": positive, "negative": counts.num_images - positive}
            for name, positive in zip(one.names, counts.positive.tolist(), strict=True)
        },
        "images_with_both": counts.together.tolist(),
    }


def table(sets: list[Labels]) -> str:
    """Markdown table of the numbers that the paper reads off the figure."""
    head = ("data set", "images", "classes", "classes per image", f"images with {MANY} or more")
    head += ("pairs of ratio 0.5 or more", "in every image")
    rows = []
    for title, _, names, counts in sets:
        ratios = counts.co_occurrence_ratios()
        always = [n for n, p in zip(names, counts.positive, strict=True) if p == counts.num_images]
        rows.append(
            (
                title,
                counts.num_images,
                len(names),
                f"{counts.mean_classes:.1f}",
                f"{100 * counts.by_number[MANY:].sum() / counts.num_images:.0f} %",
                f"{100 * np.mean(ratios >= 0.5):.0f} %" if len(ratios) else "-",
                ", ".join(always) or "-",
            )
        )
    return markdown(head, rows)


def _draw(shown: list[Labels], sets: list[Labels], width: float) -> Any:
    """One image of one or two data sets; the axes fit all of `sets`."""
    pyplot = plotting()
    beside = 1 if width < WIDTH else len(shown)  # number of data sets side by side
    together = sum(len(one.names) for one in shown) <= _NAMES_IN_A_ROW and beside == len(shown)
    rows = [shown] if together else [[one] for one in shown]
    heights = [3.5 * len(shown) / beside, *[2.3] * len(rows)]
    figure = pyplot.figure(figsize=(width, sum(heights)), layout="constrained")
    top, *below = np.atleast_1d(figure.subfigures(len(heights), height_ratios=heights))
    axes = top.subplots(2 * len(shown) // beside, beside, squeeze=False)
    axes = axes.T.reshape(len(shown), 2).T
    most = max(int(np.flatnonzero(one.counts.by_number).max()) for one in sets)
    for column, one in zip(axes.T, shown, strict=True):
        counts = one.counts
        column[0].bar(range(len(counts.by_number)), counts.by_number, color=BLUE)
        column[0].set(
            title=f"{one.title}: {counts.num_images} images, {len(one.names)} classes",
            xlabel="(a) classes in an image",
            xlim=(-0.6, most + 0.6),
        )
        column[0].xaxis.get_major_locator().set_params(integer=True)
        left = np.arange(BINS) / BINS
        column[1].bar(left, binned_ratios(counts), 0.9 / BINS, align="edge", color=BLUE)
        column[1].set(xlabel="(b) co-occurrence ratio", xlim=(0, 1))
    for column in axes.T[::beside]:
        column[0].set_ylabel("images")
        column[1].set_ylabel("pairs of classes")
    for part, row in zip(below, rows, strict=True):
        widths = [len(one.names) for one in row]
        panels = part.subplots(1, len(row), squeeze=False, width_ratios=widths)[0]
        for panel, one in zip(panels, row, strict=True):
            _draw_classes(panel, one, small=widths[0] > _NAMES_IN_A_ROW)
            panel.set_title(f"(c) {one.title}")
        panels[0].set_ylabel("images")
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=2)
    return figure


def _draw_classes(axes: Any, one: Labels, small: bool) -> None:
    positive, places = one.counts.positive, range(len(one.names))
    axes.bar(places, positive, color=BLUE, label="positive")
    negative = one.counts.num_images - positive
    axes.bar(places, negative, bottom=positive, color=ORANGE, label="negative")
    axes.set_xticks(places, one.names, rotation=90, fontsize=6.5 if small else 8)
    axes.set(xlim=(-0.6, len(one.names) - 0.4), ylim=(0, one.counts.num_images))


def read_source(source: str) -> Labels | Missing:
    """The labels of a source.

    CONFIG.yaml          its image_labels, of its training images
    CLASSES:LABELS.json  image-level labels of all images in the file; CLASSES is a class file or
                         the name of one in datasets/classes (cityscapes:image_labels.json)
    voc:FOLDER           VOC2012/, or a list in its ImageSets/
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
        title = DATA_SETS.get(Path(kind).stem, Path(kind).stem)
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
            f"'{config.train_split}' of {config.data_root}; write them again: "
            f"{commands.labels(config)}"
        )
    return Labels(title, "training images", classes.names, count_labels(known, len(classes)))
