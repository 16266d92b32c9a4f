"""Stages, logs, scores and masks of run folders; contents of the folders of suites."""

import re
from pathlib import Path
from typing import Any, NamedTuple

from experiments.methods import METHODS
from experiments.numbers import MEASURES
from experiments.suite_file import STAGES, Row, slug
from utils.config import CARB, Config, keys_of, load_config
from utils.old_config import renamed
from utils.run_folder import changed_settings
from utils.safe.errors import InputError
from utils.safe.files import parse_json, read_json

DATA_SETS = {"cityscapes": "Cityscapes", "camvid": "CamVid", "wilddash2": "WildDash2"}
TITLES = {"warmup": "warm-up", "carb": "CARB", "supervised": "supervised"} | {
    method: method for method, makes in METHODS.items() if makes == "network"
}


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
    """The stages of one training: the folders RUN/{warmup,carb,supervised,...}, or RUN itself."""

    label: str
    folder: Path
    stages: dict[str, Stage]  # the existing ones, by name

    @property
    def last(self) -> Stage:
        """CARB if it exists, else the warm-up, the supervised network or that of a method."""
        return next(self.stages[name] for name in ("carb", *TITLES) if name in self.stages)

    @property
    def titled(self) -> dict[str, Stage]:
        """Title -> stage; the warm-up of a row without CARB is its whole training."""
        found = {TITLES[name]: self.stages[name] for name in TITLES if name in self.stages}
        plain = "warmup" in self.stages and not self.stages["warmup"].config.carb
        return {"without CARB" if t == "warm-up" and plain else t: s for t, s in found.items()}

    def masks(self, split: str, suffix: str = "") -> Path:
        """Folder of CLIP's pseudo-masks: masks_<split><suffix> in or beside the run's folder, or
        pseudo_masks_<split><suffix> beside the runs of a suite."""
        beside = self.folder.parent
        own = [folder / f"masks_{split}{suffix}" for folder in (self.folder, beside)]
        of_suite = beside / f"pseudo_masks_{split}{suffix}"
        usual = of_suite if (beside / "ablation.json").is_file() else own[0]
        return next((folder for folder in (*own, of_suite) if folder.is_dir()), usual)

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
    """OUT of experiments/ablation.py."""

    label: str
    folder: Path
    content: dict[str, Any]  # ablation.json

    @property
    def trains(self) -> bool:
        """Whether any row is a network."""
        return any(row["stage"] in TITLES for row in self.content["rows"].values())

    def run_folder(self, name: str, seed: str | int) -> Path:
        """The run folder of a row; what has no seed has one for all."""
        return self.folder / Row(name, self.content["rows"][name]["stage"], {}).folder(int(seed))

    @property
    def slug(self) -> str:
        """The label as a part of a file name."""
        return re.sub(r"[^\w.-]+", "_", self.label).strip("_")

    @property
    def against(self) -> dict[str, list[str]]:
        """Plain row -> the rows that may lose classes against it."""
        return self.content.get("against", {})

    def group(self, plain: str) -> str:
        """Part of a file name for rows compared to `plain`; "" where the suite has one such row."""
        return f"_{slug(plain)}" * (len(self.against) > 1)


def read_inputs(folders: list[str]) -> tuple[list[Run], list[Suite]]:
    """Runs and suites, each in the order given. Raises InputError for a folder that is neither."""
    runs, suites = [], []
    names = [Path(name).resolve().name for name in folders]
    for path, name in zip(folders, names, strict=True):
        folder = Path(path)
        label = name if names.count(name) == 1 else str(folder)
        if (folder / "ablation.json").is_file():
            suites.append(Suite(label, folder, _read_suite(folder / "ablation.json")))
            continue
        stages = {s: read_stage(folder / s) for s in TITLES if _is_stage(folder / s)}
        if not stages and _is_stage(folder):
            stages = {_stage_name(folder): read_stage(folder)}
        if not stages:
            raise InputError(
                f"{folder} was not written by train_*.py, run_*.sh or experiments/ablation.py: "
                "expected config.yaml and metrics.jsonl, warmup/ or carb/, or ablation.json in it"
            )
        runs.append(Run(label, folder, stages))
    return runs, suites


def run_of(suite: Suite) -> Run | None:
    """The run whose images represent a suite; None if none of its run folders exists.

    The first seed of "Dual + CARB", else of the first row with CARB, else of the first row.
    """
    rows = suite.content["rows"]
    networks = [row for row in rows if rows[row]["stage"] in TITLES]
    order = sorted(networks, key=lambda row: (row != "Dual + CARB", rows[row]["stage"] != "carb"))
    found = (run_of_row(suite, row, seed) for row in order for seed in rows[row]["seeds"])
    return next(filter(None, found), None)


def compared_run(suite: Suite) -> Run | None:
    """The first seed of the network that learned from the masks of CLIP-ES, as in Fig. 7."""
    rows = suite.content["rows"]
    of_masks = {name for name, row in rows.items() if row["stage"] == "clip_es"}
    for name, row in rows.items():
        if row.get("learns_from") in of_masks and row["stage"] == "warmup" and row["seeds"]:
            return run_of_row(suite, name, next(iter(row["seeds"])))
    return None


