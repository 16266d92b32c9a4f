"""Your own data: a folder of images, and masks beside them if they are to be scored."""

from pathlib import Path

import numpy as np

from datasets.files import File, list_files, read_mask
from utils.errors import InputError

EXPECTED = """expected
  images/<name>.jpg                          or images/{train,val,test}/<name>.jpg
  masks/<name>.png (optional, class ids)     or masks/{train,val,test}/<name>.png"""


class Folder:
    """Image ids are the paths below ``images`` (or ``images/<split>``) without the suffix.

    Without split folders everything is the split 'train'.
    """

    def __init__(self, root: str | Path) -> None:
        """Raises InputError when `root` has no images."""
        self.root = Path(root)
        if not (self.root / "images").is_dir():
            raise InputError(f"no folder {self.root / 'images'}; {EXPECTED}")
        folders = [s for s in ("train", "val", "test") if (self.root / "images" / s).is_dir()]
        self._folders = {split: split for split in folders} or {"train": ""}

    def splits(self) -> list[str]:
        """The splits that are there."""
        return list(self._folders)

    def images(self, split: str) -> dict[str, File]:
        """Image id -> file, sorted. Raises InputError when the split is not there."""
        files = list_files(self.root / "images" / self._folder(split))
        if not files:
            raise InputError(
                f"no images in {self.root / 'images' / self._folder(split)}; {EXPECTED}"
            )
        return files

    def ground_truth(self, split: str) -> dict[str, File]:
        """Image id -> mask file, as far as they are there; training does not need them."""
        return list_files(self.root / "masks" / self._folder(split), [".png"])

    def read_ground_truth(self, file: File) -> np.ndarray:
        """uint8 (H,W) class ids, 255 where there is no label."""
        return read_mask(file)

    def _folder(self, split: str) -> str:
        if split not in self._folders:
            raise InputError(
                f"{self.root} has no split '{split}', only {', '.join(self._folders)}; {EXPECTED}"
            )
        return self._folders[split]
