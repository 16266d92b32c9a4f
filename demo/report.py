"""Print the table and write the image at the end of run_demo.sh.

    python -m demo.report runs/demo --split val
    python -m demo.report runs/demo_seeds/seed_* --split val

Reads masks_<split>/score.json, {warmup,carb}/eval_<split> and seconds.tsv of the folder. Prints the
mIoU of the pseudo-masks and of both networks on the same images (Markdown), the classes that gain
and lose from CARB, and what to do next. Writes demo.png: image, ground truth, pseudo-mask and
predictions of a few images. For several folders, one per seed: mean and standard deviation.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import itertools
import shlex
import statistics
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datasets.labels import ClassTable
from experiments.figures.galleries import Column, chosen, compared, open_split, save_gallery
from experiments.numbers import MEASURES, mean_and_spread, scores_of, spread
from utils.cli import path
from utils.config import load_config
from utils.safe.errors import InputError, run_script
from utils.safe.files import read_json

_MASKS = "CLIP pseudo-masks"
_MOST = 3  # classes named as gained or lost
_ALIKE = 75  # RGB distance (0..442) below which two colours look the same in a small image


class Row(NamedTuple):
    """One line of the table."""

    title: str
    scores: dict[str, Any]  # metrics.json or score.json
    masks: Path  # folder of the scored label maps

    @property
    def heading(self) -> str:
        """Title above a column of the image."""
        given = "\ngiven the image's labels" if self.title == _MASKS else ""
        return self.title + given


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", nargs="+", type=path, help="folder of run_demo.sh, or one per seed")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=4, help="rows of demo.png (default: 4)")
    arguments = parser.parse_args(argv)
    if arguments.images < 1:
        parser.error(f"--images must be at least 1, found {arguments.images}")
    split, seeds = arguments.split, [read_rows(Path(run), arguments.split) for run in arguments.run]
    if len(seeds) > 1:
        if len({tuple(row.title for row in rows) for rows in seeds}) > 1:
            raise InputError("the folders have different stages; finish them with run_demo.sh")
        print(f"{table(seeds)}\n\nMean and standard deviation of {len(seeds)} seeds.")
        print(changes(seeds), end="")
        return
    run, rows = Path(arguments.run[0]), seeds[0]
    config = load_config(run / "warmup/config.yaml")
    split_data = open_split(config, split)
    columns = [Column(row.heading, row.masks, row.scores.get("miou")) for row in rows]
    shown = chosen(split_data, arguments.images)
    save_gallery(run / "demo.png", compared(split_data, shown, columns))
    print(f"{table(seeds)}\n\n{notes(rows, split_data.classes, split, config.train_split)}")
    print(f"{changes(seeds)}{seconds(run / 'seconds.tsv')}\n{next_steps(run, split)}")
    print(f"\n{textwrap.fill(f'About demo.png: {caption(shown, split_data.classes)}', 100)}")


def read_rows(run: Path, split: str) -> list[Row]:
    """Pseudo-masks, warm-up and, where it ran, CARB. Raises InputError when a result is missing."""
    masks = run / f"masks_{split}"
    rows = [Row(_MASKS, _read(masks / "score.json"), masks)]
    for stage, title in (("warmup", "warm-up"), ("carb", "CARB")):
        folder = run / stage / f"eval_{split}"
        if stage == "warmup" or (run / stage).exists():
            rows.append(Row(title, _read(folder / "metrics.json"), folder / "predictions"))
    counts = {(row.scores.get("split"), row.scores.get("num_images")) for row in rows}
    if len(counts) > 1:
        raise InputError(
            f"the rows of {run} were scored on different images (split, number: "
            f"{', '.join(map(str, sorted(counts, key=str)))}); run run_demo.sh with a new --out"
        )
    return rows


def table(seeds: list[list[Row]]) -> str:
    """Markdown table: steps and mIoU in percent of all, small and large classes.

    `seeds`: the rows of each seed; several give mean and sample standard deviation.
    """
    lines = ["| | steps | mIoU | small classes | large classes |", "|---|---|---|---|---|"]
    for same in zip(*seeds, strict=True):
        scores = [scores_of(row.scores) for row in same]
        both = [mean_and_spread(s[measure] for s in scores) for measure in MEASURES]
        cells = [spread(mean, std or None) for mean, std in both]  # CLIP's masks have no seed
        steps = same[0].scores.get("step", "-")
        lines.append(f"| {same[0].title} | {steps} | {' | '.join(cells)} |")
    return "\n".join(lines)


def changes(seeds: list[list[Row]]) -> str:
    """The classes that gain and lose most from warm-up to CARB, IoU in percent, mean over the
    seeds. Empty without CARB."""
    if len(seeds[0]) < 3:
        return ""
    before, after = (_by_class([rows[i].scores for rows in seeds]) for i in (1, 2))
    both = [(round(after[name] - before[name], 1), name) for name in before if name in after]
    lines = []
    for word, sign in (("gained", 1), ("lost", -1)):
        most = sorted((-sign * d, name) for d, name in both if sign * d > 0)
        named = [f"{name} {before[name]:.1f} -> {after[name]:.1f}" for _, name in most[:_MOST]]
        rest = f" and {len(most) - _MOST} more" if len(most) > _MOST else ""
        lines.append(f"CARB {word}: {', '.join(named) or 'no class'}{rest}.\n")
    return "".join(lines)


def _by_class(scores: list[dict[str, Any]]) -> dict[str, float]:
    """Mean IoU in percent of each class that has an IoU in all scores."""
    means = {}
    for name in scores[0].get("classes", {}):
        values = [s["classes"][name]["iou"] for s in scores]
        if None not in values:
            means[name] = 100 * statistics.mean(values)
    return means


def caption(shown: Sequence[str], classes: ClassTable) -> str:
    """Caption of demo.png."""
    palette = classes.palette.astype(int)
    alike = [
        f"{classes.names[i]} and {classes.names[k]}"
        for i, k in itertools.combinations(range(len(classes)), 2)
        if np.linalg.norm(palette[i] - palette[k]) < _ALIKE
    ]
    text = (
        f"{len(shown)} evenly spaced images of the split, not hand-picked. CARB can raise the mean "
        "while single classes fall: a class with poor pseudo-masks may vanish."
    )
    return text + (f" Colours that look nearly the same: {'; '.join(alike)}." if alike else "")


def notes(rows: list[Row], classes: ClassTable, split: str, train_split: str) -> str:
    """Notes below the table: what the numbers measure, and what they don't show."""
    small = [name for name, is_small in zip(classes.names, classes.small, strict=True) if is_small]
    seen = "trained on" if split == train_split else "which no training step saw"
    text = (
        f"mIoU in % on the {rows[0].scores['num_images']} images of '{split}', {seen}. "
        f"Small: {', '.join(small) or 'none'}.\n"
        "The pseudo-masks are made with each image's labels, the networks get the image only.\n"
    )
    if rows[-1].title == "CARB":
        text += (
            "The warm-up row is the same training stopped early: part of CARB's gain comes from "
            "the learning\nrate, which falls further. scripts/demo_ablation.sh measures CARB's own "
            "gain: Dual + CARB against\nDual, both with all steps (docs/experiments.md).\n"
        )
    return text


