"""Upkeep of a training run: folder, log, checkpoints, signals and resuming."""

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from utils.batches import training_loader
from utils.checkpoint import (
    load_optimizer,
    load_training_checkpoint,
    load_weights,
    save_checkpoint,
)
from utils.class_names import compare_class_names
from utils.config import CARB, Config, config_from_dict, keys_of
from utils.distributed import Ranks, cleanup, gather_objects, on_main
from utils.inputs import Inputs, check_inputs
from utils.run_folder import changed_settings, git, open_run, other_steps
from utils.runlog import RunLog, describe
from utils.safe.errors import InputError
from utils.safe.stop import Stop


class Run:
    """One training run. Views, forward pass, loss and optimiser stay in the script.

        run = Run(arguments, config, ranks, stage="carb", ...)
        for step, batch in run.steps(dataset):
            ...
            run.log(losses, batch["name"], lr)
        run.close()

    `step` counts the finished steps, including those of earlier starts and of `init`.
    """

    def __init__(
        self,
        arguments: argparse.Namespace,
        config: Config,
        ranks: Ranks,
        *,
        stage: str,
        end: int,
        classes: Any,
        inputs: Callable[[], Inputs | None],
        parts: Mapping[str, Any],
        init: dict[str, Any] | None = None,
        preview: Callable[[], np.ndarray] | None = None,
    ) -> None:
        """Open the run folder; restore `parts` from its newest intact checkpoint, else from `init`.

        arguments: of `utils.cli.training_parser`. stage: "warmup", "carb" or the name of a
        baseline. end: the step at which the run is finished. classes: has
        `names` and `palette`. inputs: makes the record of the training data; called on rank 0.
        parts: name -> object with a `state_dict()` for the checkpoint: networks and optimisers,
        which are the same on all ranks, and others, whose small states are gathered from the ranks.
        init: the checkpoint of --init, as read by `load_warmup`. preview: draws the image uint8
        (H, W, 3) for TensorBoard at each checkpoint.

        Raises InputError, on all ranks, when the folder holds another run or can't be written, when
        the data have changed, when a checkpoint is damaged or does not fit, or for a config with
        `auto`, which `Config.resolved` replaces.
        """
        if config.auto:
            raise InputError(
                f"{' and '.join(config.auto)}: auto is for train_warmup.py and train_carb.py; here "
                "state it, e.g. --set precision=bf16 channels_last=true"
            )
        self.arguments, self.config, self.ranks = arguments, config, ranks
        self.stage, self.end, self.classes = stage, end, classes
        self.title = {"warmup": "warm-up", "carb": "CARB"}.get(stage, stage)
        self.parts, self.preview = parts, preview
        self.inputs = inputs() if ranks.is_main else None
        self.folder = open_run(arguments.run_dir, config, arguments.overwrite, ranks)
        self.step, self._log_state, self._log = 0, {}, None
        self._restore(init)

    def steps(self, dataset: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        """Yield (step, batch) from the first step to take until `end`, or until a signal.

        After each body: log, save a checkpoint when one is due, agree to stop. Raises InputError
        when the loss is not finite or the disk fails.
        """
        config, ranks = self.config, self.ranks
        last = {self.end, config.warmup_steps} if self.stage == "warmup" else {self.end}
        loader = training_loader(dataset, config, ranks, self.step, self.end)
        about, board = "", None
        if ranks.is_main and self.step < self.end:
            about = describe(config, dataset, self.parts["model"], self.stage)
            if self.arguments.tensorboard:
                from utils.tensorboard import Board  # optional package

                board = Board(self.folder, self.step, self.classes.names)
        start, state = self.step, self._log_state
        self._log = RunLog(
            self.folder, config, ranks, start, self.end, self.title, state, about, board
        )
        with Stop(ranks) as self._stop:
            for batch in loader:
                yield self.step, batch
                self.step += 1
                self._log.add(self.step, *self._values)
                due = self.step % config.checkpoint_every == 0 or self.step in last
                if due:
                    self._log.flush(self.step)
                if self._stop.agree() or due:
                    self.save(keep=due and self.arguments.keep_checkpoints)
                if due and board and self.preview:
                    board.image("fixed batch", self.preview(), self.step)
                if self._stop.signal:
                    break

    def log(self, losses: Mapping[str, Tensor], names: list[str], lr: float) -> None:
        """Pass this step's losses, image ids and learning rate to the log."""
        self._values = lr, {key: value.detach() for key, value in losses.items()}, names

    def close(self, goes_on: bool = False) -> None:
        """Print the last step and leave the process group; exit if a signal came.

        The script must delete DistributedDataParallel, which needs the group, first. goes_on: the
        script has more work for the group, unless a signal came.
        """
        self._log.close()
        if self.ranks.is_main:
            path = self.folder / "last.pt"
            print(f"{self.title}: step {self.step} of {self.end} done, {path}")
        if self._stop.signal or not goes_on:
            cleanup()
        self._stop.exit_if_stopped()

    def save(self, keep: bool = False) -> None:
        """Write last.pt; the old one becomes previous.pt. All ranks wait.

        warmup.pt, at the end of the warm-up, and with `keep` step_<number>.pt are written first, so
        that a run killed in between writes them again. Raises InputError, on all ranks, when the
        disk is full or fails; the old checkpoints are intact then.
        """
        is_warmup = self.stage == "warmup" and self.step == self.config.warmup_steps
        names = ["warmup.pt"] * is_warmup + [f"step_{self.step:06d}.pt"] * keep + ["last.pt"]
        content = {"criterion": [{}] * self.ranks.world_size}  # for a run without one
        for name, part in self.parts.items():
            state = part.state_dict()
            content[name] = state if _is_shared(part) else gather_objects(state)
        content["log"] = self._log.state(self.step) if self._log else self._log_state
        on_main(self.ranks, lambda: self._write(names, content))

    def _write(self, names: list[str], content: dict[str, Any]) -> None:
        content |= {
            "stage": self.stage,
            "step": self.step,
            "world_size": self.ranks.world_size,
            "git": git("rev-parse", "HEAD"),
            "config": self.config.to_dict(),
            "class_names": list(self.classes.names),
            "palette": self.classes.palette.tolist(),
            "inputs": self.inputs.digests() if self.inputs else {},
        }
        try:
            for name in names:
                previous = self.folder / "previous.pt" if name == "last.pt" else None
                save_checkpoint(self.folder / name, content, previous)
        except OSError as error:
            exists = (self.folder / "last.pt").exists()
            raise InputError(
                f"{error.filename}: the checkpoint of step {self.step} can't be written: "
                f"{error.strerror}; fix that (free space, get write permission) and run the "
                "same command again" + "; it resumes from last.pt, which is intact" * exists
            ) from None

    def _restore(self, init: dict[str, Any] | None) -> None:
        path, checkpoint, problems = _newest(self.folder)
        seen = gather_objects(path and (path.name, checkpoint["step"]))
        if any(one != seen[0] for one in seen):
            raise InputError(
                f"the processes see different checkpoints in {self.folder}: "
                f"{', '.join(map(str, seen))}; all machines need the same --run-dir, on a "
                "shared disk"
            )
        if path is None and init is not None:
            path, checkpoint = Path(self.arguments.init), init
        elif path is not None and checkpoint["stage"] != self.stage:
            raise InputError(
                f"{path} was written by {_script(checkpoint['stage'])}; choose another --run-dir "
                f"for {_script(self.stage)}"
            )
        on_main(self.ranks, lambda: self._compare_inputs(checkpoint, path))
        if path is None:
            return
        for name, part in self.parts.items():
            if name not in checkpoint:
                raise InputError(f"{path} has no '{name}'; use a checkpoint of the same method")
            self._load(part, checkpoint[name], path)
        self.step, self._log_state = checkpoint["step"], checkpoint["log"]
        if self.ranks.is_main:
            for problem in problems:
                print(f"{problem}\nIt is renamed to last.pt.damaged", flush=True)
                (self.folder / "last.pt").replace(self.folder / "last.pt.damaged")
            left = f"resuming to step {self.end}"
            state = "is finished; --overwrite starts over" if self.step >= self.end else left
            print(f"{path}: step {self.step}, {state}")

    def _compare_inputs(self, checkpoint: dict[str, Any], path: Path | None) -> None:
        if self.inputs is not None:
            if path is not None:
                check_inputs(checkpoint, path, self.inputs)
            self.inputs.write(self.folder)

    def _load(self, part: Any, state: Any, path: Path) -> None:
        if isinstance(part, Optimizer):
            load_optimizer(part, state, path)
        elif _is_shared(part):
            load_weights(part, state, path)
        elif len(state) == self.ranks.world_size:
            part.load_state_dict(state[self.ranks.rank])
        elif any(values for one in state for values in one.values()):
            raise InputError(
                f"{path} was written by {len(state)} process(es), this run has "
                f"{self.ranks.world_size}; resume with as many, or start over with --overwrite"
            )
        else:  # the queues are empty, as before CARB
            part.load_state_dict(state[0])


def _script(stage: str) -> str:
    """Name of the script that trains a stage."""
    return f"train_{stage}.py" if stage in ("warmup", "carb") else f"baselines.{stage}"


def _is_shared(part: Any) -> bool:
    """Whether a part is the same on all ranks: a network or its optimiser."""
    return isinstance(part, Optimizer) or (
        isinstance(part, nn.Module) and next(part.parameters(), None) is not None
    )


def _newest(folder: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """Path of last.pt or, if damaged, previous.pt; its content; the problems of last.pt."""
    problems = []
    for path in (folder / "last.pt", folder / "previous.pt"):
        try:
            if path.exists():
                return path, load_training_checkpoint(path), problems
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(
            f"{'; '.join(problems)}. No intact checkpoint is left in {folder}: put a copy of "
            "one there as last.pt, or start over with --overwrite"
        )
    return None, {}, []


def load_warmup(path: str, config: Config, classes: Any, run_dir: str) -> dict[str, Any]:
    """Read the warm-up checkpoint that CARB starts from; both stages share one schedule.

    Raises InputError when it is damaged or has other settings or classes.
    """
    if not config.carb:
        raise InputError("carb: false has no second stage; train_warmup.py trains all steps")
    try:
        checkpoint = load_training_checkpoint(path)
    except InputError as error:
        if not Path(path).exists():
            raise InputError(f"no checkpoint at --init {path}; run train_warmup.py first") from None
        raise InputError(
            f"--init: {error}. last.pt and warmup.pt of a finished warm-up are equal; running the "
            "same train_warmup.py command again restores a damaged last.pt from previous.pt"
        ) from None
    expected = {"stage": "warmup", "step": config.warmup_steps}
    for key, value in expected.items():
        if checkpoint[key] != value:
            raise InputError(
                f"--init {path}: expected {key} {value}, found {checkpoint[key]}; train_warmup.py "
                "with the same config writes the checkpoint to start from (warmup.pt)"
            )
    remedy = "give the class file of the warm-up, or train the warm-up with this one too"
    what = f"--init {path} was trained"
    compare_class_names(checkpoint["class_names"], classes.names, what, remedy)
    old = config_from_dict(checkpoint["config"], f"--init {path} (config)").to_dict()
    settings = changed_settings(old, config, ignore=keys_of(CARB))
    if settings:
        raise InputError(
            f"--init {path} was trained with other settings ({settings}); both stages share one "
            "schedule, so train the warm-up with this config too"
            + other_steps(Path(run_dir), old, config, path)
        )
    return checkpoint
