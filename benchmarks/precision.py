"""Does bfloat16 train like float32? The demo's loss in both, step by step from the same seed.

    python -m demo.make_scenes --root data/demo --count train=200 val=50
    python -m benchmarks.precision --config demo/config.yaml --steps 200 --json runs/precision.json

train_warmup.py and train_carb.py train --steps steps in all, with the config's share of warm-up, in
fp32, in bf16 with channels_last (what `auto` becomes on a GPU) and, as a control, in fp32
with channels_last, which changes the last bits only: how far rounding alone leads.

The rule, fixed before the first run: the loss is smoothed by a mean over WINDOW steps, in each
stage by itself, since CARB's loss is another one. bf16 may become the default if at every step its
smoothed loss is within LIMIT of fp32's. Where the control alone is beyond LIMIT, the rule can't
tell, and this program says so (docs/performance.md has what was found). Exits with status 1 where
bf16 is not within LIMIT.
"""

import json
import math
import sys
import tempfile
from itertools import accumulate
from pathlib import Path
from typing import Any

from benchmarks.output import DEMO, describe, machine_line, parser, positive, publish, run_python
from experiments.figures.style import markdown
from utils.cli import add_overrides, path
from utils.config import load_config
from utils.distributed import setup
from utils.safe.errors import InputError, run_script

WINDOW = 20  # steps
LIMIT = 0.01  # largest relative difference of the smoothed losses
WAYS = {
    "fp32": ["precision=fp32", "channels_last=false"],
    "bf16": ["precision=bf16", "channels_last=true"],
    "fp32, channels_last": ["precision=fp32", "channels_last=true"],
}
STAGES = ("warmup", "carb")


def main(argv: list[str]) -> None:
    command = parser(__doc__)
    command.add_argument("--config", type=path, default=str(DEMO), help="default: the demo's")
    command.add_argument("--steps", type=positive, default=200, help="default: 200")
    command.add_argument("--window", type=positive, default=WINDOW, help=f"default: {WINDOW}")
    command.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    add_overrides(command)
    arguments = command.parse_args(argv)
    setup(arguments.device)  # refuses a missing device
    settings = schedule(arguments.config, arguments.overrides, arguments.steps)
    if arguments.steps < 2 * arguments.window:
        raise InputError(f"--steps {arguments.steps}: expected at least two windows")
    losses = {}
    with tempfile.TemporaryDirectory(prefix="carb-benchmark-") as scratch:
        for name, way in WAYS.items():
            run = Path(scratch) / name.replace(", ", "_")
            losses[name] = train(run, arguments.config, [*settings, *way], arguments.device)
            print(f"{name}: trained", flush=True)
    report = {"machine": describe(arguments.device), "config": arguments.config}
    report |= {"steps": arguments.steps, "settings": settings, "losses": losses}
    report |= compare(losses, arguments.window)
    publish(report, "", table(report), arguments)
    if not report["allowed"]:
        sys.exit(1)


def schedule(file: str, overrides: list[str], steps: int) -> list[str]:
    """The settings of a run of `steps` steps with the config's share of warm-up."""
    config = load_config(file, overrides)
    share = config.warmup_steps / config.steps if config.carb else 1
    warmup = min(max(1, round(steps * share)), steps - 1 if config.carb else steps)
    return [*overrides, f"steps={steps}", f"warmup_steps={warmup}", "log_every=1"]


def train(run: Path, config: str, settings: list[str], device: str) -> dict[str, list[float]]:
    """The loss of every step of each stage. Raises InputError when a training fails."""
    losses: dict[str, list[float]] = {}
    carb = load_config(config, settings).carb
    for stage in STAGES[: 1 + carb]:
        words = [f"train_{stage}.py", "--config", config, "--device", device]
        words += ["--run-dir", str(run / stage)]
        words += ["--init", str(run / "warmup" / "last.pt")] * (stage == "carb")
        run_python([*words, "--set", *settings])
        lines = (run / stage / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
        losses[stage] = [json.loads(line)["loss"] for line in lines]
    return losses


def compare(losses: dict[str, dict[str, list[float]]], window: int = WINDOW) -> dict[str, Any]:
    """The largest difference from fp32 of each other way and stage, and what follows.

    A stage with fewer steps than the window is one mean. Keys window, limit, differences (way ->
    stage -> share), allowed, and decided: whether the control itself is within the limit.
    """
    differences = {
        way: {
            stage: largest_difference(losses["fp32"][stage], of_way[stage], window)
            for stage in of_way
        }
        for way, of_way in losses.items()
        if way != "fp32"
    }
    within = {way: all(d <= LIMIT for d in of.values()) for way, of in differences.items()}
    found = {"window": window, "limit": LIMIT, "differences": differences}
    return found | {"allowed": within["bf16"], "decided": within["fp32, channels_last"]}


def largest_difference(usual: list[float], other: list[float], window: int) -> float:
    """The largest relative difference of two smoothed losses over all steps; inf for a NaN."""
    pairs = zip(smoothed(usual, window), smoothed(other, window), strict=True)
    found = [abs(b / a - 1) for a, b in pairs]
    return math.inf if any(map(math.isnan, found)) else max(found)


def smoothed(losses: list[float], window: int) -> list[float]:
    """Means over `window` steps, one for each step from the window's end on."""
    window = min(window, len(losses))
    sums = [0.0, *accumulate(losses)]
    return [(sums[i] - sums[i - window]) / window for i in range(window, len(sums))]


def table(report: dict[str, Any]) -> str:
    """Markdown: the machine, the differences, the decision."""
    stages = list(report["losses"]["fp32"])
    rows = [
        [way, *(f"{of[stage]:.2%}" for stage in stages)]
        for way, of in report["differences"].items()
    ]
    head = ["largest difference of the smoothed loss from fp32", *stages]
    limit = f"{report['limit']:.0%} of fp32's over {report['window']} steps"
    verdict = f"bf16 is {'' if report['allowed'] else 'not '}within {limit}"
    if not report["decided"]:
        verdict += "; nor is fp32 with other last bits, so that this can't tell"
    return "\n\n".join([machine_line(report), markdown(head, rows), f"**{verdict}.**"])


if __name__ == "__main__":
    run_script(main)
