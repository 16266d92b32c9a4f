"""Log of a training run: command.txt, git.txt, metrics.jsonl, and one progress line."""

import json
import os
import shlex
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from utils.config import Config
from utils.distributed import Ranks
from utils.run_folder import git
from utils.safe.errors import InputError
from utils.safe.files import parse_json, replacing
from utils.safe.signals import this_command

_LEGEND = (
    "on a progress line: L_c, L_i: losses of the consistent and the inconsistent region (global "
    "view); w: weight of L_i (CARB); consistent: share of the pixels where mask and network agree"
)
_LEGEND_OF_POINTS = (
    "on a progress line: L_point, L_mask: losses at the points and in the pseudo-masks; labelled: "
    "share of the cells that the pseudo-masks label"
)


def describe(config: Config, dataset: Any, model: nn.Module, stage: str = "warmup") -> str:
    """First lines of a run: data, labels and network.

    dataset: a TrainingSet. stage: see `utils.run.Run`; the masks of "supervised" are ground truth.
    """
    views, legend = f", views {config.views}", [_LEGEND]
    if stage == "supervised":
        labels, views, legend = "pixel by pixel, from ground truth", "", []
    elif dataset.points is not None:
        number = sum(map(len, dataset.points.values()))
        labels, views = f"{number} points of {config.points}", ""
        legend = [_LEGEND_OF_POINTS]
    elif stage not in ("warmup", "carb"):
        labels, views, legend = f"image labels {config.image_labels}", "", []
    elif dataset.masks is None:
        labels = f"image labels {config.image_labels}, masks made by CLIP in training"
    else:
        labels = f"image labels {config.image_labels}, masks {config.pseudo_masks}"
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    lines = [
        f"data: {len(dataset)} images ({config.train_split} of {config.data_root}), "
        f"{dataset.num_classes} classes; {labels}",
        f"network: {config.backbone}, {millions:.1f} M parameters, {config.classifier} "
        f"classifier{views}, {_arithmetic(config, model)}",
    ]
    return "".join(f"{line}\n" for line in lines + legend)


def _arithmetic(config: Config, model: nn.Module) -> str:
    """Precision and memory format, as text; on a GPU in float32 also where it uses TF32."""
    parts = [config.precision, *["channels_last"] * bool(config.channels_last)]
    if config.precision == "fp32" and next(model.parameters()).is_cuda:
        backends = torch.backends
        with_tf32 = ["convolutions"] * backends.cudnn.allow_tf32
        with_tf32 += ["matrix products"] * backends.cuda.matmul.allow_tf32
        parts.append(f"TF32 in {' and '.join(with_tf32)}" if with_tf32 else "without TF32")
    return ", ".join(parts)


