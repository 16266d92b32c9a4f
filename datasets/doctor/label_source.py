"""Image-level labels of prepare_data.py: where they come from, and their file."""

import argparse
import functools
from collections.abc import Callable, Sequence
from pathlib import Path

from datasets import SegmentationData
from datasets.doctor.official_labels import import_official_labels
from datasets.doctor.survey import has_all_masks
from datasets.doctor.tag_files import read_tags, summary
from datasets.doctor.tag_import import label_names, tags_by_image
from datasets.image_labels import (
    HOW_TO_LABEL,
    ImageLabels,
    check_label_classes,
    image_labels_text,
    meta_path,
    write_image_labels,
)
from datasets.labels import ClassTable
from datasets.split_labels import (
    Images,
    LabelFile,
    label_files,
    labels_beside,
    read_label_file,
    sort_labels,
)
from utils.config import load_config
from utils.safe.errors import InputError, printable
from utils.safe.files import write_json

LabelSource = Callable[[Images], LabelFile]


def check_label_options(arguments: argparse.Namespace) -> None:
    """Raise InputError where options about labels have no effect."""
    if arguments.rename and not arguments.import_tags:
        raise InputError("--rename is for --import-tags")
    if arguments.import_tags and not (arguments.out or arguments.check or arguments.stats):
        raise InputError("--import-tags needs --out FILE, the file to write, --check or --stats")


def label_source(
    dataset: SegmentationData,
    splits: Sequence[str],
    classes: ClassTable,
    arguments: argparse.Namespace,
) -> LabelSource | None:
    """Function that reads the labels of all splits; None where they come from the masks.

    Without --labels, a file is used where labels are only compared, or some images have no mask.
    """
    if arguments.import_labels:
        labels, num_classes = import_official_labels(arguments.import_labels)
        if num_classes != len(classes):
            raise InputError(
                f"{arguments.import_labels} has {num_classes} classes, {arguments.dataset} "
                f"{len(classes)}; import the file of the same data set"
            )
        return functools.partial(sort_labels, arguments.import_labels, labels)
    if arguments.import_tags:
        files = [one for path in arguments.import_tags for one in read_tags(Path(path))]
        for file in files:
            print(printable(summary(file)))
        names = label_names(classes, arguments.rename, files)
        return functools.partial(tags_by_image, files, names, arguments.skip_unknown, splits)
    path = arguments.labels
    of_config = load_config(arguments.config).image_labels if arguments.config else ""
    if path is None and Path(of_config).is_file():
        path = of_config  # what training will read
    elif path is None and not (arguments.out or arguments.stats):
        path = labels_beside(dataset.root, classes, None, is_needed=False)
    elif path is None and not has_all_masks(dataset, splits):
        path = labels_beside(dataset.root, classes, arguments.out, is_needed=True)
    if path is None:
        return None
    if arguments.labels is None:
        print(f"labels: {path} (choose others with --labels)")
    elif not Path(path).is_file() and (beside := label_files(Path(path).parent, classes)):
        raise InputError(
            f"no image labels at {path}, but there is {', '.join(map(str, beside))}; name that "
            f"file; {HOW_TO_LABEL}"
        )
    return functools.partial(read_label_file, Path(path), classes)


def write_labels(arguments: argparse.Namespace, labels: ImageLabels, classes: ClassTable) -> None:
    """Write --out and its meta.json. Raises InputError where the file holds other labels.

    These are replaced with --overwrite.
    """
    out = Path(arguments.out)
    meta = {
        "class_names": classes.names,
        "dataset": arguments.dataset,
        "min_pixels": arguments.min_pixels,
    }
    is_same = out.exists() and out.read_bytes() == image_labels_text(labels).encode()
    if is_same and not arguments.overwrite:
        check_label_classes(out, classes.names)
    if is_same:
        write_json(meta_path(out), meta)
        print(f"unchanged {out}: {len(labels)} images")
        return
    if out.exists() and not arguments.overwrite:
        raise InputError(
            f"{out} already holds different labels ({len(labels)} images now); "
            "name another --out, or --overwrite to replace it"
        )
    write_json(meta_path(out), meta)
    write_image_labels(out, labels)
    print(f"wrote {out}: {len(labels)} images")
