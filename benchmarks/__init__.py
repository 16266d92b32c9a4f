"""Comparison and timing of the official way and ours: `python -m benchmarks.run --help`."""

import utils.threads  # noqa: F401  an idle thread that spins counts as CPU time
