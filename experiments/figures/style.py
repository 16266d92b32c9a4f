"""One look for all figures, what each of them is, and how it is written. Needs matplotlib."""

import csv
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from utils.safe.errors import InputError
from utils.safe.files import replacing, write_json

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
YELLOW, SKY, BLACK, GREY = "#e69f00", "#56b4e9", "#000000", "#666666"
COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, BLACK)
WIDTH = 9.0  # inches: the width of a page
NARROW = 3.4  # that of a phone: letters of 9 points are 11 pixels high on 360
DPI = 150


class Missing(NamedTuple):
    """What can't be shown yet: "the masks of the doubled image", and the command that makes it."""

    what: str
    command: str = ""  # "python gen_clip_masks.py --config ..."; empty where no command can


class Gallery(NamedTuple):
    """Pictures in rows that the page lays out itself, so that they fit any screen."""

    rows: list[list[str]]  # data URIs
    titles: list[str]  # of the columns
    notes: list[str]  # above each row: the image's name
    legend: list[tuple[str, tuple[int, int, int]]]  # class, RGB


class Figure(NamedTuple):
    """One entry of the report, in the order of the page."""

    name: str  # stem of its files: fig5_regions
    title: str  # heading: "Fig. 5: losses and areas of the two regions"
    caption: str  # what is seen and which runs it is from, a sentence or two
    pictures: tuple[Path, ...] = ()  # PNG; an SVG of the same stem may lie beside it
    data: Path | None = None  # JSON or CSV of what is drawn
    tables: tuple[str, ...] = ()  # Markdown
    missing: tuple[Missing, ...] = ()
    galleries: tuple[Gallery, ...] = ()  # what the page shows in place of `pictures`
    leads: bool = False  # opens the page
    folded: bool = False  # of interest to few: one line, which opens

    @property
    def absent(self) -> bool:
        """Whether the runs have nothing of it yet."""
        return bool(self.missing) and (self.folded or not (self.pictures or self.tables))


def count(number: int, what: str) -> str:
    """1 command, 2 commands."""
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
            "svg.hashsalt": "carb",  # the same figure is the same file
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
    """NAME.json."""
    path = out / f"{name}.json"
    write_json(path, content)
    return path


def write_csv(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    """Empty cells where a value is None."""
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
