"""Checkpoints: dicts of tensors, numbers, strings and lists, as torch's safe loader needs."""

import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from utils.old_config import translate
from utils.safe.errors import InputError
from utils.safe.tensors import read_tensors, write_tensors
from utils.safe.yaml_file import fault_of

FORMAT = 1
_ANOTHER = "copy the file again, or use another checkpoint of the run"
_OF_W = {"queue_consistent", "queue_inconsistent"}
_OF_CLASSES = {"queue_classes", "best_classes"}  # of models/region_balance.py
_QUEUES = (_OF_W, _OF_W | _OF_CLASSES, set())  # a supervised run has none


def _is_list_of(value: Any, kind: type, least: int = 0) -> bool:
    return isinstance(value, list) and len(value) >= least and all(type(v) is kind for v in value)


def _are_queues(state: Any) -> bool:
    return (
        isinstance(state, dict)
        and state.keys() in _QUEUES
        and all(isinstance(values, list) for values in state.values())
        and all(v is None or type(v) is float for key in _OF_W for v in state.get(key, []))
        and _is_list_of(state.get("best_classes", []), float)
        and all(_are_sums(sums) for sums in state.get("queue_classes", []))
    )


def _are_sums(sums: Any) -> bool:
    """Whether it is a list of equally long lists of numbers."""
    rows = sums if _is_list_of(sums, list, 1) else [None]
    return all(_is_list_of(row, float) and len(row) == len(rows[0]) for row in rows)


def _is_color(value: Any) -> bool:
    return _is_list_of(value, int) and len(value) == 3 and 0 <= min(value) <= max(value) <= 255


def _is_log(state: Any) -> bool:
    return (
        isinstance(state, dict)
        and state.keys() == {"sums", "num_steps", "seconds"}
        and isinstance(state["sums"], dict)
        and all(isinstance(value, torch.Tensor) for value in state["sums"].values())
        and type(state["num_steps"]) is int
        and type(state["seconds"]) is float
    )


# Key that utils/run.py writes -> what its value must be, and a test of that.
_KINDS = {
    "stage": ("a text", lambda v: type(v) is str),
    "step": ("a whole number", lambda v: type(v) is int and v >= 0),
    "model": ("a dict of tensors", lambda v: isinstance(v, dict)),
    "optimizer": ("a dict", lambda v: isinstance(v, dict)),
    "criterion": (
        "a list with the queues of each process",
        lambda v: _is_list_of(v, dict, 1) and all(map(_are_queues, v)),
    ),
    "log": ("the state of utils/runlog.py", lambda v: v == {} or _is_log(v)),
    "world_size": ("a whole number", lambda v: type(v) is int and v >= 1),
    "config": ("a dict of settings", lambda v: isinstance(v, dict) and not fault_of(v)),
    "class_names": (
        "1 to 255 printable names",
        lambda v: _is_list_of(v, str, 1) and len(v) <= 255 and all(map(str.isprintable, v)),
    ),
    "palette": ("a list of colours", lambda v: isinstance(v, list) and all(map(_is_color, v))),
    "inputs": (
        "digests of what was trained on",
        lambda v: isinstance(v, dict) and _is_list_of([*v, *v.values()], str),
    ),
}


def save_checkpoint(
    path: str | Path, content: dict[str, Any], previous: Path | None = None
) -> None:
    """Write a checkpoint atomically, with the versions of Python, torch and torchvision.

    The file that was at `path` is kept as `previous`.
    """
    write_tensors(Path(path), {"format": FORMAT, "versions": versions()} | content, previous)


