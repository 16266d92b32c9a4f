"""SIGTERM and Ctrl-C: what every script does with them. Training does more: stop.py."""

import os
import shlex
import signal
import sys
import threading
from pathlib import Path
from types import FrameType, TracebackType


def raise_on_sigterm() -> None:
    """SIGTERM comes as the exception of Ctrl-C, so that what is half-written is cleared away."""
    signal.signal(signal.SIGTERM, _raise)


def _raise(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(number)


def exit_status(stopped: KeyboardInterrupt) -> int:
    """What a shell shows for the signal: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (stopped.args[0] if stopped.args else signal.SIGINT)


def same_command() -> str:
    """The command line of this run, ready to be copied into a shell; without --overwrite."""
    command = sys.orig_argv
    if "TORCHELASTIC_RUN_ID" in os.environ:
        try:
            launcher = Path(f"/proc/{os.getppid()}/cmdline").read_bytes()
            command = os.fsdecode(launcher).split("\0")[:-1]
        except OSError:  # no Linux
            command = ["torchrun", f"--nproc_per_node={os.environ['LOCAL_WORLD_SIZE']}", *sys.argv]
    return shlex.join(a for a in command if len(a) < 3 or not "--overwrite".startswith(a))


def leave_signals_to_parent(worker: int = 0) -> None:
    """DataLoader's worker_init_fn: only the process that started this one may end it.

    A terminal sends Ctrl-C to a whole process group; torchrun and cluster managers send SIGTERM so.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.excepthook = _unless_left
    if hasattr(signal, "sigwaitinfo"):
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_wait_for, args=(os.getppid(),), daemon=True).start()


def _unless_left(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print a traceback; but a parent that is stopped while it takes a sample over is no fault."""
    if not issubclass(kind, (EOFError, ConnectionError)):
        sys.__excepthook__(kind, error, trace)


def _wait_for(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
