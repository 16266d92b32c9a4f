"""datasets/stored_numbers.py: masks of every form give the ids that the file stores, or an error.

The files are written here byte by byte: Pillow can't write most of these forms.
"""

import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datasets.files import File, read_image, read_mask
from utils.safe.errors import InputError, InputWarning


def packed(rows: np.ndarray, bits: int, order: str = ">", kind: str = "u") -> list[bytes]:
    """Each row as bytes, with `bits` a number."""
    if bits % 8 == 0:
        return [row.astype(f"{order}{kind}{bits // 8}").tobytes() for row in rows]
    texts = ["".join(f"{int(v):0{bits}b}" for v in row) for row in rows]
    return [int(t.ljust(-(-len(t) // 8) * 8, "0"), 2).to_bytes(-(-len(t) // 8)) for t in texts]


def png(values: np.ndarray, bits: int, color: int = 0, **chunks: bytes) -> bytes:
    """color: 0 grey, 2 RGB, 3 palette, 4 grey and alpha, 6 RGBA. chunks: PLTE, tRNS."""
    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row for row in packed(values.reshape(height, -1), bits))
    parts = {"IHDR": struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0), **chunks}
    parts |= {"IDAT": zlib.compress(rows), "IEND": b""}
    result = b"\x89PNG\r\n\x1a\n"
    for name, data in parts.items():
        body = name.encode() + data
        result += struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))
    return result


def tiff(
    values: np.ndarray,
    bits: int,
    white_is_zero: bool = False,
    palette: bool = False,
    sample_format: int = 1,
    order: str = "<",
    deflate: bool = False,
) -> bytes:
    """One strip. sample_format: 1 whole numbers, 2 signed, 3 floating point."""
    height, width = values.shape
    data = b"".join(packed(values, bits, order, {1: "u", 2: "i", 3: "f"}[sample_format]))
    data = zlib.compress(data) if deflate else data
    colors = [(k * 777) % 65536 for k in range(3 << bits)] if palette else []
    photometric = 3 if palette else int(not white_is_zero)
    count = 10 + palette
    place = 8 + 2 + 12 * count + 4
    tags = [(256, width), (257, height), (258, bits), (259, 8 if deflate else 1)]
    tags += [(262, photometric), (273, place + 2 * len(colors)), (277, 1), (278, height)]
    tags += [(279, len(data))]
    entries = [struct.pack(f"{order}HHII", tag, 4, 1, value) for tag, value in tags]
    if palette:
        entries.append(struct.pack(f"{order}HHII", 320, 3, len(colors), place))
    entries.append(struct.pack(f"{order}HHIHH", 339, 3, 1, sample_format, 0))
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, count)
    colors = struct.pack(f"{order}{len(colors)}H", *colors)
    return head + b"".join(entries) + bytes(4) + colors + data


