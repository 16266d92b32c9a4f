"""Progress of a loop: items done, speed and time left."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

from utils.distributed import Ranks

Item = TypeVar("Item")


def progress(
    items: Iterable[Item],
    what: str,
    ranks: Ranks | None = None,
    total: int | None = None,
    every: float = 30.0,
) -> Iterator[Item]:
    """Yield the items; rank 0 shows progress, counting its own items.

    It shows a bar on a terminal, else it prints a line to standard error every `every` seconds.
    total: number of items, needed where they have no length.
    """
    is_main = ranks is None or ranks.is_main
    shown = tqdm(items, what, total, disable=None if is_main else True)
    start = last = time.monotonic()
    for done, item in enumerate(shown, 1):
        yield item
        now = time.monotonic()
        if is_main and shown.disable and now - last >= every:
            last = now
            line = tqdm.format_meter(done, shown.total, now - start, ncols=0, prefix=what)
            print(line.strip(), file=sys.stderr, flush=True)
