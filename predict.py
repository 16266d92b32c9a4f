"""Segment your own images or a film: an image, a folder of them, or for example drive.mp4.

Reads a checkpoint and INPUT; writes for every image OUT/<name>.png (class ids, shown in the
classes' colours) and OUT/<name>_overlay.png, OUT/legend.png and OUT/meta.json, which has the names
of the classes. Subfolders of INPUT are kept.
With --confidence also OUT/<name>_confidence.png: 255 x the probability of each pixel's class.

    python predict.py --ckpt runs/cityscapes/carb/last.pt street.jpg --out predictions
    python predict.py --ckpt ... frames/ --out predictions --scales 0.75 1.0 1.25 --flip
    python predict.py --ckpt ... drive.mp4 --out drive_overlay.mp4 --every 5 --labels drive_labels

Of a film it writes another one, OUT, with overlays above the legend: the size and the duration
stay, of --every N frames one is shown for as long as N. --labels also writes their class ids, to
FOLDER/<number of the frame, from 0>.png, the times of the frames to FOLDER/frames.csv, and the
names of the classes to FOLDER/meta.json. Films need the package av: pip install av.

Existing files are replaced only with --overwrite. Runs under torchrun, like eval.py: each of n
ranks takes every n-th image; films need a single process. Unreadable images and damaged frames are
left out and reported; the exit status is then 2.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from datasets.files import File
from datasets.film_writer import FORMATS, check_film_outputs, film_writer
from datasets.films import Film, is_film, open_film
from datasets.prediction_folder import LEGEND, check_prediction_folder, note_class_names
from datasets.shards import list_images
from datasets.training import EvaluationSet, whole_image
from models.confidence import add_confidence, confidence_from
from models.inference import add_options, options_from, predictions
from models.trained import load_trained
from utils.cli import count, number, parser, path
from utils.distributed import barrier, cleanup, gather_objects, on_main, setup
from utils.overlap import ahead, writing
from utils.progress import progress
from utils.safe.errors import InputError, run_script
from utils.visualize import legend, save_image, save_mask, save_overlay


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    source, out = Path(arguments.input), Path(arguments.out)
    names_film = out.suffix.lower() in FORMATS and not out.is_dir()
    if is_film(source) or (source.is_file() and names_film):
        predict_film(source, out, arguments)
    elif source.exists() and (arguments.labels or arguments.every > 1 or names_film):
        raise InputError(f"{source} is no film; --labels, --every and --out {out} are for films")
    else:
        predict_images(source, out, arguments)
    cleanup()


def predict_images(source: Path, out: Path, arguments: argparse.Namespace) -> None:
    """Write labels and overlay of each image, and the legend."""
    # --- data, device, model
    options, sure = options_from(arguments), confidence_from(arguments)
    images = find_images(source, out)
    ranks = setup(arguments.device)
    trained = load_trained(arguments.ckpt, arguments.config, arguments.overrides)
    model, classes = trained.model.to(ranks.device), trained.classes
    data = EvaluationSet(images, trained.config.image_size, keep_original=True)
    stale = check_prediction_folder(images, out, arguments.overwrite, sure.write)
    barrier()  # no rank writes while another one still checks
    on_main(ranks, lambda: note_class_names(out, classes.names))
    for file in stale if ranks.is_main else ():
        file.unlink()

    def save(sample: dict[str, Any], mask: np.ndarray, confidence: np.ndarray | None) -> None:
        name, image = sample["name"], sample["original"].numpy()
        save_mask(out / f"{name}.png", mask, classes.palette)
        save_overlay(out / f"{name}_overlay.png", image, mask, classes.palette, arguments.alpha)
        if confidence is not None:
            save_image(out / f"{name}_confidence.png", confidence)

    # --- loop
    unreadable: list[str] = []
    own = range(ranks.rank, len(data), ranks.world_size)
    samples = progress(ahead(readable(data, own, unreadable)), "predict", ranks, len(own))
    network = model, samples, ranks.device, options, arguments.bf16, bool(sure.used)
    with writing() as later:
        for sample, labels, probability in predictions(*network):
            later(save, sample, *sure.keep(labels, probability))
    unreadable = [message for messages in gather_objects(unreadable) for message in messages]
    if ranks.is_main:
        save_image(out / LEGEND, legend(classes.names, classes.palette))
        print(f"{len(data) - len(unreadable)} of {len(data)} images done, written to {out}")
    if unreadable:
        cleanup()
        raise InputError("these images were left out:\n  " + "\n  ".join(unreadable))


def predict_film(source: Path, out: Path, arguments: argparse.Namespace) -> None:
    """Write a film of overlays above the legend and, on request, the labels of its frames."""
    options, sure = options_from(arguments), confidence_from(arguments)
    labels_folder = arguments.labels and Path(arguments.labels)
    stale = check_film_outputs(source, out, labels_folder, sure.write, arguments.overwrite)
    ranks = setup(arguments.device)
    if ranks.world_size > 1:
        raise InputError(f"{source}: a single process reads a film; start it without torchrun")
    with open_film(source) as film:
        trained = load_trained(arguments.ckpt, arguments.config, arguments.overrides)
        model, classes = trained.model.to(ranks.device), trained.classes
        for file in stale:
            file.unlink()
        total = film.expected and -(-film.expected // arguments.every)
        with (
            closing(
                ahead(film_samples(film, arguments.every, trained.config.image_size))
            ) as coming,
            film_writer(out, film, classes, arguments.alpha, labels_folder) as write,
            writing() as later,
        ):
            frames = progress(coming, "predict", ranks, total)
            network = model, frames, ranks.device, options, arguments.bf16, bool(sure.used)
            for sample, labels, probability in predictions(*network):
                later(write, sample["frame"], *sure.keep(labels, probability))
    print(f"{out}: {film.shown} of {film.number} frames shown")
    if film.damaged:
        raise InputError(
            f"{film.damaged} of {film.number} frames of {source} are damaged or missing and were "
            f"left out of {out}; frames after them may look wrong too; copy the film again"
        )


def film_samples(
    film: Film, every: int, image_size: tuple[int, int] | None
) -> Iterator[dict[str, Any]]:
    """Samples as of an `EvaluationSet`, with "frame"."""
    for frame in film.frames(every):
        yield {"frame": frame, **whole_image(frame.pixels, image_size)}


def readable(
    data: EvaluationSet, indices: Iterable[int], unreadable: list[str]
) -> Iterator[dict[str, Any]]:
    """Yield the samples; add the error of an unreadable image to `unreadable`."""
    for index in indices:
        try:
            yield data[index]
        except InputError as error:
            unreadable.append(str(error))


def find_images(source: Path, out: Path) -> dict[str, File]:
    """Name without suffix -> file, in the order of the names."""
    if source.is_file():
        if source.suffix.lower() == ".tar":
            raise InputError(f"{source} is a tar; name its folder, {source.parent}")
        if (out / f"{source.stem}.png").resolve() == source.resolve():
            raise InputError(f"--out {out} would overwrite {source}; give another folder")
        return {source.stem: File(str(source))}
    if not source.is_dir():
        raise InputError(f"no image, folder or film at {source}; name one that exists")
    if out.resolve().is_relative_to(source.resolve()):
        raise InputError(f"--out {out} is inside {source} and would be read as input next time")
    images = list_images(source)
    if not images:
        raise InputError(f"no images (.jpg, .png, ...) in {source} or its folders")
    return images


def parse(argv: list[str]) -> argparse.Namespace:
    result = parser(__doc__, config_required=False)
    add = result.add_argument
    add("input", type=path, help="an image, a folder or a film")
    add("--ckpt", type=path, required=True, help="last.pt of a run, or an official .pth")
    add("--out", type=path, required=True, help="folder for the results; of a film, another film")
    add("--alpha", type=number(1, zero=True), default=0.5, help="of the overlay, 0 to 1")
    add_confidence(result, "OUT/<name>_confidence.png, of a film to FOLDER_confidence")
    add("--every", type=count, default=1, metavar="N", help="of a film, show every N-th frame")
    add("--labels", type=path, metavar="FOLDER", help="of a film, also the class ids of the frames")
    add("--overwrite", action="store_true", help="replace existing files")
    add_options(result)
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
