"""Image-level labels of PASCAL VOC 2012 and MS COCO, from their object annotations.

Only for the statistics of Fig. 1: no images are read, and nothing trains on these data sets.
"""

from pathlib import Path

from datasets.doctor.point_formats import VOC_CLASSES
from datasets.image_labels import ImageLabels
from utils.safe.errors import InputError
from utils.safe.files import parse_json
from utils.safe.xml_file import parse_xml

_VOC_LIST = "ImageSets/Segmentation/train.txt"


def read_voc(path: str | Path) -> tuple[ImageLabels, tuple[str, ...]]:
    """Labels and class names of VOC2012, the folder of Annotations/ and ImageSets/.

    `path` is that folder, for the images of ImageSets/Segmentation/train.txt, or another list of
    images below its ImageSets/. An image has the classes that have a box in it, difficult ones too.
    """
    path = Path(path)
    listed = path / _VOC_LIST if path.is_dir() else path
    if not listed.is_file():
        raise InputError(f"no {listed}; expected VOC2012/ (it has {_VOC_LIST}) or a list in it")
    text = listed.read_text(encoding="utf-8-sig", errors="replace")
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError(f"the split list {listed} is empty; expected one image name a line")
    if any(line.split()[1:] in (["-1"], ["0"], ["1"]) for line in lines):
        raise InputError(f"{listed} is the list of one class; give train.txt or trainval.txt")
    annotations = listed.parents[2] / "Annotations"
    ids = {name: k for k, name in enumerate(VOC_CLASSES)}
    labels: ImageLabels = {}
    for name in (Path(line.split()[0]).stem for line in lines):  # or /JPEGImages/<name>.jpg
        file = annotations / f"{name}.xml"
        names = _object_names(file)
        unknown = sorted(names - ids.keys())
        if unknown:
            raise InputError(f"{file}: {unknown} are no classes of PASCAL VOC")
        labels[name] = tuple(sorted(ids[name] for name in names))
    return labels, VOC_CLASSES


def read_coco(path: str | Path) -> tuple[ImageLabels, tuple[str, ...]]:
    """Labels and class names of an instances_*.json; classes are in the order of their ids.

    Images without an object have no class. Crowds count as objects.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no {path}; expected annotations/instances_train2014.json of MS COCO")
    try:
        content = parse_json(path.read_bytes())
        categories = sorted((int(c["id"]), str(c["name"])) for c in content["categories"])
        order = {category: k for k, (category, _) in enumerate(categories)}
        found: dict[int, set[int]] = {image["id"]: set() for image in content["images"]}
        for one in content["annotations"]:
            found[one["image_id"]].add(order[one["category_id"]])
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{path} is not an instances_*.json of MS COCO ({type(error).__name__}: {error}); "
            "expected images, categories and annotations that name both; download it again"
        ) from None
    if not found or not categories:
        raise InputError(f"{path} has no images or no categories")
    labels = {str(image): tuple(sorted(ids)) for image, ids in found.items()}
    return labels, tuple(name for _, name in categories)


def _object_names(file: Path) -> set[str]:
    """The class names of the objects in an annotation of PASCAL VOC."""
    try:
        objects = parse_xml(file.read_bytes()).iterfind("object")
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; every listed image needs one") from None
    except ValueError as error:
        raise InputError(f"{file} is not an annotation of PASCAL VOC: {error}") from None
    return {item.findtext("name", "").strip() for item in objects}
