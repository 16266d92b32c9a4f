"""Pause of garbage collection while many long-lived objects are created."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collection_paused() -> Iterator[None]:
    """A context, or a decorator: no garbage collection inside.

    Creating the ids and files of 100 000 images would start about twenty passes over all objects
    of torch, which take a third of the start of a training and free nothing.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
