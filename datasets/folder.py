"""Your own data: a folder of images and, for scores, a folder of masks."""

import contextlib
import difflib
import itertools
import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from datasets.files import MASK_SUFFIXES, File, list_files, read_mask, walk
from datasets.leftovers import is_leftover, looks_like_image
from utils.safe.errors import InputError, note, warn

EXPECTED = """expected
  images/<name>.jpg                          or images/{train,val,test}/<name>.jpg
  masks/<name>.png (optional, class ids)     or masks/{train,val,test}/<name>.png
(read as train: training; as val: valid, validation, dev; as test: testing; capitals don't count)"""

_SPLIT_OF = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_SHORT = {"tr": "train", "trn": "train", "te": "test", "tst": "test", "vl": "val", "vld": "val"}
IMAGES = ("images", "image", "imgs", "img")
_MASKS = ("masks", "mask")
_SPLIT_WORD = (
    r"(train|training|val|valid|validation|dev|test|testing|eval|evaluation|trainval|trn|tst|vld)"
)
_OTHER_WORD = r"(images?|imgs?|pictures|frames|masks?|labels?|set|data|split|dev|std|mini|new|all)"
# train2017, train_images, val-set, test-dev, minival, trainA: such a name can only mean a split.
_LIKE_SPLIT = re.compile(
    rf"({_OTHER_WORD}[-_. ]*)*{_SPLIT_WORD}([-_. ]*({_OTHER_WORD}|\d+|[ab]))*", re.IGNORECASE
)
# What scripts of this project write: pseudo-masks, overlays, predictions; files of an image cache.
_OWN_OUTPUT = re.compile(r"clip_masks.*|(.*_)?(vis|confidence)|predictions")
_OF_CACHE = re.compile(r"[0-9a-f]{32}\.npy")
_MOST = 1000  # files to count where the number is only reported


