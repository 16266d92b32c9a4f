"""Measure what each method of baselines/ costs beside CARB: CPU-seconds per image.

    python -m benchmarks.comparators --json benchmarks/results/comparators_cpu.json --write
    python -m benchmarks.comparators cam psa --rounds 1

Every method is the `main` of its own command with demo/config.yaml, on streets drawn into a
temporary folder, in a process of its own, which has imported torch before. A cost is the difference
in CPU-seconds between two such processes, so that their start cancels out:

- training: of two trainings from the start, over the images of the steps between them. `steps`
  holds for each training of a method or is shared out as in its header, and the cost is the sum.
- masks: of two validation splits, over the images that only the larger one has.
- training images: of two training splits with the same number of steps, over the images that only
  the larger one has: maps and labels that a method makes of them before and between its trainings.

Not counted: the maps of baselines.cam that amn, sec and clustering read; the stored masks of base;
the warm-up of carb. CLIMS and CLIP-ES have the demo's ViT, the others the demo's ResNet of CLIP, if
any. The ratios are those to `base` (training) and `clip_masks` (masks) in the same round. --write
puts the table into benchmarks/RESULTS.md.
"""

import contextlib
import io
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.output import DEMO, describe, machine_line, parser, publish, spread
from experiments.figures.style import markdown
from utils.safe.errors import InputError, run_script

SEED, WARMUP = 2026, 2
MASKS, TRAINING = "clip_masks", "base"  # what the others are compared with


@dataclass(frozen=True)
class Work:
    """How much a process has to do."""

    steps: int
    masks: int  # images of the validation split
    images: int  # of the training split


@dataclass(frozen=True)
class Sizes:
    """The least work, and the larger numbers; `many` masks of what is cheap."""

    least: Work = Work(3, 2, 9)  # nine scenes show all classes
    steps: int = 13
    masks: int = 10
    many: int = 82
    images: int = 13

    def more(self, cost: str, row: "Row") -> Work:
        """The least work but for one number."""
        numbers = {"training": {"steps": self.steps}, "training images": {"images": self.images}}
        numbers["masks"] = {"masks": self.many if row.is_cheap else self.masks}
        return replace(self.least, **numbers[cost])


QUICK = Sizes(steps=4, masks=3, many=3, images=10)


@dataclass(frozen=True)
class Row:
    """A method: which costs it has, the module of its `main`, its settings besides those of all."""

    name: str
    costs: tuple[str, ...]
    module: str
    settings: tuple[str, ...] = ()
    is_cheap: bool = False  # its masks
    reads: str = ""  # what is made for it: cams, masks, warmup, points


def method(name: str, *costs: str, reads: str = "", settings: tuple[str, ...] = ()) -> Row:
    """The row of baselines/NAME.py."""
    return Row(name, costs, f"baselines.{name}", settings, reads=reads)


VIT = ("clip_model=demo/weights/clip_vit.pt", "clip_text={root}/clip_text_vit.pt")
BOTH = ("training", "masks")
ALL = (*BOTH, "training images")
ROWS = (
    Row(MASKS, ("masks",), "gen_clip_masks", is_cheap=True),
    Row(TRAINING, ("training",), "train_warmup", ("views=base",), reads="masks"),
    Row("dual", ("training",), "train_warmup", ("views=dual",)),
    Row("carb", ("training",), "train_carb", ("views=dual", "carb=true"), reads="warmup"),
    method("supervised", "training"),
    method("points", "training", reads="points", settings=("points={root}/points.json",)),
    replace(method("prior", "masks"), is_cheap=True),
    replace(method("cam", *BOTH), is_cheap=True),
    method("sec", "training", reads="cams", settings=("output_stride=8",)),
    method("psa", *ALL),
    method("seam", *BOTH),
    method("one_stage", *BOTH),
    method("clustering", *ALL, reads="cams"),
    replace(method("amn", *ALL, reads="cams"), is_cheap=True),
    replace(method("clims", *BOTH, settings=VIT), is_cheap=True),
    method("clip_es", "masks", settings=VIT),
    method("support_net", *BOTH),
)
NAMES = tuple(row.name for row in ROWS)
# In the table.
TITLES = {MASKS: "`gen_clip_masks.py`", TRAINING: "`train_warmup.py`, `views: base`"}
TITLES |= {"dual": "`train_warmup.py`, `views: dual`", "carb": "`train_carb.py`, `views: dual`"}


def main(argv: list[str]) -> None:
    command = parser(__doc__, rounds=3)
    command.add_argument(
        "methods", nargs="*", metavar="METHOD", help=f"of {', '.join(NAMES)} (default: all)"
    )
    command.add_argument("--quick", action="store_true", help="a step and an image: no costs")
    arguments = command.parse_args(argv)
    if unknown := [name for name in arguments.methods if name not in NAMES]:
        command.error(f"{unknown[0]}: expected one of {', '.join(NAMES)}")
    if arguments.write and (arguments.quick or arguments.methods):
        raise InputError("--write: the table has all methods; leave out --quick and METHOD")
    chosen = {TRAINING, MASKS, *(arguments.methods or NAMES)}
    sizes = QUICK if arguments.quick else Sizes()
    report: dict[str, Any] = {"machine": describe("cpu")}
    report["command"] = " ".join(["python -m benchmarks.comparators", *argv])
    report["options"] = {"rounds": arguments.rounds, **asdict(sizes)}
    rows = [row for row in ROWS if row.name in chosen]
    report["results"] = results(rows, arguments.rounds, sizes)
    publish(report, "comparators on cpu", table(report), arguments)


# --- measuring


