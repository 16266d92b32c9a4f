"""Memory that the C library holds but does not use, given back to the system."""

import ctypes
from collections.abc import Callable


def _find_trim() -> Callable[[int], int] | None:
    """`malloc_trim` of glibc; None with another C library."""
    try:
        return ctypes.CDLL(None).malloc_trim
    except (AttributeError, OSError, TypeError):
        return None


_TRIM = _find_trim()


def release() -> None:
    """Give free pages back to the system; without glibc nothing happens.

    Tensors of many sizes leave holes that later tensors don't fit into. Pages that are needed again
    cost time, so call this where memory is at its peak and the work around it is long.
    """
    if _TRIM is not None:
        _TRIM(0)
