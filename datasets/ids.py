"""Image ids: one name per image, however a listing, a label file or a split list writes it.

The id of a file is its path below the images' folder, with "/" between folders, without its image
ending, in Unicode's composed form (NFC): macOS stores "é" as two letters.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from utils.safe.errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp")


def image_id(path: str, ending: str) -> str:
    """Id of the file at `path`, relative and with "/" between folders, that has this ending."""
    name = path[: len(path) - len(ending)]
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def drop_suffix(name: str) -> str:
    """'a/b.jpg' -> 'a/b'; other endings, and a second one, stay."""
    stem, dot, suffix = name.rpartition(".")
    return stem if f"{dot}{suffix}".lower() in IMAGE_SUFFIXES else name


def match_ids(keys: Iterable[str], known: Iterable[str]) -> dict[str, str]:
    """Key -> its id in `known`; keys without one are left out.

    A key is looked up as it is; then with "\\" as "/", without "./" in front and in Unicode's
    composed form, whole or without its image ending; then in the same two ways without regard to
    case, kinds of blanks and letters of no width. `known` should hold the ids of all splits. Raises
    InputError when two keys have one id, or a key may have two.
    """
    keys, known = list(dict.fromkeys(keys)), dict.fromkeys(known)
    found = {key: key for key in keys if key in known}
    found |= _look_up([key for key in keys if key not in found], known, _plain)
    left = [key for key in keys if key not in found]
    found |= _look_up(left, known.keys() - found.values(), loose)
    _check(found, known)
    return {key: found[key] for key in keys if key in found}


def difference(one: str, other: str) -> str:
    """How two names that are taken for one differ, for an error message."""
    first, second = drop_suffix(one), drop_suffix(other)
    if first == second:
        return f"{one} and {other} differ in the ending only"
    if first.casefold() == second.casefold():
        return f"{one} and {other} differ in capital letters only"
    return f"{one!a} and {other!a} differ in letters or blanks that look the same"


def _plain(name: str) -> str:
    if name.isascii() and not any(odd in name for odd in ("\\", "//", "./")):
        return name
    return str(PurePosixPath(unicodedata.normalize("NFC", name.replace("\\", "/"))))


def loose(name: str) -> str:
    """A form in which names that look the same are equal."""
    if not name.isascii():
        name = unicodedata.normalize("NFKC", name)
        name = "".join(c for c in name if unicodedata.category(c) != "Cf")
    return "/".join(" ".join(part.split()) for part in _plain(name).casefold().split("/"))


def _look_up(keys: list[str], names: Iterable[str], form: Callable[[str], str]) -> dict[str, str]:
    """Key -> the one of `names` with the same form as the key, or as the key without its ending."""
    by_form = defaultdict(list)
    for name in names if keys else ():
        by_form[form(name)].append(name)
    found = {}
    for key in keys:
        fits = by_form.get(form(key)) or by_form.get(form(drop_suffix(key.rstrip())), [])
        if len(fits) > 1:
            one, other = sorted(fits)[:2]
            raise InputError(
                f"'{key}' may mean two images: {difference(one, other)}; rename one of them"
            )
        if fits:
            found[key] = fits[0]
    return found


def _check(found: dict[str, str], known: Iterable[str]) -> None:
    """Raise InputError when two keys have one id, or a key is an id and another's file name."""
    key_of: dict[str, str] = {}
    for key, name in found.items():
        other = key_of.setdefault(name, key)
        if other != key:
            raise InputError(f"{difference(other, key)}: both mean the image '{name}'; keep one")
    for key in found:
        short = drop_suffix(key)
        if key == found[key] != short and short in known and short not in key_of:
            raise InputError(
                f"'{key}' may mean two images, '{key}' and '{short}'; name both, or rename one"
            )


def require(images: Iterable[str], given: Mapping[str, Any], what: str, advice: str) -> None:
    """Raise InputError when an image is not among `given`."""
    images = dict.fromkeys(images)
    missing = [name for name in images if name not in given]
    if missing:
        others = [name for name in given if name not in images]
        alike = _alike(missing[0], others)
        shown = f" (there are some of '{others[0]}')" if others else ""
        if alike is not None:
            shown = f" (there are some of '{alike}': {difference(missing[0], alike)})"
        raise InputError(
            f"{len(missing)} of {len(images)} images have no {what}, the first is '{missing[0]}'"
            f"{shown}; {advice}"
        )


def _alike(name: str, others: Sequence[str]) -> str | None:
    """The first of `others` that looks the same as `name`."""
    for other in others:
        # Letters of two alphabets look the same, as the Latin and the Cyrillic a do.
        pairs = [(a, b) for a, b in zip(name, other, strict=False) if a != b]
        is_lookalike = len(name) == len(other) and all(a.isascii() != b.isascii() for a, b in pairs)
        if loose(name) == loose(other) or is_lookalike:
            return other
    return None
