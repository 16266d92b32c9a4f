"""One look for all figures, what each of them is, and how it is written. Needs matplotlib."""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from utils.errors import InputError
from utils.files import replacing, write_json

# Okabe and Ito's colours, which colour-blind readers tell apart.
BLUE, ORANGE, GREEN, PINK = "#0072b2", "#d55e00", "#009e73", "#cc79a7"
YELLOW, SKY, BLACK, GREY = "#e69f00", "#56b4e9", "#000000", "#666666"
COLOURS = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, BLACK)
WIDTH = 9.0  # inches: the width of a page
DPI = 150


class Missing(NamedTuple):
    """What can't be shown yet: "the masks of the doubled image", and the command that makes it."""

    what: str
    command: str = ""  # "python gen_clip_masks.py --config ..."; empty where no command can


class Figure(NamedTuple):
    """One entry of the report, in the order of the page."""

    name: str  # stem of its files: fig5_regions
    title: str  # heading: "Fig. 5: losses and areas of the two regions"
    caption: str  # what is seen and which runs it is from, a sentence or two
    pictures: tuple[Path, ...] = ()  # PNG; an SVG of the same stem may lie beside it
    data: Path | None = None  # JSON or CSV of what is drawn
    tables: tuple[str, ...] = ()  # Markdown
    missing: tuple[Missing, ...] = ()


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


def save_figure(figure: Any, out: Path, name: str) -> tuple[Path, ...]:
    """Write NAME.png and NAME.svg below `out` and close the figure; gives the PNG."""
    for suffix in ("svg", "png"):
        path = out / f"{name}.{suffix}"
        with replacing(path) as temporary:
            metadata = {"Date": None} if suffix == "svg" else None
            figure.savefig(temporary, dpi=DPI, format=suffix, metadata=metadata)
    plotting().close(figure)
    return (path,)


def save_data(out: Path, name: str, content: dict[str, Any]) -> Path:
    """NAME.json."""
    path = out / f"{name}.json"
    write_json(path, content)
    return path


def save_table(out: Path, name: str, head: Sequence[str], rows: Iterable[Sequence[Any]]) -> Path:
    """NAME.csv."""
    path = out / f"{name}.csv"
    with replacing(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([head, *rows])
    return path


def markdown(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)
