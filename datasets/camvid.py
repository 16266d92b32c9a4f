"""CamVid: 11 classes, in the three forms it is found in."""

import functools
from pathlib import Path

import numpy as np
import yaml

from datasets.files import File, list_files, read_image, read_mask, read_split_list
from datasets.labels import IGNORE_INDEX, load_classes
from utils.errors import InputError

EXPECTED = """expected one of
  img/{train,val,test}/<name>.png|jpg + mask/{train,val,test}/<name>.png    (ids 0..10, 255)
  {train,val,test}/<name>.png + {train,val,test}annot/<name>.png            (SegNet: 11 = void)
  701_StillsRaw_full/<name>.png + LabeledApproved_full/<name>_L.png         (original, colours)"""

_CLASSES = Path(__file__).parent / "classes"


class CamVid:
    """Image ids are the file names without suffix, e.g. ``0001TP_006690``."""

    def __init__(self, root: str | Path) -> None:
        """Raises InputError when `root` has none of the known forms."""
        self.root = Path(root)
        if (self.root / "img").is_dir():
            self.layout = "ids"
        elif (self.root / "train").is_dir() and (self.root / "trainannot").is_dir():
            self.layout = "segnet"
        elif (self.root / "701_StillsRaw_full").is_dir():
            self.layout = "original"
        else:
            raise InputError(f"no CamVid in {self.root}; {EXPECTED}")

    def splits(self) -> list[str]:
        """The splits that are there."""
        if self.layout == "original":
            return ["train", "val", "test"]
        folder = self.root / "img" if self.layout == "ids" else self.root
        return [split for split in ("train", "val", "test") if (folder / split).is_dir()]

    def images(self, split: str) -> dict[str, File]:
        """Image id -> file, sorted. Raises InputError when the split or an image is not there."""
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
        """Image id -> label file, as far as they are there."""
        if self.layout == "original":
            files = list_files(self.root / "LabeledApproved_full", ["_L.png"])
            return {name: files[name] for name in self.images(split) if name in files}
        if self.layout == "segnet":
            return list_files(self.root / f"{split}annot", [".png"])
        return list_files(self.root / "mask" / split, [".png"])

    def read_ground_truth(self, file: File) -> np.ndarray:
        """uint8 (H,W): 0..10, 255 where there is no label."""
        if self.layout == "original":
            red, green, blue = np.moveaxis(read_image(file).astype(np.int32), 2, 0)
            return _color_table()[(red << 16) + (green << 8) + blue]
        ids = read_mask(file)
        if self.layout == "segnet":
            ids[ids == 11] = IGNORE_INDEX
        return ids

    def _names(self, split: str, files: dict[str, File]) -> list[str]:
        split_list = self.root / f"{split}.txt"
        if not split_list.is_file():
            return [name for name in files if usual_split(name) == split]
        names = sorted(set(read_split_list(split_list)))
        for name in names:
            if name not in files:
                raise InputError(f"{split_list} names '{name}', but there is no such image")
        return names


def usual_split(image_id: str) -> str:
    """The split in common use since SegNet (367 / 101 / 233 images), told from the frame number."""
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
        f"'{image_id}' is no frame of the CamVid release: write train.txt, val.txt and test.txt "
        "(one image name a line) into the data set's folder"
    )


@functools.cache
def _color_table() -> np.ndarray:
    """All 2^24 colours -> class id, 255 for void."""
    table = np.full(1 << 24, IGNORE_INDEX, np.uint8)
    names = load_classes(_CLASSES / "camvid.yaml").names
    text = (_CLASSES / "camvid_colors.yaml").read_text(encoding="utf-8")
    for item in yaml.safe_load(text)["colors"]:
        red, green, blue = item["color"]
        table[(red << 16) + (green << 8) + blue] = names.index(item["class"])
    return table
