"""SIGTERM and Ctrl-C in all scripts. Training does more: see stop.py."""

import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType


def raise_on_sigterm() -> None:
    """Let SIGTERM raise KeyboardInterrupt, as Ctrl-C does, so that unfinished files are removed."""
    signal.signal(signal.SIGTERM, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def exit_status(stopped: KeyboardInterrupt) -> int:
    """Exit status of the signal, as shells define it: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (stopped.args[0] if stopped.args else signal.SIGINT)


def this_command() -> list[str]:
    """The program and its arguments as they were typed: a file, or -m and a module."""
    module = getattr(sys.modules["__main__"], "__spec__", None)
    program = [sys.argv[0]] if module is None else ["-m", module.name]
    return [*program, *sys.argv[1:]]


def same_command() -> str:
    """The command line of this run for a shell, without --overwrite."""
    command = sys.orig_argv
    if "TORCHELASTIC_RUN_ID" in os.environ:
        try:
            launcher = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
            command = os.fsdecode(launcher).split("\0")[:-1]
        except OSError:  # not Linux
            command = ["torchrun", f"--nproc_per_node={os.environ['LOCAL_WORLD_SIZE']}"]
            command += this_command()
    return shlex.join(a for a in command if len(a) < 3 or not "--overwrite".startswith(a))


def leave_signals_to_parent(worker: int = 0) -> None:
    """DataLoader's worker_init_fn: only the parent process may end this one.

    A terminal sends Ctrl-C, and torchrun and cluster managers send SIGTERM, to a whole process
    group.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _unless_left
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for, args=(os.getppid(),), daemon=True).start()


def _unless_left(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a traceback, unless the parent was stopped while it received a sample."""
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)


def _wait_for(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
