"""Masks in tar shards: the bytes of the files, each once, after kills and on any ranks."""

import itertools
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from test_shards import pack, png

from datasets import mask_shards
from datasets.files import DuplicateError, File, read_mask
from datasets.mask_exports.source import find_masks
from datasets.mask_folder import confidence_folder, pseudo_mask_files
from datasets.mask_shards import ShardWriter, finish_parts, list_masks, next_number
from datasets.mask_writer import check_no_inputs, mask_writer, open_mask_folder
from datasets.shards import Shards
from utils.distributed import Ranks
from utils.safe.errors import InputError
from utils.visualize import encode_mask, save_mask

ROOT = Path(__file__).resolve().parent.parent
ALONE = Ranks(0, 1, torch.device("cpu"))
PALETTE = np.arange(9, dtype=np.uint8).reshape(3, 3)
MADE_FROM = {"class_names": ["a", "b", "c"], "split": "train"}
NAMES = [f"cam/{i:02d}" for i in range(10)]
MASKS = {n: np.full((6, 8), i % 3, np.uint8) for i, n in enumerate(NAMES)}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mask_shards, "_MOST", 3)


def make(
    out: Path, most: int = 99, sure: bool = False, overwrite: bool = False, shards: bool = True
) -> list[str]:
    """Up to `most` of the missing masks, as gen_clip_masks.py makes them; their names."""
    made_from = MADE_FROM | ({"confidence": True} if sure else {})
    todo = open_mask_folder(out, NAMES, made_from, overwrite, ALONE, shards)
    meta = {"made_from": made_from}
    with mask_writer(out, todo, PALETTE, meta, overwrite, ALONE, shards) as write:
        for name in todo[:most]:
            write(name, MASKS[name], *([MASKS[name]] * sure))
    return todo


def names_in(folder: Path) -> list[str]:
    """Names of all files in the tars of a folder, with repetitions."""
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            found += tar.getnames()
    return sorted(found)


def test_the_bytes_of_files(tmp_path: Path) -> None:
    make(tmp_path / "shards")
    make(tmp_path / "files", shards=False)
    assert len([*(tmp_path / "shards").glob("masks-*.tar")]) == 4
    for found in (
        pseudo_mask_files(tmp_path / "shards", NAMES, ["a", "b", "c"], "train"),
        find_masks(tmp_path / "shards"),
    ):
        assert [*found] == NAMES
        for name, file in found.items():
            expected = File(str(tmp_path / f"files/{name}.png"))
            assert file.read() == expected.read()
            assert (read_mask(file) == MASKS[name]).all()
    save_mask(tmp_path / "a.png", MASKS[NAMES[1]], PALETTE)
    assert encode_mask(MASKS[NAMES[1]], PALETTE) == (tmp_path / "a.png").read_bytes()
    with pytest.raises(InputError, match="1 of 11 pseudo-masks are missing"):
        pseudo_mask_files(tmp_path / "shards", [*NAMES, "other"])


def test_goes_on_where_it_stopped(tmp_path: Path) -> None:
    assert make(tmp_path, most=4) == NAMES
    first = {path: path.read_bytes() for path in tmp_path.glob("*.tar")}
    assert make(tmp_path) == NAMES[4:]
    assert make(tmp_path) == []
    assert names_in(tmp_path) == [f"{name}.png" for name in NAMES]
    assert all(path.read_bytes() == content for path, content in first.items())


