"""The tables of tools/ablation.py."""

import math
import platform
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import torch

from tools.ablation_queue import script_command
from tools.ablation_results import (
    MEASURES,
    Figures,
    Scored,
    collect,
    differences,
    figures,
    read_json,
    score_path,
    summary,
)
from tools.ablation_suite import Suite
from utils.files import replacing, write_json
from utils.runlog import git

MASKS = "CLIP's pseudo-masks"


def write_tables(
    suite: Suite,
    out: Path,
    seeds: list[int],
    again: list[str],
    commands: dict[str, list[list[str]]],
) -> str:
    """Write OUT/ablation.json and OUT/ablation.md, whose text is returned.

    Every scored run of the suite in `out` counts, whichever rows and seeds were asked for now.
    `again`: this program's command for all rows; `commands`: of the jobs of this call.
    """
    scored = collect(suite, out)
    columns = sorted({*seeds, *(seed for cells in scored.values() for seed in cells)})
    score = score_path(out, suite.split)
    masks = read_json(score) if score.is_file() else None

    rows = {
        name: summary({seed: figures(cell) for seed, cell in cells.items()})
        for name, cells in scored.items()
    }
    contrasts = {
        title: [
            {"row": a, "minus": b} | summary(differences(scored[a], scored[b])) for a, b in pairs
        ]
        for title, pairs in suite.contrasts.items()
    }
    text = "\n".join(
        [
            _heading(suite, scored),
            "",
            *_row_table(rows, masks and figures(masks), columns, again),
            *(
                line
                for title, lines in contrasts.items()
                for line in ("", f"**{title}**", "", *_contrast_table(lines, columns, again))
            ),
        ]
    )
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "ablation.md") as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")
    write_json(
        out / "ablation.json",
        {
            "command": shlex.join(again),
            "suite": suite.path,
            "config": suite.config,
            "set": suite.settings,
            "split": suite.split,
            "rows": {
                name: {
                    "stage": suite.rows[name].stage,
                    "settings": suite.rows[name].settings,
                    **rows[name],
                    "metrics": cells,
                    "commit": {seed: _commit(out, suite, name, seed) for seed in cells},
                }
                for name, cells in scored.items()
            },
            "pseudo_masks": masks,
            "contrasts": contrasts,
            "job_commands": {
                name: [script_command(command) for command in job] for name, job in commands.items()
            },
            "commit": git("rev-parse", "HEAD"),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "machine": platform.platform(),
            },
        },
    )
    return text


def _row_table(
    rows: dict[str, dict[str, Any]], masks: Figures | None, columns: list[int], again: list[str]
) -> list[str]:
    lines = _header(["row", "seeds", *MEASURES, *(f"seed {seed}" for seed in columns)])
    if masks:
        cells = [_percent(masks[key]) for key in MEASURES]
        lines.append(_line([MASKS, "-", *cells, *("" for _ in columns)]))
    for name, row in rows.items():
        if row["seeds"]:
            values = [_percent(row["seeds"].get(seed, {}).get("mIoU")) for seed in columns]
            lines.append(_line([name, len(row["seeds"]), *_spread(row), *values]))
        else:
            lines.append(_line([name, 0, f"not run: `{shlex.join([*again, '--rows', name])}`"]))
    return lines


def _contrast_table(
    contrasts: list[dict[str, Any]], columns: list[int], again: list[str]
) -> list[str]:
    headings = ["difference", "seeds", *MEASURES, *(f"seed {seed}" for seed in columns), "sign"]
    lines = _header(headings)
    for line in contrasts:
        name = f"{line['row']} − {line['minus']}"
        if not line["seeds"]:
            command = shlex.join([*again, "--rows", line["row"], line["minus"]])
            lines.append(_line([name, 0, f"not run: `{command}`"]))
            continue
        gains = [line["seeds"].get(seed, {}).get("mIoU") for seed in columns]
        signs = " ".join(_sign(gain) for gain in gains if gain is not None)
        values = [_percent(gain, "+") for gain in gains]
        lines.append(_line([name, len(line["seeds"]), *_spread(line, "+"), *values, signs]))
    return lines


def _heading(suite: Suite, scored: Scored) -> str:
    """What the numbers are, in a sentence or two."""
    config = suite.config_of(next(iter(suite.rows.values())), suite.seeds[0])
    counts = sorted({len(cells) for cells in scored.values() if cells})
    images = {cell.get("num_images") for cells in scored.values() for cell in cells.values()}
    changed = "".join(f", {key}={value}" for key, value in suite.settings.items())
    seeds = " to ".join(map(str, sorted({*counts[:1], *counts[-1:]}))) or "no"
    return (
        f"{suite.config}{changed}; split {suite.split} ({', '.join(map(str, images)) or '?'} "
        f"images), {config.steps} steps of batch {config.batch_size} for every row, "
        f"{seeds} seed{'s' * (seeds != '1')}. "
        "mIoU in percent: mean ± sample standard deviation over the seeds, then seed by seed."
    )


def _commit(out: Path, suite: Suite, name: str, seed: int) -> str | None:
    path = out / f"{suite.rows[name].slug}_{seed}" / "git.txt"
    return path.read_text(encoding="utf-8").partition("\n")[0] if path.is_file() else None


def _header(headings: list[str]) -> list[str]:
    return [_line(headings), "|" + "---|" * len(headings)]


def _line(cells: list[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


def _spread(row: dict[str, Any], sign: str = "") -> list[str]:
    texts = []
    for key in MEASURES:
        mean, std = row["mean"][key], row["std"][key]
        texts.append(_percent(mean, sign) + (f" ± {std:.1f}" if std is not None else ""))
    return texts


def _percent(value: float | None, sign: str = "") -> str:
    return "-" if value is None else f"{value:{sign}.1f}"


def _sign(gain: float) -> str:
    return "0" if math.isclose(gain, 0, abs_tol=1e-9) else "+" if gain > 0 else "−"
