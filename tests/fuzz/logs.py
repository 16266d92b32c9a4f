"""Readers of what lies in run folders and mask folders."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from datasets.mask_folder import check_class_names
from datasets.mask_writer import open_mask_folder
from tests.fuzz.labels import dump_json, of_json
from tests.fuzz.reading import NAMES, ROOT, Target, allowed
from utils.config import config_from_dict, load_config, save_config
from utils.distributed import Ranks
from utils.evaluation_output import check_scores
from utils.runlog import RunLog

_CONFIG = load_config(ROOT / "configs/tiny_cpu.yaml").to_dict()
LINES = [
    {"step": 2, "lr": 0.1, "loss": 1.5, "class_share": [0.5, 0.5], "balance": 0.3},
    {"step": 4, "lr": 0.1, "loss": float("nan"), "class_share": [0.5, 0.5]},
]
_IOU = {"iou": 0.5, "accuracy": None, "precision": 0.5, "intersection": 3}
INFERENCE = {"scales": [1.0], "flip": True, "window": [8, 8], "stride": None}
SCORES = {"miou": 0.5, "split": "val", "num_images": 3, "step": 4, "inference": INFERENCE}
SCORES |= {
    "checkpoint": "last.pt",
    "classes": {"road": _IOU, "car": _IOU},
    "confusion": [[1, 2], [3, 4]],
}


def run_folder(path: Path) -> Path:
    folder = path.parent / "run"
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "eval_val").mkdir(parents=True)
    save_config(config_from_dict(_CONFIG, "tiny"), folder / "config.yaml")
    (folder / "metrics.jsonl").write_text('{"step": 2}\n')
    return folder


def dump_lines(value: Any) -> bytes:
    return b"".join(dump_json(line) + b"\n" for line in value) if value else b""


def log_targets() -> dict[str, Target]:
    """What lies in run folders and mask folders."""
    made_from = {"class_names": list(NAMES), "split": "train", "ratio": [1.0]}
    ranks = Ranks(0, 1, torch.device("cpu"))

    def as_log(path: Path) -> None:
        folder = run_folder(path)
        shutil.copyfile(path, folder / "metrics.jsonl")
        resumed = SimpleNamespace(path=folder / "metrics.jsonl")
        RunLog._forget_after(resumed, 2)

    def as_scores(path: Path) -> None:
        folder = run_folder(path)
        shutil.copyfile(path, folder / "eval_val/metrics.json")
        again = {"checkpoint": "last.pt", "split": "val", "inference": INFERENCE}
        check_scores(folder / "eval_val/metrics.json", again, False)

    def as_masks(path: Path) -> None:
        folder = run_folder(path)
        shutil.copyfile(path, folder / "meta.json")
        allowed(
            lambda: check_class_names(folder, NAMES),
            lambda: open_mask_folder(folder, ["a"], made_from, False, ranks),
        )

    as_lines = of_json(as_log, *LINES)
    return {
        "log-metrics": Target(
            ".jsonl", as_log, [dump_lines(LINES)], as_lines.tokens, (LINES,), lines_of(dump_lines)
        ),
        "log-scores": of_json(as_scores, SCORES),
        "log-masks": of_json(as_masks, {"made_from": made_from, "config": _CONFIG}),
    }


def lines_of(dump: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Of a list; what an edit has left of it else is one line."""
    return lambda value: dump(value if isinstance(value, list) else [value])
