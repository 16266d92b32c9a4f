"""Cityscapes: 19 train ids, from the unpacked tree or straight from the two official zips."""

from pathlib import Path

import numpy as np

from datasets.files import File, list_files, list_zip, read_mask
from datasets.labels import IGNORE_INDEX
from datasets.unknown_values import refuse_unknown
from utils.safe.errors import InputError

EXPECTED = """expected
  leftImg8bit/{train,val,test}/<city>/<city>_000000_000019_leftImg8bit.png
  gtFine/{train,val}/<city>/<city>_000000_000019_gtFine_labelIds.png  (or ..._labelTrainIds.png)
or leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip, not unpacked"""

# The number that label files and the benchmark server use for each train id.
LABEL_ID_OF_TRAIN_ID = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_TRAIN_ID_OF_LABEL_ID = np.full(256, IGNORE_INDEX, np.uint8)
_TRAIN_ID_OF_LABEL_ID[list(LABEL_ID_OF_TRAIN_ID)] = np.arange(19)
_TRAIN_ID_OF_LABEL_ID.flags.writeable = False
# Other files that the release has beside images and label files.
_KNOWN = tuple(
    f"_gtFine_{what}"
    for what in (
        "color.png",
        "polygons.json",
        "labelIds.png",
        "labelTrainIds.png",
        "instanceIds.png",
        "instanceTrainIds.png",
    )
)


class Cityscapes:
    """Image ids are ``<city>/<city>_000000_000019``."""

    def __init__(self, root: str | Path) -> None:
        """Raises InputError when there are no images in `root`."""
        self.root = Path(root)
        if not self.splits():
            raise InputError(f"no Cityscapes images in {self.root}; {EXPECTED}")

    def splits(self) -> list[str]:
        """The splits that exist."""
        splits = ("train", "val", "test")
        return [split for split in splits if self._list("leftImg8bit", split, "_leftImg8bit.png")]

    def images(self, split: str) -> dict[str, File]:
        """Image id -> file, sorted. Raises InputError when the split is missing."""
        files = self._list("leftImg8bit", split, "_leftImg8bit.png")
        if not files:
            raise InputError(f"{self.root} has no Cityscapes images of '{split}'; {EXPECTED}")
        return files

    def ground_truth(self, split: str) -> dict[str, File]:
        """Image id -> label file; empty for the test split, whose released labels are blank."""
        if split == "test":
            return {}
        files = self._list("gtFine", split, "_gtFine_labelIds.png")
        files.update(self._list("gtFine", split, "_gtFine_labelTrainIds.png"))
        return dict(sorted(files.items()))

    def read_ground_truth(self, file: File) -> np.ndarray:
        """uint8 (H,W) train ids, 255 where there is none; label ids are mapped."""
        ids = read_mask(file)
        if (file.member or file.path).endswith("_labelTrainIds.png"):
            return ids
        is_unknown = (ids > LABEL_ID_OF_TRAIN_ID[-1]) & (ids != IGNORE_INDEX)
        what = "ids that no label of Cityscapes has (0 to 33)"
        refuse_unknown(is_unknown, ids, file, what, int, lambda: "check what wrote the file")
        return _TRAIN_ID_OF_LABEL_ID[ids]

    def _list(self, kind: str, split: str, ending: str) -> dict[str, File]:
        if (self.root / kind).is_dir():
            return list_files(self.root / kind / split, [ending], _KNOWN)
        archive = self.root / f"{kind}_trainvaltest.zip"
        folder = f"{kind}/{split}/"
        return list_zip(archive, folder, [ending], _KNOWN) if archive.is_file() else {}
