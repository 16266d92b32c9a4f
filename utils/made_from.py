"""Comparison of what something was made from with what it would be made from now."""

import json
from collections.abc import Collection, Mapping
from typing import Any

_LONGEST = 80  # letters of a value in a message
_SHOWN = {"resize_to": "image_size"}  # files keep the earlier name of this key


def changed(
    old: Mapping[str, Any], new: Mapping[str, Any], ignore: Collection[str] = frozenset()
) -> dict[str, str]:
    """Keys of `new` whose value differs in `old` -> "old -> new"; a missing key counts as None.

    Values are compared as JSON has them: a tuple equals a list. The text cuts long values, and
    shows of two mappings only the entries that differ.
    """
    # default: a damaged file may hold anything.
    old, new = json.loads(json.dumps([dict(old), dict(new)], default=str, skipkeys=True))
    return {
        _SHOWN.get(key, key): _text(old.get(key), value)
        for key, value in new.items()
        if old.get(key) != value and key not in ignore
    }


def listed(changes: Mapping[str, str], most: int | None = None) -> str:
    """`changed` as "key: old -> new, ...": all, or the first `most`."""
    return ", ".join(f"{key}: {change}" for key, change in list(changes.items())[:most])


def _text(old: Any, new: Any) -> str:
    if isinstance(old, dict) and isinstance(new, dict):
        differing = [key for key in old | new if old.get(key) != new.get(key)]
        old, new = ({key: one.get(key) for key in differing} for one in (old, new))
    return f"{_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
