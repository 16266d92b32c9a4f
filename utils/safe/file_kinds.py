"""Kinds of files by their first bytes, whatever their names, and what to do about them."""

import shlex
from pathlib import Path
from typing import NamedTuple

_FRAMES = "write its frames into a folder: mkdir frames && ffmpeg -i {file} frames/%06d.png"
_PILLOW = (  # keeps palette indices
    "convert it: python -c 'import sys; from PIL import Image; Image.open(sys.argv[1])"
    ".save(sys.argv[2])' {file} {png}"
)
_MAGICK = "convert it with ImageMagick: magick {file} {png}"
_RAW = "develop it to PNG or JPEG: darktable-cli {file} {png}"
_HEIF = "convert it: heif-convert {file} {jpg} (macOS: sips -s format jpeg {file} --out {jpg})"
_ARRAY = "save its numbers as an 8-bit image (PIL.Image.fromarray(array).save(name + '.png'))"
_REMOVE = "remove it, or replace it by an image"
_ANNEX = "get it: git annex get {file}"
_PICKLES = tuple(bytes([0x80, version]) for version in range(6))
_UNPACK = "unpack it and give the folder"
_AGAIN = "copy or download it again; a text editor shows what it says"


class Kind(NamedTuple):
    """Name of a kind with its article; remedy, with {file}, {png} and {jpg} for file names."""

    what: str
    remedy: str


