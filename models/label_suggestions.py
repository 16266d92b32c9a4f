"""`prepare_data.py --suggest`: CLIP proposes image-level labels, and a page to correct them.

FOLDER/suggested.csv    the labels, one row an image, as --labels and ``image_labels`` read them
FOLDER/scores.csv       the scores behind them, 0 to 1
FOLDER/page.html        the images with tick boxes; saves the corrected labels as labels.csv
FOLDER/page_images/     the images of the page, where there are too many to be inside
FOLDER/meta.json        the thresholds, and everything else that decided the labels
"""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets import SegmentationData
from datasets.doctor.label_check import TRAIN
from datasets.doctor.label_page import (
    PageImages,
    Suggestions,
    check_page_folder,
    remove_page_images,
    write_page,
    write_tables,
)
from datasets.doctor.label_quality import THRESHOLD, best_thresholds, quality, thresholds_text
from datasets.doctor.options import page_commands
from datasets.files import File
from datasets.labels import ClassTable, multi_hot
from datasets.loader import image_loader
from datasets.mask_writer import check_no_inputs
from datasets.split_labels import (
    Images,
    Place,
    label_keys,
    labels_beside,
    other_splits,
    read_label_file,
    without_problems,
)
from datasets.training import EvaluationSet
from models.clip_miniature import MINIATURE_CONFIG
from models.label_scores import SHARE, Scorer, load_scorer
from models.maskclip import check_images
from utils.config import load_config
from utils.progress import progress
from utils.run_folder import git
from utils.safe.errors import InputError, warn
from utils.safe.files import write_json

# Without --config: windows of the size that OpenAI's ViT-B/16 was trained on.
_CONFIG = Path(__file__).parent.parent / "configs/folder.yaml"
_SETTINGS = ["teacher=naclip"]


def suggest_labels(
    dataset: SegmentationData, classes: ClassTable, arguments: argparse.Namespace
) -> None:
    """Write the files of `--suggest`; by default for 'train'.

    Where there are image-level labels, of --labels or beside the images, prints the precision and
    recall of the suggestion. Ground truth is never read. Raises InputError.
    """
    if len(classes) < 2:
        raise InputError(
            f"--suggest compares classes with each other, and the class file has {len(classes)}; "
            "add what else the images show, e.g. a class 'other'"
        )
    folder = Path(arguments.suggest)
    splits = list(dict.fromkeys(arguments.splits or [TRAIN]))
    images = {split: dataset.images(split) for split in splits}
    for of_split in images.values():
        check_no_inputs(folder, [""], of_split.values())
    files = {(split, name): file for split in splits for name, file in images[split].items()}
    everywhere = other_splits(dataset, splits) | images
    of_places = label_keys(everywhere)
    keys = [of_places[place] for place in files]
    "\n".join(keys).encode()  # a name that can't be written is refused before hours of work
    known = _labels(arguments.calibrate, classes, everywhere, files)
    if arguments.calibrate and not known:
        raise InputError(
            f"{arguments.calibrate} labels no image of {', '.join(splits)}; --calibrate needs some "
            "of those that labels are suggested for (--splits)"
        )
    truth_file = arguments.labels or labels_beside(
        Path(dataset.root), classes, arguments.calibrate, is_needed=False
    )
    truth = _labels(truth_file, classes, everywhere, files)
    check_page_folder(folder, arguments.overwrite)

    # --- scores and images of the page, then the labels
    config_file = arguments.config or (MINIATURE_CONFIG if arguments.miniature else None)
    settings = [f"clip_model={arguments.clip_model}"] * bool(arguments.clip_model)
    config = load_config(config_file or _CONFIG, settings + _SETTINGS * (config_file is None))
    scorer = load_scorer(config, classes, arguments.trust_torchscript)
    remove_page_images(folder)  # not before CLIP is there: an error leaves the page as it was
    scores, shown = _score(scorer, files, folder, config.image_size, arguments.workers)
    is_known = np.array([place in known for place in files])
    given = _vectors(known, files, classes)
    thresholds = np.full(len(classes), THRESHOLD)
    if known:
        thresholds = best_thresholds(scores[is_known], given[is_known])
    labels = np.where(is_known[:, None], given, scores > thresholds)

    # --- what is written, and what is said
    meta = {
        "class_names": classes.names,
        "thresholds": dict(zip(classes.names, thresholds.tolist(), strict=True)),
        "calibrated_on": len(known),
        "share_of_cells": SHARE,
        "clip": scorer.record,
        "git": git("rev-parse", "HEAD"),
    }
    found = Suggestions(keys, labels, scores, thresholds, is_known)
    write_tables(folder, found, classes)
    write_json(folder / "meta.json", meta)
    page = write_page(folder, found, shown, classes, page_commands(arguments))
    print(f"wrote {folder / 'suggested.csv'}: {labels.sum()} labels of {len(files)} images")
    if labels.all() and min(labels.shape) > 1 and not known:
        warn("every class is suggested in every image, so CLIP tells none apart; see --calibrate")
    print(f"correct them in a browser: {page}")
    print(thresholds_text(thresholds, given[is_known], classes.names))
    judged = np.array([place in truth and place not in known for place in files])
    if not judged.any():
        return
    right, suggested = _vectors(truth, files, classes)[judged], labels[judged]
    print(f"\nagainst {truth_file}, {judged.sum()} images that did not set the thresholds:")
    if any(np.array_equal(right, same) for same in (suggested, scores[judged] > THRESHOLD)):
        print(
            "  these labels are CLIP's suggestion, unchanged: precision and recall would measure "
            "nothing; correct the labels, or name others with --labels"
        )
    else:
        print(quality(suggested, right, classes.names))


def _score(
    scorer: Scorer,
    files: Mapping[Place, File],
    folder: Path,
    image_size: tuple[int, int],
    workers: int,
) -> tuple[np.ndarray, list[str]]:
    """Scores (N,K), and the addresses of the page's images; each image is decoded once."""
    data = EvaluationSet(
        {"/".join(place): file for place, file in files.items()}, image_size, keep_original=True
    )
    check_images(scorer.teacher.options, data, [1.0])
    shown, scores, addresses = PageImages(folder, len(files)), [], []
    for sample in progress(image_loader(data, min(workers, len(files))), "labels"):
        scores.append(scorer.scores(sample["image"]))
        addresses.append(shown.add(sample["original"].numpy()))
    return np.stack(scores), addresses


def _labels(
    path: str | Path | None, classes: ClassTable, images: Images, files: Mapping[Place, File]
) -> dict[Place, tuple[int, ...]]:
    """Labels of a file for those of `files` that it names; empty without a file."""
    if path is None:
        return {}
    splits = {split for split, _ in files}
    labels = without_problems(read_label_file(Path(path), classes, images, splits)).labels
    return {place: labels[place] for place in files if place in labels}


def _vectors(
    labels: Mapping[Place, Sequence[int]], files: Mapping[Place, File], classes: ClassTable
) -> np.ndarray:
    """The labels (N,K) bool of all files; none where a file has no entry."""
    vectors = [multi_hot(labels.get(place, ()), len(classes)).bool().numpy() for place in files]
    return np.stack(vectors)
