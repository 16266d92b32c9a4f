"""Reading images and masks, from disk or straight out of a zip."""

import functools
import io
import os
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datasets.image_labels import IMAGE_SUFFIXES, drop_suffix
from datasets.windows import Size, Window
from utils.errors import InputError

warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # large, and read
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
Reader = Callable[[Window], np.ndarray]  # uint8 (height, width, 3) of a window


@dataclass(frozen=True)
class File:
    """A file on disk, or `member` of the zip at `path`."""

    path: str
    member: str | None = None

    def read(self) -> bytes:
        """The content. Raises InputError naming the file."""
        try:
            if self.member is None:
                if not stat.S_ISREG(Path(self.path).stat().st_mode):  # a pipe would be waited for
                    raise InputError(f"cannot read {self}: it is no file; remove it")
                return Path(self.path).read_bytes()
            # Forked loader workers must not share one file position: a handle per process.
            return _open_zip(self.path, os.getpid()).read(self.member)
        except OSError as error:
            raise InputError(f"cannot read {self}: {_why(Path(self.path), error)}") from None
        except (KeyError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
            raise InputError(f"cannot read {self}: {error}; download the zip again") from None

    def __str__(self) -> str:
        return self.path if self.member is None else f"{self.path}:{self.member}"


@functools.lru_cache(maxsize=8)
def _open_zip(path: str, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


class TwiceError(InputError):
    """Files that differ in the ending only; `files` has one of each, as the listing would."""

    def __init__(self, pairs: list[tuple[File, File]], files: dict[str, File]) -> None:
        self.messages = [f"{a} and {b} differ in the ending only; keep one" for a, b in pairs]
        self.files = files
        more = f" ({len(pairs) - 1} more pairs like this)" if len(pairs) > 1 else ""
        super().__init__(self.messages[0] + more)


def list_files(folder: Path, endings: Sequence[str] = IMAGE_SUFFIXES) -> dict[str, File]:
    """Files below `folder`, sorted by id: the relative path without its ending -> file.

    Links to folders are followed. Raises InputError when a folder can't be looked into.
    """
    # Text and not Path: a data set may have a million files.
    paths = [os.path.join(here, name) for here, names in walk(folder) for name in names]  # noqa: PTH118
    start = len(os.path.join(folder, ""))  # noqa: PTH118
    return _by_id([(p[start:].replace(os.sep, "/"), p, None) for p in paths], endings)


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder from `folder` on, through links too, and the names of the files in it.

    Raises InputError when a folder can't be looked into, or a link leads back to one that it is in.
    """
    for here, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        for link in filter(Path.is_symlink, (Path(here, name) for name in folders)):
            if link.resolve() in {parent.resolve() for parent in link.absolute().parents}:
                raise InputError(f"{link} is a link to a folder that it lies in; remove the link")
        yield here, names


def _refuse(error: OSError) -> None:
    """A folder that isn't there has no files; any other failure would hide some."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        why = _why(Path(error.filename), error)
        raise InputError(f"cannot list {error.filename}: {why}") from None


def _why(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return f"it is a link to {path.readlink()}, which is not there; restore that or remove it"
    if isinstance(error, PermissionError):
        return f"{error.strerror}; give yourself the right to it (chmod, chown)"
    return error.strerror or str(error)


def list_zip(path: Path, folder: str, endings: Sequence[str]) -> dict[str, File]:
    """The same for the members below `folder` (ending in '/') of a zip."""
    try:
        members = _open_zip(str(path), os.getpid()).namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise InputError(f"{path} is not a readable zip ({error}); download it again") from None
    inside = [(m.removeprefix(folder), str(path), m) for m in members if m.startswith(folder)]
    for relative, _, member in inside:  # masks and predictions will be written under these names
        parts = relative.rstrip("/").split("/")
        if relative and (not {"", ".", ".."}.isdisjoint(parts) or {"\\", ":"} & {*relative}):
            raise InputError(f"{path}: the name '{member}' leads out of its folder; don't use it")
    return _by_id(inside, endings)


def _by_id(found: list[tuple[str, str, str | None]], endings: Sequence[str]) -> dict[str, File]:
    files: dict[str, File] = {}
    twice: list[tuple[File, File]] = []
    for relative, path, member in sorted(found):
        ending = next((e for e in endings if relative.lower().endswith(e.lower())), None)
        if ending is None or Path(relative).name.startswith("."):
            continue
        file, image_id = File(path, member), relative[: -len(ending)]
        if image_id in files:
            twice.append((files[image_id], file))
        else:
            files[image_id] = file
    files = dict(sorted(files.items()))
    if twice:
        raise TwiceError(twice, files)
    return files


def read_split_list(path: Path) -> list[str]:
    """Image ids of a split list: the first word of every line, without folders and suffix."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the split list {path}: {error}") from None
    ids = [drop_suffix(Path(line.split()[0]).name) for line in lines if line.strip()]
    if not ids:
        raise InputError(f"the split list {path} is empty; expected one image name a line")
    return ids


def read_image(file: File, data: bytes | None = None) -> np.ndarray:
    """Pixels as uint8 (H,W,3) RGB, turned upright by the EXIF orientation; alpha is dropped.

    Raises InputError naming the file when it is damaged or no picture.
    """
    size, read = open_image(file, data)
    return read((0, 0, *size))


def open_image(file: File, data: bytes | None = None) -> tuple[Size, Reader]:
    """(height, width) of a picture, and what reads a window of it, any number of times.

    A plain PNG is decoded when it is read, from the top and only as far as the window reaches.
    data: the file's content, where it has been read already.
    """
    data = file.read() if data is None else data
    with _decoding(file, data):
        picture = open_picture(data)
        if not is_plain_png(picture, data):
            ImageOps.exif_transpose(picture, in_place=True)  # decodes it
    return (picture.height, picture.width), functools.partial(_decode, picture, data, file)


def _decode(picture: Image.Image, data: bytes, file: File, window: Window) -> np.ndarray:
    """uint8 (height, width, 3)."""
    top, left, height, width = window
    with _decoding(file):
        if picture.tile:  # not decoded; a decoder stops for good, so each window takes a new one
            picture = open_picture(data)
            codec, _, *how = picture.tile[0]
            picture.tile = [(codec, (0, 0, picture.width, top + height), *how)]
        picture.load()
    picture = picture.crop((left, top, left + width, top + height))
    if picture.mode == "RGB":
        return np.array(picture)
    if picture.mode == "F":
        raise InputError(f"{file}: floating point pixels; save it as an 8 bit picture")
    if picture.mode.startswith("I"):  # 16 bit grey: keep the high byte
        values = np.array(picture)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise InputError(f"{file}: expected at most 16 bits a channel; save it as 8 bit")
        return np.repeat((values >> 8).astype(np.uint8)[..., None], 3, axis=2)
    picture.info.pop("transparency", None)  # dropped anyhow; in a palette, Pillow warns of it
    return np.array(picture.convert("RGB"))


def open_picture(data: bytes) -> Image.Image:
    """A picture, not decoded yet, of a format that is data: EPS is a program that Pillow runs."""
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def is_plain_png(picture: Image.Image, data: bytes) -> bool:
    """RGB row by row, whole, and without anything that might turn it."""
    if picture.format != "PNG" or picture.mode != "RGB" or len(picture.tile) != 1:
        return False
    if {"interlace", "exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"} & {*picture.info}:
        return False
    last = data.rfind(b"IDAT")  # behind it: its data, a checksum, and the end mark of 12 bytes
    length = int.from_bytes(data[last - 4 : last])
    return last + 4 + length + 4 + 12 == len(data)


def read_mask(file: File) -> np.ndarray:
    """Label map as uint8 (H,W): the stored numbers, never colours turned into numbers.

    Raises InputError when the file is damaged or is not a single-channel lossless picture.
    """
    data = file.read()
    with _decoding(file, data):
        picture = open_picture(data)
        picture.load()
    if picture.format == "JPEG":
        raise InputError(f"{file}: JPEG changes label numbers; masks must be PNG")
    if picture.mode not in ("L", "P", "1") and not picture.mode.startswith("I"):
        raise InputError(
            f"{file}: expected one channel of class ids (grey or palette PNG), found "
            f"{picture.mode}; turn colours into class ids first"
        )
    values = np.array(picture)
    if values.min() < 0 or values.max() > 255:
        raise InputError(f"{file}: class ids run from 0 to 255, found up to {values.max()}")
    return values.astype(np.uint8, copy=False)


@contextmanager
def _decoding(file: File, data: bytes | None = None) -> Iterator[None]:
    """Turn whatever goes wrong while a picture is parsed into an InputError naming the file."""
    try:
        yield
    except UnidentifiedImageError:  # its message has a memory address, not the file
        raise InputError(
            f"cannot decode {file}: {len(data or b'')} bytes that are no picture (PNG, JPEG, ...); "
            "copy or download it again"
        ) from None
    except Image.DecompressionBombError:
        raise InputError(
            f"cannot decode {file}: more than {2 * Image.MAX_IMAGE_PIXELS} pixels; make it smaller "
            "or cut it into tiles (ImageMagick: magick BIG -crop 8192x8192 tile_%03d.png)"
        ) from None
    except Exception as error:  # a damaged picture can fail in every way
        raise InputError(f"cannot decode {file}: {error}; copy or download it again") from None
