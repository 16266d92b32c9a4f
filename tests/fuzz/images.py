"""Readers of images, masks, the image cache and zips."""

import io
import shutil
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from datasets.cache import _entry, open_cached
from datasets.cityscapes import Cityscapes
from datasets.files import File, _open_zip, open_image, read_image, read_mask
from tests.fuzz.reading import Target, allowed


def image_targets() -> dict[str, Target]:
    """PNG, JPEG and other images, masks, the image cache, zips of images."""
    rng = np.random.default_rng(0)
    color = rng.integers(0, 256, (12, 17, 3), np.uint8)
    grey = color[..., 0]

    def dump(array: np.ndarray, form: str, mode: str | None = None, **options: Any) -> bytes:
        image, content = Image.fromarray(array), io.BytesIO()
        (image.convert(mode) if mode else image).save(content, form, **options)
        return content.getvalue()

    turned = Image.Exif()
    turned[0x0112] = 6
    pngs = [dump(color, "PNG"), dump(color, "PNG", "RGBA"), dump(color, "PNG", exif=turned)]
    masks = [dump(grey, "PNG"), dump(grey, "PNG", "P"), dump(grey, "PNG", "1")]
    masks += [dump(grey.astype(np.uint16), "PNG"), dump(grey.astype(np.int32), "TIFF")]
    jpegs = [dump(color, "JPEG"), dump(color, "JPEG", "CMYK"), dump(grey, "JPEG")]
    jpegs += [dump(color, "JPEG", exif=turned), dump(color, "JPEG", progressive=True)]
    others = [dump(color, form) for form in ("BMP", "WEBP", "TIFF")]
    others += [dump(color, "TIFF", compression="tiff_lzw")]
    chunks = (b"IHDR", b"IDAT", b"IEND", b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fcTL", b"\0\0\0\0")
    markers = (b"\xff\xd8", b"\xff\xc0", b"\xff\xda", b"\xff\xe1", b"\xff\xe2MPF\0", b"Exif\0\0")
    cached = io.BytesIO()
    np.save(cached, color)
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("train/a/a", "val/b/b"):
            archive.writestr(f"leftImg8bit/{name}_leftImg8bit.png", pngs[0])

    def as_image(path: Path) -> None:
        def window() -> None:
            (height, width), read = open_image(File(str(path)))
            read((height // 2, 0, max(1, height // 4), width))

        allowed(lambda: read_image(File(str(path))), lambda: read_mask(File(str(path))), window)

    def as_cache(path: Path) -> None:
        file = File(str(path.parent / "image.png"))
        Path(file.path).write_bytes(pngs[0])
        entry = _entry(path.parent, file)
        shutil.copyfile(path, entry)
        (height, width), read = open_cached(path.parent, file)
        read((0, 0, height, width))
        entry.unlink()

    def as_zip(path: Path) -> None:
        folder = path.parent / f"zip-{path.stem}"
        folder.mkdir()
        shutil.copyfile(path, folder / "leftImg8bit_trainvaltest.zip")
        try:
            found = Cityscapes(folder)
            for split in found.splits():
                for name, file in found.images(split).items():
                    assert (folder / f"{name}.png").resolve().is_relative_to(folder.resolve())
                    read_image(file)
        finally:
            _open_zip.cache_clear()
            shutil.rmtree(folder)

    return {
        "image-png": Target(".png", as_image, pngs, chunks),
        "image-mask": Target(".png", as_image, masks, chunks),
        "image-jpeg": Target(".jpg", as_image, jpegs, markers),
        "image-other": Target(".tif", as_image, others, (*markers, b"II*\0", b"%!PS-Adobe")),
        "image-cache": Target(".npy", as_cache, [cached.getvalue()], (b"(1, 2)", b"|O", b"'")),
        "image-zip": Target(".zip", as_zip, [zipped.getvalue()], (b"../", b"PK\x01\x02", b"\0")),
    }
