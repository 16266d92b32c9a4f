"""What the tests of every group of targets check."""

from collections import Counter
from pathlib import Path

from tests.fuzz.__main__ import fuzz
from tests.fuzz.reading import Target, read

DEEP = b"[" * 3000


def check_target(name: str, target: Target, reading: Path) -> None:
    """Good files are read, and no damaged one is a fault."""
    counts = Counter()
    for content in (*target.files, *map(target.dump or bytes, target.values)):
        assert read(name, target, content, reading) == "read"
    assert fuzz(name, target, 1, 12, set(), reading.parent, counts) is None
    assert sum(counts.values()) == 12


def check_yaml_bomb(name: str, target: Target, reading: Path) -> None:
    """Ten lines of YAML are not a thousand million values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i + 1}: &a{i + 1} [{', '.join([f'*a{i}'] * 9)}]" for i in range(9)]
    assert read(name, target, "\n".join(lines).encode(), reading) == "refused"
