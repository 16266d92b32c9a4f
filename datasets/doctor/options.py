"""Options of prepare_data.py."""

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

from datasets import DATASETS
from datasets.doctor.label_source import check_label_options
from datasets.doctor.point_formats import FORMATS
from datasets.doctor.point_source import check_point_options
from datasets.points import PER
from utils.cli import add_trust, path
from utils.safe.errors import InputError

# Of --suggest: options that it can't stand beside, and those that tell it what CLIP does.
_OTHERS = ("out", "points", "import_labels", "import_tags", "import_points", "check", "stats")
_OTHERS += ("convert", "write_config")
_OF_CLIP = ("suggest", "calibrate", "clip_model", "config", "miniature", "trust_torchscript")


def build_parser(description: str) -> argparse.ArgumentParser:
    """The command line of prepare_data.py; `description` is the text above the options."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("dataset", choices=[*DATASETS])
    add("--root", type=path, required=True, help="folder of the data set")
    add(
        "--class-file",
        type=path,
        help="default: datasets/classes/<dataset>.yaml; folder: <root>/classes.yaml",
    )
    add("--splits", nargs="+", help="default: all except test; for --points and --suggest: train")
    add("--out", type=path, help="JSON file to write the labels to")
    add("--min-pixels", type=int, default=1, help="pixels that make a class present (default 1)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--import-labels", type=path, metavar="NPY", help="the official labels.npy")
    tags_help = "files, folders or zips of annotation tools, whose tags and shapes become labels"
    source.add_argument("--import-tags", nargs="+", type=path, metavar="FILE", help=tags_help)
    source.add_argument("--labels", type=path, help="existing labels, JSON or CSV")
    points_help = "JSON file of points: written, from the masks or from --import-points; with "
    points_help += "--check or --stats it is read instead"
    add("--points", type=path, metavar="FILE", help=points_help)
    per_help = "simulate a point for each connected component or for each class (default component)"
    add("--points-per", choices=PER, help=per_help)
    area_help = "pixels that a component needs for a simulated point (default 50)"
    add("--min-area", type=int, help=area_help)
    add("--points-seed", type=int, help="of the simulated points (default 0)")
    import_help = "file or folder of an annotation tool; its points are written to --points"
    add("--import-points", type=path, metavar="FILE", help=import_help)
    add("--points-format", choices=[*FORMATS], help="the tool; told from the file where possible")
    rename_help = "--import-tags: labels of the tool that are classes by another name"
    add("--rename", nargs="+", default=[], metavar="OLD=NEW", help=rename_help)
    skip_help = (
        "--import-points and --import-tags: leave out unknown labels and images instead of stopping"
    )
    add("--skip-unknown", action="store_true", help=skip_help)
    suggest_help = "let CLIP propose the labels of 'train' (or --splits): CSV and a page to correct"
    add("--suggest", type=path, metavar="FOLDER", help=suggest_help)
    add("--clip-model", type=path, help="--suggest: name or file (default ViT-B/16)")
    calibrate_help = "--suggest: labels of some of the images, to which the thresholds are fitted"
    add("--calibrate", type=path, metavar="FILE", help=calibrate_help)
    add("--check", action="store_true", help="check images, masks, labels and points")
    config_help = "--check: also compare the sizes with its; --suggest: its CLIP and its teacher"
    add("--config", type=path, help=config_help)
    add("--stats", action="store_true", help="print statistics of the labels and the points")
    convert_help = "write camvid or wilddash2 as img/ and mask/ folders"
    add("--convert", type=path, metavar="OUT", help=convert_help)
    config_help = "write a starting config, derived from the images"
    add("--write-config", type=path, metavar="FILE", help=config_help)
    miniature_help = "--write-config, --suggest: a dry run with the shipped miniature CLIP"
    add("--miniature", action="store_true", help=miniature_help)
    add("--overwrite", action="store_true", help="replace earlier output of these options")
    add("--debug", action="store_true", help="show the traceback of an error")
    add("--workers", type=int, default=os.cpu_count(), help="processes; 0: only this one")
    add_trust(parser)
    return parser


def check_options(arguments: argparse.Namespace) -> None:
    """Raise InputError where options have no effect, a wrong value, or can't stand together."""
    check_label_options(arguments)
    check_point_options(arguments)
    _check_suggest_options(arguments)


def _check_suggest_options(arguments: argparse.Namespace) -> None:
    given = vars(arguments)
    if arguments.miniature and not (arguments.suggest or arguments.write_config):
        raise InputError("--miniature is for --write-config FILE and --suggest FOLDER")
    if not arguments.suggest:
        if alone := [name for name in ("calibrate", "clip_model") if given[name]]:
            raise InputError(f"{_option(alone[0])} is for --suggest FOLDER")
        return
    if beside := [name for name in _OTHERS if given[name]]:
        raise InputError(f"--suggest is a command of its own; leave out {_option(beside[0])}")
    if twice := [name for name in ("config", "clip_model") if given[name] and arguments.miniature]:
        raise InputError(f"--miniature has a CLIP and a config; leave out {_option(twice[0])}")


def page_commands(arguments: argparse.Namespace) -> tuple[str, str]:
    """What to run with labels.csv and with checked.csv, which the page of --suggest saves."""
    out = Path(arguments.root) / "image_labels.json"
    of_labels = dict.fromkeys((*_OF_CLIP, "overwrite")) | {"labels": "labels.csv", "out": out}
    return (
        _command(arguments, of_labels),
        _command(arguments, {"calibrate": "checked.csv", "overwrite": True}),
    )


def _command(arguments: argparse.Namespace, changes: dict[str, Any]) -> str:
    """The command line of the arguments without what is the default; then the changes."""
    words = [arguments.dataset, "--root", arguments.root]
    defaults = vars(build_parser("").parse_args(words))
    given = {name: value for name, value in vars(arguments).items() if name not in changes}
    for name, value in (given | changes).items():
        if value is not None and value != defaults[name]:
            values = value if isinstance(value, list) else [value] * (value is not True)
            words += [_option(name), *map(str, values)]
    return shlex.join(["python", "prepare_data.py", *words])


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
