"""`prepare_data.py --suggest`: CLIP proposes image-level tags, and a page to correct them.

FOLDER/suggested.csv    the tags, one row an image, as --labels and ``image_labels`` read them
FOLDER/scores.csv       the scores behind them, 0 to 1
FOLDER/page.html        the pictures with tick boxes; saves the corrected tags as labels.csv
FOLDER/pictures/        the pictures of the page, where there are too many to be inside
FOLDER/meta.json        the thresholds, and everything else that decided the tags
"""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from datasets import SegmentationData
from datasets.doctor.label_check import TRAIN
from datasets.doctor.tag_page import (
    Pictures,
    Suggestions,
    check_tag_folder,
    remove_pictures,
    write_page,
    write_tables,
)
from datasets.files import File
from datasets.labels import ClassTable, multi_hot
from datasets.loader import image_loader
from datasets.mask_folder import check_no_inputs
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
from datasets.transforms import normalize
from models.build import build_mask_record, build_maskclip_options
from models.clip_loading import load_clip
from models.maskclip import MaskCLIP, check_images
from models.tag_scores import (
    SHARE,
    THRESHOLD,
    best_thresholds,
    logit_scale,
    tag_quality,
    tag_scores,
)
from models.text import load_templates, text_embeddings
from utils.config import Config, load_config
from utils.distributed import setup
from utils.progress import progress
from utils.run_folder import git
from utils.safe.errors import InputError
from utils.safe.files import write_json

# Without --config: windows of the size that OpenAI's ViT-B/16 was trained on.
_CONFIG = Path(__file__).parent.parent / "configs/folder.yaml"
_SETTINGS = ["teacher=naclip"]


def check_suggest_options(arguments: argparse.Namespace) -> None:
    """Raise InputError where options of --suggest stand without it, or others beside it."""
    given = vars(arguments)
    if not arguments.suggest:
        if alone := [name for name in ("calibrate", "clip_model") if given[name]]:
            raise InputError(f"--{alone[0].replace('_', '-')} is for --suggest FOLDER")
        return
    others = ("out", "points", "import_labels", "import_tags", "import_points", "check", "stats")
    others += ("convert", "write_config", "miniature")
    if beside := [name for name in others if given[name]]:
        raise InputError(
            f"--suggest is a command of its own; leave out --{beside[0].replace('_', '-')}"
        )


def suggest_tags(
    dataset: SegmentationData, classes: ClassTable, arguments: argparse.Namespace
) -> None:
    """Write the files of `--suggest`; by default for 'train'.

    Where there are image-level labels, of --labels or beside the images, prints the precision and
    recall of the suggested tags. Ground truth is never read. Raises InputError.
    """
    if len(classes) < 2:
        raise InputError(
            f"--suggest compares classes with each other, and the class file has {len(classes)}; "
            "add what else is in the pictures, e.g. a class 'other'"
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
            "of those that tags are suggested for (--splits)"
        )
    truth_file = arguments.labels or labels_beside(
        Path(dataset.root), classes, arguments.calibrate, is_needed=False
    )
    truth = _labels(truth_file, classes, everywhere, files)
    check_tag_folder(folder, arguments.overwrite)

    # --- scores and pictures, then the tags
    settings = [f"clip_model={arguments.clip_model}"] * bool(arguments.clip_model)
    config = load_config(arguments.config or _CONFIG, settings + _SETTINGS * (not arguments.config))
    tagger = load_tagger(config, classes, arguments.trust_torchscript)
    remove_pictures(folder)  # not before CLIP is there: an error would leave a page without them
    scores, pictures = _score(tagger, files, folder, config.image_size, arguments.workers)
    labelled = np.array([place in known for place in files])
    given = np.array([_vector(known.get(place, ()), classes) for place in files])
    thresholds = np.full(len(classes), THRESHOLD)
    if labelled.any():
        thresholds = best_thresholds(scores[labelled], given[labelled])
    tags = np.where(labelled[:, None], given, scores > thresholds)

    # --- what is written, and what is said
    meta = {
        "class_names": classes.names,
        "thresholds": dict(zip(classes.names, thresholds.tolist(), strict=True)),
        "calibrated_on": int(labelled.sum()),
        "share_of_cells": SHARE,
        "clip": tagger.record,
        "git": git("rev-parse", "HEAD"),
    }
    found = Suggestions(keys, tags, scores, thresholds, labelled)
    write_tables(folder, found, classes)
    write_json(folder / "meta.json", meta)
    page = write_page(folder, found, pictures, classes, _commands(arguments))
    print(f"wrote {folder / 'suggested.csv'}: tags of {len(files)} images, {tags.sum()} of them")
    print(f"correct them in a browser: {page}")
    _print_thresholds(thresholds, int(labelled.sum()), classes)
    judged = np.array([place in truth and place not in known for place in files])
    if judged.any():
        right = np.array([_vector(truth.get(place, ()), classes) for place in files])
        print(f"\nagainst {truth_file}, {judged.sum()} images that did not set the thresholds:")
        print(tag_quality(tags[judged], right[judged], classes.names))


