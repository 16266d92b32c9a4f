"""Child processes for the commands of experiments/ablation.py, several at a time."""

import os
import queue
import shlex
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from datasets.doctor.plausible import available_cores
from utils.safe.files import write_json

ROOT = Path(__file__).resolve().parent.parent
RECORD = "row.json"
_TAIL = 15  # lines of a failed job's log to show


@dataclass(frozen=True)
class Job:
    """Commands run in order, each a script or "-m", module of this repository, and arguments.

    record: what is made, written beside the log before it is made.
    """

    name: str
    commands: list[list[str]]
    log: Path
    record: dict[str, Any] = field(default_factory=dict)


def run_jobs(jobs: list[Job], parallel: int) -> list[str]:
    """Run jobs and print a line when one starts, ends or fails; gives the names of failed jobs.

    KeyboardInterrupt stops the children first.
    """
    children = _Children()
    slots: queue.SimpleQueue[int] = queue.SimpleQueue()  # each slot belongs to one GPU
    for slot in range(parallel):
        slots.put(slot)

    def run(job: Job) -> bool:
        slot = slots.get()
        try:
            return children.run(job, environment(slot, parallel))
        finally:
            slots.put(slot)

    with ThreadPoolExecutor(parallel) as pool:
        try:
            good = list(pool.map(run, jobs))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            children.stop()
            raise
    return [job.name for job, fine in zip(jobs, good, strict=True) if not fine]


def environment(slot: int, parallel: int) -> dict[str, str]:
    """Variables of a child: an equal share of the cores, unless OMP_NUM_THREADS is set, and GPU
    `slot` modulo the number of GPUs."""
    folders = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]  # for `-m`
    variables = os.environ | {"PYTHONUNBUFFERED": "1", "PYTHONPATH": os.pathsep.join(folders)}
    variables.setdefault("OMP_NUM_THREADS", str(max(1, available_cores() // parallel)))
    count = torch.cuda.device_count()
    if count:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(count)))
        variables["CUDA_VISIBLE_DEVICES"] = visible.split(",")[slot % count]
    return variables


class _Children:
    """The running processes by name of their job; after stop() no more are started."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: dict[str, subprocess.Popen] = {}
        self.stopped = False

    def run(self, job: Job, variables: dict[str, str]) -> bool:
        """Whether all commands of the job succeeded."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        if job.record:
            write_json(job.log.with_name(RECORD), job.record)
        _say(f"started {job.name}")
        with job.log.open("a", encoding="utf-8") as log:
            for command in job.commands:
                log.write(f"$ {shlex.join(['python', *command])}\n")
                log.flush()
                script = command[0] if command[0] == "-m" else str(ROOT / command[0])
                with self.lock:
                    if self.stopped:
                        return False
                    self.running[job.name] = process = subprocess.Popen(
                        [sys.executable, script, *command[1:]],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=variables,
                        start_new_session=True,  # so that Ctrl-C reaches only this program
                    )
                status = process.wait()
                with self.lock:
                    del self.running[job.name]
                    if self.stopped:
                        return False
                if status != 0:
                    break
        if status == 0:
            _say(f"finished {job.name}")
        else:
            lines = job.log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
            _say("\n    ".join([f"FAILED {job.name}, status {status}; {job.log} ends:", *lines]))
        return status == 0

    def stop(self) -> None:
        """End the processes and their data-loader workers."""
        with self.lock:
            self.stopped = True
            running = dict(self.running)
        _say(f"stopping {', '.join(running)}; run the same command again to resume")
        for process in running.values():
            with suppress(ProcessLookupError):  # it has just ended
                if hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGTERM)
                else:  # Windows
                    process.terminate()


def _say(text: str) -> None:
    # One write, so that lines of several threads don't mix.
    print(f"{time.strftime('%H:%M:%S')}  {text}\n", end="", flush=True)
