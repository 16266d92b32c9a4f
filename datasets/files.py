"""Reading images and masks, from disk or straight out of a zip."""

import functools
import io
import os
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datasets.ids import IMAGE_SUFFIXES, difference, drop_suffix, image_id, match_ids
from datasets.labels import IGNORE_INDEX
from datasets.leftovers import is_leftover, tell_unread
from datasets.stored_numbers import check_bmp, class_ids, is_white_zero, num_pages, raw_mode
from datasets.windows import Size, Window
from utils.collection import collection_paused
from utils.safe.errors import InputError, warn
from utils.safe.file_kinds import picture_format, remedy_for, stand_in

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # formats that keep numbers
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # large, and read
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_SAVE_8 = "if its numbers are of 8 bits, save it with 8 bits"
_DARK = (
    "there are pictures of 16 bits that seem to hold 10 or 12, none above 4095, and are read dark: "
    "the upper 8 of 16; save them with 8 bits"
)
_HUGE = 1 << 30  # bytes of a file; most likely a film, which is not read whole to say so
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
                status = Path(self.path).stat()
                if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
                    raise InputError(f"cannot read {self}: not a regular file; remove it")
                if status.st_size > _HUGE:
                    self._refuse_film()
                return Path(self.path).read_bytes()
            # Forked loader workers must not share one file position: a handle per process.
            return _open_zip(self.path, os.getpid()).read(self.member)
        except OSError as error:
            raise InputError(f"cannot read {self}: {_why(Path(self.path), error)}") from None
        except (KeyError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile) as error:
            raise InputError(f"cannot read {self}: {error}; download the zip again") from None

    def _refuse_film(self) -> None:
        with Path(self.path).open("rb") as file:
            kind = remedy_for(self.path, file.read(4096))
        if kind:
            raise InputError(f"cannot decode {self}: no picture but {kind}")

    def size(self) -> int:
        """Bytes of the content, which is not read. Raises InputError naming the file."""
        try:
            if self.member is None:
                return os.stat(self.path).st_size  # noqa: PTH116 (asked for a million files)
            return _open_zip(self.path, os.getpid()).getinfo(self.member).file_size
        except OSError as error:
            raise InputError(f"cannot read {self}: {_why(Path(self.path), error)}") from None

    def __str__(self) -> str:
        return self.path if self.member is None else f"{self.path}:{self.member}"


