"""The scored networks of run folders and suites, and which are comparable with the paper."""

import dataclasses
import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from experiments.figures.runs import TITLES, Run, Suite, is_miniature, read_stage
from experiments.methods import METHODS, PAPERS_NAMES, PREDICTS, READS_CLIP, SAVE_CAMS
from experiments.numbers import Mean, means_of, scores_of
from utils.config import (
    PLACE,
    PRESETS,
    SPEED,
    UPKEEP,
    Config,
    TeacherSettings,
    flatten,
    keys_of,
    load_config,
)
from utils.made_from import changed
from utils.safe.files import parse_json
from utils.safe.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parent.parent.parent
PAPER: dict[str, Any] = read_yaml(ROOT / "experiments" / "paper.yaml")
SUPERVISED = "Supervised (upper bound)"
VIEWS = {"base": "Base", "local": "Local", "dual": "Dual"}
_PAPERS_TEACHER = PRESETS["teacher"]["maskclip"]
# Keys that the paper's sweeps change: such a run is no row of its tables.
_SWEPT = ("patch_size", "local_resize", "region_weight")
_SWEEP = "a sweep over"
# Keys that don't change the result (paths, speed, upkeep), and those that the row's name states.
_NEUTRAL = keys_of(PLACE, SPEED, UPKEEP) - {"class_file"} | {"seed", "views", "carb"}


class ScoredRun(NamedTuple):
    """A network and its metrics.json."""

    label: str  # "demo", or "demo_ablation: Base + CARB"
    stage: str
    folder: Path  # of the run
    config: Config
    metrics: dict[str, Any]
    method: str = ""  # of Tables 2 to 4, that made the network or the masks it learned from

    @property
    def row(self) -> str:
        """Its name in Table 1, "Dual + CARB", or in Tables 2 to 4, "CLIP-ES"."""
        if self.stage == "supervised":
            return SUPERVISED
        if self.method:
            return self.method + " + CARB" * (self.stage == "carb")
        if self.stage in METHODS:
            return self.stage
        name = VIEWS[self.config.views]
        if self.stage == "carb":
            return f"{name} + CARB"
        return f"{name}, the warm-up alone" if self.config.carb else name


def read_scored_runs(runs: Iterable[Run], suites: Iterable[Suite]) -> list[ScoredRun]:
    """Each score of each network that was scored after its last step, once.

    Runs of a suite count only if their folders exist: a table needs their settings.
    """
    found = []
    for suite in suites:
        for name, row in suite.content["rows"].items():
            if row["stage"] not in (*TITLES, *PREDICTS):
                continue  # masks
            method = _method_of(name, suite.content["rows"])
            for seed, metrics in row["metrics"].items():
                folder = suite.run_folder(name, seed)
                if (folder / "config.yaml").is_file():
                    stage = read_stage(folder)
                    scores = [metrics, *stage.scores.values()]  # other splits than the suite's too
                    one = f"{suite.label}: {name}", row["stage"], folder, stage.config
                    found += [ScoredRun(*one, metrics, method) for metrics in scores]
    found += [
        ScoredRun(run.label, name, stage.folder, stage.config, metrics)
        for run in runs
        for name, stage in run.stages.items()
        for metrics in stage.scores.values()
    ]
    once: dict[tuple[Path, str], ScoredRun] = {}
    for run in filter(_is_complete, found):
        how = json.dumps([run.metrics.get(key) for key in ("split", "num_images", "inference")])
        once.setdefault((run.folder.resolve(), how), run)
    return list(once.values())


def _method_of(name: str, rows: dict[str, dict[str, Any]]) -> str:
    """The paper's name of the method that made a row or its masks; "" for others.

    With the options and settings of its row: a network's config does not hold those of its masks.
    """
    row = rows[rows[name].get("learns_from") or name]
    if row["stage"] not in PAPERS_NAMES:
        return ""
    options = [str(one) for one in row.get("options", []) if one != SAVE_CAMS]
    settings = [f"{key}={value}" for key, value in row.get("settings", {}).items()]
    maps = [f"on {row['cams']}"] * (row["stage"] == "psa" and bool(row.get("cams")))
    return " ".join([PAPERS_NAMES[row["stage"]], *options, *settings, *maps])


