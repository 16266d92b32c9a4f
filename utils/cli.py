"""The command line that all scripts share."""

import argparse
from collections.abc import Callable

from utils.safe.errors import InputError
from utils.safe.paths import expand


class _TensorBoard(argparse.Action):
    """A flag that fails at once, not after the first steps, when the package is missing."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        from utils.tensorboard import summary_writer

        summary_writer()
        setattr(namespace, self.dest, True)


def path(text: str) -> str:
    """The `type` of a path argument: ~ and variables are replaced, typing errors refused."""
    try:
        return expand(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def number(high: float, zero: bool = False) -> Callable[[str], float]:
    """The `type` of an argument that is a number above 0, with `zero` also 0, up to `high`."""

    def parse(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -1.0
        if not (0 < value <= high or (zero and value == 0)):
            limits = f"from 0 to {high}" if zero else f"above 0 and at most {high}"
            raise argparse.ArgumentTypeError(f"expected a number {limits}, found {text}")
        return value

    return parse


def count(text: str) -> int:
    """The `type` of an argument that is a whole number of at least 1."""
    if not (text.isdecimal() and len(text) < 10 and int(text)):
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, found {text}")
    return int(text)


def grid(text: str) -> tuple[int, int]:
    """The `type` of an argument that gives rows and columns, from 1x1 to 16x16."""
    rows, _, columns = text.partition("x")
    if not all(part.isdecimal() and 1 <= int(part) <= 16 for part in (rows, columns)):
        raise argparse.ArgumentTypeError(f"expected rows x columns from 1x1 to 16x16, found {text}")
    return int(rows), int(columns)


def parser(description: str | None, config_required: bool = True) -> argparse.ArgumentParser:
    """--config, --set, --device. (--debug is taken by `utils.safe.errors.run_script`.)"""
    result = overrides_parser(description)
    result.add_argument(
        "--config", type=path, required=config_required, help="YAML file, see configs/"
    )
    return result


def overrides_parser(description: str | None) -> argparse.ArgumentParser:
    """--set and --device, for tools that read the config from a run folder."""
    result = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_overrides(result)
    result.add_argument("--debug", action="store_true", help="show the traceback of an error")
    result.add_argument("--device", help="cpu, cuda or mps (default: cuda when there is one)")
    return result


def training_parser(description: str | None) -> argparse.ArgumentParser:
    """`parser` with the arguments that all training scripts share."""
    result = parser(description)
    result.add_argument(
        "--run-dir", type=path, required=True, help="folder for checkpoints and logs"
    )
    result.add_argument(
        "--overwrite",
        action="store_true",
        help="remove the run in the folder and start over",
    )
    result.add_argument(
        "--keep-checkpoints",
        action="store_true",
        help="keep every checkpoint as step_<number>.pt too, for experiments/learning_curves.py",
    )
    result.add_argument(
        "--tensorboard",
        action=_TensorBoard,
        nargs=0,
        default=False,
        help="write the log and images of a fixed batch to RUN_DIR/tensorboard as well",
    )
    add_trust(result)
    return result


def add_overrides(result: argparse.ArgumentParser, of: str = "the config") -> None:
    """--set, whose texts `utils.config.parse_overrides` reads."""
    result.add_argument(
        "--set",
        action="extend",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        dest="overrides",
        help=f"replace keys of {of}; may be given again",
    )


def add_trust(result: argparse.ArgumentParser) -> None:
    """--trust-torchscript, for scripts that load CLIP."""
    result.add_argument(
        "--trust-torchscript",
        action="store_true",
        help="open a TorchScript clip_model that isn't OpenAI's",
    )


def add_share(result: argparse.ArgumentParser) -> None:
    """--share I/N, a slice: every N-th item from the I-th on; all items by default."""
    result.add_argument(
        "--share",
        type=_share,
        default=slice(None),
        metavar="I/N",
        help="only the I-th of N parts, for task I of a job array; then run it without --share",
    )


def check_share(arguments: argparse.Namespace, *of_all: str) -> None:
    """Raise InputError when --share is combined with --shards, or a part with an option about all.

    of_all: names of these options in `arguments`.
    """
    share = arguments.share
    if share != slice(None) and arguments.shards:
        raise InputError(
            f"found --share {share.start + 1}/{share.step} with --shards: a run with --shards "
            "takes over the unfinished tars in its folder, so that parts which run at once would "
            "take each other's; run it once without --share (torchrun starts it on several GPUs "
            "or machines), or leave out --shards, so that the parts are files"
        )
    for name in of_all if (share.step or 1) > 1 else ():
        if getattr(arguments, name):
            option = f"--{name.replace('_', '-')}"
            raise InputError(
                f"--share makes one of several parts, {option} is about all of them; leave out "
                f"--share, or give {option} in one more call without --share"
            )


def _share(text: str) -> slice:
    part, _, parts = text.partition("/")
    good = all(number.isdecimal() and len(number) < 7 for number in (part, parts))
    if not (good and 1 <= int(part) <= int(parts)):
        raise argparse.ArgumentTypeError(f"expected I/N with I from 1 to N, found {text}")
    return slice(int(part) - 1, None, int(parts))
