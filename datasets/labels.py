"""Class names, prompts and colours, read from YAML; the one value that means "no label"."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from utils.class_names import plain_name
from utils.safe.errors import InputError, warn
from utils.safe.yaml_file import read_yaml

IGNORE_INDEX = 255
# Light colours, told apart on grey streets, by the method of Glasbey et al. 2007: the first ones of
# glasbey_light of colorcet 3.2.1 (CC-BY 4.0, https://colorcet.holoviz.org).
_LIGHT = """
d60000 018700 b500ff 05acc6 97ff00 ffa52f ff8ec8 79525e 00fdcf afa5ff
93ac83 9a6900 366962 d3008c fdf490 c86e66 9ee2ff 00c846 a877ac b8ba01
"""


@dataclass(frozen=True)
class ClassTable:
    """K classes in label order. `prompts[k]` holds the synonyms that CLIP's text encoder reads."""

    names: tuple[str, ...]
    prompts: tuple[tuple[str, ...], ...]
    palette: np.ndarray  # (K,3) uint8 RGB
    small: tuple[bool, ...] = ()  # which classes count as small; empty: none

    def __len__(self) -> int:
        return len(self.names)


def load_classes(path: str | Path) -> ClassTable:
    """Read a class file; `datasets/classes/` has those of the paper's three data sets.

    The list under ``classes:`` has one item per class in label order: a name, or a mapping with
    ``name`` and, where wanted, ``prompt`` (a text or a list of synonyms), ``color`` ([r, g, b]) and
    ``small`` (true: counted in the mean IoU of the small classes; nothing else reads it).
    Raises InputError naming the file and the item.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no class file at {path}; the shipped ones are in datasets/classes/")
    content = read_yaml(path)
    items = content.get("classes") if isinstance(content, dict) else None
    if not isinstance(items, list) or not 1 <= len(items) <= IGNORE_INDEX or len(content) > 1:
        raise InputError(
            f"{path}: expected 'classes:' with a list of 1 to {IGNORE_INDEX} classes, nothing else"
        )
    names, prompts, colors, small = [], [], [], []
    for i, item in enumerate(items):
        name, prompt, color, is_small = _read_item(item, f"{path}: class {i}")
        names.append(name)
        prompts.append(prompt)
        small.append(is_small)
        colors.append(color)
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        names = ", ".join(repeated)
        raise InputError(f"{path}: these class names are repeated: {names}; rename one of each")
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(plain_name(name), name)
        if other != name:
            raise InputError(
                f"{path}: the class names {other!r} and {name!r} differ only in capital letters, "
                "blanks, hyphens or underscores, so labels are ambiguous; rename one of them"
            )
    palette = _palette(colors)
    alike = [n for n, c in zip(names, palette, strict=True) if palette.count(c) > 1]
    if alike:
        warn(f"{path}: {', '.join(alike)}: they share a colour, so images can't tell them apart")
    return ClassTable(tuple(names), tuple(prompts), np.array(palette, np.uint8), tuple(small))


def has_background(classes: ClassTable) -> bool:
    """Whether class 0 is "background", as in Pascal VOC: pixels that belong to none of the others.

    Driving scenes have none: each of their pixels belongs to a class.
    """
    return plain_name(classes.names[0]) == "background"


def _palette(colors: list[list[int] | None]) -> list[list[int]]:
    """The colours of the file; for the other classes, colours that the file does not use."""
    usual = default_palette(2 * len(colors)).tolist()
    spare = iter([color for color in usual[len(colors) :] if color not in colors])
    return [
        color or (own if own not in colors else next(spare))
        for color, own in zip(colors, usual, strict=False)
    ]


def default_palette(num_classes: int) -> np.ndarray:
    """(K,3) uint8 colours, all different and none of them black: _LIGHT, then `voc_palette`'s."""
    colors = [list(bytes.fromhex(color)) for color in _LIGHT.split()]
    colors += [color for color in voc_palette(num_classes).tolist() if color not in colors]
    return np.array(colors[:num_classes], np.uint8)


def voc_palette(num_classes: int) -> np.ndarray:
    """(K,3) uint8 colours, all different and none of them black: those of Pascal VOC, from 1."""
    palette = np.zeros((num_classes, 3), np.uint8)
    for k in range(num_classes):
        for bit in range(8):
            for channel in range(3):
                palette[k, channel] |= ((k + 1) >> (3 * bit + channel) & 1) << (7 - bit)
    return palette


def multi_hot(ids: Iterable[int], num_classes: int) -> torch.Tensor:
    """Image-level label vector: float32 (K,), 1 where the class is present."""
    vector = torch.zeros(num_classes)
    vector[list(ids)] = 1
    return vector


def _read_item(item: Any, where: str) -> tuple[str, tuple[str, ...], list[int] | None, bool]:
    if isinstance(item, str):
        item = {"name": item}
    # YAML reads a bare no or on as a truth value, 1 as a number: neither is a name.
    name = item.get("name") if isinstance(item, dict) else None
    if not isinstance(name, str) or not name.isprintable():
        raise InputError(f"{where}: expected a name or {{name: ..., prompt: ...}}, found {item!r}")
    if re.fullmatch(r"\s*\d+(\.\d*)?\s*", name):
        raise InputError(
            f"{where}: in labels, {name} may be class id {name} or the class named '{name}'; give "
            f"the classes names that are not numbers, for example 'grade {name}'"
        )
    unknown = sorted(map(str, set(item) - {"name", "prompt", "color", "small"}))
    if unknown:
        raise InputError(f"{where}: unknown key {unknown}; name, prompt, color, small")
    prompt = item.get("prompt", item["name"])
    prompt = [prompt] if isinstance(prompt, str) else prompt
    if (
        not isinstance(prompt, list)
        or not prompt
        or not all(isinstance(p, str) and p.strip() for p in prompt)
    ):
        raise InputError(f"{where}: 'prompt' must be a text or a list of texts, found {prompt!r}")
    color = item.get("color")
    if color is not None and not (
        isinstance(color, list)
        and len(color) == 3
        and all(isinstance(c, int) and 0 <= c <= 255 for c in color)
    ):
        raise InputError(f"{where}: 'color' must be [r, g, b] of 0 to 255, found {color!r}")
    small = item.get("small", False)
    if not isinstance(small, bool):
        raise InputError(f"{where}: 'small' must be true or false, found {small!r}")
    return item["name"], tuple(prompt), color, small
