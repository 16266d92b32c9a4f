"""Reading one file by one reader, under limits of time and memory; what each reader is."""

import contextlib
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from utils.safe.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = ("road", "car", "traffic light")  # the classes of the good files
SECONDS = 20
MEMORY = 1 << 20  # KiB that reading one file may add to the most that the program ever took


class Target(NamedTuple):
    """`read` may raise InputError and nothing else, whatever lies in the file of this `suffix`."""

    suffix: str
    read: Callable[[Path], object]
    files: list[bytes]  # good ones, to be damaged
    tokens: tuple[bytes, ...] = ()  # pieces of the format
    values: tuple[Any, ...] = ()  # good contents, to be edited
    dump: Callable[[Any], bytes] | None = None  # content -> file


class Fault(Exception):
    """What came out of a reader; the text is the kind of fault, by which it is found only once."""


class _TooSlow(BaseException):
    """Not to be caught by a reader."""


def allowed(*calls: Callable[[], object]) -> None:
    """Each of them, whatever the others say; raises InputError when all have refused."""
    refused = []
    for call in calls:
        try:
            call()
        except InputError as error:
            refused.append(error)
    if len(refused) == len(calls):
        raise refused[0]


def read(name: str, target: Target, content: bytes, folder: Path) -> str:
    """Read `content` by the target: "read" or "refused", else raises Fault."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    path = folder / f"{name}{target.suffix}"
    path.write_bytes(content)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = "read"
    try:
        with _limited():
            target.read(path)
    except InputError:
        result = "refused"
    except _TooSlow:
        raise Fault(f"more than {SECONDS} s") from None
    except Exception as error:
        raise Fault(_kind(error)) from error
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before > MEMORY:
        raise Fault(f"more than {MEMORY >> 20} GiB")
    return result


def _kind(error: Exception) -> str:
    """Type and place: the last line of this program that it went through."""
    lines = [
        f"{Path(frame.filename).relative_to(ROOT)}:{frame.lineno}"
        for frame in traceback.extract_tb(error.__traceback__)
        if Path(frame.filename).is_relative_to(ROOT) and "/tests/fuzz/" not in frame.filename
    ]
    return f"{type(error).__name__} in {lines[-1] if lines else 'tests/fuzz'}"


@contextlib.contextmanager
def _limited() -> Iterator[None]:
    def stop(number: int, frame: object) -> None:
        raise _TooSlow

    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