class Folder:
    """Image ids are the paths below ``images`` (or ``images/<split>``) without the suffix.

    Without split folders everything is the split 'train'. Splits and the two folders may have
    other common names, as long as these are unambiguous.
    """

    def __init__(self, root: str | Path) -> None:
        """Raises InputError when `root` has no images, or folders that may or may not be splits."""
        self.root = Path(root)
        folders, _ = entries(self.root)
        self._images = self.root / _named(folders, IMAGES)
        self._masks = self.root / _named(folders, _MASKS)
        if not self._images.is_dir():
            raise InputError(
                f"no folder {self._images}; {_split_first(folders, self.root)}{EXPECTED}"
            )
        folders, _ = entries(self._images)
        self._folders = find_splits(self._images, folders)
        if not self._folders:
            check_no_splits(self._images, folders)
            self._folders = {"train": ""}

    def splits(self) -> list[str]:
        """The splits that exist."""
        return list(self._folders)

    def images(self, split: str) -> dict[str, File]:
        """Image id -> file, sorted. Raises InputError when the split is missing."""
        folder = self._images / self._folder(split)
        files = list_files(folder)
        if not files:
            raise InputError(f"no images in {folder}; {EXPECTED}")
        _check_no_split_below(folder, split if self._folders[split] else None, files)
        self._tell_unread(files)
        return files

    def ground_truth(self, split: str) -> dict[str, File]:
        """Image id -> mask file, for the images that have one; training does not need them."""
        below = self._folder(split)
        folders, names = entries(self._masks)
        if below:
            # masks/validation may belong to images/val
            below = find_splits(self._masks, folders).get(split, below)
        files = list_files(self._masks / below, MASK_SUFFIXES)
        if not files:
            self._tell_unread_masks(folders, names)
        return files

    def read_ground_truth(self, file: File) -> np.ndarray:
        """uint8 (H,W) class ids, 255 where there is no label."""
        return read_mask(file)

    def _folder(self, split: str) -> str:
        if split not in self._folders:
            raise InputError(
                f"{self.root} has no split '{split}', only {', '.join(self._folders)}; {EXPECTED}"
            )
        return self._folders[split]

    def _tell_unread(self, ids: Iterable[str]) -> None:
        """Warn of what is beside the folders of the splits; note splits with other names."""
        for name in entries(self.root)[0]:
            if name.casefold() in IMAGES and name != self._images.name and _count(self.root / name):
                warn(f"{self.root / name} is not read: images are read from {self._images}")
        if self._folders == {"train": ""}:
            self._tell_pooled(ids)
            return
        other = [(f, s) for s, f in self._folders.items() if f.casefold() != s]
        renamed = [f"'{folder}' is read as '{split}'" for folder, split in other]
        if renamed:
            note(f"the splits in {self._images}: {', '.join(renamed)}")
        folders, names = entries(self._images)
        read = [*self._folders.values()]
        _tell_loose(
            self._images,
            names,
            f", beside {', '.join(read)}; move into one of these folders, or away",
        )
        for folder in (self._images / name for name in folders if name not in read):
            if count := _count(folder):
                text = "is not read: it is not a split (train, val, test)"
                warn(f"{folder} with {count} {text}; rename it if it should be one", folder)

    def _tell_pooled(self, ids: Iterable[str]) -> None:
        """Note the folders whose images are all read as one split."""
        folders = sorted({name.partition("/")[0] for name in ids if "/" in name})
        if folders:
            shown = ", ".join([*folders[:3], *(["..."] if len(folders) > 3 else [])])
            note(
                f"no split folders (train, val, test) in {self._images}: the images of {shown} are "
                "all read as 'train'"
            )

    def _tell_unread_masks(self, folders: list[str], names: list[str]) -> None:
        """Warn of files elsewhere that may be the ground truth of a split that has none."""
        expected = " or ".join(str(self._masks / folder) for folder in self._folders.values())
        expected = f": ground truth belongs in {expected}, named <image id>.png"
        has_splits = self._folders != {"train": ""}
        known = find_splits(self._masks, folders).values() if has_splits else ()
        unread, tell = [self._masks / folder for folder in folders if folder not in known], warn
        if not _count(self._masks):
            tell, no_masks = note, (*IMAGES, *_MASKS)
            beside = [n for n in entries(self.root)[0] if n.casefold() not in no_masks]
            unread = [self.root / n for n in beside if not is_own_output(self.root / n)]
            expected += ", as class ids from 0, 255 for no label; move the masks there if they"
            expected += " are ground truth"
        if has_splits:
            _tell_loose(self._masks, names, expected)
        for folder in unread:
            with contextlib.suppress(InputError):  # an unused folder may be unreadable
                if count := _count(folder):
                    tell(f"{folder} has {count} not read{expected}", folder)


def _tell_loose(folder: Path, names: list[str], what: str) -> None:
    """Warn of images among the files `names` beside the splits in `folder`."""
    if images := list(filter(_is_image_name, names)):
        warn(f"{folder} has {_number(images)} not read ({min(images)}){what}", folder)


def is_own_output(folder: Path) -> bool:
    """Whether a script of this project has written the images in `folder`."""
    names = entries(folder)[1]
    if _OWN_OUTPUT.fullmatch(folder.name) or any(map(_OF_CACHE.fullmatch, names)):
        return True
    with contextlib.suppress(OSError):  # meta.json of gen_clip_masks.py
        return b'"made_from"' in (folder / "meta.json").read_bytes()
    return False


def entries(folder: Path) -> tuple[list[str], list[str]]:
    """Names of the folders in `folder`, sorted and without leftovers, and of the files."""
    for _, folders, names in os.walk(folder):
        return sorted(name for name in folders if not is_leftover(name)), names
    return [], []


def _named(folders: list[str], names: tuple[str, ...]) -> str:
    """The one of `folders` that has one of `names`; the first name where none has."""
    found = [folder for folder in folders if folder.casefold() in names]
    if len(found) > 1 and (names[0] not in found or len({*map(str.casefold, found)}) == 1):
        raise InputError(f"the folders {' and '.join(found)} are ambiguous; rename one")
    return found[0] if len(found) == 1 else names[0]


