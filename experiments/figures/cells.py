"""The scored networks of run folders and suites, and which may stand beside the paper's numbers."""

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from experiments.figures.runs import Run, Suite, read_stage
from experiments.numbers import mean_std
from experiments.suite_file import Row
from utils.config import PLACE, SPEED, UPKEEP, Config, flatten, keys_of, load_config
from utils.made_from import changed
from utils.safe.files import parse_json
from utils.safe.yaml_file import read_yaml

ROOT = Path(__file__).resolve().parent.parent.parent
PAPER: dict[str, Any] = read_yaml(ROOT / "experiments" / "paper.yaml")
SUPERVISED = "Supervised (upper bound)"
VIEWS = {"base": "Base", "local": "Local", "dual": "Dual"}
# What the paper's sweeps change, and with it the method: not a row of its tables.
_SWEPT = ("patch_size", "local_resize", "region_weight")
_SWEEP = "a sweep over"
# Where files lie and how a run is carried out; what a row's name says already.
_NEUTRAL = keys_of(PLACE, SPEED, UPKEEP) - {"class_file"} | {"seed", "views", "carb"}


class Cell(NamedTuple):
    """A network and its metrics.json."""

    label: str  # "demo", or "demo_ablation: Base + CARB"
    stage: str
    folder: Path  # of the run
    config: Config
    metrics: dict[str, Any]

    @property
    def row(self) -> str:
        """What it is called in Table 1: "Dual + CARB"."""
        if self.stage == "supervised":
            return SUPERVISED
        name = VIEWS[self.config.views]
        if self.stage == "carb":
            return f"{name} + CARB"
        return f"{name}, the warm-up alone" if self.config.carb else name


def read_cells(runs: Iterable[Run], suites: Iterable[Suite]) -> list[Cell]:
    """Each score of each network once, of those that were scored when they had all their steps.

    A suite's runs count where their folders are there: a table needs their settings.
    """
    cells = []
    for suite in suites:
        for name, row in suite.content["rows"].items():
            for seed, metrics in row["metrics"].items():
                folder = suite.folder / Row(name, row["stage"], {}).folder(int(seed))
                if (folder / "config.yaml").is_file():
                    stage = read_stage(folder)
                    label = f"{suite.label}: {name}"
                    scores = [metrics, *stage.scores.values()]  # other splits than the suite's too
                    cells += [Cell(label, row["stage"], folder, stage.config, m) for m in scores]
    cells += [
        Cell(run.label, stage, found.folder, found.config, metrics)
        for run in runs
        for stage, found in run.stages.items()
        for metrics in found.scores.values()
    ]
    once: dict[tuple[Path, str], Cell] = {}
    for cell in filter(_is_complete, cells):
        once.setdefault((cell.folder.resolve(), _scored(cell)), cell)
    return list(once.values())


def by_settings(cells: Iterable[Cell]) -> list[dict[str, list[Cell]]]:
    """The runs of equal settings but for the seed, scored in the same way: by split."""
    found: dict[str, dict[str, list[Cell]]] = {}
    for cell in cells:
        ignored = keys_of(UPKEEP) | {"seed"}
        values = {k: v for k, v in cell.config.to_dict().items() if k not in ignored}
        how = [cell.metrics.get(key) for key in ("inference", "resize_to")]
        group = found.setdefault(json.dumps([cell.stage, values, how]), {})
        group.setdefault(str(cell.metrics.get("split")), []).append(cell)
    return list(found.values())


def mean_of(cells: Iterable[Cell], key: str = "miou") -> tuple[float | None, float | None]:
    """Mean and sample standard deviation in percent."""
    values = (cell.metrics.get(key) for cell in cells)
    return mean_std(None if value is None else 100 * value for value in values)


def differences(config: Config) -> tuple[str, dict[str, Any]]:
    """The shipped config of the data set that is nearest, and what `config` has otherwise."""
    flat, found = flatten(config.to_dict()), []
    for name, shipped in _shipped(config.dataset).items():
        keys = (text.partition(":")[0] for text in changed(flatten(shipped), flat, _NEUTRAL))
        found.append((name, {key: flat[key] for key in keys}))
    if not found:
        return "", {k: v for k, v in flat.items() if k not in _NEUTRAL}
    return min(found, key=lambda pair: len(pair[1]))


def why_not(cell: Cell) -> str:
    """Why it may not stand in the paper's tables; empty where it may."""
    c, metrics = cell.config, cell.metrics
    images = PAPER["images"].get(c.dataset, {})
    split, number = metrics.get("split"), metrics.get("num_images")
    if not images:
        return "another data set"
    uses_masks = cell.stage != "supervised"
    inference = metrics.get("inference", {})
    swept = ", ".join(key for key in _SWEPT if key in differences(c)[1])
    reasons = {
        "the miniature CLIP": uses_masks and is_miniature(c.clip_model),
        "masks not known to be CLIP's": uses_masks and not _has_clip_masks(c),
        "another backbone": c.backbone not in ("resnet50", "resnet50_v1c"),
        "no or partial ImageNet weights": c.backbone_weights is None or c.backbone_weights_partial,
        f"{number} images, the split '{split}' has {images.get(split)}": number
        != images.get(split),
        "several scales, flips or windows": bool(inference.get("flip") or inference.get("window"))
        or inference.get("scales", [1.0]) != [1.0],
        "the warm-up alone": cell.stage == "warmup" and c.carb,
        f"{_SWEEP} {swept}": uses_masks and bool(swept),
    }
    return "; ".join(reason for reason, holds in reasons.items() if holds)


def is_a_sweep(reason: str) -> bool:
    """Whether that is all that keeps a run out of the paper's tables."""
    return reason.startswith(_SWEEP) and ";" not in reason


def _scored(cell: Cell) -> str:
    """What was scored and how, as text."""
    return json.dumps([cell.metrics.get(k) for k in ("split", "num_images", "inference")])


def _is_complete(cell: Cell) -> bool:
    warmup = cell.stage == "warmup" and cell.config.carb
    end = cell.config.warmup_steps if warmup else cell.config.steps
    return cell.metrics.get("step") == end


def _has_clip_masks(config: Config) -> bool:
    """Made at every step, or lying in a folder that gen_clip_masks.py wrote with another CLIP."""
    if config.views == "dual":
        return True
    meta = Path(config.pseudo_masks or "") / "meta.json"
    try:
        made = parse_json(meta.read_text(encoding="utf-8"))
        return not is_miniature(made["config"]["clip_model"])
    except (OSError, ValueError, KeyError, TypeError):
        return False


def is_miniature(clip_model: str) -> bool:
    return Path(clip_model).parts[-2:] in (
        ("weights", "clip.pt"),
        ("miniature", "clip.pt"),  # where it lay before
    )


@cache
def _shipped(dataset: str) -> dict[str, dict[str, Any]]:
    names = [f"configs/{dataset}.yaml", f"configs/official/{dataset}.yaml"]
    return {name: load_config(ROOT / name).to_dict() for name in names if (ROOT / name).is_file()}
