"""Suggested image-level labels as CSV, and as a page that opens from disk to correct them by hand.

label_page.html is the page's template. Names of images and classes are foreign text: the page gets
them as JSON whose "<" and "&" are escaped, and shows them as text, never as HTML.
"""

import base64
import csv
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from datasets.labels import ClassTable
from utils.html_page import page_templates
from utils.safe.errors import InputError, printable
from utils.safe.files import check_folder, replacing, sha256
from utils.visualize import save_image

MOST_INSIDE = 200  # images inside the page: about 30 MB; more lie beside it
_SIDE, _QUALITY = 960, 80  # of an image: its longer side in pixels, and JPEG's quality
_FOLDER = "page_images"  # of the images that are not inside
_OWN_IMAGE = re.compile(r"\d{6}\.jpg")


def check_page_folder(folder: Path, overwrite: bool) -> None:
    """Raise InputError where the suggestions can't be written, or would replace others."""
    check_folder(folder, "--suggest")
    if folder.exists() and any(folder.iterdir()) and not overwrite:
        raise InputError(f"{folder} has files in it; give --suggest another folder or --overwrite")


def remove_page_images(folder: Path) -> None:
    """Remove the images beside an earlier page, before those of a new one are written."""
    for path in (folder / _FOLDER).glob("*.jpg"):
        if _OWN_IMAGE.fullmatch(path.name):
            path.unlink()


class PageImages:
    """Reduced JPEG images for a page in `folder`: inside the page, or beside it if many."""

    def __init__(self, folder: Path, count: int) -> None:
        self._folder, self._is_inside, self._added = folder, count <= MOST_INSIDE, 0

    def add(self, image: np.ndarray) -> str:
        """Address of an image (H,W,3) uint8 for the page."""
        reduced = Image.fromarray(image)
        reduced.thumbnail((_SIDE, _SIDE), Image.Resampling.LANCZOS)
        self._added += 1
        if not self._is_inside:
            name = f"{_FOLDER}/{self._added:06d}.jpg"
            save_image(self._folder / name, reduced, quality=_QUALITY)
            return name
        data = io.BytesIO()
        reduced.save(data, "JPEG", quality=_QUALITY)
        return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"


class Suggestions(NamedTuple):
    """Labels of N images and K classes."""

    keys: Sequence[str]  # of the images, as in a label file
    labels: np.ndarray  # (N,K) bool
    scores: np.ndarray  # (N,K), 0 to 1
    thresholds: np.ndarray  # (K,): a class is suggested above its threshold
    checked: np.ndarray  # (N,) bool: labels that somebody set by hand


def table_lines(
    keys: Iterable[str], values: Iterable[Iterable[object]], names: Sequence[str]
) -> list[str]:
    """A CSV table's header and one line an image: its key and a value for each class."""
    rows = zip(keys, values, strict=True)
    return [_csv(["image", *names]), *(_csv([key, *of_image]) for key, of_image in rows)]


def write_tables(folder: Path, found: Suggestions, classes: ClassTable) -> None:
    """Write suggested.csv, with 0 and 1 as `read_image_labels` reads it, and scores.csv."""
    tables = {
        "suggested.csv": found.labels.astype(int).tolist(),
        "scores.csv": [[f"{score:.4f}" for score in scores] for scores in found.scores],
    }
    for name, values in tables.items():
        text = "\n".join([*table_lines(found.keys, values, classes.names), ""])
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def write_page(
    folder: Path,
    found: Suggestions,
    addresses: Sequence[str],
    classes: ClassTable,
    commands: tuple[str, str],
) -> Path:
    """Write FOLDER/page.html; gives its path.

    addresses: of the images, from `PageImages`. commands: what to run with the files that it saves,
    labels.csv of all images and checked.csv of those that were checked.
    """
    header, *starts = table_lines(found.keys, [[]] * len(found.keys), classes.names)
    images = [
        {
            "name": printable(key),
            "start": start,
            "address": address,
            "labels": labels.astype(int).tolist(),
            "scores": [round(float(score), 3) for score in scores],
            "checked": bool(checked),
        }
        for key, start, address, labels, scores, checked in zip(
            found.keys, starts, addresses, found.labels, found.scores, found.checked, strict=True
        )
    ]
    kinds = [
        {"name": printable(name), "color": f"rgb({red}, {green}, {blue})", "threshold": round(t, 3)}
        for name, (red, green, blue), t in zip(
            classes.names, classes.palette.tolist(), found.thresholds.tolist(), strict=True
        )
    ]
    content = {"header": header, "classes": kinds, "images": images}
    same = [header, starts, found.labels.tolist(), found.checked.tolist()]
    jinja = page_templates(Path(__file__).parent)
    text = jinja.get_template("label_page.html").render(
        content=content | {"id": sha256(repr(same))}, commands=commands, count=len(images)
    )
    path = folder / "page.html"
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")
    return path


def _csv(cells: list[object]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerow(cells)  # quotes cells with \r or \n
    return text.getvalue().removesuffix("\r\n")
