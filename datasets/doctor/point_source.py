"""Points of prepare_data.py: simulated from masks or imported, and their file."""

import argparse
import functools
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from datasets import SegmentationData
from datasets.doctor.inspection import parallel
from datasets.doctor.label_check import TRAIN
from datasets.doctor.point_import import import_points
from datasets.files import File, check_mask
from datasets.labels import ClassTable
from datasets.points import PER, points_text, simulate_points, size_of, write_points
from datasets.split_labels import Place, label_keys, other_splits
from utils.safe.errors import InputError
from utils.seed import POINTS, derive

_SIMULATION = {"points_per": PER[0], "min_area": 50, "points_seed": 0}  # options, what they are
_LEAST = {"min_area": 1, "points_seed": 0}


def check_point_options(arguments: argparse.Namespace) -> None:
    """Raise InputError where options about points have no effect or a wrong value."""
    simulates = arguments.points and not (
        arguments.import_points or arguments.check or arguments.stats
    )
    given = [name for name in _SIMULATION if getattr(arguments, name) is not None]
    if given and not simulates:
        raise InputError(
            f"--{given[0].replace('_', '-')} is for simulated points: --points without "
            "--import-points, --check and --stats"
        )
    if any(getattr(arguments, name) < least for name, least in _LEAST.items() if name in given):
        raise InputError("--min-area must be at least 1 and --points-seed at least 0")
    if arguments.import_points and not arguments.points:
        raise InputError("--import-points needs --points FILE, the file to write")
    if arguments.import_points and (arguments.check or arguments.stats):
        raise InputError("--check and --stats read --points; import first, in a command of its own")
    if arguments.points_format and not arguments.import_points:
        raise InputError("--points-format is for --import-points")
    if arguments.skip_unknown and not (arguments.import_points or arguments.import_tags):
        raise InputError("--skip-unknown is for --import-points and --import-tags")


def make_points(
    dataset: SegmentationData, classes: ClassTable, arguments: argparse.Namespace
) -> None:
    """Write --points: those of --import-points, or else simulated ones; by default of 'train'."""
    splits = list(dict.fromkeys(arguments.splits or [TRAIN]))
    images = {split: dataset.images(split) for split in splits}
    if arguments.import_points:
        path, tool = Path(arguments.import_points), arguments.points_format
        points, left_out = import_points(path, tool, images, classes, arguments.skip_unknown)
        for reason, count in left_out.items():
            print(f"points left out, {reason}: {count}")
        if not points:
            raise InputError(f"{path}: no point is left; nothing was written")
    else:
        given = {name: getattr(arguments, name) for name in _SIMULATION}
        how = _SIMULATION | {name: value for name, value in given.items() if value is not None}
        points = simulate_all(dataset, splits, len(classes), *how.values(), arguments.workers)
    keys = label_keys(other_splits(dataset, splits) | images)
    by_key = {keys[place]: rows for place, rows in points.items()}
    _write(Path(arguments.points), by_key, classes, arguments.overwrite)


def simulate_all(
    dataset: SegmentationData,
    splits: Sequence[str],
    num_classes: int,
    per: str,
    min_area: int,
    seed: int,
    workers: int,
) -> dict[Place, np.ndarray]:
    """`simulate_points` of every image of the splits.

    Those of an image depend on the seed, its id and its mask only. Raises InputError when an image
    has no mask.
    """
    tasks: dict[Place, tuple[str, File, File]] = {}
    for split in splits:
        masks = dataset.ground_truth(split)
        for name, file in dataset.images(split).items():
            if name not in masks:
                raise InputError(
                    f"the image '{name}' of '{split}' has no mask to simulate points from; add it, "
                    "or import points that somebody has set: --import-points"
                )
            tasks[split, name] = name, file, masks[name]
    simulate = functools.partial(
        _simulate,
        read_mask=dataset.read_ground_truth,
        num_classes=num_classes,
        per=per,
        min_area=min_area,
        seed=seed,
    )
    found = parallel(simulate, [*tasks.values()], workers, "simulating points")
    return dict(zip(tasks, found, strict=True))


def _simulate(
    task: tuple[str, File, File],
    read_mask: Callable[[File], np.ndarray],
    num_classes: int,
    per: str,
    min_area: int,
    seed: int,
) -> np.ndarray:
    name, image, file = task
    mask = read_mask(file)
    check_mask(mask, file, size_of(image), num_classes)
    rng = np.random.default_rng(derive(seed, POINTS, zlib.crc32(name.encode())))
    return simulate_points(mask, per, min_area, rng)


def _write(
    out: Path, points: Mapping[str, np.ndarray], classes: ClassTable, overwrite: bool
) -> None:
    """Raises InputError where the file holds other points, unless `overwrite`."""
    count = f"{sum(map(len, points.values()))} points of {len(points)} images"
    if out.exists() and out.read_bytes() == points_text(points, classes).encode():
        print(f"unchanged {out}: {count}")
        return
    if out.exists() and not overwrite:
        raise InputError(
            f"{out} already holds something else than these {count}; name another --points, or "
            "--overwrite to replace it (with --check or --stats it is read)"
        )
    write_points(out, points, classes)
    print(f"wrote {out}: {count}")
