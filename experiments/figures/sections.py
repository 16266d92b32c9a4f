"""The sections of the report, one for each module of figures; one that fails is survived."""

import argparse
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from experiments.figures import (
    classes,
    curves,
    qualitative,
    regions,
    scales,
    statistics,
    summary,
    sweeps,
    tables,
)
from experiments.figures.commands import training
from experiments.figures.pictures import check_choice
from experiments.figures.runs import Run, Suite, run_of
from experiments.figures.style import Figure, Missing
from utils.safe.errors import InputError

SECTIONS = [  # the run itself, then the paper's other figures
    "summary",
    "qualitative",
    "regions",
    "classes",
    "curves",
    "scales",
    "statistics",
    "sweeps",
    "tables",
]


def draw(
    arguments: argparse.Namespace, runs: list[Run], suites: list[Suite], out: Path
) -> tuple[list[Figure], dict[str, str]]:
    """All figures in the order of the page, and by name what those that failed have to say.

    Suites' tables come first, parts of the paper that no input has come last.

    A figure that fails is on the page too, with its error: the others are not lost.
    """
    figures, problems = [], {}
    for name, part in sections(arguments, runs, suites, out).items():
        try:
            found = part()
        except (InputError, OSError) as error:
            problems[name] = f"{name}: {error}"
        except Exception as error:  # a fault of ours; shown, and the other figures are drawn
            traceback.print_exc()
            problems[name] = f"{name}: {type(error).__name__}: {error}"
        if name in problems:
            found = [Figure(name, f"{name.capitalize()}: not drawn", problems[name])]
        for figure in found:
            print(f"{figure.title}{': not in these runs' * figure.absent}", flush=True)
        figures += found
    return sorted(figures, key=lambda figure: (figure.absent, not figure.leads)), problems


def sections(
    arguments: argparse.Namespace, runs: list[Run], suites: list[Suite], out: Path
) -> dict[str, Callable[[], list[Figure]]]:
    """What draws the sections asked for, by name, in the order of the page."""
    problem: Exception | None = None
    try:
        shown = pictured(arguments.inputs, runs, suites)
    except (InputError, OSError) as error:
        shown, problem = runs, error
    run = shown[0] if shown else None
    data = arguments.data or [str(run.last.folder / "config.yaml") for run in shown[:1]]
    split = arguments.split or (run.last.config.val_split if run else "val")
    images = arguments.images
    if arguments.split or not isinstance(images, int):
        check_choice([one.last.config for one in shown], split, images)
    number = images if isinstance(images, int) else len(images)  # regions are of training images

    def no_run() -> list[Figure]:
        if problem:
            raise problem
        reason = "pictures: ablation.json is without the run folders beside it"
        why = Missing(reason, training(suites[0]))
        return [Figure("pictures", "Pictures", "", missing=(why,))]

    drawn: dict[str, Callable[[], list[Figure]]] = {
        "pictures": no_run,
        "summary": lambda: summary.draw(shown, split, out),
        "qualitative": lambda: qualitative.draw(shown, split, images, out),
        "regions": lambda: regions.draw(run, number, out),
        "classes": lambda: classes.draw(shown, split, out),
        "curves": lambda: curves.draw(runs, suites, out),
        "scales": lambda: scales.draw(run, split, images, out),
        "statistics": lambda: statistics.draw(data, out),
        "sweeps": lambda: sweeps.draw(suites, out),
        "tables": lambda: tables.draw(runs, suites, out),
    }
    wanted = set(arguments.only)
    if run is None:
        wanted -= {"summary", "qualitative", "regions", "classes", "scales"}
        wanted |= {"pictures"}
        wanted -= set() if data else {"statistics"}
    if problem:  # said once, where the pictures of the suite would be
        wanted |= {"pictures"}
    return {name: part for name, part in drawn.items() if name in wanted}


def pictured(inputs: Sequence[str], runs: list[Run], suites: list[Suite]) -> list[Run]:
    """The runs whose pictures are shown, in the order of `inputs`.

    All that were given; of the suites of a data set the first, which `run_of` stands for.
    """
    found, seen = {run.folder: run for run in runs}, set()
    for suite in suites:
        run = run_of(suite)
        config = run.last.config if run else None
        if config and (data := (config.dataset, config.data_root)) not in seen:
            seen.add(data)
            found[suite.folder] = run
    places = {Path(name): place for place, name in enumerate(inputs)}
    return [found[folder] for folder in sorted(found, key=lambda f: places.get(f, len(places)))]
