"""Scores of the runs of experiments/ablation.py, and the files with their tables."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from datasets.mask_writer import COST
from experiments.jobs import RECORD
from experiments.methods import METHODS
from experiments.numbers import (
    Scores,
    difference,
    scores_of,
    scores_of_method,
    suite_tables,
    summary,
)
from experiments.suite_file import Row, Suite, as_arguments
from utils.checkpoint import versions
from utils.config import UPKEEP, Config, config_from_dict, flatten, keys_of, load_config
from utils.made_from import changed, listed
from utils.run_folder import git
from utils.safe.errors import InputError
from utils.safe.files import read_json, replacing, write_json

_OF_MASKS = (  # beginnings of keys
    *("dataset", "data_root", "class_file", "image_labels", "image_size"),
    *("clip_model", "clip_text", "prompt_templates", "teacher."),
    *("arithmetic.clip_", "arithmetic.key_smoothing_norm", "arithmetic.label_filter"),
)

_OF_METHODS = (
    " Masks of a method: made with each image's labels; pixels that a mask leaves without a label "
    "are in no score but the share 'labelled'; precision and recall are means over the classes; "
    "the best mIoU is that of a threshold chosen on the scored images themselves, which shows what "
    "the fixed one loses and is no result."
)

Scored = dict[str, dict[int, dict[str, Any]]]  # metrics.json by row and seed


def read_scored(suite: Suite, row: Row, seed: int, out: Path) -> dict[str, Any] | None:
    """metrics.json of a run; None until the run is complete and its last.pt is scored.

    Of a row of masks: score.json, with cost.json as "cost". Raises InputError when the folder holds
    a run with other settings or options; of CLIP's masks only those settings count that decide
    them. Unlike for resuming, file names count: otherwise the table might mix data sets.
    """
    config, folder = suite.config_of(row, seed), out / row.folder(seed)
    metrics, last = folder / f"eval_{suite.split}" / "metrics.json", folder / "last.pt"
    if row.stage == "masks":
        metrics, last = folder / "score.json", folder / "meta.json"
    elif row.is_masks:
        metrics = folder / f"masks_{suite.split}" / "score.json"
    record = record_of(suite, row, seed)
    if row.stage == "masks":
        saved = read_json(last).get("config") if last.is_file() else None
        old = config_from_dict(saved, str(last)) if isinstance(saved, dict) else None
        other = changed(_of_masks(old), _of_masks(config)) if old else {}
    else:
        parts = ("*.pt", "*/*.pt", "masks_*/meta.json")  # of methods with several trainings or none
        made = metrics.is_file() or any(path for part in parts for path in folder.glob(part))
        other = _other_settings(config, folder, record) if made else {}
    if other:
        raise InputError(
            f"{folder} holds a run with other settings ({listed(other)}); choose another "
            "--out, or remove that folder to run it again"
        )
    stale = last.is_file() and metrics.is_file() and last.stat().st_mtime > metrics.stat().st_mtime
    if stale or not metrics.is_file() or (record and not (folder / RECORD).is_file()):
        return None
    content = read_json(metrics)
    if row.is_masks:
        cost = metrics.with_name(COST)
        return content | ({"cost": read_json(cost)} if cost.is_file() else {})
    return content if content.get("step") == config.steps else None


def record_of(suite: Suite, row: Row, seed: int) -> dict[str, Any]:
    """What decides a run of a method or of a second stage; empty for others, whose folder says."""
    if not row.of_method:
        return {}
    made_by = {"method": row.stage, "options": list(row.options), "learns_from": row.learns_from}
    made_by |= {"cams": row.cams} if row.cams else {}
    made_by |= {"needs": needs} if (needs := _needed(suite, row)) else {}
    return made_by | {"config": suite.config_of(row, seed).to_dict()}


def _needed(suite: Suite, row: Row) -> dict[str, Any]:
    """What makes the masks and maps that a row learns from: a row of the same name may change."""
    rows = {name: suite.rows[name] for name in row.needs}
    return {
        name: {"method": one.stage, "options": list(one.options), "settings": one.settings}
        | {"needs": _needed(suite, one)}
        for name, one in rows.items()
    }


def _other_settings(config: Config, folder: Path, record: dict[str, Any]) -> dict[str, str]:
    """The settings of the run in the folder that are others than those of `config` or `record`."""
    file = folder / (RECORD if record else "config.yaml")
    if not file.is_file():
        return {}
    if not record:
        return _changed_of_run(load_config(file), config)
    old = read_json(file)
    ignored = {"config"} | ({"needs"} - old.keys())  # earlier records have none
    settings = config_from_dict(old.get("config", {}), str(file))
    return changed(old, record, ignored) | _changed_of_run(settings, config)


def _changed_of_run(old: Config, config: Config) -> dict[str, str]:
    """What differs in `config`, where `precision: auto` may be what the run's device made of it."""
    return changed(_of_run(old), _of_run(config.resolved_like(old)))


