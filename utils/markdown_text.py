"""Texts of others as Markdown: nothing in them becomes markup."""

import html
import re
from collections.abc import Iterable
from typing import Any

from utils.safe.errors import printable


def text(value: Any) -> str:
    """A value as text that stays on its line."""
    escaped = html.escape(printable(str(value)), quote=False)
    return re.sub(r"[\\`*_\[\]|~$#]", lambda found: f"&#{ord(found[0])};", escaped)


def code(value: Any) -> str:
    """A value as code within a line."""
    return f"<code>{text(value)}</code>"


def block(lines: str) -> str:
    """Lines as a block of code, behind a fence that none of them closes."""
    shown = "\n".join(printable(line) for line in lines.split("\n"))
    fence = "`" * max(3, 1 + max((len(run) for run in re.findall("`+", shown)), default=0))
    return f"{fence}\n{shown}\n{fence}"


def listed(names: Iterable[Any]) -> str:
    """Values as `text`, with commas between them."""
    return ", ".join(map(text, names))
