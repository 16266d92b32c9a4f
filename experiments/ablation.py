"""Train and score all rows of an ablation for several seeds, then print its tables.

Reads a suite file (demo/suites/demo_ablation.yaml explains its keys) and the config it names;
writes OUT/<row>_<seed>/ (a run folder with eval_<split>/metrics.json and job.log; of a method that
makes masks, with masks_<split>/score.json), or for a row of masks OUT/<row>-masks/ (a folder of
gen_clip_masks.py), OUT/ablation.json and OUT/ablation.md.

    python -m experiments.ablation demo/suites/demo_ablation.yaml --out runs/demo_ablation --jobs 2
    python -m experiments.ablation ... --rows Base "Base + CARB" --seeds 0 --set steps=100
    python -m experiments.ablation ... --table-only
    python -m experiments.ablation ... --masks only    # then: --masks ready --seeds 0 (1, ...)

The order is: pseudo-masks; then each row after those that it needs: CARB after its warm-up, a
second stage after the masks it learns from, a method after the row whose maps it reads. Rows that
differ only in CARB's keys share one warm-up: the row without CARB that has the same settings, which
is trained even if --rows leaves it out. Without such a row, OUT/<row>-start_<seed>/ is trained up
to CARB's start. Run the same command again to resume; scored runs are skipped. The jobs share the
GPUs of CUDA_VISIBLE_DEVICES.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import shlex
import signal
import sys
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from datasets import open_dataset
from experiments.jobs import Job, run_jobs
from experiments.methods import METHODS, TRAINING_FREE, cams_option
from experiments.suite_file import Row, Suite, as_arguments, check, check_seeds, read_suite
from experiments.table import collect, read_scored, record_of, write_tables
from utils.cli import add_overrides, path
from utils.safe.errors import InputError, run_script

SCRIPTS = {
    "supervised": ["-m", "baselines.supervised"],
    "start": ["train_warmup.py"],
    "warmup": ["train_warmup.py"],
    "carb": ["train_carb.py"],
} | {method: ["-m", f"baselines.{method}"] for method in METHODS}


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    suite = read_suite(arguments.suite, arguments.overrides)
    seeds = suite.seeds
    if arguments.seeds is not None:
        seeds = check_seeds(arguments.seeds, "--seeds")
    names = arguments.rows or list(suite.rows)
    for name in names:
        check(name in suite.rows, f"--rows: no row '{name}'; expected {', '.join(suite.rows)}")
    rows = [suite.rows[name] for name in names]
    out = Path(arguments.out)
    collect(suite, out)  # refuses a folder of other settings now, not after hours of training

    failed, command = [], shlex.join(["python", "-m", "experiments.ablation", *argv])
    if not arguments.table_only:
        config = suite.config_of(rows[0], seeds[0])  # a missing split is reported before training
        suite.check_prepared(rows)
        open_dataset(config.dataset, config.data_root).images(suite.split)
        parallel = arguments.jobs or max(1, torch.cuda.device_count())
        only = arguments.masks == "only"
        masks, *rounds = plan(suite, rows, seeds, out, arguments.keep_checkpoints, only)
        print(f"{sum(map(len, rounds))} runs, in {len(rounds)} rounds", flush=True)
        if arguments.masks == "ready":  # leaves alone what other runners are writing
            masks = [
                replace(m, commands=[[*c, "--share", "1/1"] for c in m.commands]) for m in masks
            ]
        if run_jobs(masks, parallel):
            raise InputError("nothing was trained: the pseudo-masks failed, see above")
        try:
            failed = [name for jobs in rounds for name in run_jobs(jobs, parallel)]
        except KeyboardInterrupt:
            write_tables(suite, out, command)  # of what is finished, for report.py
            raise
    print(write_tables(suite, out, command))
    print(f"written to {out / 'ablation.md'} and {out / 'ablation.json'}")
    if failed:
        sys.exit(f"error: {len(failed)} runs failed ({', '.join(failed)}); run the command again")


def parse(argv: list[str]) -> argparse.Namespace:
    result = argparse.ArgumentParser(
        prog="python -m experiments.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("suite", type=path, help="suite file, e.g. demo/suites/demo_ablation.yaml")
    add("--out", type=path, required=True, help="folder of the runs and the tables")
    add("--jobs", type=int, help="runs at a time (default: one per GPU, else 1)")
    add("--rows", nargs="+", metavar="ROW", help="run these rows only")
    add("--seeds", nargs="+", type=int, metavar="SEED", help="instead of the suite's")
    masks = "only: make the pseudo-masks, and run the rows that no seed changes; ready: they are "
    masks += "made, check and score them; for several runners that share OUT, each with its seeds"
    add("--masks", choices=("make", "only", "ready"), default="make", help=masks)
    add_overrides(result, "the config for all rows (CARB's keys: for rows with CARB)")
    keep = "keep every checkpoint, for learning_curves.py"
    add("--keep-checkpoints", action="store_true", help=keep)
    add(
        "--table-only", action="store_true", help="train nothing, write the tables of finished runs"
    )
    add("--debug", action="store_true", help="show the traceback of an error")
    arguments = result.parse_args(argv)
    if arguments.jobs is not None and arguments.jobs < 1:
        result.error(f"--jobs: expected 1 or more, found {arguments.jobs}")
    return arguments


def plan(
    suite: Suite,
    rows: list[Row],
    seeds: list[int],
    out: Path,
    keep: bool = False,
    only_masks: bool = False,
) -> list[list[Job]]:
    """Jobs left to do in rounds: pseudo-masks; rows that need no other, seed by seed; rows that
    need these; and so on.

    only_masks: the pseudo-masks of all rows, but of the other jobs those alone that all seeds share
    and that need no row, which runners with seeds of their own would else do at once.

    Raises InputError when a folder holds a run of other settings.
    """
    todo: dict[Path, tuple[int, Row, Job]] = {}

    def add(row: Row, seed: int, needed: bool = False) -> int:
        """Plan a run after what it needs; gives its round. needed: by another, though scored."""
        folder, init, after = out / row.folder(seed), None, 0
        scored = bool(read_scored(suite, row, seed, out))
        if scored and not needed:
            return 0
        for name in row.needs:
            after = max(after, 1 + add(suite.rows[name], seed, needed=True))
        if row.stage == "carb":
            start = suite.start_row(row)
            init = out / start.folder(seed) / "warmup.pt"
            # reads even a start without a score: a folder of other settings is refused now
            made = read_scored(suite, start, seed, out) or start.stage == "start"
            if not (made and init.is_file()):  # the scores may exist without the checkpoint
                after = max(after, 1 + add(start, seed, needed=True))
        splits = [train_split(suite)] * needed + [suite.split] * (not scored)
        splits = list(dict.fromkeys(splits))
        if row.is_masks and row.stage != "masks":
            commands = [method_command(suite, row, seed, out, split, keep) for split in splits]
        else:
            commands = network_commands(suite, row, seed, out, init, keep)
        before = todo.get(folder)
        if before is None or len(commands) > len(before[2].commands):
            job = Job(folder.name, commands, folder / "job.log", record_of(suite, row, seed))
            todo[folder] = after, row, job
        return after

    for seed, row in product(seeds, rows):
        add(row, seed)
    masks = mask_jobs(suite, [row for _, row, _ in todo.values()], out)
    kept = [
        (number, job)
        for number, row, job in todo.values()
        if not only_masks or (row.seedless and not row.needs)
    ]
    last = max((number for number, _ in kept), default=-1)
    return [masks] + [[job for number, job in kept if number == n] for n in range(last + 1)]


def train_split(suite: Suite) -> str:
    """The split whose masks second stages learn from."""
    return suite.config_of(next(iter(suite.rows.values())), 0).train_split


def network_commands(
    suite: Suite, row: Row, seed: int, out: Path, init: Path | None, keep: bool
) -> list[list[str]]:
    """The commands that train and score the network of a row, or make CLIP's masks."""
    folder = out / row.folder(seed)
    if row.stage == "masks":
        return [mask_command(suite, suite.settings_of(row, seed), folder)]
    train = training_command(suite, row, seed, out)
    train += ["--init", str(init)] * bool(init) + ["--keep-checkpoints"] * keep
    # --overwrite: scores of an earlier step or of other inference options are of no use here
    score = ["eval.py", "--ckpt", str(folder / "last.pt"), "--split", suite.split, "--overwrite"]
    return [train] if row.stage == "start" else [train, score]


