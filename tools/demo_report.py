"""The table and the picture that run_demo.sh ends with.

    python -m tools.demo_report runs/demo --split val

Reads masks_<split>/score.json, {warmup,carb}/eval_<split> and seconds.tsv of the folder; prints
the mIoU of the pseudo-masks and of both networks on the same images (Markdown) and what to do
next, and writes demo.png: image, ground truth, pseudo-mask and predictions of a few images.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from datasets.labels import ClassTable
from figures.pictures import Column, chosen, comparison, open_pictures
from utils.cli import path
from utils.config import load_config
from utils.errors import InputError, run_script
from utils.files import read_json
from utils.visualize import save_image


class Row(NamedTuple):
    """One line of the table: what was scored, its numbers, the folder of its label maps."""

    title: str
    scores: dict[str, Any]
    masks: Path


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("run", type=path, help="folder of run_demo.sh")
    parser.add_argument("--split", default="val")
    parser.add_argument("--images", type=int, default=4, help="rows of the picture (default 4)")
    arguments = parser.parse_args(argv)
    if arguments.images < 1:
        parser.error(f"--images must be at least 1, found {arguments.images}")
    run, split = Path(arguments.run), arguments.split
    rows = read_rows(run, split)
    config = load_config(run / "warmup/config.yaml")
    pictures = open_pictures(config, split)
    columns = [Column(row.title, row.masks, row.scores.get("miou")) for row in rows]
    shown = chosen(pictures, arguments.images)
    save_image(run / "demo.png", comparison(pictures, shown, columns))
    print(table(rows))
    explained = notes(rows, pictures.classes, split, config.train_split)
    print(f"\n{explained}{seconds(run / 'seconds.tsv')}\n{following(run, split)}")


def read_rows(run: Path, split: str) -> list[Row]:
    """Pseudo-masks, warm-up and, where it ran, CARB. Raises InputError when a result is missing."""
    masks = run / f"masks_{split}"
    rows = [Row("CLIP pseudo-masks", _read(masks / "score.json"), masks)]
    for stage, title in (("warmup", "warm-up"), ("carb", "CARB")):
        folder = run / stage / f"eval_{split}"
        if stage == "warmup" or (run / stage).exists():
            rows.append(Row(title, _read(folder / "metrics.json"), folder / "predictions"))
    counts = {(row.scores.get("split"), row.scores.get("num_images")) for row in rows}
    if len(counts) > 1:
        raise InputError(
            f"the rows of {run} are not of the same images (split, number: "
            f"{', '.join(map(str, sorted(counts, key=str)))}); run_demo.sh into a new folder"
        )
    return rows


def table(rows: list[Row]) -> str:
    """Markdown: steps and mIoU in percent over all, the small and the large classes."""
    lines = ["| | steps | mIoU | small classes | large classes |", "|---|---|---|---|---|"]
    for row in rows:
        cells = [_percent(row.scores, key) for key in ("miou", "miou_small", "miou_large")]
        lines.append(f"| {row.title} | {row.scores.get('step', '-')} | {' | '.join(cells)} |")
    return "\n".join(lines)


def notes(rows: list[Row], classes: ClassTable, split: str, train_split: str) -> str:
    """What the numbers of the table are of, and what they don't show."""
    small = [name for name, is_small in zip(classes.names, classes.small, strict=True) if is_small]
    seen = "trained on" if split == train_split else "which no training step saw"
    text = (
        f"mIoU in % on the {rows[0].scores['num_images']} images of '{split}', {seen}. "
        f"Small: {', '.join(small) or 'none'}.\n"
        "The pseudo-masks are told which classes an image has, the networks are not.\n"
    )
    if rows[-1].title == "CARB":
        text += (
            "Warm-up is the same training stopped early: the learning rate still falls after it, "
            "so what\nthe row below gains is not CARB's alone. CARB's own gain, Dual + CARB over "
            "Dual with all steps\nin both, is measured by tools/demo_ablation.sh (README, Demo).\n"
        )
    return text


def seconds(path: Path) -> str:
    """Time of the stages that `path` holds (lines of stage, tab, seconds), summed by stage."""
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


def following(run: Path, split: str) -> str:
    """Where the results lie, and what to run next."""
    last = run / ("carb" if (run / "carb").exists() else "warmup")
    network = str(last / "last.pt")
    return f"""picture           {run / "demo.png"}
numbers by class  {last / f"eval_{split}" / "metrics.json"}
the network       {network}
on your pictures  .venv/bin/python predict.py --ckpt {shlex.quote(network)} PICTURES --out FOLDER

Next, with real data (README, Data): bash run_cityscapes.sh, run_camvid.sh or run_wilddash2.sh.
They fetch CLIP's ViT-B/16 and ImageNet weights and want a GPU. Your own pictures: README,
"Your own data"; CONFIG=configs/folder.yaml bash run_cityscapes.sh."""


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise InputError(f"no {path}; bash run_demo.sh makes it (RUN names the folder)")
    return read_json(path)


def _percent(scores: dict[str, Any], key: str) -> str:
    value = scores.get(key)
    return "-" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    run_script(main)