def seconds(path: Path) -> str:
    """Seconds by stage, from a file with lines of stage, tab, seconds."""
    if not path.is_file():
        return ""
    stages: dict[str, int] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        stage, _, number = line.partition("\t")
        if not number.isdecimal():
            raise InputError(f"{path}: expected 'stage<tab>seconds', found {line!r}; delete it")
        stages[stage] = stages.get(stage, 0) + int(number)
    parts = ", ".join(f"{stage} {number}" for stage, number in stages.items())
    return f"{sum(stages.values())} s in all: {parts}.\n"


def next_steps(run: Path, split: str) -> str:
    """Where the results are, and what to run next."""
    last = run / ("carb" if (run / "carb").exists() else "warmup")
    network = str(last / "last.pt")
    return f"""image             {run / "demo.png"}
numbers by class  {last / f"eval_{split}" / "metrics.json"}
network           {network}
on your images    .venv/bin/python predict.py --ckpt {shlex.quote(network)} IMAGES --out FOLDER

Next, with real data (README, Data): bash run_cityscapes.sh, run_camvid.sh or run_wilddash2.sh.
They download CLIP's ViT-B/16 and ImageNet weights and need a GPU. With your own images (README,
Your own data): prepare_data.py folder --root FOLDER --write-config configs/mine.yaml, then
bash run.sh configs/mine.yaml."""


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"no {path}; make it with bash run_demo.sh --out FOLDER")
    return read_json(path)


if __name__ == "__main__":
    run_script(main)
