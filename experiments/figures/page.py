"""The report as one page that opens from disk (page.html is its frame), and as Markdown."""

import base64
import html
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from string import Template
from types import MappingProxyType
from typing import NamedTuple
from urllib.parse import quote

from PIL import Image

from experiments.figures.page_table import table_html
from experiments.figures.style import Figure, Gallery, Missing, count
from utils.safe.files import replacing

_FRAME = Path(__file__).with_suffix(".html")
_SVG_BYTES = 400_000  # a larger one holds pixels; the PNG is smaller
_ABSENT = "Parts of the paper that are not in these runs"


class Report(NamedTuple):
    """What is on the page. `failed` names the figures whose caption says why they aren't drawn."""

    title: str
    about: str
    made_by: str  # command and commit
    figures: list[Figure]
    failed: frozenset[str] = frozenset()
    costs: Mapping[str, str] = MappingProxyType({})  # command -> "about 2 h: 33 trainings"


def write_page(report: Report, out: Path) -> Path:
    """OUT/index.html, which needs no other file; gives its path."""
    made_by = f"Made by <code>{html.escape(report.made_by)}</code>"
    left = _commands_left(report)
    contents = [_contents_line(figure, report) for figure in report.figures]
    contents += ['<li><a href="#commands-left">Commands that make the rest</a></li>'] * bool(left)
    sections = [_section(figure, report, out) for figure in report.figures]
    absent = [figure.absent for figure in report.figures]
    if True in absent:
        sections.insert(absent.index(True), f'<h2 class="part">{_ABSENT}</h2>')
    text = Template(_FRAME.read_text(encoding="utf-8")).substitute(
        title=html.escape(report.title),
        about=html.escape(report.about),
        contents="\n".join(contents),
        sections="\n".join([*sections, left]),
        made_by=made_by,
    )
    return _write(out / "index.html", text)


def write_markdown(report: Report, out: Path) -> Path:
    """OUT/report.md: the same with the pictures beside it; gives its path."""
    parts = [f"# CARB: {_plain(report.title)}", _plain(report.about)]
    absent = [figure.absent for figure in report.figures]
    for number, figure in enumerate(report.figures):
        title, caption = _plain(figure.title), _plain(figure.caption)
        if figure.absent:
            parts += [f"## {_ABSENT}"] * (number == absent.index(True))
            parts += [f"<details><summary>{title.replace('<', '&lt;')}</summary>"]
        else:
            parts += [f"## {title}"]
        parts += [f"![{title}]({_link(picture, out)})" for picture in figure.pictures]
        parts += [f"**Not drawn:** {caption}" if figure.name in report.failed else caption]
        parts += [table.replace("<", "&lt;") for table in figure.tables]
        for command, what in _by_command(figure.missing).items():
            time = f" ({_plain(report.costs[command])})" if report.costs.get(command) else ""
            parts += [f"*Missing:* {_plain(what)}{time}", _fenced(command)]
        files = [f"[{name}]({link})" for name, link in _files(figure, out)]
        parts += [f"Files: {' · '.join(files)}"] * bool(files)
        parts += ["</details>"] * figure.absent
    parts += ["Made by", _fenced(report.made_by)]
    return _write(out / "report.md", "\n\n".join(part for part in parts if part) + "\n")


def _contents_line(figure: Figure, report: Report) -> str:
    """With a dot where something is missing."""
    if figure.absent:
        return f'<li><a class="absent" href="#{_id(figure)}">{html.escape(figure.title)}</a></li>'
    failed = figure.name in report.failed
    kind, reason = ("dot bad", "not drawn") if failed else ("dot", "something is missing")
    dot = f'<span class="{kind}" title="{reason}" aria-label="{reason}">●</span>'
    shown = f"\u00a0{dot}" * bool(failed or figure.missing)  # no line breaks before it
    return f'<li><a href="#{_id(figure)}">{html.escape(figure.title)}{shown}</a></li>'


def _section(figure: Figure, report: Report, out: Path) -> str:
    title, parts = f"<h2>{html.escape(figure.title)}</h2>", []
    if figure.galleries:
        links = [_link(picture, out) for picture in figure.pictures]
        parts += map(_gallery, figure.galleries, links)
    else:
        parts += [_picture(picture, figure, out) for picture in figure.pictures]
    if figure.name in report.failed:
        parts += [f'<div class="failed"><b>Not drawn.</b> {html.escape(figure.caption)}</div>']
    elif figure.caption:
        parts += [f'<p class="caption">{html.escape(figure.caption)}</p>']
    parts += [table_html(table) for table in figure.tables]
    parts += [_missing(figure, report.costs)] * bool(figure.missing)
    files = "".join(f'<a href="{link}">{html.escape(n)}</a>' for n, link in _files(figure, out))
    parts += [f'<p class="files">{files}</p>'] * bool(files)
    inside = "\n".join(parts)
    if figure.folded or figure.absent:
        effort = html.escape(_effort(figure.missing, report.costs))
        title = f"<summary>{title}<span>{effort}</span></summary>"
        return f'<section id="{_id(figure)}"><details>{title}\n{inside}</details></section>'
    return f'<section id="{_id(figure)}">{title}\n{inside}</section>'


