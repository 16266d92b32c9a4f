"""Train and score all rows of an ablation for several seeds, then print its tables.

Reads a suite file (demo/suites/demo_ablation.yaml explains its keys) and the config it names;
writes OUT/<row>_<seed>/ (a run folder with eval_<split>/metrics.json and job.log),
OUT/ablation.json and OUT/ablation.md.

    python -m experiments.ablation demo/suites/demo_ablation.yaml --out runs/demo_ablation --jobs 2
    python -m experiments.ablation ... --rows Base "Base + CARB" --seeds 0 --set steps=100
    python -m experiments.ablation ... --table-only

First CLIP's masks, then the rows without CARB, then those with it: rows that differ in CARB's keys
alone start from one warm-up, made by the row without CARB of equal settings, which runs too when
they are asked for by themselves; where there is no such row, OUT/<row>-start_<seed>/ is trained as
far as CARB's start. The same command again goes on where it stopped; what is scored already is left
alone. The GPUs (those of CUDA_VISIBLE_DEVICES) are shared among the jobs.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import shlex
import signal
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path

import torch

from datasets import open_dataset
from experiments.jobs import Job, run_jobs
from experiments.suite_file import Row, Suite, as_arguments, check, check_seeds, read_suite
from experiments.table import collect, read_scored, write_tables
from utils.cli import add_overrides, path
from utils.safe.errors import InputError, run_script

SCRIPTS = {
    "supervised": ["-m", "baselines.supervised"],
    "start": ["train_warmup.py"],
    "warmup": ["train_warmup.py"],
    "carb": ["train_carb.py"],
}


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    suite = read_suite(arguments.suite, arguments.overrides)
    seeds = suite.seeds
    if arguments.seeds is not None:
        seeds = check_seeds(arguments.seeds, "--seeds")
    names = arguments.rows or list(suite.rows)
    for name in names:
        check(name in suite.rows, f"--rows: no row '{name}'; there are {', '.join(suite.rows)}")
    rows = [suite.rows[name] for name in names]
    out = Path(arguments.out)
    collect(suite, out)  # a folder of other settings is refused now, not after hours of training

    failed = []
    if not arguments.table_only:
        config = suite.config_of(rows[0], seeds[0])  # no such split: said before the training
        open_dataset(config.dataset, config.data_root).images(suite.split)
        parallel = arguments.jobs or max(1, torch.cuda.device_count())
        masks, plain, carb = plan(suite, rows, seeds, out, arguments.keep_checkpoints)
        print(f"{len(plain)} runs to train without CARB and {len(carb)} with it", flush=True)
        if run_jobs(masks, parallel):
            raise InputError("nothing is trained: the pseudo-masks failed, see above")
        failed = run_jobs(plain, parallel) + run_jobs(carb, parallel)
    print(write_tables(suite, out, shlex.join(["python", "-m", "experiments.ablation", *argv])))
    print(f"written to {out / 'ablation.md'} and {out / 'ablation.json'}")
    if failed:
        sys.exit(f"error: {len(failed)} runs failed ({', '.join(failed)}); try the command again")


def parse(argv: list[str]) -> argparse.Namespace:
    result = argparse.ArgumentParser(
        prog="python -m experiments.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("suite", type=path, help="suite file, demo/suites/demo_ablation.yaml for one")
    add("--out", type=path, required=True, help="folder of the runs and the tables")
    add("--jobs", type=int, help="how many at a time (default: one per GPU, else 1)")
    add("--rows", nargs="+", metavar="ROW", help="run these rows only")
    add("--seeds", nargs="+", type=int, metavar="SEED", help="in place of the suite's")
    add_overrides(result, "the config for all rows (CARB's keys: of those with CARB)")
    keep = "keep every checkpoint, for learning_curves.py"
    add("--keep-checkpoints", action="store_true", help=keep)
    add("--table-only", action="store_true", help="run nothing, make the tables of what is there")
    add("--debug", action="store_true", help="show the traceback of an error")
    arguments = result.parse_args(argv)
    if arguments.jobs is not None and arguments.jobs < 1:
        result.error(f"--jobs: expected 1 or more, found {arguments.jobs}")
    return arguments


def plan(
    suite: Suite, rows: list[Row], seeds: list[int], out: Path, keep: bool = False
) -> tuple[list[Job], list[Job], list[Job]]:
    """What is left to do: masks, rows without CARB and warm-ups (seed by seed), rows with CARB.

    Raises InputError when a folder holds a run of other settings.
    """
    todo: dict[Path, tuple[Row, Job]] = {}

    def add(row: Row, seed: int, init: Path | None = None) -> None:
        folder = out / row.folder(seed)
        train = [*SCRIPTS[row.stage], "--config", suite.config]
        train += as_arguments(suite.settings_of(row, seed))
        train += ["--init", str(init)] * bool(init) + ["--run-dir", str(folder)]
        train += ["--keep-checkpoints"] * keep
        # --overwrite: numbers of an earlier step or another way of inference are of no use here
        score = ["eval.py", "--ckpt", str(folder / "last.pt"), "--split", suite.split]
        commands = [train] if row.stage == "start" else [train, [*score, "--overwrite"]]
        todo[folder] = row, Job(folder.name, commands, folder / "job.log")

    for seed, row in product(seeds, rows):
        if read_scored(suite, row, seed, out):
            continue
        warmup = None
        if row.stage == "carb":
            start = suite.start_row(row)
            warmup = out / start.folder(seed) / "warmup.pt"
            scored = read_scored(suite, start, seed, out) or start.stage == "start"
            if not (scored and warmup.is_file()):  # scores may be there alone
                add(start, seed)
        add(row, seed, warmup)
    masks = mask_jobs(suite, [row for row, _ in todo.values()], out)
    without = [job for row, job in todo.values() if row.stage != "carb"]
    return masks, without, [job for row, job in todo.values() if row.stage == "carb"]


def mask_jobs(suite: Suite, rows: list[Row], out: Path) -> list[Job]:
    """Masks that `rows` train on, and those of the scored split for a line of the table.

    gen_clip_masks.py always looks: it skips what is there and refuses masks of other settings (so
    rows with other mask settings need another folder, and take their turns).
    """
    if not suite.make_masks:
        return []
    command = ["gen_clip_masks.py", "--config", suite.config]
    train: list[list[str]] = []
    for row in rows:
        if row.stage != "supervised" and suite.config_of(row, 0).views != "dual":
            settings = suite.settings_of(replace(row, stage="warmup"), 0) | {"views": "base"}
            one = command + as_arguments(settings)  # the same for all seeds and views
            train += [one] * (one not in train)
    name = f"pseudo_masks_{suite.split}"
    score = command + as_arguments(suite.settings)
    score += ["--split", suite.split, "--out", str(out / name), "--score"]
    jobs = [Job("pseudo_masks", train, out / "pseudo_masks.log")] if train else []
    return [*jobs, Job(name, [score], out / f"{name}.log")]


if __name__ == "__main__":
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # none on Windows
        if signal.getsignal(number) is signal.SIG_DFL:  # as Ctrl-C: stop the children too
            signal.signal(number, signal.default_int_handler)
    run_script(main)
