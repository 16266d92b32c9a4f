"""The run-length code of Label Studio's brush: a bit stream of runs of RGBA bytes.

The form is that of the npm package @thi.ng/rle-pack (npmjs.com/package/@thi.ng/rle-pack), with
which Label Studio's editor decodes it. Label Studio's own encoder, in label-studio-sdk, would bring
about fifty packages with it and another version of NumPy.
"""

import numpy as np

_SIZES = np.array([3, 4, 8, 16])  # bits for a run's length, from which the shortest is chosen
_WORD = 8  # bits of a value
_CHANNELS = 4  # RGBA, which are equal: 255 where painted, else 0


def encode_brush(region: np.ndarray) -> list[int]:
    """Bytes, 0 to 255, of the code for `region`, bool (H,W).

    The head has 32 bits with the number of values, 5 with the size of a value minus 1, and 4 for
    each of four sizes of lengths, minus 1. A run has a 1 (it is repeated), 2 bits that choose the
    size of its length, the length minus 1, and the value.
    """
    flat = region.ravel()
    starts = np.flatnonzero(np.concatenate(([True], flat[1:] != flat[:-1])))
    lengths = _CHANNELS * np.diff(starts, append=flat.size)
    longest = 1 << int(_SIZES[-1])
    parts = -(-lengths // longest)  # of a run that is too long for one length
    run = np.full(int(parts.sum()), longest)
    run[np.cumsum(parts) - 1] = lengths - (parts - 1) * longest
    painted = np.repeat(flat[starts], parts)
    choice = np.searchsorted(1 << _SIZES, run)
    codes = ((((4 | choice) << _SIZES[choice]) | (run - 1)) << _WORD) | np.where(painted, 255, 0)
    head = _CHANNELS * flat.size
    for value, size in ((_WORD - 1, 5), *((int(size) - 1, 4) for size in _SIZES)):
        head = head << size | value
    return _pack([(np.array([head]), np.array([32 + 5 + 16])), (codes, 3 + _SIZES[choice] + _WORD)])


def _pack(parts: list[tuple[np.ndarray, np.ndarray]]) -> list[int]:
    """Numbers of given sizes in bits, one after the other, in bytes; filled up with zeros."""
    codes, sizes = (np.concatenate(column) for column in zip(*parts, strict=True))
    ends = np.cumsum(sizes)
    bits = np.zeros(int(ends[-1]), np.uint8)
    for place in range(int(sizes.max())):  # from the last bit of each number
        has = sizes > place
        bits[ends[has] - 1 - place] = codes[has] >> place & 1
    return np.packbits(bits).tolist()
