"""Colours, overlays, paletted files and the drawn pictures."""

import numpy as np
import pytest
from PIL import Image

from utils.visualize import colourize, legend, overlay, save_image, save_mask, side_by_side

PALETTE = np.array([[128, 64, 128], [0, 200, 0], [70, 130, 180]], np.uint8)


def test_colourize_looks_up_and_blackens_the_rest():
    colors = colourize(np.array([[0, 2], [255, 3]], np.uint8), PALETTE)
    assert colors.tolist() == [[[128, 64, 128], [70, 130, 180]], [[0, 0, 0], [0, 0, 0]]]


def test_overlay_mixes_and_leaves_ignored_pixels():
    image = np.full((1, 2, 3), 100, np.uint8)
    mixed = overlay(image, np.array([[1, 255]], np.uint8), PALETTE, alpha=0.25)
    assert mixed.tolist() == [[[75, 125, 75], [100, 100, 100]]]
    with pytest.raises(ValueError, match="differ in size"):
        overlay(image, np.zeros((2, 1), np.uint8), PALETTE)


def test_mask_file_keeps_ids_and_shows_colours(tmp_path):
    mask = np.array([[0, 1, 2], [255, 1, 0]], np.uint8)
    path = tmp_path / "city" / "a.png"
    save_mask(path, mask, PALETTE)
    with Image.open(path) as image:
        assert image.mode == "P"
        np.testing.assert_array_equal(np.array(image), mask)
        np.testing.assert_array_equal(np.array(image.convert("RGB")), colourize(mask, PALETTE))
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]  # no temporary file left
    with pytest.raises(ValueError, match="uint8"):
        save_mask(path, mask.astype(np.int64), PALETTE)


def test_mask_file_of_255_ids_keeps_every_id(tmp_path):
    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    save_mask(tmp_path / "a.png", mask, np.zeros((255, 3), np.uint8))
    np.testing.assert_array_equal(np.array(Image.open(tmp_path / "a.png")), mask)


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.png"
    save_mask(path, np.zeros((2, 2), np.uint8), PALETTE)
    before = path.read_bytes()

    def fail(self, file, *_):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        save_image(path, np.ones((2, 2, 3), np.uint8))
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_legend_shows_every_colour_and_fits_long_names():
    names = ["road", "a very long class name indeed", "sky"]
    picture = legend(names, PALETTE, rows=2)
    for color in PALETTE:
        assert (picture == color).all(-1).sum() > 300
    assert (picture[:, -3:] == 255).all()  # nothing cut off at the right
    assert picture[..., 0].min() < 60  # letters


def test_side_by_side_scales_to_one_height():
    red = np.zeros((10, 20, 3), np.uint8) + np.array([255, 0, 0], np.uint8)
    blue = np.zeros((40, 40, 3), np.uint8) + np.array([0, 0, 255], np.uint8)
    row = side_by_side([red, blue], height=20, gap=4)
    assert row.shape == (20, 40 + 4 + 20, 3)
    assert row[10, 5].tolist() == [255, 0, 0] and row[10, 60].tolist() == [0, 0, 255]
    titled = side_by_side([red, blue], ["one", "two"], height=20)
    assert titled.shape[0] > row.shape[0] and titled[: -row.shape[0]].min() < 100
