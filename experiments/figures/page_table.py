"""Markdown tables as HTML, for the page of the report."""

import html
import re

_NUMBER = re.compile(r"[+−-]?\d[\d.,]*( ?%)?( ± [\d.,]+)?")
_EMPTY = ("", "-", "–", "—", "not run")
_BAR = re.compile(r"(?<!\\)\|")  # between two cells; \\| is one in a cell


def table_html(text: str) -> str:
    """Tables, and what stands between them as paragraphs."""
    parts: list[str] = []
    rows: list[list[str]] = []
    for line in [*text.splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in _BAR.split(line.strip())[1:-1]])
            continue
        if rows:
            parts.append(_rows_html(rows))
            rows = []
        if line.strip():
            parts.append(f'<p class="caption">{_inline(line)}</p>')
    return "\n".join(parts)


def _rows_html(rows: list[list[str]]) -> str:
    """Head, a line of dashes, body; columns of numbers stand right."""
    head, body = rows[0], rows[2:]
    columns = [[row[k].replace("*", "") for row in body if k < len(row)] for k in range(len(head))]
    right = [_is_numeric(column) for column in columns]

    def line(cells: list[str], tag: str) -> str:
        kinds = [' class="number"' * numeric for numeric in right]
        pairs = zip(kinds, cells, strict=False)
        return f"<tr>{''.join(f'<{tag}{kind}>{_inline(c)}</{tag}>' for kind, c in pairs)}</tr>"

    inside = "\n".join(line(row, "td") for row in body)
    table = f"<table><thead>{line(head, 'th')}</thead>\n<tbody>{inside}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _is_numeric(column: list[str]) -> bool:
    return any(column) and all(cell in _EMPTY or _NUMBER.fullmatch(cell) for cell in column)


def _inline(text: str) -> str:
    """Escaped, with **bold** and `code`."""
    text = html.escape(text.replace("\\|", "|"))
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
