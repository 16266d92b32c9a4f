"""Measure where the two training scripts of the demo spend their time.

    python -m benchmarks.demo_profile --json benchmarks/results/demo_profile.json --write

Runs train_warmup.py and train_carb.py with the demo's config for --steps steps each, in this
process, and times the parts of their loops: loading, CLIP's masks, network, loss, backward and SGD,
log and checkpoints. Shares are of the loop's wall time, from the first step to the end of the last
checkpoint, with those of CPU time beside them. --write puts the table into benchmarks/RESULTS.md.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, redirect_stdout
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any
from unittest.mock import patch

import train_carb
import train_warmup
import utils.run
from benchmarks.output import DEMO, describe, machine_line, parser, positive, publish, spread
from demo.make_scenes import write_dataset
from experiments.figures.style import markdown
from models.carb import CARBCriterion
from utils.run import Run
from utils.runlog import RunLog
from utils.safe.errors import run_script

TARGET = 0.9  # least share of CLIP, network and loss
COMPUTING = ("CLIP's masks", "network", "loss", "backward and SGD")
PARTS = (*COMPUTING, "loading", "log", "checkpoints", "rest")
LOOP = "loop"


class Clock:
    """Wall and CPU seconds of the parts of a loop."""

    def __init__(self) -> None:
        self.wall: Counter[str] = Counter()
        self.cpu: Counter[str] = Counter()

    def timed(self, part: str, function: Callable) -> Callable:
        """`function` that adds its time to a part."""

        def wrapped(*given: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            try:
                return function(*given, **named)
            finally:
                self.wall[part] += time.perf_counter() - wall
                self.cpu[part] += time.process_time() - cpu

        return wrapped

    def waits(self, part: str, items: Iterable) -> Iterator:
        """The items; the time until each comes is added to a part."""
        following = self.timed(part, self.timed(part, iter)(items).__next__)
        while True:
            try:
                item = following()
            except StopIteration:
                return
            yield item

    def shares(self) -> dict[str, dict[str, float]]:
        """Part -> its shares of the loop's wall and CPU time."""
        found = {}
        for kind, seconds in (("wall", self.wall), ("cpu", self.cpu)):
            parts = {part: seconds[part] for part in PARTS if part != "rest"}
            parts["rest"] = seconds[LOOP] - sum(parts.values())
            found[kind] = {part: value / seconds[LOOP] for part, value in parts.items()}
        return found


def main(argv: list[str]) -> None:
    command = parser(__doc__, rounds=3)
    command.add_argument("--steps", type=positive, default=60, help="of each script, default: 60")
    arguments = command.parse_args(argv)
    report: dict[str, Any] = {"machine": describe("cpu"), "steps": arguments.steps, "rounds": []}
    with TemporaryDirectory() as folder:
        write_dataset(Path(folder) / "data", {"train": 30, "val": 1})
        for index in range(arguments.rounds):
            runs = Path(folder) / f"runs_{index}"
            report["rounds"].append(profiles(Path(folder) / "data", runs, arguments.steps))
    publish(report, "demo profile", table(report), arguments)


def profiles(data: Path, runs: Path, steps: int) -> dict[str, dict[str, dict[str, float]]]:
    """Shares of the parts of either script, by `Clock.shares`; `runs` gets the run folders."""
    settings = ["--config", str(DEMO), "--device", "cpu", "--set", f"data_root={data}"]
    settings += [f"image_labels={data}/image_labels.json", f"clip_text={data}/clip_text.pt"]
    settings += [f"steps={2 * steps}", f"warmup_steps={steps}"]
    start = ["--init", str(runs / "warmup/last.pt")]
    return {
        "train_warmup.py": _profile(train_warmup, [*settings, "--run-dir", str(runs / "warmup")]),
        "train_carb.py": _profile(train_carb, [*settings, *start, "--run-dir", str(runs / "carb")]),
    }


def _profile(script: ModuleType, arguments: list[str]) -> dict[str, dict[str, float]]:
    clock = Clock()
    steps, build, loader = Run.steps, script.build_network, utils.run.training_loader

    def timed_steps(run: Run, dataset: Any) -> Iterator:
        wall, cpu = time.perf_counter(), time.process_time()
        yield from steps(run, dataset)
        clock.wall[LOOP] = time.perf_counter() - wall
        clock.cpu[LOOP] = time.process_time() - cpu

    replaced = [
        (Run, "steps", timed_steps),
        (Run, "save", clock.timed("checkpoints", Run.save)),
        (RunLog, "add", clock.timed("log", RunLog.add)),
        (utils.run, "training_loader", lambda *given: clock.waits("loading", loader(*given))),
        (script, "build_network", lambda *given: clock.timed("network", build(*given))),
        (script, "prepare_views", clock.timed("CLIP's masks", script.prepare_views)),
        (script, "sgd_step", clock.timed("backward and SGD", script.sgd_step)),
        (train_warmup, "warmup_losses", clock.timed("loss", train_warmup.warmup_losses)),
        (CARBCriterion, "__call__", clock.timed("loss", CARBCriterion.__call__)),
    ]
    with ExitStack() as stack:
        for place, name, new in replaced:
            stack.enter_context(patch.object(place, name, new))
        stack.enter_context(redirect_stdout(StringIO()))
        script.main(arguments)
    return clock.shares()


def table(report: dict[str, Any]) -> str:
    """Markdown: the machine, and the share of each part of either script in per cent."""
    rounds, rows = report["rounds"], []
    columns = [(script, kind) for script in rounds[0] for kind in ("wall", "cpu")]
    for name, parts in [*((part, [part]) for part in PARTS), ("CLIP, network and loss", COMPUTING)]:
        shares = [
            [100 * sum(one[script][kind][part] for part in parts) for one in rounds]
            for script, kind in columns
        ]
        bold = "**" * (len(parts) > 1)
        rows.append([name, *(f"{bold}{spread(values, '.1f')}{bold}" for values in shares)])
    head = [f"per cent of {report['steps']} steps", *(f"`{s}`, {kind} time" for s, kind in columns)]
    return f"{machine_line(report)}\n\n{markdown(head, rows)}\n\nTarget: at least {TARGET:.0%}."


if __name__ == "__main__":
    run_script(main)
