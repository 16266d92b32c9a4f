"""Prepare a data set: image-level labels, points, checks, statistics, conversion.

    python prepare_data.py camvid --root data/camvid --out data/camvid/image_labels.json --stats
    python prepare_data.py camvid --root data/camvid --labels data/camvid/image_labels.json --check
    python prepare_data.py cityscapes --root data/cityscapes \\
        --import-labels labels.npy --out data/cityscapes/image_labels.json
    python prepare_data.py folder --root data/mydata \\
        --import-tags annotations.zip --out data/mydata/image_labels.json
    python prepare_data.py camvid --root data/camvid --points data/camvid/points.json
    python prepare_data.py folder --root data/mydata \\
        --import-points annotations.zip --points data/mydata/points.json
    python prepare_data.py folder --root data/mydata --suggest data/mydata/suggested
    python prepare_data.py wilddash2 --root wd_public_v2p0 --convert data/wilddash2
    python prepare_data.py folder --root data/mydata --write-config configs/mine.yaml

Labels come from --import-labels (the official labels.npy), --import-tags (what CVAT, Label Studio,
LabelMe, FiftyOne, COCO, VOC or YOLO wrote), --labels (JSON or CSV) or else from the ground truth,
where a class is present if at least --min-pixels pixels have it; images without ground truth need a
file of labels, which is found automatically in --root. Labels go to --out; another file there is
replaced only with --overwrite. --suggest: CLIP proposes labels, and a page corrects them
(models/label_suggestions.py). Points are simulated from the masks of 'train' or come from CVAT,
LabelMe, Label Studio or What's the Point (--import-points), and go to --points; with --check or
--stats that file is read instead. --check reports all problems of the data, then exits with status
1 and writes no labels; oddities are warnings. With --config it also reports implausible settings.
--write-config derives a config from the sizes and the number of the images. Runs without torchrun;
--workers sets the number of processes.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import sys
import warnings
from pathlib import Path

from datasets import SegmentationData, open_dataset
from datasets.doctor.check import check_dataset, format_findings
from datasets.doctor.inspection import Inspection
from datasets.doctor.label_source import LabelSource, label_source, write_labels
from datasets.doctor.options import build_parser, check_options
from datasets.doctor.point_check import statistics_of_points
from datasets.doctor.point_source import make_points
from datasets.doctor.starting_config import write_starting_config
from datasets.doctor.statistics import statistics
from datasets.doctor.survey import (
    convert,
    extract_labels,
    has_all_masks,
    survey,
    warn_of_truth,
)
from datasets.labels import ClassTable, load_classes
from datasets.split_labels import Place, label_keys, other_splits, without_problems
from models.clip_miniature import check_miniature
from models.label_suggestions import suggest_labels
from utils.config import load_config
from utils.safe.errors import InputError, InputWarning, printable, run_script
from utils.safe.files import check_folder

CLASS_FILES = Path(__file__).parent / "datasets" / "classes"
MASK_ENDINGS = {"camvid": ".png", "wilddash2": "_labelTrainIds.png"}


def main(argv: list[str]) -> None:
    """Do what is asked for, in the order config, convert, points, check, labels, statistics."""
    if argv[:1] == ["synthetic"]:
        raise InputError("scenes are drawn by: python -m demo.make_scenes --root FOLDER")
    arguments = build_parser(__doc__).parse_args(argv)
    check_options(arguments)
    tasks = ("out", "points", "suggest", "check", "stats", "convert", "write_config")
    if not any(getattr(arguments, task) for task in tasks):
        options = "--out, --points, --suggest, --check, --stats, --convert or --write-config"
        raise InputError(f"nothing to do; give {options}")
    if arguments.min_pixels < 1 or arguments.workers < 0:
        raise InputError("--min-pixels must be at least 1 and --workers at least 0")
    if arguments.config and not (arguments.check or arguments.suggest):
        raise InputError("--config is compared with the data by --check; add that")
    classes = load_classes(_class_file(arguments))
    dataset = open_dataset(arguments.dataset, arguments.root)
    splits = arguments.splits or [split for split in dataset.splits() if split != "test"]
    splits = list(dict.fromkeys(splits))
    for split in set(splits) - set(dataset.splits()):
        dataset.images(split)  # raises an error that names the splits
    if arguments.miniature:
        check_miniature(classes)
    if arguments.suggest:
        suggest_labels(dataset, classes, arguments)
    if arguments.write_config:
        _write_config(arguments, dataset, classes)
    if arguments.convert:
        _convert(arguments, dataset, splits, classes)
    if arguments.points and not (arguments.check or arguments.stats):
        _check_out(Path(arguments.points), "--points", "points.json")
        make_points(dataset, classes, arguments)
    if not (arguments.out or arguments.check or arguments.stats):
        return

    if arguments.out:
        _check_out(Path(arguments.out), "--out", "image_labels.json")
    source = label_source(dataset, splits, classes, arguments)
    found: dict[Place, Inspection] = {}
    is_for_points = arguments.points and not arguments.out  # then labels may be missing
    has_labels = source is not None or not is_for_points or has_all_masks(dataset, splits)
    if arguments.check:
        found = _check(arguments, dataset, splits, classes, source)
    elif source is None and has_labels:
        found = survey(dataset, splits, len(classes), arguments.workers)
    if not (arguments.out or arguments.stats):
        return
    with warnings.catch_warnings():
        if arguments.check:
            warnings.simplefilter("ignore", InputWarning)  # --check has reported them
        images = other_splits(dataset, splits) | {split: dataset.images(split) for split in splits}
        if not has_labels:
            labels, unknown = {}, {}
        elif source is None:
            labels, unknown = extract_labels(found, len(classes), arguments.min_pixels), {}
            warn_of_truth(found, classes)
        else:
            labels, _, unknown, _ = without_problems(source(images))
    if arguments.stats and arguments.points:
        of_points = statistics_of_points(Path(arguments.points), images, splits, classes)
    if arguments.out:
        keys = label_keys(images)
        write_labels(arguments, {keys[place]: labels[place] for place in labels} | unknown, classes)
        if any(name != key for (_, name), key in keys.items()):
            print("some images of two splits have the same name: the keys are '<split>/<image id>'")
    if arguments.stats:
        for split in splits:
            of_split = [labels[split, n] for n in images[split] if (split, n) in labels]
            print(f"\n{split}: {statistics(of_split, classes)}")
        if arguments.points:
            print(f"\nPoints\n\n{of_points}")


def _class_file(arguments: argparse.Namespace) -> Path:
    if arguments.class_file:
        return Path(arguments.class_file)
    if arguments.dataset != "folder":
        return CLASS_FILES / f"{arguments.dataset}.yaml"
    if not Path(arguments.root).is_dir():
        raise InputError(f"no folder at {arguments.root}; name that of the data set: --root")
    own = Path(arguments.root) / "classes.yaml"
    if not own.is_file():
        raise InputError(f"no class names: expected {own} or --class-file FILE")
    return own


def _check(
    arguments: argparse.Namespace,
    dataset: SegmentationData,
    splits: list[str],
    classes: ClassTable,
    source: LabelSource | None,
) -> dict[Place, Inspection]:
    """Print problems and oddities; exit with status 1 if there are problems."""
    config = load_config(arguments.config) if arguments.config else None
    min_pixels, workers = arguments.min_pixels, arguments.workers
    report = check_dataset(
        dataset, splits, classes, source, min_pixels, config, workers, arguments.points
    )
    for line in format_findings(report):
        print(printable(line))
    if report.problems:
        sys.exit(1)
    return report.found


def _check_out(out: Path, option: str, usual: str) -> None:
    """Raise InputError where a file can't be written, before the masks are read."""
    if out.is_dir():
        raise InputError(f"{option} {out} is a folder; name a file in it, {out / usual}")
    check_folder(out.parent, option)


def _write_config(
    arguments: argparse.Namespace, dataset: SegmentationData, classes: ClassTable
) -> None:
    out, class_file = Path(arguments.write_config), _class_file(arguments)
    given = (dataset, class_file, arguments.labels, arguments.miniature, arguments.overwrite)
    print(write_starting_config(out, arguments.dataset, *given))


def _convert(
    arguments: argparse.Namespace, dataset: SegmentationData, splits: list[str], classes: ClassTable
) -> None:
    out = Path(arguments.convert)
    if arguments.dataset not in MASK_ENDINGS:
        raise InputError(
            f"{arguments.dataset} is read as it is; --convert is for camvid and wilddash2"
        )
    if out.exists() and any(out.iterdir()) and not arguments.overwrite:
        raise InputError(f"{out} has files in it; give another folder or --overwrite")
    convert(dataset, splits, classes, out, MASK_ENDINGS[arguments.dataset], arguments.workers)
    print(f"wrote {out}: use it as --root and as data_root")


if __name__ == "__main__":
    run_script(main)
