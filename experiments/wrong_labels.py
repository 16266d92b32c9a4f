"""Make image-level labels worse by chance, to see what missing and wrong labels cost.

    python -m experiments.wrong_labels data/demo/image_labels.json --class-file demo/classes.yaml \
        --missing 0.1 --out data/demo/labels_missing_10.json

Each class of an image loses its label with the probability `--missing`; each other class gets one
with the probability `--wrong`. An image that would have no label keeps one of its own.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
from pathlib import Path

import torch
from torch import Tensor

from datasets.image_labels import ImageLabels, read_image_labels, write_image_labels
from datasets.labels import load_classes, multi_hot
from utils.cli import number, path
from utils.safe.errors import InputError, run_script
from utils.safe.files import check_new_files
from utils.seed import generator


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    out = Path(arguments.out)
    check_new_files(out.parent, [out.name], "--out", arguments.overwrite)
    classes = load_classes(arguments.class_file)
    labels = read_image_labels(arguments.labels, len(classes), classes.names)
    true = torch.stack([multi_hot(ids, len(classes)) for ids in labels.values()]).bool()
    found = spoil(true, arguments.missing, arguments.wrong, generator(arguments.seed))
    worse: ImageLabels = {
        name: tuple(row.nonzero().flatten().tolist())
        for name, row in zip(labels, found, strict=True)
    }
    write_image_labels(out, worse)
    lost, added = (true & ~found).sum() / len(true), (found & ~true).sum() / len(true)
    print(
        f"{out}: {len(true)} images; of {true.sum() / len(true):.2f} labels an image "
        f"{lost:.2f} are missing, {added:.2f} are wrong"
    )


def parse(argv: list[str]) -> argparse.Namespace:
    """The command line, with at least one of --missing and --wrong above 0."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("labels", type=path, help="file of image-level labels, JSON or CSV")
    parser.add_argument("--class-file", type=path, required=True, help="YAML, see datasets/classes")
    parser.add_argument("--missing", type=number(1, zero=True), default=0.0, metavar="P")
    parser.add_argument("--wrong", type=number(1, zero=True), default=0.0, metavar="P")
    parser.add_argument("--seed", type=int, default=0, help="of the random numbers (0)")
    parser.add_argument("--out", type=path, required=True, help="JSON file to write")
    parser.add_argument("--overwrite", action="store_true", help="replace --out")
    arguments = parser.parse_args(argv)
    if arguments.seed < 0:
        raise InputError(f"--seed is a whole number of at least 0, found {arguments.seed}")
    if not arguments.missing and not arguments.wrong:
        raise InputError("nothing to make worse; give --missing or --wrong, probabilities above 0")
    return arguments


def spoil(labels: Tensor, missing: float, wrong: float, random: torch.Generator) -> Tensor:
    """Labels (N, K) of bool, with some missing and some wrong; none of the rows becomes empty.

    An entry that is true becomes false with the probability `missing`, one that is false true with
    the probability `wrong`. A row that would have none keeps one of its own.
    """
    draws = torch.rand(labels.shape, generator=random)
    found = torch.where(labels, draws >= missing, draws < wrong)
    kept = torch.where(labels, draws, -1.0).argmax(1, keepdim=True)
    empty = ~found.any(1, keepdim=True) & labels.any(1, keepdim=True)
    return found.scatter(1, kept, found.gather(1, kept) | empty)


if __name__ == "__main__":
    run_script(main)