def by_settings(runs: Iterable[ScoredRun]) -> list[dict[str, list[ScoredRun]]]:
    """Groups of runs that differ only in the seed and were scored in the same way, by split."""
    found: dict[str, dict[str, list[ScoredRun]]] = {}
    ignored = keys_of(UPKEEP) | {"seed"}
    for run in runs:
        # Where the masks of a method lie depends on the seed.
        left = ignored | keys_of(PLACE) if run.method else ignored
        values = {k: v for k, v in run.config.to_dict().items() if k not in left}
        how = [run.metrics.get(key) for key in ("inference", "resize_to")]
        # The config doesn't hold the options of a method.
        label = run.label if run.method else str(run.folder) * (run.stage in METHODS)
        group = found.setdefault(json.dumps([run.stage, values, how, label]), {})
        group.setdefault(str(run.metrics.get("split")), []).append(run)
    return list(found.values())


def scores_over_seeds(runs: Iterable[ScoredRun]) -> dict[str, Mean]:
    """Means by heading of MEASURES, in percent."""
    return means_of([scores_of(run.metrics) for run in runs])


def differences(config: Config) -> tuple[str, dict[str, Any]]:
    """The nearest shipped config of the data set, and the keys in which `config` differs."""
    flat, found = flatten(config.to_dict()), []
    for name, shipped in _shipped(config.dataset).items():
        keys = changed(flatten(shipped), flat, _NEUTRAL)
        found.append((name, {key: flat[key] for key in keys}))
    if not found:
        return "", {k: v for k, v in flat.items() if k not in _NEUTRAL}
    return min(found, key=lambda pair: len(pair[1]))


def exclusion_reason(run: ScoredRun) -> str:
    """Why a run is not comparable with the paper's tables; "" if it is."""
    c, metrics = run.config, run.metrics
    images = PAPER["images"].get(c.dataset, {})
    split, number = metrics.get("split"), metrics.get("num_images")
    if not images:
        return "another data set"
    uses_masks = run.stage in ("warmup", "carb") and not run.method  # of CLIP
    uses_clip = uses_masks or run.method in [PAPERS_NAMES[one] for one in READS_CLIP]
    tables = (t for name, t in PAPER.items() if name.startswith("table"))
    papers = {row for t in tables if t["dataset"] == c.dataset for row in t["rows"]}
    inference = metrics.get("inference", {})
    swept = ", ".join(key for key in _SWEPT if key in differences(c)[1])
    reasons = {
        "another method": (bool(run.method) or run.stage in METHODS) and run.row not in papers,
        "the miniature CLIP": uses_clip and is_miniature(c.clip_model),
        "masks not known to be CLIP's": uses_masks and not _has_clip_masks(c),
        "another teacher": uses_masks and any(t != _PAPERS_TEACHER for t in _teachers(c)),
        "another backbone": c.backbone not in ("resnet50", "resnet50_v1c"),
        "no or partial ImageNet weights": c.backbone_weights is None or c.backbone_weights_partial,
        f"{number} images, the split '{split}' has {images.get(split)}": number
        != images.get(split),
        "several scales, flips or windows": bool(inference.get("flip") or inference.get("window"))
        or inference.get("scales", [1.0]) != [1.0],
        "the warm-up alone": run.stage == "warmup" and c.carb,
        f"{_SWEEP} {swept}": uses_masks and bool(swept),
    }
    return "; ".join(reason for reason, holds in reasons.items() if holds)


def is_a_sweep(reason: str) -> bool:
    """Whether a sweep is the only reason to keep a run out of the paper's tables."""
    return reason.startswith(_SWEEP) and ";" not in reason


def _is_complete(run: ScoredRun) -> bool:
    if run.stage in PREDICTS:
        return True  # they are made when it is trained
    warmup = run.stage == "warmup" and run.config.carb
    end = run.config.warmup_steps if warmup else run.config.steps
    return run.metrics.get("step") == end


def _teachers(config: Config) -> list[TeacherSettings]:
    """The teachers whose masks a run is trained on."""
    in_step = [dataclasses.replace(config.teacher, stored=None)] * (config.views != "base")
    return in_step + [config.stored_teacher] * (config.views != "dual")


def _has_clip_masks(config: Config) -> bool:
    """Whether the masks are made by a full-size CLIP: at every step, or by gen_clip_masks.py."""
    if config.views == "dual":
        return True
    meta = Path(config.pseudo_masks or "") / "meta.json"
    try:
        made = parse_json(meta.read_text(encoding="utf-8"))
        is_clips = "method" not in made.get("made_from", {})
        return is_clips and not is_miniature(made["config"]["clip_model"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


@cache
def _shipped(dataset: str) -> dict[str, dict[str, Any]]:
    names = [f"configs/{folder}{dataset}.yaml" for folder in ("", "official/", "strong/")]
    return {name: load_config(ROOT / name).to_dict() for name in names if (ROOT / name).is_file()}
