"""Images and labels as annotation tools name them: which of a data set they are."""

import difflib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from datasets.ids import drop_suffix, loose
from datasets.split_labels import Images, Place
from utils.safe.errors import InputError

Names = tuple[str, ...]  # what the file of an image may be called, the likeliest first


def places_of(where: object, found: Iterable[Names], images: Images) -> dict[Names, Place]:
    """The image of each `Names`, by file name without ending; images that are unknown are left out.

    Where a file name fits several images, folders decide: the image wins that has more of the last
    folders in common with the name than all others. Raises InputError where it is still unclear,
    and where two names mean one image. where: the file that holds the names.
    """
    by_stem: dict[str, dict[Place, None]] = defaultdict(dict)
    by_loose: dict[str, dict[Place, None]] = defaultdict(dict)
    for split, files in images.items():
        for name, file in files.items():
            for stem in (_parts(file.member or file.path)[-1], name.rpartition("/")[2]):
                by_stem[stem][split, name] = by_loose[loose(stem)][split, name] = None
    places: dict[Names, Place] = {}
    of_place: dict[Place, str] = {}
    for names in found:
        name, fits = names[0], []
        for name in names:
            stem = _parts(name)[-1]
            fits = _nearest(name, by_stem.get(stem) or by_loose.get(loose(stem), ()))
            if fits:
                break
        if not fits:
            continue
        if len(fits) > 1:
            files = " and ".join(str(images[split][key]) for split, key in fits[:2])
            raise InputError(
                f"{where}: '{name}' may be {files}; name one split (--splits), or rename a file"
            )
        if fits[0] in of_place:
            raise InputError(
                f"{where}: '{of_place[fits[0]]}' and '{name}' both mean the image '{fits[0][1]}'; "
                "keep one"
            )
        of_place[fits[0]], places[names] = name, fits[0]
    return places


def unknown_labels(unknown: Mapping[str, int], what: str, names: Sequence[str]) -> str:
    """ "2 labels are no class of the class file: 'cra' (7 points; did you mean 'car'?), ...".

    unknown: how many of `what` ("point") have each label.
    """
    texts = []
    for label, count in sorted(unknown.items()):
        near = difflib.get_close_matches(label.lower(), [name.lower() for name in names], n=1)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        texts.append(f"'{label}' ({count} {what}{'s' * (count > 1)}{hint})")
    are = "1 label is" if len(unknown) == 1 else f"{len(unknown)} labels are"
    return f"{are} no class of the class file: {', '.join(texts)}"


def _parts(name: str) -> list[str]:
    """Folders and file name without ending; imagePath of LabelMe may hold backslashes."""
    return drop_suffix(name.replace("\\", "/")).split("/")


def _nearest(name: str, fits: Iterable[Place]) -> list[Place]:
    """Those of the images that have most of the last folders in common with the name."""
    fits = list(fits)
    if len(fits) < 2:
        return fits
    theirs = _parts(loose(name))[-2::-1]
    shared = []
    for split, key in fits:
        pairs = zip(theirs, _parts(loose(f"{split}/{key}"))[-2::-1], strict=False)
        same = [one == other for one, other in pairs]
        shared.append([*same, False].index(False))
    return [fit for fit, count in zip(fits, shared, strict=True) if count == max(shared)]