def _picture(path: Path, figure: Figure, out: Path) -> str:
    """Inside the page, sharp at any size where a drawing lies beside; a click enlarges it."""
    with Image.open(path) as image:
        width, height = image.size
    link, svg, kind = _link(path, out), path.with_suffix(".svg"), ""
    narrow = path.with_name(f"{path.stem}_narrow.svg")
    if svg.is_file():  # its colours can be turned round for a dark page
        path, kind = svg if svg.stat().st_size <= _SVG_BYTES else path, ' class="chart"'
    alt = html.escape(f"{figure.title}. {figure.caption}")
    shown = f'<img{kind} width="{width}" height="{height}" alt="{alt}" src="{_data(path)}">'
    if narrow.is_file():
        source = f'<source media="(max-width: 40rem)" srcset="{_data(narrow)}">'
        shown = f"<picture>{source}{shown}</picture>"
    wide = "" if narrow.is_file() or not kind else " wide"
    return f'<a class="picture{wide}" href="{link}">{shown}</a>'


def _data(path: Path) -> str:
    kind = "svg+xml" if path.suffix == ".svg" else "png"
    return f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"


def _gallery(gallery: Gallery, link: str) -> str:
    """Rows of panels below their titles, and what the colours mean."""
    rows = []
    for panels, note in zip(gallery.rows, gallery.notes, strict=True):
        shown = []
        for title, panel in zip(gallery.titles, panels, strict=False):
            alt = html.escape(f"{title}, {note}")
            picture = f'<a class="picture" href="{link}"><img alt="{alt}" src="{panel}"></a>'
            heading = f"<figcaption>{html.escape(title)}</figcaption>"
            shown.append(f"<figure>{heading}{picture}</figure>")
        rows.append(f'<div class="row"><p>{html.escape(note)}</p>{"".join(shown)}</div>')
    colours = "".join(
        f'<li><i style="background: rgb{rgb}"></i>{html.escape(name)}</li>'
        for name, rgb in gallery.legend
    )
    columns = f"--columns: {len(gallery.titles)}"
    return f'<div class="gallery" style="{columns}">{"".join(rows)}<ul>{colours}</ul></div>'


def _missing(figure: Figure, costs: Mapping[str, str]) -> str:
    """What can't be shown yet and what makes it; folded up when it is much."""
    items = _by_command(figure.missing).items()
    lines = "".join(
        f"<li>{html.escape(what)}{_time(command, costs)}{_command(command)}</li>"
        for command, what in items
    )
    if figure.absent:
        return f'<div class="missing"><ul>{lines}</ul></div>'
    state = " open" if len(items) <= 3 else ""
    summary = f"<summary>{html.escape(_effort(figure.missing, costs))}</summary>"
    return f'<details class="missing"{state}>{summary}<ul>{lines}</ul></details>'


def _effort(missing: tuple[Missing, ...], costs: Mapping[str, str]) -> str:
    """ "1 command missing, about 2 min"; of several commands their number."""
    commands = [command for command in _by_command(missing) if command]
    if not commands:
        return f"{count(len(missing), 'thing')} missing" if missing else ""
    time = costs.get(commands[0], "").partition(":")[0]
    return f"{count(len(commands), 'command')} missing" + f", {time}" * (
        bool(time) and len(commands) == 1
    )


def _time(command: str, costs: Mapping[str, str]) -> str:
    time = html.escape(costs.get(command, ""))
    return f'<span class="time">{time}</span>' * bool(time)


def _commands_left(report: Report) -> str:
    """The section at the end with each command once."""
    every = tuple(missing for figure in report.figures for missing in figure.missing)
    commands = [command for command in _by_command(every) if command]
    lines = "".join(
        f"<li>{_time(command, report.costs)}{_command(command)}</li>" for command in commands
    )
    title = "<h2>Commands that make the rest</h2>"
    text = (
        "Each once, in the order of the page, to be run in the project's folder, and about how "
        "long it takes. <code>report.py --make</code> runs the masks and evaluations among them."
    )
    section = f'{title}\n<p class="caption">{text}</p>\n<ul class="commands">{lines}</ul>'
    return f'<section id="commands-left">\n{section}\n</section>' if commands else ""


def _command(text: str) -> str:
    """Lines to copy; each word is an element, so that a line breaks between words."""
    if not text:
        return ""
    words = re.sub(r"\S+", r"<span>\g<0></span>", html.escape(text))
    return f'<div class="command"><code>{words}</code><button type="button">copy</button></div>'


def _by_command(missing: Iterable[Missing]) -> dict[str, str]:
    """Command -> what it makes, in the order of appearance."""
    found: dict[str, list[str]] = {}
    for what, command in missing:
        found.setdefault(command, []).append(what)
    return {command: "; ".join(whats) for command, whats in found.items()}


def _files(figure: Figure, out: Path) -> list[tuple[str, str]]:
    """(name, relative link) of the files beside the page: pictures, drawings, data."""
    paths = [path for p in figure.pictures for path in (p, p.with_suffix(".svg")) if path.is_file()]
    return [(path.name, _link(path, out)) for path in [*paths, *filter(None, [figure.data])]]


def _link(path: Path, out: Path) -> str:
    return quote(Path(os.path.relpath(path, out)).as_posix())


def _id(figure: Figure) -> str:
    return html.escape(figure.name.replace(" ", "_"))


def _plain(text: str) -> str:
    """Text in which Markdown and HTML find no markup."""
    return re.sub(r"([\\`*_\[\]|#<>])", r"\\\1", text)


def _fenced(command: str) -> str:
    """A block of code whose fence is longer than any run of backticks in it."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", command)), default=0))
    return f"{fence}bash\n{command}\n{fence}" if command else ""


def _write(path: Path, text: str) -> Path:
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path
