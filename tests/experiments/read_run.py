"""A run folder as the report reads it."""

from pathlib import Path

from experiments.figures.runs import Run, read_inputs


def read_run(folder: Path) -> Run:
    return read_inputs([str(folder)])[0][0]
