"""The commands that make what the report lacks."""

import shlex
from itertools import pairwise
from pathlib import Path

from datasets import open_dataset
from datasets.labels import load_classes
from datasets.split_labels import find_labels
from experiments.figures.runs import Stage, Suite
from experiments.figures.style import Missing
from experiments.suite_file import as_arguments
from utils.config import Config, load_config
from utils.safe.errors import InputError


def evaluation(stage: Stage, split: str) -> str:
    """The command that scores a stage as it was scored before, if it was; with its predictions."""
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
    """`what`: "the scores"."""
    return Missing(f"{what} of {stage.folder} on '{split}'", evaluation(stage, split))


def masks(
    stage: Path,
    folder: Path,
    split: str | None = None,
    ratio: float = 1,
    grid: tuple[int, int] = (1, 1),
    score: bool = False,
) -> str:
    """The command that makes pseudo-masks in `folder` by the config of the run folder `stage`."""
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


def lacking(command: str) -> str:
    """Why the data can't serve a command of gen_clip_masks.py; empty where they can, or for others.

    Own data may have neither labels nor masks of the split that is shown.
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
        return ""  # the command will say it
    without = len(images) - len(labelled)
    return f"{without} images of '{split}' have no image-level labels" if without else ""


def training(suite: Suite) -> str:
    """The command that trains what a suite lacks."""
    file = str(suite.content.get("suite"))
    if not Path(file).is_file():  # the shipped ones lay elsewhere before
        moved = [f"{folder}/suites/{Path(file).name}" for folder in ("experiments", "demo")]
        file = next((name for name in moved if Path(name).is_file()), file)
    command = ["python", "-m", "experiments.ablation", file, "--out", str(suite.folder)]
    return shlex.join(command + as_arguments(suite.content.get("settings", {})))


def suite_folder(name: str) -> str:
    """A suite file stands for the folder of its results in runs/; all else for itself."""
    if not name.endswith((".yaml", ".yml")):
        return name
    folder = Path("runs", Path(name).stem)
    if not (folder / "ablation.json").is_file():
        command = shlex.join(["python", "-m", "experiments.ablation", name, "--out", str(folder)])
        raise InputError(
            f"{name}: its results are expected in {folder}, which has no ablation.json; give the "
            f"folder that they are in, or make them: {command}"
        )
    return str(folder)
