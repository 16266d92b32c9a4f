"""Writing what predict.py makes of a film: another film by PyAV, and a folder of label maps."""

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from datasets.films import Film, Frame, pyav
from datasets.labels import ClassTable
from datasets.mask_folder import confidence_folder
from utils.safe.errors import InputError
from utils.safe.files import check_folder, replacing
from utils.visualize import overlay, save_image, save_mask, stacked, wide_legend

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}  # by the ending
# Nearly lossless; without frames that refer to later ones, so that each has its own duration.
_ENCODERS = {
    "libx264": {"preset": "veryfast", "crf": "18", "bf": "0"},
    "mpeg4": {"qmin": "1", "qmax": "3", "bf": "0"},
}
_NUMBER = re.compile(r"\d{6,}\.png")  # names of label maps: the number of the frame


def check_film_outputs(
    film: Path, out: Path, labels: Path | None, confidence: bool, overwrite: bool
) -> list[Path]:
    """Label maps and confidence of an earlier film, to be removed: there are some to `overwrite`.

    labels: folder for label maps, or None. Raises InputError where an output has a wrong name,
    exists or can't be written.
    """
    if out.suffix.lower() not in FORMATS or out.is_dir():
        raise InputError(
            f"--out {out}: of a film another one is written; end the name with "
            f"{', '.join(FORMATS)}, for example --out {film.stem}_overlay.mp4"
        )
    if out.resolve() == film.resolve():
        raise InputError(f"--out {out} would overwrite {film}; give another name")
    if confidence and labels is None:
        raise InputError(
            "--confidence of a film needs --labels FOLDER: it goes to FOLDER_confidence"
        )
    check_folder(out.parent, "--out")
    folders = [] if labels is None else [labels, confidence_folder(labels)][: 1 + confidence]
    for folder in folders:
        check_folder(folder, "--labels")
    old = [file for folder in folders if folder.is_dir() for file in sorted(folder.iterdir())]
    old = [file for file in old if _NUMBER.fullmatch(file.name)]
    existing = [out] * out.exists() + old
    if existing and not overwrite:
        raise InputError(
            f"{existing[0]} exists; name another output, or --overwrite to replace the film and "
            "the label maps"
        )
    return old


@contextmanager
def film_writer(
    path: Path, film: Film, classes: ClassTable, alpha: float, labels: Path | None
) -> Iterator[Callable[[Frame, np.ndarray, np.ndarray | None], None]]:
    """Context with write(frame, mask, confidence) for the predictions (H,W) of frames of `film`.

    Writes a film of overlays above the legend to `path` and, in a folder `labels`, the masks; their
    confidence, where there is one, beside it. The film appears at the end; an error leaves none.
    Raises InputError at the end where no frame has been written.
    """

    @functools.cache
    def legend_of(width: int) -> np.ndarray:
        return wide_legend(classes.names, classes.palette, width, size=max(12, width // 80))

    with _encoder(path, film) as encode:

        def write(frame: Frame, mask: np.ndarray, confidence: np.ndarray | None) -> None:
            shown = overlay(frame.pixels, mask, classes.palette, alpha)
            encode(stacked(shown, legend_of(shown.shape[1])), frame.time)
            name = f"{frame.number:06d}.png"
            if labels is not None:
                save_mask(labels / name, mask, classes.palette)
            if confidence is not None:
                save_image(confidence_folder(labels) / name, confidence)

        yield write
        if not film.shown:
            raise InputError(f"{film.path}: none of its frames can be decoded; copy it again")


@contextmanager
def _encoder(path: Path, film: Film) -> Iterator[Callable[[np.ndarray, int], None]]:
    """Context with encode(picture, time): a film at `path`, there at the end unless an error comes.

    Pictures are uint8 (H,W,3), all of one size with even sides. Each is shown from its time until
    that of the next, the last one until the end of `film`.
    """
    av = pyav()
    codec = next(name for name in _ENCODERS if name in av.codecs_available)
    with (
        replacing(path.absolute()) as temporary,  # a relative name may look like an address
        _plain_errors(film.path),
        av.open(str(temporary), "w", format=FORMATS[path.suffix.lower()]) as container,
    ):
        stream = container.add_stream(codec, film.rate, options=_ENCODERS[codec])
        stream.pix_fmt, stream.codec_context.time_base = "yuv420p", film.time_base
        last: list[tuple[np.ndarray, int]] = []  # the picture that waits for the time of the next
        durations: dict[int, int] = {}

        def mux(frame: Any) -> None:
            for packet in stream.encode(frame):
                packet.duration = durations.pop(packet.pts)
                container.mux(packet)

        def finish(end: int) -> None:
            """Encode the last picture, shown until `end`."""
            picture, start = last.pop()
            if not stream.codec_context.is_open:
                stream.height, stream.width = picture.shape[:2]
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = start, film.time_base
            durations[start] = end - start
            mux(frame)

        def encode(picture: np.ndarray, time: int) -> None:
            if last:
                finish(time)
            last.append((picture, time))

        yield encode
        finish(film.end)
        mux(None)


@contextmanager
def _plain_errors(film: Path) -> Iterator[None]:
    """Raise PyAV's errors as OSErrors of Python, whose file name `replacing` can set; others as
    InputError: what is written comes from `film`."""
    try:
        yield
    except pyav().error.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror) from None
        raise InputError(
            f"no film can be made from {film}, whose times or sizes may be damaged "
            f"({error.strerror}); convert it first: ffmpeg -i FILM new.mp4"
        ) from None