def _of_run(config: Config) -> dict[str, Any]:
    return {k: v for k, v in flatten(config.to_dict()).items() if k not in keys_of(UPKEEP)}


def _of_masks(config: Config) -> dict[str, Any]:
    """The settings that decide the masks of gen_clip_masks.py, see `build_mask_record`."""
    flat = flatten(replace(config, teacher=config.stored_teacher).to_dict())
    return {k: v for k, v in flat.items() if k.startswith(_OF_MASKS)}


def collect(suite: Suite, out: Path) -> Scored:
    """Every scored run of the suite in `out`, with any seed.

    Raises InputError when a run has other settings, or when two runs were scored on different
    images or with different options.
    """
    scored: Scored = {row: {} for row in suite.rows}
    first: dict[tuple[bool, bool], tuple[Path, dict[str, Any]]] = {}  # of masks?, of a method?
    names = [path.name.rpartition("_") for path in out.glob("*")]
    for row in suite.rows.values():
        seeds = sorted(int(n) for name, _, n in names if name == row.slug and n.isdecimal())
        for seed in [0] if row.seedless else seeds:
            cell, folder = read_scored(suite, row, seed, out), out / row.folder(seed)
            if cell is None:
                continue
            scored[row.name][seed] = cell
            how = {key: cell.get(key) for key in ("num_images", "inference")}
            if row.stage not in METHODS:  # a method may see images at a size of its own
                how["resize_to"] = cell.get("resize_to")
            one, usual = first.setdefault((row.is_masks, row.stage in METHODS), (folder, how))
            other = listed(changed(usual, how))
            if other:
                raise InputError(
                    f"{folder} and {one} were scored in different ways ({other}); remove the "
                    "eval folder of one and run again"
                )
    return scored


def write_tables(suite: Suite, out: Path, command: str) -> str:
    """Write OUT/ablation.json and OUT/ablation.md, whose text is returned.

    Every scored run of the suite in `out` counts, not only the rows and seeds asked for now.
    """
    scored = collect(suite, out)
    score = out / f"pseudo_masks_{suite.split}" / "score.json"
    rows = {
        name: asdict(suite.rows[name])
        | summary({str(seed): _scores(suite.rows[name], cell) for seed, cell in cells.items()})
        | {"metrics": cells}
        for name, cells in scored.items()
    }
    content = {
        "command": command,
        "suite": suite.path,
        "config": suite.config,
        "settings": suite.settings,
        "split": suite.split,
        "rows": rows,
        "pseudo_masks": read_json(score) if score.is_file() else None,
        "contrasts": {
            title: {f"{a} − {b}": _difference(suite, rows, a, b) for a, b in pairs}
            for title, pairs in suite.contrasts.items()
        },
        "by_class": suite.by_class,
        "against": suite.against,
        "commit": git("rev-parse", "HEAD"),
        "versions": versions(),
    }
    text = f"{_heading(suite, scored)}\n\n{suite_tables(content)}"
    with replacing(out / "ablation.md") as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    write_json(out / "ablation.json", content)
    return text


def _difference(suite: Suite, rows: dict[str, Any], a: str, b: str) -> dict[str, Any]:
    """Row a minus row b; what has no seed stands beside each seed of the other."""
    seeds = rows[a]["seeds"], rows[b]["seeds"]
    alone = [suite.rows[name].seedless for name in (a, b)]
    if alone[0] != alone[1] and all(seeds):
        one, other = seeds[alone.index(True)], seeds[alone.index(False)]
        same = dict.fromkeys(other, next(iter(one.values())))
        seeds = (same, other) if alone[0] else (other, same)
    return difference(*seeds)


def _scores(row: Row, metrics: dict[str, Any]) -> Scores:
    of_method = row.is_masks and row.stage in METHODS
    return scores_of_method(metrics) if of_method else scores_of(metrics)


def _heading(suite: Suite, scored: Scored) -> str:
    """A sentence or two that say what the numbers are."""
    settings = ", ".join(as_arguments(suite.settings)[1::2])
    cells = [cell for by_seed in scored.values() for cell in by_seed.values()]
    images = cells[0]["num_images"] if cells else "?"
    data = f"{suite.config}{f' with {settings}' if settings else ''}; split {suite.split}"
    trained = [row for row in suite.rows.values() if row.stage != "masks"]
    if not trained:
        return f"{data} ({images} images). mIoU in percent of masks made with each image's labels."
    seeds = sorted({seed for row in trained for seed in scored[row.name]})
    return (
        f"{data} ({images} images); {suite.config_of(trained[0], 0).steps} steps for every row; "
        f"seeds {', '.join(map(str, seeds)) or 'none yet'}. "
        "mIoU in percent: mean ± sample standard deviation over the seeds, then of each seed."
        + _OF_METHODS
        * any(row.is_masks and row.stage in METHODS for row in trained)
    )
