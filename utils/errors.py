"""The one kind of error a user can mend, and how a script reports it."""

import sys
import traceback
from collections.abc import Callable


class InputError(ValueError):
    """Something the user gave is missing or wrong: a file, a key, a size, a folder.

    The message says what was expected, what was found and what to run next.
    """


def run_script(main: Callable[[list[str]], None]) -> None:
    """Run ``main(sys.argv[1:])``; print an `InputError` as one message and exit with status 2.

    ``--debug`` anywhere on the command line shows the traceback instead.
    """
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        main([argument for argument in arguments if argument != "--debug"])
    except InputError as error:
        if debug:
            traceback.print_exc()
        print(f"error: {_message(error)}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped", file=sys.stderr)
        sys.exit(130)


def _message(error: InputError) -> str:
    """The message alone, where a data-loader worker has wrapped it into its traceback."""
    text = str(error)
    if text.startswith("Caught InputError in DataLoader worker"):
        text = text.rsplit("utils.errors.InputError: ", 1)[-1].strip()
    return text
