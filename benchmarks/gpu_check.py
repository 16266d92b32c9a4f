"""All checks and measurements that need a GPU, one after another, in a limited time.

    bash scripts/gpu_check.sh [FOLDER]             one GPU, at most 9 minutes
    python -m benchmarks.gpu_check FOLDER --quick  the same in miniature on a CPU, to test it

Each part is a process with a time limit of its own. A part that fails or is stopped does not stop
the following ones. FOLDER/summary.json has what each part found and is written after each;
FOLDER/log.txt has what they printed. Exits with status 1 unless all parts were done; a part for
which no time was left counts as skipped, not as failed.
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
from importlib import import_module
from pathlib import Path
from typing import Any

# Nothing that imports torch: it may be missing, and its import counts as time of the check.
from utils.cli import number, path
from utils.safe.errors import InputError, run_script
from utils.safe.files import read_json, write_json

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 540.0  # seconds for everything
START = 15.0  # of these for the start, until the first part
GRACE = 5.0  # seconds from SIGTERM to SIGKILL
LOG_END = 15  # lines of its log in the result of a part that was not done
# Of benchmarks.run. Memory comes first: a process that trained keeps its memory of the GPU.
ON_GPU = ("memory", "train_step", "clip_mask", "loss_block", "evaluation")
# What the parts import, and how it is brought to a machine that has torch but no network.
NEEDED = ("torch", "torchvision", "numpy", "PIL", "yaml", "tqdm", "filelock", "clip", "pytest")
DOWNLOAD = (
    "pip download --only-binary=:all: --no-deps --python-version 3.12 --platform "
    "manylinux2014_x86_64 --dest wheels clip-anytorch ftfy regex wcwidth 'setuptools<81' pytest "
    "iniconfig pluggy packaging pygments"
)


@dataclass(frozen=True)
class Part:
    """A process that writes the file of --json."""

    name: str
    seconds: float  # its time limit, without what earlier parts left over
    words: Sequence[str]  # after the interpreter
    least: float = 5.0  # seconds that must be left, else it is skipped


def main(argv: list[str]) -> None:
    begin = time.perf_counter()
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
    import_packages()
    from benchmarks.output import describe
    from utils.distributed import setup

    setup(arguments.device)  # refuses a missing device
    folder = Path(arguments.folder)
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="carb-benchmark-") as scratch:
        parts = parts_of(Path(scratch), arguments.device, arguments.quick)
        machine = describe(arguments.device)
        limit = arguments.limit - (time.perf_counter() - begin)
        found = run_parts(parts, folder, limit, machine)
    print(f"\n{in_words(found)}\n\nwritten: {folder / 'summary.json'}")
    if any(part["status"] in ("failed", "stopped") for part in found):
        sys.exit(1)


def import_packages() -> None:
    """Import what the parts need. Raises InputError that names all that is missing."""
    missing = []
    for name in NEEDED:
        try:
            import_module(name)
        except Exception as error:  # of a package that does not fit the others too
            missing.append(f"{name} ({error})")
    if missing:
        raise InputError(
            f"missing: {', '.join(missing)}. Install requirements-dev.txt; without a network, "
            f"carry wheels along (add what else is missing):\n    {DOWNLOAD}\n"
            "    WHEELS=wheels bash scripts/gpu_check.sh FOLDER"
        )


def parts_of(data: Path, device: str, quick: bool) -> list[Part]:
    """The parts in their order; `data`: folder for the images and CLIP of some of them.

    On a GPU the limits and the start make LIMIT. Compilation, which may take longest, comes late
    and gets what the others leave; two processes come last, where time is left.
    """
    small = ["--quick"] * quick
    on_data = ["--data", str(data), *small]
    seconds = "2" if quick else "45"  # of CARB from disk, beside the start of two scripts

    def measuring(name: str, *words: str) -> list[str]:
        return ["-m", f"benchmarks.{name}", "--device", device, *words]

    parts = [
        Part("tests", 40, measuring("gpu_tests")),
        # --quick: fewer steps and rounds, of the paper's size on a GPU
        Part("steps", 120, measuring("run", *(["evaluation"] if quick else ON_GPU), "--quick")),
        Part("profile", 30, measuring("profile_step", *small)),
        Part("teachers", 50, measuring("teachers", *teachers(quick), "--rounds", "1", *small)),
        Part("data", 20, ["-m", "benchmarks.street_data", str(data), *small]),
        Part("throughput", 45, measuring("throughput", *on_data)),
        Part("loader", 105, measuring("loader", *on_data, "--seconds", seconds)),
        Part("compiled", 70, measuring("train_step", "--compiled", "--quick")),
        Part("two_processes", 45, measuring("shared_gpu", *on_data), 5 if quick else 40),
    ]
    return [part for part in parts if part.name != "compiled" or not quick]


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

    A part may also use the time that earlier ones left over. Gives for each part: name; limit;
    status: done, failed, stopped (its time was over) or skipped (too little time was left);
    exit_status; seconds; result: the content of its JSON file, or null; summary: sentences of it;
    targets; log_end: the last lines of its log unless it was done.
    """
    start, found = clock(), []
    (folder / "summary.json").unlink(missing_ok=True)  # of an earlier check
    (folder / "log.txt").write_bytes(b"")
    for index, part in enumerate(parts):
        left = limit - (clock() - start)
        later = sum(one.seconds for one in parts[index + 1 :])
        seconds = min(max(part.seconds, left - later), left - GRACE)
        result: dict[str, Any] = {"name": part.name, "limit": round(seconds, 1)}
        if left < part.least:
            result |= {"status": "skipped", "exit_status": None, "seconds": 0.0, "result": None}
            result |= {"summary": [], "targets": [], "log_end": []}
        else:
            print(f"{part.name}: at most {seconds:.0f} s", flush=True)
            result |= run_part(part, folder / "log.txt", seconds)
        found.append(result)
        content = {"machine": machine, "limit": limit, "seconds": round(clock() - start, 1)}
        content["targets"] = [target for one in found for target in one["targets"]]
        write_json(folder / "summary.json", content | {"parts": found})
        print(f"{part.name}: {result['status']} after {result['seconds']:.0f} s", flush=True)
    return found


