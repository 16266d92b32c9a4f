"""The run folder: config.yaml, command.txt, git.txt, metrics.jsonl, and one progress line."""

import json
import shlex
import shutil
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from utils.config import Config, load_config, save_config
from utils.distributed import Ranks, gather_objects
from utils.errors import InputError

# Where and how often, not what: a run may go on after these have changed.
_FREE_KEYS = {
    "data_root",
    "image_labels",
    "pseudo_masks",
    "clip_model",
    "clip_text",
    "backbone_weights",
    "num_workers",
    "image_cache",
    "log_every",
    "checkpoint_every",
}


def changed_settings(
    old: dict[str, Any], config: Config, ignore: Collection[str] = frozenset()
) -> str:
    """What decides a result and differs, as "key: old -> new, ..."; empty when nothing does."""
    return ", ".join(
        f"{key}: {old.get(key)} -> {value}"
        for key, value in config.to_dict().items()
        if old.get(key) != value and key not in _FREE_KEYS and key not in ignore
    )


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
    problem = gather_objects(problem)[0]
    if problem:
        raise InputError(problem)
    return run_dir


def _open(run_dir: Path, config: Config, overwrite: bool) -> None:
    saved = run_dir / "config.yaml"
    if overwrite and run_dir.exists():
        if any(run_dir.iterdir()) and not saved.is_file():
            raise InputError(f"--overwrite: {run_dir} is not a run folder; nothing was removed")
        print(f"--overwrite: removing the run in {run_dir}")
        shutil.rmtree(run_dir)
    elif saved.is_file() and any(run_dir.glob("*.pt")):
        changed = changed_settings(load_config(saved).to_dict(), config)
        if changed:
            raise InputError(
                f"{run_dir} holds a run with other settings ({changed}); choose another "
                "--run-dir, or --overwrite to start anew"
            )
    run_dir.mkdir(parents=True, exist_ok=True)
    save_config(config, saved)


def git(*arguments: str) -> str:
    root = Path(__file__).resolve().parent.parent
    try:
        done = subprocess.run(["git", "-C", root, *arguments], capture_output=True, text=True)
    except OSError:
        return "git not found"
    return done.stdout.strip() if done.returncode == 0 else "no commit"


class RunLog:
    """Means of the logged values between two log steps: to metrics.jsonl and to a progress line."""

    def __init__(
        self, run_dir: Path, config: Config, ranks: Ranks, step: int, end: int, description: str
    ) -> None:
        self.path = run_dir / "metrics.jsonl"
        self.config = config
        self.ranks = ranks
        self.sums: dict[str, torch.Tensor] = {}
        self.names: list[str] = []
        self.num_steps = 0
        self.start_time = time.perf_counter()
        if ranks.is_main and step < end:
            self._forget_after(step)
            settings = (run_dir / "config.yaml").read_text(encoding="utf-8")
            print(f"{settings}{run_dir}: steps {step + 1} to {end}", flush=True)
            with (run_dir / "command.txt").open("a", encoding="utf-8") as file:
                file.write(f"{shlex.join(sys.argv)}\n")
            commit, changes = git("rev-parse", "HEAD"), git("diff", "HEAD")
            (run_dir / "git.txt").write_text(f"{commit}\n{changes}", encoding="utf-8")
        hidden = not (ranks.is_main and sys.stderr.isatty())
        self.progress = tqdm(
            total=end, initial=step, desc=description, disable=hidden, dynamic_ncols=True
        )

    def _forget_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run takes again."""
        if not self.path.exists():
            return
        lines = self.path.read_text(encoding="utf-8").splitlines()
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= step]
        self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def add(self, step: int, lr: float, values: dict[str, torch.Tensor], names: list[str]) -> None:
        """Take one step's values (`step` steps are done); no host wait between log steps."""
        for key, value in values.items():
            self.sums[key] = self.sums[key] + value if key in self.sums else value.detach().clone()
        self.names = names
        self.num_steps += 1
        self.progress.update(1)
        if step % self.config.log_every == 0:
            self.flush(step, lr)

    def flush(self, step: int, lr: float) -> None:
        """Write the means since the last time. Raises InputError when the loss is not finite."""
        if not self.num_steps:
            return
        means = {k: (v.double() / self.num_steps).tolist() for k, v in self.sums.items()}
        if not abs(means["loss"]) < float("inf"):
            raise InputError(
                f"the loss is not finite at step {step} (last images: {', '.join(self.names)}); no "
                "checkpoint was written since the last log line. Lower lr, or with empty_region: "
                "nan choose zero"
            )
        seconds = time.perf_counter() - self.start_time
        line: dict[str, Any] = {"step": step, "lr": lr} | means
        line["images_per_second"] = self.num_steps * self.config.batch_size / seconds
        if self.ranks.on_cuda:
            line["max_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
        if self.ranks.is_main:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            text = self._line(line)
            if self.progress.disable:
                print(f"step {step}/{self.progress.total} {text}", flush=True)
            else:
                self.progress.set_postfix_str(text)
        self.sums, self.num_steps, self.start_time = {}, 0, time.perf_counter()

    @staticmethod
    def _line(line: dict[str, Any]) -> str:
        shown = {
            "loss": "loss",
            "loss_consistent": "L_c",
            "loss_inconsistent": "L_i",
            "balance": "w",
            "consistent_fraction": "consistent",
            "images_per_second": "images/s",
        }
        return " ".join(f"{name} {line[key]:.3g}" for key, name in shown.items() if key in line)

    def close(self) -> None:
        self.progress.close()
