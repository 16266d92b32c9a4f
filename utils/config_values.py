"""One value of a config: its limits, and its validation by type, choices and limits."""

import types
import typing
from collections.abc import Mapping
from dataclasses import field
from typing import Any, Literal

from utils.old_config import moved
from utils.safe.errors import InputError
from utils.safe.paths import expand


def setting(default: Any, low: float | None = None, high: float | None = None, **more: Any) -> Any:
    """A key with limits of its numbers, or in another group of utils/config.py than RESULT."""
    return field(default=default, metadata={"low": low, "high": high} | more)


def plain(value: Any) -> Any:
    """Dicts, tuples and others -> dicts, lists and others, as JSON and YAML have them."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    return list(value) if isinstance(value, tuple) else value


def convert(source: str, key: str, value: Any, expected: Any, metadata: Mapping[str, Any]) -> Any:
    """`value` as the type `expected`, within the limits of `metadata`; a path expanded.

    Raises InputError naming `source` (a file), the key, and what was expected.
    """
    converted = _to_type(expected, value)
    if converted is _WRONG:
        raise InputError(
            f"{source}: '{key}' must be {_describe(expected)}, found {value!r} "
            f"({type(value).__name__})"
        )
    if isinstance(converted, str) and not converted.isascii():
        try:
            converted.encode()
        except UnicodeEncodeError:  # it could not be written to config.yaml and the checkpoint
            raise InputError(
                f"{source}: '{key}': {converted!a} is a file name that is not in UTF-8; rename the "
                "file (convmv)"
            ) from None
    is_path = "path" in metadata and converted is not None
    if is_path and not (metadata.get("address") and "://" in converted):
        try:
            return moved(expand(converted))
        except InputError as error:
            raise InputError(f"{source}: '{key}': {error}") from None
    low, high = metadata.get("low"), metadata.get("high")
    for number in converted if isinstance(converted, tuple) else (converted,):
        if number is None or isinstance(number, str):  # in place of a number
            continue
        if (low is not None and number < low) or (high is not None and number > high):
            limits = f"at least {low}" if high is None else f"between {low} and {high}"
            raise InputError(f"{source}: '{key}' must be {limits}, found {value!r}")
    return converted


_WRONG = object()


def _to_type(expected: Any, value: Any) -> Any:
    kind = typing.get_origin(expected)
    if kind in (types.UnionType, typing.Union):
        found = (_to_type(one, value) for one in typing.get_args(expected))
        return next((one for one in found if one is not _WRONG), _WRONG)
    if kind is Literal:
        good = (type(value) is type(one) and value == one for one in typing.get_args(expected))
        return value if any(good) else _WRONG
    if kind is tuple:
        item_types = typing.get_args(expected)
        if not isinstance(value, list | tuple) or bool(value) != bool(item_types):
            return _WRONG
        if item_types and item_types[-1] is Ellipsis:
            item_types = (item_types[0],) * len(value)
        if len(value) != len(item_types):
            return _WRONG
        items = tuple(_to_type(t, v) for t, v in zip(item_types, value, strict=True))
        return _WRONG if _WRONG in items else items
    if expected is float:
        # YAML 1.1 reads 1e-4 (no dot) as a string.
        if isinstance(value, str):
            try:
                value = float(value)
            except ValueError:
                return _WRONG
        if isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        finite = isinstance(value, float) and abs(value) < float("inf")
        return value if finite else _WRONG
    return value if type(value) is expected else _WRONG


def _describe(expected: Any) -> str:
    kind, parts = typing.get_origin(expected), typing.get_args(expected)
    if kind in (types.UnionType, typing.Union):
        return " or ".join(map(_describe, parts))
    if kind is Literal:
        return f"one of {', '.join(map(str, parts))}" if len(parts) > 1 else str(parts[0])
    if expected == tuple[()]:
        return "[]"
    if kind is tuple:
        count = "" if parts[-1] is Ellipsis else f"{len(parts)} "
        return f"a list of {count}{_describe(parts[0]).removeprefix('a ')}s"
    names = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
    return names.get(expected, "null")
