"""Points, single pixels of which a person has named the class: their file, and simulated ones."""

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from datasets.class_ids import ClassIds, class_ids, shown_json
from datasets.components import connected_components, erosion_depth
from datasets.doctor.sizes import read_size
from datasets.files import File
from datasets.ids import drop_suffix, match_ids, require
from datasets.labels import IGNORE_INDEX, ClassTable, has_background
from datasets.windows import Size
from utils.safe.errors import InputError, warn
from utils.safe.file_kinds import stand_in
from utils.safe.files import parse_json, replacing

Points = dict[str, np.ndarray]  # image id -> int64 (n,3) rows (x, y, class id)
PER = ("component", "class")
_MOST = 10_000  # points of an image
_LARGEST = 2**31  # pixels
_EROSIONS = 3  # a person points at the inside of a thing, not at its edge
_FORM = '{"image id": [[x, y, class id or name], ...]}'


def read_points(path: str | Path, classes: ClassTable) -> Points:
    """Points by image id: int64 (n,3) rows (x, y, class id), in pixels of the stored image.

    The file is JSON: ``{"train/0001": [[412, 96, "car"], [17, 300, 0]], ...}``. x points right, y
    down; (0, 0) is the upper left pixel, a fraction is dropped. The suffix of an image is dropped
    from its id. An image may have no points. Raises InputError naming the file, the image and the
    entry.
    """
    points: Points = {}
    for key, rows in read_entries(path, classes).items():
        if (name := drop_suffix(key)) in points:
            raise _duplicate_error(path, name)
        points[name] = rows
    return points


def read_entries(path: str | Path, classes: ClassTable) -> Points:
    """`read_points` under the keys of the file, which `match_points` knows how to read."""
    path = Path(path)
    known = class_ids(classes.names)
    points: Points = {}
    entries = _parse(path)
    from_one = known.count_from_one(
        point[2]
        for _, rows in entries
        for point in rows
        if isinstance(point, list) and len(point) == 3
    )
    for key, rows in entries:
        name = drop_suffix(key)
        if key in points:
            raise _duplicate_error(path, name)
        if len(rows) > _MOST:
            raise InputError(
                f"{path}: image '{name}': {len(rows)} points; expected at most {_MOST}, single "
                "pixels and not whole masks"
            )
        read = [
            _read_point(row, known, from_one, f"{path}: image '{name}', point {number}")
            for number, row in enumerate(rows, 1)
        ]
        points[key] = np.array(read, np.int64).reshape(-1, 3)
    return points


def write_points(path: str | Path, points: Mapping[str, np.ndarray], classes: ClassTable) -> None:
    """Write JSON that `read_points` reads back, atomically; creates the folder.

    The classes are written by name, so that a class file in another order changes nothing.
    """
    with replacing(Path(path)) as temporary:
        temporary.write_text(points_text(points, classes), encoding="utf-8")


def points_text(points: Mapping[str, np.ndarray], classes: ClassTable) -> str:
    """The points as JSON: one image per line, sorted, so that equal points give equal texts."""

    def line(key: str) -> str:
        rows = [[x, y, classes.names[k]] for x, y, k in points[key].tolist()]
        return f"{json.dumps(key)}: {json.dumps(rows, ensure_ascii=False)}"

    return "{\n" + ",\n".join(map(line, sorted(points))) + "\n}\n"


def points_of_split(
    path: str | Path,
    images: Mapping[str, File],
    classes: ClassTable,
    allow_unpointed: bool = False,
    split: str = "train",
) -> Points:
    """The points of the images of a split, under their ids.

    Entries are matched with images as image-level labels are, by "<image id>" or "<split>/<image
    id>"; entries of other images are left out. allow_unpointed: images without a point are left
    out as well, with a warning. A class without any point gets a warning.

    Raises InputError where an image has no point, where a point lies outside its image, where one
    pixel has points of two classes, and where the background of a data set has no point.
    """
    points, others = match_points(path, read_entries(path, classes), images, split)
    pointed = {name: rows for name, rows in points.items() if len(rows)}
    advice = "point at them (prepare_data.py imports points), or leave these images out of the "
    advice += "training: baselines.points --allow-unpointed"
    if not allow_unpointed or not pointed:
        require(images, pointed | others, f"point in {path}", advice)
    elif len(pointed) < len(images):
        first = next(name for name in images if name not in pointed)
        warn(
            f"{path}: {len(images) - len(pointed)} of {len(images)} images have no point and are "
            f"left out, the first is '{first}'"
        )
    for name, rows in pointed.items():
        check_places(path, name, rows, size_of(images[name]), classes)
    unseen = _unseen(pointed, classes)
    if unseen and unseen[0] == 0 and has_background(classes):
        raise InputError(
            f"{path} has no point of class 0, '{classes.names[0]}', so that nothing could be "
            "learned as background; point at the background of each image too, or remove the class"
        )
    if unseen:
        names = ", ".join(classes.names[k] for k in unseen)
        warn(f"{path} has no point of {names}: the network can't learn what has none")
    return pointed


def match_points(
    path: str | Path, points: Points, images: Mapping[str, File], split: str = "train"
) -> tuple[Points, Points]:
    """`points`, under the keys of a file, by the ids of `images`, in their order; and the others.

    Raises InputError where a key may mean two images, or two keys mean one.
    """
    ids = {f"{split}/{name}": name for name in images}
    try:
        meant = match_ids(points, [*ids, *images])
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    keys: dict[str, str] = {}
    for key, known in meant.items():
        name = ids.get(known, known) if known not in images else known
        if (other := keys.setdefault(name, key)) != key:
            raise InputError(
                f"{path}: '{other}' and '{key}' both mean the image '{name}'; put all its points "
                "into one entry"
            )
    others = {key: rows for key, rows in points.items() if key not in meant}
    return {name: points[keys[name]] for name in images if name in keys}, others


