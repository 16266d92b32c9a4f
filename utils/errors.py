"""The one kind of error a user can mend, and how a script reports it."""

import errno
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

from utils.signals import exit_status, raise_on_sigterm, same_command

_WAIT = 5.0  # seconds; by then torchrun has ended the ranks if rank 0 failed too
_ADVICE = {
    errno.EACCES: "give yourself the right to it (chmod, chown), or name another place",
    errno.EPERM: "give yourself the right to it (chmod, chown), or name another place",
    errno.EROFS: "the disk can only be read; name a place on another",
    errno.ENOSPC: "free some space or name another disk, and run the same command again",
    errno.EDQUOT: "free some space or name another disk, and run the same command again",
    errno.ENOENT: "check the path",
    errno.EEXIST: "a file stands where a folder is needed; name another place",
    errno.ENOTDIR: "a file stands where a folder is needed; name another place",
    errno.EISDIR: "a folder stands where a file is needed; name another place",
    errno.ENAMETOOLONG: "shorten the name",
    errno.EMFILE: "allow more open files (ulimit -n), or start fewer worker processes",
}


class InputError(ValueError):
    """Something the user gave is missing or wrong: a file, a key, a size, a folder.

    The message says what was expected, what was found and what to run next.
    """


def run_script(main: Callable[[list[str]], None]) -> None:
    """Run ``main(sys.argv[1:])``; report an error the user can mend as one message, exit status 2.

    That is an `InputError`, or an `OSError`: a folder that can't be written, a full disk.
    ``--debug`` anywhere on the command line shows the traceback too. Under torchrun rank 0 speaks
    at once and the others only if they are still running a little later, so that an error that all
    ranks meet is said once. SIGTERM and Ctrl-C end it too, with status 143 and 130.
    """
    raise_on_sigterm()
    try:
        _run(main)
    except KeyboardInterrupt as stopped:
        if os.environ.get("RANK", "0") == "0":
            print(f"stopped; the same command again:\n    {same_command()}", file=sys.stderr)
        sys.exit(exit_status(stopped))


def _run(main: Callable[[list[str]], None]) -> None:
    arguments = sys.argv[1:]
    try:
        main([argument for argument in arguments if argument != "--debug"])
    except (InputError, OSError) as error:
        _report(_message(error))
    except RuntimeError as error:
        text = str(error) or type(error).__name__
        # What torch.distributed raises: DistNetworkError and its like, and of gloo a RuntimeError.
        if not (type(error).__name__.startswith("Dist") or "gloo/transport" in text):
            raise
        _report(
            f"another process of this run has ended or can't be reached ({text.splitlines()[0]}); "
            "mend what it says, and the same command again goes on"
        )


def _report(message: str) -> NoReturn:
    """What the exception that is being handled means, in one write: ranks print at once."""
    text = f"error: {message}\n"
    if "--debug" in sys.argv:
        text = traceback.format_exc() + text
    if os.environ.get("RANK", "0") != "0":
        time.sleep(_WAIT)
    sys.stderr.write(text)
    sys.stderr.flush()
    sys.exit(2)


def _message(error: InputError | OSError) -> str:
    """The message alone, where a data-loader worker has wrapped it into its traceback."""
    text = str(error)
    if text.startswith(f"Caught {type(error).__name__} in DataLoader worker"):
        return text.rsplit(f"{type(error).__name__}: ", 1)[-1].strip()
    if isinstance(error, OSError) and error.strerror:
        name = error.filename2 or error.filename
        where = "" if name is None else f"{name}: "
        advice = f"; {_ADVICE[error.errno]}" if error.errno in _ADVICE else ""
        return f"{where}{error.strerror}{advice}"
    return text or type(error).__name__
