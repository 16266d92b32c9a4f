"""Tags in the files of annotation tools: the labels that each image has, whatever carries them.

Each function reads the content of one file and yields one `Tagged` per image, in the order of the
file. Places of shapes are not read. Raises InputError naming the file and the entry.
"""

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from datasets.doctor.tool_files import (
    cvat_images,
    image_field,
    is_number,
    label_studio_names,
    label_studio_tasks,
    take,
)
from datasets.doctor.tool_images import Names
from datasets.files import File
from utils.safe.errors import InputError, note
from utils.safe.xml_file import Element

Tag = tuple[str, ...]  # a label, or the path to it in a taxonomy
MIN_FIELDS = ("id", "annotator", "annotation_id", "created_at", "updated_at", "lead_time")


class Tagged(NamedTuple):
    """An image and its tags: None where the file says that nobody has annotated it."""

    names: Names
    tags: frozenset[Tag] | None


def of_cvat(root: Element, file: File) -> Iterator[Tagged]:
    """ "CVAT for images 1.1": <tag> and every shape of an <image>, but not the parts of a skeleton.

    Every image of the task stands in the file: one without any label counts as not annotated.
    """
    for name, where, image in cvat_images(root, file):
        labels = []
        for number, one in enumerate(image):
            if not one.get("label"):
                raise InputError(f"{where}: <{one.tag}>, entry {number + 1}, has no label")
            labels.append(one.get("label"))
        yield Tagged((name,), _plain(labels) or None)


def of_voc(root: Element, file: File) -> Iterator[Tagged]:
    """PASCAL VOC: the <name> of each <object>, difficult ones too, but not of its <part>s.

    An image without an object is annotated. Source: the development kit of
    host.robots.ox.ac.uk/pascal/VOC/voc2012.
    """
    if root.tag != "annotation":
        raise InputError(f"{file}: expected <annotation> of PASCAL VOC, found <{root.tag}>")
    labels = []
    for number, one in enumerate(root.iterfind("object")):
        label = one.findtext("name", "").strip()
        if not label:
            raise InputError(f"{file}: <object> {number + 1} has no <name>")
        labels.append(label)
    own = (file.member or file.path).replace("\\", "/").rpartition("/")[2].rpartition(".")[0]
    written = (root.findtext("filename") or "").strip()
    yield Tagged(tuple(dict.fromkeys(filter(None, (written, own)))), _plain(labels))


def of_labelme(content: Any, file: File) -> Iterator[Tagged]:
    """LabelMe (labelmeai/labelme): the image's flags that are true, and the labels of all shapes.

    Flags of a shape are no tags. An image with neither is annotated: somebody saved its file.
    """
    name = take(content, "imagePath", str, str(file))
    labels = []
    flags = content.get("flags") or {}
    if not isinstance(flags, dict) or not all(isinstance(on, bool) for on in flags.values()):
        raise InputError(f"{file}: expected flags that are true or false, found {str(flags)[:40]}")
    for number, shape in enumerate(take(content, "shapes", list, str(file))):
        labels.append(take(shape, "label", str, f"{file}, shape {number + 1}"))
    yield Tagged((name,), _plain([*(flag for flag, on in flags.items() if on), *labels]))


def of_label_studio(content: Any, file: File) -> Iterator[Tagged]:
    """Label Studio's "JSON": choices, taxonomies and the labels of all regions, of all annotators.

    Cancelled annotations and predictions don't count. A task without another annotation is not
    annotated.
    """
    for names, where, annotations in label_studio_tasks(content, file):
        tags: list[Tag] = []
        for result in (result for results in annotations for result in results):
            kind = take(result, "type", str, where)
            if _is_tag_key(kind):
                tags += _label_studio_tags(take(result, "value", dict, where), [kind], where)
        yield Tagged(names, frozenset(tags) if annotations else None)


def of_label_studio_min(content: Any, file: File) -> Iterator[Tagged]:
    """Label Studio's "JSON-MIN": an entry for each annotation that was not cancelled.

    A single choice is a bare text there, as the other fields of a task are: every text counts,
    except that of the image and the fields that Label Studio adds. Mappings without labels, as of a
    rating, are named in a note. A task that nobody has annotated has null as `annotation_id`.
    Source: labelstud.io/guide/export.
    """
    tags_of: dict[str, set[Tag]] = {}
    annotated: set[str] = set()
    without: dict[str, None] = {}  # fields with mappings that hold no label
    for number, entry in enumerate(content):
        where = f"{file}, task {number + 1}"
        field = image_field(entry, where)
        tags = tags_of.setdefault(entry[field], set())
        for key, value in entry.items():
            if key in (field, *MIN_FIELDS):
                continue
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, str):
                    tags.add((one,))
                elif isinstance(one, dict):
                    keys = [*filter(_is_tag_key, one)]
                    tags.update(_label_studio_tags(one, keys, where))
                    if not keys:
                        without[key] = None
                elif isinstance(one, list) and not all(map(is_number, one)):
                    raise InputError(
                        f"{where}: expected a text, a number, a mapping or a list of those as "
                        f"'{key}', found {str(value)[:40]}; export the tasks as \"JSON\""
                    )
        if tags or entry.get("annotation_id", number) is not None:
            annotated.add(entry[field])
    if without:
        note(f"{file}: no labels in the mappings of {', '.join(without)}, which are left out")
    for address, tags in tags_of.items():
        found = frozenset(tags) if address in annotated else None
        yield Tagged(label_studio_names(address), found)


