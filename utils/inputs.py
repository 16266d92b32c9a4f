"""Record of what a run is trained on: written when it starts, compared before it resumes.

RUN_DIR/inputs.json lists every image with its size and labels, so that a message can name what has
changed; a checkpoint holds a digest of each part. `datasets/fingerprint.py` collects them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from utils.class_names import compare_class_names
from utils.made_from import changed, listed
from utils.safe.errors import InputError
from utils.safe.files import parse_json, replacing, sha256

FILE = "inputs.json"
# labels: id -> class ids; masks: what they were made from, and id -> bytes; points: id -> rows
# (x, y, class); prompts: of each class; clip: sha256 of weights and text embeddings; options: of
# the command line. What is not used is left out.
_PARTS = ("images", "labels", "masks", "points", "prompts", "clip", "options")
_WORDS = {
    "images": "bytes of image",
    "labels": "labels of",
    "masks": "bytes of mask",
    "points": "points of",
    "prompts": "prompts of",
    "clip": "sha256 of CLIP's",
    "options": "option",
}


class Inputs:
    """Inputs of a run: each of `_PARTS` as JSON, made once since it may be long."""

    def __init__(self, class_names: list[str], parts: Mapping[str, Any]) -> None:
        self.class_names = class_names
        self.texts = {part: json.dumps(parts[part]) for part in _PARTS if part in parts}

    def digests(self) -> dict[str, str]:
        """Part -> sha256, for a checkpoint."""
        return {part: sha256(text) for part, text in self.texts.items()}

    def parts(self) -> dict[str, Any]:
        """The parts, as `read_parts` returns them."""
        return {part: json.loads(text) for part, text in self.texts.items()}

    def write(self, run_dir: Path) -> None:
        """Write inputs.json atomically."""
        text = ",\n".join(f"{json.dumps(part)}: {text}" for part, text in self.texts.items())
        with replacing(run_dir / FILE) as temporary:
            temporary.write_text(f"{{{text}}}\n", encoding="utf-8")


def read_parts(run_dir: Path) -> dict[str, Any]:
    """The parts in inputs.json; empty where it is missing (an older run) or damaged."""
    try:
        content = parse_json((run_dir / FILE).read_text(encoding="utf-8"))
        return content if isinstance(content, dict) else {}
    except (OSError, ValueError):
        return {}


def differences(old: dict[str, Any], new: dict[str, Any]) -> str:
    """Text of what has changed, "6 -> 8 images; labels of 'b': [0] -> [1]"; empty if nothing has.

    A part that only one of the two has is not compared.
    """
    parts = [part for part in _PARTS if part in old and part in new and old[part] != new[part]]
    try:
        texts = [_difference(part, old[part], new[part]) for part in parts]
        return "; ".join(filter(None, texts)) or ", ".join(f"other {part}" for part in parts)
    except (AttributeError, KeyError, TypeError, ValueError):  # a damaged inputs.json
        return ", ".join(f"other {part}" for part in parts)


def _difference(part: str, old: Any, new: Any) -> str:
    """Text for one part; empty where another part says it: labels of added or removed images."""
    if part == "masks":
        before, after = old["made_from"], new["made_from"]
        if bool(before) != bool(after):
            return "other masks"
        settings = changed(before, dict.fromkeys(before) | after)
        if settings:
            return f"masks made with other settings ({listed(settings)})"
        old, new = old["sizes"], new["sizes"]
    elif part == "prompts":
        old, new = ({f"class {k}": ", ".join(p) for k, p in enumerate(all_)} for all_ in (old, new))
    texts = []
    if part in ("images", "prompts") and old.keys() != new.keys():
        gone, fresh = ([name for name in a if name not in b] for a, b in ((old, new), (new, old)))
        by_name = f"'{gone[0]}' -> '{fresh[0]}'" if len(gone) == len(fresh) else ""
        texts.append(by_name or f"{len(old)} -> {len(new)} {part}")
    found = changed(old, {name: value for name, value in new.items() if name in old})
    if found:
        more = f", and of {len(found) - 1} more" if len(found) > 1 else ""
        texts.append(f"{_WORDS[part]} {listed(found, 1)}{more}")
    return "; ".join(texts)


def check_inputs(checkpoint: dict[str, Any], path: Path, inputs: Inputs) -> None:
    """Raise InputError where a checkpoint was trained on other inputs.

    Older checkpoints without this record match any data; all of them have class names.
    """
    compare_class_names(
        checkpoint["class_names"],
        inputs.class_names,
        f"{path} was trained",
        "give the class file that it was trained with, or train again in another --run-dir",
    )
    stored, now = checkpoint["inputs"], inputs.digests()
    parts = [part for part in now if stored.get(part, now[part]) != now[part]]
    if parts == ["options"]:
        old, new = read_parts(path.parent).get("options", {}), inputs.parts()["options"]
        raise InputError(
            f"{path.parent} holds a run with other options ({listed(changed(old, new))}); give "
            "the same options to resume, or choose another --run-dir"
        )
    if parts:
        recorded = read_parts(path.parent)
        is_its_own = Inputs([], recorded).digests() == stored
        text = differences(recorded, inputs.parts()) if is_its_own else ""
        remedy = (
            "restore the data to resume, or train all stages on this data in another --run-dir or "
            "with --overwrite"
        )
        if "labels" in parts and {*parts} <= {"labels", "masks"}:  # somebody has corrected them
            remedy = "to use these labels, train all stages again with --overwrite"
        raise InputError(
            f"{path.parent} holds a run on other data ({text or 'other ' + ', '.join(parts)}); "
            f"{remedy}"
        )
