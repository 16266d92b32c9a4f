"""Reading images and masks, from disk or straight out of a zip."""

import contextlib
import functools
import io
import os
import stat
import warnings
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from datasets.ids import IMAGE_SUFFIXES, difference, drop_suffix, image_id, match_ids
from datasets.labels import IGNORE_INDEX
from datasets.leftovers import is_leftover, warn_unread
from datasets.stored_numbers import check_bmp, class_ids, is_white_zero, num_pages, raw_mode
from datasets.windows import Size, Window
from utils.collection import collection_paused
from utils.safe.errors import InputError, warn
from utils.safe.file_kinds import image_format, remedy_for, stand_in
from utils.safe.paths import leaves_folder

MASK_SUFFIXES = (".png", ".tif", ".tiff", ".bmp")  # lossless formats
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)  # large images are read
_FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
_SAVE_8 = "if its numbers are of 8 bits, save it with 8 bits"
_DARK = (
    "some 16-bit images seem to hold 10 or 12 bits, none above 4095, so they are read dark: "
    "the upper 8 of 16; save them with 8 bits"
)
HUGE = 1 << 30  # bytes; such a file is most likely a video and is not read whole to find out
Reader = Callable[[Window], np.ndarray]  # uint8 (height, width, 3) of a window


@dataclass(frozen=True, slots=True)  # there may be a million
class File:
    """A file on disk, or `member` of the zip at `path`."""

    path: str
    member: str | None = None

    def read(self) -> bytes:
        """The content. Raises InputError naming the file."""
        try:
            if self.member is None:
                status = Path(self.path).stat()
                if not stat.S_ISREG(status.st_mode):  # reading a pipe would wait
                    raise InputError(f"cannot read {self}: not a regular file; remove it")
                if status.st_size > HUGE:
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
            raise InputError(f"cannot decode {self}: not an image but {kind}")

    def head(self, most: int) -> bytes:
        """The first bytes, at most `most`. Raises InputError."""
        if self.member is None and Path(self.path).is_file():  # opening a pipe would wait
            with contextlib.suppress(OSError), Path(self.path).open("rb") as file:
                return file.read(most)
        return self.read()[:most]  # or says why it can't

    def size(self) -> int:
        """Bytes of the content, without reading it. Raises InputError naming the file."""
        try:
            if self.member is None:
                return os.stat(self.path).st_size  # noqa: PTH116 (asked for a million files)
            return _open_zip(self.path, os.getpid()).getinfo(self.member).file_size
        except OSError as error:
            raise InputError(f"cannot read {self}: {_why(Path(self.path), error)}") from None
        except (KeyError, RuntimeError, zipfile.BadZipFile) as error:
            raise InputError(f"cannot read {self}: {error}; download the zip again") from None

    def __str__(self) -> str:
        return self.path if self.member is None else f"{self.path}:{self.member}"


@functools.lru_cache(maxsize=8)
def _open_zip(path: str, process: int) -> zipfile.ZipFile:
    return zipfile.ZipFile(path)


class DuplicateError(InputError):
    """Files with the same id, e.g. with two endings: `pairs`; `files` has the first of each."""

    def __init__(self, pairs: list[tuple[File, File]], files: dict[str, File]) -> None:
        self.messages = [f"{_same_id(a, b)}; keep one" for a, b in pairs]
        self.pairs, self.files = pairs, files
        more = f" ({len(pairs) - 1} more pairs like this)" if len(pairs) > 1 else ""
        super().__init__(self.messages[0] + more)


def _same_id(one: File, other: File) -> str:
    if one.member is None or one.member != other.member:
        return difference(str(one), str(other))
    twice = str(one) == str(other)
    return f"{one} is there twice" if twice else f"{one} and {other} have the same name"


@collection_paused()
def list_files(
    folder: Path, endings: Sequence[str] = IMAGE_SUFFIXES, known: Sequence[str] = ()
) -> dict[str, File]:
    """Files below `folder`, sorted by id: the relative path without its ending -> file.

    Links to folders are followed; leftovers of other programs are skipped. Warns of files that look
    like images or masks and have neither one of `endings` nor one of the `known` endings, which are
    left out silently. Raises InputError when a folder can't be listed.
    """
    return by_id(str(folder), files_below(folder), endings, known)


def files_below(folder: Path) -> list[tuple[str, File]]:
    """Relative path and file, of all files that `walk` finds."""
    # Text and not Path: a data set may have a million files.
    paths = [os.path.join(here, name) for here, names in walk(folder) for name in names]  # noqa: PTH118
    start = len(os.path.join(folder, ""))  # noqa: PTH118
    return [(p[start:].replace(os.sep, "/"), File(p)) for p in paths]


