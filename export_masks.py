"""Export label maps to annotation tools: pre-annotations to correct by hand.

Reads MASKS, a folder of predict.py, gen_clip_masks.py or a method of baselines/; writes to OUT:

    python export_masks.py predictions --images frames --format coco-rle --out coco
                                                                 # instances.json
    ... --format coco-panoptic                                   # panoptic.json, panoptic/
    ... --format label-studio                                    # tasks.json, interface.xml
    python export_masks.py clip_masks --format cvat --out cvat   # masks.zip
    ... --format cityscapes                                      # <name>_gtFine_polygons.json

Pixels without a label (255) stay without one. Class names come from --class-file or from the
meta.json of MASKS. COCO and Label Studio name the images, so they need --images. Subfolders are
kept. Existing files in OUT are replaced only with --overwrite. How each tool imports its file:
docs/use.md.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from datasets.mask_exports.cityscapes_polygons import polygon_file, write_polygons
from datasets.mask_exports.coco import write_instances, write_panoptic
from datasets.mask_exports.cvat import write_cvat
from datasets.mask_exports.label_studio import write_interface, write_tasks
from datasets.mask_exports.source import find_images, find_masks, label_maps, load_classes_of
from utils.cli import count, path
from utils.safe.errors import InputError, run_script
from utils.safe.files import check_new_files, remove_unfinished

FORMATS = ("coco-rle", "coco-panoptic", "cvat", "label-studio", "cityscapes")


def main(argv: list[str]) -> None:
    # --- arguments
    arguments = parse(argv)
    folder, out, form = Path(arguments.masks), Path(arguments.out), arguments.format
    image_folder = Path(arguments.images) if arguments.images else None

    # --- label maps, their classes and images
    masks = find_masks(folder)
    classes = load_classes_of(folder, masks, arguments.class_file)
    images = find_images(image_folder, masks) if image_folder else {}
    check_out(out, [folder, image_folder], outputs(form, masks), arguments.overwrite)
    if out.is_dir():
        remove_unfinished(out, below=False)  # of a killed run

    # --- export, one label map after the other
    maps = label_maps(masks, images, len(classes), arguments.min_area)
    if form == "coco-rle":
        write_instances(out / "instances.json", classes, maps)
    elif form == "coco-panoptic":
        write_panoptic(out / "panoptic.json", classes, maps)
    elif form == "cvat":
        write_cvat(out / "masks.zip", classes, maps)
    elif form == "label-studio":
        write_interface(out / "interface.xml", classes)
        write_tasks(out / "tasks.json", classes, maps, last_part(image_folder), last_part(folder))
    else:
        write_polygons(out, classes, maps)
    print(f"{len(masks)} label maps of {len(classes)} classes exported as {form} to {out}")


def last_part(folder: Path) -> str:
    """The name of a folder; of a link that of the link."""
    return os.path.basename(os.path.abspath(folder))  # noqa: PTH100, PTH119


def outputs(form: str, names: Iterable[str]) -> list[str]:
    """Paths below OUT of the files that a format has."""
    return {
        "coco-rle": ["instances.json"],
        "coco-panoptic": ["panoptic.json", *(f"panoptic/{name}.png" for name in names)],
        "cvat": ["masks.zip"],
        "label-studio": ["tasks.json", "interface.xml"],
        "cityscapes": [polygon_file(name) for name in names],
    }[form]


def check_out(out: Path, inputs: Iterable[Path | None], files: list[str], overwrite: bool) -> None:
    """Raise InputError when OUT lies in an input, holds one of the files, or can't be written."""
    targets = [(out / below).resolve() for below in {file.rpartition("/")[0] for file in files}]
    for folder in filter(None, inputs):
        if any(target.is_relative_to(folder.resolve()) for target in targets):
            raise InputError(f"--out {out} would write inside {folder}, an input; name another one")
    if twice := [file for file, count in Counter(files).items() if count > 1]:
        raise InputError(f"two label maps would both be written to {out / twice[0]}; rename one")
    check_new_files(out, files, "--out", overwrite)


def parse(argv: list[str]) -> argparse.Namespace:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("masks", type=path, metavar="MASKS", help="folder of label maps")
    add("--format", choices=FORMATS, required=True, help="what the annotation tool reads")
    add("--out", type=path, required=True, help="folder for the results")
    add("--class-file", type=path, help="names and colours (default: those stored in MASKS)")
    add("--images", type=path, metavar="FOLDER", help="the images that the masks were made from")
    add("--min-area", type=count, default=1, metavar="N", help="smaller regions lose their label")
    add("--overwrite", action="store_true", help="replace existing files in OUT")
    add("--debug", action="store_true", help="show the traceback of an error")
    arguments = result.parse_args(argv)
    if not arguments.images and arguments.format in ("coco-rle", "coco-panoptic", "label-studio"):
        raise InputError(
            f"--format {arguments.format} names the image files; name their folder: --images"
        )
    return arguments


if __name__ == "__main__":
    run_script(main)