def training_command(
    suite: Suite, row: Row, seed: int, out: Path, split: str | None = None
) -> list[str]:
    """The command that trains the network of a row, but for --init and --keep-checkpoints.

    split: of the masks that a method makes.
    """
    settings, options = suite.settings_of(row, seed), list(row.options)
    if row.learns_from is not None:
        folder = out / suite.rows[row.learns_from].folder(seed)
        settings |= {"pseudo_masks": str(folder / f"masks_{train_split(suite)}")}
    if row.cams is not None:
        folder = out / suite.rows[row.cams].folder(seed)
        options += cams_option(row.stage, folder, train_split(suite), split)
    command = [*SCRIPTS[row.stage], "--config", suite.config, *as_arguments(settings)]
    return [*command, "--run-dir", str(out / row.folder(seed)), *options]


def method_command(
    suite: Suite, row: Row, seed: int, out: Path, split: str, keep: bool = False
) -> list[str]:
    """The command of a method that makes masks: trains, unless it has, and makes those of a split.

    It scores the masks of the suite's split.
    """
    keep = keep and row.stage not in TRAINING_FREE
    command = training_command(suite, row, seed, out, split) + ["--keep-checkpoints"] * keep
    command += ["--split", split, "--out", str(out / row.folder(seed) / f"masks_{split}")]
    return command + ["--score"] * (split == suite.split)


def mask_jobs(suite: Suite, rows: list[Row], out: Path) -> list[Job]:
    """Jobs for the masks that `rows` train on, and for the scored split's masks in the table.

    gen_clip_masks.py skips existing masks and refuses masks of other settings: rows with other
    mask settings need another folder. Their commands run one after another in one job.
    """
    if not suite.make_masks:
        return []
    command = ["gen_clip_masks.py", "--config", suite.config]
    train: list[list[str]] = []
    for row in rows:
        clip = row.stage in ("warmup", "start", "carb") and row.learns_from is None
        if clip and suite.config_of(row, 0).views != "dual":
            settings = suite.settings_of(replace(row, stage="warmup"), 0) | {"views": "base"}
            one = command + as_arguments(settings)  # the same for all seeds and views
            train += [one] * (one not in train)
    name = f"pseudo_masks_{suite.split}"
    score = mask_command(suite, suite.settings, out / name)
    jobs = [Job("pseudo_masks", train, out / "pseudo_masks.log")] if train else []
    return [*jobs, Job(name, [score], out / f"{name}.log")]


def mask_command(suite: Suite, settings: dict[str, Any], folder: Path) -> list[str]:
    """The command that makes and scores masks of the suite's split in `folder`."""
    command = ["gen_clip_masks.py", "--config", suite.config, *as_arguments(settings)]
    return [*command, "--split", suite.split, "--out", str(folder), "--score"]


if __name__ == "__main__":
    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:  # Windows: no SIGHUP
        if signal.getsignal(number) is signal.SIG_DFL:  # stop the children too, as Ctrl-C does
            signal.signal(number, signal.default_int_handler)
    run_script(main)
