"""Run the benchmarks: the published way beside ours, each pair compared before it is timed.

    python -m benchmarks.run [COMPONENT ...] [--quick] [--device cuda] [--json FILE]

On the CPU, seconds are CPU-seconds of all threads, so that other work on the machine counts little;
on a GPU they are wall-clock seconds. Ratios are published / ours for times and ours / published for
sizes; a percentage compares the published way with the official program. Exit status 1 where a
pair did not agree or a component could not run.
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
    """The cases of a component, which is imported only now: a failure is that component's."""
    return import_module(f"benchmarks.{component}").cases(options)


if __name__ == "__main__":
    run_script(main)
