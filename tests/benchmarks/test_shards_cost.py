"""benchmarks/shards.py in miniature."""

import json
from pathlib import Path

import pytest

from benchmarks import shards


def test_shards_are_compared_with_the_same_files(tmp_path: Path, capsys) -> None:
    out = tmp_path / "shards.json"
    argv = ["--images", "12", "--shards", "3", "--pictures", "2", "--rounds", "1"]
    shards.main([*argv, "--json", str(out)])
    report = json.loads(out.read_text())
    assert all(value > 0 for part in report["rounds"][0].values() for value in part.values())
    lines = capsys.readouterr().out.splitlines()[-4:]
    starts = ("| start, 12 images in 3 shards", "| the first", "| samples", "| bytes")
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))


def test_shares_are_of_the_same_round() -> None:
    def one(files: float, tars: float) -> dict:
        rates = {f"{what}, {k}": v for what in ("samples", "bytes")
                 for k, v in (("files", files), ("shards", tars))}  # fmt: skip
        return {"start": {"files": 2.0, "shards, first": 4.0, "shards": 1.0}, "reading": rates}

    report = {"machine": {"cores": 2}, "images": 7, "shards": 2, "rounds": [one(10, 20), one(4, 4)]}
    rows = [*shards.rows(report)]
    assert rows[0][0] == "start, 7 images in 2 shards, CPU-s"
    assert rows[0][1:] == ["2 [2-2]", "1 [1-1]", "**0.5 [0.5-0.5]**"]
    assert rows[2][3] == "**1.5 [1-2]**"
    with pytest.raises(SystemExit):
        shards.main(["--shards", "0"])
