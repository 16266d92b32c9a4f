"""utils/safe/file_kinds.py and leftovers.py: what a file is, whatever its name says."""

import io
import struct
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.files import File, list_files, list_zip, read_image, read_mask
from datasets.leftovers import is_leftover
from utils.safe.errors import InputError, InputWarning
from utils.safe.file_kinds import kind_of, remedy_for


def encoded(kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6), (250, 0, 0)).save(buffer, kind, **options)
    return buffer.getvalue()


def zipped(name: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(name, b"0" * 100)
    return buffer.getvalue()


def of_numpy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((2, 2), np.uint8))
    return buffer.getvalue()


def of_torch() -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(2)}, buffer)
    return buffer.getvalue()


def boxes(brands: str) -> bytes:
    """The beginning of an MP4, HEIC or AVIF file."""
    content = b"ftyp" + brands[:4].encode() + bytes(4) + brands[4:].encode()
    return struct.pack(">I", len(content) + 4) + content + bytes(100)


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("data", "what", "remedy"),
    [
        (boxes("isomiso2avc1mp41"), "film", "ffmpeg -i a.jpg frames/%06d.png"),
        (boxes("qt  "), "film", "ffmpeg"),
        (b"RIFF\x00\x00\x00\x00AVI LIST" + bytes(50), "film", "ffmpeg"),
        (b"\x1aE\xdf\xa3" + bytes(50), "film", "ffmpeg"),
        (bytes([0x47] + [0] * 187) * 4, "film", "ffmpeg"),
        (boxes("heicmif1heic"), "HEIC", "heif-convert a.jpg a_new.jpg"),
        (boxes("mif1heic"), "HEIC", "heif-convert"),
        (boxes("mif1avif"), "AVIF", "a.png"),
        (encoded("AVIF"), "AVIF", "a.png"),
        (encoded("GIF"), "GIF", "a.png"),
        (encoded("PPM"), "Netpbm", "a.png"),
        (encoded("JPEG2000"), "JPEG 2000", "a.png"),
        (encoded("PDF"), "PDF", "pdfimages"),
        (b"<?xml version='1.0'?><svg width='9'/>", "SVG", "magick"),
        (of_numpy(), "NumPy array", "fromarray"),
        (zipped("masks.npy"), "npz", "fromarray"),
        (zipped("images/a.jpg"), "zip archive", "unpack"),
        (of_torch(), "PyTorch", "remove it"),
        (b"\x1f\x8b\x08" + bytes(50), "gzip", "unpack"),
        (b"<!DOCTYPE html>\n<html><title>Log in</title>", "HTML", "signed in"),
        (b"\xef\xbb\xbf\n<html>", "HTML", "signed in"),
        (b"<?xml version='1.0'?><Error><Code>AccessDenied", "XML", "signed in"),
        (b'{"error": "not found"}', "JSON", "text editor"),
        ("Zugriff verweigert für Gäste".encode(), "text", "text editor"),
        ("not a picture".encode("utf-16"), "text", "text editor"),
        (POINTER, "Git LFS", "git lfs pull"),
        (b"/annex/objects/SHA256E-s2--a.jpg\n", "git-annex", "git annex get a.jpg"),
        (b"", "empty", "copy or download"),
        (bytes(5000), "zero bytes", "copy or download"),
        (b"L\x00\x00\x00\x01\x14\x02\x00" + bytes(50), "shortcut", "copy the file"),
        (b"\x00\x05\x16\x07\x00\x02" + bytes(50), "macOS", "remove"),
    ],
)
def test_what_is_no_picture_is_named_with_what_helps(
    tmp_path: Path, data: bytes, what: str, remedy: str
) -> None:
    assert what in kind_of(data[:4096]).what
    assert remedy in remedy_for("a.jpg", data)
    (tmp_path / "a.jpg").write_bytes(data)
    for read in (read_image, read_mask):
        with pytest.raises(InputError, match=r"a\.jpg: \d+ bytes, not an image") as error:
            read(File(str(tmp_path / "a.jpg")))
        assert not data or what in str(error.value)
        assert remedy.split(" a.jpg")[0] in str(error.value)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
def test_pictures_are_of_no_other_kind(kind: str) -> None:
    assert kind_of(encoded(kind)) is None


def test_unknown_bytes_stay_unknown(tmp_path: Path) -> None:
    data = bytes(np.random.default_rng(0).integers(128, 256, 500, dtype=np.uint8))
    assert kind_of(data) is None and remedy_for("a.jpg", data) == ""
    (tmp_path / "a.jpg").write_bytes(data)
    with pytest.raises(InputError, match=r"500 bytes, not an image \(PNG.*copy or download"):
        read_image(File(str(tmp_path / "a.jpg")))


def test_a_picture_with_a_damaged_head_is_called_damaged(tmp_path: Path) -> None:
    for kind in ("PNG", "TIFF"):
        (tmp_path / "a.jpg").write_bytes(encoded(kind)[:8] + b"\x09" * 60)
        with pytest.raises(InputError, match=f"a {kind} that is damaged or of a rare kind"):
            read_image(File(str(tmp_path / "a.jpg")))


def test_names_in_commands_are_quoted() -> None:
    assert "ffmpeg -i 'my film.mp4' frames" in remedy_for("my film.mp4", boxes("isom"))


