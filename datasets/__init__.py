"""The data sets by name. Each gives `splits`, `images`, `ground_truth` and `read_ground_truth`."""

from pathlib import Path
from typing import Protocol

import numpy as np

from datasets.camvid import CamVid
from datasets.cityscapes import Cityscapes
from datasets.files import File
from datasets.folder import Folder
from datasets.shards import Shards, is_sharded
from datasets.wilddash2 import WildDash2
from utils.safe.errors import InputError


class SegmentationData(Protocol):
    """What a data set offers. Image ids are the keys that image-level labels use."""

    root: Path

    def splits(self) -> list[str]: ...
    def images(self, split: str) -> dict[str, File]: ...
    def ground_truth(self, split: str) -> dict[str, File]: ...
    def read_ground_truth(self, file: File) -> np.ndarray: ...


DATASETS = {
    "cityscapes": Cityscapes,
    "camvid": CamVid,
    "wilddash2": WildDash2,
    "folder": lambda root: Shards(root) if is_sharded(root) else Folder(root),
}


def open_dataset(name: str, root: str | Path) -> SegmentationData:
    """Open the data set `name` in the folder `root`. Raises InputError when it does not exist."""
    if name not in DATASETS:
        raise InputError(f"'dataset' must be one of {', '.join(DATASETS)}; found '{name}'")
    if not Path(root).is_dir():
        raise InputError(f"no folder {root}; set data_root (--root) to the folder of the data set")
    return DATASETS[name](root)
