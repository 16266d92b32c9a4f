"""Why a run takes neither more nor fewer steps than it was started for, and what to do instead."""

import shlex
from pathlib import Path
from typing import Any

from utils.config import Config
from utils.safe.signals import this_command


def other_steps(run_dir: Path, old: dict[str, Any], config: Config, init: str | None = None) -> str:
    """The reason and the commands that start anew; empty where `steps` is that of the `old` config.

    init: what train_carb.py goes on from; its warm-up is to be trained anew, too.
    """
    if old.get("steps") == config.steps:
        return ""
    text = (
        f"\nA run of {config.steps} steps is not one of {old.get('steps')} with steps added or "
        "taken away: the learning rate falls from lr to min_lr over `steps`, so it differs at "
        "every step. Start anew"
    )
    command = this_command()
    anew = _with(command, run_dir, f"{run_dir}_{config.steps}_steps")
    if anew == command:  # called by another program
        return f"{text} in another --run-dir, with carb: true from the warm-up on"
    if init is None:
        later = ", then CARB from its warmup.pt" if config.carb else ""
        return f"{text}{later}:\n    {shlex.join(anew)}"
    warmup = Path(f"{Path(init).parent}_{config.steps}_steps")
    first = _with(command, run_dir, str(warmup))
    first = [part.replace("train_carb.py", "train_warmup.py") for part in first]
    first = _with(first, Path(init), "")  # without --init
    first = [part for part in first if part not in ("--init", "--init=", "")]
    anew = _with(anew, Path(init), str(warmup / Path(init).name))
    return f"{text}, the warm-up too:\n    {shlex.join(first)}\n    {shlex.join(anew)}"


def _with(command: list[str], old: Path, new: str) -> list[str]:
    """The command with another path: as an argument of its own, or in --option=path."""
    parts = [part.partition("=") for part in command]
    return [
        new
        if Path(part) == old
        else f"{option}={new}"
        if option.startswith("--") and value and Path(value) == old
        else part
        for part, (option, _, value) in zip(command, parts, strict=True)
    ]
