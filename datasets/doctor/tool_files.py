"""Files of annotation tools: their content, and what points and tags both read from it.

Nothing in these files is executed. Raises InputError naming the file and the entry.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from datasets.files import File, walk, zip_members
from datasets.ids import IMAGE_SUFFIXES
from datasets.leftovers import is_leftover
from utils.safe.errors import InputError
from utils.safe.files import parse_json
from utils.safe.xml_file import Element, parse_xml

CVAT_MEMBER = "annotations.xml"  # of CVAT's zip
_CVAT = 'export the task as "CVAT for images 1.1"'
_LONGEST = 1 << 28  # bytes of a member of a zip, unpacked
_UPLOADED = re.compile(r"[0-9a-f]{8}-(?=.)")  # what Label Studio puts before a file's name


def members(path: Path) -> dict[str, File]:
    """Files of a folder or of a zip, by their sorted names in it; of a file, itself.

    Leftovers of other programs are skipped; nothing is unpacked. Raises InputError for a zip whose
    names leave its folder.
    """
    if path.is_dir():
        found = sorted(Path(here, name) for here, names in walk(path) for name in names)
        files = {file.relative_to(path).as_posix(): File(str(file)) for file in found}
    elif is_zip(path):
        names = sorted(name for name in zip_members(path) if name[-1] != "/")
        files = {name: File(str(path), name) for name in names}
    else:
        return {path.name: File(str(path))}
    return {name: one for name, one in files.items() if not any(map(is_leftover, name.split("/")))}


def is_zip(path: Path) -> bool:
    """Whether a file begins as a zip does."""
    if not path.is_file():  # reading a pipe would wait
        return False
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def read_bytes(file: File) -> bytes:
    """The content of a file; a member of a zip may have 256 MiB."""
    if file.member is not None and file.size() > _LONGEST:
        raise InputError(
            f"{file} has {file.size()} bytes; expected at most {_LONGEST}; if it is an export of "
            "an annotation tool, unpack the zip and name the file in it"
        )
    return file.read()


def read_json(file: File, data: bytes | None = None) -> Any:
    """The value in a JSON file. data: its content, if it has been read already."""
    try:
        return parse_json((read_bytes(file) if data is None else data).decode("utf-8-sig"))
    except ValueError as error:
        raise InputError(f"{file} is not valid JSON: {error}; export it again") from None


def read_xml(file: File, what: str, data: bytes | None = None) -> Element:
    """The root of an XML file. what: whose file is expected, 'CVAT'. data: as for `read_json`."""
    try:
        return parse_xml(read_bytes(file) if data is None else data)
    except ValueError as error:
        raise InputError(f"{file} is not an XML file of {what}: {error}; export it again") from None


def cvat_images(root: Element, where: object) -> Iterator[tuple[str, str, Element]]:
    """Name, place for messages and element of each image of "CVAT for images 1.1".

    Source: docs.cvat.ai, "XML annotation format".
    """
    version = (root.findtext("version") or "").strip()
    if root.tag != "annotations" or version != "1.1":
        found = f"<{root.tag}> of version {version!r}"
        raise InputError(f"{where}: expected <annotations> of version 1.1, found {found}; {_CVAT}")
    if root.find("track") is not None:
        raise InputError(f"{where} holds tracks of a film; {_CVAT}")
    for element in root.iterfind("image"):
        name = element.get("name", "")
        if not name:
            raise InputError(f"{where}: an <image> has no name; {_CVAT}")
        yield name, f"{where}: image '{name}'", element


def label_studio_tasks(
    content: object, where: object
) -> Iterator[tuple[tuple[str, ...], str, list[list[Any]]]]:
    """Names of the image, place for messages and results of each task of Label Studio's JSON.

    There is a list of results for each annotation that was not cancelled. Source:
    labelstud.io/guide/task_format.
    """
    if not isinstance(content, list):
        raise InputError(f'{where}: expected a list of tasks; export as "JSON"')
    for number, task in enumerate(content):
        spot = f"{where}, task {number + 1}"
        data = take(task, "data", dict, spot)
        address = data[image_field(data, spot)]
        spot += f" ({address[-60:]})"
        kept = []
        is_old = "completions" in task  # before version 1
        key, cancelled = ("completions", "skipped") if is_old else ("annotations", "was_cancelled")
        for annotation in take(task, key, list, spot):
            if not (isinstance(annotation, dict) and annotation.get(cancelled)):
                kept.append(take(annotation, "result", list, spot))
        yield label_studio_names(address), spot, kept


def image_field(data: Any, where: str) -> str:
    """The field of a Label Studio task with its image: `image`, or the only address of an image.

    A labelling interface may give it any name. Raises InputError naming the fields.
    """
    if not isinstance(data, dict):
        raise InputError(f"{where}: expected a mapping, found {str(data)[:40]}; export it again")
    texts = {key: value for key, value in data.items() if isinstance(value, str)}
    if "image" in texts:
        return "image"
    found = [
        key
        for key, text in texts.items()
        if label_studio_names(text)[0].lower().endswith(IMAGE_SUFFIXES)
    ]
    if len(found) != 1:
        which = f"{len(found)} ({', '.join(found)})" if found else f"none among {sorted(data)[:8]}"
        raise InputError(
            f"{where}: expected the address of an image as 'image', or one field that ends in "
            f"{', '.join(IMAGE_SUFFIXES)}; found {which}; rename it to 'image' in the file"
        )
    return found[0]


def label_studio_names(address: str) -> tuple[str, ...]:
    """What the file of an image of Label Studio may be called, the likeliest first."""
    # An upload is "/data/upload/1/1a2b3c4d-name.jpg", a local file "/data/local-files/?d=name";
    # what else follows a question mark is the key of a cloud, which may hold slashes.
    name = unquote(address.rpartition("?d=")[2].partition("?")[0]).replace("\\", "/")
    folder, slash, name = name.rpartition("/")
    names = (name, _UPLOADED.sub("", name, count=1))
    return tuple(dict.fromkeys(f"{folder}{slash}{one}" for one in names))


def is_number(value: object) -> bool:
    """Whether a value of a JSON file is a number."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def take(content: object, key: str, kind: Any, where: str) -> Any:
    """`content[key]`, of this type. Raises InputError saying what was found."""
    if not isinstance(content, dict) or key not in content:
        found = sorted(content)[:8] if isinstance(content, dict) else str(content)[:40]
        raise InputError(f"{where}: expected '{key}', found {found}; export it again")
    value = content[key]
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not object):
        kinds = {str: "a text", int: "a whole number", list: "a list", dict: "a mapping"}
        expected = kinds.get(kind, "a number")
        raise InputError(f"{where}: expected {expected} as '{key}', found {str(value)[:40]}")
    return value
