"""tests/fuzz: that it finds faults and shows them again; and the faults that it has found."""

import contextlib
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.fuzz import __main__ as fuzz
from tests.fuzz import reading as reader
from tests.fuzz.checks import DEEP, check_target, check_yaml_bomb
from tests.fuzz.inputs import copied
from tests.fuzz.reading import Fault, Target, read
from utils import run
from utils.safe.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # torch's, of odd tensors
TARGETS = {
    name: target
    for part, make in fuzz.PARTS.items()
    if part != "experiments"
    for name, target in make().items()
}


@pytest.mark.parametrize("name", TARGETS)
def test_good_files_are_read_and_no_damaged_one_is_a_fault(name: str, reading: Path) -> None:
    check_target(name, TARGETS[name], reading)


# ---------------------------------------------------------------- the tool itself


def faulty(path: Path) -> None:
    content = path.read_bytes()
    if content == b"refuse":
        raise InputError("no")
    if b"\xff" in content:
        raise KeyError("a fault")


def test_a_fault_is_found_once_made_small_and_shown_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    made = {"labels-made": Target(".bin", faulty, [b"good", b"refuse"], (b"\xff",))}
    monkeypatch.setattr(fuzz, "PARTS", {"labels": lambda: made})
    with pytest.raises(SystemExit, match="1"):
        fuzz.main(["--minutes", "0.03", "--out", str(tmp_path)])
    shown = capsys.readouterr().out
    assert shown.count("KeyError in tests/trust/test_fuzz.py:") == 1
    assert " 1 kinds of faults" in shown and " 0 read" not in shown
    (file,) = tmp_path.iterdir()
    assert file.name.startswith("labels-made.") and f"--again {file}" in shown
    assert file.read_bytes() == b"\xff"  # nothing is left that could be left out
    with pytest.raises(SystemExit, match="1"):
        fuzz.main(["--again", str(file)])
    assert "KeyError: 'a fault'" in capsys.readouterr().err
    file.write_bytes(b"refuse")
    fuzz.main(["--again", str(file)])
    assert capsys.readouterr().out == "refused\n"
    with pytest.raises(InputError, match="expected the name of a target in front"):
        fuzz.main(["--again", str(file.with_name("other.bin"))])
    with pytest.raises(InputError, match="--only: expected starts of"):
        fuzz.main(["--only", "x"])


