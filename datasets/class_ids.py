"""Classes as the files of users name them: by an id or by a name, in any case."""

import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple


class ClassIds(NamedTuple):
    """The classes that a file is read for."""

    num_classes: int
    names: Sequence[str]
    of_names: Mapping[str, int]  # in lower case

    def number(self, value: object) -> object:
        """The id of a name, or the number that a text holds; else the value."""
        if not isinstance(value, str):
            return value
        return int(value) if _is_number(value) else self.of_names.get(value.lower(), value)

    def class_id(self, value: object, from_one: bool = False) -> int:
        """The class with this id or name. Raises ValueError saying what may be meant.

        from_one: the file seems to count its ids from 1.
        """
        k = self.number(value)
        if isinstance(k, int) and not isinstance(k, bool) and 0 <= k < self.num_classes:
            return k
        raise ValueError(self._no_class(value, from_one))

    def count_from_one(self, values: Iterable[object]) -> bool:
        """Whether the ids among the values lie between 1 and the number of classes, both used."""
        numbers = [n for value in values if type(n := self.number(value)) is int]
        return bool(numbers) and min(numbers) == 1 and max(numbers) == self.num_classes

    def _no_class(self, value: object, from_one: bool) -> str:
        """'expected a class id ..., found ...' and what may be meant."""
        shown = self.number(value)
        near = difflib.get_close_matches(str(shown).lower(), self.of_names, n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        if from_one:
            hint = (
                "; the ids of the file seem to be counted from 1 (there is no 0): subtract 1, or "
                "write class names"
            )
        if isinstance(value, str) and re.fullmatch(r"0\d+", value):
            hint = f"; if it is an id, write {int(value)}"
        if isinstance(value, str) and re.fullmatch("[01]{2,}", value):
            shown = value
            hint += f"; if it is one 0/1 for each class, separate them: {';'.join(value)}"
        known = f"class id 0..{self.num_classes - 1}"
        known += " or a name of the class file" * bool(self.names)
        found = shown_json(shown) if isinstance(shown, list | tuple) else repr(shown)
        return f"expected a {known}, found {found}{hint}"


def class_ids(names: Sequence[str], num_classes: int | None = None) -> ClassIds:
    """The classes with these names; without names, `num_classes` of them."""
    of_names = {name.lower(): k for k, name in enumerate(names)}
    return ClassIds(len(names) if num_classes is None else num_classes, names, of_names)


def shown_json(value: object) -> str:
    """The beginning of a JSON value as written in the file; mappings are tuples of pairs."""
    text = json.dumps(dict(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 40 else f"{text[:40]}..."


def _is_number(text: str) -> bool:
    """Whether it may be a class id. '01' is not: it may be 0s and 1s without separators."""
    return text.isdecimal() and len(text) < 10 and (text[0] != "0" or text == "0")
