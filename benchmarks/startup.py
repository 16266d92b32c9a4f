"""Measure what the start of each script costs beyond `import torch`.

    python -m benchmarks.startup --json benchmarks/results/startup.json --write

Runs `SCRIPT --help`, which imports what stands at the top of all modules, and `python -c "import
torch"` in turn, --rounds times. What a function imports when it is needed, as CLIP and the networks
of torchvision, is not counted. Numbers are user and system CPU-seconds of a process: medians with
the lowest and the highest in brackets; a script's difference is taken in each round. Python keeps
bytecode, as it does by default, and a first round that doesn't count writes it. --write puts the
table into benchmarks/RESULTS.md.
"""

import os
import statistics
from typing import Any

from benchmarks.output import (
    ROOT,
    at_most,
    child_seconds,
    describe,
    machine_line,
    parser,
    publish,
    run_python,
    spread,
)
from experiments.figures.style import markdown
from utils.safe.errors import run_script

TORCH = "import torch"
MODULES = ("experiments.ablation", "demo.make_scenes")
TARGET = 0.3  # CPU-seconds


def main(argv: list[str]) -> None:
    arguments = parser(__doc__, rounds=7).parse_args(argv)
    given = commands()
    report: dict[str, Any] = {"machine": describe("cpu"), "rounds": []}
    del report["machine"]["threads"]  # --help computes nothing
    for index in range(arguments.rounds + 1):
        seconds = {name: start(command) for name, command in given.items()}
        report["rounds"] += [seconds] * (index > 0)
    publish(report, "start-up", table(report), arguments)


def commands() -> dict[str, list[str]]:
    """Name in the table -> arguments of Python: torch, all scripts, two tools."""
    scripts = sorted(path.name for path in ROOT.glob("*.py"))
    return {
        TORCH: ["-c", TORCH],
        **{name: [name, "--help"] for name in scripts},
        **{f"-m {name}": ["-m", name, "--help"] for name in MODULES},
    }


def start(command: list[str]) -> float:
    """CPU-seconds of Python with these arguments. Raises InputError when it fails."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return child_seconds(lambda: run_python(command, kept))


def table(report: dict[str, Any]) -> str:
    """Markdown: the machine, and a row per script with its difference to torch in each round."""
    rounds, rows = report["rounds"], []
    for name in rounds[0]:
        row = [f"`{name}`", spread([one[name] for one in rounds])]
        if name == TORCH:
            rows.append([*row, "", ""])
            continue
        more = [one[name] - one[TORCH] for one in rounds]
        rows.append([*row, spread(more, ".2f"), at_most(statistics.median(more), TARGET)])
    head = ["start of", "CPU-s", f"beyond `{TORCH}`", "target"]
    return f"{machine_line(report)}\n\n{markdown(head, rows)}"


if __name__ == "__main__":
    run_script(main)
