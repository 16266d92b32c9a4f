"""Comparison of what something was made from with what it would be made from now."""

import json
from collections.abc import Collection, Mapping
from typing import Any

_LONGEST = 80  # letters of a value in a message


def changed(
    old: Mapping[str, Any], new: Mapping[str, Any], ignore: Collection[str] = frozenset()
) -> list[str]:
    """Keys of `new` whose value differs in `old`, each as "key: old -> new"; a missing key is None.

    Values are compared as JSON has them: a tuple equals a list. Long values are cut in the text.
    """
    # default: a damaged file may hold anything.
    old, new = json.loads(json.dumps([dict(old), dict(new)], default=str, skipkeys=True))
    return [
        f"{key}: {_short(old.get(key))} -> {_short(value)}"
        for key, value in new.items()
        if old.get(key) != value and key not in ignore
    ]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