def test_a_converted_file_has_the_name_of_the_same_image() -> None:
    assert "heif-convert v0.HEIC v0.jpg (" in remedy_for("v0.HEIC", boxes("heic"))
    assert "c/v0.JPG c/v0_new.jpg (" in remedy_for("c/v0.JPG", boxes("heic"))
    assert remedy_for("c/v0.png", encoded("GIF")).endswith(" c/v0.png c/v0_new.png")


# ---------------------------------------------------------------- what a listing leaves out

LEFTOVERS = [
    ".ipynb_checkpoints/a-checkpoint.png",
    ".DS_Store",
    "._a.png",
    ".Trash-1000/a.png",
    ".thumbnails/a.png",
    ".git/a.png",
    ".snapshot/a.png",
    ".nfs0001.png",
    ".@__thumb/a.png",
    "__MACOSX/._a.png",
    "__MACOSX/a.png",
    "@eaDir/a.png/SYNOPHOTO_THUMB_XL.png",
    "#recycle/a.png",
    "#snapshot/a.png",
    "@Recycle/a.png",
    "@Recently-Snapshot/a.png",
    "$RECYCLE.BIN/a.png",
    "lost+found/a.png",
    "Thumbs.db",
    "desktop.ini",
    "Icon\r",
    "~snapshot/a.png",
    "a.sync-conflict-20200101-120000-ABCDEFG.png",
    "a (conflicted copy 2020-01-01).png",
    "a (Anna's conflicted copy 2020-01-01).png",
    "LOST.DIR/a.png",
    "TheVolumeSettingsFolder/a.png",
    "_vti_cnf/a.png",
    "CVS/a.png",
    "__pycache__/a.png",
    "~$a.png",
    "a.png~",
    "0001.png.host.123.tmp",
    "0001.host.123.tmp.png",
]
LEFTOVERS += ["System Volume Information/a.png", "Network Trash Folder/a.png"]
DATA = (
    "0001.png",
    "a.b/0002.png",
    "recycle/0003.png",
    "@home/0004.png",
    "eaDir/0005.png",
)
DATA += (
    "~10.png",
    "Thumbs/0006.png",
    "tmp/0007.png",
    "0008.tmp.png",
    "#9.png",
    "cvs/10.png",
    "old.bak/11.png",
)
DATA += ("conflicted copy/12.png", "13 (copy).png", "a.sync/14.png")


def test_what_programs_leave_is_skipped(tmp_path: Path) -> None:
    for name in (*LEFTOVERS, *DATA):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    expected = sorted(name.removesuffix(".png") for name in DATA)
    with warnings.catch_warnings():
        warnings.simplefilter("error", InputWarning)
        assert list(list_files(tmp_path)) == expected
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            for name in (*LEFTOVERS, *DATA):
                archive.writestr(f"data/{name}", b"x")
        assert list(list_zip(tmp_path / "a.zip", "data/", [".png"])) == expected
    assert is_leftover(".DS_Store") and not is_leftover("DS_Store")


def listed(folder: Path, *arguments: object) -> list[str]:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        list_files(folder, *arguments)
    return [str(one.message) for one in said]


def test_files_that_look_like_data_are_named_in_one_line(tmp_path: Path) -> None:
    for name in ("a.png", "b.GIF", "c/d.npy", "e.heic", "notes.txt", "a.json", "a.xml", "c/f.xmp"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(encoded("GIF") if "GIF" in name else b"x")
    (line,) = listed(tmp_path, [".png"])
    assert f"{tmp_path} has 3 files that are not read (b.GIF, c/d.npy, ...); expected .png" in line
    assert "b.GIF is a GIF image; convert it" in line
    (line,) = listed(tmp_path, [".png"], (".gif", ".heic"))
    assert "has 1 file that is not read (c/d.npy)" in line
    (line,) = listed(tmp_path, ["_mask.png"], (".gif", ".heic", ".npy"))
    assert "has 1 file that is not read (a.png); expected _mask.png" in line
    for name in ("a.png", "b.GIF", "c/d.npy", "e.heic"):
        (tmp_path / name).unlink()
    (line,) = listed(tmp_path, [".png"])  # masks as polygons, perhaps
    assert "has 3 files that are not read (a.json, a.xml, ...)" in line
    for name in ("a.json", "a.xml"):
        (tmp_path / name).unlink()
    assert listed(tmp_path, [".png"]) == [] == listed(tmp_path / "gone")


@pytest.mark.parametrize("ending", ["mpo", "j2c", "ICO", "apng", "insp", "ts", "y4m"])
def test_files_that_look_like_data_by_their_ending(tmp_path: Path, ending: str) -> None:
    for name in ("a.png", f"b.{ending}"):
        (tmp_path / name).write_bytes(b"x")
    assert "has 1 file that is not read" in listed(tmp_path, [".png"])[0]


def test_pictures_without_an_ending_are_named(tmp_path: Path) -> None:
    for name, data in {"a": encoded("PNG"), "b": encoded("JPEG"), "LICENSE": b"MIT"}.items():
        (tmp_path / name).write_bytes(data)
    (line,) = listed(tmp_path)
    assert "has 2 files that are not read (a, b); expected" in line
    assert "a is a PNG image without an ending; give" in line
    for i in range(30):
        (tmp_path / f"a{i}").write_bytes(encoded("PNG"))
    assert "has 19 or more files that are not read (a, a0, ...)" in listed(tmp_path)[0]


def test_a_film_among_pictures_is_told_its_command(tmp_path: Path) -> None:
    (tmp_path / "drive.mp4").write_bytes(boxes("isom"))
    (line,) = listed(tmp_path)
    assert f"ffmpeg -i {tmp_path}/drive.mp4 frames/" in line