def size_of(file: File) -> Size:
    """(height, width) of an image, from its header. Raises InputError where it can't be read."""
    size = read_size(file)
    if size is None:
        raise InputError(f"the size of {file} can't be read; prepare_data.py --check says why")
    return size


def check_places(
    path: str | Path, name: str, rows: np.ndarray, size: Size, classes: ClassTable
) -> None:
    """Raise InputError where a point lies outside its image, or two classes share a pixel."""
    outside = np.flatnonzero((rows[:, 0] >= size[1]) | (rows[:, 1] >= size[0]))
    if len(outside):
        x, y, _ = rows[outside[0]].tolist()
        raise InputError(
            f"{path}: image '{name}', point {outside[0] + 1}: ({x}, {y}) lies outside the image, "
            f"which is {size[1]} pixels wide and {size[0]} high; were the points made for images "
            "of another size?"
        )
    seen: dict[tuple[int, int], int] = {}
    for x, y, k in rows.tolist():
        if (other := seen.setdefault((x, y), k)) != k:
            both = f"'{classes.names[other]}' and '{classes.names[k]}'"
            raise InputError(
                f"{path}: image '{name}': the pixel ({x}, {y}) has points of {both}; keep one"
            )


def simulate_points(
    mask: np.ndarray, per: str, min_area: int, rng: np.random.Generator
) -> np.ndarray:
    """Points that a person might set: int64 (n,3) rows (x, y, class id), sorted by class.

    mask: (H,W) class ids, 255 without one. A point is drawn uniformly from the pixels that are left
    of a 4-connected component after up to 3 erosions, as many as it survives. per "component": a
    point for every component of at least `min_area` pixels, or for the largest of a class that has
    none; "class": one for each class, drawn from the pixels of all these components.
    """
    components = connected_components(mask)
    depth = erosion_depth(components, _EROSIONS).ravel()
    components = components.ravel()
    areas = np.bincount(components)
    class_of = np.empty(len(areas), np.int64)
    class_of[components] = mask.ravel()
    deepest = np.zeros(len(areas), np.int64)
    np.maximum.at(deepest, components, depth)
    inner = np.flatnonzero(depth == deepest[components])
    inner = inner[np.argsort(components[inner], kind="stable")]
    inner = np.split(inner, np.cumsum(np.bincount(components[inner]))[:-1])  # of each component

    points = []
    for k in np.unique(class_of[class_of != IGNORE_INDEX]):
        of_class = np.flatnonzero(class_of == k)
        large = of_class[areas[of_class] >= min_area]
        chosen = large if len(large) else [of_class[np.argmax(areas[of_class])]]
        groups = [inner[component] for component in chosen]
        for candidates in [np.sort(np.concatenate(groups))] if per == "class" else groups:
            y, x = divmod(int(rng.choice(candidates)), mask.shape[1])
            points.append((x, y, int(k)))
    return np.array(points, np.int64).reshape(-1, 3)


def _unseen(points: Points, classes: ClassTable) -> list[int]:
    """Class ids without a point."""
    seen = {k for rows in points.values() for k in rows[:, 2].tolist()}
    return [k for k in range(len(classes)) if k not in seen]


def _duplicate_error(path: str | Path, name: str) -> InputError:
    return InputError(
        f"{path}: the image '{name}' is listed twice; put all its points into one entry"
    )


def _read_point(row: object, known: ClassIds, from_one: bool, where: str) -> tuple[int, int, int]:
    """(x, y, class id). Raises InputError, which begins with `where`."""
    if not isinstance(row, list) or len(row) != 3:
        raise InputError(f"{where}: expected [x, y, class], found {shown_json(row)}")
    if not all(map(_is_place, row[:2])):
        raise InputError(
            f"{where}: expected x and y in pixels, finite and not negative, found {shown_json(row)}"
        )
    try:
        return int(row[0]), int(row[1]), known.class_id(row[2], from_one)
    except ValueError as error:
        raise InputError(f"{where}: {error}") from None


def _is_place(value: object) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value < _LARGEST  # NaN is neither


def _parse(path: Path) -> list[tuple[str, list]]:
    """Image and list of each entry; a repeated image comes twice."""
    if not path.is_file():
        raise InputError(
            f"no points at {path}; make them from masks: python prepare_data.py <data set> --root "
            f"<its folder> --points {path}; or import those of an annotation tool: --import-points"
        )
    if path.stat().st_size and (found := stand_in(path)):
        raise InputError(f"{path} is not a file of points: {found}")
    try:
        # A dict would hide duplicate keys. Mappings become tuples, unlike lists.
        pairs = parse_json(path.read_bytes().decode("utf-8-sig"), object_pairs_hook=tuple)
    except ValueError as error:
        raise InputError(
            f"{path} is not valid JSON: {error}; expected {_FORM}; exports of annotation tools are "
            "read by prepare_data.py --import-points"
        ) from None
    if not isinstance(pairs, tuple):
        raise InputError(
            f"{path}: expected {_FORM}, found {shown_json(pairs)}; exports of annotation tools are "
            "read by prepare_data.py --import-points"
        )
    if not pairs:
        raise InputError(f"{path} has no image in it; prepare_data.py makes such a file")
    for key, rows in pairs:
        if not isinstance(rows, list):
            raise InputError(f"{path}: expected {_FORM}, found {shown_json(rows)} for '{key}'")
    return list(pairs)
