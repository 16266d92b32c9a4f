"""What torch reads from the environment when it loads. Every script imports this before torch.

Threads sleep while they wait. OpenMP's threads meet at the end of every operation. By default the
early ones spin for some milliseconds; beside another busy process the late one is not running, so
that the spinning takes its place and a script gets ten times slower (`python -m benchmarks.busy`).
Passive waiting costs little on an idle machine. The variable is read once, when torch loads the
library, so it is set here for this process and for those it starts; one that the user has set
stays. A number of turns in GOMP_SPINCOUNT (Linux) goes before it.

On a Mac (--device mps), operators that Metal lacks run on the CPU.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("PYTORCH_ENABLE_MPS_FALLBACK", "1")
