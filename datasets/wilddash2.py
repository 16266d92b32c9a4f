"""WildDash2: the 25 classes of CARB, from the official code's folders or the original release."""

import functools
from pathlib import Path, PurePath

import numpy as np
import yaml

from datasets.files import File, list_files, read_image, read_mask, read_split_list
from datasets.ids import image_id
from datasets.labels import IGNORE_INDEX, load_classes
from datasets.unknown_values import color_codes, refuse_unknown
from utils.safe.errors import InputError, warn
from utils.safe.files import parse_json

EXPECTED = """expected one of
  img/{train,val}/<name>.jpg + mask/{train,val}/<name>_labelTrainIds.png         (ids 0..24, 255)
  images/<name>.jpg + labels/<name>.png, or panoptic/<name>.png and panoptic.json  (the release),
    with train.txt and val.txt (one image name a line): the release has no splits, and the official
    lists (3618 and 638 images) are not published"""
_UNKNOWN = 254  # neither a class id nor 255, the value of pixels without a label
_OTHER_RELEASE = (
    "take both from one release; was the image resized, saved as JPEG, or saved with red and blue "
    "swapped?"
)
_KNOWN = ("_labelIds.png", "_instanceIds.png", "_color.png", "_polygons.json")  # beside train ids
_CLASSES = Path(__file__).parent / "classes"


class WildDash2:
    """Image ids are the file names without suffix, e.g. ``ae0000_100000``."""

    def __init__(self, root: str | Path) -> None:
        """Raises InputError when `root` has neither layout, or the release without split lists."""
        self.root = Path(root)
        self.is_release = not (self.root / "img").is_dir()
        if self.is_release and not (self.root / "images").is_dir():
            raise InputError(f"no WildDash2 in {self.root}; {EXPECTED}")
        if not self.splits():
            what = "no train.txt or val.txt" if self.is_release else "nothing in img/"
            raise InputError(f"{what} in {self.root}; {EXPECTED}")

    def splits(self) -> list[str]:
        """The splits that exist."""
        place = "{}.txt" if self.is_release else "img/{}"
        return [s for s in ("train", "val", "test") if (self.root / place.format(s)).exists()]

    def images(self, split: str) -> dict[str, File]:
        """Image id -> file, sorted. Raises InputError when the split or an image is missing."""
        if split not in self.splits():
            raise InputError(
                f"{self.root} has no split '{split}', only {', '.join(self.splits())}; {EXPECTED}"
            )
        if not self.is_release:
            files = list_files(self.root / "img" / split)
            if not files:
                raise InputError(f"{self.root} has no images of '{split}'; {EXPECTED}")
            return files
        files = list_files(self.root / "images")
        wanted = read_split_list(self.root / f"{split}.txt", files)
        return {name: files[name] for name in sorted(set(wanted))}

    def ground_truth(self, split: str) -> dict[str, File]:
        """Image id -> label file, for the images that have one."""
        if not self.is_release:
            return list_files(self.root / "mask" / split, ["_labelTrainIds.png"], _KNOWN)
        images, files = self.images(split), {}
        if (self.root / "panoptic.json").is_file():
            described = _read_panoptic(str(self.root / "panoptic.json"))
            files = list_files(self.root / "panoptic", [".png"])
            unknown = [name for name in images if name in files and name not in described]
            if unknown:
                warn(
                    f"{self.root / 'panoptic.json'} does not describe {len(unknown)} of the "
                    f"images of '{split}' in panoptic/ ({unknown[0]}, ...): these are not read"
                )
            files = {name: file for name, file in files.items() if name in described}
        files |= list_files(self.root / "labels", ["_labelIds.png", ".png"])
        return {name: files[name] for name in images if name in files}

    def read_ground_truth(self, file: File) -> np.ndarray:
        """uint8 (H,W): 0..24, 255 where there is no label."""
        if not self.is_release:
            return read_mask(file)
        if Path(file.path).parent.name == "panoptic":
            return self._from_panoptic(file)
        table = np.array([class_id for _, class_id in categories()], np.uint8)
        ids = read_mask(file)
        if ids.max() >= len(table):
            raise InputError(
                f"{file}: category ids run from 0 to {len(table) - 1}, found {ids.max()}"
            )
        return table[ids]

    def _from_panoptic(self, file: File) -> np.ndarray:
        path = str(self.root / "panoptic.json")
        table = np.full(1 << 24, _UNKNOWN, np.uint8)
        table[0] = IGNORE_INDEX
        for segment, class_id in _read_panoptic(path)[_image_id(file.path)]:
            if not 0 <= segment < len(table):
                raise InputError(f"{path}: the segment id {segment} of {file} is not a colour")
            table[segment] = class_id
        codes = color_codes(read_image(file), swapped=True)
        ids = table[codes]
        is_unknown = ids == _UNKNOWN
        what = "segment ids that panoptic.json doesn't give this image"
        refuse_unknown(is_unknown, codes, file, what, int, lambda: _OTHER_RELEASE)
        ids[is_unknown] = IGNORE_INDEX
        return ids


@functools.cache
def categories() -> tuple[tuple[str, int], ...]:
    """(name, class id or 255) of every category of the release, by category id."""
    names = load_classes(_CLASSES / "wilddash2.yaml").names
    text = (_CLASSES / "wilddash2_categories.yaml").read_text(encoding="utf-8")
    pairs = [next(iter(item.items())) for item in yaml.safe_load(text)["categories"]]
    return tuple(
        (name, IGNORE_INDEX if class_name is None else names.index(class_name))
        for name, class_name in pairs
    )


def _image_id(path: str) -> str:
    name = PurePath(path).name
    return image_id(name, PurePath(name).suffix)


@functools.cache
def _read_panoptic(path: str) -> dict[str, list[tuple[int, int]]]:
    """Image id -> (segment id, class id) of its segments, from the release's COCO panoptic JSON."""
    class_of_name = dict(categories())
    try:
        content = parse_json(Path(path).read_text(encoding="utf-8"))
        class_of_category = {}
        for category in content["categories"]:
            # By name, spelled 'traffic light' or 'trafficlight'; by id where a release renamed it.
            name = "".join(c for c in category["name"].lower() if c.isalnum())
            known = range(len(categories()))
            by_id = categories()[category["id"]][1] if category["id"] in known else None
            class_id = class_of_name.get(name, by_id)
            if class_id is None:
                raise InputError(f"{path}: unknown category {category['id']} '{category['name']}'")
            class_of_category[category["id"]] = class_id
        return {
            _image_id(image["file_name"]): [
                (segment["id"], class_of_category[segment["category_id"]])
                for segment in image["segments_info"]
            ]
            for image in content["annotations"]
        }
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(
            f"{path} is not a COCO panoptic file with categories and annotations "
            f"({type(error).__name__}: {error}); copy it from the release again"
        ) from None