def test_what_hangs_or_takes_all_memory_is_a_fault(
    reading: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang(path: Path) -> None:
        while True:
            with contextlib.suppress(Exception):
                pass

    monkeypatch.setattr(reader, "SECONDS", 0.1)
    monkeypatch.setattr(reader, "MEMORY", 1 << 16)
    with pytest.raises(Fault, match=r"more than 0\.1 s"):
        read("x", Target("", hang, []), b"", reading)
    grown: list[bytes] = []
    with pytest.raises(Fault, match="more than"):
        read("x", Target("", lambda p: grown.append(b"x" * (2 << 30)), []), b"", reading)


# ---------------------------------------------------------------- what it has found, once each

TEXTS = {
    "labels-json": [DEEP, b'{"a": ' * 3000, b'{"a": [%s]}' % (b"9" * 5000), b'{"a": ["\xd9\xa3"]}'],
    "labels-csv": [
        b"image,labels\na,%s\n" % (b"9" * 5000),
        b'image,labels\na,"%s' % (b"x" * 140000),
    ],
    "labels-panoptic": [
        DEEP,
        b"[]",
        b'{"categories": [{"id": 0, "name": null}], "annotations": []}',
        b'{"categories": [{"id": -999, "name": "x"}], "annotations": []}',
        b'{"categories": [{"id": 7, "name": "road"}], "annotations": [{"file_name": "a", '
        b'"segments_info": [{"id": 99999999, "category_id": 7}]}]}',
    ],
    "yaml-config": [b"!!int a", b"!!bool ", b"a: 2001-99-99", b"[" * 2000, b"!!timestamp x"],
    "yaml-classes": [b"classes: &a [*a]", b'classes: ["\\ud800"]', b'classes: ["\\0"]'],
    "yaml-set": [b"lr=!!int ", b"lr=0x" + b"f" * 5000, b"steps=[[*a]]", b"lr=" + b"[" * 2000],
    "log-metrics": [
        DEEP + b"}",
        b'{"step": [2]}\n{"step": 4}\n',
        b'{"step": null}\n{"step": 4}\n',
        b'{"step": 0.5}\n',
        b'{"step": 2} {}\n',
        b'{"step": 2, "loss": {"a": 1}}\n',
        b"\xff}\n",
        b"[]}\n",
    ],
    "log-scores": [DEEP, b'{"inference": 3}', b'{"inference": {"window": 3}}', b'{"classes": [1]}'],
    "log-masks": [DEEP, b'{"made_from": 1}', b'{"made_from": {"class_names": 1}}'],
}


@pytest.mark.parametrize(
    ("name", "content"), [(name, text) for name, texts in TEXTS.items() for text in texts]
)
def test_texts_that_were_faults_are_refused(name: str, content: bytes, reading: Path) -> None:
    assert read(name, TARGETS[name], content, reading) in ("read", "refused")


def test_ten_lines_of_yaml_are_not_a_thousand_million_values(reading: Path) -> None:
    for name in ("yaml-config", "yaml-classes"):
        check_yaml_bomb(name, TARGETS[name], reading)


def test_ten_bytes_of_a_pickle_do_not_take_all_memory(reading: Path) -> None:
    """A value with a large number: Python's reader makes room for all numbers below."""
    header = TARGETS["labels-npy"].files[0][:128]
    for number in (2**28, 2**32 - 1):
        content = header + b"\x80\x04Nr" + struct.pack("<I", number) + b"."
        assert read("labels-npy", TARGETS["labels-npy"], content, reading) == "refused"


def changed(path: str, value: Any) -> Callable[[Any], None]:
    """`value` in place of what is at a/b/0, or nothing there for ..."""

    def change(tree: Any) -> None:
        *parents, last = (int(k) if k.isdecimal() else k for k in path.split("/"))
        for key in parents:
            tree = tree[key]
        if value is ...:
            del tree[last]
        else:
            tree[last] = value

    return change


FEW = torch.ones(1)
CHECKPOINTS = {
    "checkpoint-ours": [
        *(changed(key, ...) for key in ("stage", "optimizer", "criterion", "world_size")),
        *(changed(key, None) for key in ("stage", "step", "optimizer", "criterion", "model")),
        changed("format", torch.ones(2)),
        changed("step", torch.ones(1, dtype=torch.complex64)),
        changed("criterion/0", [[[]]]),
        changed("criterion/0/queue_consistent", [torch.ones(3)]),
        changed("optimizer/state", {99: {}}),
        changed("optimizer/state/0/momentum_buffer", torch.ones(7)),
        changed("optimizer/param_groups", [{"lr": "x"}]),
        changed("config", [1]),
        changed("config/lr", 10**400),
        changed("config/backbone", 300 * "x"),
        changed("config/aspp_dilations", [2**62]),
        changed("config/teacher", [1]),
        changed("config/arithmetic/empty_region", {}),
        changed("config/class_file", "\0"),
        changed("config/class_file", 300 * "x"),
        changed("class_names", [1, 2, 3]),
        changed("palette", [[1], [2], [3]]),
        changed("palette/0/0", 256),
        changed("model/classifier.text_embeddings", "none"),
        changed("model/classifier.text_embeddings", FEW.expand(3, 10**9)),
        changed("model/backbone.conv1.weight", FEW.to("meta")),
    ],
    "checkpoint-authors": [
        changed("meta", True),
        changed("meta/CLASSES", True),
        changed("meta/CLASSES", torch.ones(0)),
        changed("state_dict/decode_head.text_embeddings", torch.ones(())),
        changed("state_dict/decode_head.text_embeddings", [1]),
        changed("state_dict/backbone.stem.7.weight", torch.ones(())),
        changed("state_dict/backbone.stem.7.weight", torch.ones(0)),
        changed("state_dict/backbone.stem.7.weight", torch.ones(10**6)),
        changed("state_dict/backbone.stem.7.weight", FEW.expand(2**62)),
        lambda tree: tree["state_dict"].update({7: torch.ones(1)}),
    ],
    "checkpoint-clip": [
        changed("positional_embedding", torch.ones(10**5, 64)),
        changed("token_embedding.token_ids", torch.ones(())),
        changed("text_projection", torch.ones(64, 0)),
        changed("ln_final.weight", torch.ones(64, dtype=torch.complex64)),
        changed("output_stride", torch.ones(3)),
        changed("visual.conv1.weight", FEW.expand(10**5, 3, 10**3, 10**3)),
        changed("visual.layer1.0.conv1.weight", torch.ones(10**6, 1, 1, 1)),
    ],
    "checkpoint-backbone": [
        changed("conv1.weight", torch.ones(4, 3, 7, 7).to_sparse()),
        changed("conv1.weight", torch.ones(4, 3, 7, 7).to("meta")),
        changed("conv1.weight", torch.ones(4, 3, 7, 7, dtype=torch.complex64)),
    ],
    "checkpoint-text": [
        changed("embeddings", torch.ones(3, 8, dtype=torch.complex64)),
        changed("embeddings", torch.ones(3, 8).to_sparse()),
        changed("embeddings", FEW.expand(3, 10**10)),
        changed("embeddings", torch.ones(3, 8, dtype=torch.bool)),
        changed("templates", torch.ones(3)),
        changed("templates/0", torch.ones(3)),
    ],
}


@pytest.mark.parametrize(
    ("name", "change"), [(name, one) for name, many in CHECKPOINTS.items() for one in many]
)
def test_checkpoints_that_were_faults_are_refused(
    name: str, change: Callable[[Any], None], reading: Path
) -> None:
    target = TARGETS[name]
    content = copied(target.values[0])
    change(content)
    # Where all that read it refuse it, or the network in it is whole and of use.
    assert read(name, target, target.dump(content), reading) in ("read", "refused")


def test_lists_in_themselves_are_read_once(reading: Path) -> None:
    endless: list = []
    endless.append(endless)
    deep: list = [1]
    for _ in range(60):  # 2^60 values
        deep = [deep, deep]
    for name in ("checkpoint-ours", "checkpoint-clip", "checkpoint-text"):
        target = TARGETS[name]
        for value in (endless, deep):
            content = target.dump(target.values[0] | {"more": value})
            assert read(name, target, content, reading) in ("read", "refused")


def test_a_good_checkpoint_is_read_to_its_end(
    reading: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reader that refuses at the first look would hide what is behind."""
    reached: list[str] = []
    load = run.load_optimizer
    monkeypatch.setattr(
        run, "load_optimizer", lambda *given: reached.append("resumed") or load(*given)
    )
    target = TARGETS["checkpoint-ours"]
    assert read("checkpoint-ours", target, target.dump(target.values[0]), reading) == "read"
    assert reached == ["resumed"]


def chunk(kind: bytes, content: bytes) -> bytes:
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


def test_an_image_of_few_bytes_does_not_take_all_memory(reading: Path) -> None:
    head = struct.pack(">IIBBBBB", 13000, 13000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head)
    content += chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    for name in ("image-png", "image-mask"):
        assert read(name, TARGETS[name], content, reading) == "refused"


def test_headers_of_the_image_cache_that_were_faults_are_made_anew(reading: Path) -> None:
    good = TARGETS["image-cache"].files[0]
    assert good[:6] == np.lib.format.MAGIC_PREFIX
    for old, new in (
        (b"}", b" "),
        (b"(12", b"((("),
        (b"17", b"\n\n"),
        (b"12", b"-1"),
        (b"u1", b"O0"),
    ):
        content = good.replace(old, new, 1)
        assert read("image-cache", TARGETS["image-cache"], content, reading) == "read"


def test_zips_with_strange_heads_are_refused(reading: Path) -> None:
    good = TARGETS["image-zip"].files[0]
    start = good.index(b"PK\x01\x02")  # of the list of members
    for offset, value in ((6, b"\xff"), (8, b"\x01"), (9, b"\x08"), (10, b"\x0e"), (46, b"\xff")):
        content = bytearray(good)
        content[start + offset : start + offset + 1] = value
        result = read("image-zip", TARGETS["image-zip"], bytes(content), reading)
        assert result in ("read", "refused")
