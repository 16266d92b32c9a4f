"""Connections of this process that end when the other machine no longer answers."""

import contextlib
import os
import socket
import stat
from pathlib import Path

_SILENCE = 20  # seconds; torchrun gives a machine up after 15
_PROBES = 4
_OPTIONS = {
    "TCP_KEEPIDLE": _SILENCE // 3,  # seconds before the first probe of a connection that waits
    "TCP_KEEPALIVE": _SILENCE // 3,  # the same on macOS
    "TCP_KEEPINTVL": _SILENCE * 2 // 3 // _PROBES,
    "TCP_KEEPCNT": _PROBES,
    "TCP_USER_TIMEOUT": 1000 * _SILENCE,  # milliseconds, for data that nobody takes
}


def end_silent_connections() -> None:
    """Let the system end each TCP connection to another machine that is silent for 20 seconds.

    A cut cable or a machine without power closes nothing: gloo would wait for its time limit, which
    must be long (30 minutes), as rank 0 may list a million files while the others wait. Here the
    other machine's system answers, however long its process computes; only a process that was
    stopped (SIGSTOP, a debugger) and does not take data sent to it counts as silent too.

    Connections within this machine stay as they are. On macOS, which lacks TCP_USER_TIMEOUT, data
    on its way waits longer; on Windows, and where the system does not list a process's open files
    or refuses an option, nothing happens.
    """
    folder = Path("/dev/fd")  # the open files of this process
    for file in folder.iterdir() if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # closed by now, not connected, or an option refused
            if stat.S_ISSOCK(os.fstat(int(file.name)).st_mode):
                with socket.socket(fileno=os.dup(int(file.name))) as copy:  # of the same connection
                    _end_when_silent(copy)


def _end_when_silent(connection: socket.socket) -> None:
    of_tcp = connection.family in (socket.AF_INET, socket.AF_INET6)
    if not of_tcp or connection.type != socket.SOCK_STREAM:
        return
    if connection.getpeername()[0] == connection.getsockname()[0]:
        return  # both ends are on this machine
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _OPTIONS.items():
        if hasattr(socket, option):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
