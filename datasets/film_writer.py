"""Writing what predict.py makes of a film: another film by PyAV, and a folder of label maps.

The film is converted to BT.709 of limited range and says so in its tags, so that all players show
the colours of the overlay: https://trac.ffmpeg.org/wiki/colorspace
"""

import functools
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from datasets.films import Film, Frame, pyav
from datasets.labels import ClassTable
from datasets.mask_folder import confidence_folder
from datasets.prediction_folder import META, write_class_names
from utils.safe.errors import InputError
from utils.safe.files import check_folder, replacing
from utils.visualize import overlay, save_image, save_mask, stacked, wide_legend

FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}  # by the ending
# Nearly lossless; without frames that refer to later ones, so that each has its own duration.
_ENCODERS = {
    "libx264": {"preset": "veryfast", "crf": "18", "bf": "0"},
    "mpeg4": {"qmin": "1", "qmax": "3", "bf": "0"},
}
_FINEST = 65535  # denominator of a time base of MPEG-4
_BT709, _LIMITED = 1, 1  # AVCOL_SPC_BT709, _PRI_ and _TRC_ alike; AVCOL_RANGE_MPEG
_NUMBER = re.compile(r"\d{6,}\.png")  # names of label maps: the number of the frame
RECORD = "frames.csv"  # in a folder of label maps: the files that predict.py wrote, and their times


def check_film_outputs(
    film: Path, out: Path, labels: Path | None, confidence: bool, overwrite: bool
) -> list[Path]:
    """Label maps and confidence of an earlier film, to be removed; none without `overwrite`.

    labels: folder for label maps, or None. Raises InputError where an output has a wrong name,
    exists or can't be written, and where a folder has images of such names that the RECORD lacks.
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
    old = [file for folder in folders for file in _earlier(folder)]
    if labels is not None and not confidence:  # that of earlier label maps would not fit new ones
        old += _earlier(confidence_folder(labels), foreign_too=True)
    existing = [out] * out.exists() + old
    if existing and not overwrite:
        raise InputError(
            f"{existing[0]} exists; name another output, or --overwrite to replace the film and "
            "the label maps"
        )
    return old


def _earlier(folder: Path, foreign_too: bool = False) -> list[Path]:
    """The label maps of an earlier film in a folder, its RECORD and META.

    Raises InputError where others have such names, or META is of other files, unless there may be
    `foreign_too`.
    """
    record, found = folder / RECORD, []
    if folder.is_dir():
        found = [file for file in sorted(folder.iterdir()) if _NUMBER.fullmatch(file.name)]
    try:
        lines = record.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        lines = None
    ours = {line.partition(",")[0] for line in lines or ()}
    foreign = [file for file in found if file.name not in ours]
    if foreign and not foreign_too:
        raise InputError(
            f"{foreign[0]} exists and is not listed in {record}, so predict.py did not write it; "
            "name another folder for --labels"
        )
    meta = folder / META
    if lines is None:
        if meta.exists() and not foreign_too:
            raise InputError(
                f"{meta} exists and is not of a film; name another folder for --labels"
            )
        return []
    return [*(file for file in found if file.name in ours), record, *[meta] * meta.exists()]


@contextmanager
def film_writer(
    path: Path, film: Film, classes: ClassTable, alpha: float, labels: Path | None
) -> Iterator[Callable[[Frame, np.ndarray, np.ndarray | None], None]]:
    """Context with write(frame, mask, confidence) for the predictions (H,W) of frames of `film`.

    Writes a film of overlays above the legend to `path` and, in a folder `labels`, the masks with
    META; their confidence, where there is one, beside it; in both folders a RECORD. The film
    appears at the end; an error leaves none. Raises InputError at the end where no frame has been
    written.
    """

    @functools.cache
    def legend_of(width: int) -> np.ndarray:
        return wide_legend(classes.names, classes.palette, width, size=max(12, width // 80))

    @functools.cache  # with the first label map: a film without any leaves no META
    def name_classes() -> None:
        write_class_names(labels, classes.names)

    with _encoder(path, film) as encode:

        def write(frame: Frame, mask: np.ndarray, confidence: np.ndarray | None) -> None:
            shown = overlay(frame.pixels, mask, classes.palette, alpha)
            encode(stacked(shown, legend_of(shown.shape[1])), frame.time)
            if labels is not None:
                name_classes()
                save_mask(_listed(labels, frame, film), mask, classes.palette)
            if confidence is not None:
                save_image(_listed(confidence_folder(labels), frame, film), confidence)

        yield write
        if not film.shown:
            raise InputError(f"{film.path}: none of its frames can be decoded; copy it again")


def _listed(folder: Path, frame: Frame, film: Film) -> Path:
    """The file of a frame in a folder, after a line in its RECORD: name and time in seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    path, record = folder / f"{frame.number:06d}.png", folder / RECORD
    head = "" if record.exists() else "file,seconds\n"
    with record.open("a", encoding="utf-8") as file:
        file.write(f"{head}{path.name},{float(frame.time * film.time_base):.6f}\n")
    return path


