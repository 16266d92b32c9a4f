"""Index of tar archives: name, place and size of each file, read once, so that any can be read.

The index of a folder of tars ("shards") is one JSON file beside them, written when they are first
listed: reading the headers of a million files takes much longer. It holds each shard's size and
time: the headers of a shard that has changed are read again at the next start, and a shard that
changes while a run reads it is refused.
"""

import json
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from datasets.files import HUGE, File
from utils.collection import collection_paused
from utils.progress import progress
from utils.safe.errors import InputError, warn
from utils.safe.files import parse_json, replacing
from utils.safe.paths import leaves_folder
from utils.safe.tar_file import AGAIN, BLOCK, list_tar

INDEX = "shards.json"


class Stamp(NamedTuple):
    """State of a shard: bytes and time of the last change, in nanoseconds."""

    size: int
    mtime_ns: int


_NO_STAMP = Stamp(0, 0)


@dataclass(frozen=True, slots=True)
class TarMember(File):
    """The file `member` of the tar at `path`: `length` bytes from `offset` on."""

    offset: int = 0
    length: int = 0
    stamp: Stamp = _NO_STAMP

    def read(self) -> bytes:
        """The content. Raises InputError naming the shard when it has changed since the start."""
        return self.head(self.length)

    def head(self, most: int) -> bytes:
        """The first bytes, at most `most`; otherwise as `read`."""
        length = min(most, self.length)
        try:
            # Opened each time, which takes 5 microseconds: no process or thread shares a position.
            with Path(self.path).open("rb", buffering=0) as shard:
                found = _stamp(os.fstat(shard.fileno()))
                shard.seek(self.offset)
                data = shard.read(length)
        except OSError as error:
            raise InputError(f"cannot read {self}: {error.strerror or error}") from None
        if found != self.stamp:
            what = "time" if found.size == self.stamp.size else "size"
            raise InputError(
                f"{self.path} has changed since this run started (another {what}); run the same "
                "command again if that is intended"
            )
        if len(data) != length:
            raise InputError(f"cannot read {self}: the shard ends too early; {AGAIN}")
        return data

    def size(self) -> int:
        """Bytes of the content, without reading it."""
        return self.length


def _stamp(status: os.stat_result) -> Stamp:
    return Stamp(status.st_size, status.st_mtime_ns)


@collection_paused()
def index_of(folder: Path, shards: Sequence[str]) -> dict[str, list[TarMember]]:
    """The files in each of `shards`, paths below `folder`, in their order there.

    Reads the index, and the headers of shards that it lacks or that have changed. Raises InputError
    when a shard is damaged or unsafe.
    """
    known, found, fresh = _read_index(folder / INDEX), {}, []
    for name in shards:
        path = folder / name
        try:
            status = path.stat()
        except OSError as error:
            raise InputError(f"cannot read {path}: {error.strerror}") from None
        if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait
            raise InputError(f"cannot read {path}: not a regular file; remove it")
        stamp = _stamp(status)
        if name not in known or known[name].stamp != stamp:
            fresh.append((name, stamp))
    for name, stamp in progress(fresh, "indexing shards") if fresh else ():
        known[name] = _Entry(stamp, *zip(*list_tar(folder / name, HUGE), strict=True))
    others = known.keys() - {*shards}
    # Path.is_file raises OSError for a name that is too long.
    gone = [name for name in others if not os.path.isfile(folder / name)]  # noqa: PTH113
    for name in gone:
        del known[name]
    if fresh or gone:
        _write_index(folder / INDEX, known)
    for name in shards:
        stamp, *columns = known[name]
        path = str(folder / name)
        found[name] = [TarMember(path, *row, stamp) for row in zip(*columns, strict=True)]
    return found


class _Entry(NamedTuple):
    """A shard in the index: columns of its files."""

    stamp: Stamp
    names: Sequence[str]
    offsets: Sequence[int]
    lengths: Sequence[int]


def _read_index(path: Path) -> dict[str, _Entry]:
    """The entries of an index, checked like the shards themselves; empty where there is none."""
    try:
        content = parse_json(path.read_text(encoding="utf-8"))
        return {name: _entry(values) for name, values in content["shards"].items()}
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is not an index of shards; remove it, the next start makes it anew"
        ) from None


def _entry(values: Any) -> _Entry:
    """Raises ValueError or TypeError where a value is not one of a shard."""
    stamp = Stamp(*values["stamp"])
    columns = values["names"], values["offsets"], values["lengths"]
    for column, kind in zip((*columns, [*stamp]), (str, int, int, int), strict=True):
        if not isinstance(column, list) or set(map(type, column)) - {kind}:
            raise ValueError("not of the right kind")
    for name, offset, length in zip(*columns, strict=True):
        if not name or leaves_folder(name) or not 0 <= length <= HUGE:
            raise ValueError("a name or length that no shard may have")
        if not BLOCK <= offset <= stamp.size - length:
            raise ValueError("outside the shard")
    return _Entry(stamp, *columns)


def _write_index(path: Path, entries: dict[str, _Entry]) -> None:
    content = {"shards": {name: entry._asdict() for name, entry in entries.items()}}
    try:
        with replacing(path) as temporary:
            temporary.write_text(json.dumps(content, separators=(",", ":")), encoding="utf-8")
    except OSError as error:
        warn(
            f"the index {path} can't be written ({error.strerror}), so each start reads the "
            "headers of all shards; run prepare_data.py --check once where it can be written"
        )
