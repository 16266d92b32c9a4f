"""Paths as users write them."""

import os
import re
import unicodedata

from utils.safe.errors import InputError

_VARIABLE = re.compile(r"\$\{([^{}]*)\}|\$([A-Za-z_]\w*)|%([A-Za-z_]\w*)%")
_QUOTES = "'\"`“”„‘’«»"


def expand(text: str) -> str:
    """The path that `text` means: with the values of $NAME, ${NAME} and %NAME%, then with the home
    folder for a leading ~ or ~user. A relative path stays relative; ./~x is a file of that name.

    What can't be replaced, and typical typing errors (quotes or blanks around a path, a backslash
    on Linux), are part of the name if a file of that name exists. Otherwise InputError is raised,
    so that no folder named "~" or "$DATA" is ever created.
    """
    path = _VARIABLE.sub(lambda name: os.environ.get(_name(name)) or name[0], text)
    if path.startswith("~") and os.environ.get("HOME") != "":
        path = os.path.expanduser(path)  # noqa: PTH111  Path.expanduser drops a leading ./
    fault = _fault(path)
    if fault and not (path and os.path.lexists(path)):
        raise InputError(f"{text!r} is not a path: {fault}")
    return path


def leaves_folder(name: str) -> bool:
    """Whether a file of an archive would be written outside a folder: masks get these names."""
    parts = name.split("/")
    return bool(name) and (not {"", ".", ".."}.isdisjoint(parts) or "\\" in name or ":" in name)


def _name(variable: re.Match[str]) -> str:
    return next(filter(None, variable.groups()), "")


def _fault(path: str) -> str:
    """Why `path` is probably a mistake, with what to write; empty when it is not."""
    if not path.strip():
        return "it is empty; name a file or a folder"
    if unset := _VARIABLE.search(path):
        return f"the variable {_name(unset)} is not set; set it, or write the path out"
    if "$(" in path or path.count("`") > 1:
        return "commands in a path are not run; write the path out"
    if path.startswith("~"):
        user = path[1:].split("/")[0]
        whose = f"user {user} with a home folder" if user else "home folder of yours"
        return f"no {whose} is known; write the path out, or ./{path} for a file of that name"
    if re.match(r"[A-Za-z][\w+.-]+://", path):
        return "addresses are not read; download the file, or write file://... as a plain path"
    if (path[0] in _QUOTES and path[-1] in _QUOTES) or path[-1] == '"':
        return "there are quotes around it; leave them out"
    if path != path.strip() or "Cf" in map(unicodedata.category, path[0] + path[-1]):
        return "there are blanks, a line end or invisible letters around it; leave them out"
    if any(unicodedata.category(letter) == "Cc" for letter in path):
        return (
            "it contains a tab or another control character (in double quotes YAML reads "
            "backslashes as such); write / between folders"
        )
    if os.name != "nt" and ("\\" in path or re.match(r"[A-Za-z]:/", path)):
        return "drives and backslashes are for Windows; write / between folders (WSL: /mnt/c/...)"
    return ""
