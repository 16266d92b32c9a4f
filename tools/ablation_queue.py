"""Runs commands as child processes, several at a time, in the order that they need each other."""

import json
import os
import shlex
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
_TAIL = 15  # lines of a failed job's log to show
_PATIENCE = 10.0  # seconds between asking a child to stop and ending it


@dataclass(frozen=True)
class Job:
    """Commands to run one after the other, written to `log`; `result` then holds a "miou".

    A command is a script of this repository with its arguments. `finished`: nothing is left to do.
    """

    name: str
    commands: list[list[str]]
    log: Path
    result: Path | None
    needs: tuple[str, ...] = ()
    finished: bool = False


@dataclass
class _Running:
    job: Job
    log: TextIO
    start_time: float
    command: int
    process: subprocess.Popen


def run_jobs(jobs: list[Job], parallel: int, gpus: int) -> list[str]:
    """Run what isn't finished; returns the jobs that failed or were skipped after a failure.

    One terminal line when a job starts, ends or fails. KeyboardInterrupt stops the children first.
    """
    begin = time.monotonic()
    finished = {job.name for job in jobs if job.finished}
    waiting = [job for job in jobs if not job.finished]
    running: dict[int, _Running] = {}  # by slot: a slot stays on its GPU
    failed: list[str] = []

    def say(text: str) -> None:
        print(f"{_clock(time.monotonic() - begin)}  {text}", flush=True)

    say(f"{len(waiting)} of {len(jobs)} jobs to run, {parallel} at a time")
    try:
        while waiting or running:
            for job in list(waiting):
                lost = [name for name in job.needs if name in failed]
                free = [slot for slot in range(parallel) if slot not in running]
                if lost:
                    waiting.remove(job)
                    failed.append(job.name)
                    say(f"skipped {job.name}: it needs {lost[0]}")
                elif free and finished.issuperset(job.needs):
                    waiting.remove(job)
                    say(f"started {job.name}")
                    running[free[0]] = _start(job, environment(free[0], parallel, gpus))
            assert running or not waiting, f"needs nobody meets: {waiting}"
            time.sleep(0.1)
            for slot, run in list(running.items()):
                code = run.process.poll()
                if code is None:
                    continue
                if code == 0 and run.command + 1 < len(run.job.commands):
                    run.command += 1
                    command = run.job.commands[run.command]
                    run.process = _open(command, run.log, environment(slot, parallel, gpus))
                    continue
                run.log.close()
                del running[slot]
                took = _clock(time.monotonic() - run.start_time)
                if code == 0:
                    finished.add(run.job.name)
                    say(
                        f"finished {run.job.name} in {took}{_miou(run.job.result)} "
                        f"({len(finished)} of {len(jobs)})"
                    )
                else:
                    failed.append(run.job.name)
                    say(f"FAILED {run.job.name} after {took}, status {code}; {run.job.log} ends:")
                    print(_tail(run.job.log), flush=True)
    except KeyboardInterrupt:
        names = ", ".join(run.job.name for run in running.values())
        say(f"stopping {names}; the same command again goes on where this stops")
        raise
    finally:
        _stop(running)
    return failed


def environment(slot: int, parallel: int, gpus: int) -> dict[str, str]:
    """Cores shared evenly, unless OMP_NUM_THREADS is set; slot i on GPU i mod gpus."""
    variables = os.environ | {"PYTHONUNBUFFERED": "1"}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    variables.setdefault("OMP_NUM_THREADS", str(max(1, (cores or 1) // parallel)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices = (visible.split(",") if visible else [str(i) for i in range(gpus)])[:gpus]
    variables["CUDA_VISIBLE_DEVICES"] = devices[slot % len(devices)] if devices else ""
    return variables


def script_command(command: list[str]) -> str:
    """As one would type it in the repository's root."""
    return shlex.join(["python", *command])


def _start(job: Job, variables: dict[str, str]) -> _Running:
    job.log.parent.mkdir(parents=True, exist_ok=True)
    log = job.log.open("a", encoding="utf-8")
    return _Running(job, log, time.monotonic(), 0, _open(job.commands[0], log, variables))


def _open(command: list[str], log: TextIO, variables: dict[str, str]) -> subprocess.Popen:
    log.write(f"$ {script_command(command)}\n")
    log.flush()
    return subprocess.Popen(
        [sys.executable, str(ROOT / command[0]), *command[1:]],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=variables,
        start_new_session=True,  # Ctrl-C reaches this program alone, which then stops the children
    )


def _stop(running: dict[int, _Running]) -> None:
    """End the children and their data-loader workers."""
    for run in running.values():
        _signal(run.process, signal.SIGTERM)
    for run in running.values():
        try:
            run.process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            _signal(run.process, signal.SIGKILL)
            run.process.wait()
        run.log.close()


def _signal(process: subprocess.Popen, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):  # it ended by itself
        os.killpg(process.pid, number)


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"


def _miou(result: Path | None) -> str:
    if result is None:
        return ""
    value = json.loads(result.read_text(encoding="utf-8"))["miou"]
    return "" if value is None else f", mIoU {100 * value:.1f}"


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-_TAIL:])
