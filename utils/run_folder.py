"""Run folder: created, reopened or emptied; one process at a time writes to it."""

import atexit
import shutil
import subprocess
from collections.abc import Collection
from pathlib import Path
from typing import Any

from filelock import FileLock, SoftFileLock, Timeout

from utils.config import PLACE, UPKEEP, Config, flatten, keys_of, load_config, save_config
from utils.distributed import Ranks, on_main
from utils.inputs import FILE
from utils.made_from import changed, listed
from utils.safe.errors import InputError
from utils.safe.files import remove_unfinished, replacing

_WAIT = 10  # seconds for the processes of a killed torchrun to end

# Files that --overwrite removes: all that the scripts write except config.yaml and lock.
_WRITTEN = ("last.pt*", "previous.pt", "warmup.pt", "step_*.pt", "metrics.jsonl", "command.txt")
_WRITTEN += ("git.txt", "tensorboard", "eval_*")


def changed_settings(
    old: dict[str, Any], config: Config, ignore: Collection[str] = frozenset()
) -> str:
    """Changed settings that decide a result, as "key: old -> new, ..."; empty when none has.

    The places of files and how often something is written may change: see utils/config.py.
    """
    free = keys_of(PLACE, UPKEEP) | set(ignore)
    return listed(changed(flatten(old), flatten(config.to_dict()), free))


def open_run(run_dir: str | Path, config: Config, overwrite: bool, ranks: Ranks) -> Path:
    """Create the run folder, or reopen an existing one. Called after all input is checked.

    Raises InputError, on all ranks, when it holds a run of other settings or can't be written.
    `overwrite` empties it and prints that.
    """
    run_dir = Path(run_dir)

    def attempt() -> None:
        try:
            _open(run_dir, config, overwrite)
        except OSError as error:
            raise InputError(
                f"can't write the run folder {run_dir}: {error.strerror}; choose another --run-dir"
            ) from None

    on_main(ranks, attempt)
    return run_dir


def _open(run_dir: Path, config: Config, overwrite: bool) -> None:
    saved = run_dir / "config.yaml"
    signs = ["lock", "metrics.jsonl", FILE] + ["last.pt"] * saved.is_file()
    is_run = any((run_dir / name).is_file() for name in signs)
    full = overwrite and run_dir.exists() and any(run_dir.iterdir())
    if not is_run and (full or saved.is_file()):  # e.g. the user's own config.yaml
        raise InputError(
            f"{run_dir} has files but is not a run folder (no lock, metrics.jsonl, or config.yaml "
            "with last.pt); nothing was removed; choose another --run-dir"
        )
    if saved.is_file() and not overwrite and any(run_dir.glob("*.pt")):
        old = load_config(saved).to_dict()
        settings = changed_settings(old, config)
        if settings:
            raise InputError(
                f"{run_dir} holds a run with other settings ({settings}); choose another "
                f"--run-dir, or --overwrite to start over{other_steps(run_dir, old, config)}"
            )
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = run_dir / "lock"
    _take(lock)
    if full:
        print(f"--overwrite: removing the run in {run_dir}")
        # config.yaml stays, so that a killed process leaves a run folder. Checkpoints go first, so
        # that no run resumes from one without its log.
        old = [path for pattern in _WRITTEN for path in run_dir.glob(pattern)]
        for path in sorted(old, key=lambda path: path.suffix != ".pt"):
            path.unlink() if path.is_symlink() or not path.is_dir() else shutil.rmtree(path)
    remove_unfinished(run_dir, below=False)
    with replacing(saved) as temporary:
        save_config(config, temporary)


def other_steps(run_dir: Path, old: dict[str, Any], config: Config, init: str | None = None) -> str:
    """Why the number of steps of a run can't change, and what to do; empty where it is the same.

    init: --init of train_carb.py, whose warm-up must be trained again too.
    """
    if old.get("steps") == config.steps:
        return ""
    new = f"--run-dir {run_dir}_{config.steps}_steps"
    if init is not None:
        new += f" and the warm-up too: --run-dir {Path(init).parent}_{config.steps}_steps"
    return (
        f"\nA run of {old.get('steps')} steps can't become one of {config.steps}: the learning "
        f"rate of every step depends on `steps`. Start over with {new}"
    )


def _take(path: Path) -> None:
    """Lock a file until this process ends. Raises InputError when another process has it.

    Uses only system locks: a lock file would outlive a killed process.
    """
    path.touch()  # fails where the folder can't be written; lets a group share the lock
    if FileLock is SoftFileLock:  # the system has no locks
        return
    # Singleton: this process may reopen its run.
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
    atexit.register(lock.release)  # keeps a reference, without which the lock would be released


def git(*arguments: str) -> str:
    """Output of a git command in this repository; "no commit" or "git not found" without one."""
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
