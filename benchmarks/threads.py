"""One thread, as a data-loader worker has."""

import functools

import torch

from benchmarks.timing import Way


def on_one_thread(way: Way) -> Way:
    """`way` with torch held to one thread while it runs."""

    @functools.wraps(way)
    def limited(*arguments):
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return way(*arguments)
        finally:
            torch.set_num_threads(threads)

    return limited
