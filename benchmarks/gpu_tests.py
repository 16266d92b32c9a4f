"""Run the tests that need a GPU (`pytest -m gpu`), with their results as JSON.

    python -m benchmarks.gpu_tests --json runs/gpu_tests.json

Only files that have such tests are imported. The file is written after each test. Exits with the
status of pytest, but with 0 where there are no such tests.
"""

import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.output import ROOT, describe, parser
from utils.safe.errors import run_script
from utils.safe.files import write_json

MARK = "mark.gpu"


def main(argv: list[str]) -> None:
    command = parser(__doc__)
    command.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    arguments = command.parse_args(argv)
    files = [str(f) for f in sorted((ROOT / "tests").rglob("*.py")) if MARK in f.read_text("utf-8")]
    results = Results(arguments.json, describe(arguments.device))
    options = ["-q", "-m", "gpu", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    status = pytest.main([*options, *files], plugins=[results])
    results.write()
    sys.exit(0 if status == pytest.ExitCode.NO_TESTS_COLLECTED else int(status))


class Results:
    """A plugin of pytest that counts outcomes; `content` is what the JSON file holds."""

    def __init__(self, file: str | None, machine: dict[str, Any]) -> None:
        self.file = file
        outcomes = {"passed": 0, "failed": 0, "skipped": 0}
        self.content: dict[str, Any] = {"machine": machine} | outcomes | {"failures": []}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" or report.outcome != "passed":  # a skip is in its setup
            self.content[report.outcome] += 1
            if report.failed:
                last = report.longreprtext.strip().splitlines()[-1:]
                self.content["failures"].append({"name": report.nodeid, "error": "".join(last)})
            self.write()

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            last = report.longreprtext.strip().splitlines()[-1:]
            self.content["failures"].append({"name": report.nodeid, "error": "".join(last)})

    def write(self) -> None:
        counts = ", ".join(f"{self.content[key]} {key}" for key in ("passed", "failed", "skipped"))
        if self.file:
            Path(self.file).parent.mkdir(parents=True, exist_ok=True)
            write_json(Path(self.file), self.content | {"summary": [counts]})


if __name__ == "__main__":
    run_script(main)
