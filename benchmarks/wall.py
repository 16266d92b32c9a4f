"""Wall time of a script's loop: its stages alone, and the script with and without its threads."""

import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

from PIL import Image

from benchmarks.data_pipeline import write_images
from benchmarks.harness import wait


def timed(work: Callable[[], Any], device: str) -> float:
    """Wall seconds of one call."""
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


class Clock:
    """seconds: wall seconds per image of the stages of a loop over `number` images."""

    def __init__(self, stages: Iterable[str], number: int, device: str) -> None:
        self.seconds, self.number, self.device = dict.fromkeys(stages, 0.0), number, device

    def __call__(self, stage: str, work: Callable[..., Any], *arguments: Any) -> Any:
        """What `work` returns; its time is added to that of the stage."""
        results: list[Any] = []
        taken = timed(lambda: results.append(work(*arguments)), self.device)
        self.seconds[stage] += taken / self.number
        return results.pop()


@contextmanager
def in_turn(reader: Any, writer: Any) -> Iterator[None]:
    """Context without the threads of a script: of the modules that import `ahead` and `writing`."""

    @contextmanager
    def at_once(*_: int) -> Iterator[Callable[..., None]]:
        yield lambda function, *arguments: function(*arguments)

    with patch.object(reader, "ahead", iter), patch.object(writer, "writing", at_once):
        yield


def by_round(
    stages: Callable[[int], dict[str, float]],
    run: Callable[[], None],
    without_threads: Callable[[], Any],
    count: int,
    rounds: int,
    device: str,
) -> dict[str, list[float]]:
    """Wall seconds per image of `stages` (of a number of images), and of `run`, in turn and
    overlapped, by round; the context without_threads() makes `run` do one thing after another."""
    found: dict[str, list[float]] = {}
    stages(1)  # not timed: allocates, tunes
    for _ in range(rounds):
        one = stages(count)
        with without_threads():
            one["in turn"] = timed(run, device) / count
        one["overlapped"] = timed(run, device) / count
        for key, value in one.items():
            found.setdefault(key, []).append(value)
    return found


def write_jpegs(folder: Path, size: tuple[int, int], count: int) -> None:
    """0.jpg, 1.jpg, ... of a size (height, width) in a new folder."""
    folder.mkdir(parents=True)
    for seed in range(count):
        with tempfile.TemporaryDirectory() as name:
            write_images(Path(name) / "one", size, seed)
            with Image.open(Path(name) / "one/image.png") as image:
                image.save(folder / f"{seed}.jpg", quality=90)