def run_part(part: Part, log: Path, seconds: float) -> dict[str, Any]:
    """Run one part for at most `seconds`; end all its processes. See `run_parts`."""
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="carb-benchmark-") as scratch, log.open("ab") as output:
        file = Path(scratch) / "result.json"
        words = [sys.executable, *part.words]
        if part.name != "data":
            words += ["--json", str(file)]
        output.write(f"=== {part.name}\n".encode())
        output.flush()
        begin = output.tell()
        process = subprocess.Popen(
            words, cwd=ROOT, stdout=output, stderr=output, start_new_session=True
        )
        try:
            status = process.wait(max(seconds, 0.0))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
        content = read_json(file) if file.is_file() else None
    state = "stopped" if status is None else "failed" if status else "done"
    result = {"status": state, "exit_status": status}
    result |= {"seconds": round(time.perf_counter() - start, 1), "result": content}
    result |= {"summary": sentences(content or {}), "targets": targets(content or {})}
    printed = log.read_bytes()[begin:].decode("utf-8", "replace").splitlines()
    return result | {"log_end": [] if state == "done" else printed[-LOG_END:]}


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
    """What the result of a part says: its summary, or its comparisons in a line each."""
    from benchmarks.output import cells

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


def targets(content: dict[str, Any]) -> list[dict[str, Any]]:
    """The targets in the result of a part: see `benchmarks.output.target`."""
    from benchmarks.output import targets_of

    entries = [*content.get("results", []), *content.get("sizes", [])]
    of_entries = [one for entry in entries if "target" in entry for one in targets_of(entry)]
    return content.get("targets", []) + of_entries


def target_line(one: dict[str, Any]) -> str:
    from benchmarks.output import verdict

    sign, bound = ("≥", one["least"]) if one["most"] is None else ("≤", one["most"])
    return f"{one['name']} {one['value']:.3g} {sign} {bound:g} {verdict(one)}"


def in_words(found: list[dict[str, Any]]) -> str:
    """A line per part, with its sentences below or the end of its log, then the targets."""
    lines = []
    for part in found:
        lines.append(f"{part['name']}: {part['status']}, {part['seconds']:.0f} s")
        lines += [f"    {line}" for line in part["summary"]]
        lines += [f"    | {line}" for line in part["log_end"][-5:]]
    lines += [f"target: {target_line(one)}" for part in found for one in part["targets"]]
    return "\n".join(lines)


if __name__ == "__main__":
    run_script(main)