@contextmanager
def _encoder(path: Path, film: Film) -> Iterator[Callable[[np.ndarray, int], None]]:
    """Context with encode(image, time): a film at `path`, there at the end unless an error comes.

    Images are uint8 (H,W,3), all of one size with even sides. Each is shown from its time until
    that of the next, the last one until the end of `film`.
    """
    av = pyav()
    codec = next(name for name in _ENCODERS if name in av.codecs_available)
    time_base = film.time_base
    if codec == "mpeg4" and time_base.denominator > _FINEST:  # as of .ts films: 1/90000
        time_base = Fraction(1, 60000)  # whole numbers for the usual rates
    with (
        replacing(path.absolute()) as temporary,  # a relative name may look like an address
        _plain_errors(film.path, codec),
        av.open(str(temporary), "w", format=FORMATS[path.suffix.lower()]) as container,
    ):
        stream = container.add_stream(codec, film.rate, options=_ENCODERS[codec])
        stream.pix_fmt, context = "yuv420p", stream.codec_context
        context.time_base = time_base
        context.colorspace = context.color_primaries = context.color_trc = _BT709
        context.color_range = _LIMITED
        last: list[tuple[np.ndarray, int]] = []  # the image that waits for the time of the next
        durations: dict[int, int] = {}

        def mux(frame: Any) -> None:
            for packet in stream.encode(frame):
                packet.duration = durations.pop(packet.pts)
                container.mux(packet)

        def finish(end: int) -> None:
            """Encode the last image, shown until `end`, in units of `time_base`."""
            image, start = last.pop()
            if not context.is_open:  # by now `film` has been read as far as this image
                stream.height, stream.width = image.shape[:2]
                context.sample_aspect_ratio = film.aspect
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
                format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
            )
            frame.pts, frame.time_base = start, time_base
            durations[start] = end - start
            mux(frame)

        def at(time: int) -> int:
            """A time of `film` in units of `time_base`, later than that of the last image."""
            rounded = round(time * film.time_base / time_base)
            return max(rounded, last[0][1] + 1) if last else rounded

        def encode(image: np.ndarray, time: int) -> None:
            start = at(time)
            if last:
                finish(start)
            last.append((image, start))

        yield encode
        finish(at(film.end))
        mux(None)


@contextmanager
def _plain_errors(film: Path, codec: str) -> Iterator[None]:
    """Raise PyAV's errors as OSErrors of Python, whose file name `replacing` can set; others as
    InputError: what is written comes from `film`."""
    try:
        yield
    except pyav().error.FFmpegError as error:
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror) from None
        raise InputError(
            f"the encoder {codec} can't make a film of the frames of {film}, whose times or sizes "
            f"may be damaged ({error.strerror}); convert it first: ffmpeg -i FILM new.mp4"
        ) from None
