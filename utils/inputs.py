"""What a run was trained on: recorded when it starts, compared before it goes on.

RUN_DIR/inputs.json has every image with its size and labels, so that a message can name what has
changed; a checkpoint has a digest of each part. `datasets/fingerprint.py` collects them.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

from utils.class_names import compare_class_names
from utils.errors import InputError
from utils.files import parse_json, replacing

# class_names: a list; prompts: of each class; images: id -> bytes; and, where they are used,
# labels: id -> class ids; masks: what they were made from, or id -> bytes; clip: its sha256.
Inputs = dict[str, Any]

FILE = "inputs.json"
_PARTS = ("images", "labels", "masks", "prompts", "clip")


def digests(inputs: Inputs) -> dict[str, str]:
    """Part -> sha256, for a checkpoint."""
    texts = {part: json.dumps(inputs[part], sort_keys=True) for part in _PARTS if part in inputs}
    return {part: hashlib.sha256(text.encode()).hexdigest() for part, text in texts.items()}


def write_inputs(run_dir: Path, inputs: Inputs) -> None:
    """To inputs.json, whole or not at all."""
    with replacing(run_dir / FILE) as temporary:
        temporary.write_text(json.dumps(inputs), encoding="utf-8")


def read_inputs(run_dir: Path) -> Inputs:
    """Of inputs.json; nothing where it is missing (an older run) or damaged."""
    try:
        content = parse_json((run_dir / FILE).read_text(encoding="utf-8"))
        return content if isinstance(content, dict) and digests(content) else {}
    except (OSError, ValueError):
        return {}


def differences(old: Inputs, new: Inputs) -> str:
    """What has changed, in words: "3 -> 5 images; labels of 'b' differ"; empty when nothing has.

    A part that only one of them has is not compared.
    """
    changed = [part for part in _PARTS if part in old and part in new and old[part] != new[part]]
    other = f"other {', '.join(changed)}" if changed else ""
    try:
        texts = [_difference(part, old[part], new[part]) for part in changed]
        return "; ".join(filter(None, texts)) or other
    except (AttributeError, KeyError, TypeError, IndexError):  # a damaged inputs.json
        return other


def _difference(part: str, old: Any, new: Any) -> str:
    """Empty where it follows from another part: masks of images that have come or gone."""
    if part == "clip":
        return f"another CLIP (sha256 {str(old)[:12]} -> {str(new)[:12]})"
    if part == "prompts":
        if len(old) != len(new):
            return f"{len(old)} -> {len(new)} classes"
        k = next(k for k in range(len(old)) if old[k] != new[k])
        return f"class {k} is {', '.join(old[k])} -> {', '.join(new[k])}"
    if part == "masks":
        if old.keys() != new.keys():
            return "other masks"
        if "made_from" in old:
            old, new = old["made_from"], new["made_from"]
            keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
            return f"masks made with other {', '.join(keys)}"
        old, new = old["sizes"], new["sizes"]
    texts = []
    if part == "images" and old.keys() != new.keys():
        gone = [name for name in old if name not in new]
        fresh = [name for name in new if name not in old]
        by_name = f"'{gone[0]}' -> '{fresh[0]}'" if len(gone) == len(fresh) else ""
        texts.append(by_name or f"{len(old)} -> {len(new)} images")
    names = [name for name in old if name in new and old[name] != new[name]]
    if names:
        more = f" and of {len(names) - 1} more" if len(names) > 1 else ""
        what = {"images": "files", "labels": "labels", "masks": "mask files"}[part]
        texts.append(f"{what} of '{names[0]}'{more} differ")
    return "; ".join(texts)


def check_inputs(checkpoint: dict[str, Any], path: Path, inputs: Inputs) -> None:
    """Raise InputError where a checkpoint was trained on something else than `inputs`.

    Checkpoints from before this was recorded are of any data; class names they all have.
    """
    compare_class_names(
        checkpoint["class_names"],
        inputs["class_names"],
        f"{path} was trained",
        "give the class file that it was trained with, or train anew in another --run-dir",
    )
    stored, now = checkpoint["inputs"], digests(inputs)
    changed = [part for part in now if stored.get(part, now[part]) != now[part]]
    if changed:
        recorded = read_inputs(path.parent)
        is_its_own = recorded and digests(recorded) == stored
        told = differences(recorded, inputs) if is_its_own else f"other {', '.join(changed)}"
        raise InputError(
            f"{path.parent} holds a run on other data ({told}); restore the data to go on, or "
            "train all stages on this data: in another --run-dir, or with --overwrite"
        )
