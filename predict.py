"""Segment pictures of your own: one, a folder of them, or the frames of a video in a folder.

Reads a checkpoint and INPUT; writes for every picture OUT/<name>.png (class ids, shown in the
classes' colours) and OUT/<name>_overlay.png, and OUT/legend.png. Folders below INPUT are kept.
Files that are in OUT already are replaced with --overwrite only.

    python predict.py --ckpt runs/cityscapes/carb/last.pt street.jpg --out predictions
    python predict.py --ckpt ... frames/ --out predictions --scales 0.75 1.0 1.25 --flip

Takes torchrun, as eval.py does: each of n ranks takes every n-th picture.
A picture that can't be read is reported, the others go on, and the exit status is 2 at the end.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
from collections.abc import Iterable
from pathlib import Path

import torch
from tqdm import tqdm

from datasets.files import File, list_files
from datasets.training import EvaluationSet
from datasets.transforms import normalize
from models.trained import load_trained
from utils.cli import parser, path
from utils.distributed import barrier, cleanup, gather_objects, setup
from utils.inference import (
    add_options,
    options_from,
    predict_labels,
    progress_off,
)
from utils.safe.errors import InputError, run_script
from utils.safe.files import check_folder
from utils.visualize import legend, overlay, save_image, save_mask


def main(argv: list[str]) -> None:
    # --- arguments
    arguments = parser(__doc__, config_required=False)
    arguments.add_argument("input", type=path, help="a picture or a folder")
    arguments.add_argument(
        "--ckpt", type=path, required=True, help="last.pt of a run, or the authors' .pth"
    )
    arguments.add_argument("--out", type=path, required=True, help="folder for the results")
    arguments.add_argument("--alpha", type=opacity, default=0.5, help="of the overlay, 0 to 1")
    arguments.add_argument(
        "--overwrite", action="store_true", help="replace files that are in OUT already"
    )
    add_options(arguments)
    arguments = arguments.parse_args(argv)
    options, out = options_from(arguments), Path(arguments.out)

    # --- data, device, model
    pictures = find_pictures(Path(arguments.input), out)
    ranks = setup(arguments.device)
    device = ranks.device
    trained = load_trained(arguments.ckpt, arguments.config, arguments.overrides)
    model, classes = trained.model.to(device), trained.classes
    data = EvaluationSet(pictures, trained.config.image_size, keep_picture=True)
    check_outputs(pictures, out, arguments.overwrite)
    barrier()  # nobody writes while another rank still looks

    # --- loop
    unreadable = []
    own = range(ranks.rank, len(data), ranks.world_size)
    for index in tqdm(own, desc="predict", unit="image", disable=progress_off(ranks)):
        try:
            sample = data[index]
        except InputError as error:
            unreadable.append(str(error))
            continue
        image = normalize(sample["image"][None].to(device), "imagenet")
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.bf16):
            labels = predict_labels(model, image, sample["size"], **options)
        mask, name = labels[0].cpu().numpy(), sample["name"]
        save_mask(out / f"{name}.png", mask, classes.palette)
        picture = overlay(sample["picture"].numpy(), mask, classes.palette, arguments.alpha)
        save_image(out / f"{name}_overlay.png", picture)
    unreadable = [message for messages in gather_objects(unreadable) for message in messages]
    if ranks.is_main:
        save_image(out / "legend.png", legend(classes.names, classes.palette))
        print(f"{len(data) - len(unreadable)} of {len(data)} pictures done, written to {out}")
    cleanup()
    if unreadable:
        raise InputError("these pictures were left out:\n  " + "\n  ".join(unreadable))


def opacity(text: str) -> float:
    """A number of the command line from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected 0 to 1, found {text}")
    return value


def check_outputs(names: Iterable[str], out: Path, overwrite: bool) -> None:
    """Raises InputError when two outputs are one file, one is there, or none can be written."""
    made_from = {"legend.png": "the legend"}
    for name in names:
        for output in (f"{name}.png", f"{name}_overlay.png"):
            if output in made_from:
                raise InputError(
                    f"{made_from[output]} and the picture '{name}' would both be written to "
                    f"{out / output}; rename the picture"
                )
            made_from[output] = f"the picture '{name}'"
    check_folder(out, "--out")
    there = [output for output in made_from if (out / output).exists()]
    if there and not overwrite:
        raise InputError(
            f"{out} has {len(there)} of the {len(made_from)} files already, the first is "
            f"{there[0]}; name another --out, or --overwrite to replace them"
        )


def find_pictures(source: Path, out: Path) -> dict[str, File]:
    """Name without suffix -> file, in the order of the names."""
    if source.is_file():
        if (out / f"{source.stem}.png").resolve() == source.resolve():
            raise InputError(f"--out {out} would overwrite {source}; give another folder")
        return {source.stem: File(str(source))}
    if not source.is_dir():
        raise InputError(f"no picture or folder at {source}; name one that is there")
    if out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"--out {out} lies inside {source} and would be read as input next time")
    pictures = list_files(source)
    if not pictures:
        raise InputError(f"no pictures (.jpg, .png, ...) in {source} or its folders")
    return pictures


if __name__ == "__main__":
    run_script(main)
