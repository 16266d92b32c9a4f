"""Images in tar shards, the form of WebDataset: a variant of the data set `folder`.

A shard is a tar with ``<image id>.jpg`` and, for scores, ``<image id>.png`` (class ids) beside it.
Form: https://github.com/webdataset/webdataset. Every image is read alone, by its place in the
index (`datasets/tar_index.py`), so that order, batches and resuming are those of plain files. The
library `webdataset` reads shards as a stream: its order depends on workers and buffers, and its
indexed part, `wids`, has left it.
"""

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from datasets.files import File, by_id, list_files, read_mask
from datasets.folder import IMAGES, check_no_splits, entries, find_splits, is_own_output
from datasets.ids import IMAGE_SUFFIXES, drop_suffix
from datasets.leftovers import is_leftover, looks_like_image
from datasets.tar_index import TarMember, index_of
from utils.safe.errors import InputError, note, warn

# The part before the number: train-000000.tar, train.tar, 000000.tar.
_NAME = re.compile(r"(?:(?P<numbered>.*?)[-_.])??\d+\.tar|(?P<alone>.+)\.tar", re.I | re.DOTALL)
_COMPRESSED = re.compile(r".+\.(tar\.\w+|tgz|tbz2?|txz)", re.I | re.DOTALL)
_MASKS = (".mask.png", ".seg.png")  # needed only beside images that are PNGs
_KNOWN = (".json", ".txt", ".cls")  # usual beside images in shards


class Shards:
    """Shards ``<split>-000000.tar`` in `root`, or any in ``<split>/``.

    Image ids are the paths in the tars without the suffix. Without names of splits everything is
    the split 'train'.
    """

    def __init__(self, root: str | Path) -> None:
        """Raises InputError when names may or may not be splits, or a shard is compressed."""
        self.root = Path(root)
        shards = find_shards(self.root)
        self._shards = {s: shards[name] for s, name in find_splits(self.root, [*shards]).items()}
        self._has_splits = bool(self._shards)
        if not self._has_splits:
            check_no_splits(self.root, [*shards])
            own = [one for one in _all(shards) if "/" not in one]
            self._shards = {"train": own or _all(shards)}
        self._unread = sorted({*_all(shards)} - {*_all(self._shards)})
        self._files: dict[str, tuple[list[TarMember], list[TarMember]]] = {}

    def splits(self) -> list[str]:
        """The splits that exist."""
        return list(self._shards)

    def images(self, split: str) -> dict[str, File]:
        """Image id -> file, sorted. Raises InputError when the split is missing or damaged."""
        images, _ = self._divided(split)
        found = by_id(str(self.root), _named(images), IMAGE_SUFFIXES, _KNOWN)
        if not found:
            first = self.root / self._shards[split][0]
            raise InputError(f"no images in the shards of '{split}', the first is {first}")
        if not self._has_splits:
            number = len(self._shards["train"])
            note(f"no splits (train, val, test) in {self.root}: its {number} tars are all 'train'")
        if self._unread:
            warn(
                f"{self.root} has {len(self._unread)} shards that are not read "
                f"({self._unread[0]}): their names are not those of a split (train, val, test)"
            )
        return found

    def ground_truth(self, split: str) -> dict[str, File]:
        """Image id -> mask file, for the images that have one; training does not need them."""
        return by_id(str(self.root), _named(self._divided(split)[1]), [*_MASKS, ".png"])

    def read_ground_truth(self, file: File) -> np.ndarray:
        """uint8 (H,W) class ids, 255 where there is no label."""
        return read_mask(file)

    def _divided(self, split: str) -> tuple[list[TarMember], list[TarMember]]:
        if split not in self._shards:
            raise InputError(f"{self.root} has no shards of '{split}', only {[*self._shards]}")
        if split not in self._files:
            self._files[split] = divide(members_of(self.root, self._shards[split]))
        return self._files[split]


def is_sharded(root: str | Path) -> bool:
    """Whether a folder holds shards, and no folder of images, which would be read instead."""
    folders, _ = entries(Path(root))
    return not any(name.casefold() in IMAGES for name in folders) and bool(find_shards(Path(root)))


def list_images(folder: Path) -> dict[str, File]:
    """Image id -> file, sorted: the images below a folder or, where it has none, in its shards."""
    images = list_files(folder, known=_KNOWN)
    tars = [name for name in entries(folder)[1] if _NAME.fullmatch(name) and not is_leftover(name)]
    if images and tars:
        warn(
            f"{folder} has {len(tars)} tars that are not read ({min(tars)}): there are images as "
            f"files, the first is {next(iter(images.values()))}; move one kind away"
        )
    shards = [] if images else _all(find_shards(folder))
    if not shards:
        return images or list_files(folder)  # tells which files may be meant
    images, _ = divide(members_of(folder, shards))
    return by_id(str(folder), _named(images), IMAGE_SUFFIXES, _KNOWN)


def _all(shards: Mapping[str, list[str]]) -> list[str]:
    return sorted(itertools.chain.from_iterable(shards.values()))


def find_shards(root: Path) -> dict[str, list[str]]:
    """Name before the number, or of a folder in `root` -> paths of shards below `root`, sorted.

    Masks that gen_clip_masks.py wrote there are left out. Raises InputError where some are
    compressed, which allows no access to single files, unless other files may be meant instead.
    """
    found, compressed = defaultdict(list), []
    folders, names = entries(root)
    inside = [name for name in folders if not is_own_output(root / name)]
    below = {folder: entries(root / folder) for folder in inside}
    paths = names + [f"{folder}/{name}" for folder in inside for name in below[folder][1]]
    for path in sorted(paths):
        folder, _, name = path.rpartition("/")
        if is_leftover(name):
            continue
        if match := _NAME.fullmatch(name):
            found[folder or match["numbered"] or match["alone"] or ""].append(path)
        elif _COMPRESSED.fullmatch(name):
            compressed.append(path)
    if compressed:
        others = any(inner for inner, _ in below.values()) or any(map(looks_like_image, paths))
        if found or not others:
            first = root / compressed[0]
            raise InputError(f"{first} is compressed: unpack it (gunzip, for .tar.gz)")
    return dict(sorted(found.items()))


def members_of(root: Path, shards: list[str]) -> list[TarMember]:
    """The files in the shards, without leftovers. Raises InputError."""
    index = index_of(root, shards)
    members = (member for name in shards for member in index[name])
    return [m for m in members if not any(map(is_leftover, m.member.split("/")))]


def divide(members: Iterable[TarMember]) -> tuple[list[TarMember], list[TarMember]]:
    """Images, with everything else, and masks. Raises InputError where a PNG may be either."""
    images, masks, pngs = [], [], []
    for member in members:
        name = member.member.lower()
        if name.endswith(_MASKS):
            masks.append(member)
        else:
            (pngs if name.endswith(".png") else images).append(member)
    with_image = {drop_suffix(m.member) for m in images if drop_suffix(m.member) != m.member}
    beside = [png for png in pngs if drop_suffix(png.member) in with_image]
    if beside and len(beside) < len(pngs):
        alone = next(png for png in pngs if drop_suffix(png.member) not in with_image)
        raise InputError(
            f"{alone} may be an image or a mask without its image: {beside[0]} is a mask, as it "
            "lies beside its image; call the masks of PNG images <image id>.mask.png"
        )
    return (images, masks + pngs) if beside else (images + pngs, masks)


def _named(members: list[TarMember]) -> list[tuple[str, File]]:
    return [(member.member, member) for member in members]
