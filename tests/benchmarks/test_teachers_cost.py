"""benchmarks/teachers.py: ratios by round, targets, and a measurement of every preset."""

from typing import Any

import pytest
import torch

from benchmarks import teachers
from benchmarks.harness import Options
from benchmarks.output import PAGE, ROOT
from utils.safe.errors import InputError
from utils.safe.files import read_json

QUICK = Options("cpu", quick=True)
SIZE = teachers.QUICK_SIZES[0]


def result(preset: str, ratio: list[float], peak: list[float]) -> dict[str, Any]:
    case = {"size": [64, 128], "precision": "fp32", "preset": preset}
    return case | {"seconds": [2 * one for one in ratio], "ratio": ratio, "peak": peak}


def test_ratios_are_those_of_a_round(monkeypatch) -> None:
    measured, seconds = [], iter([2.0, 3.0, 4.0, 8.0])

    def fake(preset: str, size: tuple[int, int], precision: str, options: Options) -> dict:
        measured.append(preset)
        return {"seconds": next(seconds), "peak": 10.0 * len(measured)}

    monkeypatch.setattr(teachers, "_in_new_process", fake)
    baseline, fast = teachers.results(["fast"], 2, QUICK)
    assert measured == ["maskclip", "fast", "maskclip", "fast"]  # they alternate
    assert baseline["preset"] == "maskclip" and baseline["ratio"] == [1.0, 1.0]
    assert fast["preset"] == "fast" and fast["ratio"] == [1.5, 2.0]
    assert fast["seconds"] == [3.0, 8.0] and fast["peak"] == [20.0, 40.0]
    assert fast["size"] == list(SIZE) and fast["precision"] == "fp32"


def test_each_measurement_is_a_process_of_its_own(monkeypatch) -> None:
    """One process for each call: a peak of an earlier preset would hide that of a later one."""
    started = []

    class Process(teachers.ProcessPoolExecutor):
        def __init__(self, workers: int, context: Any) -> None:
            started.append((workers, context.get_start_method()))
            super().__init__(workers, context)

        def submit(self, function: Any, *arguments: Any) -> Any:
            assert function is teachers.measure
            return super().submit(dict, seconds=1.0, peak=float(len(started)))

    monkeypatch.setattr(teachers, "ProcessPoolExecutor", Process)
    found = teachers.results(["fast", "strong"], 1, QUICK)
    assert started == [(1, "spawn")] * 3
    assert [one["peak"] for one in found] == [[1.0], [2.0], [3.0]]


def test_targets_are_of_the_median_ratio_and_of_the_largest_peak() -> None:
    report = {
        "machine": {"cores": 2},
        "options": {"device": "cpu"},
        "results": [
            result("maskclip", [1.0], [1500.0]),
            result("fast", [1.0, 1.1, 1.3], [100.0, 200.0, 300.0]),
            result("strong", [9.0, 9.0], [1400.0, 1501.0]),
        ],
    }
    lines = teachers.table(report).splitlines()
    assert lines[0] == "*cores 2*"
    assert "| `maskclip` | 2 | 1 |  | 1500 | ≤ 1500 met |" in lines
    fast = "| `fast` | 2.2 [2-2.6] | 1.1 [1-1.3] | ≤ 1.1 met | 200 [100-300] | ≤ 1500 met |"
    assert fast in lines
    assert lines[-1] == "**Targets missed:** strong at 64x128, fp32 (≤ 1500 MISSED)."
    report["results"][1]["ratio"] = [1.0, 1.11, 1.2]
    assert "fast at 64x128, fp32 (≤ 1.1 MISSED), strong" in teachers.table(report)


def test_the_peak_is_that_above_the_model(monkeypatch) -> None:
    resident = {"VmRSS": 3_000_000_000, "VmHWM": 4_250_000_000}
    monkeypatch.setattr(teachers, "resident", resident.__getitem__)
    found = teachers.measure("fast", SIZE, "fp32", QUICK)
    assert found["peak"] == 1250 and found["seconds"] > 0


def test_on_a_gpu_the_peak_is_that_of_one_mask(monkeypatch) -> None:
    """With stand-ins for CUDA: its peak is read once, before the calls that are timed."""
    masks, read_after = [], []
    whole = teachers.MaskCLIP.forward

    def forward(self: Any, *arguments: Any) -> Any:
        masks.append(self.visual.proj.dtype)
        return whole(self, *arguments)

    def peak() -> int:
        read_after.append(len(masks))
        return 7_000_000

    monkeypatch.setattr(teachers.MaskCLIP, "forward", forward)
    monkeypatch.setattr(teachers, "_on_gpu", lambda options: True)
    monkeypatch.setattr("torch.cuda.memory_allocated", lambda: 2_000_000)
    monkeypatch.setattr("torch.cuda.max_memory_allocated", peak)
    assert teachers.measure("fast", SIZE, "bf16", QUICK)["peak"] == 5
    assert read_after == [1] and masks == [torch.bfloat16] * (1 + teachers.GPU_CALLS)


def test_a_teacher_has_the_parts_of_its_preset() -> None:
    options = teachers.build_teacher("naclip_pamr", QUICK).options
    assert (options.attention, options.gaussian_std, options.pamr_steps) == ("kk", 5.0, 10)
    assert (options.short_side, options.window, options.residual) == (560, (224, 224), False)


@pytest.mark.slow
@pytest.mark.parametrize("preset", teachers.TEACHERS)
def test_every_preset_can_be_measured(preset: str) -> None:
    assert teachers.measure(preset, SIZE, "fp32", QUICK)["seconds"] > 0


def test_the_page_has_no_table_of_a_part(tmp_path) -> None:
    for arguments in (["--quick"], ["fast"]):
        with pytest.raises(InputError, match="the table has all presets"):
            teachers.main([*arguments, "--write", "--json", str(tmp_path / "new.json")])
    assert not list(tmp_path.iterdir())


def test_unknown_presets_are_refused(capsys) -> None:
    with pytest.raises(SystemExit):
        teachers.main(["fastest"])
    assert "fastest: expected one of maskclip, " in capsys.readouterr().err


def test_the_page_holds_the_table_of_the_results() -> None:
    report = read_json(ROOT / "benchmarks" / "results" / "teachers_cpu.json")
    assert teachers.table(report) in PAGE.read_text(encoding="utf-8")
    measured = {(tuple(one["size"]), one["preset"]) for one in report["results"]}
    assert measured == {(size, name) for size in teachers.SIZES for name in teachers.TEACHERS}
