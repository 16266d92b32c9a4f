"""Whether file modes bind this user."""

import contextlib
import ctypes
import functools
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory


@contextlib.contextmanager
def ordinary_user() -> Iterator[None]:
    """Root without its right to pass over file modes, as far as that can be had."""
    if os.geteuid() != 0 or sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)  # version 3 of the call, this thread
    data = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable; and their upper halves
    libc.capget(header, data)
    effective = data[0]
    data[0] &= ~(1 << 1 | 1 << 2)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    libc.capset(header, data)
    try:
        yield
    finally:
        data[0] = effective
        libc.capset(header, data)


@functools.cache
def modes_bind() -> bool:
    with TemporaryDirectory() as folder:
        Path(folder).chmod(0o555)
        try:
            with ordinary_user():
                (Path(folder) / "file").touch()
        except PermissionError:
            return True
        return False
