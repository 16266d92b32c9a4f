"""Check of a data set: errors and oddities, found in one pass over its files."""

import contextlib
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets import SegmentationData
from datasets.doctor.inspection import NOTE, Finding, Inspection, inspect_all
from datasets.doctor.label_check import (
    TRAIN,
    disagreements,
    empty_labels,
    label_problems,
    nothing_in_common,
    poor_labels,
    truth_findings,
)
from datasets.doctor.plausible import crop_to_reach, implausible
from datasets.doctor.point_check import check_points
from datasets.doctor.sizes import sample_sizes
from datasets.doctor.survey import labels_from_counts
from datasets.files import DuplicateError, File, walk
from datasets.image_labels import HOW_TO_LABEL
from datasets.labels import ClassTable
from datasets.leftovers import looks_like_image
from datasets.split_labels import Images, LabelFile, Place
from utils.config import Config
from utils.ground_truth import ONE_CLASS
from utils.safe.errors import InputError, InputNote, InputWarning

_MOST = 10  # lines about findings of one kind


class Report(NamedTuple):
    """Problems, which stop or harm training, and oddities: one line each."""

    problems: list[str]
    odd: list[Finding]
    found: dict[Place, Inspection]


def check_dataset(
    dataset: SegmentationData,
    splits: Sequence[str],
    classes: ClassTable,
    given: Callable[[Images], LabelFile] | None,
    min_pixels: int,
    config: Config | None,
    workers: int,
    points: str | Path | None = None,
) -> Report:
    """Look at every image and every mask of the splits, once.

    given: reads labels to compare with images (of all splits) and masks; None takes them from the
    masks, where a class is present with `min_pixels` pixels. config: settings that are implausible
    for these images are odd. points: a file of points to compare with images and masks; with it,
    training images need no labels.
    """
    problems = [ONE_CLASS] if len(classes) == 1 else []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", InputWarning)
        images = {split: _listed(dataset.images, split, problems) for split in dataset.splits()}
        masks = {split: _listed(dataset.ground_truth, split, problems) for split in images}
        labels = None if given is None else given(images)
    listing = {str(warning.message): warning.message for warning in said}  # each once
    crop_size, settings = None, []
    if config is not None:
        trained_on = images.get(config.train_split, {})
        sizes = sample_sizes(trained_on)
        crop_size = crop_to_reach(config, sizes)
        settings = [Finding("config", t) for t in implausible(config, len(trained_on), sizes)]
    files = {
        (split, name): (file, masks[split].get(name))
        for split in splits
        for name, file in images[split].items()
    }
    tasks = [*files.values()]
    seen = inspect_all(dataset, tasks, len(classes), workers, "checking", crop_size)
    found = dict(zip(files, seen, strict=True))

    copies, odd = _copies(images, found)
    odd += settings
    for split in splits:
        problems += _unpaired(split, images[split], masks[split])
    problems += [problem for one in found.values() for problem in one.problems]
    problems += copies
    odd += [finding for one in found.values() for finding in one.odd]
    odd += [finding for split in splits for finding in _alike(images[split])]
    for text, message in listing.items():
        odd.append(Finding(NOTE if isinstance(message, InputNote) else "listing", text))
    warned = [place for m in listing.values() if (place := getattr(m, "place", None))]
    odd += _strays(Path(dataset.root), images, masks, warned)
    if labels is not None:
        problems += labels.problems + label_problems(labels, images, splits)
        ids = labels.labels
    else:
        ids = labels_from_counts(found, len(classes), min_pixels)
        if TRAIN in splits and images[TRAIN] and not masks[TRAIN] and points is None:
            problems.append(
                f"no image-level labels for '{TRAIN}', and no masks to take them from; name a file "
                f"of labels (--labels); {HOW_TO_LABEL}"
            )
    for split in splits:
        counts = {
            name: found[split, name].counts
            for name in images[split]
            if found[split, name].counts is not None
        }
        if labels is not None:
            of_split = {name: ids[split, name] for name in counts if (split, name) in ids}
            for name, given_ids in of_split.items():
                if not found[split, name].problems:
                    odd += disagreements(name, given_ids, counts[name], classes, min_pixels)
            odd += nothing_in_common(of_split, counts, classes, split)
        if counts:
            odd += truth_findings(np.sum([*counts.values()], 0), classes, split)
    train = {name: ids[TRAIN, name] for name in images.get(TRAIN, ()) if (TRAIN, name) in ids}
    problems += empty_labels(train)
    odd += poor_labels(train, classes)
    if points is not None:
        read_mask = dataset.read_ground_truth
        of_points = check_points(Path(points), images, masks, classes, read_mask, workers)
        problems += of_points[0]
        odd += of_points[1]
    return Report(list(dict.fromkeys(problems)), odd, found)


