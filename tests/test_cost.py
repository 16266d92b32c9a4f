"""utils/cost.py: what is measured, and when it is written."""

import json
import time
from pathlib import Path

import pytest
import torch

from utils import cost
from utils.cost import measured
from utils.distributed import Ranks

MAIN = Ranks(0, 1, torch.device("cpu"))


def work(file: Path, seconds: list[float], ranks: Ranks = MAIN, wait: float = 0) -> dict | None:
    """cost.json of a loop whose items take these seconds, and `wait` to be read."""

    def items():
        for item in seconds:
            time.sleep(wait)
            yield item

    seen = []
    for item in measured(items(), file, ranks):
        time.sleep(item)
        seen.append(item)
    assert seen == seconds
    return json.loads(file.read_text()) if file.is_file() else None


def test_the_time_is_that_of_the_body_without_the_first_item(tmp_path) -> None:
    found = work(tmp_path / "cost.json", [0.2, 0.01, 0.02, 0.01], wait=0.05)
    assert found["images"] == 3 and 0.01 <= found["seconds_per_image"] < 0.045
    assert (found["device"], found["processes"]) == ("cpu", 1)
    assert found["threads"] == torch.get_num_threads()


def test_one_item_and_other_ranks_write_nothing(tmp_path) -> None:
    file = tmp_path / "cost.json"
    assert work(file, [0.0]) is None and work(file, []) is None
    assert work(file, [0.0, 0.0], Ranks(1, 2, torch.device("cpu"))) is None
    earlier = work(file, [0.0, 0.0, 0.0])
    assert work(file, [0.0]) == earlier  # the last image of an interrupted call


def test_a_loop_that_fails_writes_nothing(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError):
        for item in measured([1, 1, 0], tmp_path / "cost.json", MAIN):
            1 / item
    assert not (tmp_path / "cost.json").exists()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="not Linux")
def test_the_peak_is_that_of_the_loop(tmp_path) -> None:
    before = torch.ones(100_000_000)  # 400 MB, released before the loop
    del before
    small = work(tmp_path / "small.json", [0.0, 0.0])["peak_memory"]
    for _ in measured([1, 2], tmp_path / "large.json", MAIN):
        torch.ones(50_000_000).sum()
    large = json.loads((tmp_path / "large.json").read_text())["peak_memory"]
    assert large - small > 150e6


def test_memory_is_unknown_elsewhere(tmp_path, monkeypatch) -> None:
    class NoPath(type(Path())):
        def is_file(self) -> bool:
            return False

    monkeypatch.setattr(cost, "Path", NoPath)
    assert work(tmp_path / "cost.json", [0.0, 0.0])["peak_memory"] is None
