"""The report as one page that opens from disk (page.html is its template), and as Markdown."""

import base64
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple
from urllib.parse import quote

from markupsafe import Markup, escape
from PIL import Image

from experiments.figures.style import Figure, Missing, count
from utils.html_page import page_templates
from utils.safe.files import replacing

_SVG_BYTES = 400_000  # a larger SVG holds pixels; its PNG is smaller
_ABSENT = "Parts of the paper that are not in these runs"
_NUMBER = re.compile(r"[+−-]?\d[\d.,]*( ?%)?( ± [\d.,]+)?")
_EMPTY = ("", "-", "–", "—", "not run")
_BAR = re.compile(r"(?<!\\)\|")  # between two cells; \\| is a bar inside a cell


class Report(NamedTuple):
    """Contents of the page."""

    title: str
    about: str
    made_by: str  # command and commit
    figures: list[Figure]
    failed: frozenset[str] = frozenset()  # names of figures whose caption is an error
    costs: Mapping[str, str] = MappingProxyType({})  # command -> "about 2 h: 33 trainings"

    @property
    def first_absent(self) -> Figure | None:
        return next((figure for figure in self.figures if figure.absent), None)


def write_page(report: Report, out: Path) -> Path:
    """Write OUT/index.html, which needs no other file; gives its path."""
    jinja = page_templates(Path(__file__).parent)
    jinja.filters |= {"words": _words, "table": table_html, "id": lambda n: n.replace(" ", "_")}
    every = by_command(missing for figure in report.figures for missing in figure.missing)
    text = jinja.get_template("page.html").render(
        report=report,
        first_absent=report.first_absent,
        absent_title=_ABSENT,
        commands=[command for command in every if command],
        by_command=by_command,
        effort=lambda figure: _effort(figure, report.costs),
        drawing=_drawing,
        link=lambda path: _link(path, out),
        files=lambda figure: _files(figure, out),
    )
    return _write(out / "index.html", text)


def write_markdown(report: Report, out: Path) -> Path:
    """Write OUT/report.md, which links to the image files; gives its path."""
    parts = [f"# CARB: {_plain(report.title)}", _plain(report.about)]
    for figure in report.figures:
        title, caption = _plain(figure.title), _plain(figure.caption)
        if figure.absent:
            parts += [f"## {_ABSENT}"] * (figure is report.first_absent)
            parts += [f"<details><summary>{title.replace('<', '&lt;')}</summary>"]
        else:
            parts += [f"## {title}"]
        parts += [f"![{title}]({_link(image, out)})" for image in figure.images]
        parts += [f"**Not drawn:** {caption}" if figure.name in report.failed else caption]
        parts += [table.replace("<", "&lt;") for table in figure.tables]
        for command, what in by_command(figure.missing).items():
            time = f" ({_plain(report.costs[command])})" if report.costs.get(command) else ""
            parts += [f"*Missing:* {_plain(what)}{time}", _fenced(command)]
        files = [f"[{name}]({link})" for name, link in _files(figure, out)]
        parts += [f"Files: {' · '.join(files)}"] * bool(files)
        parts += ["</details>"] * figure.absent
    parts += ["Made by", _fenced(report.made_by)]
    return _write(out / "report.md", "\n\n".join(part for part in parts if part) + "\n")


def by_command(missing: Iterable[Missing]) -> dict[str, str]:
    """Command -> what it makes, in order of appearance."""
    found: dict[str, list[str]] = {}
    for what, command in missing:
        found.setdefault(command, []).append(what)
    return {command: "; ".join(whats) for command, whats in found.items()}


def _effort(figure: Figure, costs: Mapping[str, str]) -> str:
    """ "1 command missing, about 2 min", or "3 commands missing"."""
    commands = [command for command in by_command(figure.missing) if command]
    if not commands:
        return f"{count(len(figure.missing), 'thing')} missing" if figure.missing else ""
    time = costs.get(commands[0], "").partition(":")[0] if len(commands) == 1 else ""
    return f"{count(len(commands), 'command')} missing{', ' * bool(time)}{time}"


def _drawing(path: Path) -> dict[str, Any]:
    """An image as data URIs: the SVG beside it if that is small enough, and one for phones."""
    with Image.open(path) as image:
        width, height = image.size
    svg, narrow = path.with_suffix(".svg"), path.with_name(f"{path.stem}_narrow.svg")
    drawn = svg if svg.is_file() and svg.stat().st_size <= _SVG_BYTES else path
    return {
        "width": width,
        "height": height,
        "source": _data(drawn),
        "is_chart": svg.is_file(),  # its colours can be inverted for a dark page
        "narrow": _data(narrow) if narrow.is_file() else "",
    }


def _data(path: Path) -> str:
    kind = "svg+xml" if path.suffix == ".svg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _words(command: str) -> Markup:
    """Each word as an element, so that lines break only between words."""
    return Markup(re.sub(r"\S+", r"<span>\g<0></span>", str(escape(command))))


def table_html(text: str) -> Markup:
    """Markdown tables as HTML, and the text between them as paragraphs."""
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
    return Markup("\n".join(parts))


def _rows_html(rows: list[list[str]]) -> str:
    """HTML of a head, a line of dashes and a body; columns of numbers are right-aligned."""
    head, body = rows[0], rows[2:]
    columns = [[row[k].replace("*", "") for row in body if k < len(row)] for k in range(len(head))]
    right = [
        any(column) and all(cell in _EMPTY or _NUMBER.fullmatch(cell) for cell in column)
        for column in columns
    ]

    def line(cells: list[str], tag: str) -> str:
        kinds = [' class="number"' * numeric for numeric in right]
        pairs = zip(kinds, cells, strict=False)
        return f"<tr>{''.join(f'<{tag}{kind}>{_inline(c)}</{tag}>' for kind, c in pairs)}</tr>"

    inside = "\n".join(line(row, "td") for row in body)
    table = f"<table><thead>{line(head, 'th')}</thead>\n<tbody>{inside}</tbody></table>"
    return f'<div class="scroll">{table}</div>'


def _inline(text: str) -> str:
    """Escaped HTML with **bold** and `code`."""
    text = str(escape(text.replace("\\|", "|")))
    text = re.sub(r"`([^`]+)`", r"<code>\1</code>", text)
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)


def _files(figure: Figure, out: Path) -> list[tuple[str, str]]:
    """(name, relative link) of a figure's files: PNG, SVG, data."""
    paths = [path for p in figure.images for path in (p, p.with_suffix(".svg")) if path.is_file()]
    return [(path.name, _link(path, out)) for path in [*paths, *filter(None, [figure.data])]]


def _link(path: Path, out: Path) -> str:
    return quote(Path(os.path.relpath(path, out)).as_posix())


def _plain(text: str) -> str:
    """Text escaped so that it holds no Markdown or HTML."""
    return re.sub(r"([\\`*_\[\]|#<>])", r"\\\1", text)


def _fenced(command: str) -> str:
    """A block of code whose fence is longer than any run of backticks in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return f"{fence}bash\n{command}\n{fence}" if command else ""


def _write(path: Path, text: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path
