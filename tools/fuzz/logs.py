"""Readers of what lies in run folders, suite folders and mask folders."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from datasets.mask_folder import check_class_names, open_mask_folder
from figures.commands import evaluation
from figures.runs import read_inputs, run_of
from tools import learning_curves
from tools.fuzz.labels import dump_json, of_json
from tools.fuzz.reading import NAMES, ROOT, Target, allowed
from utils.config import config_from_dict, load_config, save_config
from utils.distributed import Ranks
from utils.evaluation_output import check_scores
from utils.runlog import RunLog

_CONFIG = load_config(ROOT / "configs/tiny_cpu.yaml").to_dict()


def log_targets() -> dict[str, Target]:
    """What lies in run folders, suite folders and mask folders."""
    lines = [
        {"step": 2, "lr": 0.1, "loss": 1.5, "class_share": [0.5, 0.5], "balance": 0.3},
        {"step": 4, "lr": 0.1, "loss": float("nan"), "class_share": [0.5, 0.5]},
    ]
    iou = {"iou": 0.5, "accuracy": None, "precision": 0.5, "intersection": 3}
    inference = {"scales": [1.0], "flip": True, "window": [8, 8], "stride": None}
    scores = {"miou": 0.5, "split": "val", "num_images": 3, "step": 4, "inference": inference}
    scores |= {
        "checkpoint": "last.pt",
        "classes": {"road": iou, "car": iou},
        "confusion": [[1, 2], [3, 4]],
    }
    row = {"stage": "warmup", "settings": {"views": "base"}, "seeds": {"0": {"mIoU": 50.0}}}
    row |= {"mean": {"mIoU": 50.0}, "std": {"mIoU": None}, "metrics": {"0": scores}}
    suite = {"command": "python", "suite": "s.yaml", "config": "c.yaml", "settings": {}}
    suite |= {"split": "val", "rows": {"Base": row, "Base + CARB": row | {"stage": "carb"}}}
    made_from = {"class_names": list(NAMES), "split": "train", "ratio": [1.0]}
    point = {"step": 2, "epoch": 0.5, "miou": 0.5, "miou_small": None, "miou_large": 0.5}
    point |= {"iou": {"road": 0.5}, "scored": ["a.pt", 10, 5, "val"]}
    config, ranks = config_from_dict(_CONFIG, "tiny"), Ranks(0, 1, torch.device("cpu"))

    def run_folder(path: Path) -> Path:
        folder = path.parent / "run"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "eval_val").mkdir(parents=True)
        save_config(config, folder / "config.yaml")
        (folder / "metrics.jsonl").write_text('{"step": 2}\n')
        return folder

    def read_run(folder: Path) -> None:
        (run,), _ = read_inputs([str(folder)])
        assert all(isinstance(line["step"], int) for line in run.log)
        evaluation(run.last, "val")

    def as_log(path: Path) -> None:
        folder = run_folder(path)
        shutil.copyfile(path, folder / "metrics.jsonl")
        resumed = SimpleNamespace(path=folder / "metrics.jsonl")
        allowed(lambda: read_run(folder), lambda: RunLog._forget_after(resumed, 2))

    def as_scores(path: Path) -> None:
        folder = run_folder(path)
        shutil.copyfile(path, folder / "eval_val/metrics.json")
        again = {"checkpoint": "last.pt", "split": "val", "inference": inference}
        allowed(
            lambda: read_run(folder),
            lambda: check_scores(folder / "eval_val/metrics.json", again, False),
        )

    def as_suite(path: Path) -> None:
        folder = run_folder(path).rename(path.parent / "base_0").parent / "suite"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (path.parent / "base_0").rename(folder / "base_0")
        shutil.copyfile(path, folder / "ablation.json")
        _, (found,) = read_inputs([str(folder)])
        run_of(found)

    def as_masks(path: Path) -> None:
        folder = run_folder(path)
        shutil.copyfile(path, folder / "meta.json")
        allowed(
            lambda: check_class_names(folder, NAMES),
            lambda: open_mask_folder(folder, ["a"], made_from, False, ranks),
        )

    def dump_lines(value: Any) -> bytes:
        return b"".join(dump_json(line) + b"\n" for line in value) if value else b""

    as_lines = of_json(as_log, *lines)
    return {
        "log-metrics": Target(
            ".jsonl", as_log, [dump_lines(lines)], as_lines.tokens, (lines,), _lines_of(dump_lines)
        ),
        "log-scores": of_json(as_scores, scores),
        "log-suite": of_json(as_suite, suite),
        "log-masks": of_json(as_masks, {"made_from": made_from, "config": _CONFIG}),
        "log-curves": of_json(learning_curves.read_scores, {"runs": [{"points": [point]}]}),
    }


def _lines_of(dump: Callable[[Any], bytes]) -> Callable[[Any], bytes]:
    """Of a list; what an edit has left of it else is one line."""
    return lambda value: dump(value if isinstance(value, list) else [value])
