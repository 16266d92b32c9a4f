"""The published way and ours, compared and timed: `python -m benchmarks.run --help`."""

import utils.threads  # noqa: F401  an idle thread that spins counts as CPU time
