"""Score a run at each of its checkpoints, and plot the scores beside w and the region areas.

    python train_warmup.py ... --keep-checkpoints   # and train_carb.py: keeps step_*.pt
    python -m experiments.learning_curves runs/base runs/carb --split val \\
        --out curves --labels Base CARB

A RUN is a run folder of train_*.py, or a folder that holds warmup/ and carb/, read as one run.
Runs with the same label (seeds) get the same colour. Scores as eval.py does without options;
writes OUT/curves.{json,csv,png,svg}. The same command again scores new checkpoints only. Don't
choose a checkpoint by these curves: the last one is the one to report. Plotting needs matplotlib
(pip install matplotlib).
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from datasets import open_dataset
from datasets.labels import ClassTable, load_classes
from datasets.loader import image_loader
from datasets.training import EvaluationSet
from experiments.figures import runs as run_folders
from experiments.figures.curves import AREAS, WEIGHT, with_shares
from experiments.figures.panels import Curve, Panels, Quantity, arrange, grid
from experiments.figures.style import save_figure, write_csv
from models.inference import predictions
from models.trained import load_trained
from utils.cli import overrides_parser, path
from utils.config import Config, load_config
from utils.distributed import Ranks, setup
from utils.metrics import ConfusionMatrix
from utils.safe.errors import InputError, run_script
from utils.safe.files import check_folder, parse_json, write_json

_MEASURES = ("miou", "miou_small", "miou_large")
_POINT = {"step", "epoch", *_MEASURES, "iou", "scored"}
Scores = dict[tuple, dict[str, Any]]  # `Run.key` -> a point of a curve


class Run(NamedTuple):
    """A run with its checkpoints."""

    label: str
    folder: Path
    config: Config
    split: str
    num_images: int  # of the training split: an epoch
    files: dict[int, Path]  # step -> checkpoint
    log: list[dict[str, Any]]  # metrics.jsonl

    def key(self, step: int) -> tuple:
        """Identity of a score; another file, split or data folder is scored again."""
        file, c = self.files[step], self.config
        status = file.stat()
        data = (self.split, c.data_root, c.image_size and list(c.image_size))
        return (str(file), status.st_size, status.st_mtime_ns, *map(str, data))


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    out = Path(arguments.out)
    check_folder(out, "--out")
    found, suites = run_folders.read_inputs(arguments.runs)
    if suites:
        raise InputError(f"{suites[0].folder} holds the runs of a suite; name its run folders")
    labels = arguments.labels or [run.label for run in found]
    runs = [
        read_run(run, label, arguments.split, arguments.overrides)
        for run, label in zip(found, labels, strict=True)
    ]
    classes = [load_classes(run.config.class_file) for run in runs]
    if len({table.names for table in classes}) > 1:
        raise InputError(f"the runs have different classes: {', '.join(arguments.runs)}")
    ranks = setup(arguments.device)
    scores = read_scores(out / "curves.json")
    for run in runs:
        new = [step for step in run.files if run.key(step) not in scores]
        print(f"{run.label}: {len(run.files)} checkpoints, {len(new)} to score")
        for step in new:
            key = run.key(step)  # before reading: a file replaced meanwhile is scored again
            scores[key] = score(run, step, arguments.overrides, ranks) | {"scored": list(key)}
            miou = scores[key]["miou"]
            print(f"{run.label}, step {step}: mIoU {'-' if miou is None else f'{100 * miou:.2f}'}")
            write_json(out / "curves.json", content(runs, scores))
    curves = content(runs, scores)
    write_json(out / "curves.json", curves)
    write_csv(out / "curves.csv", table(curves["runs"], classes[0].names))
    print(f"{out / 'curves.json'} and curves.csv written")
    panels = panels_of(curves["runs"], [run.log for run in runs], classes[0])
    epochs = {run["steps_per_epoch"] for run in curves["runs"]}
    note = f" (an epoch has {epochs.pop():g})" if len(epochs) == 1 else ""
    draw = partial(grid, panels, xlabel=f"step{note}")
    save_figure(draw, out, "curves", for_phones=False)
    print(f"{out / 'curves.png'} drawn")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = overrides_parser(__doc__)
    parser.add_argument("runs", type=path, nargs="+", metavar="RUN")
    parser.add_argument("--split", help="default: the config's val_split")
    parser.add_argument("--out", type=path, required=True, help="folder of the curves")
    parser.add_argument("--labels", nargs="+", help="one for each RUN (default: folder names)")
    arguments = parser.parse_args(argv)
    if arguments.labels and len(arguments.labels) != len(arguments.runs):
        parser.error(f"--labels: expected {len(arguments.runs)}, found {len(arguments.labels)}")
    return arguments


def read_run(run: run_folders.Run, label: str, split: str | None, overrides: list[str]) -> Run:
    """Config, kept checkpoints and log. Raises InputError when one of them is missing."""
    config = load_config(run.last.folder / "config.yaml", overrides)
    files = {}
    for name, stage in run.stages.items():
        if name == "supervised" and len(run.stages) > 1:
            continue  # another network
        kept = stage.folder.glob("step_*.pt")
        found = {int(file.stem[5:]): file for file in kept if file.stem[5:].isdecimal()}
        if name == "warmup" and "carb" in run.stages:  # it may have continued without CARB
            found = {step: file for step, file in found.items() if step <= config.warmup_steps}
        files |= found
    if not files:
        raise InputError(
            f"no step_*.pt in {run.folder}; train again with --overwrite --keep-checkpoints, which "
            "keeps them"
        )
    num_images = len(open_dataset(config.dataset, config.data_root).images(config.train_split))
    split, log = split or config.val_split, run.log or run.last.log
    return Run(label, run.folder, config, split, num_images, dict(sorted(files.items())), log)


def score(run: Run, step: int, overrides: list[str], ranks: Ranks) -> dict[str, Any]:
    """A point: mIoU of all, small and large classes, IoU by class (0..1, None without a value)."""
    trained = load_trained(run.files[step], overrides=overrides)
    config, classes = trained.config, trained.classes
    dataset = open_dataset(config.dataset, config.data_root)
    images, truths = dataset.images(run.split), dataset.ground_truth(run.split)
    if not truths:
        raise InputError(
            f"the split '{run.split}' of {config.data_root} has no ground truth; "
            "name another --split"
        )
    data = EvaluationSet(images, config.image_size, truths, dataset.read_ground_truth)
    samples = image_loader(data, config.num_workers)
    model, matrix = trained.model.to(ranks.device), ConfusionMatrix(len(classes), ranks.device)
    for sample, labels, _ in predictions(model, samples, ranks.device, {}):
        matrix.update(labels, sample["ground_truth"])
    numbers = matrix.to_dict(classes.names, classes.small)
    return {
        "step": step,
        "epoch": step * config.batch_size / run.num_images,
        **{key: numbers.get(key) for key in _MEASURES},
        "iou": {name: values["iou"] for name, values in numbers["classes"].items()},
    }


def read_scores(path: Path) -> Scores:
    """The scores in curves.json; InputError where it can't be read."""
    if not path.is_file():
        return {}
    try:
        runs = parse_json(path.read_text(encoding="utf-8"))["runs"]
        points = [point for run in runs for point in run["points"]]
        if not all(point.keys() >= _POINT for point in points):
            raise ValueError("a point without its scores")
        return {tuple(point["scored"]): point for point in points}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise InputError(f"{path} can't be read; delete it and run again") from None


