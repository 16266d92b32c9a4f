"""The sections of the report, one for each module of figures; a failing one stops no other."""

import argparse
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from experiments.figures import (
    cams,
    class_curves,
    classes,
    curves,
    points,
    qualitative,
    rare_classes,
    regions,
    scales,
    statistics,
    summary,
    sweeps,
    tables,
    teachers,
)
from experiments.figures.commands import training
from experiments.figures.galleries import check_choice
from experiments.figures.runs import Run, Suite, compared_run, run_of
from experiments.figures.style import Figure, Missing
from utils.safe.errors import InputError


class Inputs(NamedTuple):
    """Arguments of the sections."""

    runs: list[Run]
    suites: list[Suite]
    shown: list[Run]  # whose images are shown; some sections take the first only
    sources: list[str]  # of Fig. 1
    split: str
    images: int | Sequence[str]
    out: Path


SECTIONS: dict[str, Callable[[Inputs], list[Figure]]] = {  # figures of the run come first
    "summary": lambda i: summary.draw(i.shown, i.split, i.out),
    "qualitative": lambda i: qualitative.draw(i.shown, i.split, i.images, i.out),
    "regions": lambda i: regions.draw(i.shown[0], _number(i.images), i.out),
    "classes": lambda i: classes.draw(i.shown, i.split, i.out),
    "curves": lambda i: curves.draw(i.runs, i.suites, i.out),
    "scales": lambda i: scales.draw(i.shown[0], i.split, i.images, i.out),
    "teachers": lambda i: teachers.draw(i.suites, i.images, i.out),
    "points": lambda i: points.draw(i.runs, i.suites, _number(i.images), i.out),
    "cams": lambda i: cams.draw(i.suites, i.images, i.out),
    "statistics": lambda i: statistics.draw(i.sources, i.out),
    "rare_classes": lambda i: rare_classes.draw(i.suites, i.out),
    "class_curves": lambda i: class_curves.draw(i.suites, i.out),
    "sweeps": lambda i: sweeps.draw(i.suites, i.out),
    "tables": lambda i: tables.draw(i.runs, i.suites, i.out),
}
_OF_SHOWN = ("summary", "qualitative", "regions", "classes", "scales")


def draw(
    arguments: argparse.Namespace, runs: list[Run], suites: list[Suite], out: Path
) -> tuple[list[Figure], dict[str, str]]:
    """All figures in the order of the page, and the errors of failed sections by name.

    Tables of suites come first, parts of the paper that no input provides come last. A section
    that fails is shown with its error.
    """
    figures: list[Figure] = []
    problems: dict[str, str] = {}

    def add(name: str, section: Callable[[], list[Figure]]) -> None:
        try:
            found = section()
        except Exception as error:
            reason = str(error)
            if not isinstance(error, InputError | OSError):  # a bug; the others are still drawn
                traceback.print_exc()
                reason = f"{type(error).__name__}: {error}"
            problems[name] = f"{name}: {reason}"
            found = [Figure(name, f"{name.capitalize()}: not drawn", problems[name])]
        for figure in found:
            print(f"{figure.title}{': not in these runs' * figure.absent}", flush=True)
        figures.extend(found)

    shown: list[Run] = []

    def find_shown() -> list[Figure]:
        shown.extend(shown_runs(arguments.inputs, runs, suites))
        reason = "images: ablation.json has no run folders beside it"
        lacking = [] if shown else [suite for suite in suites if suite.trains]
        missing = tuple(Missing(reason, training(suite)) for suite in lacking[:1])
        return [Figure("images", "Images", "", missing=missing)] if missing else []

    add("images", find_shown)
    shown = shown or runs  # if that failed, which is reported
    config = shown[0].last.config if shown else None
    sources = arguments.data or [str(run.last.folder / "config.yaml") for run in shown[:1]]
    split = arguments.split or (config.val_split if config else "val")
    inputs = Inputs(runs, suites, shown, sources, split, arguments.images, out)
    if arguments.split or not isinstance(arguments.images, int):
        check_choice([one.last.config for one in shown], split, arguments.images)
    for name, section in SECTIONS.items():
        drawable = (shown or name not in _OF_SHOWN) and (sources or name != "statistics")
        if drawable and name in arguments.only:
            add(name, partial(section, inputs))
    return sorted(figures, key=lambda figure: (figure.absent, not figure.leads)), problems


def _number(images: int | Sequence[str]) -> int:
    """How many images; ids of another split don't name training images."""
    return images if isinstance(images, int) else len(images)


def shown_runs(inputs: Sequence[str], runs: list[Run], suites: list[Suite]) -> list[Run]:
    """The runs whose images are shown, in the order of `inputs`.

    All runs that were given, and for each data set the first suite, represented by `run_of`, with
    its network of CLIP-ES, if any.
    """
    found, seen = {run.folder: run for run in runs}, set()
    for suite in suites:
        run = run_of(suite)
        config = run.last.config if run else None
        if config and (data := (config.dataset, config.data_root)) not in seen:
            seen.add(data)
            found[suite.folder] = run
            if other := compared_run(suite):
                found[other.folder] = other
    places = {Path(name): place for place, name in enumerate(inputs)}
    last = len(places)
    order = sorted(found, key=lambda f: places.get(f, places.get(f.parent, last)))
    return [found[folder] for folder in order]
