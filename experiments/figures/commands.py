"""The commands that make the parts missing from the report, and about how long they take."""

import argparse
import shlex
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from datasets import open_dataset
from datasets.labels import load_classes
from datasets.split_labels import find_labels
from experiments.figures.runs import Run, Stage, Suite, is_miniature
from experiments.figures.style import Missing, count
from experiments.suite_file import as_arguments
from utils.config import Config, load_config
from utils.safe.errors import InputError
from utils.safe.yaml_file import read_yaml

# Keys that decide the time per image: a run with the same values provides an estimate.
_SPEED = ("dataset", "crop_size", "backbone", "output_stride", "clip_model")


def evaluation(stage: Stage, split: str) -> str:
    """The command that scores a stage and saves predictions, with the options used before."""
    command = ["python", "eval.py", "--ckpt", str(stage.checkpoint), "--split", split]
    command.append("--save-predictions")
    if split in stage.scores:
        inference = stage.scores[split].get("inference", {})
        for key, usual in (("scales", [1.0]), ("window", None), ("stride", None)):
            if inference.get(key, usual) != usual:
                command += [f"--{key}", *map(str, inference[key])]
        command += ["--flip"] * bool(inference.get("flip"))
        command += ["--bf16"] * (inference.get("precision") == "bf16")
        command.append("--overwrite")
    return shlex.join(command)


def not_evaluated(stage: Stage, split: str, what: str) -> Missing:
    """A missing result of eval.py; `what`: "the scores"."""
    return Missing(f"{what} of {stage.folder} on '{split}'", evaluation(stage, split))


def masks(
    stage: Path,
    folder: Path,
    split: str | None = None,
    ratio: float = 1,
    grid: tuple[int, int] = (1, 1),
    score: bool = False,
) -> str:
    """The command that makes pseudo-masks in `folder` with the config in run folder `stage`."""
    command = ["python", "gen_clip_masks.py", "--config", str(stage / "config.yaml")]
    command += ["--split", split] if split else []
    command += ["--out", str(folder)]
    command += ["--ratio", f"{ratio:g}"] * (ratio != 1)
    command += ["--grid", "x".join(map(str, grid))] * (grid != (1, 1))
    return shlex.join(command + ["--score"] * score)


def labels(config: Config) -> str:
    """The command that makes the image-level labels."""
    command = ["python", "prepare_data.py", config.dataset, "--root", config.data_root]
    command += ["--class-file", config.class_file, "--out", config.image_labels]
    return shlex.join(command)


def obstacle(command: str) -> str:
    """Why a command of gen_clip_masks.py would fail; "" if it would not, and for other commands.

    Own data may have neither labels nor ground truth for the split that is shown.
    """
    _, script, *words = shlex.split(command)
    given = dict(pairwise(words))
    if script != "gen_clip_masks.py" or "--config" not in given:
        return ""
    try:
        config = load_config(given["--config"])
        split = given.get("--split", config.train_split)
        classes = load_classes(config.class_file)
        source = open_dataset(config.dataset, config.data_root)
        images = source.images(split)
        if "--score" in words and not source.ground_truth(split):
            return f"'{split}' has no ground truth"
        labelled = find_labels(source, split, config.image_labels, classes, images)
    except (InputError, OSError):
        return ""  # the command itself will report it
    without = len(images) - len(labelled)
    return f"{without} images of '{split}' have no image-level labels" if without else ""


def training(suite: Suite, rows: Sequence[str] = ()) -> str:
    """The command that trains a suite, or these `rows` of it with the seeds that others have."""
    file = str(suite.content.get("suite"))
    if not Path(file).is_file():  # older runs name the folder where shipped suites were before
        moved = [f"{folder}/suites/{Path(file).name}" for folder in ("experiments", "demo")]
        file = next((name for name in moved if Path(name).is_file()), file)
    command = ["python", "-m", "experiments.ablation", file, "--out", str(suite.folder)]
    if rows:
        others = suite.content["rows"].values()
        seeds = sorted({int(seed) for row in others for seed in row["metrics"]})
        command += ["--rows", *rows] + ["--seeds", *map(str, seeds)] * bool(seeds)
    return shlex.join(command + as_arguments(suite.content.get("settings", {})))