def content(runs: list[Run], scores: Scores) -> dict[str, Any]:
    """Content of curves.json: the runs with their scores so far."""
    return {
        "runs": [
            {
                "label": run.label,
                "folder": str(run.folder),
                "split": run.split,
                "carb_start": run.config.warmup_steps if run.config.carb else None,
                "steps_per_epoch": run.num_images / run.config.batch_size,
                "points": [scores[run.key(step)] for step in run.files if run.key(step) in scores],
            }
            for run in runs
        ]
    }


def table(runs: list[dict[str, Any]], class_names: tuple[str, ...]) -> list[list[Any]]:
    """Rows of curves.csv, one for each checkpoint, from the runs of curves.json."""
    columns = ["step", "epoch", *_MEASURES]
    rows = [["label", "folder", *columns, *(f"IoU {name}" for name in class_names)]]
    for run in runs:
        for point in run["points"]:
            numbers = [*(point[key] for key in columns), *point["iou"].values()]
            rows.append([run["label"], run["folder"], *numbers])
    return rows


def panels_of(
    runs: list[dict[str, Any]], logs: list[list[dict[str, Any]]], classes: ClassTable
) -> Panels:
    """Panels over the steps: mIoU, w, consistent area, share predicted as small classes.

    runs: as in curves.json; logs: the lines of metrics.jsonl of each run.
    """
    curves = [
        Curve(run["label"], [[*with_shares(log, classes.small), *run["points"]]], run["carb_start"])
        for run, log in zip(runs, logs, strict=True)
    ]
    of = (f" on {runs[0]['split']}", " of the small classes", " of the large classes")
    scores = {
        f"mIoU{which}, %": (Quantity("", key, 100, from_zero=False),)
        for which, key in zip(of, _MEASURES, strict=True)
    }
    return arrange(curves, scores | WEIGHT | AREAS)


if __name__ == "__main__":
    run_script(main)
