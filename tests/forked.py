"""The scripts as processes of their own, killed at a chosen moment.

Importing torch takes seconds, so one process has done it and forks each of them.
"""

import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
# What a process does to files, before it does it. Training opens each image anew, so that these
# are spread over all of a run.
_EVENTS = {"open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.listdir", "os.scandir"}
_EVENTS |= {"fcntl.flock", "subprocess.Popen", "shutil.rmtree"}


class Ended(NamedTuple):
    """One process: exit status (minus the signal that killed it), what it printed, its events."""

    status: int
    printed: str
    events: int


class Scripts:
    """The process that forks; to be closed."""

    def __init__(self) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, __file__],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, *command: object, ranks: int = 1, **moment: Any) -> list[Ended]:
        """A script with its arguments, on each of `ranks` processes; returns when all have ended.

        event=n: killed at the n-th event, or `signal` is sent to it, or to its whole `group`;
        on=text: only events that mention it count; times=k: at the k events from there.
        locks=folder: instead, the folder may not be written from the n-th event on.
        delay=seconds: killed then. size=n: killed by the write that makes a file longer than n
        bytes, at that byte; disk=n: that write fails instead; both from the event on, if one is
        given.
        of=[ranks]: to which of the processes it happens (all).
        """
        request = {"command": [str(part) for part in command], "ranks": ranks} | moment
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return [Ended(*one) for one in json.loads(self.process.stdout.readline())]

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


def _serve() -> None:
    requests, replies = sys.stdin, os.fdopen(os.dup(1), "w")
    for line in requests:
        print(json.dumps(_run(json.loads(line))), file=replies, flush=True)


def _run(request: dict) -> list[tuple]:
    ranks = request["ranks"]
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # Pipes, as a limit on the size of files is none on them.
    pipes = [[os.pipe2(os.O_NONBLOCK) for _ in ("printed", "events")] for _ in range(ranks)]
    pids = []
    for rank in range(ranks):
        pid = os.fork()
        if pid == 0:
            mine = request if rank in request.get("of", range(ranks)) else {}
            environment = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks}
            environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            if ranks > 1:
                os.environ |= {key: str(value) for key, value in environment.items()}
            _child(request["command"], mine, *(write for _, write in pipes[rank]))
        pids.append(pid)
    if "delay" in request:
        time.sleep(request["delay"])
        for rank in request.get("of", range(ranks)):
            os.kill(pids[rank], signal.SIGKILL)  # nobody has waited for it, so it is still ours
    statuses, ended = _wait(pids), []
    for status, pair in zip(statuses, pipes, strict=True):
        printed, events = (_read(*pipe) for pipe in pair)
        ended.append((status, printed, int(events or 0)))
    return ended


def _read(end: int, other: int) -> str:
    os.close(other)
    try:
        return os.read(end, 1 << 20).decode()
    except BlockingIOError:  # a loader worker still holds the other end
        return ""
    finally:
        os.close(end)


def _wait(pids: list[int]) -> list[int]:
    """Exit statuses. As torchrun does: when one fails, the others are told to end."""
    statuses: dict[int, int] = {}
    deadline = None
    while len(statuses) < len(pids):
        for pid in set(pids) - set(statuses):
            found, status = os.waitpid(pid, os.WNOHANG)
            if found:
                statuses[pid] = os.waitstatus_to_exitcode(status)
        if deadline is None and any(statuses.values()):
            deadline = time.monotonic() + 30
            time.sleep(0.1)
            _kill(set(pids) - set(statuses), signal.SIGTERM)
        elif deadline is not None and time.monotonic() > deadline:
            _kill(set(pids) - set(statuses), signal.SIGKILL)
        time.sleep(0.005)
    return [statuses[pid] for pid in pids]


def _kill(pids: set[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def _child(command: list[str], moment: dict, printed: int, count: int) -> None:
    os.setsid()
    os.dup2(printed, 1)
    os.dup2(printed, 2)
    # The streams of before know whether their files could be wound back; these are pipes.
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    sys.argv, sys.orig_argv = command, [sys.executable, *command]
    this, events, status = os.getpid(), 0, 1
    limits = [moment[key] for key in ("size", "disk") if key in moment]
    first = moment.get("event", 1 << 30)
    chosen = range(first, first + moment.get("times", 1))

    def hook(event: str, arguments: tuple) -> None:
        nonlocal events
        if event not in _EVENTS or os.getpid() != this:  # loader workers have it too
            return
        events += moment.get("on", "") in str(arguments)
        if events in chosen and moment.get("on", "") in str(arguments):
            if "locks" in moment:
                Path(moment["locks"]).chmod(0o555)
                return
            if limits:
                resource.setrlimit(resource.RLIMIT_FSIZE, (limits[0],) * 2)
                return
            number = moment.get("signal", signal.SIGKILL)
            os.killpg(0, number) if moment.get("group") else os.kill(this, number)

    if "locks" in moment:
        user = ordinary_user()  # to be kept: it ends with the last reference
        user.__enter__()
    sys.addaudithook(hook)
    if "size" in moment:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    if limits:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if limits and "event" not in moment:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limits[0],) * 2)
    try:
        runpy.run_path(command[0], run_name="__main__")
        status = 0
    except SystemExit as stop:
        status = stop.code or 0
    except BaseException:
        traceback.print_exc()
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(count, str(events).encode())
    os._exit(status)


if __name__ == "__main__":
    from rights import ordinary_user

    import eval  # noqa: F401
    import gen_clip_masks  # noqa: F401
    import train_carb  # noqa: F401
    import train_warmup  # noqa: F401

    _serve()