class Tagger(NamedTuple):
    """CLIP for `tag_scores`."""

    teacher: MaskCLIP
    scale: float
    normalization: str
    device: torch.device
    record: dict[str, object]  # all that decides the scores of an image

    def scores(self, image: Tensor) -> np.ndarray:
        """uint8 (3,h,w) -> (K,) float32."""
        normalized = normalize(image[None].to(self.device), self.normalization)
        return tag_scores(self.teacher, normalized, self.scale).numpy()


def load_tagger(config: Config, classes: ClassTable, trust: bool = False) -> Tagger:
    """CLIP, its texts and its windows as the config's teacher of stored masks has them."""
    device = setup().device
    clip_model = load_clip(config.clip_model, trust).to(device)
    templates = load_templates(config.prompt_templates)
    text = text_embeddings(clip_model, classes.prompts, templates).cpu()
    options = build_maskclip_options(config, stored=True)
    teacher = MaskCLIP(clip_model.visual, text, options).to(device)
    scale = logit_scale(clip_model)
    record = build_mask_record(config, classes, text) | {"logit_scale": scale}
    return Tagger(teacher, scale, config.arithmetic.clip_normalization, device, record)


def _score(
    tagger: Tagger,
    files: Mapping[Place, File],
    folder: Path,
    image_size: tuple[int, int],
    workers: int,
) -> tuple[np.ndarray, list[str]]:
    """Scores (N,K) and the addresses of the pictures; each image is decoded once."""
    data = EvaluationSet(
        {"/".join(place): file for place, file in files.items()}, image_size, keep_original=True
    )
    check_images(tagger.teacher.options, data, [1.0])
    pictures, scores, addresses = Pictures(folder, len(files)), [], []
    for sample in progress(image_loader(data, min(workers, len(files))), "tags"):
        scores.append(tagger.scores(sample["image"]))
        addresses.append(pictures.add(sample["original"].numpy()))
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


def _vector(ids: Sequence[int], classes: ClassTable) -> np.ndarray:
    return multi_hot(ids, len(classes)).bool().numpy()


def _print_thresholds(thresholds: np.ndarray, num_labelled: int, classes: ClassTable) -> None:
    if not num_labelled:
        print(f"threshold of every class: {THRESHOLD} (--calibrate FILE fits them to some labels)")
        return
    texts = zip(classes.names, thresholds, strict=True)
    named = ", ".join(f"{name} {threshold:.3f}" for name, threshold in texts)
    print(f"thresholds with the best F1 on the {num_labelled} labelled images: {named}")


def _commands(arguments: argparse.Namespace) -> tuple[str, str]:
    """What to run with labels.csv and with checked.csv, which the page saves."""
    data = ["python", "prepare_data.py", arguments.dataset, "--root", arguments.root]
    data += ["--class-file", arguments.class_file] * bool(arguments.class_file)
    out = str(Path(arguments.root) / "image_labels.json")
    again = [*data, "--suggest", arguments.suggest]
    for option in ("splits", "config", "clip_model"):
        if value := getattr(arguments, option):
            again += [
                f"--{option.replace('_', '-')}",
                *([value] if isinstance(value, str) else value),
            ]
    return (
        shlex.join([*data, "--labels", "labels.csv", "--out", out]),
        shlex.join([*again, "--calibrate", "checked.csv", "--overwrite"]),
    )
