"""prepare_data.py --check: every planted fault of a faulty data set, and nothing in a clean one."""

import io
import json
import re
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny
import yaml
from own_data import png_of_16_bits
from PIL import Image
from rights import modes_bind, ordinary_user

import prepare_data
from datasets import open_dataset
from datasets.doctor import check as doctor
from datasets.labels import load_classes
from utils.config import load_config
from utils.safe.errors import InputError

SIZE = (48, 64)
CLASSES = ("road", "building", "car", "person")


class Data:
    """A data set under construction: images, masks and labels of the splits train and val."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.count = 0
        self.labels: list[tuple[str, list[object]]] = []  # as pairs: an image may stand twice
        (root / "classes.yaml").write_text(f"classes: [{', '.join(CLASSES)}]\n")

    def image(self, name: str, split: str = "train") -> Path:
        return self.root / f"images/{split}/{name}.png"

    def mask(self, name: str, split: str = "train") -> Path:
        return self.root / f"masks/{split}/{name}.png"

    def add(self, name: str, split: str = "train", size: tuple[int, int] = SIZE) -> str:
        """A good image with a mask of all classes, and its labels."""
        self.count += 1
        rng = np.random.default_rng(self.count)
        tiny.save(self.image(name, split), rng.integers(0, 256, (*size, 3), dtype=np.uint8))
        ids = rng.integers(0, len(CLASSES), size, dtype=np.uint8)
        ids[0, :4], ids[1] = range(len(CLASSES)), 255
        tiny.save(self.mask(name, split), ids)
        self.labels.append((name, [*range(len(CLASSES))]))
        return name

    def relabel(self, name: str, ids: list[object] | None) -> None:
        """Other labels; None: no entry."""
        kept = [pair for pair in self.labels if pair[0] != name]
        self.labels = kept if ids is None else [*kept, (name, ids)]

    def write_labels(self) -> Path:
        rows = ",\n".join(f"{json.dumps(name)}: {json.dumps(ids)}" for name, ids in self.labels)
        path = self.root / "labels.json"
        path.write_text(f"{{{rows}}}")
        return path


@pytest.fixture
def data(tmp_path: Path) -> Data:
    """Clean, with a config of a smaller crop."""
    result = Data(tmp_path)
    for i in range(4):
        result.add(f"clean{i}")
        result.add(f"tested{i}", "val")
    without(result, "clean3", 3)  # where all images have all classes, a note is due
    result.relabel("clean3", [0, 1, 2])
    values = load_config("configs/tiny_cpu.yaml").to_dict() | {"crop_size": [40, 40]}
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(values))
    return result


def check(data: Data, *arguments: object) -> list[str]:
    """The arguments of prepare_data.py."""
    command = ["folder", "--root", data.root, "--check", "--config", data.root / "config.yaml"]
    return [*map(str, (*command, *arguments))]


def run(
    data: Data, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, list[str]]:
    """Exit status and lines of the check with the labels."""
    code = 0
    try:
        with ordinary_user():
            prepare_data.main(check(data, "--labels", data.write_labels(), *arguments))
    except SystemExit as stopped:
        code = stopped.code
    return code, capsys.readouterr().out.splitlines()


# ---------------------------------------------------------------- the faults


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def encoded(array: np.ndarray, kind: str, mode: str | None = None, **options: object) -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(array)
    image = image.convert(mode) if mode else image
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def pixels(path: Path) -> np.ndarray:
    return np.array(Image.open(path))


def as_jpeg(data: Data, name: str, **options: object) -> Path:
    """The image as JPEG in the place of the PNG."""
    content = encoded(pixels(data.image(name)), "JPEG", **options)
    data.image(name).unlink()
    path = data.image(name).with_suffix(".jpg")
    path.write_bytes(content)
    return path


def turned(data: Data, name: str, orientation: int) -> None:
    tags = Image.Exif()
    tags[0x0112] = orientation
    as_jpeg(data, name, exif=tags)


def alpha(path: Path) -> np.ndarray:
    return np.dstack([pixels(path), np.full(SIZE, 100, np.uint8)])


def far_ids(data: Data, name: str) -> None:
    tiny.save(data.mask(name), np.full(SIZE, 9, np.uint8))
    data.relabel(name, [0])


def without(data: Data, name: str, k: int) -> None:
    """No pixel of class k in the mask."""
    ids = pixels(data.mask(name))
    ids[ids == k] = 255
    tiny.save(data.mask(name), ids)


def unlink_image(data: Data, name: str) -> None:
    data.image(name).unlink()
    data.relabel(name, None)


def dangling(data: Data, name: str) -> None:
    data.image(name).unlink()
    data.image(name).symlink_to("moved_away.png")


def locked(data: Data, name: str) -> None:
    data.image(name).chmod(0)


def leaked(data: Data, name: str) -> None:
    data.add(f"{name}_again", "val")
    Image.open(data.image(name)).save(data.image(f"{name}_again", "val"), compress_level=1)


def twice_in_train(data: Data, name: str) -> None:
    data.add(f"{name}_again")
    data.image(f"{name}_again").write_bytes(data.image(name).read_bytes())


def in_both_splits(data: Data, name: str) -> None:
    data.add(name, "val")
    data.labels.pop()


def another_folder(data: Data, name: str) -> None:
    for i in ("u", "v", "w"):
        tiny.save(data.image(i, "minival"), np.zeros((*SIZE, 3), np.uint8))


class Fault(NamedTuple):
    """One planted fault: what it is done to (an image of train), and its line."""

    plant: Callable[[Data, str], object]
    line: str  # {0}: the name of the image


PROBLEMS = {
    "cut_png": Fault(lambda d, n: cut(d.image(n)), "decode .*train/{0}.png: .*truncated; copy"),
    "cut_jpeg": Fault(lambda d, n: cut(as_jpeg(d, n)), "decode .*train/{0}.jpg: .*trunc.*; copy"),
    "empty": Fault(lambda d, n: d.image(n).write_bytes(b""), "/{0}.png: 0 bytes.*; copy or"),
    "html": Fault(lambda d, n: d.image(n).write_text("<html>"), "/{0}.png: 6 bytes.*; copy or"),
    "locked": Fault(locked, "read .*/{0}.png: Permission denied; get permission"),
    "dangling": Fault(dangling, "/{0}.png: it is a link to moved_away.png, .*; restore or"),
    "mask_size": Fault(
        lambda d, n: tiny.save(d.mask(n), pixels(d.mask(n))[:40]),
        r"masks/train/{0}.png is 40x64 \(height x width\), its image 48x64; make the mask again",
    ),
    "mask_colour": Fault(
        lambda d, n: tiny.save(d.mask(n), pixels(d.image(n))),
        "masks/train/{0}.png: expected one channel .* found RGB; turn colours into class ids",
    ),
    "mask_alpha": Fault(
        lambda d, n: d.mask(n).write_bytes(encoded(pixels(d.mask(n)), "PNG", "LA")),
        "masks/train/{0}.png: expected one channel .* found LA; turn",
    ),
    "mask_ids": Fault(far_ids, r"masks/train/{0}.png holds the ids \[9\]; expected 0 to . or 255"),
    "mask_wide": Fault(
        lambda d, n: tiny.save(d.mask(n), np.full(SIZE, 300, np.uint16)),
        "masks/train/{0}.png: class ids run from 0 to 255, found up to 300",
    ),
    "mask_jpeg": Fault(
        lambda d, n: d.mask(n).write_bytes(encoded(pixels(d.mask(n)), "JPEG")),
        "masks/train/{0}.png: JPEG changes label numbers; masks must be PNG",
    ),
    "mask_cut": Fault(lambda d, n: cut(d.mask(n)), "decode .*masks/train/{0}.png: .*; copy"),
    "no_mask": Fault(
        lambda d, n: d.mask(n).unlink(), "images/train/{0}.png has no mask; add it or"
    ),
    "no_image": Fault(unlink_image, "masks/train/{0}.png has no image in 'train'; add it or"),
    "two_endings": Fault(
        lambda d, n: d.image(n).with_suffix(".bmp").write_bytes(d.image(n).read_bytes()),
        "/{0}.bmp and .*/{0}.png differ in the ending only; keep one",
    ),
    "both_splits": Fault(
        in_both_splits, "'{0}' is in two splits, .*train/{0}.png and .*val/{0}.png: .*; rename or"
    ),
    "leak": Fault(
        leaked, "val/{0}_again.png shows the same pixels as .*train/{0}.png of 'train'.*; remove"
    ),
    "turned": Fault(
        lambda d, n: turned(d, n, 6),
        "masks/train/{0}.png has the size .*/{0}.jpg, .* orientation 6; turn the mask too",
    ),
    "no_labels": Fault(
        lambda d, n: d.relabel(n, None), r"\('{0}'\) has no image-level labels; add them or"
    ),
    "no_class": Fault(
        lambda d, n: d.relabel(n, []), "labels of '{0}' are empty; add what it shows"
    ),
    "ghost": Fault(
        lambda d, n: d.relabel(f"{n}_typo", [0]),
        "labels for '{0}_typo', but there is no such image .*; add",
    ),
    "far_label": Fault(
        lambda d, n: d.relabel(n, [0, 9]),
        "labels.json: image '{0}': expected a class id .* found 9",
    ),
    "far_name": Fault(
        lambda d, n: d.relabel(n, [0, "bus"]), "labels.json: image '{0}': expected .* found 'bus'"
    ),
    "far_kind": Fault(
        lambda d, n: d.relabel(n, [True]), "labels.json: image '{0}': expected .* found True"
    ),
    "labelled_twice": Fault(
        lambda d, n: d.labels.append((n, [0])),
        "labels.json: the image '{0}' is listed twice; keep one",
    ),
    "empty_split": Fault(
        lambda d, n: (d.root / "images/test").mkdir(), "no images in .*images/test; expected"
    ),
}
WARNINGS = {
    "deep": Fault(
        lambda d, n: d.image(n).write_bytes(png_of_16_bits(pixels(d.image(n)) * np.uint16(257))),
        "/{0}.png has 16 bits a channel.*; save it with 8",
    ),
    "alpha": Fault(
        lambda d, n: d.image(n).write_bytes(encoded(alpha(d.image(n)), "PNG")),
        "/{0}.png has transparent pixels.*; save it without alpha",
    ),
    "cmyk": Fault(
        lambda d, n: d.image(n).write_bytes(encoded(pixels(d.image(n)), "JPEG", "CMYK")),
        "/{0}.png is CMYK, .*; save it as RGB",
    ),
    "grey": Fault(
        lambda d, n: d.image(n).write_bytes(encoded(pixels(d.image(n)), "PNG", "L")),
        "/{0}.png is grey, .*; check that",
    ),
    "black": Fault(
        lambda d, n: tiny.save(d.image(n), np.zeros((*SIZE, 3), np.uint8)),
        r"/{0}.png has the colour \[0, 0, 0\] everywhere; look at it",
    ),
    "small": Fault(
        lambda d, n: d.labels.pop() and d.add(n, size=(20, 30)),
        r"/{0}.png is 20x30 .* smaller than crop_size 40x40 .*; leave it out or",
    ),
    "copy": Fault(
        twice_in_train, "/{0}_again.png shows the same pixels as .*/{0}.png; remove one of them"
    ),
    "upside_down": Fault(
        lambda d, n: turned(d, n, 3), "/{0}.jpg is turned by EXIF orientation 3; check that its"
    ),
    "unlabelled": Fault(
        lambda d, n: tiny.save(d.mask(n), np.full(SIZE, 255, np.uint8)) or d.relabel(n, [0]),
        "masks/train/{0}.png has no labelled pixel: .*; check it",
    ),
    "no_pixels": Fault(
        lambda d, n: without(d, n, 2), "labels of '{0}' have car, its mask has no pixel .*; correct"
    ),
    "no_label": Fault(
        lambda d, n: d.relabel(n, [0, 1, 2]),
        r"labels of '{0}' lack person, its mask has \d+ pix.*;",
    ),
    "case": Fault(
        lambda d, n: d.add(n.upper()), "/{1}.png and .*/{0}.png are the same file .* case; rename"
    ),
    "stray": Fault(
        lambda d, n: (d.root / "images/train/Thumbs.db").write_bytes(b"x"),
        "images/train/Thumbs.db not read: .* of a split; check that nothing is missing",
    ),
    "stray_picture": Fault(
        lambda d, n: d.image(n).with_name("more.gif").write_bytes(b"x"),
        r"images/train has 1 file that is not read \(more.gif\)",
    ),
    "stray_folder": Fault(
        another_folder,
        "images/minival with 3 .png files is not read: it is not a split",
    ),
}


@pytest.fixture
def faulty(data: Data) -> dict[str, str]:
    """The data set with all faults, each in an image of its own: name of a fault -> its line."""
    lines = {}
    for name, fault in (PROBLEMS | WARNINGS).items():
        if name == "locked" and not modes_bind():
            continue
        fault.plant(data, data.add(name))
        lines[name] = fault.line.format(name, name.upper())
    (data.root / "classes.yaml").write_text(f"classes: [{', '.join(CLASSES)}, tram]\n")
    return lines | {"unseen": "no training image has tram: .*; add images, or"}


def find(lines: list[str], expected: dict[str, str]) -> dict[str, list[str]]:
    """The lines of each fault."""
    return {name: [line for line in lines if re.search(e, line)] for name, e in expected.items()}


def test_every_planted_fault_is_named_once_and_nothing_else(data, faulty, capsys):
    assert len(faulty) >= 40
    code, lines = run(data, capsys, "--workers", 0)
    found = find(lines, faulty)
    assert {name: len(hits) for name, hits in found.items()} == dict.fromkeys(faulty, 1), lines
    for name, (line,) in found.items():
        assert line.startswith("warning: ") == (name not in PROBLEMS), line
    rest = [line for line in lines if [line] not in found.values()]
    problems = sum(name in PROBLEMS for name in faulty)
    number = len([*data.root.glob("images/train/*.*"), *data.root.glob("images/val/*.png")]) - 3
    summary = f"{number} images checked, {problems} problems, {len(faulty) - problems} warnings"
    assert rest == [summary]  # of the files of train 2 are strays and 1 is there with two endings
    assert code == 1


@pytest.mark.parametrize("name", [*PROBLEMS, *WARNINGS])
def test_each_fault_by_itself(data, capsys, name):
    if name == "locked" and not modes_bind():
        pytest.skip("nothing keeps this user from passing over file modes")
    fault = (PROBLEMS | WARNINGS)[name]
    fault.plant(data, data.add(name))
    code, lines = run(data, capsys, "--workers", 0)
    assert code == int(name in PROBLEMS) and len(lines) == 2, lines
    assert re.search(fault.line.format(name, name.upper()), lines[0])
    assert lines[1].endswith("0 problems, 1 warnings" if name in WARNINGS else "1 problems")


def test_nothing_in_a_clean_set(data, capsys):
    assert run(data, capsys, "--workers", 0) == (0, ["8 images checked, 0 problems"])
    labels = data.root / "new.json"
    prepare_data.main(check(data, "--workers", 0, "--out", labels))
    assert len(json.loads(labels.read_text())) == 8


def test_a_note_where_few_images_have_the_same_few_labels(data, capsys):
    data.add("clean3")
    data.relabel("clean3", [0, 1, 2, 3])
    code, lines = run(data, capsys, "--workers", 0)
    assert code == 0 and lines[1:] == ["8 images checked, 0 problems"]
    assert lines[0].startswith("note: all 4 training images have the same labels (every class)")


def test_nothing_in_clean_cityscapes(tmp_path, capsys):
    """labelIds with ids that training ignores, three splits, one of them without masks."""
    tiny.make_cityscapes(tmp_path)
    arguments = ["cityscapes", "--root", str(tmp_path), "--workers", "0", "--check"]
    arguments += ["--splits", "train", "val", "test"]
    prepare_data.main(arguments)
    assert capsys.readouterr().out == "13 images checked, 0 problems\n"


def test_processes_change_nothing(data, faulty, capsys):
    assert run(data, capsys, "--workers", 2) == run(data, capsys, "--workers", 0)


def test_a_bar_shows_how_far_it_is(data, capsys, monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    shown = Terminal()
    monkeypatch.setattr(sys, "stderr", shown)
    run(data, capsys, "--workers", 0)
    assert re.search(r"checking: 100%.* 8/8 ", shown.getvalue())


def test_each_file_is_read_once(data, monkeypatch, capsys):
    read = []
    whole = doctor.File.read
    monkeypatch.setattr(doctor.File, "read", lambda f: read.append(f.path) or whole(f))
    run(data, capsys, "--workers", 0)
    assert len(read) == len({*read}) == 16


def test_labels_are_not_written_while_something_is_wrong(data, capsys):
    cut(data.image("clean0"))
    with pytest.raises(SystemExit):
        prepare_data.main(check(data, "--workers", 0, "--out", data.root / "new.json"))
    assert not (data.root / "new.json").exists()


def test_labels_of_a_csv_file(data, capsys):
    """With the number of the line."""
    path = data.root / "l.csv"
    rows = [f"{name},{' '.join(map(str, ids))}" for name, ids in data.labels]
    path.write_text("\n".join(["image,labels", *rows[:5], "x,9", *rows[5:], f"{rows[0]},1", "y,0"]))
    with pytest.raises(SystemExit):
        prepare_data.main(check(data, "--workers", 0, "--labels", path))
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split(";")[0] for line in lines[:-1]) == [
        f"{path}, line 11: expected 2 cells, found 3",
        f"{path}: image 'x': expected a class id 0..3 or a name of the class file, found 9",
        "there are labels for 'y', but there is no such image (ids look like 'clean0')",
    ]
    path.write_text("picture;labels\n")
    with pytest.raises(InputError, match="the first line must be"):
        prepare_data.main(check(data, "--workers", 0, "--labels", path))


def test_many_of_a_kind_are_told_as_one(data, capsys):
    for i in range(15):
        data.add(f"grey{i}")
        Image.open(data.image(f"grey{i}")).convert("L").save(data.image(f"grey{i}"))
        data.add(f"cut{i}")
        cut(data.image(f"cut{i}"))
    code, lines = run(data, capsys, "--workers", 0)
    assert sum("is grey" in line for line in lines) == 10
    assert lines[-2] == "warning: and 5 more like this (grey)"
    assert lines[-1] == "38 images checked, 15 problems, 15 warnings" and code == 1
    assert sum("truncated" in line for line in lines) == 15


def test_ground_truth_of_a_whole_split(data, capsys):
    """White saved as 255, labels with other numbers than the masks, and a single class."""
    for i in range(4):
        ids = np.where(pixels(data.mask(f"tested{i}", "val")) == 0, 0, 255).astype(np.uint8)
        tiny.save(data.mask(f"tested{i}", "val"), ids)
        data.relabel(f"tested{i}", [1])
    code, lines = run(data, capsys, "--workers", 0)
    assert code == 0
    for expected in (
        "ground truth of val holds only the values 0 and 255: .* building, save it as 1",
        "no image of val has a class that is both in its labels and in its mask",
    ):
        assert sum(bool(re.search(f"^warning: .*{expected}", line)) for line in lines) == 1, lines
    (data.root / "classes.yaml").write_text("classes: [road]\n")
    code, lines = run(data, capsys, "--workers", 0)
    assert code == 1 and sum("there is only one class" in line for line in lines) == 1


def test_masks_that_nothing_reads_are_told_once(data, capsys):
    (data.root / "masks").rename(data.root / "annotations")
    code, lines = run(data, capsys, "--workers", 0)
    assert code == 0 and lines[1:] == ["8 images checked, 0 problems"]
    assert re.search(
        r"^note: .*annotations has 8 \.png files not read: ground truth belongs in", lines[0]
    )


def test_what_is_enough_for_a_label(data, capsys):
    ids = np.zeros(SIZE, np.uint8)
    ids[0, :5] = 1
    tiny.save(data.mask("clean0"), ids)
    data.relabel("clean0", [0])
    assert run(data, capsys, "--workers", 0)[1][0].startswith(
        "warning: the labels of 'clean0' lack"
    )
    assert run(data, capsys, "--workers", 0, "--min-pixels", 6)[1] == [
        "8 images checked, 0 problems"
    ]


def test_names_can_not_forge_lines(data, capsys):
    name = data.add("a\n0 problems\x1b[2J\udcff")
    cut(data.image(name))
    code, lines = run(data, capsys, "--workers", 0)
    assert code == 1 and len(lines) == 2
    assert r"a\n0 problems\x1b[2J\udcff.png" in lines[0]


def test_linked_folders_are_looked_into(data, capsys, tmp_path):
    images = tmp_path / "images/train"
    images.rename(tmp_path / "elsewhere")
    images.mkdir()
    (images / "linked").symlink_to(tmp_path / "elsewhere")
    assert sorted(open_dataset("folder", tmp_path).images("train")) == [
        f"linked/clean{i}" for i in range(4)
    ]


def test_a_worker_that_is_killed_is_one_message(data, monkeypatch):
    """As for want of memory."""
    dataset = open_dataset("folder", data.root)
    monkeypatch.setattr(dataset, "read_ground_truth", Suicide(), raising=False)
    classes = load_classes(data.root / "classes.yaml")
    with pytest.raises(InputError, match=r"one of the 1 processes was ended.*--workers"):
        doctor.check_dataset(dataset, ["train"], classes, None, 1, None, workers=1)


class Suicide:
    def __call__(self, file: object) -> None:
        import os
        import signal

        os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("name", ["../../out", "/etc/out", "a/../../../out"])
def test_names_in_a_zip_stay_in_its_folder(tmp_path, name):
    """Results are written under these names."""
    with zipfile.ZipFile(tmp_path / "leftImg8bit_trainvaltest.zip", "w") as archive:
        archive.writestr(f"leftImg8bit/train/{name}_leftImg8bit.png", b"x")
    with pytest.raises(InputError, match=r"trainvaltest.zip: .*out_leftImg8bit.png' leaves its"):
        open_dataset("cityscapes", tmp_path)
