"""The one kind of error a user can mend, and how a script reports it."""

import os
import sys
import time
import traceback
from collections.abc import Callable

_WAIT = 5.0  # seconds; by then torchrun has ended the ranks if rank 0 failed too


class InputError(ValueError):
    """Something the user gave is missing or wrong: a file, a key, a size, a folder.

    The message says what was expected, what was found and what to run next.
    """


def run_script(main: Callable[[list[str]], None]) -> None:
    """Run ``main(sys.argv[1:])``; report an error the user can mend as one message, exit status 2.

    That is an `InputError`, or an `OSError`: a folder that can't be written, a full disk.
    ``--debug`` anywhere on the command line shows the traceback too. Under torchrun rank 0 speaks
    at once and the others only if they are still running a little later, so that an error that all
    ranks meet is said once.
    """
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        main([argument for argument in arguments if argument != "--debug"])
    except (InputError, OSError) as error:
        text = f"error: {_message(error)}\n"
        if debug:
            text = traceback.format_exc() + text
        if os.environ.get("RANK", "0") != "0":
            time.sleep(_WAIT)
        sys.stderr.write(text)  # one write, or the lines of several ranks run into each other
        sys.stderr.flush()
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _message(error: InputError | OSError) -> str:
    """The message alone, where a data-loader worker has wrapped it into its traceback."""
    text = str(error)
    if text.startswith(f"Caught {type(error).__name__} in DataLoader worker"):
        return text.rsplit(f"{type(error).__name__}: ", 1)[-1].strip()
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename2 or error.filename}: {error.strerror}"
    return text or type(error).__name__
