"""Errors that a user can fix, and how a script reports them."""

import contextlib
import errno
import io
import os
import re
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

from utils.safe.signals import exit_status, raise_on_sigterm, same_command

_WAIT = 5.0  # seconds; by then torchrun has ended the ranks if rank 0 failed too
_ADVICE = {
    errno.EACCES: "get permission (chmod, chown), or name another place",
    errno.EPERM: "get permission (chmod, chown), or name another place",
    errno.EROFS: "the disk is read-only; name a place on another one",
    errno.ENOSPC: "free some space or name another disk, and run the same command again",
    errno.EDQUOT: "free some space or name another disk, and run the same command again",
    errno.ENOENT: "check the path",
    errno.EEXIST: "there is a file where a folder is needed; name another place",
    errno.ENOTDIR: "there is a file where a folder is needed; name another place",
    errno.EISDIR: "there is a folder where a file is needed; name another place",
    errno.ENAMETOOLONG: "shorten the name",
    errno.EMFILE: "allow more open files (ulimit -n), or start fewer worker processes",
}
_NO_MEMORY = r"^OutOfMemory|^\w*MemoryError|can't allocate memory|CUDA error: out of memory"
_TORCH = {  # a RuntimeError's name or text -> what it means to the user
    r"^Dist|gloo/transport": "another process of this run has ended or can't be reached ({}); fix "
    "what it reports and run the same command again to resume",
    _NO_MEMORY: "no memory is left ({}); use smaller values (batch_size, crop_size, image_size, "
    "--scales, short_side and window of the teacher), or use a machine with more",
    r"DataLoader worker \(pid|unable to (allocate shared memory|mmap|write to file)": "a loader "
    "process has failed, probably for lack of memory ({}); start fewer (num_workers), in Docker "
    "with more shared memory (--shm-size)",
}


class InputError(ValueError):
    """Something the user gave is missing or wrong: a file, a key, a size, a folder.

    The message says what was expected, what was found and what to run next.
    """


@contextlib.contextmanager
def needs_package(what: str, install: str) -> Iterator[None]:
    """Context of the import of an optional package, without which it raises InputError.

    what: what needs it, e.g. an option; install: what follows `pip install` in the message.
    """
    try:
        yield
    except ImportError as error:
        raise InputError(f"{what} needs a package ({error}): pip install {install}") from None


def is_out_of_memory(error: BaseException) -> bool:
    """True for what torch or NumPy raise, on any device, when memory does not suffice."""
    return re.search(_NO_MEMORY, f"{type(error).__name__}: {error}") is not None


class InputWarning(UserWarning):
    """Something odd that the user gave, which is used anyway: raised by `warn`.

    place: the folder whose files it is about, if any.
    """

    def __init__(self, text: str, place: Path | str | None = None) -> None:
        super().__init__(text)
        self.place = place


def warn(text: str, place: Path | str | None = None) -> None:
    """Warn once, on rank 0, about something odd that the user gave; the run continues.

    Uses Python's `warnings`, so that a caller can collect them (`warnings.catch_warnings`).
    place: the folder whose files the text is about, if any.
    """
    warnings.warn(InputWarning(text, place), stacklevel=2)


class InputNote(InputWarning):
    """The interpretation of something the user gave: raised by `note`."""


def note(text: str, place: Path | str | None = None) -> None:
    """Print once, on rank 0, how something that the user gave is interpreted; nothing is wrong."""
    warnings.warn(InputNote(text, place), stacklevel=2)


def run_script(main: Callable[[list[str]], None]) -> None:
    """Run ``main(sys.argv[1:])``; report an error the user can fix as one message, exit status 2.

    Such errors are `InputError` and `OSError`: a folder that can't be written, a full disk.
    ``--debug`` anywhere on the command line shows the traceback too. Under torchrun, rank 0 reports
    at once and the others only if they are still running a little later, so that an error on all
    ranks is reported once. SIGTERM and Ctrl-C exit with status 143 and 130.
    """
    raise_on_sigterm()
    _prepare_console()
    try:
        _run(main)
    except KeyboardInterrupt as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(f"stopped; to run it again:\n    {same_command()}", file=sys.stderr)
        sys.exit(exit_status(stopped))


class _Lasting(io.RawIOBase):
    """Output stream whose reader may disappear: output is then dropped, the run continues."""

    def __init__(self, raw: io.RawIOBase, stream: io.TextIOWrapper) -> None:
        self.raw = raw
        self.stream = stream  # kept, as its destructor would close `raw`

    def write(self, data: Any) -> int:
        with contextlib.suppress(OSError):  # `| head` has ended, a terminal was closed
            while (written := self.raw.write(data)) is None:  # full, and it does not block
                time.sleep(0.01)
            return written
        return len(data)

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self.raw.isatty()

    def fileno(self) -> int:
        return self.raw.fileno()


