"""Tar archives that may be untrusted: their headers are read, and nothing is ever extracted.

Form: POSIX.1-2001 (pax) and GNU, as Python's `tarfile` reads them.
"""

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from utils.safe.errors import InputError
from utils.safe.paths import leaves_folder

BLOCK = tarfile.BLOCKSIZE  # bytes; headers and contents begin at multiples of it
END = bytes(2 * BLOCK)
AGAIN = "copy or download it again, or make it again"
# First bytes, which no name in a tar has -> what unpacks them.
_COMPRESSED = {b"\x1f\x8b": "gunzip", b"\xfd7zXZ": "unxz", b"\x28\xb5\x2f\xfd": "unzstd"}
_LONGEST = 1 << 20  # bytes of a header: pax allows any length


class Member(NamedTuple):
    """A file in a tar: `length` bytes from `offset` on."""

    name: str
    offset: int
    length: int


class _Headers(io.BufferedReader):
    """File of which only short pieces are read at a time."""

    def read(self, size: int | None = -1) -> bytes:
        if size is None or not 0 <= size <= _LONGEST:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return super().read(size)


def list_tar(path: Path, largest: int) -> list[Member]:
    """The files in a tar, in their order; folders are left out.

    Raises InputError for a tar that is damaged, cut off, empty or compressed, and for one with
    links, devices, files of more than `largest` bytes, or names that leave their folder.
    """
    try:
        with _Headers(io.FileIO(path)) as file:
            for magic, program in _COMPRESSED.items():
                if file.peek(6).startswith(magic):
                    how = f"{program} < {path} > NEW.tar"
                    raise InputError(f"{path} is compressed; unpack it: {how}")
            found = [_checked(path, info, largest) for info in _infos(file) if not info.isdir()]
            _check_end(path, file)
    except InputError:
        raise
    except Exception as error:  # a damaged tar can fail in any way
        raise InputError(f"{path} is not a readable tar: {error}; {AGAIN}") from None
    if not found:
        raise InputError(f"{path} holds no files; remove it")
    return found


def _infos(file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    """Headers of a tar; the position is then where the next one would begin."""
    with tarfile.open(fileobj=file, mode="r:") as tar:
        while (info := tar.next()) is not None:
            yield info
            tar.members.clear()  # else all stay in memory
        end = tar.offset
    file.seek(end)


def _checked(path: Path, info: tarfile.TarInfo, largest: int) -> Member:
    name = info.name.removeprefix("./")
    if not name or leaves_folder(name):
        raise InputError(f"{path}: the name '{info.name}' leaves its folder; don't use this tar")
    if not info.isreg() or info.issparse():
        raise InputError(
            f"{path}: '{name}' is no plain file (a link, for example); pack the files themselves: "
            "tar --dereference --hard-dereference"
        )
    if not 0 <= info.size <= largest:
        raise InputError(f"{path}: '{name}' has {info.size} bytes; expected at most {largest}")
    return Member(name, info.offset_data, info.size)


def _check_end(path: Path, file: BinaryIO) -> None:
    """`tarfile` takes a damaged header for the end: expect the end mark, and nothing after it."""
    rest = file.read(len(END))
    if rest != END:
        raise InputError(
            f"{path} is damaged or cut off: no header and no end mark at byte "
            f"{file.tell() - len(rest)}; {AGAIN}"
        )
    while rest := file.read(1 << 16):
        if any(rest):
            raise InputError(
                f"{path} goes on after its end mark, as tars do that were joined with cat; split "
                "it again"
            )


def intact_files(path: Path) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file that is complete, up to the first that is not."""
    size = path.stat().st_size
    with path.open("rb") as file:
        try:
            for info in _infos(file):
                if info.offset_data + info.size > size:
                    return
                file.seek(info.offset_data)
                yield info.name, file.read(info.size)
        except tarfile.TarError:  # the rest is cut off
            return


def tar_entry(name: str, content: bytes) -> bytes:
    """Header and content for a tar, without time or user: equal files make equal tars.

    After the last one `END` follows.
    """
    info = tarfile.TarInfo(name)
    info.size = len(content)
    header = info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    return header + content + bytes(-len(content) % BLOCK)