def run_of_row(suite: Suite, name: str, seed: str) -> Run | None:
    """One seed of a row; None if its folder doesn't exist.

    Its warm-up is the run without CARB that has the same seed and settings.
    """
    rows: dict[str, dict[str, Any]] = suite.content["rows"]

    if not _is_stage(suite.run_folder(name, seed)):
        return None
    stages = {rows[name]["stage"]: (last := read_stage(suite.run_folder(name, seed)))}
    if "carb" in stages:
        of_masks = rows[name].get("learns_from")  # no setting: where its masks lie
        same = (r for r in rows if rows[r].get("learns_from") == of_masks)
        plain = [suite.run_folder(row, seed) for row in same if rows[row]["stage"] == "warmup"]
        plain += sorted(suite.folder.glob(f"*-start_{seed}"))  # warm-ups that are not a row
        for stage in map(read_stage, filter(_is_stage, plain)):
            if not changed_settings(stage.config.to_dict(), last.config, keys_of(CARB)):
                stages.setdefault("warmup", stage)
    return Run(f"{name}, seed {seed}", last.folder, stages)


def data_set(config: Config) -> str:
    """Name of the data set, for readers."""
    return DATA_SETS.get(config.dataset, Path(config.data_root).name)


def is_miniature(clip_model: str) -> bool:
    return Path(clip_model).parts[-2:] in (
        ("weights", "clip.pt"),
        ("miniature", "clip.pt"),  # its folder in older runs
    )


def read_stage(folder: Path) -> Stage:
    """The stage in a run folder. Raises InputError naming a damaged file."""
    path = folder / "metrics.jsonl"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        log = [_line(line) for line in lines if line.endswith("}")]  # others are half-written
    except (ValueError, TypeError):
        raise InputError(f"{path}: expected one JSON object a line, as train_*.py writes") from None
    if not all(map(_is_line, log)):
        raise InputError(
            f"{path}: expected 'step', a whole number, and other numbers in each line, as "
            "train_*.py writes; copy the file again"
        )
    scores = {
        path.parent.name.removeprefix("eval_"): _read_scores(path)
        for path in sorted(folder.glob("eval_*/metrics.json"))
    }
    return Stage(folder, load_config(folder / "config.yaml"), log, scores)


def _line(text: str) -> dict[str, Any]:
    """A line of metrics.jsonl; older runs call w 'balance'."""
    return {"w" if key == "balance" else key: v for key, v in dict(parse_json(text)).items()}


def _is_line(line: dict[str, Any]) -> bool:
    """Whether all values are numbers or None; those of classes ('class_share', ..) are lists."""
    values = []
    for key, value in line.items():
        values += value if key.startswith("class_") and isinstance(value, list) else [value]
    return type(line.get("step")) is int and all(isinstance(v, int | float | None) for v in values)


def _read_scores(path: Path) -> dict[str, Any]:
    """metrics.json. Its inference options become part of a command, so they must be numbers."""
    scores = read_json(path)
    inference = scores.get("inference", {})
    good = isinstance(inference, dict) and all(
        _are_numbers(inference.get(key, usual)) or inference.get(key, usual) is usual
        for key, usual in (("scales", [1.0]), ("window", None), ("stride", None))
    )
    if not good:
        raise InputError(
            f"{path}: expected lists of numbers for scales, window and stride in 'inference', "
            f"found {inference}; remove the folder and run eval.py again"
        )
    return scores


def _are_numbers(value: Any) -> bool:
    return isinstance(value, list) and all(type(number) in (int, float) for number in value)


def _are_measures(values: Any) -> bool:
    return isinstance(values, dict) and all(
        isinstance(values.get(key), int | float | None) for key in MEASURES
    )


def _is_row(row: Any) -> bool:
    parts = ("settings", "seeds", "mean", "std", "metrics")
    return (
        isinstance(row, dict)
        and row.get("stage") in [*STAGES, *METHODS]  # a list, say, has no hash
        and all(isinstance(row.get(part), dict) for part in parts)
        and all(seed.isdecimal() and seed.isascii() for seed in row["seeds"])
        and all(map(_are_measures, (row["mean"], row["std"], *row["seeds"].values())))
    )


def _is_against(content: dict[str, Any], rows: dict[str, Any]) -> bool:
    """Whether 'against', which older files lack, maps rows to lists of rows."""
    groups = content.get("against", {})
    return isinstance(groups, dict) and all(
        plain in rows and isinstance(others, list) and set(others) <= rows.keys()
        for plain, others in groups.items()
    )


def _read_suite(path: Path) -> dict[str, Any]:
    content = read_json(path)
    rows = content.get("rows")
    good = isinstance(rows, dict) and isinstance(content.get("settings", {}), dict)
    good = good and all(map(_is_row, rows.values())) and _is_against(content, rows)
    if not good:
        raise InputError(
            f"{path}: expected 'settings', and 'rows' with stage, settings, seeds, mean, std and "
            "metrics; write it again: python -m experiments.ablation SUITE --out FOLDER "
            "--table-only"
        )
    for row in rows.values():
        row["settings"] = renamed(row["settings"])
    return content


def _is_stage(folder: Path) -> bool:
    return (folder / "config.yaml").is_file() and (folder / "metrics.jsonl").is_file()


def _stage_name(folder: Path) -> str:
    """The stage that wrote this run folder; "warmup" for a folder without its command."""
    path = folder / "command.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    command = "".join(lines[-1:])
    made_by = re.search(r"(?:train_|baselines[./])(\w+)", command)
    return made_by[1] if made_by and made_by[1] in TITLES else "warmup"
