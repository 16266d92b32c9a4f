"""How far a loop is, how fast, and how long it will take."""

import sys
import time
from collections.abc import Collection, Iterator
from typing import TypeVar

from tqdm import tqdm

from utils.distributed import Ranks

Item = TypeVar("Item")


def progress(
    items: Collection[Item], what: str, ranks: Ranks, every: float = 30.0
) -> Iterator[Item]:
    """The items; on rank 0 with a bar, or where standard error is no terminal, a line on it every
    so many seconds. It counts this rank's items.
    """
    shown = tqdm(items, what, disable=None if ranks.is_main else True)
    start = last = time.monotonic()
    for done, item in enumerate(shown, 1):
        yield item
        now = time.monotonic()
        if ranks.is_main and shown.disable and now - last >= every:
            last = now
            line = tqdm.format_meter(done, len(items), now - start, ncols=0, prefix=what)
            print(line.strip(), file=sys.stderr, flush=True)
