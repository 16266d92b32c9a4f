"""What lies in run folders: stages, logs, scores, masks; and in the folders of suites."""

import json
from pathlib import Path
from typing import Any, NamedTuple

from utils.config import Config, load_config
from utils.errors import InputError
from utils.files import read_json

STAGES = ("warmup", "carb", "supervised")


class Stage(NamedTuple):
    """A run folder of train_*.py."""

    folder: Path
    config: Config
    log: list[dict[str, Any]]  # metrics.jsonl
    scores: dict[str, dict[str, Any]]  # split -> metrics.json of its eval_<split> folder

    @property
    def checkpoint(self) -> Path:
        return self.folder / "last.pt"

    def predictions(self, split: str) -> Path:
        """Label maps <image id>.png that `eval.py --save-predictions` wrote."""
        return self.folder / f"eval_{split}" / "predictions"


class Run(NamedTuple):
    """The stages of one training, in one folder (RUN/{warmup,carb,supervised}) or as one stage."""

    label: str
    folder: Path
    stages: dict[str, Stage]  # by name, those that are there

    @property
    def last(self) -> Stage:
        """CARB where there is one, else the warm-up or the supervised network."""
        return next(self.stages[n] for n in ("carb", "warmup", "supervised") if n in self.stages)

    @property
    def log(self) -> list[dict[str, Any]]:
        """Lines of warm-up and CARB in the order of their steps."""
        by_step: dict[int, dict[str, Any]] = {}
        for name in ("warmup", "carb"):
            if name in self.stages and self.stages[name].log:
                first = self.stages[name].log[0]["step"]
                by_step = {step: line for step, line in by_step.items() if step < first}
                by_step |= {line["step"]: line for line in self.stages[name].log}
        return [by_step[step] for step in sorted(by_step)]


class Suite(NamedTuple):
    """OUT of tools/ablation.py."""

    label: str
    folder: Path
    content: dict[str, Any]  # ablation.json


def read_inputs(folders: list[str]) -> tuple[list[Run], list[Suite]]:
    """Runs and suites, each in the order given. Raises InputError for a folder that is neither."""
    runs, suites = [], []
    for name in folders:
        folder = Path(name)
        if (folder / "ablation.json").is_file():
            suites.append(Suite(folder.name, folder, read_json(folder / "ablation.json")))
            continue
        stages = {s: read_stage(folder / s) for s in STAGES if _is_stage(folder / s)}
        if not stages and _is_stage(folder):
            stages = {_stage_name(folder): read_stage(folder)}
        if not stages:
            raise InputError(
                f"{folder} is no folder of train_*.py, of a run_*.sh or of tools/ablation.py: "
                "expected config.yaml and metrics.jsonl, warmup/ or carb/, or ablation.json there"
            )
        runs.append(Run(folder.name, folder, stages))
    return runs, suites


def read_stage(folder: Path) -> Stage:
    lines = (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    log = [json.loads(line) for line in lines if line.endswith("}")]  # it may be being written
    scores = {
        path.parent.name.removeprefix("eval_"): read_json(path)
        for path in sorted(folder.glob("eval_*/metrics.json"))
    }
    return Stage(folder, load_config(folder / "config.yaml"), log, scores)


def _is_stage(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "metrics.jsonl").is_file()


def _stage_name(folder: Path) -> str:
    """Which script wrote this run folder."""
    command = (folder / "command.txt").read_text(encoding="utf-8").splitlines()[-1]
    return next((name for name in STAGES if f"train_{name}.py" in command), "warmup")