@functools.lru_cache(maxsize=8)
def _open_zip(path: str, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


class TwiceError(InputError):
    """Files of one id, as those that differ in the ending; `files` has the first of each."""

    def __init__(self, pairs: list[tuple[File, File]], files: dict[str, File]) -> None:
        self.messages = [f"{difference(str(a), str(b))}; keep one" for a, b in pairs]
        self.files = files
        more = f" ({len(pairs) - 1} more pairs like this)" if len(pairs) > 1 else ""
        super().__init__(self.messages[0] + more)


@collection_paused()
def list_files(
    folder: Path, endings: Sequence[str] = IMAGE_SUFFIXES, known: Sequence[str] = ()
) -> dict[str, File]:
    """Files below `folder`, sorted by id: the relative path without its ending -> file.

    Links to folders are followed; what other programs leave there is skipped. Warns of files that
    look like images or masks and have neither one of `endings` nor one of the `known` ones, which
    are left out without a word. Raises InputError when a folder can't be looked into.
    """
    # Text and not Path: a data set may have a million files.
    paths = [os.path.join(here, name) for here, names in walk(folder) for name in names]  # noqa: PTH118
    start = len(os.path.join(folder, ""))  # noqa: PTH118
    found = [(p[start:].replace(os.sep, "/"), p, None) for p in paths]
    return _by_id(str(folder), found, endings, known)


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """Every folder from `folder` on, through links too, and the names of the files in it.

    Folders that other programs leave are skipped. Raises InputError when a folder can't be looked
    into, or a link leads back to one that it is in.
    """
    for here, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = [name for name in folders if not is_leftover(name)]
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


@collection_paused()
def list_zip(
    path: Path, folder: str, endings: Sequence[str], known: Sequence[str] = ()
) -> dict[str, File]:
    """The same for the members below `folder` (ending in '/') of a zip."""
    try:
        members = _open_zip(str(path), os.getpid()).namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        found = stand_in(path) or f"{error}; download it again"
        raise InputError(f"{path} is not a readable zip: {found}") from None
    inside = [(m.removeprefix(folder), str(path), m) for m in members if m.startswith(folder)]
    for relative, _, member in inside:  # masks and predictions will be written under these names
        parts = relative.rstrip("/").split("/")
        if relative and (not {"", ".", ".."}.isdisjoint(parts) or {"\\", ":"} & {*relative}):
            raise InputError(f"{path}: the name '{member}' leads out of its folder; don't use it")
    inside = [one for one in inside if not any(map(is_leftover, one[0].split("/")[:-1]))]
    return _by_id(f"{path}:{folder}", inside, endings, known)


def _by_id(
    folder: str,
    found: list[tuple[str, str, str | None]],
    endings: Sequence[str],
    known: Sequence[str],
) -> dict[str, File]:
    """found: (path below the folder, path, member of a zip) of every file."""
    files: dict[str, File] = {}
    twice: list[tuple[File, File]] = []
    unread = []
    lowered, known = [ending.lower() for ending in endings], tuple(map(str.lower, known))
    for relative, path, member in sorted(found):
        name = relative.lower()
        ending = next((ending for ending in lowered if name.endswith(ending)), None)
        if is_leftover(relative.rpartition("/")[2]) or not relative or relative[-1] == "/":
            continue  # a zip lists folders too
        if ending is None:
            if not name.endswith(known):
                unread.append(relative)
            continue
        file, key = File(path, member), image_id(relative, ending)
        if key in files:
            twice.append((files[key], file))
        else:
            files[key] = file
    tell_unread(folder, unread, endings, bool(files))
    files = dict(sorted(files.items()))
    if twice:
        raise TwiceError(twice, files)
    return files


def read_split_list(path: Path, known: Collection[str]) -> list[str]:
    """Image ids of a split list: a line or its first word, with or without folders and ending.

    known: the ids that a line may mean (see `match_ids`). Raises InputError when one means none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the split list {path}: {error}") from None
    lines = [line.strip() for line in lines if line.strip()]
    if not lines:
        raise InputError(f"the split list {path} is empty; expected one image name a line")

    def word(line: str) -> str:
        return line.split()[0]

    def file_name(line: str) -> str:
        return line.replace("\\", "/").rpartition("/")[2]

    found: dict[str, str] = {}
    for form in (str, word, lambda line: file_name(word(line)), file_name):
        forms = {line: form(line) for line in lines if line not in found}
        ids = match_ids(forms.values(), known)
        found |= {line: ids[key] for line, key in forms.items() if key in ids}
    for line in lines:
        if line not in found:
            name = drop_suffix(file_name(word(line)))
            raise InputError(f"{path} names '{name}', but there is no such image")
    return [found[line] for line in lines]


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
            check_bmp(picture, data, file)
            raw = raw_mode(picture)
            if picture.format != "MPO" and num_pages(picture) > 1:  # MPO: of phones
                _warn_of_folder(
                    file,
                    "there are pictures with several pages or frames, of which the first is read; "
                    "save it alone",
                )
            ImageOps.exif_transpose(picture, in_place=True)  # decodes it
            picture = _with_8_bits(picture, raw, file)
    return (picture.height, picture.width), functools.partial(_decode, picture, data, file)


def _warn_of_folder(file: File, text: str) -> None:
    """Once for a folder, not for each of its files: the text is the same for all of them."""
    warn(f"{file.path if file.member else Path(file.path).parent}: {text}")


def _with_8_bits(picture: Image.Image, raw: str, file: File) -> Image.Image:
    """The picture, decoded; grey of more than 8 bits as grey of 8: the upper 8 of 12 or 16.

    raw: its `raw_mode` before it was decoded.
    """
    if picture.mode == "F":
        raise InputError(f"{file}: floating point pixels; save it as an 8 bit picture")
    is_deep = ";16" in raw and raw != "BGR;16"  # that is 16 bits for all three
    if picture.mode.startswith("I"):
        values = np.array(picture)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise InputError(f"{file}: expected at most 16 bits a channel; save it as 8 bit")
        bits = 12 if raw == "I;12" else 16
        # Pillow turns 8 bits only.
        values = (1 << bits) - 1 - values if is_white_zero(picture) else values
        is_deep = bits == 16 and values.any()
        picture = Image.fromarray((values >> bits - 8).astype(np.uint8))
    if is_deep:  # the lower 8 bits are gone; Pillow drops those of colours
        colors = np.atleast_3d(np.asarray(picture))[..., : len(picture.mode.removesuffix("A"))]
        if colors.max() == 0:
            raise InputError(f"{file}: 16 bits a channel, all below 256: black; {_SAVE_8}")
        if colors.max() < 16:
            _warn_of_folder(file, _DARK)
    return picture


def _decode(picture: Image.Image, data: bytes, file: File, window: Window) -> np.ndarray:
    """uint8 (height, width, 3)."""
    top, left, height, width = window
    with _decoding(file):
        if getattr(
            picture, "tile", None
        ):  # not decoded; a decoder stops for good, so each window takes a new one
            picture = open_picture(data)
            codec, _, *how = picture.tile[0]
            picture.tile = [(codec, (0, 0, picture.width, top + height), *how)]
        picture.load()
        picture = picture.crop((left, top, left + width, top + height))
        picture.info.pop("transparency", None)  # dropped anyhow; in a palette, Pillow warns of it
        return np.array(picture if picture.mode == "RGB" else picture.convert("RGB"))


def open_picture(data: bytes) -> Image.Image:
    """A picture, not decoded yet, of a format that is data: EPS is a program that Pillow runs."""
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def is_plain_png(picture: Image.Image, data: bytes) -> bool:
    """RGB of 8 bits row by row, whole, and without anything that might turn it."""
    if picture.format != "PNG" or len(picture.tile) != 1 or raw_mode(picture) != "RGB":
        return False
    if {"interlace", "exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"} & {*picture.info}:
        return False
    last = data.rfind(b"IDAT")  # behind it: its data, a checksum, and the end mark of 12 bytes
    length = int.from_bytes(data[last - 4 : last])
    return last + 4 + length + 4 + 12 == len(data)


def read_mask(file: File) -> np.ndarray:
    """Label map as uint8 (H,W): the stored numbers, never colours turned into numbers.

    Raises InputError when the file is damaged or is no lossless picture of one number a pixel.
    """
    data = file.read()
    with _decoding(file, data):
        return class_ids(open_picture(data), data, file)


@contextmanager
def _decoding(file: File, data: bytes | None = None) -> Iterator[None]:
    """Turn whatever goes wrong while a picture is parsed into an InputError naming the file."""
    try:
        yield
    except InputError:
        raise
    except UnidentifiedImageError:  # its message has a memory address, not the file
        raise InputError(f"cannot decode {file}: {_no_picture(file, data or b'')}") from None
    except Image.DecompressionBombError:
        raise InputError(
            f"cannot decode {file}: more than {2 * Image.MAX_IMAGE_PIXELS} pixels; make it smaller "
            "or cut it into tiles (ImageMagick: magick BIG -crop 8192x8192 tile_%03d.png)"
        ) from None
    except Exception as error:  # a damaged picture can fail in every way
        raise InputError(f"cannot decode {file}: {error}; copy or download it again") from None


def check_mask(
    values: np.ndarray, file: File, size: tuple[int, int], num_classes: int | None = None
) -> None:
    """Raise InputError when a mask does not fit its image or, if given, the class count."""
    if values.shape != size:
        raise InputError(
            f"{file} is {values.shape[0]}x{values.shape[1]} (height x width), "
            f"its image {size[0]}x{size[1]}; make the mask again from this image"
        )
    if num_classes is None:
        return
    found = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    wrong = [int(i) for i in found if num_classes <= i != IGNORE_INDEX]
    if wrong:
        raise InputError(
            f"{file} holds the ids {wrong}; expected 0 to {num_classes - 1} or {IGNORE_INDEX}"
        )


def _no_picture(file: File, data: bytes) -> str:
    """What a file that Pillow takes for no picture is, and what to do."""
    if name := picture_format(data):
        return (
            f"a {name} that is damaged or of a rare form; copy or download it again, or save it "
            "as PNG with 8 bits"
        )
    kind = remedy_for(str(file), data) if data else ""
    if kind:
        return f"{len(data)} bytes, not a picture (PNG, JPEG, ...) but {kind}"
    return f"{len(data)} bytes, not a picture (PNG, JPEG, ...); copy or download it again"
