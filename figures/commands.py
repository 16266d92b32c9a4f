"""The commands that make what the report lacks."""

import shlex
from pathlib import Path

from figures.runs import Stage, Suite
from tools.ablation_suite import as_arguments
from utils.errors import InputError


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


def training(suite: Suite) -> str:
    """The command that trains what a suite lacks."""
    file = str(suite.content.get("suite"))
    moved = f"configs/suites/{Path(file).name}"  # where the shipped ones lay elsewhere before
    file = moved if Path(moved).is_file() and not Path(file).is_file() else file
    command = ["python", "-m", "tools.ablation", file, "--out", str(suite.folder)]
    return shlex.join(command + as_arguments(suite.content.get("settings", {})))


def suite_folder(name: str) -> str:
    """A suite file stands for the folder of its results in runs/; all else for itself."""
    if not name.endswith((".yaml", ".yml")):
        return name
    folder = Path("runs", Path(name).stem)
    if not (folder / "ablation.json").is_file():
        command = shlex.join(["python", "-m", "tools.ablation", name, "--out", str(folder)])
        raise InputError(
            f"{name}: its results are expected in {folder}, which has no ablation.json; give the "
            f"folder that they are in, or make them: {command}"
        )
    return str(folder)