def find_splits(parent: Path, folders: list[str]) -> dict[str, str]:
    """Split -> folder, in the order train, val, test. Raises InputError for two of one split."""
    found: dict[str, str] = {}
    for folder in folders:
        split = _SPLIT_OF.get(_form(folder))
        if split and split in found:
            raise InputError(
                f"{parent / found[split]} and {parent / folder} are both the split '{split}'; put "
                "their files into one of them"
            )
        if split:
            found[split] = folder
    return {split: found[split] for split in ("train", "val", "test") if split in found}


def check_no_splits(parent: Path, folders: list[str]) -> None:
    """Raise InputError where folders of images look like splits and none is one."""
    meant = [folder for folder in folders if _LIKE_SPLIT.fullmatch(_form(folder))]
    hints = {folder: _hints(folder) for folder in folders}
    if len(set().union(*hints.values())) > 1:  # train_berlin and val_berlin; trian and vaild
        meant = meant or [folder for folder in folders if hints[folder]]
    if meant:
        names = " and ".join(str(parent / folder) for folder in meant[:3])
        raise InputError(
            f"{names}: such names mean splits, but only train, val and test are known; rename "
            f"them. {EXPECTED}"
        )


def _form(folder: str) -> str:
    """The name without differences of wide letters and capitals."""
    return unicodedata.normalize("NFKC", folder).casefold()


def _hints(folder: str) -> set[str]:
    """Splits that a name may mean: by a word in it, a short form or a typing error."""
    name = _form(folder)
    close = difflib.get_close_matches(name, _SPLIT_OF, cutoff=0.8)
    # trains, tester, rain are words of their own
    close = [word for word in close if word not in name and name not in word]
    words = {_SPLIT_OF.get(word) for word in (*re.split(r"[\W_\d]+", name), *close)}
    return (words | {_SHORT.get(name)}) - {None}


def _check_no_split_below(folder: Path, split: str | None, ids: Iterable[str]) -> None:
    """Raise InputError where nested folders (images/10k/train) are named after splits.

    split: the split of `folder`; None where there are no splits.
    """
    inside: dict[str, dict[str, None]] = defaultdict(dict)
    for below in {name.rpartition("/")[0] for name in ids}:
        parts = below.split("/")
        for depth, part in enumerate(parts):
            inside["/".join(parts[:depth])][part] = None
            if _SPLIT_OF.get(_form(part), split) != split:
                raise InputError(
                    f"{folder / below}: the folder {part} is named after a split but is nested too "
                    f"deeply; move the splits up: images/{_SPLIT_OF[_form(part)]}/... "
                    f"{EXPECTED}"
                )
    for parent, names in inside.items():
        if parent and split is None:  # those right below have been checked
            check_no_splits(folder / parent, sorted(names))


def _split_first(folders: list[str], root: Path) -> str:
    """Advice where each split has its own folder of images: train/images, as Roboflow writes it."""
    for split, folder in find_splits(root, folders).items():
        inside = _named(entries(root / folder)[0], IMAGES)
        if (root / folder / inside).is_dir() or _count(root / folder):
            return (
                f"{root / folder} seems to be a split: move its images to images/{split} and its "
                f"masks to masks/{split}. "
            )
    return ""


def _is_image_name(name: str) -> bool:
    return looks_like_image(name) and not is_leftover(name)


def _count(folder: Path) -> str:
    """'5 .png files': the images below `folder`; '' where there are none."""
    names = (name for _, names in walk(folder) for name in names)
    images = list(itertools.islice(filter(_is_image_name, names), _MOST))
    return _number(images) if images else ""


def _number(images: list[str]) -> str:
    suffixes = " and ".join(sorted({os.path.splitext(name)[1] for name in images}))  # noqa: PTH122
    more = " or more" if len(images) == _MOST else ""
    return f"{len(images)}{more} {suffixes} {'files' if len(images) > 1 else 'file'}"
