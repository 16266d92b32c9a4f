"""The numbers of tools/ablation.py's runs: which are there, their differences, mean and spread."""

import json
import statistics
from pathlib import Path
from typing import Any

from tools.ablation_suite import Suite
from utils.config import Config, load_config
from utils.errors import InputError
from utils.runlog import changed_settings

# Column heading of a mean IoU -> its key in metrics.json; a data set may have no small classes.
MEASURES = {"mIoU": "miou", "small": "miou_small", "large": "miou_large"}

Figures = dict[str, float | None]  # by heading, in percent
Scored = dict[str, dict[int, dict[str, Any]]]  # metrics.json by row and seed


def metrics_path(folder: Path, split: str) -> Path:
    """Where eval.py puts a run's numbers."""
    return folder / f"eval_{split}" / "metrics.json"


def score_path(out: Path, split: str) -> Path:
    """Where gen_clip_masks.py puts the masks' numbers."""
    return out / f"pseudo_masks_{split}" / "score.json"


def read_scored(folder: Path, split: str, config: Config) -> dict[str, Any] | None:
    """metrics.json of a run, None until it has all steps and the scores are of its last.pt.

    Raises InputError when the folder holds a run of other settings than `config`.
    """
    metrics, saved, last = metrics_path(folder, split), folder / "config.yaml", folder / "last.pt"
    if saved.is_file() and (metrics.is_file() or any(folder.glob("*.pt"))):
        changed = changed_settings(load_config(saved).to_dict(), config)
        if changed:
            raise InputError(
                f"{folder} holds a run with other settings ({changed}); choose another --out, or "
                "remove that folder to run it anew"
            )
    if not metrics.is_file():
        return None
    if last.is_file() and metrics.stat().st_mtime < last.stat().st_mtime:
        return None
    content = read_json(metrics)
    return content if content.get("step") == config.steps else None


def collect(suite: Suite, out: Path) -> Scored:
    """Every scored run of the suite in `out`, of whatever seed.

    Raises InputError when two were scored on other pictures or in another way.
    """
    scored: Scored = {}
    for row in suite.rows.values():
        names = [path.name.rpartition("_") for path in out.glob("*")]
        seeds = sorted(int(n) for name, _, n in names if name == row.slug and n.isdecimal())
        cells = {
            seed: read_scored(out / f"{row.slug}_{seed}", suite.split, suite.config_of(row, seed))
            for seed in seeds
        }
        scored[row.name] = {seed: cell for seed, cell in cells.items() if cell}
    _check_comparable(scored)
    return scored


def figures(metrics: dict[str, Any]) -> Figures:
    """The mean IoUs of a metrics.json or score.json, None where it has none."""
    values = {heading: metrics.get(key) for heading, key in MEASURES.items()}
    return {heading: None if v is None else 100 * v for heading, v in values.items()}


def differences(
    cells: dict[int, dict[str, Any]], minus: dict[int, dict[str, Any]]
) -> dict[int, Figures]:
    """Row less row, for the seeds that both have."""
    result = {}
    for seed in sorted(cells.keys() & minus.keys()):
        a, b = figures(cells[seed]), figures(minus[seed])
        result[seed] = {
            key: None if a[key] is None or b[key] is None else a[key] - b[key] for key in MEASURES
        }
    return result


def summary(by_seed: dict[int, Figures]) -> dict[str, Any]:
    """{"seeds": by_seed, "mean": .., "std": ..}; std is the sample's, None for a single seed."""
    mean: Figures = {}
    std: Figures = {}
    for key in MEASURES:
        values = [f[key] for f in by_seed.values() if f[key] is not None]
        mean[key] = statistics.mean(values) if values else None
        std[key] = statistics.stdev(values) if len(values) > 1 else None
    return {"seeds": by_seed, "mean": mean, "std": std}


def _check_comparable(scored: Scored) -> None:
    """Raises InputError when two runs were scored on other pictures or in another way."""
    first = None
    for name, cells in scored.items():
        for seed, cell in cells.items():
            how = {key: cell.get(key) for key in ("num_images", "inference", "resize_to")}
            first = first or (name, seed, how)
            changed = [key for key in how if how[key] != first[2][key]]
            if changed:
                raise InputError(
                    f"{name}, seed {seed}, and {first[0]}, seed {first[1]}, were scored with other "
                    f"{', '.join(changed)}; remove the eval folder of one and run again"
                )


def read_json(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError):
        raise InputError(f"{path} can't be read; remove it and run again") from None
