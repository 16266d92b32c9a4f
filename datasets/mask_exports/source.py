"""What is exported: the label maps of a folder, the names and colours of their classes."""

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets.components import connected_components
from datasets.doctor.sizes import read_size
from datasets.files import MASK_SUFFIXES, File, check_mask, list_files, open_pil, read_mask
from datasets.ids import match_ids, require
from datasets.labels import IGNORE_INDEX, ClassTable, default_palette, load_classes
from datasets.mask_folder import read_made_from
from datasets.mask_shards import list_masks
from datasets.shards import list_images
from utils.class_names import compare_class_names, plain_name
from utils.progress import progress
from utils.safe.errors import InputError

_GREY, _RGB = 0, 2  # colour types of PNGs; our label maps have a palette, which is 3


class MaskImage(NamedTuple):
    """The image of a mask. path: below the folder of images, with "/" between folders."""

    path: str
    file: File


class LabelMap(NamedTuple):
    """A label map to export: (H,W) uint8 class ids, 255 where there is no label.

    name: the id of its image. image: the image's path below the folder of images; None where that
    folder is not given.
    """

    name: str
    image: str | None
    labels: np.ndarray


def find_masks(folder: Path) -> dict[str, File]:
    """Name -> file of the label maps in a folder of predict.py, gen_clip_masks.py or a method.

    Overlays, the legend and confidence maps are left out. Raises InputError when none is found.
    """
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}; name one that holds label maps")
    found = list_masks(folder)
    masks = {name: file for name, file in found.items() if not _is_beside(name, found)}
    if not masks:
        list_files(folder, MASK_SUFFIXES)  # warns of files that are not read
        raise InputError(
            f"no label maps ({', '.join(MASK_SUFFIXES)}) in {folder} or its folders; make some: "
            "python predict.py, or python gen_clip_masks.py"
        )
    return masks


def _is_beside(name: str, found: Mapping[str, File]) -> bool:
    """Whether a file is the legend, or an overlay or a confidence map of one of the masks.

    A label map of an image with such a name is told from them by its palette.
    """
    if name == "legend" or (name.endswith("_overlay") and name[: -len("_overlay")] in found):
        return _color_type(found[name]) == _RGB
    of_mask = name.removesuffix("_confidence").removeprefix("confidence/")
    return of_mask != name and of_mask in found and _color_type(found[name]) == _GREY


def _color_type(file: File) -> int | None:
    """The colour type of a PNG, byte 25 of its header; None for another file."""
    with contextlib.suppress(InputError):
        head = file.head(26)
        return head[25] if head.startswith(b"\x89PNG") and len(head) == 26 else None
    return None


def load_classes_of(
    folder: Path, masks: Mapping[str, File], class_file: str | None = None
) -> ClassTable:
    """Names and colours of the masks' classes: of the class file, else of the masks themselves.

    The folder's meta.json holds the names, the palette of the first mask the colours. Raises
    InputError when the names are not known, or the class file has others.
    """
    parent, made_from = read_made_from(folder)
    if class_file is not None:
        classes = load_classes(class_file)
        if made_from:
            what = f"the masks in {parent} were made"
            remedy = "name the class file that they were made with"
            compare_class_names(made_from["class_names"], classes.names, what, remedy)
        return classes
    if not made_from:
        raise InputError(
            f"the class names of the masks in {folder} are not known: there is no meta.json of "
            "predict.py, gen_clip_masks.py or a method; name their class file: --class-file"
        )
    names = made_from["class_names"]
    is_text = all(isinstance(name, str) and name.isprintable() for name in names)
    if not is_text or not 1 <= len(set(names)) == len(names) <= IGNORE_INDEX:
        raise InputError(
            f"{parent / 'meta.json'}: expected different class names, 1 to {IGNORE_INDEX}, found "
            f"{str(names)[:60]}; name the class file: --class-file"
        )
    palette = _palette_of(next(iter(masks.values())), len(names))
    return ClassTable(tuple(names), tuple((name,) for name in names), palette)


def _palette_of(mask: File, num_classes: int) -> np.ndarray:
    """(K,3) uint8 colours of a paletted mask; the default ones where it has none."""
    with contextlib.suppress(Exception):  # a damaged mask is reported when it is read
        image = open_pil(mask.read())
        colors = np.array(image.getpalette("RGB") or [], np.uint8).reshape(-1, 3)
        if image.mode == "P" and len(colors) >= num_classes:
            return colors[:num_classes]
    return default_palette(num_classes)


def find_images(folder: Path, masks: Mapping[str, File]) -> dict[str, MaskImage]:
    """Mask name -> its image. Raises InputError when a mask has none."""
    if not folder.is_dir():
        raise InputError(f"no folder at --images {folder}; name the one that holds the images")
    files = list_images(folder)
    known = {name.removesuffix("_leftImg8bit"): file for name, file in files.items()} | files
    ids = match_ids(masks, known)  # Cityscapes' ids lack that suffix
    names = {name: known[ids[name]] for name in masks if name in ids}
    require(masks, names, f"file in {folder}", "name the folder of these masks' images: --images")
    return {
        name: MaskImage(file.member or Path(file.path).relative_to(folder).as_posix(), file)
        for name, file in names.items()
    }


def label_maps(
    masks: Mapping[str, File],
    images: Mapping[str, MaskImage],
    num_classes: int,
    min_area: int = 1,
) -> Iterator[LabelMap]:
    """The label maps, one at a time, in the order of their names.

    images: of `find_images`, or empty. min_area: regions of fewer pixels lose their label. Raises
    InputError when a mask can't be read, or fits neither its image nor the classes.
    """
    for name, file in progress(masks.items(), "export", total=len(masks)):
        labels, image = read_mask(file), images.get(name)
        size = labels.shape if image is None else read_size(image.file)
        if size is None:
            raise InputError(f"cannot read the size of {image.file}; copy or download it again")
        check_mask(labels, file, size, num_classes)
        if min_area > 1:
            labels = without_small_regions(labels, min_area)
        yield LabelMap(name, image and image.path, labels)


def without_small_regions(labels: np.ndarray, least: int) -> np.ndarray:
    """A label map without the regions of fewer than `least` pixels, which get 255.

    A region is a largest set of pixels of one class that are connected through 4-neighbours.
    """
    regions = connected_components(labels)
    small = np.bincount(regions.ravel()) < least
    return np.where(small[regions], np.uint8(IGNORE_INDEX), labels)


def class_regions(labels: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(class id, bool (H,W) of its pixels) of the classes in a label map, in their order."""
    found = np.flatnonzero(np.bincount(labels.ravel(), minlength=256))
    for k in map(int, found):
        if k != IGNORE_INDEX:
            yield k, labels == k


def bounding_box(region: np.ndarray) -> list[int]:
    """[left, top, width, height] in pixels of the true pixels of `region`, of which it has some."""
    rows, columns = (np.flatnonzero(region.any(axis)) for axis in (1, 0))
    left, top = int(columns[0]), int(rows[0])
    return [left, top, int(columns[-1]) + 1 - left, int(rows[-1]) + 1 - top]


def refuse_class_name(classes: ClassTable, reserved: str, whose: str) -> None:
    """Raise InputError when a class has the name that a format gives to pixels without a label."""
    for name in classes.names:
        if plain_name(name) == reserved:
            raise InputError(
                f"the class '{name}' can't be exported: {whose} calls pixels without a label so; "
                "give it another name in a class file, and name that file: --class-file"
            )
