"""Put the results of runs, and the paper's figures and tables that they provide, on one page.

Reads run folders (of run_*.sh or train_*.py) and folders of experiments/ablation.py; a suite file
means its folder runs/<name>. Writes OUT/index.html, which needs no other file, OUT/report.md, and
OUT/figures: each figure as PNG and SVG with its data. Each missing part is listed with the command
that produces it and an estimate of the time.

    python report.py runs/cityscapes runs/clip_es       # further runs: columns of Fig. 7
    python report.py runs/demo_ablation --make          # run missing masks and evaluations first
    python report.py runs/ablation --only tables --readme README.md
    python report.py runs/cityscapes --data configs/cityscapes.yaml voc:VOCdevkit/VOC2012

Images come from the runs given; for a suite, from the first seed of its row "Dual + CARB".
--readme replaces the lines between <!-- report:NAME --> and <!-- /report:NAME -->.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import contextlib
import shlex
import subprocess
import sys
from pathlib import Path

from experiments.figures import tables
from experiments.figures.commands import cost, obstacle, suite_folder
from experiments.figures.page import Report, write_markdown, write_page
from experiments.figures.readme import fill_readme
from experiments.figures.runs import TITLES, Run, Suite, read_inputs, run_of
from experiments.figures.sections import SECTIONS, draw
from experiments.figures.style import Figure, count, plotting
from utils.cli import path
from utils.run_folder import git
from utils.safe.errors import InputError, run_script

MAKEABLE = ("python gen_clip_masks.py ", "python eval.py ")  # take minutes, not hours
ROOT = Path(__file__).resolve().parent


def main(argv: list[str]) -> None:
    # --- arguments, inputs
    arguments = parse(argv)
    out = Path(arguments.out)
    runs, suites = read_inputs(arguments.inputs)
    if arguments.only != ["tables"]:
        plotting()  # a missing matplotlib is reported now, and once

    # --- figures
    figures, problems = draw(arguments, runs, suites, out / "figures")
    made: dict[str, str] = {}
    while arguments.make and (todo := [c for c in makeable(figures) if c not in made]):
        made |= {command: make(command) for command in todo}
        runs, suites = read_inputs(arguments.inputs)
        figures, problems = draw(arguments, runs, suites, out / "figures")

    # --- page
    report = Report(
        title=", ".join(one.label for one in [*runs, *suites]),
        about=describe(runs, suites),
        made_by=f"{shlex.join(['python', 'report.py', *argv])}  # {git('rev-parse', 'HEAD')[:10]}",
        figures=figures,
        failed=frozenset(problems),
        costs=costs(figures, runs, suites),
    )
    write_markdown(report, out)
    page = write_page(report, out)

    # --- README
    errors = [*problems.values(), *filter(None, made.values())]
    if arguments.readme:
        try:
            names, left = fill_readme(Path(arguments.readme), tables.readme_tables(runs, suites))
            other = f"; unchanged, as they show other runs: {', '.join(left)}" if left else ""
            print(f"{arguments.readme}: {', '.join(names)}{other}")
        except (InputError, OSError) as error:
            errors.append(str(error))

    # --- summary
    drawn = sum(bool(f.images or f.tables) and not f.absent for f in figures)
    print(f"{page}: {count(drawn, 'figure')} drawn, {count(len(report.costs), 'command')} missing")
    if errors:
        raise InputError("\n  ".join([f"{count(len(errors), 'part')} failed:", *errors]))


def parse(argv: list[str]) -> argparse.Namespace:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    inputs = "folders of runs and of suites, or suite files"
    add("inputs", type=path, nargs="+", metavar="RUN_OR_SUITE", help=inputs)
    add("--out", type=path, default="report", help="folder of the page (default: report)")
    sources = "configs, voc:FOLDER, coco:FILE, CLASSES:LABELS (default: the first run's config)"
    add("--data", nargs="+", metavar="SOURCE", help=f"data sets of Fig. 1: {sources}")
    add("--split", help="split of the images shown (default: the val_split of the first run)")
    add(
        "--images", nargs="+", default=["4"], metavar="N|ID", help="how many, or which (default: 4)"
    )
    add("--make", action="store_true", help="run the commands for missing masks and evaluations")
    add("--readme", type=path, metavar="FILE", help="put the tables between the markers of FILE")
    names = f"sections to draw, of {', '.join(SECTIONS)}"
    add("--only", nargs="+", choices=SECTIONS, default=SECTIONS, metavar="NAME", help=names)
    add("--debug", action="store_true", help="show the traceback of an error")
    arguments = result.parse_args(argv)
    if len(arguments.images) == 1 and arguments.images[0].lstrip("-").isdecimal():
        arguments.images = int(arguments.images[0])
        if arguments.images < 1:
            result.error(f"--images: expected 1 or more, found {arguments.images}")
    arguments.inputs = [suite_folder(name) for name in arguments.inputs]
    return arguments


def commands(figures: list[Figure]) -> list[str]:
    """The commands that make the missing parts, each once."""
    found = [missing.command for figure in figures for missing in figure.missing]
    return [command for command in dict.fromkeys(found) if command]


def makeable(figures: list[Figure]) -> list[str]:
    """The subset of `commands` that makes masks or evaluations."""
    return [command for command in commands(figures) if command.startswith(MAKEABLE)]


def costs(figures: list[Figure], runs: list[Run], suites: list[Suite]) -> dict[str, str]:
    """Command of a missing part -> about how long it takes."""
    measured = list(runs)
    with contextlib.suppress(InputError, OSError):  # reported in the suite's section
        measured += filter(None, map(run_of, suites))
    return {command: cost(command, measured) for command in commands(figures)}


def make(command: str) -> str:
    """Run a command with this interpreter in the working folder; gives the error, "" if none."""
    if reason := obstacle(command):
        print(f"skipped, {reason}: {command}", flush=True)
        return ""
    print(f"$ {command}", flush=True)
    script, *rest = shlex.split(command)[1:]
    status = subprocess.run([sys.executable, str(ROOT / script), *rest]).returncode
    return f"exit status {status}: {command}" if status else ""


def describe(runs: list[Run], suites: list[Suite]) -> str:
    """The line below the page's title: what was trained on which data."""
    parts = []
    for run in runs:
        stages = " and ".join(title for name, title in TITLES.items() if name in run.stages)
        parts.append(f"{run.folder}: {stages} on {run.last.config.data_root}")
    for suite in suites:
        rows = suite.content["rows"].values()
        scored = count(sum(len(row["seeds"]) for row in rows), "run")
        about = f"{scored} of {count(len(rows), 'row')} scored on '{suite.content.get('split')}'"
        parts.append(f"{suite.folder}: {about}, {suite.content.get('config')}")
    return "; ".join(parts)


if __name__ == "__main__":
    run_script(main)
