"""Prepare a data set: image-level labels, checks, statistics, conversion.

    python prepare_data.py camvid --root data/camvid --out data/camvid/image_labels.json --stats
    python prepare_data.py camvid --root data/camvid --labels data/camvid/image_labels.json --check
    python prepare_data.py cityscapes --root data/cityscapes \\
        --import-labels labels.npy --out data/cityscapes/image_labels.json
    python prepare_data.py wilddash2 --root wd_public_v2p0 --convert data/wilddash2
    python prepare_data.py synthetic --root data/synthetic --count train=200 val=50

Labels come from --import-labels (the authors' labels.npy), from --labels (JSON or CSV) or else
from the ground truth, where a class is present if at least --min-pixels pixels have it. They go to
--out; another file there is replaced with --overwrite only. --check names everything that is wrong
with the data, then exits with status 1 and writes no labels; what is merely odd is a warning. With
--config it also compares the sizes. One process, without torchrun: --workers.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import os
import sys
from pathlib import Path

from datasets import DATASETS, SegmentationData, open_dataset
from datasets.doctor import examine, told
from datasets.image_labels import (
    ImageLabels,
    image_labels_text,
    read_image_labels,
    write_image_labels,
)
from datasets.label_check import LabelFile, read_all_labels
from datasets.label_statistics import statistics
from datasets.labels import ClassTable, load_classes
from datasets.official_labels import import_official_labels
from datasets.survey import Found, convert, extract_labels, survey
from datasets.synthetic import parse_counts, write_dataset
from utils.cli import path
from utils.config import load_config
from utils.errors import InputError, printable, run_script
from utils.files import check_folder

CLASS_FILES = Path(__file__).parent / "datasets" / "classes"
MASK_ENDINGS = {"camvid": ".png", "wilddash2": "_labelTrainIds.png"}


def main(argv: list[str]) -> None:
    """Everything the command line asks for, in the order convert, check, labels, statistics."""
    args = _parser().parse_args(argv)
    if args.dataset == "synthetic":
        write_dataset(
            Path(args.root), parse_counts(args.count), args.seed, num_workers=args.workers
        )
        print(f"wrote {args.root}: use it with dataset: folder")
        return
    if not (args.out or args.check or args.stats or args.convert):
        raise InputError("nothing to do; give --out, --check, --stats or --convert")
    if args.min_pixels < 1 or args.workers < 0:
        raise InputError("--min-pixels must be at least 1 and --workers at least 0")
    if args.config and not args.check:
        raise InputError("--config is compared with the data by --check; add that")
    classes = _classes(args)
    dataset = open_dataset(args.dataset, args.root)
    splits = args.splits or [split for split in dataset.splits() if split != "test"]
    splits = list(dict.fromkeys(splits))
    for split in set(splits) - set(dataset.splits()):
        dataset.images(split)  # says which splits there are
    if args.convert:
        _convert(args, dataset, splits, classes)
    if not (args.out or args.check or args.stats):
        return

    if args.out:
        _check_out(Path(args.out))
    given = args.import_labels or args.labels
    found: dict[str, Found] = {}
    if args.check:
        found = _check(args, dataset, splits, classes)
    elif not given:
        found = survey(dataset, splits, len(classes), args.workers)
    if not (args.out or args.stats):
        return
    if given:
        labels = _given_labels(args, classes)
    else:
        labels = extract_labels(found, len(classes), args.min_pixels)
    if args.out:
        _write_labels(Path(args.out), labels, args.overwrite)
    if args.stats:
        for split in splits:
            names = [name for name in dataset.images(split) if name in labels]
            print(f"\n{split}: {statistics([labels[name] for name in names], classes)}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("dataset", choices=[*DATASETS, "synthetic"])
    add("--root", type=path, required=True, help="the folder the data set lies in")
    add(
        "--class-file",
        type=path,
        help="default: datasets/classes/<dataset>.yaml; folder: <root>/classes.yaml",
    )
    add("--splits", nargs="+", help="default: all that are there except test")
    add("--out", type=path, help="JSON file to write the labels to")
    add("--min-pixels", type=int, default=1, help="pixels that make a class present (default 1)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--import-labels", type=path, metavar="NPY", help="the authors' labels.npy")
    source.add_argument("--labels", type=path, help="existing labels, JSON or CSV")
    add("--check", action="store_true", help="look for everything that is wrong")
    add("--config", type=path, help="--check: also compare the sizes with this config's")
    add("--stats", action="store_true", help="print statistics of the labels")
    add(
        "--convert",
        type=path,
        metavar="OUT",
        help="write camvid or wilddash2 as img/ and mask/ folders",
    )
    add("--overwrite", action="store_true", help="replace what --out or --convert made before")
    add("--count", nargs="+", default=["train=200", "val=50"], help="synthetic: images per split")
    add("--seed", type=int, default=0, help="synthetic: which scenes")
    add("--debug", action="store_true", help="show the traceback of an error")
    add("--workers", type=int, default=os.cpu_count(), help="processes; 0: none besides this one")
    return parser


def _classes(args: argparse.Namespace) -> ClassTable:
    if args.class_file:
        return load_classes(args.class_file)
    if args.dataset != "folder":
        return load_classes(CLASS_FILES / f"{args.dataset}.yaml")
    own = Path(args.root) / "classes.yaml"
    if not own.is_file():
        raise InputError(f"no class names: expected {own} or --class-file FILE")
    return load_classes(own)


def _given_labels(args: argparse.Namespace, classes: ClassTable) -> ImageLabels:
    if args.labels:
        return read_image_labels(args.labels, len(classes), classes.names)
    labels, num_classes = import_official_labels(args.import_labels)
    if num_classes != len(classes):
        raise InputError(
            f"{args.import_labels} has {num_classes} classes, {args.dataset} {len(classes)}; "
            "import the file of the same data set"
        )
    return labels


def _check(
    args: argparse.Namespace, dataset: SegmentationData, splits: list[str], classes: ClassTable
) -> dict[str, Found]:
    """Tell what is wrong and what is odd; ends the program if anything is wrong."""
    config = load_config(args.config) if args.config else None
    given = None
    if args.labels:
        given = read_all_labels(args.labels, classes)
    elif args.import_labels:
        given = LabelFile(_given_labels(args, classes), set(), [])
    findings = examine(dataset, splits, classes, given, args.min_pixels, config, args.workers)
    for line in told(findings):
        print(printable(line))
    if findings.problems:
        sys.exit(1)
    return findings.found


def _check_out(out: Path) -> None:
    """Fail before the masks are read, not after."""
    if out.is_dir():
        raise InputError(f"--out {out} is a folder; name a file in it, {out / 'image_labels.json'}")
    check_folder(out.parent, "--out")


def _write_labels(out: Path, labels: ImageLabels, overwrite: bool) -> None:
    if out.exists() and out.read_bytes() == image_labels_text(labels).encode():
        print(f"unchanged {out}: {len(labels)} images")
        return
    if out.exists() and not overwrite:
        raise InputError(
            f"{out} is there with other labels than the {len(labels)} images' of this run; "
            "name another --out, or --overwrite to replace it"
        )
    write_image_labels(out, labels)
    print(f"wrote {out}: {len(labels)} images")


def _convert(
    args: argparse.Namespace, dataset: SegmentationData, splits: list[str], classes: ClassTable
) -> None:
    out = Path(args.convert)
    if args.dataset not in MASK_ENDINGS:
        raise InputError(f"{args.dataset} is read as it is; --convert is for camvid and wilddash2")
    if out.exists() and any(out.iterdir()) and not args.overwrite:
        raise InputError(f"{out} has files in it; give another folder or --overwrite")
    convert(dataset, splits, classes, out, MASK_ENDINGS[args.dataset], args.workers)
    print(f"wrote {out}: use it as --root and as data_root")


if __name__ == "__main__":
    run_script(main)
