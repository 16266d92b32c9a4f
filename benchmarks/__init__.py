"""The published way and ours, compared and timed: `python -m benchmarks.run --help`."""

import os

# An idle OpenMP thread that spins counts as CPU time. Read when torch is loaded, so set before it.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
