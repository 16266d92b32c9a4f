"""Run folder: made, opened again, or emptied; one process at a time writes to it."""

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
from utils.made_from import changed
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
    free = keys_of(PLACE, UPKEEP) | set(ignore)
    return ", ".join(changed(flatten(old), flatten(config.to_dict()), free))


def open_run(run_dir: str | Path, config: Config, overwrite: bool, ranks: Ranks) -> Path:
    """Make the run folder, or resume the one that exists. Called once all input is checked.

    Raises InputError, on all ranks, when it holds a run of other settings or can't be written.
    `overwrite` empties it and says so.
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
    if not is_run and (full or saved.is_file()):  # a config.yaml of the user's, say
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


def other_steps(run_dir: Path, old: dict[str, Any], config: Config, init: str | None = None) -> str:
    """Why a run can't take more or fewer `steps` than it was started for, and what to do instead;
    empty where the `old` config has as many.

    init: --init of train_carb.py, whose warm-up must be trained anew too.
    """
    if old.get("steps") == config.steps:
        return ""
    new = f"--run-dir {run_dir}_{config.steps}_steps"
    if init is not None:
        new += f" and the warm-up too: --run-dir {Path(init).parent}_{config.steps}_steps"
    return (
        f"\nA run of {config.steps} steps is not one of {old.get('steps')} with steps added or "
        "taken away: the learning rate falls from lr to min_lr over `steps`, so it differs at "
        f"every step. Start anew with {new}"
    )


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
