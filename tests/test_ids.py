"""datasets/ids.py: one image, however its name is written."""

import unicodedata
from pathlib import Path

import pytest

from datasets.files import list_files, read_split_list
from datasets.ids import difference, image_id, match_ids
from utils.safe.errors import InputError

COMPOSED = "stra\u00dfe/caf\u00e9"
DECOMPOSED = unicodedata.normalize("NFD", COMPOSED)


def test_an_id_loses_one_ending_and_is_composed() -> None:
    assert image_id("a/0001.png.jpg", ".jpg") == "a/0001.png"
    assert image_id(f"{DECOMPOSED}.JPG", ".jpg") == COMPOSED
    assert image_id("aachen_leftImg8bit.png", "_leftImg8bit.png") == "aachen"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("a/0001", "a/0001"),
        ("a/0001.jpg", "a/0001"),
        ("a/0001.JPEG", "a/0001"),
        ("a/0001.png", "a/0001.png"),  # as it stands: what a listing calls it
        ("a/0001.png.jpg", "a/0001.png"),
        ("./a/0001.jpg", "a/0001"),
        ("a\\0001.jpg", "a/0001"),
        ("a//0001", "a/0001"),
        (f"{DECOMPOSED}.jpg", COMPOSED),
        (DECOMPOSED, COMPOSED),
        ("A/0001.jpg", "a/0001"),
        ("a/0001.jpg  ", "a/0001"),
        ("a/two\u00a0words", "a/two words"),
        ("\ufeffa/two  words.png", "a/two words"),
        ("b/0001", None),
        ("a/0001.txt", None),
        ("0001", None),
    ],
)
def test_a_key_means_the_id_that_a_person_would_say(key: str, name: str | None) -> None:
    known = ["a/0001", "a/two words", COMPOSED, *(["a/0001.png"] if ".png" in key else [])]
    keys = [key, "a/0001"] if key == "a/0001.png" else [key]
    assert match_ids(keys, known).get(key) == name


def test_ids_mean_themselves() -> None:
    known = ["a", "a.png", "a.png.jpg", "b ", "b", "B", DECOMPOSED]
    assert match_ids(known, known) == {name: name for name in known}


@pytest.mark.parametrize(
    ("keys", "known", "message"),
    [
        (["a", "a.jpg"], ["a"], "a and a.jpg differ in the ending only.*keep one"),
        (["a.jpg", "a.png"], ["a"], "both mean the image 'a'"),
        ([COMPOSED, DECOMPOSED], [COMPOSED], r"e\\u0301.*look the same"),
        (["IMG", "Img"], ["img"], "capital letters only"),
        (["img"], ["IMG", "Img"], "'img' may mean two images.*capital letters only"),
        (["a.jpg"], ["a", "a.jpg"], "may mean two images, 'a.jpg' and 'a'"),
    ],
)
def test_what_two_readings_fit_is_refused(keys: list, known: list, message: str) -> None:
    with pytest.raises(InputError, match=message):
        match_ids(keys, known)


def test_a_better_match_leaves_the_other_key_alone() -> None:
    assert match_ids(["img", "IMG"], ["img"]) == {"img": "img"}  # IMG may be of other images
    assert difference("a", "a.jpg") == "a and a.jpg differ in the ending only"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("0001", "0001"),
        ("0001.png", "0001"),
        ("images\\train\\0001.png", "0001"),
        ("/SegNet/train/0001.png /SegNet/trainannot/0001.png", "0001"),
        ("train/0001.jpg masks/two words.png", "0001"),
        ("2007_000032 -1", "2007_000032"),
        ("two words.png", "two words"),
        ("my data/two words.png", "two words"),
        ("\ufeff0001.png", "0001"),
        ("0001.png.jpg", "0001.png"),
        (f"{DECOMPOSED}.jpg", COMPOSED),
        ("left/0003.png", "left/0003"),
    ],
)
def test_lines_of_a_split_list(tmp_path: Path, line: str, name: str) -> None:
    known = ["0001", "2007_000032", "two words", "left/0003", COMPOSED]
    known += ["0001.png"] if name == "0001.png" else []
    (tmp_path / "train.txt").write_text(f"{line}\n\n{line}\n", encoding="utf-8")
    assert read_split_list(tmp_path / "train.txt", known) == [name, name]
    (tmp_path / "train.txt").write_text(f"{line}\nnowhere.png\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"train.txt names 'nowhere', but there is no such image"):
        read_split_list(tmp_path / "train.txt", known)


def test_a_listing_has_composed_ids_of_files_as_they_are_named(tmp_path: Path) -> None:
    decomposed = unicodedata.normalize("NFD", "caf\u00e9")
    (tmp_path / f"{decomposed}.PNG").touch()
    (tmp_path / "0001.png.jpg").touch()
    files = list_files(tmp_path)
    assert list(files) == ["0001.png", "caf\u00e9"]
    assert Path(files["caf\u00e9"].path).exists()
    (tmp_path / "caf\u00e9.jpg").touch()
    with pytest.raises(InputError, match=r"cafe\\u0301.*caf\\xe9.*look the same; keep one"):
        list_files(tmp_path)
