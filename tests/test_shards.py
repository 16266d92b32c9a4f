"""Images in tar shards: the same ids, bytes, samples and batches as from files."""

import dataclasses
import io
import itertools
import os
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import prepare_data
from datasets import open_dataset
from datasets.fingerprint import file_sizes
from datasets.folder import Folder
from datasets.shards import Shards, list_images
from datasets.training import TrainingSet
from datasets.transforms import TrainTransform
from models.quantized import CalibrationImages
from utils.batches import training_loader
from utils.config import load_config
from utils.distributed import Ranks
from utils.safe.errors import InputError, InputWarning

IDS = [f"cam{i % 2}/{i:02d}.a" for i in range(11)]  # a dot in a name, and folders
CPU = torch.device("cpu")


def png(array: np.ndarray, form: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, form)
    return buffer.getvalue()


def pack(path: Path, files: dict[str, bytes], form: int = tarfile.PAX_FORMAT) -> None:
    """Write a tar as the standard library does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """files/ and shards/ with the same images and masks: 11 of train in 3 shards, 2 of val."""
    root = tmp_path_factory.mktemp("data")
    numbers = np.random.default_rng(0)
    shards: dict[str, dict[str, bytes]] = {}
    for split, ids in (("train", IDS), ("val", ["x", "y"])):
        for i, name in enumerate(ids):
            image = png(numbers.integers(0, 256, (20 + i, 24, 3), dtype=np.uint8), "JPEG")
            mask = png(numbers.integers(0, 3, (20 + i, 24), dtype=np.uint8))
            shard = shards.setdefault(f"{split}-{i % 3:06d}.tar", {})
            shard |= {f"{name}.jpg": image, f"{name}.png": mask, f"{name}.json": b"{}"}
            for kind, suffix, content in (("images", ".jpg", image), ("masks", ".png", mask)):
                path = root / "files" / kind / split / f"{name}{suffix}"
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
    for name, files in shards.items():
        pack(root / "shards" / name, files)
    for folder in ("files", "shards"):
        (root / folder / "classes.yaml").write_text("classes: [road, car, sky]\n")
    return root


def test_the_same_images_and_masks_as_in_files(root: Path) -> None:
    files, shards = (open_dataset("folder", root / name) for name in ("files", "shards"))
    assert isinstance(files, Folder) and isinstance(shards, Shards)
    assert files.splits() == shards.splits() == ["train", "val"]
    for split, listing in itertools.product(("train", "val"), ("images", "ground_truth")):
        expected, found = getattr(files, listing)(split), getattr(shards, listing)(split)
        assert [*expected] == [*found]
        assert [f.read() for f in expected.values()] == [f.read() for f in found.values()]
        assert file_sizes(expected) == file_sizes(found)  # what a run records of its data
    mask = found["x"]
    assert (shards.read_ground_truth(mask) == files.read_ground_truth(expected["x"])).all()
    assert [*list_images(root / "shards")] == sorted([*IDS, "x", "y"])  # predict.py: all splits


def test_the_same_images_for_int8(root: Path) -> None:
    with pytest.warns(InputWarning, match="has 13 images for --calibration"):
        found = CalibrationImages(root / "shards", (24, 24))
    with pytest.warns(InputWarning, match="has 13 images for --calibration"):
        expected = CalibrationImages(root / "files/images", (24, 24))
    assert len(found) == 13
    # Their order is that of the ids, where files have the split in front.
    assert sorted(i.tobytes() for i in found) == sorted(i.tobytes() for i in expected)


def batches(data: Path, ranks: Ranks, start: int, end: int, workers: int) -> list[dict]:
    source = open_dataset("folder", data)
    images = source.images("train")
    transform = TrainTransform((20, 24), (0.5, 2.0), (16, 16))
    labels = dict.fromkeys(images, (0,))
    dataset = TrainingSet(images, labels, 3, transform, source.ground_truth("train"))
    config = load_config("configs/tiny_cpu.yaml", ["batch_size=4"])
    config = dataclasses.replace(config, num_workers=workers)
    return list(training_loader(dataset, config, ranks, start, end))


def same(one: list[dict], other: list[dict]) -> bool:
    assert len(one) == len(other) > 0
    return all(
        torch.equal(value, b[key]) if torch.is_tensor(value) else value == b[key]
        for a, b in zip(one, other, strict=True)
        for key, value in a.items()
    )


def test_ranks_and_workers_see_every_image_once_an_epoch_and_the_batches_of_files(root) -> None:
    by_rank = [batches(root / "shards", Ranks(r, 2, CPU), 0, 11, workers=2 * r) for r in range(2)]
    drawn = [n for both in zip(*by_rank, strict=True) for batch in both for n in batch["name"]]
    for epoch in range(4):  # 11 steps of 4 images are 4 epochs of 11
        assert sorted(drawn[11 * epoch : 11 * (epoch + 1)]) == sorted(IDS)
    for rank, found in enumerate(by_rank):
        assert same(batches(root / "files", Ranks(rank, 2, CPU), 0, 11, workers=0), found)


def test_resumes_with_the_batch_that_comes_next(root: Path) -> None:
    whole = batches(root / "files", Ranks(0, 1, CPU), 0, 6, workers=0)
    assert same(whole[4:], batches(root / "shards", Ranks(0, 1, CPU), 4, 6, workers=1))


def test_forked_processes_share_no_position(root: Path) -> None:
    files = [*open_dataset("folder", root / "shards").images("train").values()]
    contents = [file.read() for file in files]
    forked = []
    for offset in range(3):
        if not (child := os.fork()):
            right = all(files[(i + offset) % 11].read() == contents[(i + offset) % 11]
                        for i in range(300))  # fmt: skip
            os._exit(0 if right else 1)
        forked.append(child)
    assert [os.waitpid(child, 0)[1] for child in forked] == [0, 0, 0]


def test_prepare_data_writes_the_same_labels_and_checks(root: Path, tmp_path, capsys) -> None:
    for name in ("files", "shards"):
        argv = ["folder", "--root", str(root / name), "--workers", "0"]
        prepare_data.main([*argv, "--out", str(tmp_path / f"{name}.json")])
        prepare_data.main([*argv, "--labels", str(tmp_path / f"{name}.json"), "--check"])
    assert (tmp_path / "files.json").read_text() == (tmp_path / "shards.json").read_text()
    assert capsys.readouterr().out.count("13 images checked, 0 problems\n") == 2


@pytest.mark.parametrize(
    ("names", "splits"),
    [
        (["train-000000.tar", "val-000000.tar"], {"train": 1, "val": 1}),
        (["training_0.tar", "training_1.tar", "TEST.tar"], {"train": 2, "test": 1}),
        (["train/00000.tar", "train/x-1.tar", "valid/00000.tar"], {"train": 2, "val": 1}),
        (["00000.tar", "00001.tar"], {"train": 2}),
        (["frames-00000.tar"], {"train": 1}),
    ],
)
@pytest.mark.filterwarnings("ignore::utils.safe.errors.InputWarning")
def test_splits_are_the_names_before_the_numbers(tmp_path, names, splits) -> None:
    for i, name in enumerate(names):
        pack(tmp_path / name, {f"{i}.jpg": b"image"})
    data = open_dataset("folder", tmp_path)
    assert {split: len(data.images(split)) for split in data.splits()} == splits
    with pytest.raises(InputError, match="no shards of 'other'"):
        data.images("other")


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["train2017.tar"], "train2017: such names mean splits"),
        (["set-train-0.tar", "set-val-0.tar"], "such names mean splits"),
        (["train-0.tar", "training-0.tar"], "are both the split 'train'"),
        (["train-0.tar", "val-0.tar.gz"], "val-0.tar.gz is compressed"),
        (["train-0.tar.gz", "val-0.tgz"], "train-0.tar.gz is compressed: unpack it"),
        (["train/0.tgz"], "train/0.tgz is compressed: unpack it"),
    ],
)
def test_names_that_may_be_splits_are_refused(tmp_path, names, message) -> None:
    for name in names:
        pack(tmp_path / name, {"a.jpg": b"image"})
    with pytest.raises(InputError, match=message):
        open_dataset("folder", tmp_path)


def test_shards_of_other_names_are_reported(tmp_path: Path) -> None:
    for name in ("train-0.tar", "extra-0.tar"):
        pack(tmp_path / name, {"a.jpg": b"image"})
    with pytest.warns(InputWarning, match=r"1 shards that are not read \(extra-0.tar\)"):
        assert len(open_dataset("folder", tmp_path).images("train")) == 1


def test_a_folder_of_images_is_read_before_tars(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    pack(tmp_path / "train-0.tar", {"a.jpg": b"image"})
    assert isinstance(open_dataset("folder", tmp_path), Folder)
    (tmp_path / "images").rmdir()
    (tmp_path / "b.png").write_bytes(b"image")
    (tmp_path / "old.tar.gz").touch()  # no reason to refuse the folder
    with pytest.warns(InputWarning, match=r"1 tars .* not read \(train-0.tar\).*b\.png"):
        assert [*list_images(tmp_path)] == ["b"]  # as before there were shards


def test_pngs_are_images_or_masks(tmp_path: Path) -> None:
    pack(tmp_path / "train-0.tar", {"a.png": b"1", "b.png": b"2", "b.mask.png": b"3"})
    data = open_dataset("folder", tmp_path)
    assert [f.read() for f in data.images("train").values()] == [b"1", b"2"]
    assert {n: f.read() for n, f in data.ground_truth("train").items()} == {"b": b"3"}
    pack(tmp_path / "val-0.tar", {"a.jpg": b"1", "a.png": b"2", "b.png": b"3"})
    with pytest.raises(InputError, match="b.png may be an image or a mask without its image"):
        open_dataset("folder", tmp_path).images("val")


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_forms_of_tars(tmp_path: Path, form: int) -> None:
    long = "ä" * 30 + "/" + "n" * 60
    files = {f"./{long}.jpg": b"1", "./._b.jpg": b"2", "__MACOSX/c.jpg": b"3", "./d/e.JPG": b"45"}
    pack(tmp_path / "train-0.tar", files, form)
    with tarfile.open(tmp_path / "train-0.tar", "a", format=form) as tar:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        tar.addfile(folder)
    images = open_dataset("folder", tmp_path).images("train")
    assert {name: file.read() for name, file in images.items()} == {"d/e": b"45", long: b"1"}
    assert str(images["d/e"]) == f"{tmp_path}/train-0.tar:d/e.JPG"


def test_webdataset_writes_what_is_read(root: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    images = open_dataset("folder", root / "files").images("val")
    with webdataset.ShardWriter(f"{tmp_path}/val-%06d.tar", maxcount=1, verbose=0) as writer:
        for name, file in images.items():
            writer.write({"__key__": name, "jpg": file.read(), "json": {"made": "by hand"}})
    found = open_dataset("folder", tmp_path).images("val")
    assert {f.path for f in found.values()} == {f"{tmp_path}/val-{i:06d}.tar" for i in range(2)}
    assert {n: f.read() for n, f in found.items()} == {n: f.read() for n, f in images.items()}
