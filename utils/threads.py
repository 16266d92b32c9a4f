"""Environment variables that torch reads when it loads. Every script imports this before torch.

OpenMP threads wait for each other at the end of every operation. By default the early ones spin for
some milliseconds; beside another busy process they take the late one's core, and a script gets
several times slower. Here they spin for a thousand turns and then sleep: about as fast as the
default on an idle machine, where sleeping at once costs a sixth (`python -m benchmarks.busy`).
Torch reads the variables once, when it loads OpenMP, so they are set here for this process and its
children. A user's own OMP_WAIT_POLICY or GOMP_SPINCOUNT (Linux) is kept.

On a Mac (--device mps), operators that Metal lacks run on the CPU.
"""

import os

WAITING = {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"}

if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.update(WAITING | {key: os.environ[key] for key in WAITING if key in os.environ})
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