def _is_tag_key(key: str) -> bool:
    """Whether a type of result has labels: rectanglelabels, brushlabels and so on, and these."""
    return key in ("choices", "taxonomy") or key.endswith("labels")


def _label_studio_tags(value: dict, keys: Iterable[str], where: str) -> Iterator[Tag]:
    for key in keys:
        for label in take(value, key, list, where):
            path = label if key == "taxonomy" else [label]
            if not isinstance(path, list) or not path or not all(isinstance(p, str) for p in path):
                expected = "lists of texts" if key == "taxonomy" else "texts"
                raise InputError(
                    f"{where}: expected {expected} as '{key}', found {str(label)[:40]}"
                )
            yield tuple(path)


def of_coco(content: Any, file: File) -> Iterator[Tagged]:
    """COCO's instances: every annotation makes a tag of its image, crowds and segments too.

    An image without an annotation is annotated: it shows no class. Source:
    cocodataset.org/#format-data.
    """
    names: dict[int | str, str] = {}
    for number, one in enumerate(take(content, "categories", list, str(file))):
        where = f"{file}, category {number + 1}"
        names[_unused(one, "id", names, where)] = take(one, "name", str, where)
    images: dict[int | str, str] = {}
    for number, one in enumerate(take(content, "images", list, str(file))):
        where = f"{file}, image {number + 1}"
        images[_unused(one, "id", images, where)] = take(one, "file_name", str, where)
    labels: dict[int | str, list[str]] = {key: [] for key in images}
    for number, one in enumerate(take(content, "annotations", list, str(file))):
        where = f"{file}, annotation {number + 1}"
        image = take(one, "image_id", int | str, where)
        if image not in images:
            raise InputError(f"{where}: image_id {str(image)[:40]} is none of the file's images")
        is_panoptic = "segments_info" in one
        for entry in take(one, "segments_info", list, where) if is_panoptic else [one]:
            category = take(entry, "category_id", int | str, where)
            if category not in names:
                raise InputError(f"{where}: category_id {str(category)[:40]} is no category there")
            labels[image].append(names[category])
    for key, name in images.items():
        yield Tagged((name,), _plain(labels[key]))


def _unused(entry: Any, key: str, known: dict, where: str) -> int | str:
    value = take(entry, key, int | str, where)
    if value in known:
        raise InputError(f"{where}: the {key} {str(value)[:40]} is given twice; export it again")
    return value


def of_fiftyone(content: Any, file: File) -> Iterator[Tagged]:
    """FiftyOneImageClassificationDataset: one label an image, or several; null is not annotated.

    Its form for detections is the same. Source: docs.voxel51.com/user_guide/export_datasets.html.
    """
    classes = content.get("classes")
    if classes is not None and not (
        isinstance(classes, list) and all(isinstance(name, str) for name in classes)
    ):
        raise InputError(f"{file}: expected a list of texts as 'classes'")
    for name, targets in take(content, "labels", dict, str(file)).items():
        where, labels = f"{file}: image '{name}'", []
        for one in targets if isinstance(targets, list) else [targets]:
            label = take(one, "label", object, where) if isinstance(one, dict) else one
            if isinstance(label, int) and not isinstance(label, bool) and classes is not None:
                if not 0 <= label < len(classes):
                    found = str(label)[:40]
                    raise InputError(
                        f"{where}: expected one of {len(classes)} classes, found {found}"
                    )
                label = classes[label]
            if targets is not None and not isinstance(label, str):
                raise InputError(f"{where}: expected a label, found {str(label)[:40]}")
            labels.append(label)
        yield Tagged((name,), None if targets is None else _plain(labels))


def of_fiftyone_samples(content: Any, file: File) -> Iterator[Tagged]:
    """FiftyOneDataset (samples.json): the labels of its one field of labels, of any kind.

    An image without the field is not annotated. Raises InputError where several fields have labels.
    """
    found = [
        (take(sample, "filepath", str, f"{file}, sample {number + 1}"), sample)
        for number, sample in enumerate(take(content, "samples", list, str(file)))
    ]
    fields = {key: None for _, sample in found for key in sample if _is_labels(sample[key])}
    if len(fields) > 1:
        raise InputError(
            f"{file}: the fields {', '.join(fields)} have labels; export one of them: "
            "dataset.select_fields(...) or, as FiftyOneImageClassificationDataset, label_field=..."
        )
    field = next(iter(fields), None)
    for name, sample in found:
        where, value = f"{file}: image '{name}'", sample.get(field)
        if value is None:
            yield Tagged((name,), None)
            continue
        if not _is_labels(value):
            raise InputError(
                f"{where}: expected labels or null as '{field}', found {str(value)[:40]}; export "
                "it again"
            )
        several = next((v for k, v in value.items() if k == value["_cls"].lower()), [value])
        if not isinstance(several, list):
            raise InputError(f"{where}: expected a list of labels, found {str(several)[:40]}")
        yield Tagged((name,), _plain([take(one, "label", str, where) for one in several]))


def _is_labels(value: Any) -> bool:
    """Whether a field of a sample is Classification, Classifications, Detections and so on."""
    kinds = ("Classification", "Detection", "Polyline", "Keypoint")
    cls = value.get("_cls") if isinstance(value, dict) else None
    return isinstance(cls, str) and cls.removesuffix("s") in kinds


def _plain(labels: Iterable[str]) -> frozenset[Tag]:
    return frozenset((label,) for label in labels)
