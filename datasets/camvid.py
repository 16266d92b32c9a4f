"""CamVid: 11 classes, in the four layouts in use."""

import functools
from pathlib import Path

import numpy as np
import yaml

from datasets.files import (
    MASK_SUFFIXES,
    File,
    list_files,
    read_image,
    read_mask,
    read_split_list,
)
from datasets.labels import IGNORE_INDEX, load_classes
from datasets.unknown_values import color_codes, color_of, refuse_unknown
from utils.safe.errors import InputError

EXPECTED = """expected one of
  img/{train,val,test}/<name>.png|jpg + mask/{train,val,test}/<name>.png    (ids 0..10, 255)
  {train,val,test}/<name>.png + {train,val,test}annot/<name>.png            (SegNet: 11 = void)
  {train,val,test}/<name>.png + {train,val,test}_labels/<name>_L.png        (Kaggle, colours)
  701_StillsRaw_full/<name>.png + LabeledApproved_full/<name>_L.png         (original, colours)"""

_SWAPPED = "red and blue are swapped (OpenCV writes BGR): swap them back"
_SMOOTHED = (
    "was it resized with smoothing, or saved as JPEG? Use the original, and resize with nearest "
    "neighbour"
)
_CLASSES = Path(__file__).parent / "classes"


class CamVid:
    """Image ids are the file names without suffix, e.g. ``0001TP_006690``."""

    def __init__(self, root: str | Path) -> None:
        """Raises InputError when `root` has none of the known layouts."""
        self.root = Path(root)
        if (self.root / "img").is_dir():
            self.layout = "ids"
        elif (self.root / "train").is_dir() and (self.root / "trainannot").is_dir():
            self.layout = "segnet"
        elif (self.root / "train").is_dir() and (self.root / "train_labels").is_dir():
            self.layout = "kaggle"
        elif (self.root / "701_StillsRaw_full").is_dir():
            self.layout = "original"
        else:
            raise InputError(f"no CamVid in {self.root}; {EXPECTED}")

    def splits(self) -> list[str]:
        """The splits that exist."""
        if self.layout == "original":
            return ["train", "val", "test"]
        folder = self.root / "img" if self.layout == "ids" else self.root
        return [split for split in ("train", "val", "test") if (folder / split).is_dir()]

    def images(self, split: str) -> dict[str, File]:
        """Image id -> file, sorted. Raises InputError when the split or an image is missing."""
        if split not in self.splits():
            raise InputError(
                f"{self.root} has no split '{split}', only {', '.join(self.splits())}; {EXPECTED}"
            )
        if self.layout == "original":
            files = list_files(self.root / "701_StillsRaw_full")
            return {name: files[name] for name in self._names(split, files)}
        files = list_files(self.root / ("img" if self.layout == "ids" else "") / split)
        if not files:
            raise InputError(f"{self.root} has no images of '{split}'; {EXPECTED}")
        return files

    def ground_truth(self, split: str) -> dict[str, File]:
        """Image id -> label file, for the images that have one."""
        if self.layout == "original":
            files = list_files(self.root / "LabeledApproved_full", ["_L.png"])
            return {name: files[name] for name in self.images(split) if name in files}
        if self.layout == "kaggle":
            return list_files(self.root / f"{split}_labels", ["_L.png"])
        if self.layout == "segnet":
            return list_files(self.root / f"{split}annot", MASK_SUFFIXES)
        return list_files(self.root / "mask" / split, MASK_SUFFIXES)

    def read_ground_truth(self, file: File) -> np.ndarray:
        """uint8 (H,W): 0..10, 255 where there is no label."""
        if self.layout in ("original", "kaggle"):
            return _from_colors(read_image(file), file)
        ids = read_mask(file)
        if self.layout == "segnet":
            ids[ids == 11] = IGNORE_INDEX
        return ids

    def _names(self, split: str, files: dict[str, File]) -> list[str]:
        split_list = self.root / f"{split}.txt"
        if not split_list.is_file():
            return [name for name in files if usual_split(name) == split]
        return sorted(set(read_split_list(split_list, files)))


def usual_split(image_id: str) -> str:
    """The split in common use since SegNet (367 / 101 / 233 images), by frame number."""
    sequence, _, frame = image_id.rpartition("_")
    number = int(frame.removeprefix("f")) if frame.removeprefix("f").isdecimal() else -1
    if sequence == "0006R0":
        return "train"
    if sequence == "Seq05VD":
        return "test"
    if sequence == "0001TP" and number >= 0:
        return "train" if number <= 8520 else "test"
    if sequence == "0016E5" and number >= 0:
        return "val" if 7959 <= number <= 8159 else "train"
    raise InputError(
        f"'{image_id}' is not a frame of the CamVid release: write train.txt, val.txt and test.txt "
        "(one image name a line) into the data set's folder"
    )


def _from_colors(pixels: np.ndarray, file: File) -> np.ndarray:
    """uint8 (H,W): class ids of label colours. Raises InputError where many have no class."""
    codes = color_codes(pixels)
    ids = _color_table()[codes]
    is_unknown = (ids == IGNORE_INDEX) & (codes != 0)  # 0: Void

    def hint() -> str:
        swapped = color_codes(pixels, swapped=True)
        found = (_color_table()[swapped] != IGNORE_INDEX) | (swapped == 0)
        return _SWAPPED if found.mean() > 0.99 else _SMOOTHED

    refuse_unknown(is_unknown, codes, file, "colours of no class", color_of, hint)
    return ids


@functools.cache
def _color_table() -> np.ndarray:
    """All 2^24 colours -> class id, 255 for void."""
    table = np.full(1 << 24, IGNORE_INDEX, np.uint8)
    names = load_classes(_CLASSES / "camvid.yaml").names
    for item in _colors():
        red, green, blue = item["color"]
        table[(red << 16) + (green << 8) + blue] = names.index(item["class"])
    return table


@functools.cache
def _colors() -> list[dict]:
    """Name, colour and class of every label colour except Void's."""
    return yaml.safe_load((_CLASSES / "camvid_colors.yaml").read_text(encoding="utf-8"))["colors"]
