"""Reading films by PyAV (FFmpeg's libraries), frame by frame: only a few are held at a time.

Times are whole numbers in units of the film's `time_base`, and start at 0. PyAV's documentation:
https://pyav.basswood-io.com/docs/stable/
"""

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from utils.safe.errors import InputError, needs_package
from utils.safe.file_kinds import kind_of

_ENDINGS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".mts", ".m2ts")
_ENDINGS += (".ts", ".wmv", ".flv", ".3gp", ".vob", ".ogv", ".mxf", ".y4m")
# FFmpeg would also open playlists, which lead to other files and to the network.
_FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpegts,mpeg,asf,flv,ogg,mxf,yuv4mpegpipe"
_MOST_PIXELS = 2 * (Image.MAX_IMAGE_PIXELS or 1 << 26)  # of a frame, as of an image


class Frame(NamedTuple):
    """number in the film, from 0; time; pixels uint8 (H,W,3) RGB, upright."""

    number: int
    time: int
    pixels: np.ndarray


def upright(pixels: np.ndarray, degrees: float) -> np.ndarray:
    """A frame turned counterclockwise by a multiple of 90 degrees, as its film says."""
    return np.ascontiguousarray(np.rot90(pixels, round(degrees / 90)))


def upright_aspect(aspect: Fraction | None, degrees: float) -> Fraction:
    """Width of a pixel / its height in an `upright` frame; 1 where the film does not say it."""
    if aspect is None or aspect <= 0:
        return Fraction(1)
    return 1 / aspect if round(degrees / 90) % 2 else aspect


def is_film(path: Path) -> bool:
    """Whether a file is a film, by its ending or its first bytes."""
    if not path.is_file():
        return False
    if path.suffix.lower() in _ENDINGS:
        return True
    with path.open("rb") as file:
        kind = kind_of(file.read(4096))
    return kind is not None and kind.what.startswith("a film")


def pyav() -> Any:
    """The package av. Raises InputError where it is not installed."""
    with needs_package("a film", "av"):
        import av
    av.logging.set_level(None)  # FFmpeg's own messages; what matters is reported
    return av


@contextmanager
def open_film(path: Path) -> Iterator["Film"]:
    """Context with the film at `path`.

    Raises InputError where it is damaged, has no video, or frames that are too large.
    """
    av = pyav()
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    options["max_pixels"] = str(_MOST_PIXELS)
    try:  # absolute, as a relative name may look like an address
        container = av.open(str(path.absolute()), options=options, metadata_errors="replace")
    except av.error.FFmpegError as error:
        raise InputError(
            f"{path} is damaged, or no film that PyAV reads ({error.strerror or error}); copy it "
            "again, or convert it: ffmpeg -i FILM new.mp4"
        ) from None
    with container:
        is_cover = av.stream.Disposition.attached_pic
        streams = [s for s in container.streams.video if not s.disposition & is_cover]
        if not streams:
            kinds = sorted({stream.type for stream in container.streams})
            raise InputError(f"{path} has no video, only {', '.join(kinds) or 'nothing'}")
        if streams[0].codec_context is None:
            raise InputError(
                f"{path}: PyAV has no decoder for its video, or it is damaged; copy it again, or "
                "convert it: ffmpeg -i FILM new.mp4"
            )
        yield Film(path, container, streams[0])


class Film:
    """The first video stream of a film; to be read once, by `frames`."""

    def __init__(self, path: Path, container: Any, stream: Any) -> None:
        """Read the header. Raises InputError where frames are larger than images may be."""
        self.path, self.container, self.stream = path, container, stream
        self.rate = stream.average_rate or stream.guessed_rate or Fraction(25)  # frames a second
        self.time_base = stream.time_base or 1 / self.rate
        self.aspect = Fraction(1)  # width of a pixel / its height, upright; known with a frame
        self.expected = stream.frames or None  # number of frames, where the file says it
        self.read = 0  # frames that were decoded so far
        self.damaged = 0  # frames that could not be
        self.shown = 0  # frames that `frames` has yielded
        self.end = 0  # of the last frame so far: its time and its duration
        height, width = stream.codec_context.height, stream.codec_context.width
        if not 0 < height * width <= _MOST_PIXELS:  # FFmpeg may say 0x0 of larger ones
            raise InputError(
                f"{path}: its frames are damaged or have more than {_MOST_PIXELS} pixels (found "
                f"{height}x{width}, height x width); make them smaller: ffmpeg -i FILM -vf "
                "scale=2048:-2 new.mp4"
            )

    def frames(self, every: int = 1) -> Iterator[Frame]:
        """Decode the film; yield the frames with the numbers 0, `every`, 2 `every`, ...

        Damaged frames are left out and counted, and so are, at the end, those that the file lists
        but lacks. Raises InputError where the size of the frames changes.
        """
        usual = max(1, round(1 / (self.rate * self.time_base)))  # duration of a frame
        first, time, size = None, 0, None
        for frame in self._decoded():
            if size not in (None, (frame.height, frame.width)):
                raise InputError(
                    f"{self.path}: the size of frame {self.number} is "
                    f"{frame.height}x{frame.width} (height x width), of those before "
                    f"{size[0]}x{size[1]}; make all alike: ffmpeg -i FILM new.mp4"
                )
            if size is None:
                size, first = (frame.height, frame.width), frame.pts or 0
                self.aspect = upright_aspect(self.stream.sample_aspect_ratio, frame.rotation)
            else:  # times may be missing or damaged; a film's must grow
                time = max(time + 1, self.end if frame.pts is None else frame.pts - first)
            self.end = time + (frame.duration or usual)
            number = self.number
            self.read += 1
            if number % every == 0:
                self.shown += 1
                pixels = frame.to_ndarray(format="rgb24")
                yield Frame(number, time, upright(pixels, frame.rotation))
        if self.expected:
            self.damaged = max(self.damaged, self.expected - self.read)

    @property
    def number(self) -> int:
        """The number, from 0, of the next frame in the film."""
        return self.read + self.damaged

    def _decoded(self) -> Iterator[Any]:
        error, failed = pyav().error.FFmpegError, None
        packets = self.container.demux(self.stream)
        while True:
            try:
                packet = next(packets, None)
            except error:  # the file can't be read further
                self.damaged += 1
                return
            if packet is None:
                return
            if packet.is_discard and self.expected:  # cut out of the film, without re-encoding
                self.expected -= 1
            try:
                found = packet.decode()
            except error:
                self.damaged, failed = self.damaged + 1, packet.pts
                continue
            for frame in found:
                if not frame.is_corrupt:
                    yield frame
                elif failed is None or frame.pts != failed:  # else it has been counted
                    self.damaged += 1
