"""Tars and indexes that are damaged, changed or hostile: refused, with the shard's name."""

import contextlib
import gzip
import io
import json
import lzma
import os
import random
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import prepare_data
from datasets import open_dataset, tar_index
from datasets.files import DuplicateError, File
from utils.safe import tar_file
from utils.safe.errors import InputError, InputWarning
from utils.safe.tar_file import list_tar

REMEDY = "run the same command again if that is intended"


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.full((8, 8, 3), value, np.uint8)
    pixels[0, 0] = 255 - value
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


FILES = {f"{i}.png": png(20 * i) for i in range(4)}


def pack(path: Path, *members: tarfile.TarInfo) -> Path:
    """A tar of FILES and of `members`, without contents."""
    with tarfile.open(path, "w") as tar:
        for name, content in FILES.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for info in members:
            tar.addfile(info)
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, **values: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type = kind
    for key, value in values.items():
        setattr(info, key, value)
    return info


def images(root: Path) -> dict[str, File]:
    return open_dataset("folder", root).images("train")


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (member("../outside.png"), "the name '../outside.png' leaves its folder"),
        (member("/etc/passwd"), "the name '/etc/passwd' leaves its folder"),
        (member("a/../../b.png"), "leaves its folder"),
        (member("a\\b.png"), "leaves its folder"),
        (member("c:b.png"), "leaves its folder"),
        (member("l.png", tarfile.SYMTYPE, linkname="/etc/passwd"), "'l.png' is no plain file"),
        (member("l.png", tarfile.LNKTYPE, linkname="0.png"), "--hard-dereference"),
        (member("l.png", tarfile.CHRTYPE), "is no plain file"),
        (member("l.png", tarfile.FIFOTYPE), "is no plain file"),
        (member("l.png", pax_headers={"GNU.sparse.map": "0,5"}), "is no plain file"),
    ],
    ids=lambda value: str(getattr(value, "name", value))[:40],  # without the object's address
)
def test_members_that_no_data_set_has(tmp_path: Path, wrong, message: str) -> None:
    pack(tmp_path / "train-000000.tar", wrong)
    with pytest.raises(InputError, match="train-000000.tar") as error:
        images(tmp_path)
    assert message in str(error.value)
    assert not (tmp_path / "shards.json").exists()


@pytest.mark.parametrize("size", [-512, 1 << 20, 1 << 62])
def test_sizes_that_lie(tmp_path: Path, size: int) -> None:
    path = pack(tmp_path / "train-000000.tar")
    with tarfile.open(path, "a") as tar:
        tar.fileobj.write(member("big.png", size=size).tobuf(tarfile.GNU_FORMAT))
        tar.offset += 512
    with pytest.raises(InputError, match="train-000000.tar"):
        images(tmp_path)


def test_files_and_headers_beyond_the_limits(tmp_path: Path, monkeypatch) -> None:
    path = pack(tmp_path / "train-000000.tar")
    with pytest.raises(InputError, match=r"'0.png' has \d+ bytes; expected at most 20"):
        list_tar(path, largest=20)
    pack(path, member("a.png", pax_headers={"comment": "x" * 5000}))
    assert len(list_tar(path, 1 << 30)) == 5
    monkeypatch.setattr(tar_file, "_LONGEST", 4096)
    with pytest.raises(InputError, match="a header of 5120 bytes"):
        list_tar(path, 1 << 30)


def test_headers_nested_without_end(tmp_path: Path) -> None:
    chain = member("x", tarfile.XHDTYPE).tobuf(tarfile.USTAR_FORMAT)
    (tmp_path / "train-000000.tar").write_bytes(chain * 3000 + bytes(1024))
    with pytest.raises(InputError, match="is not a readable tar"):
        images(tmp_path)