def format_findings(report: Report) -> Iterator[str]:
    """Lines for a terminal; at most ten findings of one kind."""
    yield from report.problems
    kinds: dict[str, list[str]] = defaultdict(list)
    for kind, text in report.odd:
        kinds[kind].append(text)
    notes = kinds.pop(NOTE, [])
    yield from (f"note: {text}" for text in notes)
    for kind, texts in kinds.items():
        yield from (f"warning: {text}" for text in texts[:_MOST])
        if len(texts) > _MOST:
            yield f"warning: and {len(texts) - _MOST} more like this ({kind})"
    number = len(report.odd) - len(notes)
    warnings = f", {number} warnings" if number else ""
    yield f"{len(report.found)} images checked, {len(report.problems)} problems{warnings}"


def _listed(
    listing: Callable[[str], dict[str, File]], split: str, problems: list[str]
) -> dict[str, File]:
    """Files of `listing(split)`; errors in it are added to `problems`."""
    try:
        return listing(split)
    except DuplicateError as error:
        problems += error.messages
        return error.files
    except InputError as error:
        problems.append(" ".join(str(error).split()))
        return {}


def _unpaired(split: str, images: Mapping[str, File], masks: Mapping[str, File]) -> list[str]:
    """Images without masks, in splits that have masks, and masks without images."""
    problems = [
        f"{file} has no mask; add it or remove the image"
        for name, file in images.items()
        if masks and name not in masks
    ]
    return problems + [
        f"{file} has no image in '{split}'; add it or remove the mask"
        for name, file in masks.items()
        if name not in images
    ]


def _copies(images: Images, seen: dict[Place, Inspection]) -> tuple[list[str], list[Finding]]:
    """Images with the same pixels: a problem across splits, odd within one."""
    first: dict[bytes, tuple[str, File]] = {}
    problems, odd = [], []
    for (split, name), one in seen.items():
        file = images[split][name]
        other_split, other = first.setdefault(one.digest, (split, file))
        if not one.digest or other == file:
            continue
        text = f"{file} shows the same pixels as {other}"
        if other_split == split:
            odd.append(Finding("copy", f"{text}; remove one of them"))
        else:
            problems.append(
                f"{text} of '{other_split}': the splits must be disjoint; remove one of them"
            )
    return problems, odd


def _alike(files: Mapping[str, File]) -> list[Finding]:
    first: dict[str, File] = {}
    pairs = [(first.setdefault(name.casefold(), file), file) for name, file in files.items()]
    text = "are the same file on a system that ignores case; rename one"
    return [Finding("case", f"{one} and {other} {text}") for one, other in pairs if one != other]


def _strays(
    root: Path, images: Images, masks: Images, warned: Sequence[Path | str]
) -> list[Finding]:
    """Files beside images and masks that are neither, nor named after an image.

    One line per folder and ending. warned: folders that the user was already warned about.
    """
    starts = tuple(f"{place}/" for place in warned)
    used = {file.path for files in (*images.values(), *masks.values()) for file in files.values()}
    ids = {name.rpartition("/")[2] for files in images.values() for name in files}
    tops = {Path(path).relative_to(root).parts[0] for path in used if Path(path) != root}
    strays: dict[tuple[str, str], list[str]] = defaultdict(list)
    for top in sorted(tops):
        with contextlib.suppress(InputError):  # a folder that can't be listed is a problem already
            for folder, names in walk(root / top):
                for name in sorted(names):
                    cuts = (name[:i] for i, letter in enumerate(name) if letter in "._")
                    is_used = f"{folder}/{name}" in used or not ids.isdisjoint(cuts)
                    is_known = looks_like_image(name) and f"{folder}/".startswith(starts)
                    if not (is_used or is_known or name.startswith(".")):
                        strays[folder, Path(name).suffix].append(name)
    odd = []
    for (folder, _), names in strays.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        text = "not read: no image or mask of a split; check that nothing is missing"
        odd.append(Finding("stray", f"{folder}/{names[0]}{more} {text}"))
    return odd
