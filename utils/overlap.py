"""Work beside the network: items made ahead of it, and results written behind it, by threads.

Reading and writing images release Python's lock for most of their time, as torch does for all of
it, so that threads suffice.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")


def ahead(items: Iterable[Item], size: int = 2) -> Iterator[Item]:
    """Yield the items in their order, while a thread makes up to `size` of the next ones.

    An error of the items is raised where its item would have come, after those before it. When the
    caller stops early, no further item is begun.
    """
    iterator, end = iter(items), object()
    pool = ThreadPoolExecutor(1)
    try:
        coming = deque(pool.submit(next, iterator, end) for _ in range(size))
        while (item := coming.popleft().result()) is not end:
            coming.append(pool.submit(next, iterator, end))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def writing(size: int = 2, threads: int = 1) -> Iterator[Callable[..., None]]:
    """Context with do(function, *arguments), which threads call later: one thread, in that order.

    At most `size` calls wait or run. An error of one is raised by one of the next `do`, or at the
    end of the context, and calls that have not begun are then left out.
    """
    waiting: deque[Future] = deque()
    pool = ThreadPoolExecutor(threads)

    def do(function: Callable[..., Any], *arguments: Any) -> None:
        if len(waiting) >= size:
            waiting.popleft().result()
        waiting.append(pool.submit(function, *arguments))

    try:
        yield do
        while waiting:
            waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
