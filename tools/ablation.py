"""Train and score all rows of an ablation for several seeds, then print its tables.

Reads a suite file (configs/demo_ablation.yaml explains its keys) and the config it names; writes
OUT/<row>_<seed>/ (a run folder with eval_<split>/metrics.json and job.log), OUT/ablation.json and
OUT/ablation.md.

    python -m tools.ablation configs/demo_ablation.yaml --out runs/demo_ablation --jobs 2
    python -m tools.ablation ... --rows Base "Base + CARB" --seeds 0 --set steps=100
    python -m tools.ablation ... --table-only

Rows that differ in CARB's keys alone start from one warm-up: the plain row's run makes it, so a
CARB row asked for by itself runs its plain row too. The same command again goes on where it
stopped; what is scored already is left alone. --jobs may be above the number of GPUs.
"""

import argparse
import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml

from tools.ablation_queue import Job, run_jobs
from tools.ablation_results import metrics_path, read_scored, score_path
from tools.ablation_suite import Row, Suite, check_known, check_seeds, read_suite
from tools.ablation_table import write_tables
from utils.errors import run_script

SCRIPTS = {
    "supervised": "train_supervised.py",
    "warmup": "train_warmup.py",
    "carb": "train_carb.py",
}


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    suite = read_suite(arguments.suite, arguments.overrides)
    seeds = suite.seeds
    if arguments.seeds is not None:
        seeds = check_seeds(arguments.seeds, "--seeds")
    for name in arguments.rows or ():
        check_known(arguments.suite, "row", name, suite.rows)
    rows = [row for row in suite.rows.values() if not arguments.rows or row.name in arguments.rows]
    out = Path(arguments.out)

    jobs = plan(suite, rows, seeds, out)
    failed = []
    if not arguments.table_only:
        failed = run_jobs(jobs, arguments.jobs or max(1, arguments.gpus), arguments.gpus)
    again = ["python", "-m", "tools.ablation", arguments.suite, "--out", arguments.out]
    for override in arguments.overrides:
        again += ["--set", override]
    print(write_tables(suite, out, seeds, again, {job.name: job.commands for job in jobs}))
    print(f"written to {out / 'ablation.md'} and {out / 'ablation.json'}")
    if failed:
        print(
            f"error: {len(failed)} jobs failed or were skipped: {', '.join(failed)}; the same "
            "command again tries them once more",
            file=sys.stderr,
        )
        sys.exit(1)