def bmp(values: np.ndarray, bits: int, palette: list[tuple[int, int, int]]) -> bytes:
    height, width = values.shape
    rows = b"".join(row.ljust(-(-len(row) // 4) * 4, b"\0") for row in packed(values, bits)[::-1])
    colors = b"".join(bytes([blue, green, red, 0]) for red, green, blue in palette)
    place = 54 + len(colors)
    head = b"BM" + struct.pack("<IHHI", place + len(rows), 0, 0, place)
    size = (40, width, height, 1, bits, 0, len(rows), 0, 0, len(palette), 0)
    return head + struct.pack("<IiiHHIIiiII", *size) + colors + rows


def saved(values: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    buffer, image = io.BytesIO(), Image.fromarray(values)
    (image.convert(mode) if mode else image).save(buffer, kind, **options)
    return buffer.getvalue()


def read(tmp_path: Path, data: bytes, reader=read_mask) -> np.ndarray:
    (tmp_path / "m.png").write_bytes(data)
    return reader(File(str(tmp_path / "m.png")))


def ids(bits: int) -> np.ndarray:
    """(5,7): numbers that fit, the largest among them."""
    top = min(1 << bits, 256)
    values = np.arange(35).reshape(5, 7) % min(top, 19)
    values[0, 0] = top - 1
    return values.astype(np.uint8)


COLORS = bytes(range(256)) * 3
GREYS = [(k, k, k) for k in range(256)]
REVERSED = GREYS[::-1]
COLORED = [(k * 7 % 256, k, 255 - k) for k in range(256)]


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_png_of_every_depth(tmp_path: Path, bits: int) -> None:
    expected = ids(bits)
    assert np.array_equal(read(tmp_path, png(expected, bits)), expected)
    assert np.array_equal(read(tmp_path, png(expected, bits, tRNS=b"\0\1")), expected)
    if bits <= 8:
        colors = COLORS[: 3 << bits]
        assert np.array_equal(read(tmp_path, png(expected, bits, 3, PLTE=colors)), expected)
        clear = png(expected, bits, 3, PLTE=colors, tRNS=b"\0\xff")
        assert np.array_equal(read(tmp_path, clear), expected)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("deflate", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_tiff_of_every_depth(tmp_path: Path, bits: int, order: str, deflate: bool) -> None:
    expected = ids(bits)
    how = {"order": order, "deflate": deflate}
    assert np.array_equal(read(tmp_path, tiff(expected, bits, **how)), expected)
    if bits <= 8:
        assert np.array_equal(read(tmp_path, tiff(expected, bits, palette=True, **how)), expected)
    with pytest.raises(InputError, match=r"m.png: a TIFF in which 0 is white.*PNG|TIFF that is"):
        read(tmp_path, tiff(expected, bits, white_is_zero=True, **how))


def test_tiff_of_32_bits_and_floating_point(tmp_path: Path) -> None:
    expected = ids(8)
    assert np.array_equal(read(tmp_path, tiff(expected, 32)), expected)
    assert np.array_equal(read(tmp_path, tiff(expected, 32, sample_format=3)), expected)
    assert np.array_equal(read(tmp_path, tiff(expected, 16, sample_format=2)), expected)
    with pytest.raises(InputError, match=r"whole numbers, found 15.5"):
        read(tmp_path, tiff(ids(4) + np.float32(0.5), 32, sample_format=3))
    with pytest.raises(InputError, match=r"a TIFF that is .*of a rare kind.*PNG with 8 bits"):
        read(tmp_path, tiff(expected, 64, sample_format=3))


@pytest.mark.parametrize(("bits", "kind"), [(8, 2), (16, 2), (32, 2), (32, 3)])
def test_numbers_below_0_are_refused(tmp_path: Path, bits: int, kind: int) -> None:
    with pytest.raises(InputError, match=r"found down to -1.*pixels without a label are 255"):
        read(tmp_path, tiff(ids(4).astype(np.int32) - 1, bits, sample_format=kind))


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bmp_gives_the_stored_numbers_or_an_error(tmp_path: Path, bits: int) -> None:
    """Whatever the palette is: Pillow unpacks some of those that are grey wrongly."""
    expected, count = ids(bits), 1 << bits
    ramp = [(k * 255 // (count - 1),) * 3 for k in range(count)]
    palettes = (GREYS[:count], ramp, REVERSED[:count], COLORED[:count], [GREYS[0], GREYS[255]])
    right = 0
    for palette in palettes:
        try:
            assert np.array_equal(read(tmp_path, bmp(expected, bits, palette)), expected)
            right += 1
        except InputError as error:
            assert "m.png: a BMP of" in str(error) and "save it as PNG" in str(error)
            with pytest.raises(InputError, match=r"palette of greys can't be read; save it"):
                read(tmp_path, bmp(expected, bits, palette), read_image)
    assert right >= 3


def test_forms_that_change_numbers_are_refused(tmp_path: Path) -> None:
    values = ids(8)
    for kind, mode, name in (
        ("JPEG", None, "JPEG"),
        ("WEBP", "RGB", "WebP"),
        ("TIFF", "RGB", "JPEG in TIFF"),
    ):
        options = {"compression": "jpeg"} if kind == "TIFF" else {}
        with pytest.raises(InputError, match=f"m.png: {name} changes label numbers; masks must"):
            read(tmp_path, saved(values, kind, mode, **options))


@pytest.mark.parametrize(("mode", "color"), [("LA", 4), ("RGB", 2), ("RGBA", 6)])
def test_several_channels_are_refused(tmp_path: Path, mode: str, color: int) -> None:
    channels = np.dstack([ids(8)] * len(mode))
    equal = r"m.png: expected one channel.*found .*; turn it into grey by keeping one channel"
    with pytest.raises(InputError, match=equal):
        read(tmp_path, png(channels, 8, color))
    with pytest.raises(InputError, match=r"channels of 16 bits; expected one channel.*8 bits"):
        read(tmp_path, png(channels, 16, color))  # Pillow drops the lower 8: all would be 0
    if mode == "RGB":
        channels[0, 0] = (9, 8, 7)
        with pytest.raises(InputError, match=r"turn colours into class ids first"):
            read(tmp_path, png(channels, 8, color))


def test_pages(tmp_path: Path) -> None:
    first, second = Image.fromarray(ids(8)), Image.fromarray(ids(4))
    for kind, options in (("TIFF", {}), ("PNG", {})):
        data = saved(ids(8), kind, save_all=True, append_images=[second], **options)
        with pytest.raises(InputError, match=r"2 pages; expected one map of class ids"):
            read(tmp_path, data)
    second.encoderinfo = {"tiffinfo": {254: 1}}  # the first one made smaller, as in a GeoTIFF
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=[second])
    assert np.array_equal(read(tmp_path, buffer.getvalue()), ids(8))


def test_masks_too_large_name_the_number(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"found up to 4626; save it as PNG with 8 bits"):
        read(tmp_path, png(ids(4).astype(np.uint16) * 0 + 4626, 16))


# ---------------------------------------------------------------- images


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, axis=2)


@pytest.mark.parametrize(("bits", "step"), [(1, 255), (2, 85), (4, 17), (8, 1)])
def test_grey_images_are_as_a_viewer_shows_them(tmp_path: Path, bits: int, step: int) -> None:
    values = ids(bits).astype(int)
    shown = grey(values * step)
    assert np.array_equal(read(tmp_path, png(values, bits), read_image), shown)
    for order in "<>":
        data = tiff(values, bits, order=order)
        assert np.array_equal(read(tmp_path, data, read_image), shown)
        data = tiff(values, bits, white_is_zero=True, order=order)
        assert np.array_equal(read(tmp_path, data, read_image), 255 - shown)


def test_images_of_16_bits(tmp_path: Path) -> None:
    values = ids(8).astype(np.uint16) * 200 + 7
    shown = grey(values >> 8)
    for data in (png(values, 16), tiff(values, 16), tiff(values, 16, order=">")):
        assert np.array_equal(read(tmp_path, data, read_image), shown)
    data = tiff(values, 16, white_is_zero=True, deflate=True)
    assert np.array_equal(read(tmp_path, data, read_image), grey((65535 - values) >> 8))
    colors = np.dstack([values, values[::-1], values])
    shown = (colors >> 8).astype(np.uint8)
    assert np.array_equal(read(tmp_path, png(colors, 16, 2), read_image), shown)


def test_images_that_lose_something_are_told_of_once_a_folder(tmp_path: Path) -> None:
    values = ids(8).astype(np.uint16) * 16 + 15
    dark = "none above 4095.*save them with 8 bits"
    for data in (png(values, 16), tiff(values, 16), png(np.dstack([values] * 3), 16, 2)):
        with pytest.warns(InputWarning, match=dark):
            assert np.array_equal(read(tmp_path, data, read_image), grey(values >> 8))
    first, second = Image.fromarray(ids(8)), Image.fromarray(ids(4))
    for kind, options in (("TIFF", {}), ("PNG", {}), ("WEBP", {"lossless": True})):
        data = saved(ids(8), kind, save_all=True, append_images=[second], **options)
        with pytest.warns(InputWarning, match="the first is read") as said:
            assert np.array_equal(read(tmp_path, data, read_image), grey(ids(8)))
        assert str(said[0].message).startswith(f"{tmp_path}: ")
    second.encoderinfo = {"tiffinfo": {254: 1}}
    buffer = io.BytesIO()
    first.save(buffer, "TIFF", save_all=True, append_images=[second])
    for data in (buffer.getvalue(), tiff(values, 12), png(values * 16, 16)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(read(tmp_path, data, read_image), grey(ids(8)))


def test_images_whose_16_bits_hold_8_are_refused(tmp_path: Path) -> None:
    values = ids(8)
    colors = png(np.dstack([values] * 3), 16, 2)
    for data in (png(values, 16), tiff(values, 16), tiff(values, 32), colors):
        with pytest.raises(InputError, match="all below 256: black; .*save it with 8 bits"):
            read(tmp_path, data, read_image)
    black = png(values * 0, 16)  # nothing to be said of
    assert not read(tmp_path, black, read_image).any()
