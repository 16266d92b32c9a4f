"""The run folder: made, opened again, or emptied; one process at a time writes to it."""

import atexit
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout

from utils.config import PLACE, UPKEEP, Config, changes, keys_of, load_config, save_config
from utils.distributed import Ranks, gather_objects
from utils.inputs import FILE
from utils.other_steps import other_steps
from utils.safe.errors import InputError
from utils.safe.files import remove_unfinished, replacing

_WAIT = 10  # seconds for the processes of a killed torchrun to end

# What --overwrite removes: of what the scripts write there all but config.yaml and lock.
_WRITTEN = ("last.pt*", "previous.pt", "warmup.pt", "step_*.pt", "metrics.jsonl", "command.txt")
_WRITTEN += ("git.txt", "tensorboard", "eval_*")


def changed_settings(
    old: dict[str, Any], config: Config, ignore: Collection[str] = frozenset()
) -> str:
    """What decides a result and differs, as "key: old -> new, ..."; empty when nothing does.

    Where files lie and how often something is written may change: see utils/config.py.
    """
    found = changes(old, config.to_dict(), {*keys_of(PLACE, UPKEEP), *ignore})
    return ", ".join(f"{key}: {before} -> {now}" for key, (before, now) in found.items())


def open_run(run_dir: str | Path, config: Config, overwrite: bool, ranks: Ranks) -> Path:
    """Make the run folder, or go on with the one that is there. Called once all input is checked.

    Raises InputError, on all ranks, when it holds a run of other settings or can't be written.
    `overwrite` starts anew and says so.
    """
    run_dir, problem = Path(run_dir), None
    if ranks.is_main:
        try:
            _open(run_dir, config, overwrite)
        except InputError as error:
            problem = str(error)
        except OSError as error:
            problem = f"can't write the run folder {run_dir}: {error.strerror}"
            problem += "; choose another --run-dir"
    problem = gather_objects(problem)[0]
    if problem:
        raise InputError(problem)
    return run_dir


def _open(run_dir: Path, config: Config, overwrite: bool) -> None:
    saved = run_dir / "config.yaml"
    signs = ["lock", "metrics.jsonl", FILE] + ["last.pt"] * saved.is_file()
    is_run = any((run_dir / name).is_file() for name in signs)
    full = overwrite and run_dir.exists() and any(run_dir.iterdir())
    if not is_run and (full or saved.is_file()):  # a config.yaml of the user's, say
        raise InputError(
            f"{run_dir} has files but is not a run folder (no lock, metrics.jsonl, or config.yaml "
            "with last.pt); nothing was removed; choose another --run-dir"
        )
    if saved.is_file() and not overwrite and any(run_dir.glob("*.pt")):
        old = load_config(saved).to_dict()
        changed = changed_settings(old, config)
        if changed:
            raise InputError(
                f"{run_dir} holds a run with other settings ({changed}); choose another "
                f"--run-dir, or --overwrite to start anew{other_steps(run_dir, old, config)}"
            )
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = run_dir / "lock"
    _take(lock)
    if full:
        print(f"--overwrite: removing the run in {run_dir}")
        # config.yaml stays: killed in between, this is still a run folder. Checkpoints go first,
        # so that none is gone on from without its log.
        old = [path for pattern in _WRITTEN for path in run_dir.glob(pattern)]
        for path in sorted(old, key=lambda path: path.suffix != ".pt"):
            path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)
    remove_unfinished(run_dir, below=False)
    with replacing(saved) as temporary:
        save_config(config, temporary)


def _take(path: Path) -> None:
    """Until this process ends, no other one gets it. Raises InputError when another one has it.

    Only locks of the system: a file that stands for one would outlive a killed process.
    """
    path.touch()  # says so where the folder can't be written, and lets a group share the lock
    if FileLock is SoftFileLock:  # neither Windows' locks nor those of Unix
        return
    # Singleton: this process may open its run again.
    lock = FileLock(path, is_singleton=True, fallback_to_soft=False)
    try:
        lock.acquire(timeout=_WAIT)
    except Timeout:
        raise InputError(
            f"another process is training in {path.parent}; wait for it, end it, or choose another "
            "--run-dir"
        ) from None
    except PermissionError:
        raise
    except (OSError, NotImplementedError):  # a disk without locks
        return
    atexit.register(lock.release)  # a lock that nothing refers to would be released


def git(*arguments: str) -> str:
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(
            ["git", "-C", root, *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
        )
    except OSError:
        return "git not found"
    return done.stdout.strip() if done.returncode == 0 else "no commit"
