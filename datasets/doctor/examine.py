"""What is wrong with a data set, and what is odd about it, in one pass over its files."""

import contextlib
import functools
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datasets import SegmentationData
from datasets.doctor.image_check import NOTE, Odd, Seen, look
from datasets.doctor.label_check import (
    TRAIN,
    LabelFile,
    disagreements,
    empty_labels,
    label_problems,
    nothing_in_common,
    poor_labels,
    truth_oddities,
)
from datasets.doctor.plausible import crop_to_reach, implausible
from datasets.doctor.sizes import sample_sizes
from datasets.doctor.survey import Found, labels_from_counts, parallel
from datasets.files import File, TwiceError, walk
from datasets.labels import ClassTable
from datasets.leftovers import looks_like_picture
from datasets.split_labels import label_keys
from utils.config import Config
from utils.ground_truth import ONE_CLASS
from utils.safe.errors import InputError, InputNote, InputWarning

Splits = dict[str, dict[str, File]]  # split -> image id -> file
_MOST = 10  # lines about oddities of one kind


class Findings(NamedTuple):
    """What stops or harms training, and what merely surprises, in one line each."""

    problems: list[str]
    odd: list[Odd]
    found: dict[str, Found]
    num_images: int
    labels: LabelFile


def examine(
    dataset: SegmentationData,
    splits: Sequence[str],
    classes: ClassTable,
    given: Callable[[Splits], LabelFile] | None,
    min_pixels: int,
    config: Config | None,
    workers: int,
) -> Findings:
    """Look at every image and every mask of the splits, once.

    given: reads labels to compare with images (of all splits) and masks; None takes them from the
    masks, where a class is present with `min_pixels` pixels. config: what in it can't be meant for
    these images is odd.
    """
    problems = [ONE_CLASS] if len(classes) == 1 else []
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always", InputWarning)
        images = {split: _listed(dataset.images, split, problems) for split in dataset.splits()}
        masks = {split: _listed(dataset.ground_truth, split, problems) for split in images}
        labels = None if given is None else given(images)
    told_already = {str(warning.message): warning.message for warning in said}  # each once
    here = {split: images[split] for split in splits}
    keys = label_keys(images)
    tasks = [(file, masks[split].get(name)) for split in here for name, file in here[split].items()]
    crop_size, odd_settings = None, []
    if config is not None:
        trained_on = images.get(config.train_split, {})
        sizes = sample_sizes(trained_on)
        crop_size = crop_to_reach(config, sizes)
        odd_settings = [Odd("config", t) for t in implausible(config, len(trained_on), sizes)]
    look_at = functools.partial(
        look,
        read_mask=dataset.read_ground_truth,
        num_classes=len(classes),
        crop_size=crop_size,
    )
    seen = dict(zip(_names(here), parallel(look_at, tasks, workers, "checking"), strict=True))
    found = {keys[place]: Found(one.counts, one.problems) for place, one in seen.items()}
    copies, odd = _copies(here, seen)
    odd += odd_settings
    for split in here:
        problems += _unpaired(split, images[split], masks[split])
    problems += [problem for one in seen.values() for problem in one.problems]
    problems += copies
    odd += [odd for one in seen.values() for odd in one.odd]
    odd += [odd for files in here.values() for odd in _alike(files)]
    for text, message in told_already.items():
        odd.append(Odd(NOTE if isinstance(message, InputNote) else "listing", text))
    places = [getattr(message, "place", None) for message in told_already.values()]
    odd += _strays(Path(dataset.root), images, masks, [place for place in places if place])
    if labels is None and TRAIN in here and images[TRAIN] and not masks[TRAIN]:
        problems.append(
            f"no image-level labels for '{TRAIN}', and no masks to take them from; write a CSV "
            f"into {dataset.root} (first line image,labels, then 0001.jpg,road;car), or name a "
            "file of labels: --labels"
        )
    if labels is None:
        labels = LabelFile(labels_from_counts(found, len(classes), min_pixels), set(), {}, [])
    else:
        problems += labels.problems + label_problems(labels, images, splits)
    counts = {key: one.counts for key, one in found.items() if one.counts is not None}
    for split, files in here.items():
        own = {keys[split, name]: name for name in files}
        of_split = {key: labels.labels[key] for key in own if key in labels.labels}
        if given is not None:
            for key, ids in of_split.items():
                if key in counts and not found[key].problems:
                    odd += disagreements(own[key], ids, counts[key], classes, min_pixels)
            odd += nothing_in_common(of_split, counts, classes, split)
        in_split = [counts[key] for key in own if key in counts]
        if in_split:
            odd += truth_oddities(np.sum(in_split, 0), classes, split)
    train = {name: keys[TRAIN, name] for name in images.get(TRAIN, ())}
    trained = {name: labels.labels[key] for name, key in train.items() if key in labels.labels}
    problems += empty_labels(trained)
    odd += poor_labels(trained, classes)
    return Findings(list(dict.fromkeys(problems)), odd, found, len(tasks), labels)


