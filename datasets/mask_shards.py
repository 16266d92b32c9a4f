"""Masks in tar shards: OUT/masks-000000.tar, ... with <image id>.png, a thousand in each.

Each rank writes shards of its own, named *.part until they are full. A killed run leaves such
parts; the next one keeps the intact masks in them, so that it repeats at most the last mask of
each rank.
"""

import re
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

from datasets.files import MASK_SUFFIXES, DuplicateError, File, by_id, files_below
from datasets.folder import entries
from datasets.leftovers import is_leftover
from datasets.shards import members_of
from datasets.tar_index import INDEX
from utils.safe.errors import InputError
from utils.safe.files import replacing
from utils.safe.tar_file import END, intact_files, tar_entry

_MOST = 1000  # masks in a shard
_OURS = re.compile(r"masks-(\d{6,})\.tar(\.part)?")
_PART = ".part"
_PNG_END = b"IEND\xaeB`\x82"


def _name(number: int) -> str:
    return f"masks-{number:06d}.tar"


class ShardWriter:
    """Shards of one rank, of the same names in each of `folders`."""

    def __init__(self, folders: Sequence[Path], numbers: Iterator[int]) -> None:
        """numbers: of the shards, which no other rank takes."""
        self.folders, self.numbers = folders, numbers
        self._lock = threading.Lock()
        self._files: list[BinaryIO] = []
        self._count = 0

    def append(self, name: str, contents: Sequence[bytes]) -> None:
        """Write a file for each folder; that of the last one means that its image is done."""
        with self._lock:
            if self._count == _MOST:
                self._close()
            if not self._files:
                number = next(self.numbers)
                for folder in self.folders:
                    folder.mkdir(parents=True, exist_ok=True)
                    self._files.append(_new(folder / f"{_name(number)}{_PART}"))
            for file, content in zip(self._files, contents, strict=True):
                file.write(tar_entry(name, content))
                file.flush()
            self._count += 1

    def close(self) -> None:
        """Finish the shards that are open."""
        with self._lock:
            self._close()

    def _close(self) -> None:
        for file in reversed(self._files):  # the last folder first: it says what is done
            with file:
                file.write(END)
            try:
                Path(file.name).rename(file.name.removesuffix(_PART))
            except FileNotFoundError:
                raise InputError(
                    f"{file.name} is gone: the same command was started again and goes on there"
                ) from None
        self._files, self._count = [], 0


def _new(part: Path) -> BinaryIO:
    try:
        return part.open("xb")
    except FileExistsError:
        raise InputError(
            f"{part} exists: the same command was started twice at once; let one of them end, "
            "then start it again if masks are missing"
        ) from None


def finish_parts(folder: Path, done: Collection[str] | None = None) -> None:
    """Make shards of the intact masks in the parts that a killed run left in `folder`.

    done: the only file names to keep. A process that still writes to a part loses it: its masks
    will be made again.
    """
    for part in sorted(folder.glob(f"*{_PART}")):
        whole = part.with_suffix("")
        if not _OURS.fullmatch(part.name):
            continue
        kept = [
            tar_entry(name, content)
            for name, content in intact_files(part)
            if content.endswith(_PNG_END) and (done is None or name in done)
        ]
        if kept and not whole.exists():
            with replacing(whole) as temporary:
                temporary.write_bytes(b"".join([*kept, END]))
        part.unlink(missing_ok=True)


def next_number(folders: Sequence[Path]) -> int:
    """The first number above those of the shards in the folders."""
    found = [_OURS.fullmatch(path.name) for folder in folders for path in folder.glob("masks-*")]
    return max((int(match[1]) + 1 for match in found if match), default=0)


def remove_shards(folder: Path) -> None:
    """Remove the shards that `ShardWriter` wrote, and their index."""
    for path in [*folder.glob("masks-*")]:
        if _OURS.fullmatch(path.name):
            path.unlink()
            (folder / INDEX).unlink(missing_ok=True)


def shards_in(folder: Path) -> list[str]:
    """Names of the shards in a folder of masks, sorted."""
    return _shards_of(entries(folder)[1])


def _shards_of(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.endswith(".tar") and not is_leftover(name))


def names_in_shards(folder: Path) -> list[str]:
    """Names of the files in the shards of a folder of masks."""
    return [member.member for member in members_of(folder, shards_in(folder))]


def has_own_shards(files: Collection[str]) -> bool:
    """Whether the files of a folder include shards, or parts of them, that a run has written."""
    return any(name.startswith("masks-") and _OURS.fullmatch(name) for name in files)


def list_masks(folder: Path) -> dict[str, File]:
    """Image id -> label map, sorted: the files below a folder or else in its shards.

    Two runs of one command at a time leave equal masks in two shards, of which one is read. Raises
    InputError where the folder has both forms, and for different masks of one image.
    """
    below = files_below(folder)  # one listing for both forms
    files = by_id(str(folder), below, MASK_SUFFIXES, ("",))  # other files there are ours
    if not (shards := _shards_of(name for name, _ in below if "/" not in name)):
        return files
    if files and not has_own_shards(shards):
        return files  # tars of something else
    if files:
        raise InputError(
            f"{folder} holds masks as files, {next(iter(files))}, and in shards, {shards[0]}; "
            "move one kind away"
        )
    found = [(member.member, member) for member in members_of(folder, shards)]
    try:
        return by_id(str(folder), found, MASK_SUFFIXES, ("",))
    except DuplicateError as error:
        if different := [(a, b) for a, b in error.pairs if a.read() != b.read()]:
            raise DuplicateError(different, error.files) from None
        return error.files
