"""Run the benchmarks: the official way (benchmarks/official, a reimplementation) against ours.

    python -m benchmarks.run [COMPONENT ...] [--quick] [--device cuda] [--json FILE]

Both results are compared before timing. Times are CPU-seconds of all threads on the CPU, which
other work on the machine affects little, and wall-clock seconds on a GPU. Ratios are official /
ours for times and ours / official for sizes; a percentage compares the official way with the
official program. Exits with status 1 if two results differ or a component can't run.
"""

from functools import partial
from importlib import import_module

from benchmarks.harness import Case, Options, Size, parser, run
from utils.safe.errors import run_script

# Modules of this folder, each with a function `cases`.
COMPONENTS = (
    "clip_mask",
    "loss_block",
    "train_step",
    "data_pipeline",
    "evaluation",
    "memory",
    "checkpoint_size",
)


def main(argv: list[str]) -> None:
    arguments = parser(__doc__)
    arguments.add_argument(
        "components", nargs="*", metavar="COMPONENT", help=f"of {', '.join(COMPONENTS)}"
    )
    parsed = arguments.parse_args(argv)
    unknown = [name for name in parsed.components if name not in COMPONENTS]
    if unknown:
        arguments.error(f"{unknown[0]}: expected one of {', '.join(COMPONENTS)}")
    names = parsed.components or COMPONENTS
    run({name: partial(cases_of, name) for name in names}, parsed)


def cases_of(component: str, options: Options) -> list[Case] | list[Size]:
    """The cases of a component, imported only now: a failing import stops no other component."""
    return import_module(f"benchmarks.{component}").cases(options)


if __name__ == "__main__":
    run_script(main)
