"""Films: datasets/films.py, datasets/film_writer.py and predict.py on films made by PyAV."""

import csv
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import weakref
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from tiny_run import make_run

import predict
from datasets import film_writer as writer
from datasets import films
from datasets.film_writer import check_film_outputs, film_writer
from datasets.films import Film, is_film, open_film
from datasets.labels import ClassTable
from utils.safe.errors import InputError, run_script
from utils.visualize import overlay, stacked, wide_legend

av = pytest.importorskip("av")
SIZE, RATE, COUNT = (48, 64), 10, 6


def pixels(number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Blocks of random colours."""
    small = np.random.default_rng(number).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((size[1], size[0]), Image.Resampling.NEAREST)
    return np.asarray(image)


def make_film(path: Path, count: int = COUNT, size=SIZE, codec="libx264", **options) -> Path:
    form = {"yuv": "yuv420p", "aspect": Fraction(1)} | options
    with av.open(str(path), "w", options=form.get("container", {})) as container:
        stream = container.add_stream(codec, rate=RATE, options={"bf": "0"})
        stream.height, stream.width, stream.pix_fmt = *size, form["yuv"]
        stream.codec_context.sample_aspect_ratio = form["aspect"]
        for i in range(count):
            frame = av.VideoFrame.from_ndarray(pixels(i, size), format="rgb24")
            frame.pts, frame.time_base = i, Fraction(1, RATE)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def read_film(path: Path) -> SimpleNamespace:
    """frames (N,H,W,3), times in seconds, duration and rate, by PyAV itself."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = [*container.decode(stream)]
        return SimpleNamespace(
            frames=np.stack([frame.to_ndarray(format="rgb24") for frame in frames]),
            times=[float(frame.time) for frame in frames],
            duration=float(stream.duration * stream.time_base),
            rate=stream.average_rate,
        )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_film(tmp_path_factory.mktemp("film") / "drive.mp4")


def predicted(run: Path, source: Path, out: Path, *arguments: object) -> None:
    ckpt = str(run / "warmup/warmup.pt")
    command = [source, "--ckpt", ckpt, "--device", "cpu", "--out", out, *arguments]
    predict.main([str(part) for part in command])


def array(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


# ---------------------------------------------------------------- reading and writing


def test_frames_numbers_and_times(film) -> None:
    expected = read_film(film).frames
    with open_film(film) as opened:
        assert opened.rate == RATE and opened.expected == COUNT
        found = [*opened.frames()]
        assert [frame.number for frame in found] == [*range(COUNT)]
        seconds = [float(frame.time * opened.time_base) for frame in found]
        np.testing.assert_allclose(seconds, np.arange(COUNT) / RATE)
        assert float(opened.end * opened.time_base) == COUNT / RATE
    assert np.array_equal(np.stack([frame.pixels for frame in found]), expected)
    with open_film(film) as opened:
        assert [frame.number for frame in opened.frames(4)] == [0, 4]
        assert (opened.shown, opened.read, opened.damaged) == (2, COUNT, 0)


def fake_film(frames: list[tuple[int | None, int | None]]) -> Film:
    """A film whose decoder gives frames of these times and durations, in tenths of a second."""
    context = SimpleNamespace(height=2, width=2)
    stream = SimpleNamespace(
        average_rate=Fraction(10),
        time_base=Fraction(1, 10),
        frames=0,
        codec_context=context,
        sample_aspect_ratio=None,
    )
    film = Film(Path("fake.mp4"), None, stream)
    image = np.zeros((2, 2, 3), np.uint8)
    film._decoded = lambda: (
        SimpleNamespace(
            pts=pts, duration=duration, height=2, width=2, rotation=0, to_ndarray=lambda **_: image
        )
        for pts, duration in frames
    )
    return film


def test_times_grow_whatever_the_film_says() -> None:
    def times(*frames: tuple[int | None, int | None]) -> tuple[list[int], int]:
        film = fake_film([*frames])
        return [frame.time for frame in film.frames()], film.end

    assert times((7, 1), (8, 1), (10, 2)) == ([0, 1, 3], 5)  # they start at 0
    assert times((None, None), (None, None), (None, 3)) == ([0, 1, 2], 5)
    assert times((0, 1), (5, 1), (2, 1), (-4, 1), (9, 1)) == ([0, 5, 6, 7, 9], 10)


@pytest.mark.parametrize("degrees, corner", [(0, (0, 0)), (-90, (0, -1)), (90, (-1, 0))])
def test_films_of_phones_are_turned_upright(film, tmp_path, degrees, corner) -> None:
    """-90: as filmed upright by most phones; the display matrix turns it clockwise."""
    data = bytearray(film.read_bytes())
    matrix = data.index(b"tkhd") + 4 + 40  # behind version, flags, times, track, layer, volume
    one, cos, sin = 1 << 16, round(np.cos(np.radians(degrees))), round(np.sin(np.radians(degrees)))
    values = (cos * one, -sin * one, 0, sin * one, cos * one, 0, 0, 0, 1 << 30)
    assert struct.unpack(">9i", data[matrix : matrix + 36])[8] == 1 << 30
    data[matrix : matrix + 36] = struct.pack(">9i", *values)
    (tmp_path / "turned.mp4").write_bytes(data)
    with open_film(tmp_path / "turned.mp4") as opened:
        frame = next(opened.frames())
    plain = read_film(film).frames[0]
    assert frame.pixels.shape == (plain if degrees == 0 else plain.transpose(1, 0, 2)).shape
    assert np.array_equal(frame.pixels[corner], plain[0, 0])  # upper left before


def small_classes() -> ClassTable:
    names, palette = ("road", "sky"), np.array([[128, 64, 128], [70, 130, 180]], np.uint8)
    return ClassTable(names, tuple((name,) for name in names), palette)


@pytest.mark.parametrize("ending, codec", [("mkv", "libx264"), ("mov", "mpeg4")])
def test_odd_sizes_other_endings_and_another_encoder(tmp_path, monkeypatch, ending, codec) -> None:
    monkeypatch.setattr(writer, "_ENCODERS", {codec: writer._ENCODERS[codec]})
    source = make_film(tmp_path / "odd.mkv", size=(47, 63), codec="ffv1", yuv="bgr0")
    out, classes = tmp_path / f"out.{ending}", small_classes()
    mask = np.repeat(np.array([[0], [1], [255]], np.uint8), (16, 16, 15), 0).repeat(63, 1)
    with open_film(source) as opened, film_writer(out, opened, classes, 0.5, None) as write:
        for frame in opened.frames():
            write(frame, mask, None)
    found = read_film(out) if ending == "mov" else None
    with av.open(str(out)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    strip = wide_legend(classes.names, classes.palette, 63, 12)
    assert len(frames) == COUNT and frames[0].shape == stacked(pixels(0, (47, 63)), strip).shape
    assert frames[0].shape[0] % 2 == frames[0].shape[1] % 2 == 0
    assert found is None or (found.duration == COUNT / RATE and found.rate == RATE)
    for i, frame in enumerate(frames):
        shown = overlay(pixels(i, (47, 63)), mask, classes.palette)
        difference = np.abs(frame[:47, :63].astype(int) - shown).mean()
        assert difference < 16, f"frame {i} differs by {difference:.1f} grey levels"


def written(film: Path, out: Path) -> Path:
    """What film_writer makes of a film, with the frames as they are."""
    with open_film(film) as opened, film_writer(out, opened, small_classes(), 0, None) as write:
        for frame in opened.frames():
            write(frame, np.zeros(frame.pixels.shape[:2], np.uint8), None)
    return out


def of_ffmpeg(film: Path, said: str = "") -> np.ndarray:
    """The first frame as the ffmpeg program shows it; said: its matrix, else by its tags."""
    how = f"scale=in_color_matrix={said}:in_range=tv" if said else "null"
    command = ["ffmpeg", "-v", "error", "-i", str(film), "-vf", how, "-frames:v", "1"]
    command += ["-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    with av.open(str(film)) as container:
        context = container.streams.video[0].codec_context
        return np.frombuffer(data, np.uint8).reshape(context.height, context.width, 3)


@pytest.mark.parametrize(
    "codec, ending", [("libx264", "mp4"), ("libx264", "mkv"), ("mpeg4", "mp4")]
)
def test_colours_are_tagged_and_players_show_them(tmp_path, monkeypatch, codec, ending) -> None:
    monkeypatch.setattr(writer, "_ENCODERS", {codec: writer._ENCODERS[codec]})
    colors = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [244, 35, 232]]], np.uint8)
    image = colors.repeat(48, 0).repeat(16, 1)
    monkeypatch.setitem(make_film.__globals__, "pixels", lambda *_: image)
    source = make_film(tmp_path / "a.mkv", count=1, codec="ffv1", yuv="bgr0")
    out = written(source, tmp_path / f"out.{ending}")
    with av.open(str(out)) as container:
        frame = next(container.decode(video=0))
    tags = frame.colorspace, frame.color_primaries, frame.color_trc, frame.color_range
    assert tags == (1, 1, 1, 1)  # BT.709 three times, limited range
    shown = {"PyAV": frame.to_ndarray(format="rgb24")}
    if shutil.which("ffmpeg"):
        shown |= {"by its tags": of_ffmpeg(out), "as BT.709": of_ffmpeg(out, "bt709")}
    for player, pixels_shown in shown.items():
        difference = np.abs(pixels_shown[24, 8:64:16].astype(int) - colors[0]).max()
        assert difference < 8, f"{player}: {difference} grey levels"


def test_colours_are_read_as_a_film_says(tmp_path) -> None:
    """What film_writer wrote and tagged comes back as the colours that it was given."""
    first = written(make_film(tmp_path / "a.mkv", codec="ffv1", yuv="bgr0"), tmp_path / "b.mp4")
    with open_film(first) as opened:
        found = next(opened.frames()).pixels[: SIZE[0], : SIZE[1]]
    assert np.abs(found.astype(int) - pixels(0)).mean() < 10


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_pixels_keep_their_shape(tmp_path, monkeypatch, codec) -> None:
    monkeypatch.setattr(writer, "_ENCODERS", {codec: writer._ENCODERS[codec]})
    source = make_film(tmp_path / "wide.mp4", count=2, aspect=Fraction(16, 11))
    with av.open(str(written(source, tmp_path / "out.mp4"))) as container:
        assert container.streams.video[0].sample_aspect_ratio == Fraction(16, 11)
    assert films.upright_aspect(Fraction(16, 11), -90) == Fraction(11, 16)
    assert films.upright_aspect(Fraction(16, 11), 180) == Fraction(16, 11)
    assert films.upright_aspect(None, 0) == films.upright_aspect(Fraction(-1), 90) == 1


def test_mpeg4_takes_the_fine_times_of_ts_films(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(writer, "_ENCODERS", {"mpeg4": writer._ENCODERS["mpeg4"]})
    source = make_film(tmp_path / "drive.ts", codec="mpeg2video")
    with open_film(source) as opened:
        assert opened.time_base == Fraction(1, 90000)
    found = read_film(written(source, tmp_path / "out.mp4"))
    np.testing.assert_allclose(found.times, np.arange(COUNT) / RATE, atol=1e-5)
    assert found.duration == pytest.approx(COUNT / RATE, abs=1e-4)


# ---------------------------------------------------------------- predict.py


@pytest.fixture(scope="module")
def drawn(run, film, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("drawn")
    predicted(run, film, folder / "out.mp4", "--labels", folder / "labels", "--confidence")
    return folder


def test_film_with_labels_and_confidence(run, film, drawn, tmp_path) -> None:
    found, source = read_film(drawn / "out.mp4"), read_film(film)
    assert len(found.frames) == COUNT and found.rate == source.rate
    assert found.duration == source.duration == COUNT / RATE
    np.testing.assert_allclose(found.times, source.times)
    names = [f"{i:06d}.png" for i in range(COUNT)]
    for folder, more in (("labels", ["meta.json"]), ("labels_confidence", [])):
        written = sorted(path.name for path in (drawn / folder).iterdir())
        assert written == [*names, "frames.csv", *more]
        with (drawn / folder / "frames.csv").open(newline="") as file:
            rows = [*csv.DictReader(file)]
        assert [row["file"] for row in rows] == names
        np.testing.assert_allclose([float(row["seconds"]) for row in rows], source.times)
    assert sorted(path.name for path in drawn.iterdir()) == [
        "labels",
        "labels_confidence",
        "out.mp4",
    ]
    # The same frames as images have the same labels, confidence and, but for the film's coding,
    # overlays.
    (tmp_path / "frames").mkdir()
    for name, image in zip(names, source.frames, strict=True):
        Image.fromarray(image).save(tmp_path / "frames" / name)
    predicted(run, tmp_path / "frames", tmp_path / "images", "--confidence")
    for name, shown in zip(names, found.frames, strict=True):
        of_image = tmp_path / "images" / name
        assert (drawn / "labels" / name).read_bytes() == of_image.read_bytes()
        sure = of_image.with_stem(f"{of_image.stem}_confidence")
        assert (drawn / "labels_confidence" / name).read_bytes() == sure.read_bytes()
        image = array(of_image.with_stem(f"{of_image.stem}_overlay"))
        assert np.abs(shown[: SIZE[0], : SIZE[1]].astype(int) - image).mean() < 10


def test_every_fourth_frame_is_shown_four_times_as_long(run, film, drawn, tmp_path, capsys) -> None:
    out = tmp_path / "out.mp4"
    predicted(run, film, out, "--every", 4, "--labels", tmp_path / "labels")
    assert "out.mp4: 2 of 6 frames shown" in capsys.readouterr().out
    found = read_film(out)
    np.testing.assert_allclose(found.times, [0, 0.4])
    assert found.duration == pytest.approx(COUNT / RATE)
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == [
        "000000.png",
        "000004.png",
        "frames.csv",
        "meta.json",
    ]
    for name in ("000000.png", "000004.png"):
        assert (tmp_path / "labels" / name).read_bytes() == (drawn / "labels" / name).read_bytes()


def damaged(film: Path, to: Path, number: int) -> Path:
    """A copy whose packet of a frame holds other bytes, behind the first eight."""
    with av.open(str(film)) as container:
        packet = [packet for packet in container.demux(video=0) if packet.size][number]
        place, size = packet.pos, packet.size
    data = bytearray(film.read_bytes())
    noise = np.random.default_rng(1).integers(0, 256, size - 8, dtype=np.uint8)
    data[place + 8 : place + size] = noise.tobytes()
    to.write_bytes(data)
    return to


def test_a_damaged_frame_is_left_out_and_counted(run, film, drawn, tmp_path) -> None:
    source = damaged(film, tmp_path / "damaged.mp4", 2)
    with pytest.raises(InputError, match=r"1 of 6 frames of .*damaged\.mp4 are damaged or missing"):
        predicted(run, source, tmp_path / "out.mp4", "--labels", tmp_path / "labels")
    names = sorted(path.name for path in (tmp_path / "labels").glob("*.png"))
    assert names == [f"{i:06d}.png" for i in (0, 1, 3, 4, 5)]
    for name in names[:2]:  # later ones were predicted from it
        assert (tmp_path / "labels" / name).read_bytes() == (drawn / "labels" / name).read_bytes()
    found = read_film(tmp_path / "out.mp4")
    assert len(found.frames) == 5 and found.duration == COUNT / RATE
    np.testing.assert_allclose(found.times, [0, 0.1, 0.3, 0.4, 0.5])  # the second stays for two


def test_a_frame_flagged_as_damaged_is_counted_once(tmp_path) -> None:
    source = make_film(tmp_path / "a.avi", codec="mpeg4")
    with open_film(damaged(source, tmp_path / "b.avi", 3)) as opened:
        numbers = [frame.number for frame in opened.frames()]
    assert opened.damaged == 1 and numbers == [0, 1, 2, 4, 5]


def test_a_film_that_ends_early(tmp_path) -> None:
    whole = make_film(tmp_path / "whole.mp4", container={"movflags": "faststart"}).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    with open_film(tmp_path / "cut.mp4") as opened:
        shown = len([*opened.frames()])
    assert 0 < shown < COUNT and opened.damaged == COUNT - shown == opened.number - shown


def test_few_frames_are_held_however_long_the_film_is(run, tmp_path, monkeypatch) -> None:
    living: set[int] = set()
    most: list[int] = []

    def turned(image: np.ndarray, degrees: float) -> np.ndarray:
        frame = np.array(image)
        living.add(number := len(most))
        most.append(len(living))
        weakref.finalize(frame, living.discard, number)
        return frame

    monkeypatch.setattr(films, "upright", turned)
    source = make_film(tmp_path / "long.mp4", count=40)
    predicted(run, source, tmp_path / "out.mp4")
    assert len(most) == 40
    # Two ahead and one coming, one in the network, two that wait to be written, one being written.
    assert max(most) <= 8
    assert living == set()


def test_ctrl_c_leaves_no_half_film(run, film, tmp_path, monkeypatch) -> None:
    save, count = writer.save_mask, []

    def interrupted(*arguments: object) -> None:
        save(*arguments)
        count.append(1)
        if len(count) == 2:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(writer, "save_mask", interrupted)
    with pytest.raises(KeyboardInterrupt):
        predicted(run, film, tmp_path / "out.mp4", "--labels", tmp_path / "labels")
    assert [path.name for path in tmp_path.iterdir()] == ["labels"]
    assert not [*tmp_path.rglob("*tmp*")]


# ---------------------------------------------------------------- bad input

Make = Callable[[Path, Path], object]  # (folder, a good film) -> the command's input


def text(content: str | bytes, name: str = "bad.mp4") -> Make:
    def make(folder: Path, _: Path) -> Path:
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
        return folder / name

    return make


def sound(folder: Path, _: Path) -> Path:
    with av.open(str(folder / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.float32), "fltp", "mono")
        frame.sample_rate, frame.pts = 8000, 0
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return folder / "sound.mp4"


def playlist(folder: Path, film: Path) -> Path:
    """It names another film, which must not be opened."""
    lines = ("#EXTM3U", "#EXT-X-TARGETDURATION:9", "#EXTINF:1.0,", str(film), "#EXT-X-ENDLIST")
    return text("\n".join(lines))(folder, film)


def huge(folder: Path, _: Path) -> Path:
    """An AVI whose header says 13000 x 14000 pixels."""
    path = make_film(folder / "huge.avi", count=2, codec="rawvideo", yuv="bgr24")
    data = bytearray(path.read_bytes())
    place = data.index(b"strf") + 12
    assert struct.unpack("<ii", data[place : place + 8])[0] == SIZE[1]
    data[place : place + 8] = struct.pack("<ii", 14000, -13000)
    path.write_bytes(data)
    return path


def two_sizes(folder: Path, _: Path) -> Path:
    parts = [make_film(folder / f"{i}.ts", size=size) for i, size in enumerate((SIZE, (64, 96)))]
    return text(b"".join(part.read_bytes() for part in parts), "both.ts")(folder, parts[0])


def half(folder: Path, film: Path) -> Path:
    data = film.read_bytes()
    return text(data[: len(data) // 2])(folder, film)


def good(folder: Path, film: Path) -> Path:
    return film


def folder_of_images(folder: Path, _: Path) -> Path:
    (folder / "images").mkdir()
    Image.fromarray(pixels(0)).save(folder / "images/a.png")
    return folder / "images"


BAD = {
    "half a film": (half, (), r"bad\.mp4 is damaged, or no film"),
    "a text": (text("not a film"), (), r"bad\.mp4 is damaged, or no film"),
    "an empty file": (text(""), (), r"bad\.mp4 is damaged, or no film"),
    "a playlist": (playlist, (), r"bad\.mp4 is damaged, or no film"),
    "an image": (text(b"\x89PNG\r\n", "a.png"), (), r"a\.png is damaged, or no film"),
    "odd letters": (text("?", "a\x07.mp4"), (), r"a\\x07\.mp4 is damaged"),
    "only sound": (sound, (), r"sound\.mp4 has no video, only audio"),
    "no frames": (text("YUV4MPEG2 W64 H48 F10:1 Ip A1:1 C420jpeg\n", "a.y4m"), (), "none of its"),
    "huge frames": (huge, (), r"more than \d+ pixels.*scale=2048"),
    "two sizes": (two_sizes, (), r"size of frame 6 is 64x96 .*those before 48x64"),
    "another ending": (good, ("--out", "out.gif"), r"--out out\.gif: .*drive_overlay\.mp4"),
    "no ending": (good, ("--out", "out"), r"--out out: of a film"),
    "a folder": (good, ("--out", "folder.mp4"), r"--out folder\.mp4: of a film"),
    "there already": (good, ("--out", "old.mp4"), r"old\.mp4 exists.*--overwrite"),
    "labels there": (good, ("--labels", "old"), r"000003\.png exists.*--overwrite"),
    "my images": (good, ("--labels", "labels"), r"000003\.png exists and is not listed in labels"),
    "my images, overwrite": (
        good,
        ("--labels", "labels", "--overwrite"),
        r"predict\.py did not write it; name another folder for --labels",
    ),
    "confidence": (good, ("--confidence",), r"--labels FOLDER: it goes to FOLDER_confidence"),
    "no frame": (good, ("--every", "0"), "--every: expected a whole number of at least 1"),
    "images": (folder_of_images, (), r"images is no film; --labels, --every and --out"),
    "images, every": (folder_of_images, ("--every", "2", "--out", "new"), "images is no film"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_message_and_no_film(run, film, tmp_path, monkeypatch, capsys, name) -> None:
    make, arguments, message = BAD[name]
    monkeypatch.chdir(tmp_path)
    Path("old.mp4").write_bytes(b"mine")
    Path("folder.mp4").mkdir()
    for folder in ("labels", "old"):
        Path(folder).mkdir()
        Path(folder, "000003.png").write_bytes(b"mine")
    Path("old/frames.csv").write_text("file,seconds\n000003.png,0.3\n")
    source = make(tmp_path, film)
    before = sorted(tmp_path.rglob("*"))
    ckpt = str(run / "warmup/warmup.pt")
    command = [str(source), "--ckpt", ckpt, "--device", "cpu", "--out", "out.mp4", *arguments]
    monkeypatch.setattr(sys, "argv", ["predict.py", *command])
    with pytest.raises(SystemExit) as ended:
        run_script(predict.main)
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and shown.count("error: ") == 1 and "Traceback" not in shown
    assert re.search(message, shown), shown
    assert sorted(tmp_path.rglob("*")) == before
    assert Path("old.mp4").read_bytes() == Path("labels/000003.png").read_bytes() == b"mine"


def test_a_film_is_not_written_onto_itself(film) -> None:
    with pytest.raises(InputError, match="would overwrite"):
        check_film_outputs(film, film, None, False, True)


def test_overwrite_removes_the_label_maps_of_another_film_and_nothing_else(film, tmp_path) -> None:
    labels = tmp_path / "labels"
    labels.mkdir()
    for name in ("000001.png", "1234567.png", "mine.png", "001.png"):
        (labels / name).write_bytes(b"old")
    lines = ["file,seconds", "000001.png,0.1", "../mine.png,0.2", "mine.png,0", "1234567.png", "00"]
    (labels / "frames.csv").write_text("\n".join(lines))
    check = (film, tmp_path / "out.mp4", labels, False, True)
    names = [path.name for path in check_film_outputs(*check)]
    assert names == ["000001.png", "1234567.png", "frames.csv"]
    (labels / "000002.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"000002\.png exists and is not listed in .*frames\.csv"):
        check_film_outputs(*check)
    (labels / "frames.csv").write_bytes(bytes(range(256)) * 9)
    with pytest.raises(InputError, match=r"000001\.png exists and is not listed"):
        check_film_outputs(*check)


def test_a_second_run_replaces_the_first(run, film, tmp_path) -> None:
    arguments = film, tmp_path / "out.mp4", "--labels", tmp_path / "labels"
    predicted(run, *arguments, "--confidence")
    sure = tmp_path / "labels_confidence"
    (sure / "000009.png").write_bytes(b"mine")
    predicted(run, *arguments, "--every", 4, "--overwrite")
    assert [path.name for path in sure.iterdir()] == ["000009.png"]  # the rest was of old labels
    names = sorted(path.name for path in (tmp_path / "labels").iterdir())
    assert names == ["000000.png", "000004.png", "frames.csv", "meta.json"]


def test_several_processes_are_refused(run, film, tmp_path, monkeypatch) -> None:
    ranks = SimpleNamespace(world_size=2, rank=0, is_main=True, device="cpu")
    monkeypatch.setattr(predict, "setup", lambda _: ranks)
    with pytest.raises(InputError, match="a single process reads a film; .*without torchrun"):
        predicted(run, film, tmp_path / "out.mp4")


def test_the_package_is_asked_for_politely(film, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with (
        pytest.raises(InputError, match=r"a film needs a package .*: pip install av"),
        open_film(film),
    ):
        pass


def test_films_are_known_by_ending_or_content(film, tmp_path) -> None:
    (tmp_path / "drive.dat").write_bytes(film.read_bytes())
    (tmp_path / "a.png").write_bytes(b"\x89PNG")
    assert is_film(film) and is_film(tmp_path / "drive.dat")
    assert not is_film(tmp_path / "a.png") and not is_film(tmp_path) and not is_film(Path("x.mp4"))


@pytest.mark.parametrize("name, codec", [("a.mp4", "libx264"), ("b.avi", "mpeg4")])
def test_random_damage_gives_a_film_or_one_message(tmp_path, name, codec) -> None:
    whole, endings = make_film(tmp_path / name, codec=codec).read_bytes(), set()
    bad, out, mask = tmp_path / f"bad_{name}", tmp_path / "out.mp4", np.zeros(SIZE, np.uint8)
    for seed in range(20):
        rng, data = np.random.default_rng(seed), bytearray(whole)
        for place in rng.integers(0, len(data) if seed % 2 else 900, 8):
            data[place] = rng.integers(0, 256)
        bad.write_bytes(data[: rng.integers(10, len(data))] if seed % 5 == 0 else data)
        out.unlink(missing_ok=True)
        try:
            with (
                open_film(bad) as opened,
                film_writer(out, opened, small_classes(), 0.5, None) as write,
            ):
                for frame in opened.frames(2):
                    write(frame, np.resize(mask, frame.pixels.shape[:2]), None)
            endings.add("a film")
            assert out.stat().st_size
        except InputError:
            endings.add("a message")
            assert not out.exists()
    assert endings == {"a film", "a message"} and not [*tmp_path.glob("*.tmp")]


def test_a_full_disk_is_named(film, tmp_path) -> None:
    """On a file system of 200 KB: the message names the film, not the unfinished file."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    noise = np.random.default_rng(0).integers(0, 256, (480, 640, 3), dtype=np.uint8)
    mask = np.zeros((480, 640), np.uint8)
    try:
        with (
            pytest.raises(OSError, match=r"No space left.*disk/out\.mp4'$"),
            open_film(film) as opened,
            film_writer(disk / "out.mp4", opened, small_classes(), 0, None) as write,
        ):
            for frame in opened.frames():
                write(frame._replace(pixels=noise), mask, None)
        assert [*disk.iterdir()] == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
