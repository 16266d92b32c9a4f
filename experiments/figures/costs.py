"""About how long a command of the report takes, said before anybody starts it."""

import shlex
import statistics
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

from datasets import open_dataset
from experiments.figures.cells import is_miniature
from experiments.figures.runs import Run
from experiments.figures.style import count
from utils.config import Config, load_config
from utils.safe.errors import InputError
from utils.safe.yaml_file import read_yaml

# What decides the seconds of an image: a run with the same values tells them.
_SPEED = ("dataset", "crop_size", "backbone", "output_stride", "clip_model")


class Work(NamedTuple):
    """What a command does: `images` of `config` pass through the networks."""

    config: Config
    images: float
    what: str  # "at most 33 trainings of 1200 steps"
    each: bool = False  # a time in words is that of one training


def cost(command: str, runs: Sequence[Run]) -> str:
    """ "about 2 h: at most 33 trainings of 1200 steps, at runs/demo's 9 images/s".

    In words where no run has trained on such images; empty where nothing is known.
    """
    try:
        work = _work(shlex.split(command))
    except (InputError, OSError, KeyError, ValueError):  # of a config that is not here, say
        return ""
    if work is None:
        return ""
    for run in runs:
        config = run.last.config
        rates = [line["images_per_second"] for line in run.log if line.get("images_per_second")]
        if rates and all(getattr(config, key) == getattr(work.config, key) for key in _SPEED):
            rate = statistics.median(rates)
            seconds = work.images / rate
            return f"about {_duration(seconds)}: {work.what}, at {run.folder}'s {rate:.2g} images/s"
    usual = "minutes" if is_miniature(work.config.clip_model) or not work.each else "hours on a GPU"
    return f"{usual}{' each' * work.each}: {work.what}"


def _work(words: list[str]) -> Work | None:
    """None for a command that neither trains nor looks at images."""
    given = dict(pairwise(words))
    script = next((Path(word).stem for word in words if word.endswith((".py", ".sh"))), "")
    if "experiments.ablation" in words or script == "demo_ablation":
        suites = [word.removeprefix("SUITE=") for word in words if word.startswith("SUITE=")]
        name = f"demo/suites/{(suites or ['demo_ablation'])[0]}.yaml"
        suite = read_yaml(Path(given.get("experiments.ablation", name)))
        number, config = len(suite["rows"]) * len(suite["seeds"]), load_config(suite["config"])
        what = f"at most {count(number, 'training')} of {config.steps} steps"
        return Work(config, number * config.steps * config.batch_size, what, True)
    if script.startswith(("run_", "train_")) or "baselines.supervised" in words:
        name = f"configs/{script.removeprefix('run_')}.yaml"
        name = "demo/config.yaml" if script == "run_demo" else name
        config = load_config(given.get("--config", name))
        what = f"1 training of {config.steps} steps"
        return Work(config, config.steps * config.batch_size, what, True)
    if script in ("gen_clip_masks", "eval"):
        config = load_config(
            given.get("--config") or Path(given["--ckpt"]).with_name("config.yaml")
        )
        dataset = open_dataset(config.dataset, config.data_root)
        number = len(dataset.images(given.get("--split", config.train_split)))
        pixels = float(given.get("--ratio", 1)) ** 2
        return Work(config, number * pixels, count(number, "image"))
    return None


def _duration(seconds: float) -> str:
    for unit, size in (("days", 86400), ("h", 3600)):
        if seconds >= 1.5 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(1, seconds / 60):.0f} min"
