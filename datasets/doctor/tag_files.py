"""Exports of annotation tools, a file, a folder or a zip: which tool's they are, and their tags."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from datasets.doctor.tag_formats import (
    MIN_FIELDS,
    Tagged,
    of_coco,
    of_cvat,
    of_fiftyone,
    of_fiftyone_samples,
    of_label_studio,
    of_label_studio_min,
    of_labelme,
    of_voc,
)
from datasets.doctor.tag_yolo import names_files, of_yolo
from datasets.doctor.tool_files import is_zip, members, read_bytes, read_json, read_xml
from datasets.files import File
from utils.safe.errors import InputError

KNOWN = "CVAT, Label Studio, LabelMe, FiftyOne, COCO, PASCAL VOC or YOLO"
_READERS: dict[str, Callable[[Any, File], Iterator[Tagged]]] = {
    "CVAT": of_cvat,
    "PASCAL VOC": of_voc,
    "LabelMe": of_labelme,
    "Label Studio": of_label_studio,
    "Label Studio (JSON-MIN)": of_label_studio_min,
    "COCO": of_coco,
    "FiftyOne": of_fiftyone,
    "FiftyOne (samples)": of_fiftyone_samples,
}
_ONE_IMAGE = ("PASCAL VOC", "LabelMe")  # tools that write a file for each image


class TagFile(NamedTuple):
    """What a tool says about images, each of which may stand in it once."""

    where: str  # the file or folder, for messages
    kind: str
    images: list[Tagged]


def read_tags(path: Path) -> list[TagFile]:
    """The tags of an export: one `TagFile`, or one for each file that has several images.

    The tool is recognised from the content. Raises InputError where it is unknown or not the same
    everywhere, naming the file, and for a damaged file.
    """
    if not path.exists():
        raise InputError(f"no {path}; --import-tags names what an annotation tool wrote")
    files = members(path)
    is_alone = not path.is_dir() and not is_zip(path)
    marked = {name: file for name, file in files.items() if _ending(name) in (".xml", ".json")}
    samples = [name for name in marked if name.rpartition("/")[2] == "samples.json"]
    if samples:  # of FiftyOneDataset, which writes other JSON beside it
        marked = {name: files[name] for name in samples}
    lists = {} if is_alone else names_files(files)
    if lists and any(_ending(name) == ".txt" and name not in lists for name in files):
        marked.pop("notes.json", None)  # of Label Studio, beside its classes.txt
        if marked:
            raise InputError(
                f"{path} has labels of YOLO ({next(iter(lists))}) and {next(iter(marked))}; name "
                "the file or the folder of one of the two"
            )
        return [TagFile(str(path), "YOLO", list(of_yolo(files, lists)))]
    found = [_read(file) for file in (files if is_alone else marked).values()]
    if not found:
        raise InputError(
            f"{path} holds no labels of {KNOWN}: no .json, no .xml, and no .txt with the names of "
            "its classes (obj.names, classes.txt or data.yaml in the same folder)"
        )
    kinds = {one.kind: one.where for one in reversed(found)}
    if len(kinds) > 1:
        listed = " and ".join(f"{where} ({kind})" for kind, where in kinds.items())
        raise InputError(f"{path} has files of several tools, {listed}; name those of one")
    if found[0].kind in _ONE_IMAGE and not is_alone:
        return [TagFile(str(path), found[0].kind, [one.images[0] for one in found])]
    return found


def summary(file: TagFile) -> str:
    """What was recognised, for a terminal."""
    tagged = [image.tags for image in file.images if image.tags is not None]
    labels = Counter(tag for tags in tagged for tag in tags)
    images, total = counted(len(file.images), "image"), counted(labels.total(), "label")
    left = len(file.images) - len(tagged)
    return f"{file.where}: {file.kind}, {images}, {total}" + f", {left} not annotated" * bool(left)


def counted(number: int, what: str) -> str:
    """ "1 image", "2 images"."""
    return f"{number} {what}{'s' * (number != 1)}"


def _read(file: File) -> TagFile:
    data = read_bytes(file)
    start = data[:1000].lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if start == b"<":
        content = read_xml(file, "an annotation tool", data)
        kind = "PASCAL VOC" if content.tag == "annotation" else "CVAT"
    elif start in (b"{", b"["):
        content = read_json(file, data)
        kind = _kind(content)
    else:
        kind = ""
    if not kind:
        advice = "" if _ending(str(file)) != ".txt" else "; of YOLO, name the folder"
        if start == b"{" and all(isinstance(value, list) for value in content.values()):
            advice = "; a file of image-level labels is read with --labels"
        raise InputError(f"{file} is no file of {KNOWN}{advice}")
    return TagFile(str(file), kind, list(_READERS[kind](content, file)))


def _kind(content: Any) -> str:
    """One of _READERS, by the keys of a JSON value; empty for an unknown tool."""
    if isinstance(content, list):
        first = content[0] if content and isinstance(content[0], dict) else {}
        is_min = "data" not in first and first.keys() & {"image", *MIN_FIELDS[2:]}
        kind = "Label Studio (JSON-MIN)" if is_min else "Label Studio"
        return kind if is_min or "data" in first or not content else ""
    keys = {
        "LabelMe": ("shapes", "imagePath"),
        "COCO": ("images", "annotations", "categories"),
        "FiftyOne (samples)": ("samples",),
        "FiftyOne": ("labels",),
    }
    return next((kind for kind, needed in keys.items() if content.keys() & {*needed}), "")


def _ending(name: str) -> str:
    return name[name.rfind(".") :].lower()