def results(rows: Sequence[Row], rounds: int, sizes: Sizes) -> list[dict[str, Any]]:
    """A result for each row, with a list of a value per round for each of its costs.

    Keys method, and CPU-seconds per image under "training", "masks" and "training images".
    """
    found: list[dict[str, Any]] = [
        {"method": row.name} | {cost: [] for cost in row.costs} for row in rows
    ]
    for number in range(rounds):
        with TemporaryDirectory() as folder:
            place = Place(Path(folder))
            for row, result in zip(rows, found, strict=True):
                for cost, seconds in measure(row, sizes, place).items():
                    result[cost].append(seconds)
                    print(f"round {number + 1}, {row.name}, {cost}: {seconds:.3g}", flush=True)
    return found


def measure(row: Row, sizes: Sizes, place: "Place") -> dict[str, float]:
    """CPU-seconds per image of each cost of a row."""
    least, found = place.seconds(row, sizes.least), {}
    for cost in row.costs:
        work = sizes.more(cost, row)
        images = work.masks - sizes.least.masks + work.images - sizes.least.images
        images += (work.steps - sizes.least.steps) * place.batch_size
        found[cost] = (place.seconds(row, work) - least) / images
    return found


class Place:
    """A temporary folder with the data sets of a round, what methods read, and their runs."""

    batch_size = 4  # of every step

    def __init__(self, folder: Path) -> None:
        self.folder, self.runs = folder, 0

    def seconds(self, row: Row, work: Work) -> float:
        """CPU-seconds of the command of a row, in new folders."""
        root = self.data(work)
        self.runs += 1
        run = self.folder / f"run_{self.runs}"
        settings = self.settings(root, row, work)
        more = self.prepared(row, root, work, settings)
        if row.name != MASKS:
            more += ["--run-dir", f"{run}"]
        if "masks" in row.costs:
            more += ["--split", "val", "--out", f"{run}_masks"]
        return in_new_process(row.module, [*more, *of_demo(settings)])

    def data(self, work: Work) -> Path:
        """The folder of a data set with the first scenes of each split."""
        root = self.folder / f"data_{work.images}_{work.masks}"
        if not root.exists():
            counts = [f"train={work.images}", f"val={work.masks}"]
            draw = ["--root", f"{root}", "--seed", f"{SEED}", "--count", *counts]
            in_new_process("demo.make_scenes", draw)
        return root

    def settings(self, root: Path, row: Row, work: Work) -> list[str]:
        """What --set has for a row; both stages of CARB share `steps`."""
        steps = work.steps + (WARMUP if row.reads == "warmup" else 0)
        return [
            f"data_root={root}",
            f"image_labels={root}/image_labels.json",
            f"pseudo_masks={root}/clip_masks",
            f"clip_text={self.folder}/clip_text.pt",
            f"steps={steps}",
            f"warmup_steps={WARMUP}",
            f"batch_size={self.batch_size}",
            "carb=false",
            *(setting.format(root=root) for setting in row.settings),
        ]

    def prepared(self, row: Row, root: Path, work: Work, settings: list[str]) -> list[str]:
        """Make what a row reads, uncounted; gives the options that name it."""
        if row.reads == "masks" or not (self.folder / "clip_text.pt").exists():
            in_new_process("gen_clip_masks", of_demo(settings))  # a finished folder stays
        if row.reads == "points" and not (root / "points.json").exists():
            of_classes = ["--class-file", f"{root}/classes.yaml", "--points", f"{root}/points.json"]
            in_new_process("prepare_data", ["folder", "--root", f"{root}", *of_classes])
        if row.reads == "warmup":
            warmup = f"{self.folder}/warmup_{self.runs}"
            in_new_process("train_warmup", ["--run-dir", warmup, *of_demo(settings)])
            return ["--init", f"{warmup}/last.pt"]
        if row.reads == "cams":
            cams = self.folder / f"cams_{work.images}"
            if not cams.exists():
                make = ["--save-cams", "--run-dir", f"{cams}_run", "--out", f"{cams}"]
                in_new_process("baselines.cam", [*make, *of_demo(settings)])
            return ["--cams", f"{cams}"]
        return []


def of_demo(settings: Sequence[str]) -> list[str]:
    return ["--config", str(DEMO), "--device", "cpu", "--set", *settings]


def in_new_process(module: str, argv: list[str]) -> float:
    """Result of `cpu_seconds`."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["utils.threads", "torch"])  # imported once, in this order
    with ProcessPoolExecutor(1, context) as process:
        return process.submit(cpu_seconds, module, argv).result()


def cpu_seconds(module: str, argv: list[str]) -> float:
    """User and system time of `main` of a module, of all threads and children."""
    main = import_module(module).main
    start = sum(os.times()[:4])
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main(argv)
    return sum(os.times()[:4]) - start


# --- in words


def table(report: dict[str, Any]) -> str:
    """Markdown: the machine, and a row per method with its costs and their ratios."""
    found = {result["method"]: result for result in report["results"]}
    rows = []
    for name, result in found.items():
        cells = [TITLES.get(name, f"`{name}`")]
        for cost, base in (("training", TRAINING), ("masks", MASKS)):
            values = result.get(cost, [])
            ratios = [a / b for a, b in zip(values, found[base][cost][: len(values)], strict=True)]
            if min(values, default=1) <= 0:  # less than what two equal processes differ by
                cells += ["below noise", ""]
                continue
            cells += [spread(values) if values else "", spread(ratios) if values else ""]
        images = result.get("training images")
        rows.append([*cells, spread(images) if images else ""])
    head = ["CPU-seconds per image", "training", "relative to `views: base`", "masks"]
    head += ["relative to `gen_clip_masks.py`", "training images"]
    return f"{machine_line(report)}\n\n{markdown(head, rows)}"


if __name__ == "__main__":
    run_script(main)
