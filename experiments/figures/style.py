"""Colours and sizes of all figures, the entries of the report, and writing of their files."""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from utils.safe.errors import InputError
from utils.safe.files import replacing, write_json

# The palette of Okabe and Ito, which colour-blind readers can distinguish.
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
YELLOW, SKY, BLACK, GREY = "#e69f00", "#56b4e9", "#000000", "#666666"
COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, BLACK)
WIDTH = 9.0  # inches: the width of a page
NARROW = 3.4  # inches: a phone's width; 9-point letters are 11 pixels high on a 360-pixel screen
DPI = 150


class Missing(NamedTuple):
    """A part that can't be shown yet, and the command that makes it."""

    what: str  # "masks of the doubled image"
    command: str = ""  # "python gen_clip_masks.py --config ..."; empty if no command can make it


class Gallery(NamedTuple):
    """Rows of images that the page itself lays out to fit any screen."""

    rows: list[list[str]]  # data URIs
    titles: list[str]  # of the columns
    notes: list[str]  # above each row: the name of the image
    legend: list[tuple[str, tuple[int, int, int]]]  # class, RGB


class Figure(NamedTuple):
    """One entry of the report."""

    name: str  # stem of its files: fig5_regions
    title: str  # heading: "Fig. 5: losses and areas of the two regions"
    caption: str  # what it shows and which runs it is from
    images: tuple[Path, ...] = ()  # PNG files; an SVG may have the same stem
    data: Path | None = None  # JSON or CSV of the plotted values
    tables: tuple[str, ...] = ()  # Markdown
    missing: tuple[Missing, ...] = ()
    galleries: tuple[Gallery, ...] = ()  # shown on the page instead of `images`
    leads: bool = False  # comes first on the page
    folded: bool = False  # of minor interest: collapsed to one line

    @property
    def absent(self) -> bool:
        """Whether the runs provide nothing of it yet."""
        return bool(self.missing) and (self.folded or not (self.images or self.tables))


def count(number: int, what: str) -> str:
    """'1 command', '2 commands'."""
    return f"{number} {what}{'s' * (number != 1)}"


def plotting() -> ModuleType:
    """matplotlib.pyplot without a window. Raises InputError where it is not installed."""
    try:
        import matplotlib
    except ImportError:
        raise InputError("figures need matplotlib: pip install matplotlib") from None
    matplotlib.use("Agg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {
            "font.size": 9,
            "axes.titlesize": 10,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "legend.frameon": False,
            "svg.hashsalt": "carb",  # the same figure gives the same file
        }
    )
    return pyplot


def save_figure(
    draw: Callable[[float], Any], out: Path, name: str, for_phones: bool = True
) -> tuple[Path, ...]:
    """Write NAME.svg and NAME.png below `out`, and NAME_narrow.svg for phones; gives the PNG.

    `draw` takes the width in inches. An SVG has no background, so that it fits a dark page too.
    """
    pyplot = plotting()
    wide, narrow = draw(WIDTH), draw(NARROW) if for_phones else None
    for suffix, figure in ((".svg", wide), (".png", wide), ("_narrow.svg", narrow)):
        if figure is None:
            continue
        kind = suffix[-3:]
        options = {"metadata": {"Date": None}, "transparent": True} if kind == "svg" else {}
        with replacing(out / f"{name}{suffix}") as temporary:
            figure.savefig(temporary, dpi=DPI, format=kind, **options)
    for figure in filter(None, (wide, narrow)):
        pyplot.close(figure)
    return (out / f"{name}.png",)


def save_data(out: Path, name: str, content: dict[str, Any]) -> Path:
    """Write NAME.json; gives its path."""
    path = out / f"{name}.json"
    write_json(path, content)
    return path


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Write a CSV file; None is an empty cell."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
