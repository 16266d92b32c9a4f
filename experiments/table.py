"""Scores of the runs of experiments/ablation.py, and the files with their tables."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from datasets.mask_folder import COST
from experiments.numbers import difference, scores_of, suite_tables, summary
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

Scored = dict[str, dict[int, dict[str, Any]]]  # metrics.json by row and seed


def read_scored(suite: Suite, row: Row, seed: int, out: Path) -> dict[str, Any] | None:
    """metrics.json of a run; None until the run is complete and its last.pt is scored.

    Of a row of masks: score.json, with cost.json as "cost". Raises InputError when the folder holds
    a run with other settings; of masks only those count that decide them. Unlike for resuming, file
    names count as settings: otherwise the table might mix data sets.
    """
    settings = _of_masks if row.stage == "masks" else _of_run
    config, folder = suite.config_of(row, seed), out / row.folder(seed)
    if row.stage == "masks":
        metrics, last = folder / "score.json", folder / "meta.json"
        saved = read_json(last).get("config") if last.is_file() else None
        old = config_from_dict(saved, str(last)) if isinstance(saved, dict) else None
    else:
        metrics, last = folder / f"eval_{suite.split}" / "metrics.json", folder / "last.pt"
        saved = folder / "config.yaml"
        made = saved.is_file() and (metrics.is_file() or any(folder.glob("*.pt")))
        old = load_config(saved) if made else None
    if old is not None:
        other = changed(settings(old), settings(config))
        if other:
            raise InputError(
                f"{folder} holds a run with other settings ({listed(other)}); choose another "
                "--out, or remove that folder to run it again"
            )
    stale = last.is_file() and metrics.is_file() and last.stat().st_mtime > metrics.stat().st_mtime
    if stale or not metrics.is_file():
        return None
    content = read_json(metrics)
    if row.stage == "masks":
        cost = folder / COST
        return content | ({"cost": read_json(cost)} if cost.is_file() else {})
    return content if content.get("step") == config.steps else None


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
    first: dict[bool, tuple[Path, dict[str, Any]]] = {}  # of masks, of networks
    names = [path.name.rpartition("_") for path in out.glob("*")]
    for row in suite.rows.values():
        seeds = sorted(int(n) for name, _, n in names if name == row.slug and n.isdecimal())
        for seed in [0] if row.stage == "masks" else seeds:
            cell, folder = read_scored(suite, row, seed, out), out / row.folder(seed)
            if cell is None:
                continue
            scored[row.name][seed] = cell
            how = {key: cell.get(key) for key in ("num_images", "inference", "resize_to")}
            one, usual = first.setdefault(row.stage == "masks", (folder, how))
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
        | summary({str(seed): scores_of(cell) for seed, cell in cells.items()})
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
            title: {f"{a} − {b}": difference(rows[a]["seeds"], rows[b]["seeds"]) for a, b in pairs}
            for title, pairs in suite.contrasts.items()
        },
        "commit": git("rev-parse", "HEAD"),
        "versions": versions(),
    }
    text = f"{_heading(suite, scored)}\n\n{suite_tables(content)}"
    with replacing(out / "ablation.md") as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    write_json(out / "ablation.json", content)
    return text


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
    )
