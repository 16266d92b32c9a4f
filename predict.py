"""Segment your own images: a file, or a folder, for example of video frames.

Reads a checkpoint and INPUT; writes for every image OUT/<name>.png (class ids, shown in the
classes' colours) and OUT/<name>_overlay.png, and OUT/legend.png. Subfolders of INPUT are kept.
Existing files in OUT are replaced only with --overwrite.

    python predict.py --ckpt runs/cityscapes/carb/last.pt street.jpg --out predictions
    python predict.py --ckpt ... frames/ --out predictions --scales 0.75 1.0 1.25 --flip

Runs under torchrun, like eval.py: each of n ranks takes every n-th image.
An unreadable image is reported and left out; the exit status is then 2.
"""

import utils.threads  # noqa: F401  # isort: skip
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from datasets.files import File, list_files
from datasets.training import EvaluationSet
from models.inference import add_options, options_from, predictions
from models.trained import load_trained
from utils.cli import number, parser, path
from utils.distributed import barrier, cleanup, gather_objects, setup
from utils.progress import progress
from utils.safe.errors import InputError, run_script
from utils.safe.files import check_folder
from utils.visualize import legend, overlay, save_image, save_mask


def main(argv: list[str]) -> None:
    # --- arguments
    arguments = parser(__doc__, config_required=False)
    arguments.add_argument("input", type=path, help="an image or a folder")
    arguments.add_argument(
        "--ckpt", type=path, required=True, help="last.pt of a run, or an official .pth"
    )
    arguments.add_argument("--out", type=path, required=True, help="folder for the results")
    arguments.add_argument(
        "--alpha", type=number(1, zero=True), default=0.5, help="of the overlay, 0 to 1"
    )
    arguments.add_argument("--overwrite", action="store_true", help="replace existing files in OUT")
    add_options(arguments)
    arguments = arguments.parse_args(argv)
    options, out = options_from(arguments), Path(arguments.out)

    # --- data, device, model
    images = find_images(Path(arguments.input), out)
    ranks = setup(arguments.device)
    trained = load_trained(arguments.ckpt, arguments.config, arguments.overrides)
    model, classes = trained.model.to(ranks.device), trained.classes
    data = EvaluationSet(images, trained.config.image_size, keep_original=True)
    check_outputs(images, out, arguments.overwrite)
    barrier()  # no rank writes while another one still checks

    # --- loop
    unreadable = []
    own = range(ranks.rank, len(data), ranks.world_size)
    samples = readable(data, progress(own, "predict", ranks), unreadable)
    for sample, labels in predictions(model, samples, ranks.device, options, arguments.bf16):
        mask, name = labels.cpu().numpy(), sample["name"]
        save_mask(out / f"{name}.png", mask, classes.palette)
        shown = overlay(sample["original"].numpy(), mask, classes.palette, arguments.alpha)
        save_image(out / f"{name}_overlay.png", shown)
    unreadable = [message for messages in gather_objects(unreadable) for message in messages]
    if ranks.is_main:
        save_image(out / "legend.png", legend(classes.names, classes.palette))
        print(f"{len(data) - len(unreadable)} of {len(data)} images done, written to {out}")
    cleanup()
    if unreadable:
        raise InputError("these images were left out:\n  " + "\n  ".join(unreadable))


def readable(
    data: EvaluationSet, indices: Iterable[int], unreadable: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield the samples; add the error of an unreadable image to `unreadable`."""
    for index in indices:
        try:
            yield data[index]
        except InputError as error:
            unreadable.append(str(error))


def check_outputs(names: Iterable[str], out: Path, overwrite: bool) -> None:
    """Raise InputError when outputs would collide, exist already, or can't be written."""
    made_from = {"legend.png": "the legend"}
    for name in names:
        for output in (f"{name}.png", f"{name}_overlay.png"):
            if output in made_from:
                raise InputError(
                    f"{made_from[output]} and the image '{name}' would both be written to "
                    f"{out / output}; rename the image"
                )
            made_from[output] = f"the image '{name}'"
    check_folder(out, "--out")
    existing = [output for output in made_from if (out / output).exists()]
    if existing and not overwrite:
        raise InputError(
            f"{out} has {len(existing)} of the {len(made_from)} files already, the first is "
            f"{existing[0]}; name another --out, or --overwrite to replace them"
        )


def find_images(source: Path, out: Path) -> dict[str, File]:
    """Name without suffix -> file, in the order of the names."""
    if source.is_file():
        if (out / f"{source.stem}.png").resolve() == source.resolve():
            raise InputError(f"--out {out} would overwrite {source}; give another folder")
        return {source.stem: File(str(source))}
    if not source.is_dir():
        raise InputError(f"no image or folder at {source}; name one that exists")
    if out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"--out {out} is inside {source} and would be read as input next time")
    images = list_files(source)
    if not images:
        raise InputError(f"no images (.jpg, .png, ...) in {source} or its folders")
    return images


if __name__ == "__main__":
    run_script(main)