def told(findings: Findings) -> Iterator[str]:
    """Lines for a terminal; of one kind of oddity no more than a few."""
    yield from findings.problems
    kinds: dict[str, list[str]] = defaultdict(list)
    for kind, text in findings.odd:
        kinds[kind].append(text)
    notes = kinds.pop(NOTE, [])
    yield from (f"note: {text}" for text in notes)
    for kind, texts in kinds.items():
        yield from (f"warning: {text}" for text in texts[:_MOST])
        if len(texts) > _MOST:
            yield f"warning: and {len(texts) - _MOST} more like this ({kind})"
    number = len(findings.odd) - len(notes)
    warnings = f", {number} warnings" if number else ""
    yield f"{findings.num_images} images checked, {len(findings.problems)} problems{warnings}"


def _names(images: Splits) -> list[tuple[str, str]]:
    return [(split, name) for split, files in images.items() for name in files]


def _listed(
    listing: Callable[[str], dict[str, File]], split: str, problems: list[str]
) -> dict[str, File]:
    """`listing(split)` as far as it goes; what is wrong with it goes to `problems`."""
    try:
        return listing(split)
    except TwiceError as error:
        problems += error.messages
        return error.files
    except InputError as error:
        problems.append(" ".join(str(error).split()))
        return {}


def _unpaired(split: str, images: dict[str, File], masks: dict[str, File]) -> list[str]:
    """Images without mask, in splits that have masks, and masks without image."""
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


def _copies(images: Splits, seen: dict[tuple[str, str], Seen]) -> tuple[list[str], list[Odd]]:
    """Images of the same pixels: a problem in two splits, odd in one."""
    first: dict[bytes, tuple[str, File]] = {}
    problems, odd = [], []
    for (split, name), one in seen.items():
        file = images[split][name]
        other_split, other = first.setdefault(one.digest, (split, file))
        if not one.digest or other == file:
            continue
        text = f"{file} shows the same pixels as {other}"
        if other_split == split:
            odd.append(Odd("copy", f"{text}; remove one of them"))
        else:
            problems.append(
                f"{text} of '{other_split}': neither tests the other then; remove one of them"
            )
    return problems, odd


def _alike(files: dict[str, File]) -> list[Odd]:
    first: dict[str, File] = {}
    pairs = [(first.setdefault(name.casefold(), file), file) for name, file in files.items()]
    text = "are one file where case does not count; rename one"
    return [Odd("case", f"{one} and {other} {text}") for one, other in pairs if one != other]


def _strays(root: Path, images: Splits, masks: Splits, told: Sequence[Path | str]) -> list[Odd]:
    """Files beside images and masks that are none of them, nor named after an image.

    One line for those of one folder and ending. told: folders whose pictures have been told of.
    """
    starts = tuple(f"{place}/" for place in told)
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
                    is_told = looks_like_picture(name) and f"{folder}/".startswith(starts)
                    if not (is_used or is_told or name.startswith(".")):
                        strays[folder, Path(name).suffix].append(name)
    odd = []
    for (folder, _), names in strays.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        text = "not read: no image or mask of a split; see that nothing is missing"
        odd.append(Odd("stray", f"{folder}/{names[0]}{more} {text}"))
    return odd
