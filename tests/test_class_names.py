"""Class names from two sides: other names, another order, and spellings that are the same."""

from pathlib import Path

import pytest

from datasets.labels import has_background, load_classes
from utils.class_names import compare_class_names
from utils.safe.errors import InputError, InputWarning

NAMES = ("road", "traffic light", "sky")


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (("sky", "traffic light", "road"), r"'sky' where .* 'road' \(class 0, the same names in"),
        (("road", "pole", "sky"), r"'pole' where the class file has 'traffic light' \(class 1\)"),
        (("road", "traffic light"), r"no class where the class file has 'sky' \(class 2\)"),
        (("road", "traffic light", "sky", "car"), r"'car' where the class file has no class"),
    ],
)
def test_other_classes_are_refused(found: tuple[str, ...], message: str) -> None:
    with pytest.raises(InputError, match=f"last.pt was trained for other classes: {message}.*; go"):
        compare_class_names(found, NAMES, "last.pt was trained", "go back")


def test_other_spellings_are_the_same(recwarn: pytest.WarningsRecorder) -> None:
    compare_class_names(NAMES, NAMES, "last.pt was trained", "")
    assert not recwarn
    with pytest.warns(InputWarning, match="'Traffic_Light'.*'traffic light'.*the same class"):
        compare_class_names(("Road ", "Traffic_Light", "sky")[1:], NAMES[1:], "it was made", "")


@pytest.mark.parametrize(
    ("names", "expected"), [("Background car", True), ("car background", False)]
)
def test_a_background_is_class_0(tmp_path: Path, names: str, expected: bool) -> None:
    path = tmp_path / "classes.yaml"
    path.write_text(f"classes: [{names.replace(' ', ', ')}]")
    assert has_background(load_classes(path)) == expected
