"""YAML files, read safely; a repeated key is an error instead of the last one winning."""

from pathlib import Path
from typing import Any

import yaml

from utils.safe.errors import InputError
from utils.safe.file_kinds import stand_in

_LARGEST = 2**63  # whole number; beyond it, Python may refuse even to print one
_MOST = 100_000  # values, counting aliases: ten lines of them can make 10^9


class _UniqueKeys(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.Node, deep: bool = False) -> dict:
        if isinstance(node, yaml.MappingNode):
            seen = set()
            for key in (self.construct_object(key, deep=True) for key, _ in node.value):
                if key in seen:
                    raise yaml.YAMLError(f"the key '{key}' is given twice")
                seen.add(key)
        return super().construct_mapping(node, deep)


def read_yaml(path: str | Path) -> Any:
    """The content of a YAML file. Raises InputError naming the file."""
    found = stand_in(path) if Path(path).stat().st_size else ""  # an empty file is valid
    if found:
        raise InputError(f"{path} is not a YAML file: {found}")
    try:
        return parse_yaml(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not valid YAML: {error}; fix it there, or copy the file again"
        ) from None


def parse_yaml(text: str) -> Any:
    """The value of a YAML text. Raises yaml.YAMLError."""
    try:
        loader = _UniqueKeys(text)
        try:
            value = loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError:
        raise
    # PyYAML passes on Python's errors: for a value not of its type (2001-99-99, !!int x), for deep
    # nesting, for a key that is a list.
    except Exception as error:
        raise yaml.YAMLError(f"a value can't be read ({type(error).__name__}: {error})") from None
    if fault := fault_of(value):
        raise yaml.YAMLError(fault)
    return value


def fault_of(value: Any) -> str:
    """Why a value can't be printed or used as a setting; empty when it can."""
    left, count = [value], 0
    while left:
        value, count = left.pop(), count + 1
        if count > _MOST:
            return f"more than {_MOST} values, or an alias of something that contains it"
        if isinstance(value, dict):
            left += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple | set):
            left += value
        elif isinstance(value, int) and abs(value) > _LARGEST:
            return "a whole number is too large"
        elif isinstance(value, str) and ("\0" in value or not _is_text(value)):
            return f"a text contains an invalid character: {value[:40]!r}"
    return ""


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a pair, "\ud800": not printable, no file name
        return False
    return True
