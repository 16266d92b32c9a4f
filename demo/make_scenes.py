"""Draw synthetic scenes for the demo and the tests: streets, or things on a background.

Streets: perspective, weather, daylight, occlusion and small objects. Things: one to three things of
the streets, large, on a ground of class 0, "background", as in Pascal VOC. They are drawn with
numpy and Pillow. A scene depends only on (seed, index) and its size, not on the number of
processes. The ground truth is for evaluation; training sees image-level labels only.

    python -m demo.make_scenes --root data/scenes --count train=200 val=50
    python -m demo.make_scenes --kind things --root data/demo_things --count train=600 val=200
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import functools
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from datasets.doctor.inspection import parallel
from datasets.files import File, read_mask
from datasets.image_labels import ImageLabels, write_image_labels
from datasets.labels import load_classes
from demo.scenes.canvas import CLASSES
from demo.scenes.layout import draw_scene
from demo.scenes.stock import draw_object
from demo.scenes.things import THING_CLASSES, draw_things
from utils.cli import path
from utils.made_from import changed, listed
from utils.safe.errors import InputError, run_script
from utils.safe.files import parse_json, replacing, write_json
from utils.visualize import save_mask

CLASS_FILE = Path(__file__).with_name("classes.yaml")
SIZE = (160, 320)  # (height, width)
# First scene of each split: its scenes don't depend on the size of another split.
FIRST_INDEX = {"train": 0, "val": 1_000_000, "test": 2_000_000}
SMALLEST = 32
VERSION = 1  # of the drawing: scenes of two versions differ
JPEG_QUALITY = 92


class Kind(NamedTuple):
    """What the scenes show."""

    class_file: Path
    classes: tuple[str, ...]
    draw: Callable[[np.random.Generator, tuple[int, int]], tuple[np.ndarray, np.ndarray]]
    size: tuple[int, int]  # (height, width)
    made_from: dict[str, Any]  # in meta.json


KINDS = {
    "streets": Kind(CLASS_FILE, CLASSES, draw_scene, SIZE, {"version": VERSION}),
    "things": Kind(
        CLASS_FILE.with_name("classes_things.yaml"),
        THING_CLASSES,
        draw_things,
        (128, 128),
        {"kind": "things", "version": 1},
    ),
}


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    counts = parse_counts(arguments.count)
    kind, workers = arguments.kind, arguments.workers
    write_dataset(Path(arguments.root), counts, arguments.seed, num_workers=workers, kind=kind)
    print(f"wrote {arguments.root}: use it with dataset: folder")


def parse(argv: list[str]) -> argparse.Namespace:
    result = argparse.ArgumentParser(
        prog="python -m demo.make_scenes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = result.add_argument
    add("--root", type=path, required=True, help="folder of the data set")
    add("--kind", choices=KINDS, default="streets", help="what the scenes show (default: streets)")
    add("--count", nargs="+", default=["train=200", "val=50"], help="images per split")
    add("--seed", type=int, default=0, help="which scenes")
    add("--workers", type=int, default=os.cpu_count(), help="processes; 0: only this one")
    add("--debug", action="store_true", help="show the traceback of an error")
    return result.parse_args(argv)


def generate(
    seed: int, index: int, size: tuple[int, int] = SIZE, kind: str = "streets"
) -> tuple[np.ndarray, np.ndarray]:
    """Scene `index` of `seed`: image, uint8 (H,W,3) RGB, and ids of its classes, uint8 (H,W).

    Raises InputError when `size` (H,W) is too small or a number is negative.
    """
    _check(seed, size)
    if index < 0:
        raise InputError(f"the index of a scene is 0 or more, found {index}")
    return KINDS[kind].draw(np.random.default_rng(np.random.SeedSequence((seed, index))), size)


def render_object(
    class_name: str, rng: np.random.Generator, size: tuple[int, int] = (96, 96)
) -> np.ndarray:
    """A "stock photograph" uint8 (H,W,3) of one object of a class, not in a street.

    Drawn by the code of the scenes, but large and on another background. Road, sidewalk, building,
    sky and fence fill most of the image.
    """
    _check(0, size)
    if class_name not in CLASSES:
        raise InputError(f"no class '{class_name}' in the scenes; known: {', '.join(CLASSES)}")
    return draw_object(class_name, rng, size)


def write_dataset(
    out: Path,
    counts: dict[str, int],
    seed: int = 0,
    size: tuple[int, int] | None = None,
    num_workers: int = 0,
    kind: str = "streets",
) -> None:
    """Write scenes as a data set that `datasets.folder.Folder` reads.

    `counts`: number of images in "train", "val" and "test"; `size`: (H,W), of the kind if None;
    `kind`: one of `KINDS`. Writes images/<split>/*.jpg,
    masks/<split>/*.png, classes.yaml, image_labels.json (every class with a pixel) and meta.json.
    Resumes an interrupted run. Raises InputError when `out` holds something else.
    """
    out, size = Path(out), size or KINDS[kind].size
    _check(seed, size)
    _check_counts(counts)
    made_from = {"seed": seed, "size": list(size), "counts": counts} | KINDS[kind].made_from
    _open(out, made_from, KINDS[kind])
    tasks = [
        (split, f"{split}_{i:06d}", FIRST_INDEX[split] + i)
        for split, count in counts.items()
        for i in range(count)
    ]
    write = functools.partial(_write, out=out, seed=seed, size=tuple(size), kind=kind)
    labels: ImageLabels = {}
    labels.update(parallel(write, tasks, num_workers, "drawing"))
    write_image_labels(out / "image_labels.json", labels)


def parse_counts(texts: list[str]) -> dict[str, int]:
    """``["train=200", "val=50"]`` -> the `counts` of `write_dataset`. Raises InputError."""
    pairs = [text.partition("=") for text in texts]
    wrong = [text for text, (_, _, n) in zip(texts, pairs, strict=True) if not n.isdecimal()]
    if wrong:
        raise InputError(f"--count: expected split=number like train=200, found {wrong[0]}")
    counts = {split: int(number) for split, _, number in pairs}
    if len(counts) < len(texts):
        raise InputError(f"--count: a split is repeated in {' '.join(texts)}; give each split once")
    return counts


def _write(
    task: tuple[str, str, int], out: Path, seed: int, size: tuple[int, int], kind: str
) -> tuple[str, tuple[int, ...]]:
    """Write one scene unless it exists; gives its name and the classes in it."""
    split, name, index = task
    image_path, mask_path = out / f"images/{split}/{name}.jpg", out / f"masks/{split}/{name}.png"
    if image_path.exists() and mask_path.exists():
        mask = read_mask(File(str(mask_path)))
    else:
        image, mask = generate(seed, index, size, kind)
        with replacing(image_path) as temporary:
            Image.fromarray(image).save(temporary, "JPEG", quality=JPEG_QUALITY, subsampling=0)
        save_mask(mask_path, mask, load_classes(KINDS[kind].class_file).palette)
    return name, tuple(np.unique(mask).tolist())


def _open(out: Path, made_from: dict[str, Any], kind: Kind) -> None:
    """Make the folders, or check that existing ones come from the same arguments."""
    meta = out / "meta.json"
    if meta.is_file():
        try:
            saved = parse_json(meta.read_text(encoding="utf-8"))
            other = changed(saved, {"kind": None} | made_from)  # streets have no entry
        except (ValueError, TypeError):
            raise InputError(f"{meta} can't be read; remove {out} and run again") from None
        if other:
            raise InputError(
                f"{out} holds other scenes ({listed(other)}); remove it or name another folder"
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} holds something else; name an empty or a new folder")
    for split in made_from["counts"]:
        (out / "images" / split).mkdir(parents=True, exist_ok=True)
    with replacing(out / "classes.yaml") as temporary:
        shutil.copyfile(kind.class_file, temporary)
    write_json(meta, made_from | {"classes": list(kind.classes)})


def _check(seed: int, size: tuple[int, int]) -> None:
    if seed < 0:
        raise InputError(f"the seed of the scenes is 0 or more, found {seed}")
    if min(size) < SMALLEST:
        raise InputError(f"scenes are at least {SMALLEST} pixels high and wide, found {size}")


def _check_counts(counts: dict[str, int]) -> None:
    limit = FIRST_INDEX["val"]
    if not counts or set(counts) - set(FIRST_INDEX):
        known = ", ".join(FIRST_INDEX)
        raise InputError(f"counts need some of the splits {known}, found {list(counts)}")
    for split, count in counts.items():
        if not 1 <= count <= limit:
            raise InputError(f"the split '{split}' needs 1 to {limit} images, found {count}")


if __name__ == "__main__":
    run_script(main)
