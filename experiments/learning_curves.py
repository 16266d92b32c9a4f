"""How good a run was at each of its checkpoints, and what CARB did meanwhile: where it helps.

    python train_warmup.py ... --keep-checkpoints   # and train_carb.py: they must hold step_*.pt
    python -m experiments.learning_curves runs/base runs/carb --split val \\
        --out curves --labels Base CARB

A RUN is a run folder of train_*.py, or a folder that holds warmup/ and carb/, read as one run.
Runs of one label (seeds) get one colour. Scores as eval.py does without options; writes
OUT/curves.{json,csv,png,svg}. The same command again scores new checkpoints only. For looking, not
for choosing: the last checkpoint is the one to report. The picture needs matplotlib (pip install
matplotlib).
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import re
from pathlib import Path
from typing import Any, NamedTuple

from datasets import open_dataset
from datasets.labels import load_classes
from datasets.loader import image_loader
from datasets.training import EvaluationSet
from experiments.figures.runs import read_inputs
from experiments.learning_output import draw, percent, write_csv
from models.inference import predictions
from models.trained import load_trained
from utils.cli import overrides_parser, path
from utils.config import Config, load_config
from utils.distributed import Ranks, setup
from utils.metrics import ConfusionMatrix
from utils.safe.errors import InputError, run_script
from utils.safe.files import check_folder, parse_json, write_json

_POINT = {"step", "epoch", "miou", "miou_small", "miou_large", "iou", "scored"}
Scores = dict[tuple, dict[str, Any]]  # what `Run.key` says was scored -> a point of a curve


class Run(NamedTuple):
    """A run as it lies on the disk. `files`: step -> its checkpoint; `log`: metrics.jsonl."""

    label: str
    folder: Path
    config: Config
    split: str
    num_images: int  # in training: an epoch
    files: dict[int, Path]
    log: list[dict[str, Any]]

    def key(self, step: int) -> tuple:
        """What a score belongs to; another file, split or data folder is scored anew."""
        file, c = self.files[step], self.config
        status = file.stat()
        data = (self.split, c.data_root, c.image_size and list(c.image_size))
        return (str(file), status.st_size, status.st_mtime_ns, *map(str, data))


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    out = Path(arguments.out)
    check_folder(out, "--out")
    labels = arguments.labels or default_labels(arguments.runs)
    runs = [
        read_run(folder, label, arguments.split, arguments.overrides)
        for folder, label in zip(arguments.runs, labels, strict=True)
    ]
    classes = [load_classes(run.config.class_file) for run in runs]
    if len({table.names for table in classes}) > 1:
        raise InputError(f"the runs have other classes: {', '.join(arguments.runs)}")
    ranks = setup(arguments.device)
    scores = read_scores(out / "curves.json")
    for run in runs:
        new = [step for step in run.files if run.key(step) not in scores]
        print(f"{run.label}: {len(run.files)} checkpoints, {len(new)} to score")
        for step in new:
            key = run.key(step)  # before it is read: a file replaced meanwhile is scored again
            scores[key] = score(run, step, arguments.overrides, ranks) | {"scored": list(key)}
            print(f"{run.label}, step {step}: mIoU {percent(scores[key]['miou'])}", flush=True)
            write_json(out / "curves.json", content(runs, scores))
    curves = content(runs, scores)
    write_json(out / "curves.json", curves)
    write_csv(out / "curves.csv", curves["runs"], classes[0])
    print(f"{out / 'curves.json'} and curves.csv are written")
    draw(out / "curves.png", curves["runs"], [run.log for run in runs], classes[0])
    print(f"{out / 'curves.png'} is drawn")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = overrides_parser(__doc__)
    parser.add_argument("runs", type=path, nargs="+", metavar="RUN")
    parser.add_argument("--split", help="default: the config's val_split")
    parser.add_argument("--out", type=path, required=True, help="folder of the curves")
    parser.add_argument("--labels", nargs="+", help="one for each RUN (default: folder names)")
    arguments = parser.parse_args(argv)
    if arguments.labels and len(arguments.labels) != len(arguments.runs):
        parser.error(f"--labels: {len(arguments.runs)} wanted, found {len(arguments.labels)}")
    return arguments


def default_labels(folders: list[str]) -> list[str]:
    """Names of the folders, or where two are the same the paths: else they would look like one."""
    names = [Path(folder).resolve().name for folder in folders]
    return names if len(set(names)) == len(names) else folders


def read_run(folder: str, label: str, split: str | None, overrides: list[str]) -> Run:
    """Config, kept checkpoints and log. Raises InputError when one of them is missing."""
    found_runs, _ = read_inputs([folder])
    if not found_runs:
        raise InputError(f"{folder} holds the runs of a suite; name run folders in it")
    run = found_runs[0]
    stages = {name: run.stages[name] for name in ("warmup", "carb") if name in run.stages}
    stages = stages or {"supervised": run.last}
    config = load_config(run.last.folder / "config.yaml", overrides)
    files = {}
    for name, stage in stages.items():
        found = {
            int(match[1]): file
            for file in stage.folder.glob("step_*.pt")
            if (match := re.fullmatch(r"step_(\d+)\.pt", file.name))
        }
        if name == "warmup" and "carb" in stages:  # it may have gone on without CARB
            found = {step: file for step, file in found.items() if step <= config.warmup_steps}
        files |= found
    if not files:
        raise InputError(
            f"no step_*.pt in {folder}; train_*.py --keep-checkpoints leaves them, start it "
            "anew with --overwrite --keep-checkpoints"
        )
    num_images = len(open_dataset(config.dataset, config.data_root).images(config.train_split))
    split, log = split or config.val_split, run.log or run.last.log
    return Run(label, run.folder, config, split, num_images, dict(sorted(files.items())), log)


def score(run: Run, step: int, overrides: list[str], ranks: Ranks) -> dict[str, Any]:
    """mIoU over all, small and large classes and IoU by class (0..1, None without a value)."""
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
    for sample, labels in predictions(model, samples, ranks.device, {}):
        matrix.update(labels, sample["ground_truth"])
    numbers = matrix.to_dict(classes.names, classes.small)
    return {
        "step": step,
        "epoch": step * config.batch_size / run.num_images,
        **{key: numbers.get(key) for key in ("miou", "miou_small", "miou_large")},
        "iou": {name: values["iou"] for name, values in numbers["classes"].items()},
    }


def read_scores(path: Path) -> Scores:
    """What an earlier start has scored."""
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
    """curves.json: the runs with what has been scored of them."""
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


if __name__ == "__main__":
    run_script(main)