class RunLog:
    """Log of means between two log steps: metrics.jsonl and a progress line.

    The line is a bar where standard error is a terminal, else printed at each log step. The first
    step of each start is also shown, but not written to the file. state: "log" of the resumed
    checkpoint. about: printed before the first step. board: TensorBoard's writer of the means.
    """

    def __init__(
        self,
        run_dir: Path,
        config: Config,
        ranks: Ranks,
        step: int,
        end: int,
        title: str,
        state: dict[str, Any] | None = None,
        about: str = "",
        board: Any = None,
    ) -> None:
        self.path = run_dir / "metrics.jsonl"
        self.config, self.ranks, self.first_step, self.end = config, ranks, step, end
        self.board, self.lr = board, 0.0
        self.names: list[str] = []
        self.start_time = self.first_time = time.perf_counter()
        self.sums: dict[str, torch.Tensor] = {}
        self.num_steps = 0
        if state:
            self.sums = {key: value.to(ranks.device) for key, value in state["sums"].items()}
            self.num_steps = state["num_steps"]
            self.start_time -= state["seconds"]
        if ranks.is_main and step < end:
            self._forget_after(step)
            escaped = {"encoding": "utf-8", "errors": "surrogateescape"}  # names in any encoding
            with (run_dir / "command.txt").open("a", **escaped) as file:
                file.write(f"{shlex.join(this_command())}\n")
            commit, changes = git("rev-parse", "HEAD"), git("diff", "HEAD")
            (run_dir / "git.txt").write_text(f"{commit}\n{changes}", **escaped)
            self._begin(run_dir, about)
        hidden = not (ranks.is_main and sys.stderr.isatty())
        self.progress = tqdm(
            total=end, initial=step, desc=title, disable=hidden, dynamic_ncols=True
        )

    def _begin(self, run_dir: Path, about: str) -> None:
        """Print steps, batch size and folder; config.yaml in the run folder has every setting."""
        config, world = self.config, self.ranks.world_size
        where = self.ranks.device if world == 1 else f"{world} x {self.ranks.device.type}"
        print(
            f"{about}{run_dir}: steps {self.first_step + 1} to {self.end}, batch size "
            f"{config.batch_size} on {where}; a log line every {config.log_every} steps, a "
            f"checkpoint every {config.checkpoint_every}\nall settings: {run_dir / 'config.yaml'}",
            flush=True,
        )

    def _forget_after(self, step: int) -> None:
        """Drop the lines of steps that a resumed run repeats."""
        if not self.path.exists():
            return
        text = self.path.read_text(encoding="utf-8", errors="replace")
        kept = "".join(f"{line}\n" for line in text.splitlines() if _step_of(line) <= step)
        if kept != text:
            with replacing(self.path) as temporary:
                temporary.write_text(kept, encoding="utf-8")

    def add(self, step: int, lr: float, values: dict[str, torch.Tensor], names: list[str]) -> None:
        """Add one step's values (`step` steps are done); no host wait between log steps."""
        for key, value in values.items():
            self.sums[key] = self.sums[key] + value if key in self.sums else value.detach().clone()
        self.lr, self.names = lr, names
        self.num_steps += 1
        self.progress.update(1)
        if step % self.config.log_every == 0:
            self.flush(step)
        elif step == self.first_step + 1 and self.ranks.is_main:
            own = {key: value.tolist() for key, value in values.items()}
            self._show(step, self._line(own))

    def flush(self, step: int) -> None:
        """Write the means since the last time. Raises InputError when the loss is not finite."""
        if not self.num_steps:
            return
        means = self._means(step)
        seconds = time.perf_counter() - self.start_time
        line: dict[str, Any] = {"step": step, "lr": self.lr} | means
        line["images_per_second"] = self.num_steps * self.config.batch_size / seconds
        if self.ranks.on_cuda:
            line["max_memory_mib"] = torch.cuda.max_memory_allocated() / 2**20
        if self.ranks.is_main:
            self._write(json.dumps(line) + "\n")
            if self.board:
                self.board.scalars(line)
            left = f" ETA {self._left(step)}" * self.progress.disable  # a bar shows its own
            self._show(step, self._line(line) + left)
        self.sums, self.num_steps, self.start_time = {}, 0, time.perf_counter()

    def state(self, step: int) -> dict[str, Any]:
        """Sums since the last line, for a checkpoint between two lines; else empty.

        Raises InputError when the loss is not finite.
        """
        if not self.num_steps:
            return {}
        self._means(step)
        sums = {key: value.cpu() for key, value in self.sums.items()}
        seconds = time.perf_counter() - self.start_time
        return {"sums": sums, "num_steps": self.num_steps, "seconds": seconds}

    def _means(self, step: int) -> dict[str, Any]:
        # On the CPU: Apple's GPUs have no double precision.
        means = {k: (v.cpu().double() / self.num_steps).tolist() for k, v in self.sums.items()}
        if not abs(means["loss"]) < float("inf"):
            raise InputError(
                f"the loss is not finite at step {step} (last images: {', '.join(self.names)}); no "
                "checkpoint was written since the last log line. Lower lr, or with "
                "arithmetic.empty_region: nan choose zero"
            )
        return means

    def _write(self, line: str) -> None:
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
                file.flush()
                os.fsync(file.fileno())  # no checkpoint without the lines before it
        except OSError as error:
            raise InputError(
                f"{self.path} can't be written: {error.strerror}; the checkpoints are intact: free "
                "space and run the same command again to resume"
            ) from None

    def _show(self, step: int, text: str) -> None:
        if self.progress.disable:
            with suppress(OSError):  # a closed console does not end training
                print(f"step {step}/{self.end} {text}", flush=True)
        else:
            self.progress.set_postfix_str(text)

    @staticmethod
    def _line(line: dict[str, Any]) -> str:
        shown = {
            "loss": "loss",
            "loss_cls": "L_cls",
            "loss_rcm": "L_rcm",
            "loss_mam": "L_mam",
            "loss_consistent": "L_c",
            "loss_inconsistent": "L_i",
            "loss_points": "L_point",
            "loss_masks": "L_mask",
            "labelled_fraction": "labelled",
            "w": "w",
            "consistent_fraction": "consistent",
            "images_per_second": "images/s",
        }
        return " ".join(f"{name} {line[key]:.3g}" for key, name in shown.items() if key in line)

    def _left(self, step: int) -> str:
        """Time to the end at the mean speed since the start, as 1:02:03."""
        seconds = (time.perf_counter() - self.first_time) / (step - self.first_step)
        return tqdm.format_interval(seconds * (self.end - step))

    def close(self) -> None:
        self.progress.close()
        if self.board:
            self.board.close()


def _step_of(line: str) -> float:
    """Step of a line of metrics.jsonl; infinite where the line is damaged."""
    try:
        step = parse_json(line)["step"]
    except (ValueError, KeyError, TypeError):
        step = None
    return step if type(step) is int else float("inf")