def test_cut_off_anywhere(tmp_path: Path) -> None:
    path = pack(tmp_path / "train-000000.tar")
    data = path.read_bytes()
    last = max(m.offset + m.length for m in list_tar(path, 1 << 30))
    for end in (0, 1, 511, 512, 600, 1024, 2000, last - 1, last, -(-last // 512) * 512 + 512):
        path.write_bytes(data[:end])
        with pytest.raises(InputError, match=r"train-000000.tar (is|holds)"):
            images(tmp_path)


def test_a_damaged_header_is_not_the_end(tmp_path: Path) -> None:
    path = pack(tmp_path / "train-000000.tar")
    data = bytearray(path.read_bytes())
    data[1024 + 3] ^= 1  # in the name of the second file, to `tarfile` the end
    path.write_bytes(data)
    with pytest.raises(InputError, match="no header and no end mark at byte 1024"):
        images(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda tar: tar + tar, "joined with cat"),
        (gzip.compress, "is compressed; unpack it: gunzip <"),
        (lzma.compress, "is compressed; unpack it: unxz <"),
        (lambda tar: b"not a tar" * 200, "is not a readable tar"),
        (lambda tar: bytes(10240), "holds no files"),
    ],
)
def test_no_tars(tmp_path: Path, content, message: str) -> None:
    path = pack(tmp_path / "train-000000.tar")
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(InputError, match=f"train-000000.tar.*{message}"):
        images(tmp_path)


def test_any_changed_byte_is_an_error_or_harmless(tmp_path: Path) -> None:
    path = pack(tmp_path / "x.tar")
    data, numbers = path.read_bytes(), random.Random(0)
    for _ in range(100):
        changed = bytearray(data)
        for _ in range(numbers.randrange(1, 4)):
            changed[numbers.randrange(len(changed))] = numbers.randrange(256)
        path.write_bytes(changed)
        try:
            found = list_tar(path, 1 << 30)
        except InputError as error:
            assert str(path) in str(error)
        else:
            assert all(0 < m.offset <= len(data) - m.length for m in found)


def change(path: Path, data: bytes) -> None:
    """Another content, of the same or another size, and another time."""
    path.write_bytes(data)
    os.utime(path, (1, 1))


def test_a_shard_that_changed_after_indexing(tmp_path: Path) -> None:
    path = pack(tmp_path / "train-000000.tar")
    before = images(tmp_path)
    data = path.read_bytes()
    for changed, what in ((data, "time"), (data + bytes(512), "size")):
        change(path, changed)
        message = re.escape(f"{path} has changed since this run started (another {what}); {REMEDY}")
        with pytest.raises(InputError, match=message):
            before["0"].read()
    pack(path, member("4.png"))
    change(path, path.read_bytes())
    assert [*images(tmp_path)] == ["0", "1", "2", "3", "4"]
    assert images(tmp_path)["0"].read() == FILES["0.png"]
    path.unlink()
    with pytest.raises(InputError, match="cannot read .*train-000000.tar:0.png"):
        before["0"].read()


def test_shards_are_added_and_removed(tmp_path: Path) -> None:
    pack(tmp_path / "train-000000.tar")
    images(tmp_path)
    with tarfile.open(tmp_path / "train-000001.tar", "w") as tar:
        tar.addfile(member("9.png", size=3), io.BytesIO(b"abc"))
    assert [*images(tmp_path)] == ["0", "1", "2", "3", "9"]
    (tmp_path / "train-000000.tar").unlink()
    assert [*images(tmp_path)] == ["9"]
    index = json.loads((tmp_path / "shards.json").read_text())
    assert [*index["shards"]] == ["train-000001.tar"]


def test_the_same_name_twice(tmp_path: Path, capsys) -> None:
    (tmp_path / "classes.yaml").write_text("classes: [road, car]\n")
    pack(tmp_path / "train-000000.tar")
    pack(tmp_path / "train-000001.tar")
    message = "train-000000.tar:0.png and .*train-000001.tar:0.png have the same name; keep one"
    with pytest.raises(DuplicateError, match=message):
        images(tmp_path)
    with pytest.raises(SystemExit):
        prepare_data.main(["folder", "--root", str(tmp_path), "--check", "--workers", "0"])
    assert len(re.findall("have the same name; keep one", capsys.readouterr().out)) == 4
    (tmp_path / "train-000001.tar").unlink()
    with tarfile.open(tmp_path / "train-000000.tar", "a") as tar:
        tar.addfile(member("0.png", size=3), io.BytesIO(b"abc"))
    (tmp_path / "shards.json").unlink()
    with pytest.raises(DuplicateError, match="train-000000.tar:0.png is there twice"):
        images(tmp_path)