def suite_folder(name: str) -> str:
    """The folder of a suite file's results, runs/<name>; any other name is returned unchanged."""
    if not name.endswith((".yaml", ".yml")):
        return name
    folder = Path("runs", Path(name).stem)
    if not (folder / "ablation.json").is_file():
        command = shlex.join(["python", "-m", "experiments.ablation", name, "--out", str(folder)])
        raise InputError(
            f"{name}: expected its results in {folder}, found no ablation.json there; name the "
            f"folder of the results, or make them: {command}"
        )
    return str(folder)


class Work(NamedTuple):
    """The work of a command."""

    config: Config
    images: float  # number of images that pass through the networks
    what: str  # "at most 33 trainings of 1200 steps"
    trains: bool = False


def cost(command: str, runs: Sequence[Run]) -> str:
    """Estimated time: "about 2 h: at most 33 trainings of 1200 steps, at runs/demo's 9 images/s".

    "minutes" or "hours" if no run has trained on such images; empty for other commands.
    """
    try:
        work = _work(shlex.split(command))
    except (InputError, OSError, KeyError, ValueError):  # e.g. its config doesn't exist here
        return ""
    if work is None:
        return ""
    for run in runs:
        config = run.last.config
        rates = [line["images_per_second"] for line in run.log if line.get("images_per_second")]
        if rates and all(getattr(config, key) == getattr(work.config, key) for key in _SPEED):
            rate = statistics.median(rates)
            seconds = work.images / rate
            return f"about {_duration(seconds)}: {work.what}, at {run.folder}'s {rate:.2g} images/s"
    short = is_miniature(work.config.clip_model) or not work.trains
    return f"{'minutes' if short else 'hours on a GPU'}{' each' * work.trains}: {work.what}"


def _work(words: list[str]) -> Work | None:
    """The work of a command's words; None if it neither trains nor reads images."""
    given = dict(pairwise(words))
    script = next((Path(word).stem for word in words if word.endswith((".py", ".sh"))), "")
    if "experiments.ablation" in words or script == "demo_ablation":
        suites = [word.removeprefix("SUITE=") for word in words if word.startswith("SUITE=")]
        name = f"demo/suites/{(suites or ['demo_ablation'])[0]}.yaml"
        suite = read_yaml(Path(given.get("experiments.ablation", name)))
        config = load_config(suite["config"])
        rows, seeds = _chosen(words, suite)
        number = sum(row.get("stage") != "masks" for row in rows) * seeds
        if not number:
            images = open_dataset(config.dataset, config.data_root).images(suite["split"])
            what = f"masks of {count(len(images), 'image')} from {count(len(rows), 'teacher')}"
            return Work(config, len(rows) * len(images), what)
        what = f"at most {count(number, 'training')} of {config.steps} steps"
        return Work(config, number * config.steps * config.batch_size, what, True)
    if script.startswith(("run_", "train_")) or any(w.startswith("baselines.") for w in words):
        name = f"configs/{script.removeprefix('run_')}.yaml"
        name = "demo/config.yaml" if script == "run_demo" else name
        config = load_config(given.get("--config", name))
        what = f"1 training of {config.steps} steps"
        return Work(config, config.steps * config.batch_size, what, True)
    if script in ("gen_clip_masks", "eval"):
        config = load_config(
            given.get("--config") or Path(given["--ckpt"]).with_name("config.yaml")
        )
        dataset = open_dataset(config.dataset, config.data_root)
        number = len(dataset.images(given.get("--split", config.train_split)))
        pixels = float(given.get("--ratio", 1)) ** 2
        return Work(config, number * pixels, count(number, "image"))
    return None


def _chosen(words: list[str], suite: dict[str, Any]) -> tuple[list[dict[str, Any]], int]:
    """The rows of a suite that a command's words name, or all, and the number of its seeds."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--rows", nargs="+", default=[*suite["rows"]])
    parser.add_argument("--seeds", nargs="+", default=suite["seeds"])
    given, _ = parser.parse_known_args(words)
    return [suite["rows"][name] for name in given.rows], len(given.seeds)


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, seconds / 60):.0f} min"
