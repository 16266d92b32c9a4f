"""Checkpoints: dicts of tensors, numbers, strings and lists, as torch's safe loader wants."""

import platform
from pathlib import Path
from typing import Any

import torch
import torchvision

from utils.errors import InputError
from utils.tensors import read_tensors, write_tensors

FORMAT = 1


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write whole or not at all, with the versions of what the run ran on."""
    write_tensors(Path(path), {"format": FORMAT, "versions": versions()} | content)


def versions() -> dict[str, str]:
    """What the run ran on."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
    }


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU without executing anything in it.

    Raises InputError when it is not there, cut short, or not a dict.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(
            f"no checkpoint at {path}; the train_*.py scripts write last.pt into their run folders"
        )
    content = read_tensors(path, "the checkpoint")
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a dict, found {type(content).__name__}")
    return content


def load_training_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint that one of the training scripts wrote."""
    content = load_checkpoint(path)
    if content.get("format") != FORMAT or not isinstance(content.get("model"), dict):
        raise InputError(
            f"{path} was not written by this program's training scripts (found keys "
            f"{', '.join(map(str, list(content)[:5]))}); the authors' checkpoints go to eval.py "
            "with --config"
        )
    return content


def load_weights(
    model: torch.nn.Module, state: dict[str, torch.Tensor], source: str | Path
) -> None:
    """Strict load that says which tensors do not fit."""
    own = model.state_dict()
    state = {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    wrong = [f"{key} (not in this network)" for key in state if key not in own]
    wrong += [f"{key} (missing)" for key in own if key not in state]
    wrong += [
        f"{key}: {tuple(state[key].shape)} in the file, {tuple(own[key].shape)} in the network"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 4} more" if len(wrong) > 4 else ""
        raise InputError(
            f"{source} holds another network than the config describes: "
            f"{'; '.join(wrong[:4])}{more}. "
            "Use the config it was trained with (config.yaml in its run folder)"
        )
    model.load_state_dict(state)
