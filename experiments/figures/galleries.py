"""Rows of images and their label maps (masks, predictions). Needs no matplotlib."""

import base64
import contextlib
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datasets import SegmentationData, open_dataset
from datasets.files import File, read_image, read_mask
from datasets.labels import IGNORE_INDEX, ClassTable, load_classes
from experiments.figures.style import Figure, Gallery, save_data
from utils.config import Config
from utils.safe.errors import InputError
from utils.visualize import IGNORED_COLOR, colourize, gallery, save_image

_PANEL = 960  # pixels: width of the widest panel on a page


class Rows(NamedTuple):
    """Arguments of utils.visualize.gallery."""

    panels: list[list[np.ndarray]]  # by row
    titles: list[str]  # of the columns
    names: list[str]  # of the legend
    colours: np.ndarray
    notes: list[str]  # above each row


class Column(NamedTuple):
    """A folder of label maps <image id>.png."""

    title: str
    folder: Path
    miou: float | None  # 0..1, of the whole split

    @property
    def heading(self) -> str:
        return self.title if self.miou is None else f"{self.title}\nmIoU {100 * self.miou:.1f}"


class SplitData(NamedTuple):
    """Images of a split, their ground truth (may be empty), and the classes."""

    dataset: SegmentationData
    images: dict[str, File]
    ground_truth: dict[str, File]
    classes: ClassTable

    def truth(self, name: str) -> np.ndarray:
        """Ground truth of an image, (H,W) uint8; 255 is not labelled."""
        return self.dataset.read_ground_truth(self.ground_truth[name])


def open_split(config: Config, split: str) -> SplitData:
    """The data of a split. Raises InputError when data set, split or class file is missing."""
    dataset = open_dataset(config.dataset, config.data_root)
    images, truths = dataset.images(split), dataset.ground_truth(split)
    return SplitData(dataset, images, truths, load_classes(config.class_file))


def chosen(split_data: SplitData, images: int | Sequence[str]) -> list[str]:
    """Image ids: the given ones, or that many evenly spaced ones."""
    names = list(split_data.images)
    if isinstance(images, int):
        count = min(images, len(names))
        return [names[i * len(names) // count] for i in range(count)]
    unknown = [name for name in images if name not in split_data.images]
    if unknown:
        raise InputError(f"no image {', '.join(unknown)}; ids look like {names[0]}")
    return list(images)


def check_choice(configs: Iterable[Config], split: str, images: int | Sequence[str]) -> None:
    """Raise InputError when none of the available data sets has the split, or one of the ids.

    Missing data sets are reported in their figures.
    """
    splits: set[str] = set()
    ids: dict[str, File] = {}
    for config in configs:
        with contextlib.suppress(InputError):
            dataset = open_dataset(config.dataset, config.data_root)
            splits |= {*dataset.splits()}
            ids |= dataset.images(split)
    if splits and split not in splits:
        raise InputError(f"--split: no split '{split}', only {', '.join(sorted(splits))}")
    unknown = [] if isinstance(images, int) else [name for name in images if name not in ids]
    if ids and unknown:
        raise InputError(
            f"--images: no image {', '.join(unknown)}; ids look like {next(iter(ids))}"
        )


def save_gallery(path: Path, rows: Rows) -> Gallery:
    """Write the rows as one image; gives them as separate panels for the page."""
    save_image(path, gallery(*rows))
    legend = [(n, tuple(rgb)) for n, rgb in zip(rows.names, rows.colours.tolist(), strict=True)]
    panels = [[_encoded(panel) for panel in row] for row in rows.panels]
    return Gallery(panels, rows.titles, rows.notes, legend)


def _encoded(panel: np.ndarray) -> str:
    """(H,W,3) uint8 as a data URI at most _PANEL wide: label maps as PNG, photographs as JPEG."""
    image, file = Image.fromarray(panel), io.BytesIO()
    is_map = image.getcolors() is not None  # at most 256 colours
    how = Image.Resampling.NEAREST if is_map else Image.Resampling.LANCZOS
    width = min(_PANEL, image.width)
    image = image.resize((width, max(1, round(image.height * width / image.width))), how)
    kind = "png" if is_map else "jpeg"
    image.save(file, kind, quality=85)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def compared(split_data: SplitData, names: Sequence[str], columns: Sequence[Column]) -> Rows:
    """Rows of image, ground truth (if any) and label maps, each with the id of its image."""
    truth = [split_data.truth] if split_data.ground_truth else []
    titles = ["image", *["ground truth"] * len(truth), *(column.heading for column in columns)]
    maps = {
        name: [*(read(name) for read in truth), *(read_map(c.folder, name) for c in columns)]
        for name in names
    }
    return rows_of(split_data, maps, titles, list(names))


def rows_of(
    split_data: SplitData,
    maps: dict[str, list[np.ndarray]],
    titles: list[str],
    notes: list[str],
    marked: tuple[str, tuple[int, ...]] | None = None,
) -> Rows:
    """Rows of images and their `maps`: class ids (H,W), or colours (H,W,3).

    The legend has all classes, "not labelled" if there are such pixels, and `marked`.
    """
    palette, panels, unlabelled = split_data.classes.palette, [], False
    for name, row in maps.items():
        unlabelled |= any(bool((ids == IGNORE_INDEX).any()) for ids in row if ids.ndim == 2)
        painted = (ids if ids.ndim == 3 else colourize(ids, palette) for ids in row)
        panels.append([read_image(split_data.images[name]), *painted])
    legend = dict(zip(split_data.classes.names, map(tuple, palette), strict=True))
    legend |= {"not labelled": IGNORED_COLOR} if unlabelled else {}
    legend |= dict([marked]) if marked else {}
    return Rows(panels, titles, list(legend), np.array([*legend.values()], np.uint8), notes)


def with_gallery(figure: Figure, rows: Rows, content: dict[str, Any], out: Path) -> Figure:
    """Write the rows and the data of a figure; gives the figure that names them."""
    path = out / f"{figure.name}.png"
    return figure._replace(
        images=(path,),
        galleries=(save_gallery(path, rows),),
        data=save_data(out, figure.name, content),
    )


def read_map(folder: Path, name: str) -> np.ndarray:
    """Class ids of FOLDER/<image id>.png, (H,W) uint8."""
    return read_mask(File(str(folder / f"{name}.png")))
