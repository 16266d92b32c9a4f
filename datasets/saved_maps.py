"""Maps of the classes of each image, as --save-cams leaves them beside the masks of a method.

OUT/cams/<image id>.npz: "classes", ids of the image's classes, and "cams", their maps (k,h,w) in
float16.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor

from datasets.mask_folder import read_made_from
from utils.made_from import changed, listed
from utils.safe.errors import InputError
from utils.safe.files import replacing

CAMS = "cams"  # folder of the maps, in the folder of the masks


def save_maps(file: Path, cams: Tensor, present: Tensor, first: int) -> None:
    """Write the maps (C,H,W) of the classes in `present` (C).

    first: class id of the first map.
    """
    kept = present.nonzero().flatten()
    maps = cams[kept].half().cpu().numpy()
    with replacing(file) as temporary, temporary.open("wb") as opened:
        np.savez_compressed(opened, classes=(kept + first).cpu().numpy(), cams=maps)


class SavedMaps:
    """The maps in the folder of an earlier method, for images of the same data."""

    def __init__(
        self, folder: Path, names: Collection[str], data: Mapping[str, Any], first: int
    ) -> None:
        """folder: that method's --out. data: of `datasets.fingerprint.data_of_masks`. first: class
        id of the first map.

        Raises InputError where maps are missing or were made from other data.
        """
        self.folder, self.first = folder, first
        self.count = len(data["class_names"]) - first
        parent, made_from = read_made_from(folder)
        if parent != folder or not made_from:
            raise InputError(
                f"--cams {folder} has no meta.json; expected the folder that python -m "
                "baselines.cam --save-cams --out FOLDER wrote"
            )
        if other := changed(made_from, data):
            raise InputError(
                f"--cams {folder}: its maps were made from other data ({listed(other)}); make them "
                "from these: python -m baselines.cam --save-cams --out FOLDER"
            )
        missing = [name for name in names if not self.file(name).is_file()]
        if missing:
            raise InputError(
                f"--cams {folder}: {len(missing)} of {len(names)} images have no maps, the first "
                f"is {self.file(missing[0])}; the command that made it, with --save-cams, makes "
                "what is missing"
            )

    def file(self, name: str) -> Path:
        return self.folder / CAMS / f"{name}.npz"

    def read(self, name: str) -> tuple[Tensor, Tensor]:
        """Maps (C,h,w) float32 of an image, 0 for absent classes, and which are present (C)."""
        file = self.file(name)
        try:
            with np.load(file, allow_pickle=False) as content:
                ids = torch.from_numpy(content["classes"].astype(np.int64)) - self.first
                maps = torch.from_numpy(content["cams"].astype(np.float32))
            if len(ids) != len(maps) or (ids < 0).any():
                raise ValueError(f"classes {(ids + self.first).tolist()}, {len(maps)} maps")
            cams, present = torch.zeros(self.count, *maps.shape[1:]), torch.zeros(self.count)
            cams[ids], present[ids] = maps, 1
        except (OSError, ValueError, LookupError, RuntimeError, EOFError, BadZipFile) as error:
            raise InputError(
                f"{file} can't be read ({str(error).splitlines()[0]}); remove it and make the "
                "maps again: the command that made them skips the others"
            ) from None
        return cams, present
