"""YOLO's labels: a text file for each image, and the names of the classes beside them."""

import contextlib
import re
from collections.abc import Iterator, Mapping

import yaml

from datasets.doctor.tag_formats import Tagged
from datasets.doctor.tool_files import read_bytes
from datasets.files import File
from utils.safe.errors import InputError
from utils.safe.yaml_file import parse_yaml

_LISTS = re.compile(r"(classes|train|val|valid|test|trainval|readme(\..*)?)\.txt", re.IGNORECASE)
_LABELS = re.compile(r"(^|/)(labels|obj_\w+_data)/", re.IGNORECASE)


def names_files(files: Mapping[str, File]) -> dict[str, tuple[str, ...]]:
    """Class names in the order of their numbers, by the name of each file that lists them.

    These are obj.names (Darknet, CVAT), classes.txt (Label Studio, LabelImg) and data.yaml
    (Ultralytics; any other YAML file with `names`).
    """
    found = {}
    for name, file in files.items():
        last = name.lower().rpartition("/")[2]
        if last.endswith(".names") or last == "classes.txt":
            found[name] = tuple(_text(file).rstrip().splitlines())
        elif last.endswith((".yaml", ".yml")):
            try:
                content = parse_yaml(_text(file))
            except yaml.YAMLError as error:
                raise InputError(f"{file} is not valid YAML: {error}") from None
            names = content.get("names") if isinstance(content, dict) else None
            if isinstance(names, dict):  # {0: person, 1: bicycle}
                with contextlib.suppress(KeyError):
                    names = [names[number] for number in range(len(names))]
            if names is not None and not isinstance(names, list):
                raise InputError(f"{file}: expected names of the classes 0, 1, 2 ... as 'names'")
            if names is not None:
                found[name] = tuple(map(str, names))
    for name, names in found.items():
        if not names or not all(map(str.strip, names)):
            raise InputError(f"{files[name]}: expected the name of a class in each line")
    return {name: tuple(map(str.strip, names)) for name, names in found.items()}


def of_yolo(files: Mapping[str, File], lists: Mapping[str, tuple[str, ...]]) -> Iterator[Tagged]:
    """The classes of each .txt; without a line, the image is annotated and shows none.

    A line is the number of a class and the place of a box, a polygon or key points. Only files in
    a folder labels/ or obj_..._data/ are read, where there is one; else all but lists. lists: of
    `names_files`. Source: docs.ultralytics.com/datasets/detect, github.com/AlexeyAB/darknet.
    """
    first = next(iter(lists))
    names = lists[first]
    for other in lists:
        if lists[other] != names:
            raise InputError(f"{files[first]} and {files[other]} name other classes; remove one")
    texts = [name for name in files if name.lower().endswith(".txt") and name not in lists]
    alone = [n for n in texts if not _LISTS.fullmatch(n.rpartition("/")[2])]
    for name in [n for n in texts if _LABELS.search(n)] or alone:
        labels = set()
        for number, line in enumerate(_text(files[name]).splitlines()):
            where, words = f"{files[name]}, line {number + 1}", line.split()
            if not words:
                continue
            if len(words) < 5 or not all(map(_is_number, words)) or not words[0].isdecimal():
                raise InputError(
                    f"{where}: expected the number of a class and at least four of a place, found "
                    f"{line[:40]!r}"
                )
            if len(words[0]) > 9 or int(words[0]) >= len(names):
                raise InputError(
                    f"{where}: class {words[0][:20]}, but {files[first]} has {len(names)} names"
                )
            labels.add((names[int(words[0])],))
        yield Tagged((name[: -len(".txt")],), frozenset(labels))


def _text(file: File) -> str:
    try:
        return read_bytes(file).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{file} is not a text file: {error}") from None


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return True