def versions() -> dict[str, str]:
    """Versions of Python, torch and torchvision."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": version("torchvision"),
    }


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint to the CPU without executing anything in it.

    Raises InputError when the file is missing, truncated or not a dict.
    """
    path = Path(path)
    if path.is_dir():
        inside = sorted(path.glob("last.pt")) or sorted(path.glob("*/last.pt"))
        names = " or ".join(map(str, inside)) or "the checkpoint in it, e.g. last.pt"
        raise InputError(f"no checkpoint at {path}: it is a folder; name {names}")
    if not path.is_file():
        raise InputError(
            f"no checkpoint at {path}; name an existing file: last.pt in the run folder of a "
            "training script, or an official checkpoint"
        )
    if path.suffix in (".yaml", ".yml", ".json", ".txt"):
        raise InputError(f"{path} is not a checkpoint; name one, for example last.pt of a run")
    content = read_tensors(path, "the checkpoint")
    if not isinstance(content, dict):
        raise InputError(f"{path}: expected a dict, found {type(content).__name__}")
    if isinstance(content.get("config"), dict):
        content["config"] = translate(content["config"], f"{path} (config)")
    return content


def load_training_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint of a training script. Raises InputError for other files."""
    content = load_checkpoint(path)
    found = content.get("format")
    if type(found) is not int or found != FORMAT or not isinstance(content.get("model"), dict):
        raise InputError(
            f"{path} was not written by this program's training scripts (found keys "
            f"{', '.join(map(str, list(content)[:5]))}); official checkpoints need eval.py "
            "with --config"
        )
    for key in ("log", "inputs"):
        content.setdefault(key, {})  # older checkpoints lack it
    sums = content["log"].get("sums") if isinstance(content["log"], dict) else None
    if isinstance(sums, dict) and "balance" in sums:  # its name in earlier versions
        sums["w"] = sums.pop("balance")
    missing = [key for key in _KINDS if key not in content]
    if missing:
        raise InputError(f"{path}: the checkpoint lacks {', '.join(missing)}; {_ANOTHER}")
    check_content(content, path)
    if len(content["criterion"]) != content["world_size"]:
        raise InputError(
            f"{path}: 'criterion' in the checkpoint must be a list of {content['world_size']} "
            f"state(s), one per process, found {len(content['criterion'])}; {_ANOTHER}"
        )
    return content


def check_content(content: dict[str, Any], path: str | Path) -> None:
    """Raise InputError where a value that the training scripts write has the wrong type."""
    for key, (expected, good) in _KINDS.items():
        if key in content and not good(content[key]):
            raise InputError(
                f"{path}: '{key}' in the checkpoint must be {expected}, found "
                f"{type(content[key]).__name__}; {_ANOTHER}"
            )


def load_weights(
    model: torch.nn.Module, state: dict[str, torch.Tensor], source: str | Path
) -> None:
    """Load strictly, naming tensors that do not fit. A network on "meta" moves to the CPU."""
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
    broken = [key for key, value in state.items() if not value.isfinite().all()]
    if broken:
        raise InputError(
            f"{source}: {broken[0]} and {len(broken) - 1} more tensors hold NaN or infinity: the "
            "training had diverged by then; use an earlier checkpoint"
        )
    if any(tensor.is_meta for tensor in own.values()):
        model.to_empty(device="cpu")
    model.load_state_dict(state)


def load_optimizer(
    optimizer: torch.optim.Optimizer, state: dict[str, Any], source: str | Path
) -> None:
    """Restore the momentum, and Adam's moments and steps; everything else follows the config.

    Raises InputError when the state belongs to another network.
    """
    own = optimizer.state_dict()
    sizes = [p.shape for group in optimizer.param_groups for p in group["params"]]
    momenta = state.get("state")
    good = isinstance(momenta, dict) and all(
        i in range(len(sizes)) and _is_momentum(kept, sizes[i]) for i, kept in momenta.items()
    )
    if not good:
        raise InputError(
            f"{source} holds the optimizer of another network than the config describes; {_ANOTHER}"
        )
    optimizer.load_state_dict({"state": momenta, "param_groups": own["param_groups"]})


def _is_momentum(kept: Any, size: torch.Size) -> bool:
    return isinstance(kept, dict) and all(
        value is None or (isinstance(value, torch.Tensor) and value.shape in (size, ()))
        for value in kept.values()
    )
