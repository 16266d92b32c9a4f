"""Head of the page: the scores of the runs, how each was trained, and where its network is."""

import shlex
from datetime import datetime
from pathlib import Path
from typing import Any

from datasets import open_dataset
from experiments.figures.classes import check
from experiments.figures.commands import not_evaluated
from experiments.figures.qualitative import pseudo_masks
from experiments.figures.runs import Run
from experiments.figures.style import Figure, markdown, save_data
from experiments.numbers import percent, scores_of
from utils.safe.errors import InputError
from utils.safe.files import read_json


def draw(runs: list[Run], split: str, out: Path) -> list[Figure]:
    """Tables of the scores on `split` and of how each run was trained."""
    scores: dict[str, dict[str, Any]] = {}
    labels = [run.label.replace("|", "\\|") for run in runs]
    for run, label in zip(runs, labels, strict=True):
        named = f"{label}: " * (len(runs) > 1)
        scores |= {named + title: found for title, found in scored(run, split).items()}
    rows = [
        [title, found.get("step", "-"), *map(percent, scores_of(found).values())]
        for title, found in scores.items()
    ]
    facts = [facts_of(run) for run in runs]
    tables = [
        markdown(["mIoU, %", "steps", "all", "small", "large"], rows),
        markdown(
            ["run", *labels],
            [[key, *(fact[key] for fact in facts)] for key in facts[0]],
        ),
        *filter(None, (change(run, split) for run in runs[:1])),
    ]
    numbers = {str(found["num_images"]) for found in scores.values() if "num_images" in found}
    caption = (
        f"On {' or '.join(sorted(numbers)) or 'the'} images of '{split}'. Small classes: those "
        "that the class file marks as small; large: all others. The pseudo-masks are made with "
        "each image's labels, the networks get the image only."
    )
    missing = tuple(
        not_evaluated(run.last, split, "the score") for run in runs if split not in run.last.scores
    )
    title = f"Result of {runs[0].label}" if len(runs) == 1 else "Results"
    values = {title: scores_of(found) for title, found in scores.items()}
    data = save_data(out, "summary", {"split": split, "scores": values})
    return [Figure("summary", title, caption, (), data, tuple(tables), missing)]


def scored(run: Run, split: str) -> dict[str, dict[str, Any]]:
    """Title -> metrics.json of each stage ({} if not scored); the pseudo-masks come first."""
    found = {}
    masks = pseudo_masks(run, split)[0]
    if "supervised" not in run.stages and (masks.folder / "score.json").is_file():
        found[masks.title] = read_json(masks.folder / "score.json")
    return found | {title: stage.scores.get(split, {}) for title, stage in run.titled.items()}


def change(run: Run, split: str) -> str:
    """The classes that gain and lose most from CARB; empty unless both stages were scored."""
    ious = []
    for name in ("warmup", "carb"):
        if "classes" not in (run.stages[name].scores.get(split, {}) if name in run.stages else {}):
            return ""
        check(run.stages[name], split)
        classes = run.stages[name].scores[split]["classes"]
        ious.append({key: 100 * v["iou"] for key, v in classes.items() if v["iou"] is not None})
    gains = sorted((ious[1][key] - ious[0][key], key) for key in ious[0] if key in ious[1])
    gains = [(gain, key) for gain, key in gains if f"{abs(gain):.1f}" != "0.0"]
    most = [*reversed(gains[-3:]), *gains[:3]] if len(gains) > 5 else gains[::-1]
    shown = ", ".join(f"{key} {gain:+.1f}" for gain, key in most)
    return f"IoU of CARB minus IoU of the warm-up, which took fewer steps: {shown}."


def facts_of(run: Run) -> dict[str, str]:
    """How the last stage was trained: name of a fact -> its value, as Markdown."""
    stage, config = run.last, run.last.config
    reached = max((line["step"] for line in run.log or stage.log), default=0)
    steps = f"{reached} of {config.steps}" if reached < config.steps else f"{config.steps}"
    steps += f", the first {config.warmup_steps} as warm-up" * ("carb" in run.stages)
    try:
        number = len(open_dataset(config.dataset, config.data_root).images(config.train_split))
        images = f"{number} images of '{config.train_split}' in {config.data_root}"
    except InputError:  # a run from another machine
        images = f"{config.data_root} (not here)"
    git = stage.folder / "git.txt"
    commit, _, changes = (git.read_text("utf-8", "replace") if git.is_file() else "").partition(
        "\n"
    )
    ended = datetime.fromtimestamp((stage.folder / "metrics.jsonl").stat().st_mtime)
    command = shlex.join(["python", "predict.py", "--ckpt", str(stage.checkpoint), "IMAGES"])
    facts = {
        "data": images,
        "steps": steps,
        "seed": str(config.seed),
        "trained until": f"{ended:%Y-%m-%d %H:%M}",
        "commit": (commit[:10] or "unknown") + " with changes" * bool(changes.strip()),
        "network": f"`{stage.checkpoint}`" if stage.checkpoint.is_file() else "not here",
        "on your images": f"`{command} --out FOLDER`",
    }
    return {key: value.replace("|", "\\|") for key, value in facts.items()}
