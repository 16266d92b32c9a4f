"""datasets/cache.py and windows of pictures: what is read is what the whole picture shows there."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datasets.cache import open_cached
from datasets.files import File, open_image, read_image
from datasets.training import TrainingSet
from datasets.transforms import TrainTransform, resize_image
from datasets.windows import resize_window, resize_window_nearest, source_window
from utils.batches import Draw
from utils.safe.errors import InputError

WINDOWS = [(0, 0, 60, 90), (7, 11, 20, 30), (59, 89, 1, 1), (0, 40, 60, 3)]


@pytest.fixture
def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (60, 90, 3), np.uint8)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
@pytest.mark.parametrize("window", WINDOWS)
def test_a_window_is_that_of_the_whole_picture(
    name: str, window: tuple[int, int, int, int], picture: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(picture).save(tmp_path / name)
    file = File(str(tmp_path / name))
    top, left, height, width = window
    expected = read_image(file)[top : top + height, left : left + width]
    assert name == "a.jpg" or np.array_equal(read_image(file), picture)
    for _ in range(2):  # decodes, then reads what the first one kept
        for size, read in (open_image(file), open_cached(tmp_path / "cache", file)):
            assert size == (60, 90)
            assert np.array_equal(read(window), expected)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_picture_that_is_not_upright_is_turned_before_the_window(tmp_path: Path) -> None:
    pixels = np.random.default_rng(1).integers(0, 256, (40, 24, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    size, read = open_image(File(str(tmp_path / "a.png")))
    turned = np.rot90(pixels, -1)
    assert size == (24, 40) and np.array_equal(read((3, 5, 6, 7)), turned[3:9, 5:12])


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.99])
def test_a_truncated_png_is_refused_whatever_the_window(
    keep: float, picture: np.ndarray, tmp_path: Path
) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(picture).save(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(InputError, match=r"cannot decode .*a\.png"):
        open_image(File(str(path)))[1]((0, 0, 1, 1))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp"])
def test_one_reader_reads_any_number_of_windows(
    name: str, picture: np.ndarray, tmp_path: Path
) -> None:
    """Also larger ones after smaller ones: of a PNG no more than the window is decoded."""
    Image.fromarray(picture).save(tmp_path / name)
    whole = read_image(File(str(tmp_path / name)))
    _, read = open_image(File(str(tmp_path / name)))
    for top, left, height, width in [(0, 0, 5, 90), *WINDOWS, (0, 0, 60, 90)]:
        expected = whole[top : top + height, left : left + width]
        assert np.array_equal(read((top, left, height, width)), expected)


DAMAGES = {
    "cut": lambda content: content[:1000],
    "empty": lambda content: b"",
    "like a zip": lambda content: b"PK\x03\x04" + content[4:],
    "an empty zip": lambda content: b"PK\x05\x06" + bytes(18),
    "header of other numbers": lambda content: content.replace(b"60", b"90"),
    "header that is no Python": lambda content: content.replace(b"'descr'", b"((((((("),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_changed_picture_is_decoded_anew_and_a_damaged_entry_too(
    damage: Callable[[bytes], bytes], picture: np.ndarray, tmp_path: Path
) -> None:
    path, cache, all_of_it = tmp_path / "a.png", tmp_path / "cache", (0, 0, 60, 90)
    Image.fromarray(picture).save(path)
    file = File(str(path))
    assert np.array_equal(open_cached(cache, file)[1](all_of_it), picture)
    (entry,) = cache.iterdir()
    damaged = damage(entry.read_bytes())
    assert damaged != entry.read_bytes()
    entry.write_bytes(damaged)
    assert np.array_equal(open_cached(cache, file)[1](all_of_it), picture)
    Image.fromarray(255 - picture).save(path)
    assert np.array_equal(open_cached(cache, file)[1](all_of_it), 255 - picture)


def test_a_cache_that_cannot_be_written_says_what_to_do(
    picture: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(picture).save(tmp_path / "a.png")
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(InputError, match="image cache .*cache can't be written.*or null"):
        open_cached(tmp_path / "cache", File(str(tmp_path / "a.png")))
    with pytest.raises(InputError, match=r"cannot read .*b\.png"):
        open_cached(tmp_path / "cache", File(str(tmp_path / "b.png")))


@pytest.mark.parametrize("name", ["a.png", "a.jpg"])
def test_training_samples_are_the_same_with_a_cache(
    name: str, picture: np.ndarray, tmp_path: Path
) -> None:
    Image.fromarray(picture).save(tmp_path / name)
    transform = TrainTransform((60, 90), (0.5, 2.0), (32, 48))
    plain, cached = (
        TrainingSet({"a": File(str(tmp_path / name))}, {"a": (0,)}, 2, transform, cache=cache)
        for cache in (None, str(tmp_path / "cache"))
    )
    for seed in range(12):
        a, b = plain[Draw(0, seed)], cached[Draw(0, seed)]
        assert torch.equal(a["image"], b["image"]) and torch.equal(a["valid"], b["valid"])


@pytest.mark.parametrize("resized", [(60, 90), (31, 47), (300, 450), (1, 1)])
def test_a_resized_window_is_that_of_the_resized_picture(
    resized: tuple[int, int], picture: np.ndarray
) -> None:
    image = torch.from_numpy(picture).permute(2, 0, 1)
    mask, whole = image[0] % 19, resize_image(image, resized)
    height, width = (max(1, side // 2) for side in resized)
    for window in ((0, 0, *resized), (resized[0] - height, resized[1] - width, height, width)):
        top, left, height, width = window
        y, x, h, w = source_window(image.shape[1:], resized, window)
        strips = resize_window(image[:, y : y + h, x : x + w], image.shape[1:], resized, window)
        part = torch.cat(list(strips), dim=1).int()
        expected = whole[:, top : top + height, left : left + width].int()
        assert part.shape == expected.shape and (part - expected).abs().max() <= 1
        nearest = resize_window_nearest(mask, resized, window)
        whole_mask = resize_window_nearest(mask, resized, (0, 0, *resized))
        expected = whole_mask[top : top + height, left : left + width]
        assert torch.equal(nearest, expected)
