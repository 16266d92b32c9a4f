"""The official image-level labels, a pickled dict in an .npy file, read without running the pickle.

A pickle is a program that may call any function it names. Here it may name three of NumPy's,
which are replaced by inert stand-ins; everything else is refused.
"""

import io
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from datasets.image_labels import ImageLabels
from utils.safe.errors import InputError
from utils.safe.file_kinds import stand_in


class _Inert:
    """Takes the place of an array or dtype; keeps what the pickle says about it."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments
        self.state: tuple = ()

    def __setstate__(self, state: tuple) -> None:
        self.state = state


class _Reader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        # NumPy 2 renamed numpy.core to numpy._core.
        known = {("numpy", "ndarray"), ("numpy", "dtype")}
        known |= {(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")}
        if (module, name) not in known:
            raise InputError(f"it names {module}.{name}, which a table of labels does not need")
        return type("_Inert", (_Inert,), {})  # a new one each time: nothing to tamper with


def import_official_labels(path: str | Path) -> tuple[ImageLabels, int]:
    """Labels and number of classes of the official ``labels.npy``. Runs no code from the file.

    The file is a dict of 0/1 vectors, one per image id, in an object array without dimensions.
    Raises InputError for anything else.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no file {path}; expected the official metadata/<data set>/labels.npy")
    try:
        table = _read_table(path.read_bytes())
        vectors = {_read_id(key): _read_vector(value) for key, value in table.items()}
    except Exception as error:  # a damaged pickle can fail in every way
        found = stand_in(path) or f"{error}; copy it again"
        raise InputError(f"{path} is not the official labels.npy: {found}") from None
    lengths = sorted({len(vector) for vector in vectors.values()})
    if len(lengths) != 1:
        raise InputError(f"{path}: expected vectors of one length, found lengths {lengths}")
    labels = {key: tuple(np.flatnonzero(vectors[key]).tolist()) for key in sorted(vectors)}
    return labels, lengths[0]


def _read_table(data: bytes) -> dict:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise ValueError(f"unknown .npy version {version}")
    shape, _, dtype = np.lib.format.read_array_header_1_0(stream)
    if shape != () or dtype != np.dtype(object):
        raise ValueError(f"it holds a {dtype} array of shape {shape} and not one dict")
    _check_memo(stream)
    outer = _Reader(stream).load()
    # ndarray state: (version, shape, dtype, is_fortran, data).
    (table,) = outer.state[4]
    if not isinstance(table, dict):
        raise TypeError(f"it holds a {type(table).__name__} and not a dict")
    return table


def _check_memo(stream: io.BytesIO) -> None:
    """Raise ValueError where the pickle uses a memo index larger than the file; rewind the stream.

    Python allocates all lower indices too, so ten bytes could take all memory.
    """
    start, length = stream.tell(), len(stream.getbuffer())
    for operation, argument, _ in pickletools.genops(stream):
        if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") and argument > length:
            raise ValueError(f"a file of {length} bytes numbers a value {argument}")
    stream.seek(start)


def _read_id(key: Any) -> str:
    if not isinstance(key, str):
        raise TypeError(f"an image id is {type(key).__name__} and not a text")
    return key


def _read_vector(array: _Inert) -> np.ndarray:
    _, shape, dtype, _, data = array.state
    name, order = dtype.arguments[0], dtype.state[1]
    if name not in ("f4", "f8", "i1", "i2", "i4", "i8", "u1", "b1") or len(shape) != 1:
        raise ValueError(f"a label vector is {name} of shape {shape}")
    vector = np.frombuffer(data, np.dtype(name).newbyteorder(order))
    if vector.shape != shape or not np.isin(vector, (0, 1)).all():
        raise ValueError(f"expected 0/1 vectors, found {vector}")
    return vector
