"""No reference file goes unread: each is named, or matched, by a test that asserts its keys."""

from pathlib import Path

import pytest
from conftest import golden_files

TESTS = Path(__file__).parent
READ_BY_PATTERN = ("loss_",)  # tests/test_carb.py takes all of these


@pytest.mark.parametrize("name", golden_files("*.np*") + golden_files("*.pth"))
def test_golden_file_is_read_by_a_test(name: str) -> None:
    sources = [
        path.read_text() for path in TESTS.glob("test_*.py") if path.name != "test_goldens.py"
    ]
    assert name.startswith(READ_BY_PATTERN) or any(f'"{name}"' in source for source in sources)


def test_golden_folder_is_there_or_this_is_a_skip() -> None:
    if not golden_files("*.npz"):
        pytest.skip("reference cases of the authors' code not found (set CARB_GOLDENS)")
    assert len(golden_files("loss_*.npz")) > 0
