"""What lies between runs: saving, resuming, and going on from the warm-up."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets.labels import ClassTable
from models.carb import CARBCriterion
from utils.checkpoint import (
    load_optimizer,
    load_training_checkpoint,
    load_weights,
    save_checkpoint,
)
from utils.class_names import compare_class_names
from utils.config import CARB, Config, config_from_dict, keys_of
from utils.distributed import Ranks, gather_objects
from utils.inputs import Inputs, check_inputs
from utils.other_steps import other_steps
from utils.run_folder import changed_settings, git
from utils.runlog import RunLog
from utils.safe.errors import InputError


def checkpoint_names(step: int, keep: bool) -> list[str]:
    """last.pt, and before it what --keep-checkpoints leaves: a run killed between writes both."""
    return [f"step_{step:06d}.pt"] * keep + ["last.pt"]


def save(
    run_dir: Path,
    names: list[str],
    stage: str,
    step: int,
    log: RunLog,
    classes: ClassTable,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    criterion: CARBCriterion | None = None,
) -> None:
    """Write the state after `step` steps under each of `names` in `run_dir`; all ranks wait.

    The last.pt of before becomes previous.pt. Raises InputError, on all ranks, when the disk is
    full or fails; what was there before is still whole then.
    """
    queues = gather_objects(criterion.state_dict() if criterion else {})
    log_state, problem = log.state(step), None
    if log.ranks.is_main:
        content = {
            "stage": stage,
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "criterion": queues,
            "log": log_state,
            "world_size": log.ranks.world_size,
            "git": git("rev-parse", "HEAD"),
            "config": log.config.to_dict(),
            "class_names": list(classes.names),
            "palette": classes.palette.tolist(),
            "inputs": log.inputs,
        }
        try:
            for name in names:
                previous = run_dir / "previous.pt" if name == "last.pt" else None
                save_checkpoint(run_dir / name, content, previous)
        except OSError as error:
            there = (run_dir / "last.pt").exists()
            problem = (
                f"{error.filename}: the checkpoint of step {step} can't be written: "
                f"{error.strerror}; mend that (make room, get the right to write) and give the "
                "same command again" + ": last.pt is whole, it goes on from there" * there
            )
    problem = gather_objects(problem)[0]
    if problem:
        raise InputError(problem)


def restore(
    run_dir: Path,
    stage: str,
    end: int,
    ranks: Ranks,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    criterion: CARBCriterion | None = None,
    init: str | Path | None = None,
    inputs: Inputs | None = None,
) -> tuple[int, dict[str, Any]]:
    """Load weights, momentum and queues from the newest whole checkpoint of a run, else `init`.

    Returns its step and the state of its log; 0 and nothing where there is no checkpoint. Raises
    InputError, on all ranks, when it was trained on other `inputs` (which rank 0 alone has).
    """
    path, checkpoint, problems = _newest(run_dir)
    seen = gather_objects(path and (path.name, checkpoint["step"]))
    if any(one != seen[0] for one in seen):
        raise InputError(
            f"the processes see different checkpoints in {run_dir}: {', '.join(map(str, seen))}; "
            "all machines need one --run-dir, on a disk that they share"
        )
    if path is None and init is not None:
        path, checkpoint = Path(init), load_training_checkpoint(init)
    elif path is not None and checkpoint["stage"] != stage:
        raise InputError(
            f"{path} was written by {_script(checkpoint['stage'])}; choose another --run-dir for "
            f"{_script(stage)}"
        )
    _compare_and_record(run_dir, checkpoint, path, inputs)
    if path is None:
        return 0, {}
    queues = checkpoint["criterion"]
    if checkpoint["world_size"] != ranks.world_size:
        # Each process keeps queues of its own; before CARB they are empty.
        if any(values for state in queues for values in state.values()):
            raise InputError(
                f"{path} was written by {checkpoint['world_size']} process(es), this run has "
                f"{ranks.world_size}; go on with as many, or start anew with --overwrite"
            )
        queues = [queues[0]] * ranks.world_size
    step = checkpoint["step"]
    load_weights(model, checkpoint["model"], path)
    load_optimizer(optimizer, checkpoint["optimizer"], path)
    if criterion is not None:
        criterion.load_state_dict(queues[ranks.rank])
    if ranks.is_main:
        for problem in problems:
            print(f"{problem}\nIt is put aside as last.pt.damaged", flush=True)
            (run_dir / "last.pt").replace(run_dir / "last.pt.damaged")
        state = "is finished; --overwrite starts anew" if step >= end else f"goes on to step {end}"
        print(f"{path}: step {step}, {state}")
    return step, checkpoint["log"]


def _compare_and_record(
    run_dir: Path, checkpoint: dict[str, Any], path: Path | None, inputs: Inputs | None
) -> None:
    """On rank 0, which has `inputs`; all ranks raise InputError."""
    problem = None
    if inputs is not None:
        try:
            if path is not None:
                check_inputs(checkpoint, path, inputs)
            inputs.write(run_dir)
        except InputError as error:
            problem = str(error)
    problem = gather_objects(problem)[0]
    if problem:
        raise InputError(problem)


def _script(stage: str) -> str:
    """Name of the script that trains a stage."""
    return f"train_{stage}.py" if stage in ("warmup", "carb") else f"baselines.{stage}"


def _newest(run_dir: Path) -> tuple[Path | None, dict[str, Any], list[str]]:
    """last.pt or, where that is damaged, previous.pt; its content; what is wrong with last.pt."""
    problems = []
    for path in (run_dir / "last.pt", run_dir / "previous.pt"):
        try:
            if path.exists():
                return path, load_training_checkpoint(path), problems
        except InputError as error:
            problems.append(str(error))
    if problems:
        raise InputError(
            f"{'; '.join(problems)}. No whole checkpoint is left in {run_dir}: put a copy of one "
            "there as last.pt, or start anew with --overwrite"
        )
    return None, {}, []


def load_warmup(
    path: str, config: Config, classes: ClassTable, run_dir: str | Path
) -> dict[str, Any]:
    """Read --init. Raises InputError when it is damaged, or when this config's CARB stage can't go
    on from it: both stages are one schedule."""
    if not config.carb:
        raise InputError(
            "carb: false has no second stage; train_warmup.py takes all steps of this row"
        )
    try:
        checkpoint = load_training_checkpoint(path)
    except InputError as error:
        raise InputError(
            f"--init: {error}. last.pt and warmup.pt of a finished warm-up are the same; a damaged "
            "last.pt is mended by the same train_warmup.py command, from previous.pt"
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
    changed = changed_settings(old, config, ignore=keys_of(CARB))
    if changed:
        raise InputError(
            f"--init {path} was trained with other settings ({changed}); both stages share one "
            "schedule, so train the warm-up with this config too"
            + other_steps(Path(run_dir), checkpoint["config"], config, path)
        )
    return checkpoint
