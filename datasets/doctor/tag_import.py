"""Import of tags from annotation tools: their images and labels become those of a data set."""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from datasets.doctor.label_check import TRAIN
from datasets.doctor.tag_files import TagFile, counted
from datasets.doctor.tag_formats import Tag
from datasets.doctor.tool_images import places_of, unknown_labels
from datasets.labels import ClassTable
from datasets.split_labels import Images, LabelFile, Place
from utils.class_names import plain_name
from utils.safe.errors import InputError, note, warn

_SKIP = "--skip-unknown leaves them out"
_SHOWN = 10  # names of images in one line


class Labels(NamedTuple):
    """What the labels of a tool mean: plain name -> class id."""

    ids: dict[str, int]
    names: Sequence[str]  # of the classes

    def class_of(self, tag: Tag) -> int | None:
        """The class of a label; of a path, that of the last part that is one."""
        known = (self.ids[name] for part in reversed(tag) if (name := plain_name(part)) in self.ids)
        return next(known, None)


def label_names(classes: ClassTable, renamed: Iterable[str], files: Iterable[TagFile]) -> Labels:
    """Class names, and the labels that --rename OLD=NEW maps to one.

    They are compared without regard to case, blanks, hyphens and underscores. Raises InputError
    for a NEW that is no class, and for an OLD that no file has.
    """
    ids = {plain_name(name): k for k, name in enumerate(classes.names)}
    found = {
        part for file in files for one in file.images for tag in one.tags or () for part in tag
    }
    plain = {plain_name(part) for part in found}
    given: dict[str, int] = {}
    for text in renamed:
        old, equals, new = text.rpartition("=")
        if not equals or plain_name(new) not in ids:
            raise InputError(
                f"--rename {text}: expected OLD=NEW, NEW one of {', '.join(classes.names)}"
            )
        if plain_name(old) not in plain:
            shown = ", ".join(sorted(found))
            raise InputError(f"--rename {text}: no file has the label '{old}', only {shown}")
        if given.setdefault(plain_name(old), ids[plain_name(new)]) != ids[plain_name(new)]:
            raise InputError(f"--rename {text}: '{old}' is given another name before; give one")
    return Labels(ids | given, classes.names)


def tags_by_image(
    files: Sequence[TagFile],
    labels: Labels,
    skip_unknown: bool,
    splits: Collection[str],
    images: Images,
) -> LabelFile:
    """The classes of each image: all that its entries in the files have.

    skip_unknown: leave out labels and images that the data set does not have. splits: those whose
    images without annotation are reported. An image that is annotated without a tag has no class;
    one that is not annotated, or in no file, has no labels.
    """
    problems = _unknown(files, labels, skip_unknown)
    found: dict[Place, set[int]] = {}
    entries: Counter[Place] = Counter()
    lost: list[str] = []
    for file in files:
        try:
            places = places_of(file.where, [image.names for image in file.images], images)
        except InputError as error:
            everywhere = {(split, name) for split, names in images.items() for name in names}
            return LabelFile({}, everywhere, {}, [*problems, str(error)])
        for one in file.images:
            if one.tags is None:
                continue
            if one.names not in places:
                lost.append(one.names[0])
                continue
            place = places[one.names]
            ids = {labels.class_of(tag) for tag in one.tags} - {None}
            found[place] = found.get(place, set()) | ids
            entries[place] += 1
    if lost and skip_unknown:
        note(f"left out: {counted(len(lost), 'image')} with labels, not in {', '.join(images)}")
    elif lost:
        total = len(lost) + entries.total()
        problems.append(
            f"{len(lost)} of {counted(total, 'image')} with labels are not in {', '.join(images)}, "
            f"the first is '{lost[0]}'; add the images, rename them, or {_SKIP}"
        )
    if not any(found.values()) and not problems:
        problems.append("no image of the data set has a label of a class in these files")
    if shared := sum(count > 1 for count in entries.values()):
        note(f"{counted(shared, 'image')} in several files: the labels of all files count")
    if not problems:
        _tell_unlabelled(found, splits, images)
    return LabelFile({p: tuple(sorted(found[p])) for p in found}, set(), {}, problems)


def _unknown(files: Iterable[TagFile], labels: Labels, skip_unknown: bool) -> list[str]:
    """The problem of labels that are no class, all in one; a note where they are left out."""
    counts: Counter[str] = Counter()
    for file in files:
        for one in file.images:
            counts.update("/".join(t) for t in one.tags or () if labels.class_of(t) is None)
    if not counts:
        return []
    listed = unknown_labels(counts, "image", labels.names)
    if skip_unknown:
        note(f"left out: {listed}")
        return []
    return [
        f"{listed}; map them to classes (--rename OLD=NEW ...), add them to the class file, or "
        f"{_SKIP}"
    ]


def _tell_unlabelled(
    found: Mapping[Place, set[int]], splits: Collection[str], images: Images
) -> None:
    """Warn of images that get no labels or empty ones.

    Only training needs labels: of another split they are told where some of its images have any.
    """
    bare: dict[str, list[str]] = defaultdict(list)
    empty: list[str] = []
    for split in (split for split in images if split in splits):
        missing = [name for name in images[split] if (split, name) not in found]
        if split == TRAIN or len(missing) < len(images[split]):
            bare[split] = missing
        empty += [name for name in images[split] if found.get((split, name)) == set()]
    for split, names in bare.items():
        if names:
            warn(
                f"{len(names)} of {len(images[split])} images of '{split}' have no annotation and "
                f"get no labels: {_first(names)}" + "; training needs labels" * (split == TRAIN)
            )
    if empty:
        warn(
            f"{counted(len(empty), 'image')} annotated without any class: {_first(empty)}; their "
            "labels are empty, which has no effect on training"
        )


def _first(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return f"{', '.join(names[:_SHOWN])}{more}"
