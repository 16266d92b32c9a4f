"""What lies between runs: saving, resuming, and going on from the warm-up."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from datasets.labels import ClassTable
from models.carb import CARBCriterion
from utils.checkpoint import load_training_checkpoint, load_weights, save_checkpoint
from utils.config import Config
from utils.distributed import Ranks, barrier, gather_objects
from utils.errors import InputError
from utils.runlog import changed_settings, git

# What only the second stage reads: a warm-up serves several of these.
CARB_KEYS = {"carb", "queue_size", "balance", "balance_coefficient"}


def checkpoint_names(step: int, keep: bool) -> list[str]:
    """last.pt, and before it what --keep leaves: a run killed in between writes both again."""
    return [f"step_{step:06d}.pt"] * keep + ["last.pt"]


def save(
    run_dir: Path,
    names: list[str],
    stage: str,
    step: int,
    config: Config,
    classes: ClassTable,
    ranks: Ranks,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    criterion: CARBCriterion | None = None,
) -> None:
    """Write the state after `step` steps under each of `names` in `run_dir`; all ranks wait."""
    queues = gather_objects(criterion.queue_state() if criterion else {})
    if ranks.is_main:
        content = {
            "stage": stage,
            "step": step,
            "model": model.state_dict(),
            "optimizer": optimizer.state_dict(),
            "criterion": queues,
            "world_size": ranks.world_size,
            "git": git("rev-parse", "HEAD"),
            "config": config.to_dict(),
            "class_names": list(classes.names),
            "palette": classes.palette.tolist(),
        }
        for name in names:
            save_checkpoint(run_dir / name, content)
    barrier()


def restore(
    path: Path,
    end: int,
    ranks: Ranks,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    criterion: CARBCriterion | None = None,
) -> int:
    """Load weights, momentum and queues; returns the step of `path`, 0 where there is no file."""
    if not path.is_file():
        return 0
    checkpoint = load_training_checkpoint(path)
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
    optimizer.load_state_dict(checkpoint["optimizer"])
    if criterion is not None:
        criterion.load_queue_state(queues[ranks.rank])
    if ranks.is_main:
        state = "is finished; --overwrite starts anew" if step >= end else f"goes on to step {end}"
        print(f"{path}: step {step}, {state}")
    return step


def check_warmup(
    checkpoint: dict[str, Any], path: str | Path, config: Config, classes: ClassTable
) -> None:
    """Refuse a --init that this config's CARB stage can't go on from: both are one schedule."""
    if not config.carb:
        raise InputError(
            "carb: false has no second stage; train_warmup.py takes all steps of this row"
        )
    expected = {"stage": "warmup", "step": config.warmup_steps, "class_names": list(classes.names)}
    for key, value in expected.items():
        if checkpoint[key] != value:
            raise InputError(
                f"--init {path}: expected {key} {value}, found {checkpoint[key]}; train_warmup.py "
                "with the same config writes the checkpoint to start from (warmup.pt)"
            )
    changed = changed_settings(checkpoint["config"], config, ignore=CARB_KEYS)
    if changed:
        raise InputError(
            f"--init {path} was trained with other settings ({changed}); both stages share one "
            "schedule, so train the warm-up with this config too"
        )