@pytest.mark.parametrize("sure", [False, True])
def test_killed_at_any_byte_each_mask_is_made_once(tmp_path: Path, sure: bool) -> None:
    """A killed process leaves a part that ends anywhere; the other files are as they were."""
    whole = tmp_path / "whole"
    folders = [confidence_folder(whole)] * sure + [whole]
    writer = ShardWriter(folders, itertools.count())
    for name in NAMES[:3]:
        writer.append(f"{name}.png", [encode_mask(MASKS[name], PALETTE)] * len(folders))
    length = (whole / "masks-000000.tar.part").stat().st_size
    cuts = (0, 100, 512, 700, length // 3, length // 2, length - 600, length - 1, length)
    for case, cut in enumerate(cuts):
        out = tmp_path / f"case{case}"
        for folder in folders:
            target = confidence_folder(out) if folder != whole else out
            target.mkdir()
            data = (folder / "masks-000000.tar.part").read_bytes()
            # Confidence is written first, so that its part may have one more.
            ends = cut if folder == whole else length
            (target / "masks-000000.tar.part").write_bytes(data[:ends])
        made_from = MADE_FROM | ({"confidence": True} if sure else {})
        (out / "meta.json").write_text(json.dumps({"made_from": made_from}))
        todo = make(out, sure=sure)
        step, size = length // 3, len(encode_mask(MASKS[NAMES[0]], PALETTE))
        assert todo == NAMES[sum(cut >= i * step + 512 + size for i in range(3)) :]
        for folder in [out, confidence_folder(out)][: 1 + sure]:
            assert names_in(folder) == [f"{name}.png" for name in NAMES]
            assert not [*folder.glob("*.part")]


def test_zeros_that_a_crash_leaves_are_no_mask(tmp_path: Path) -> None:
    writer = ShardWriter([tmp_path], itertools.count())
    contents = [png(np.zeros((4, 4), np.uint8)), bytes(300)]
    for i, content in enumerate(contents):
        writer.append(f"{i}.png", [content])
    finish_parts(tmp_path)
    assert names_in(tmp_path) == ["0.png"]


def test_ranks_write_shards_of_their_own(tmp_path: Path) -> None:
    pack(tmp_path / "masks-000004.tar", {"old.png": b"1"})
    first = next_number([tmp_path])
    writers = [ShardWriter([tmp_path], itertools.count(first + rank, 2)) for rank in range(2)]
    for i, name in enumerate(NAMES):
        writers[i % 2].append(f"{name}.png", [encode_mask(MASKS[name], PALETTE)])
    for writer in writers:
        writer.close()
    assert names_in(tmp_path) == sorted([*(f"{name}.png" for name in NAMES), "old.png"])
    numbers = [int(path.stem[-6:]) for path in sorted(tmp_path.glob("*.tar"))]
    assert numbers == [4, 5, 6, 7, 8]


def test_the_forms_are_not_mixed(tmp_path: Path) -> None:
    make(tmp_path, most=4)
    with pytest.raises(InputError, match="holds masks in shards: add --shards, name another"):
        make(tmp_path, shards=False)
    make(tmp_path, overwrite=True, shards=False)
    assert names_in(tmp_path) == [] and len([*tmp_path.rglob("*.png")]) == len(NAMES)
    with pytest.raises(InputError, match="holds masks as files: leave out --shards, name another"):
        make(tmp_path)
    make(tmp_path, overwrite=True)
    assert names_in(tmp_path) == [f"{name}.png" for name in NAMES]
    assert not [*tmp_path.rglob("*.png")]
    (tmp_path / "x.png").write_bytes(b"")
    with pytest.raises(InputError, match=r"holds masks as files, x, and in shards, masks-000000"):
        list_masks(tmp_path)
    (tmp_path / "masks-000000.tar").rename(tmp_path / "renamed.tar")
    with pytest.raises(InputError, match=r"holds masks as files, x, and in shards, masks-000001"):
        list_masks(tmp_path)
    for path in tmp_path.glob("masks-*.tar"):
        path.unlink()
    assert [*list_masks(tmp_path)] == ["x"]  # renamed.tar may be anything


def test_masks_that_are_all_in_shards_need_no_option(tmp_path: Path) -> None:
    """experiments.ablation, which makes and checks masks, does not say --shards."""
    make(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("m*")}
    assert make(tmp_path, shards=False) == []
    for share in (slice(0, None, 1), slice(1, None, 3)):
        assert open_mask_folder(tmp_path, NAMES[share], MADE_FROM, False, ALONE, share=share) == []
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("m*")} == before
    save_mask(tmp_path / f"{NAMES[0]}.png", MASKS[NAMES[0]], PALETTE)
    with pytest.raises(InputError, match="holds masks as files and in shards: name another --out"):
        make(tmp_path, shards=False)
    (tmp_path / f"{NAMES[0]}.png").unlink()
    (tmp_path / "masks-000001.tar").unlink()
    with pytest.raises(InputError, match="holds masks in shards: add --shards"):
        make(tmp_path, shards=False)


