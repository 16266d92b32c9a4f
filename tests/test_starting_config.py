"""prepare_data.py --write-config: from pictures to a config that trains."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import prepare_data
from datasets.doctor.plausible import implausible
from datasets.doctor.sizes import sample_sizes
from datasets.doctor.starting_config import MINIATURE, PAPER, write_starting_config
from datasets.files import File
from datasets.folder import Folder
from utils.config import load_config
from utils.safe.errors import InputError

COLORS = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)


def make(root: Path, sizes: list[tuple[int, int]], split: str = "train") -> Path:
    """Pictures (height, width) and a class file."""
    for i, (height, width) in enumerate(sizes):
        path = root / f"images/{split}/{i}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.roll(COLORS, i, 0)).resize((width, height)).save(path)
    (root / "classes.yaml").write_text("classes: [road, sky, traffic light]\n")
    return root


def write(root: Path, **options: object) -> tuple[str, Path]:
    out = root / "made.yaml"
    options = {"labels": None, "miniature": False, "overwrite": True} | options
    return write_starting_config(out, "folder", Folder(root), root / "classes.yaml", **options), out


def test_from_folder_to_checked_config(tmp_path, capsys) -> None:
    root = make(tmp_path / "my data #1", [(240, 320)] * 12)
    make(root, [(240, 320)] * 2, "val")
    rows = [f"{split}/{i}.jpg,road;sky" for split, i in (("train", 0), ("val", 1))]
    (root / "labels.csv").write_text("\n".join(["image,labels", *rows]))
    out = tmp_path / "mine.yaml"
    arguments = ["folder", "--root", str(root), "--write-config", str(out)]
    prepare_data.main(arguments)
    config = load_config(out)
    assert (config.dataset, config.data_root) == ("folder", str(root))
    assert config.image_labels == str(root / "labels.csv")
    assert config.class_file == str(root / "classes.yaml")
    assert (config.train_split, config.val_split) == ("train", "val")
    assert config.image_size == (240, 320) and config.crop_size == (192, 256)
    assert config.patch_size == (192, 96) and config.aspp_dilations == (4, 8, 12)
    assert (config.steps, config.warmup_steps, config.batch_size) == (1000, 530, 8)
    printed = capsys.readouterr().out
    for key in ("image_size", "steps", "log_every", "num_workers", "image_labels"):
        assert f"\n  {key} " in printed
        (line,) = (line for line in out.read_text().splitlines() if line.startswith(f"{key}:"))
        assert str(yaml.safe_load(line)[key]) in printed
    assert "median of 12" in printed and f"--check --config {out}" in printed
    assert "the result with 12 is uncertain" in printed
    assert "--suggest" not in printed  # there are labels

    (root / "labels.csv").unlink()
    prepare_data.main([*arguments, "--overwrite", "--miniature"])
    printed = capsys.readouterr().out
    note, *steps = printed.partition("next:\n  ")[2].splitlines()[:4]
    assert note.startswith("# there are no labels yet; ") and "(--import-tags)" in note
    assert f"--suggest '{root}/suggested' --miniature  # " in steps[0]
    assert f"--labels labels.csv --out '{root}/image_labels.json'" in steps[1]
    assert "--check" in steps[2]
    (root / "labels.csv").write_text("\n".join(["image,labels", *rows]))
    prepare_data.main([*arguments, "--overwrite"])
    capsys.readouterr()

    before = out.read_text()
    with pytest.raises(InputError, match="exists already; .* --overwrite"):
        prepare_data.main(arguments)
    assert out.read_text() == before
    prepare_data.main([*arguments, "--overwrite"])
    assert out.read_text() == before


def test_every_set_of_pictures_gets_a_plausible_config(tmp_path, monkeypatch) -> None:
    draw = random.Random(0)
    root = make(tmp_path, [(8, 8)])
    for _ in range(200):
        count = int(2 * 10 ** draw.uniform(0, 4.7))
        side, proportion = 10 ** draw.uniform(1.1, 3.9), draw.choice([0.5, 0.75, 1, 1.5, 2, 12])
        vary, portrait = draw.choice([0, 0.5]), draw.random()
        sizes = []
        for _ in range(20):
            height = side * 10 ** draw.uniform(-vary, vary)
            size = max(1, int(height)), max(1, int(height * proportion))
            sizes.append(size[::-1] if draw.random() < portrait else size)
        monkeypatch.setattr("datasets.doctor.starting_config.sample_sizes", lambda _, s=sizes: s)
        monkeypatch.setattr(
            Folder, "images", lambda _, __, n=count: {str(i): None for i in range(n)}
        )
        for miniature in (False, *[True] * Path("demo/config.yaml").is_file()):
            start = MINIATURE if miniature else PAPER
            config = load_config(write(root, miniature=miniature)[1])
            assert implausible(config, count, sizes) == []
            assert 2 <= config.batch_size <= count
            assert np.prod(config.crop_size) <= start.crop_pixels
            assert all(side % 16 == 0 for side in config.crop_size)
            assert config.checkpoint_every <= config.steps - config.warmup_steps


def test_measures_of_known_sets(tmp_path, monkeypatch) -> None:
    """Cityscapes' pictures get the paper's sizes and steps."""
    root = make(tmp_path, [(8, 8)])
    monkeypatch.setattr(
        "datasets.doctor.starting_config.sample_sizes", lambda _: [(1024, 2048)] * 9
    )
    monkeypatch.setattr(Folder, "images", lambda *_: {str(i): None for i in range(2975)})
    config, paper = load_config(write(root)[1]), load_config("configs/cityscapes.yaml")
    for key in ("image_size", "crop_size", "patch_size", "aspp_dilations", "scale_range"):
        assert getattr(config, key) == getattr(paper, key)
    for key in ("steps", "warmup_steps", "batch_size", "log_every", "checkpoint_every"):
        assert getattr(config, key) == getattr(paper, key)


def test_data_sets_with_a_shipped_class_file(tmp_path) -> None:
    for split in ("train", "val"):
        for kind in ("img", "mask"):
            path = tmp_path / f"{kind}/{split}/a{split}.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB" if kind == "img" else "L", (480, 360)).save(path)
    shutil.copy(tmp_path / "img/train/atrain.png", tmp_path / "img/train/b.png")
    out = tmp_path / "mine.yaml"
    prepare_data.main(["camvid", "--root", str(tmp_path), "--write-config", str(out)])
    config = load_config(out)
    assert config.class_file == "datasets/classes/camvid.yaml"
    assert (config.dataset, config.image_size, config.batch_size) == ("camvid", (360, 480), 2)


def test_upright_and_mixed_pictures(tmp_path) -> None:
    tall = load_config(write(make(tmp_path / "tall", [(640, 360)] * 5))[1])
    assert tall.image_size == (640, 360) and tall.crop_size[0] > tall.crop_size[1]
    mixed = load_config(write(make(tmp_path / "mixed", [(640, 480), (480, 640)] * 3))[1])
    assert mixed.crop_size == (384, 384)
    assert mixed.batch_size == 4 and mixed.val_split == "train"  # there is no other split


def test_sizes_are_read_from_heads_and_upright(tmp_path, monkeypatch) -> None:
    root = make(tmp_path, [(30, 40), (50, 20)])
    folder = root / "images/train"
    Image.new("RGB", (40, 30)).save(folder / "2.png")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (40, 30)).save(folder / "3.jpg", exif=exif)
    # A head longer than what is read at first: the whole file is read then.
    noise = np.random.default_rng(0).bytes(300_000)
    Image.new("RGB", (44, 33)).save(folder / "4.jpg", icc_profile=noise)
    (folder / "5.jpg").write_text("not a picture")
    images = Folder(root).images("train")
    assert sample_sizes(images) == [(30, 40), (50, 20), (30, 40), (40, 30), (33, 44)]
    monkeypatch.setattr(File, "read", lambda *_: pytest.fail("read whole"))
    first = {name: images[name] for name in ("0", "1", "2", "3")}
    assert sample_sizes(first) == [(30, 40), (50, 20), (30, 40), (40, 30)]
    assert sample_sizes(first, most=2) == [(30, 40), (30, 40)]  # evenly spread


def test_labels_beside_the_pictures(tmp_path) -> None:
    root = make(tmp_path, [(8, 8)] * 2)

    def labels() -> str:
        return load_config(write(root)[1]).image_labels

    assert labels() == str(root / "image_labels.json")  # to be made
    (root / "labels.csv").write_text("image,labels\n0,road\n1,sky\n")
    assert labels() == str(root / "labels.csv")
    (root / "other.csv").write_text("image,labels\n0,road\n1,sky\n")
    with pytest.raises(InputError, match="may all be the image labels"):
        labels()
    assert load_config(write(root, labels="mine.csv")[1]).image_labels == "mine.csv"
    (root / "image_labels.json").write_text("{}")
    assert labels() == str(root / "image_labels.json")


def test_what_it_cannot_use(tmp_path) -> None:
    root = make(tmp_path / "one", [(8, 8)])
    with pytest.raises(InputError, match="at least 2 images that can be read in 'train'"):
        write(root)
    (root / "images/train/1.jpg").write_text("no picture")
    (root / "images/train/0.jpg").write_text("no picture")
    with pytest.raises(InputError, match="found 0; prepare_data.py --check"):
        write(root)
    (root / "made.yaml").mkdir()
    with pytest.raises(InputError, match="is a folder; name a file"):
        write(root)
