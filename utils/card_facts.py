"""What a run folder says about a checkpoint, for its model card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from utils.made_from import changed, listed
from utils.safe.errors import InputError, note, printable
from utils.safe.files import read_json

_MOST = 1 << 16  # bytes read of a text; a command is shorter


def read_scores(
    path: Path, origin: dict[str, Any], class_names: Sequence[str], dataset: str
) -> dict[str, Any]:
    """The metrics.json that eval.py wrote for this checkpoint.

    origin: stage and step of the checkpoint. Raises InputError when the file is missing, damaged or
    about another step, other classes or another data set.
    """
    if not path.is_file():
        raise InputError(f"no scores at {path}; eval.py --ckpt writes metrics.json")
    scores = read_json(path)
    wanted = {"stage": None, "step": None} | origin | {"dataset": dataset}
    if other := changed(scores, wanted):
        raise InputError(
            f"{path} is not about this checkpoint ({listed(other)}): run eval.py --ckpt again"
        )
    classes = scores.get("classes")
    names = list(classes) if isinstance(classes, dict) else []
    if names != list(class_names):
        raise InputError(f"{path} has the scores of other classes; run eval.py --ckpt again")
    shares = [scores.get("miou"), scores.get("pixel_accuracy")]
    shares += [row.get("iou") if isinstance(row, dict) else -1 for row in classes.values()]
    known = [share for share in shares[2:] if share is not None]
    is_sound = all(type(share) in (int, float) and 0 <= share <= 1 for share in shares[:2] + known)
    if not is_sound or not isinstance(scores.get("split"), str):
        raise InputError(f"{path} can't be used: expected numbers from 0 to 1; run eval.py again")
    return scores


def find_scores(
    given: str | None, usual: Path, origin: dict[str, Any], class_names: Sequence[str], dataset: str
) -> dict[str, Any] | None:
    """`read_scores` of a file that is given, else of the `usual` one; None without usable scores.

    Raises InputError only for the file that is given.
    """
    if given is None and not usual.exists():
        return None
    try:
        return read_scores(Path(given or usual), origin, class_names, dataset)
    except InputError as error:
        if given is not None:
            raise
        note(f"the card will say 'not evaluated': {error}")
        return None


def training_record(folder: Path) -> dict[str, str]:
    """Commands and commit of the training, from a run folder's command.txt and git.txt.

    "command": a line for each time it was started; "git": the commit. What is missing is left out.
    """
    record = {}
    commands = [printable(line) for line in _lines(folder / "command.txt")]
    if commands:
        record["command"] = "\n".join(dict.fromkeys(commands))
    git = _lines(folder / "git.txt")
    if git:
        record["git"] = printable(git[0]) + " with local changes" * (len(git) > 1)
    return record


def _lines(path: Path) -> list[str]:
    try:
        with path.open("rb") as file:
            text = file.read(_MOST).decode("utf-8", "replace")
    except OSError:
        return []
    return [line.strip() for line in text.splitlines() if line.strip()]
