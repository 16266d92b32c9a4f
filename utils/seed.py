"""Random numbers that depend on (seed, purpose, step) only.

Training keeps no generator state, so a resumed run, another worker count or another number
of ranks draws the same numbers.
"""

import numpy as np
import torch


def derive(seed: int, *numbers: int) -> int:
    """A 63-bit seed from a base seed and non-negative integers."""
    state = np.random.SeedSequence((seed, *numbers)).generate_state(1, np.uint64)[0]
    return int(state >> np.uint64(1))


def generator(seed: int, *numbers: int) -> torch.Generator:
    """A CPU generator started from `derive(seed, *numbers)`."""
    return torch.Generator().manual_seed(derive(seed, *numbers))


# Purposes of random numbers: the second argument of `derive`.
WEIGHTS, ORDER, AUGMENTATION, LOCAL_VIEWS, DROPOUT, POINTS = range(6)