# (what, remedy, offset, signatures): the first match counts.
_MAGIC = (
    # Matroska and WebM, MPEG (2), Windows Media, Flash, Ogg, AVI, QuickTime (3)
    ("a film", _FRAMES, 0, (b"\x1aE\xdf\xa3", b"\x00\x00\x01\xba", b"\x00\x00\x01\xb3")),
    ("a film", _FRAMES, 0, (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", b"FLV\x01", b"OggS")),
    ("a film", _FRAMES, 8, (b"AVI ",)),
    ("a film", _FRAMES, 4, (b"moov", b"mdat", b"wide")),
    ("a GIF image", _PILLOW, 0, (b"GIF8",)),
    ("a Photoshop image", _PILLOW, 0, (b"8BPS",)),
    ("a JPEG 2000 image", _PILLOW, 0, (b"\x00\x00\x00\x0cjP  ", b"\xff\x4f\xff\x51")),
    ("a DirectDraw surface", _PILLOW, 0, (b"DDS ",)),
    ("an icon", _PILLOW, 0, (b"\x00\x00\x01\x00",)),
    ("a Netpbm image (PGM, PPM)", _PILLOW, 0, tuple(b"P%d\n" % n for n in range(1, 8))),
    ("a PFM image", _PILLOW, 0, (b"Pf\n", b"PF\n")),
    ("a GIMP image", _MAGICK, 0, (b"gimp xcf",)),
    ("a JPEG XL image", _MAGICK, 0, (b"\x00\x00\x00\x0cJXL ", b"\xff\x0a")),
    ("a JPEG XR image", _MAGICK, 0, (b"II\xbc\x01",)),
    ("an OpenEXR image", _MAGICK, 0, (b"\x76\x2f\x31\x01",)),
    ("a Radiance HDR image", _MAGICK, 0, (b"#?RADIANCE", b"#?RGBE")),
    ("a QOI image", _MAGICK, 0, (b"qoif",)),
    ("a BPG image", _MAGICK, 0, (b"BPG\xfb",)),
    ("a PostScript program", _MAGICK, 0, (b"%!PS",)),
    ("a PDF document", "take the images out of it: pdfimages -all {file} image", 0, (b"%PDF",)),
    ("a raw image of a camera", _RAW, 0, (b"FUJIFILMCCD-RAW", b"IIRO", b"IIU\x00")),
    ("a DICOM image", "convert it: dcm2pnm +on {file} {png}", 128, (b"DICM",)),
    ("a NIfTI volume", _ARRAY, 344, (b"n+1\x00", b"ni1\x00")),
    ("a FITS image", _ARRAY, 0, (b"SIMPLE  =",)),
    ("a NumPy array", _ARRAY, 0, (b"\x93NUMPY",)),
    ("a MATLAB file", _ARRAY, 0, (b"MATLAB ",)),
    ("an HDF5 file (also MATLAB's)", _ARRAY, 0, (b"\x89HDF",)),
    ("an archive (gzip, bzip2, xz)", _UNPACK, 0, (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\x00")),
    ("an archive (zstd, 7-Zip, RAR)", _UNPACK, 0, (b"\x28\xb5\x2f\xfd", b"7z\xbc\xaf", b"Rar!")),
    ("a tar archive", _UNPACK, 257, (b"ustar",)),
    ("a table or a data base", "write its images as files", 0, (b"PAR1", b"SQLite format 3\x00")),
    ("an Office document or Windows' Thumbs.db", "remove it", 0, (b"\xd0\xcf\x11\xe0",)),
    ("what macOS keeps beside a file (AppleDouble)", "remove it", 0, (b"\x00\x05\x16\x07",)),
    ("a pickle of Python (a checkpoint, perhaps)", _REMOVE, 0, _PICKLES),
    ("a placeholder of macOS (iCloud)", "download the file in the Finder", 0, (b"bplist00",)),
    (
        "a Windows shortcut",
        "copy the file that it leads to",
        0,
        (b"L\x00\x00\x00\x01\x14\x02\x00",),
    ),
    (
        "a pointer of Git LFS, not the file",
        "get it: git lfs pull",
        0,
        (b"version https://git-lfs",),
    ),
    ("a pointer of git-annex, not the file", _ANNEX, 0, (b"../.git/annex/", b"/annex/objects/")),
)
_IMAGES = {
    "PNG": (b"\x89PNG",),
    "JPEG": (b"\xff\xd8\xff",),
    "BMP": (b"BM",),
    "TIFF": (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
}
# Kinds that may replace any file by mistake.
_STAND_INS = ("a pointer of", "a placeholder of", "an HTML page", "an XML text", "an empty file")
_STAND_INS += ("nothing but zero bytes", "a Windows shortcut", "what macOS keeps")
_SIGNED_OUT = "copy or download it again, signed in: it may be the page of a login or an error"


def kind_of(data: bytes) -> Kind | None:
    """The kind of a file, given at least its first 4096 bytes.

    None for unknown kinds and for images that this code reads. Empty files, text and zero bytes
    are kinds too.
    """
    if not data:
        return Kind("an empty file", "copy or download it again")
    if data[4:8] == b"ftyp":
        return _of_boxes(data)
    for what, remedy, place, signatures in _MAGIC:
        if data.startswith(signatures, place):
            return Kind(what, remedy)
    if len(data) > 376 and data[0] == data[188] == data[376] == 0x47:
        return Kind("a film (MPEG)", _FRAMES)
    if data[:4] == b"PK\x03\x04":
        return _of_zip(data)
    if data.count(0) == len(data):
        return Kind(
            "nothing but zero bytes",
            "copy or download it again: the last copy was not finished",
        )
    return _of_text(data[:4096])


def remedy_for(name: str, data: bytes) -> str:
    """Kind and remedy, 'a film (MP4 or QuickTime); write ...'; empty for unknown kinds."""
    kind = kind_of(data)
    if kind is None:
        return ""
    names = {"file": name, "png": _beside(name, ".png"), "jpg": _beside(name, ".jpg")}
    names = {key: shlex.quote(value) for key, value in names.items()}
    return f"{kind.what}; {kind.remedy.format_map(names)}"


def _beside(name: str, ending: str) -> str:
    """The name after a conversion, with the same image id unless the file itself has that name."""
    stem = str(Path(name).with_suffix(""))
    same = f"{stem}{ending}".casefold() == name.casefold()
    return f"{stem}_new{ending}" if same else f"{stem}{ending}"


def stand_in(path: str | Path) -> str:
    """'it is an HTML page; ...' where the file at `path` is a useless stand-in; else empty.

    Login or error pages, pointers and empty files can replace any file by mistake.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(4096)
    except OSError:
        return ""
    kind = kind_of(head)
    is_one = kind is not None and kind.what.startswith(_STAND_INS)
    return f"it is {remedy_for(str(path), head)}" if is_one else ""


def image_format(data: bytes) -> str:
    """PNG, JPEG, BMP, TIFF or WebP, by the first bytes of a file, perhaps damaged; else empty."""
    for name, signatures in _IMAGES.items():
        if data.startswith(signatures):
            return name
    return "WebP" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ""


def _of_boxes(data: bytes) -> Kind:
    """Kind of a file in the ISO base media format: films, HEIC and AVIF images, by its brands."""
    brands = data[8 : max(12, min(int.from_bytes(data[:4]), 256))]
    if b"avif" in brands or b"avis" in brands:
        return Kind("an AVIF image", _PILLOW)
    if any(brand in brands for brand in (b"heic", b"heix", b"heim", b"heis", b"hevc", b"mif1")):
        return Kind("a HEIC image", _HEIF)
    if brands[:3] == b"crx":
        return Kind("a raw image of a camera", _RAW)
    return Kind("a film (MP4 or QuickTime)", _FRAMES)


def _of_zip(data: bytes) -> Kind:
    head = data[:4096]
    if b"data.pkl" in head:
        return Kind("a checkpoint of PyTorch", _REMOVE)
    if b".npy" in head[:300]:
        return Kind("NumPy arrays (.npz)", _ARRAY)
    return Kind("a zip archive", _UNPACK)


def _of_text(head: bytes) -> Kind | None:
    bom = head[:2] in (b"\xff\xfe", b"\xfe\xff")
    text = head.decode("utf-16" if bom else "utf-8", errors="replace").lstrip("\ufeff \t\r\n")
    start = text[:1000].lower()
    if start.startswith(("<!doctype html", "<html", "<head", "<body", "<script")):
        return Kind("an HTML page", _SIGNED_OUT)
    if "<svg" in start and start.startswith("<"):
        return Kind("an SVG drawing", _MAGICK)
    if start.startswith("<?xml") or "<error>" in start:
        return Kind("an XML text", _SIGNED_OUT)
    odd = sum(not (c.isprintable() or c in "\t\r\n") or c == "\ufffd" for c in text)
    if odd > 1:  # the last letter may be cut
        return None
    return Kind("a JSON text" if start[:1] in ("{", "[") else "a text", _AGAIN)