def parse(argv: list[str]) -> argparse.Namespace:
    result = argparse.ArgumentParser(
        prog="python -m tools.ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("suite", help="suite file, configs/demo_ablation.yaml for one")
    add("--out", required=True, help="folder of the runs and the tables")
    add("--jobs", type=int, help="how many at a time (default: one per GPU, else 1)")
    add("--gpus", type=int, help="GPUs to share among the jobs (default: all; 0: CPU)")
    add("--rows", nargs="+", metavar="ROW", help="run these rows only")
    add("--seeds", nargs="+", type=int, metavar="SEED", help="in place of the suite's")
    add(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help="replace keys of the config for all rows",
    )
    add("--table-only", action="store_true", help="run nothing, make the tables of what is there")
    arguments = result.parse_args(argv)
    if arguments.jobs is not None and arguments.jobs < 1:
        result.error(f"--jobs: expected 1 or more, found {arguments.jobs}")
    available = torch.cuda.device_count()
    if arguments.gpus is None:
        arguments.gpus = available
    if not 0 <= arguments.gpus <= available:
        result.error(f"--gpus: expected 0 to {available}, found {arguments.gpus}")
    return arguments


def plan(suite: Suite, rows: list[Row], seeds: list[int], out: Path) -> list[Job]:
    """All jobs that `rows` need, in an order to run them: masks, then seed by seed.

    Raises InputError when a folder holds a run of other settings.
    """
    warmups = suite.warmup_names()
    masks: dict[str, Job] = {}
    jobs: dict[str, Job] = {}
    for seed in seeds:
        for row in rows:
            job = _training(suite, row, row.stage, row.slug, seed, out, warmups, masks)
            if row.stage == "carb" and not job.finished:
                name = warmups[row.name]
                warmup = _training(suite, row, "warmup", name, seed, out, warmups, masks)
                ready = (out / warmup.name / "warmup.pt").is_file()  # scores may lie there alone
                jobs[warmup.name] = replace(warmup, finished=warmup.finished and ready)
            jobs.setdefault(job.name, job)
    unfinished = {name for job in jobs.values() if not job.finished for name in job.needs}
    needed = [*masks.values()] if any(job.name in unfinished for job in masks.values()) else []
    if suite.make_masks:
        needed.append(_mask_score(suite, out))
    return needed + list(jobs.values())


def _training(
    suite: Suite,
    row: Row,
    stage: str,
    name: str,
    seed: int,
    out: Path,
    warmups: dict[str, str],
    masks: dict[str, Job],
) -> Job:
    """Train and score one row (or, with stage warmup, the run that its warm-up comes from)."""
    overrides = suite.overrides(row, seed, stage)
    config = suite.config_of(row, seed, stage)
    folder = out / f"{name}_{seed}"
    train = [SCRIPTS[stage], "--config", suite.config, *_sets(overrides)]
    finished, needs = read_scored(folder, suite.split, config) is not None, []
    if stage == "carb":
        warmup = f"{warmups[row.name]}_{seed}"
        train += ["--init", str(out / warmup / "warmup.pt")]
        needs.append(warmup)
    if suite.make_masks and stage != "supervised" and config.views != "dual":
        needs.append(_masks(suite, row, out, masks))
    train += ["--run-dir", str(folder)]
    # --overwrite: numbers of an earlier step or of another way of inference are not this table's
    score = ["eval.py", "--ckpt", str(folder / "last.pt"), "--split", suite.split, "--overwrite"]
    metrics = metrics_path(folder, suite.split)
    return Job(folder.name, [train, score], folder / "job.log", metrics, tuple(needs), finished)


def _masks(suite: Suite, row: Row, out: Path, masks: dict[str, Job]) -> str:
    """Name of the job that makes the stored masks of `row`; one after the other per folder.

    Rows of other mask settings need another folder: gen_clip_masks.py refuses to mix them.
    """
    overrides = suite.overrides(row, 0, "warmup") | {"views": "base"}
    key = json.dumps(suite.config_of(row, 0, "warmup").to_dict() | overrides)
    if key not in masks:
        name = f"pseudo_masks_{len(masks) + 1}"
        command = ["gen_clip_masks.py", "--config", suite.config, *_sets(overrides)]
        before = tuple(job.name for job in masks.values())[-1:]
        masks[key] = Job(name, [command], out / name / "job.log", None, before)
    return masks[key].name


def _mask_score(suite: Suite, out: Path) -> Job:
    """Masks of the scored split, which nothing trains on, for a line of the table."""
    result = score_path(out, suite.split)
    command = ["gen_clip_masks.py", "--config", suite.config, *_sets(suite.settings)]
    command += ["--split", suite.split, "--out", str(result.parent), "--score"]
    name = result.parent.name
    return Job(name, [command], out / f"{name}.log", result, finished=result.is_file())


def _sets(overrides: dict[str, Any]) -> list[str]:
    """As --set arguments."""
    texts = {
        key: yaml.safe_dump(value, default_flow_style=True, width=10**6, allow_unicode=True)
        for key, value in overrides.items()
    }
    return [part for k, text in texts.items() for part in ("--set", f"{k}={text.splitlines()[0]}")]


if __name__ == "__main__":
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:  # as Ctrl-C: stop the children too
            signal.signal(number, signal.default_int_handler)
    run_script(main)
