"""All checks and measurements that need a GPU, one after another, in a limited time.

    bash scripts/gpu_check.sh [FOLDER]             one GPU, at most 9 minutes
    python -m benchmarks.gpu_check FOLDER --quick  the same in miniature on a CPU, to test it

Each part is a process with a time budget of its own. A part that fails or is stopped does not stop
the following ones. It writes FOLDER/<part>.json, most of them after each measurement, and its
output goes to FOLDER/<part>.log. FOLDER/summary.json is written after each part. Exits with status
1 unless all parts were done; a part for which no time was left counts as skipped, not as failed.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.output import ROOT, cells, describe
from utils.cli import number, path
from utils.distributed import setup
from utils.safe.errors import InputError, run_script
from utils.safe.files import read_json, write_json

LIMIT = 540.0  # seconds for all parts
GRACE = 5.0  # seconds from SIGTERM to SIGKILL
# Of benchmarks.run; the compiled step, which may take longest, ends the train_step.
ON_GPU = ("memory", "train_step", "clip_mask", "loss_block", "evaluation")


@dataclass(frozen=True)
class Part:
    """A process that writes FOLDER/<name>.json."""

    name: str
    seconds: float  # its time budget
    words: Sequence[str]  # after the interpreter
    least: float = 5.0  # seconds that must be left, else it is skipped


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=path, help="for the results")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--quick", action="store_true", help="in miniature: small images, networks")
    parser.add_argument("--limit", type=number(36000), default=LIMIT, help="seconds, default: 540")
    arguments = parser.parse_args(argv)
    if arguments.device == "cpu" and not arguments.quick:
        raise InputError("on a CPU only --quick ends in reasonable time; for a GPU --device cuda")
    begin = time.perf_counter()
    setup(arguments.device)  # refuses a missing device
    folder = Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="carb-benchmark-") as scratch:
        parts = parts_of(Path(scratch) / "data", arguments.device, arguments.quick)
        limit = arguments.limit - (time.perf_counter() - begin)
        found = run_parts(parts, folder, limit, describe(arguments.device))
    print(f"\n{in_words(found, folder)}\n\nwritten: {folder / 'summary.json'}")
    if any(part["status"] in ("failed", "stopped") for part in found):
        sys.exit(1)


def parts_of(data: Path, device: str, quick: bool) -> list[Part]:
    """The parts in their order; `data`: folder for the images and CLIP of the last ones."""
    small = ["--quick"] * quick
    on_data = ["--data", str(data), *small]
    seconds = "2" if quick else "45"  # of CARB from disk, beside the start of two scripts

    def measuring(name: str, *words: str) -> list[str]:
        return ["-m", f"benchmarks.{name}", "--device", device, *words]

    return [
        Part("tests", 50, measuring("gpu_tests")),
        # --quick: fewer steps and rounds, of the paper's size on a GPU
        Part("steps", 150, measuring("run", *(["evaluation"] if quick else ON_GPU), "--quick")),
        Part("profile", 40, measuring("profile_step", *small)),
        Part("teachers", 60, measuring("teachers", *teachers(quick), "--rounds", "1", *small)),
        Part("data", 40, ["-m", "benchmarks.street_data", str(data), *small]),
        Part("throughput", 60, measuring("throughput", *on_data)),
        Part("loader", 120, measuring("loader", *on_data, "--seconds", seconds)),
        Part("two_processes", 60, measuring("shared_gpu", *on_data), 5 if quick else 45),
    ]


def teachers(quick: bool) -> list[str]:
    """Those that matter most come first, in case the time is over."""
    return ["fast"] if quick else ["fast", "strong", "naclip_pamr", "scclip", "clearclip", "--part"]


# --- running


def run_parts(
    parts: Sequence[Part],
    folder: Path,
    limit: float,
    machine: dict[str, Any],
    clock: Callable[[], float] = time.perf_counter,
) -> list[dict[str, Any]]:
    """Run the parts one after another, within `limit` seconds; write FOLDER/summary.json.

    Gives for each part: name; status: done, failed, stopped (its time or all time was over) or
    skipped (too little time was left); exit_status; seconds; budget; json and log, names of files
    in the folder, or null; summary: sentences of its JSON file.
    """
    start, found = clock(), []
    for part in parts:
        left = limit - (clock() - start)
        result: dict[str, Any] = {"name": part.name, "budget": part.seconds}
        (folder / f"{part.name}.json").unlink(missing_ok=True)  # of an earlier check
        if left < part.least:
            nothing = {"exit_status": None, "seconds": 0.0, "json": None, "log": None}
            result |= {"status": "skipped", **nothing, "summary": []}
        else:
            print(f"{part.name}: at most {min(part.seconds, left):.0f} s", flush=True)
            result |= run_part(part, folder, min(part.seconds, left - GRACE))
        found.append(result)
        content = {"machine": machine, "limit": limit, "seconds": round(clock() - start, 1)}
        write_json(folder / "summary.json", content | {"parts": found})
        print(f"{part.name}: {result['status']} after {result['seconds']:.0f} s", flush=True)
    return found


def run_part(part: Part, folder: Path, seconds: float) -> dict[str, Any]:
    """Run one part for at most `seconds`; end all its processes. See `run_parts`."""
    start, file = time.perf_counter(), folder / f"{part.name}.json"
    log = folder / f"{part.name}.log"
    words = [sys.executable, *part.words]
    if part.name != "data":
        words += ["--json", str(file)]
    with log.open("wb") as output:
        process = subprocess.Popen(
            words, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
    state = "stopped" if status is None else "failed" if status else "done"
    result = {"status": state, "exit_status": status}
    result |= {"seconds": round(time.perf_counter() - start, 1), "log": log.name}
    result |= {"json": file.name if file.is_file() else None}
    return result | {"summary": sentences(read_json(file)) if file.is_file() else []}


def _end(process: subprocess.Popen) -> None:
    """End what is left of a part: its process group, whose leader is `process`."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # all have ended
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


# --- in words


def sentences(content: dict[str, Any]) -> list[str]:
    """What a JSON file of a part says: its summary, or its results in a line each."""
    if "summary" in content:
        return content["summary"]
    device = content.get("options", {}).get("device", "cpu")
    lines = []
    for entry in [*content.get("results", []), *content.get("sizes", [])]:
        if "preset" in entry:
            seconds, ratio, peak = (entry[key][-1] for key in ("seconds", "ratio", "peak"))
            name = f"{entry['preset']}, {entry['precision']}"
            lines.append(f"{name}: {seconds:.4f} s, {ratio:.2f} of the first, {peak:.0f} MB")
        else:
            name, official, ours, ratio, target = cells(entry, device)
            lines.append(
                f"{name}: official {official}, ours {ours}, ratio {ratio} {target}".strip()
            )
            lines += filter(None, [entry.get("note")])
    return lines + [f"FAILED: {one['name']}: {one['error']}" for one in content.get("failures", [])]


def in_words(found: list[dict[str, Any]], folder: Path) -> str:
    """A line per part, with its sentences below; the end of the log of a part that failed."""
    lines = []
    for part in found:
        lines.append(f"{part['name']}: {part['status']}, {part['seconds']:.0f} s")
        lines += [f"    {line}" for line in part["summary"]]
        if part["status"] == "failed" and part["log"]:
            text = (folder / part["log"]).read_text(encoding="utf-8", errors="replace")
            lines += [f"    | {line}" for line in text.splitlines()[-5:]]
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
