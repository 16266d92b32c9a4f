"""No reference file goes unread: each is named, or matched, by a test that asserts its keys."""

from pathlib import Path

import conftest
import pytest
from conftest import golden_files, golden_path

TESTS = Path(__file__).parent
READ_BY_PATTERN = ("loss_",)  # tests/test_carb.py takes all of these


@pytest.mark.parametrize("name", golden_files("*.np*") + golden_files("*.pth"))
def test_golden_file_is_read_by_a_test(name: str) -> None:
    golden_path(name)  # a skip where there is no such file
    sources = [
        path.read_text() for path in TESTS.glob("test_*.py") if path.name != "test_goldens.py"
    ]
    assert name.startswith(READ_BY_PATTERN) or any(f'"{name}"' in source for source in sources)


@pytest.mark.parametrize("value", ["", "nowhere"])
def test_a_folder_that_is_named_must_be_there(value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CARB_GOLDENS", value)
    with pytest.raises(pytest.UsageError, match=f"CARB_GOLDENS={value}: no such folder"):
        conftest._folder("CARB_GOLDENS", TESTS)
    monkeypatch.delenv("CARB_GOLDENS")
    assert conftest._folder("CARB_GOLDENS", TESTS) == TESTS
    assert conftest._folder("CARB_GOLDENS", TESTS / "nowhere") is None


def test_missing_files_are_skipped_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conftest, "GOLDENS", tmp_path)
    assert golden_files("loss_*.npz") == ["loss_*.npz"]
    with pytest.raises(pytest.skip.Exception, match=r"reference cases loss_\*\.npz not found"):
        golden_path("loss_*.npz")
