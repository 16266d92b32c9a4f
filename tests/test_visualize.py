"""Colours, overlays, paletted files and the drawn pictures."""

import numpy as np
import pytest
from PIL import Image

from utils import visualize
from utils.safe.errors import InputWarning
from utils.visualize import colourize, gallery, legend, overlay, save_image, save_mask

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


def solid(height: int, width: int, color: tuple[int, int, int]) -> np.ndarray:
    return np.broadcast_to(np.array(color, np.uint8), (height, width, 3))


def test_gallery_shows_rows_of_one_panel_width_over_the_legend():
    red, blue = solid(10, 20, (255, 0, 0)), solid(40, 40, (0, 0, 255))
    picture = gallery([[red, blue], [blue, red]], ["one", "two"], ["road", "sky", "car"], PALETTE)
    # 20 goes 44 times into its part of 1800 pixels; the second row is as high as its first panel
    size = 44 * 20
    assert picture.shape[1] == 6 + size + 6 + size + 6
    red_rows = np.nonzero((picture[:, 10] == (255, 0, 0)).all(-1))[0]
    assert len(red_rows) == 10 * 44
    blue_rows = np.nonzero((picture[:, 10] == (0, 0, 255)).all(-1))[0]
    assert len(blue_rows) == size and blue_rows[0] == red_rows[-1] + 1 + 6
    for color in PALETTE:
        assert (picture[blue_rows[-1] + 1 :] == color).all(-1).sum() > 300
    heads = (picture[: red_rows[0]] < 128).all(-1).any(0)
    assert heads[6 : 6 + size].any() and heads[6 + size + 6 :].any()


@pytest.mark.parametrize(
    ("native", "columns", "panel"), [(2048, 5, 352), (480, 5, 352), (480, 4, 480), (160, 5, 320)]
)
def test_gallery_of_any_size_is_about_as_wide_as_two_pages(native, columns, panel):
    rows = [[solid(native // 2, native, (200, 9, 9))] * columns]
    picture = gallery(rows, ["heading"] * columns, ["road"], PALETTE)
    assert picture.shape[1] == columns * (panel + 6) + 6
    assert ((picture == (200, 9, 9)).all(-1).sum(0) == round(panel / 2)).sum() == columns * panel


def test_gallery_enlarges_labels_pixel_by_pixel():
    labels = colourize(np.random.default_rng(0).integers(0, 3, (30, 60)).astype(np.uint8), PALETTE)
    picture = gallery([[labels] * 4], ["", "", "", ""], ["road"], PALETTE)
    first = np.nonzero((picture != 255).any((1, 2)))[0][0]
    enlarged = picture[first : first + 30 * 7, 6 : 6 + 60 * 7]
    np.testing.assert_array_equal(enlarged, labels.repeat(7, 0).repeat(7, 1))


def test_long_headings_and_notes_are_broken_not_cut():
    rows = [[solid(100, 300, (200, 9, 9))] * 6]
    long = "a_run_folder_with_a_name_that_goes_on_and_on_without_a_space and some words more"
    notes = ["a note of many words " * 20]
    picture = gallery(rows, [long, "two\nlines", *["x"] * 4], ["road"], PALETTE, notes)
    assert picture.shape[1] == 6 * 306 + 6
    top = np.nonzero((picture == (200, 9, 9)).all(-1).any(1))[0][0]
    ink = (picture[:top] < 128).all(-1)
    head = np.nonzero(ink[:, 312:].any(1))[0][0]  # the second heading stands on the panels
    assert head > np.nonzero(ink.any(1))[0][0]
    assert not ink[:, :6].any() and not ink[:, -6:].any()
    assert not ink[: top // 2, 306:312].any()  # nothing runs into the next heading
    lines = ink.any(1)
    assert (lines[1:] & ~lines[:-1]).sum() >= 5  # lines of heading and note


def test_gallery_legend_takes_the_rows_it_needs():
    rows, names = [[solid(100, 590, (200, 9, 9))] * 3], [f"class number {k}" for k in range(25)]
    palette = np.array([[10 * k, 255 - 10 * k, 77] for k in range(25)], np.uint8)
    picture = gallery(rows, ["x"] * 3, names, palette)
    assert picture.shape[1] == 3 * (590 + 6) + 6
    for color in palette:
        assert (picture == color).all(-1).sum() > 50


def test_legend_shows_a_class_id_where_the_font_lacks_the_name():
    names = ["road", "дорога", "two\nlines"]
    with pytest.warns(InputWarning, match=r"show 1 of 3 classes by their ids \(1 for 'дорога'\)"):
        picture = legend(names, PALETTE)
    np.testing.assert_array_equal(picture, legend(["road", "1", "two\\nlines"], PALETTE))


def test_plain_names_are_shown_without_a_warning(recwarn):
    legend(["road", "traffic light", "a_b-c(1)/2 & <d>"], PALETTE)
    assert not recwarn.list


def test_overlay_of_a_large_picture_is_made_in_strips(monkeypatch):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (37, 23, 3)).astype(np.uint8)
    labels = rng.integers(0, 5, (37, 23)).astype(np.uint8)
    whole = overlay(image, labels, PALETTE, 0.3)
    for pixels in (1, 23, 100):
        monkeypatch.setattr(visualize, "_STRIP", pixels)
        np.testing.assert_array_equal(overlay(image, labels, PALETTE, 0.3), whole)
