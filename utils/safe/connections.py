"""Connections of this process that end when the other machine no longer answers."""

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
    "TCP_USER_TIMEOUT": 1000 * _SILENCE,  # milliseconds, for data that nobody acknowledges
}


def end_silent_connections() -> None:
    """Let the system end each open TCP connection whose other machine is silent for 20 seconds.

    A cut cable or a machine without power closes nothing: gloo would wait for its time limit, which
    must be long (30 minutes), as rank 0 may list a million files while the others wait. Here the
    other machine's system answers, however long its process computes. Nothing happens where the
    system lacks this (Windows).
    """
    folder = Path("/dev/fd")  # the open files of this process
    for file in folder.iterdir() if folder.is_dir() else ():
        try:
            if not stat.S_ISSOCK(os.fstat(int(file.name)).st_mode):
                continue
            copy = socket.socket(fileno=os.dup(int(file.name)))  # options belong to the connection
        except OSError:  # the listing's own descriptor is closed
            continue
        with copy:
            if copy.family in (socket.AF_INET, socket.AF_INET6) and copy.type == socket.SOCK_STREAM:
                copy.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
                for option, value in _OPTIONS.items():
                    if hasattr(socket, option):
                        copy.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