def test_two_starts_at_a_time(tmp_path: Path) -> None:
    """The later one keeps what the earlier one has written, which ends; equal masks are one."""
    writer = ShardWriter([tmp_path], itertools.count())
    mask = encode_mask(MASKS[NAMES[1]], PALETTE)
    writer.append("a.png", [mask])
    finish_parts(tmp_path)
    with pytest.raises(InputError, match="the same command was started again"):
        writer.close()
    pack(tmp_path / "masks-000001.tar", {"a.png": mask, "b.png": mask})
    assert [*list_masks(tmp_path)] == ["a", "b"]
    pack(tmp_path / "masks-000002.tar", {"b.png": mask + b" "})
    with pytest.raises(DuplicateError, match="b.png have the same name; keep one"):
        list_masks(tmp_path)


def test_two_starts_at_once(tmp_path: Path) -> None:
    """Both have taken the number of the next shard before one of them has opened it."""
    first, second = (ShardWriter([tmp_path], itertools.count()) for _ in range(2))
    mask = encode_mask(MASKS[NAMES[1]], PALETTE)
    first.append("a.png", [mask])
    with pytest.raises(InputError, match="the same command was started twice at once"):
        second.append("a.png", [mask])
    second.close()
    first.close()
    assert [*list_masks(tmp_path)] == ["a"]


def test_folders_and_overlays_are_no_shards_and_no_masks(tmp_path: Path) -> None:
    (tmp_path / "files/cam.tar").mkdir(parents=True)
    save_mask(tmp_path / "files/cam.tar/a.png", MASKS[NAMES[1]], PALETTE)
    assert [*list_masks(tmp_path / "files")] == ["cam.tar/a"]
    overlay = png(np.zeros((6, 8, 3), np.uint8))
    mask = encode_mask(MASKS[NAMES[1]], PALETTE)
    pack(tmp_path / "shards/0.tar", {"a.png": mask, "a_overlay.png": overlay, "b.png": mask})
    assert [*find_masks(tmp_path / "shards")] == ["a", "b"]


def test_masks_of_something_else_are_kept(tmp_path: Path) -> None:
    make(tmp_path, most=2)
    (tmp_path / "masks-000009.tar.part").write_bytes(b"of a run that is going on")
    with pytest.raises(InputError, match="holds masks made with other split"):
        open_mask_folder(tmp_path, NAMES, MADE_FROM | {"split": "val"}, False, ALONE, True)
    assert (tmp_path / "masks-000009.tar.part").exists()
    (tmp_path / "meta.json").unlink()
    with pytest.raises(InputError, match=r"holds masks but no meta.json"):
        make(tmp_path)


def test_shards_of_images_are_no_place_for_masks(tmp_path: Path) -> None:
    pack(tmp_path / "train-0.tar", {"a.jpg": b"1"})
    images = Shards(tmp_path).images("train")
    with pytest.raises(InputError, match="holds images or ground truth of the data set"):
        check_no_inputs(tmp_path, images, images.values())
    check_no_inputs(tmp_path / "clip_masks", images, images.values())
    make(tmp_path / "clip_masks")
    assert [*Shards(tmp_path).images("train")] == ["a"]  # the masks there are no images


def test_webdataset_reads_the_masks(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    make(tmp_path)
    shards = sorted(map(str, tmp_path.glob("*.tar")))
    found = {s["__key__"]: s["png"] for s in webdataset.WebDataset(shards, shardshuffle=False)}
    assert found == {name: encode_mask(mask, PALETTE) for name, mask in MASKS.items()}