def _prepare_console() -> None:
    """Keep output from ending a run: letters that a console lacks are escaped, output to a closed
    one is dropped. An InputWarning becomes one line."""
    sys.stdout, sys.stderr = _lasting(sys.stdout), _lasting(sys.stderr)
    warnings.simplefilter("once", InputWarning)
    shown_before = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *place: Any, **options: Any) -> None:
        if not issubclass(category, InputWarning):
            shown_before(message, category, *place, **options)
        elif os.environ.get("RANK", "0") == "0":
            word = "note" if issubclass(category, InputNote) else "warning"
            print(f"{word}: {printable(str(message))}", file=sys.stderr, flush=True)

    warnings.showwarning = show


def _lasting(stream: Any) -> Any:
    if stream is None:  # pythonw, or closed by the shell; else the next file would get its number
        return Path(os.devnull).open("w", encoding="utf-8", errors="backslashreplace")
    if not isinstance(stream, io.TextIOWrapper):
        return stream
    stream.reconfigure(errors="backslashreplace")
    raw = getattr(stream.buffer, "raw", stream.buffer)
    if not isinstance(raw, io.RawIOBase) or isinstance(raw, _Lasting):  # in memory, or wrapped
        return stream
    lasting = _Lasting(raw, stream)
    return io.TextIOWrapper(
        lasting if stream.buffer is raw else io.BufferedWriter(lasting),  # python -u
        encoding=stream.encoding,
        errors="backslashreplace",
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def _run(main: Callable[[list[str]], None]) -> None:
    arguments = sys.argv[1:]
    try:
        _refuse_empty(arguments)
        main([argument for argument in arguments if argument != "--debug"])
    except (InputError, OSError) as error:
        _report(_message(error))
    except UnicodeEncodeError as error:
        _report(_not_encodable(error))
    except (RuntimeError, MemoryError) as error:
        name, text = type(error).__name__, str(error) or type(error).__name__
        for pattern, meaning in _TORCH.items():
            if re.search(pattern, f"{name}: {text}"):
                lines = [line for line in text.splitlines() if line.strip()]
                cause = lines[-1 if lines[0].startswith("Caught ") else 0]  # of a loader process
                _report(meaning.format(cause))
        raise


def _not_encodable(error: UnicodeEncodeError) -> str:
    """Message for a name given to the system, or written into a UTF-8 file."""
    shown = error.object[max(0, error.start - 40) : error.end + 40]
    found = f"{shown!a} can't be written in {error.encoding}"
    if error.encoding.replace("-", "").lower() == "utf8":
        return f"{found}: it is a file name in another encoding; rename the file (convmv)"
    return f"{found}, this system's encoding; set PYTHONUTF8=1 and run the same command again"


def _refuse_empty(arguments: list[str]) -> None:
    """Raise InputError for an empty argument: as a path it would be the current folder."""
    for place, argument in enumerate(arguments):
        if re.fullmatch(r"(--[\w-]+=)?", argument):
            after = argument or " ".join(arguments[max(0, place - 1) : place])
            where = f" after {after}" if after else ""
            raise InputError(f"empty argument{where}; give a value (is a shell variable not set?)")


def _report(message: str) -> NoReturn:
    """Print a message for the current exception, in one write as ranks print at once; exit."""
    lines = map(printable, message.split("\n"))
    text = "\n".join(["error: " + next(lines), *lines, ""])
    raise_on_sigterm()  # `utils.safe.stop`, which delays signals to save first, has ended
    if "--debug" in sys.argv:
        text = traceback.format_exc() + text
    if os.environ.get("RANK", "0") != "0":
        time.sleep(_WAIT)
    sys.stderr.write(text)
    sys.stderr.flush()
    sys.exit(2)


def printable(line: str) -> str:
    """`line` with control characters escaped, which file names may contain."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in line)


def _message(error: InputError | OSError) -> str:
    """The message, without the traceback that a data-loader worker adds."""
    text = str(error)
    if text.startswith(f"Caught {type(error).__name__} in DataLoader worker"):
        return text.rsplit(f"{type(error).__name__}: ", 1)[-1].strip()
    if isinstance(error, OSError) and error.strerror:
        name = error.filename2 or error.filename
        where = "" if name is None else f"{name}: "
        advice = f"; {_ADVICE[error.errno]}" if error.errno in _ADVICE else ""
        return f"{where}{error.strerror}{advice}"
    return text or type(error).__name__