def test_check_reports_damaged_shards_and_images(tmp_path: Path, capsys) -> None:
    (tmp_path / "classes.yaml").write_text("classes: [road, car]\n")
    (tmp_path / "labels.csv").write_text("image,labels\n0,road\n1,car\n2,car\n3,road;car\n")
    path, argv = tmp_path / "train-000000.tar", ["folder", "--root", str(tmp_path), "--check"]
    data = bytearray(pack(path).read_bytes())
    data[list_tar(path, 1 << 30)[2].offset + 30] ^= 255  # in a picture
    path.write_bytes(data)
    for expected in (f"cannot decode {path}:2.png", f"{path} is damaged or cut off"):
        with pytest.raises(SystemExit):
            prepare_data.main([*argv, "--workers", "0"])
        assert expected in capsys.readouterr().out
        path.write_bytes(data[: -(-len(data) // 512) * 512 - 9216])
        (tmp_path / "shards.json").unlink(missing_ok=True)


GOOD = {"stamp": [0, 0], "names": ["a.png"], "offsets": [512], "lengths": [5]}


@pytest.mark.parametrize(
    "change",
    [
        {"names": ["../a.png"]},
        {"names": ["/a.png"]},
        {"names": [""]},
        {"names": [7]},
        {"names": ["a.png", "b.png"]},
        {"names": "a"},
        {"offsets": [0]},
        {"offsets": [10**7]},
        {"offsets": [True]},
        {"lengths": [-1]},
        {"lengths": [1 << 40]},
        {"lengths": [None]},
        {"stamp": [1]},
        {"stamp": ["1", 2]},
    ],
    ids=str,
)
def test_an_index_that_lies(tmp_path: Path, change: dict) -> None:
    status = pack(tmp_path / "train-000000.tar").stat()
    entry = GOOD | {"stamp": [status.st_size, status.st_mtime_ns]}
    index = tmp_path / "shards.json"
    index.write_text(json.dumps({"shards": {"train-000000.tar": entry}}))
    assert [*images(tmp_path)] == ["a"]  # it is used
    index.write_text(json.dumps({"shards": {"train-000000.tar": entry | change}}))
    with pytest.raises(InputError, match="shards.json is not an index of shards; remove it"):
        images(tmp_path)


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{}", b"\xff\xfe", b"[" * 100_000, b'{"shards":1}']
)
def test_no_index(tmp_path: Path, content: bytes) -> None:
    pack(tmp_path / "train-000000.tar")
    (tmp_path / "shards.json").write_bytes(content)
    with pytest.raises(InputError, match="shards.json is not an index of shards; remove it"):
        images(tmp_path)


def test_an_index_with_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    status = pack(tmp_path / "train-000000.tar").stat()
    entry = GOOD | {"stamp": [status.st_size, status.st_mtime_ns]}
    index = tmp_path / "shards.json"
    index.write_text(json.dumps({"shards": {"train-000000.tar": entry, "x" * 999 + ".tar": entry}}))
    assert [*images(tmp_path)] == ["a"]
    assert [*json.loads(index.read_text())["shards"]] == ["train-000000.tar"]


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "train-000000.tar")
    with pytest.raises(InputError, match="cannot read .*train-000000.tar: not a regular file"):
        images(tmp_path)


def test_processes_that_index_at_the_same_time(tmp_path: Path) -> None:
    for i in range(4):
        with tarfile.open(tmp_path / f"{i}.tar", "w") as tar:
            tar.addfile(member(f"{i}.png", size=3), io.BytesIO(b"abc"))
    wait, start = os.pipe()
    ranks = []
    for _ in range(8):
        if not (rank := os.fork()):
            os.close(start)
            os.read(wait, 1)  # until all exist
            right = False
            with contextlib.suppress(BaseException):
                right = [f.read() for f in images(tmp_path).values()] == [b"abc"] * 4
            os._exit(0 if right else 1)
        ranks.append(rank)
    os.close(start)
    assert [os.waitpid(rank, 0)[1] for rank in ranks] == [0] * 8
    assert [*images(tmp_path)] == ["0", "1", "2", "3"]
    assert sorted(path.name for path in tmp_path.glob("shards*")) == ["shards.json"]


def test_a_folder_that_cannot_be_written(tmp_path: Path, monkeypatch) -> None:
    """Each start reads what the index lacks, also where a copy has changed the times of shards."""
    path = pack(tmp_path / "train-000000.tar")
    images(tmp_path)
    change(path, path.read_bytes())

    def refuse(path: Path) -> None:
        raise OSError(30, "Read-only file system", str(path))

    monkeypatch.setattr(tar_index, "replacing", refuse)
    for _ in range(2):
        with pytest.warns(InputWarning, match="shards.json can't be written"):
            assert images(tmp_path)["3"].read() == FILES["3.png"]