def walk(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """`folder` and every folder below it, also through links, with the names of its files.

    Leftovers of other programs are skipped. Raises InputError when a folder can't be listed, or a
    link leads back to a folder that contains it.
    """
    for here, folders, names in os.walk(folder, onerror=_refuse, followlinks=True):
        folders[:] = [name for name in folders if not is_leftover(name)]
        for link in filter(Path.is_symlink, (Path(here, name) for name in folders)):
            if link.resolve() in {parent.resolve() for parent in link.absolute().parents}:
                raise InputError(f"{link} is a link to a folder that contains it; remove the link")
        yield here, names


def _refuse(error: OSError) -> None:
    """Raise InputError, except for a missing folder, which simply has no files."""
    if not isinstance(error, FileNotFoundError | NotADirectoryError):
        why = _why(Path(error.filename), error)
        raise InputError(f"cannot list {error.filename}: {why}") from None


def _why(path: Path, error: OSError) -> str:
    if isinstance(error, FileNotFoundError) and path.is_symlink():
        return f"it is a link to {path.readlink()}, which does not exist; restore or remove it"
    if isinstance(error, PermissionError):
        return f"{error.strerror}; get permission (chmod, chown)"
    return error.strerror or str(error)


def zip_members(path: Path, folder: str = "") -> list[str]:
    """Names of the members of a zip below `folder`, which ends in '/'; of folders too.

    Raises InputError for a damaged zip, and for one with names that leave their folder.
    """
    try:
        members = _open_zip(str(path), os.getpid()).namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        found = stand_in(path) or f"{error}; download it again"
        raise InputError(f"{path} is not a readable zip: {found}") from None
    members = [member for member in members if member.startswith(folder)]
    for member in members:
        if leaves_folder(member.removeprefix(folder).rstrip("/")):
            raise InputError(f"{path}: the name '{member}' leaves its folder; don't use this zip")
    return members


@collection_paused()
def list_zip(
    path: Path, folder: str, endings: Sequence[str], known: Sequence[str] = ()
) -> dict[str, File]:
    """`list_files` for the members of a zip below `folder`, which ends in '/'."""
    found = zip_members(path, folder)
    inside = [(member.removeprefix(folder), File(str(path), member)) for member in found]
    inside = [one for one in inside if not any(map(is_leftover, one[0].split("/")[:-1]))]
    return by_id(f"{path}:{folder}", inside, endings, known)


def by_id(
    folder: str,
    found: list[tuple[str, File]],
    endings: Sequence[str],
    known: Sequence[str] = (),
) -> dict[str, File]:
    """`list_files` for `found`: each file with its path below `folder`."""
    files: dict[str, File] = {}
    duplicates: list[tuple[File, File]] = []
    unread = []
    lowered, known = [ending.lower() for ending in endings], tuple(map(str.lower, known))
    for relative, file in sorted(found, key=itemgetter(0)):
        name = relative.lower()
        ending = next((ending for ending in lowered if name.endswith(ending)), None)
        if is_leftover(relative.rpartition("/")[2]) or not relative or relative[-1] == "/":
            continue  # a zip lists folders too
        if ending is None:
            if not name.endswith(known):
                unread.append(relative)
            continue
        key = image_id(relative, ending)
        if key in files:
            duplicates.append((files[key], file))
        else:
            files[key] = file
    warn_unread(folder, unread, endings, bool(files))
    files = dict(sorted(files.items()))
    if duplicates:
        raise DuplicateError(duplicates, files)
    return files


def read_split_list(path: Path, known: Collection[str]) -> list[str]:
    """Image ids of a split list: a line or its first word, with or without folders and ending.

    known: the ids that lines are matched with (see `match_ids`). Raises InputError when one has no
    match.
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

    Raises InputError naming the file when it is damaged or not an image.
    """
    size, read = open_image(file, data)
    return read((0, 0, *size))


def open_image(file: File, data: bytes | None = None) -> tuple[Size, Reader]:
    """(height, width) of an image, and a function that reads a window of it.

    A plain PNG is decoded by each call, from the top down to the end of the window.
    data: the file's content, if it has been read already.
    """
    data = file.read() if data is None else data
    with _decoding(file, data):
        image = open_pil(data)
        if not is_plain_png(image, data):
            check_bmp(image, data, file)
            raw = raw_mode(image)
            if image.format != "MPO" and num_pages(image) > 1:  # MPO: of phones
                _warn_of_folder(
                    file,
                    "some images have several pages or frames, of which only the first is read; "
                    "save it alone",
                )
            ImageOps.exif_transpose(image, in_place=True)  # decodes it
            image = _with_8_bits(image, raw, file)
    return (image.height, image.width), functools.partial(_decode, image, data, file)


def _warn_of_folder(file: File, text: str) -> None:
    """Warn once per folder, not per file: the text is the same for all of them."""
    warn(f"{file.path if file.member else Path(file.path).parent}: {text}")


def _with_8_bits(image: Image.Image, raw: str, file: File) -> Image.Image:
    """The decoded image with 8 bits: of grey with 12 or 16 bits, the upper 8.

    raw: its `raw_mode` before decoding.
    """
    if image.mode == "F":
        raise InputError(f"{file}: floating point pixels; save it as an 8 bit image")
    is_deep = ";16" in raw and raw != "BGR;16"  # "BGR;16" has 16 bits for all three channels
    if image.mode.startswith("I"):
        values = np.array(image)
        if values.min() < 0 or values.max() > 0xFFFF:
            raise InputError(f"{file}: expected at most 16 bits a channel; save it as 8 bit")
        bits = 12 if raw == "I;12" else 16
        # Pillow inverts only images of 8 bits.
        values = (1 << bits) - 1 - values if is_white_zero(image) else values
        is_deep = bits == 16 and values.any()
        image = Image.fromarray((values >> bits - 8).astype(np.uint8))
    if is_deep:  # the lower 8 bits are lost; Pillow itself drops those of colours
        colors = np.atleast_3d(np.asarray(image))[..., : len(image.mode.removesuffix("A"))]
        if colors.max() == 0:
            raise InputError(f"{file}: 16 bits a channel, all below 256: black; {_SAVE_8}")
        if colors.max() < 16:
            _warn_of_folder(file, _DARK)
    return image


def _decode(image: Image.Image, data: bytes, file: File, window: Window) -> np.ndarray:
    """uint8 (height, width, 3)."""
    top, left, height, width = window
    with _decoding(file):
        if getattr(image, "tile", None):  # not decoded; a decoder works once, so open it again
            image = open_pil(data)
            codec, _, *how = image.tile[0]
            image.tile = [(codec, (0, 0, image.width, top + height), *how)]
        image.load()
        image = image.crop((left, top, left + width, top + height))
        image.info.pop("transparency", None)  # dropped anyway; in a palette, Pillow warns of it
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def open_pil(data: bytes) -> Image.Image:
    """An image, not decoded yet. Formats like EPS, a program that Pillow would run, are refused."""
    return Image.open(io.BytesIO(data), formats=_FORMATS)


def is_plain_png(image: Image.Image, data: bytes) -> bool:
    """Whether it is 8-bit RGB, not interlaced, complete, and without an orientation."""
    if image.format != "PNG" or len(image.tile) != 1 or raw_mode(image) != "RGB":
        return False
    if {"interlace", "exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp"} & {*image.info}:
        return False
    last = data.rfind(b"IDAT")  # behind it: its data, a checksum, and the end mark of 12 bytes
    length = int.from_bytes(data[last - 4 : last])
    return last + 4 + length + 4 + 12 == len(data)


def read_mask(file: File) -> np.ndarray:
    """Label map as uint8 (H,W): the stored numbers, never colours turned into numbers.

    Raises InputError when the file is damaged or not a lossless image with one number per pixel.
    """
    data = file.read()
    with _decoding(file, data):
        return class_ids(open_pil(data), data, file)


@contextlib.contextmanager
def _decoding(file: File, data: bytes | None = None) -> Iterator[None]:
    """Turn whatever goes wrong while an image is parsed into an InputError naming the file."""
    try:
        yield
    except InputError:
        raise
    except UnidentifiedImageError:  # its message has a memory address instead of the file
        raise InputError(f"cannot decode {file}: {_not_an_image(file, data or b'')}") from None
    except Image.DecompressionBombError:
        raise InputError(
            f"cannot decode {file}: more than {2 * Image.MAX_IMAGE_PIXELS} pixels; make it smaller "
            "or cut it into tiles (ImageMagick: magick BIG -crop 8192x8192 tile_%03d.png)"
        ) from None
    except Exception as error:  # a damaged image can fail in any way
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


def _not_an_image(file: File, data: bytes) -> str:
    """What a file is that Pillow does not recognise as an image, and what to do."""
    if name := image_format(data):
        return (
            f"a {name} that is damaged or of a rare kind; copy or download it again, or save it "
            "as PNG with 8 bits"
        )
    kind = remedy_for(str(file), data) if data else ""
    if kind:
        return f"{len(data)} bytes, not an image (PNG, JPEG, ...) but {kind}"
    return f"{len(data)} bytes, not an image (PNG, JPEG, ...); copy or download it again"
