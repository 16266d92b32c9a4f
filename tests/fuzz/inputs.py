"""What a reader is fed: good files damaged, and values with wrong parts."""

import copy
import io
import zipfile
from collections.abc import Sequence
from typing import Any

import torch
from hypothesis import strategies as st

_NUMBERS = [-1, 0, 1, 7, 255, 256, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308]
_TEXTS = [
    "",
    "x",
    "../../x",
    "/etc/passwd",
    "..\\x",
    "1e-4",
    "null",
    "\ud800",
    "\0",
    "<b>&",
    "a\nb",
]
_WORDS = {"nan": float("nan"), "infinity": float("inf"), "long": "x" * 5000, "wide": ["x"] * 300}


def _deep(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@st.composite
def damaged(draw: st.DrawFn, files: Sequence[bytes], tokens: Sequence[bytes] = ()) -> bytes:
    """One of `files` with bytes changed, cut out, repeated, moved in from another or cut off.

    `tokens` are pieces of the format that may be put in. Half of the places lie at the start, where
    the headers are.
    """
    content = bytearray(draw(st.sampled_from(files)))
    other = draw(st.sampled_from(files))
    for _ in range(draw(st.integers(1, 6))):
        end = len(content) if draw(st.booleans()) else min(len(content), 600)
        place, length = draw(st.integers(0, end)), draw(st.integers(1, 40))
        kind = draw(st.sampled_from(["flip", "set", "cut", "repeat", "splice", "token", "end"]))
        if kind == "flip" and place < len(content):
            content[place] ^= 1 << draw(st.integers(0, 7))
        elif kind == "set":
            value = draw(st.sampled_from([b"\0", b"\xff", b"\x7f", b"\x80"])) * min(length, 8)
            content[place : place + len(value)] = value
        elif kind == "cut":
            del content[place : place + length]
        elif kind == "repeat":
            content[place:place] = content[place : place + length] * draw(st.integers(1, 4))
        elif kind == "splice":
            start = draw(st.integers(0, len(other)))
            content[place : place + length] = other[start : start + length]
        elif kind == "token" and tokens:
            content[place:place] = draw(st.sampled_from(tokens))
        elif kind == "end":
            del content[place:]
    return bytes(content)


@st.composite
def repacked(draw: st.DrawFn, files: Sequence[bytes], tokens: Sequence[bytes]) -> bytes:
    """A zip of `files` with one member damaged and all checksums right, as torch.save writes it."""
    packed = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(draw(st.sampled_from(files)))) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    small = [name for name, content in members.items() if name.endswith((".pkl", "version"))]
    name = draw(st.sampled_from(small * 3 + list(members)))
    members[name] = draw(damaged([members[name]], tokens))
    with zipfile.ZipFile(packed, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return packed.getvalue()


def odd(tensors: bool = False) -> st.SearchStrategy:
    """A value that hardly belongs where it is put; a function makes it, so that none is shared."""
    plain = [None, True, False, *_NUMBERS, *_TEXTS, *_WORDS.values(), [], {}, [[]], {"a": {"b": 1}}]
    values = st.sampled_from(plain).map(copy.deepcopy) | st.sampled_from([30, 5000]).map(_deep)
    return values | _tensor() if tensors else values


@st.composite
def _tensor(draw: st.DrawFn) -> torch.Tensor:
    shape = draw(st.lists(st.integers(0, 5), max_size=4))
    types = [torch.float32, torch.float16, torch.int64, torch.bool, torch.complex64]
    tensor = torch.ones(shape, dtype=draw(st.sampled_from(types)))
    kind = draw(st.sampled_from(["plain"] * 4 + ["nan", "sparse", "expanded", "meta"]))
    if kind == "nan" and tensor.is_floating_point():
        return tensor * float("nan")
    if kind == "expanded":
        return torch.ones(1).expand(10**5, 10**5)
    return {"sparse": tensor.to_sparse, "meta": lambda: tensor.to("meta")}.get(
        kind, lambda: tensor
    )()


@st.composite
def edited(draw: st.DrawFn, values: Sequence[Any], tensors: bool = False) -> Any:
    """A copy of one of `values`, dicts and lists in each other, with something replaced, left out,
    renamed, repeated or added in one to three places.
    """
    root = [copied(draw(st.sampled_from(values)))]
    for _ in range(draw(st.integers(1, 3))):
        place: Any = root
        while True:
            keys = list(place.keys() if isinstance(place, dict) else range(len(place)))
            key = draw(st.sampled_from(keys))
            inside = place[key]
            if not (isinstance(inside, dict | list) and inside and draw(st.integers(0, 3))):
                break
            place = inside
        kind = draw(st.sampled_from(["replace", "replace", "leave out", "rename", "add", "nest"]))
        if kind == "nest":
            place[key] = draw(st.sampled_from([[inside], {"x": inside}]))
        elif place is root or kind == "replace":
            place[key] = draw(odd(tensors))
            break
        elif kind == "leave out":
            del place[key]
        elif isinstance(place, list):
            place.insert(key, draw(odd(tensors)))
        else:
            name = draw(st.sampled_from([*_TEXTS, *map(str, keys)]))
            place[name] = place.pop(key) if kind == "rename" else draw(odd(tensors))
        if not place:
            break
    return root[0]


def copied(value: Any) -> Any:
    """Dicts and lists new, tensors shared: nothing changes them in place."""
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return [copied(item) for item in value] if isinstance(value, list | tuple) else value


def soup(tokens: Sequence[bytes]) -> st.SearchStrategy[bytes]:
    """Pieces of a format in any order."""
    pieces = st.sampled_from(tokens) | st.binary(max_size=4)
    return st.lists(pieces, max_size=30).map(b"".join)
