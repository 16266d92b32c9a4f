"""benchmarks/comparators.py: costs by differences, the table, and a measurement of some methods."""

import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import comparators
from benchmarks.comparators import QUICK, ROWS, Place, Row, Sizes, Work
from benchmarks.output import PAGE, ROOT
from utils.safe.errors import InputError
from utils.safe.files import read_json


class Linear(Place):
    """Every process starts for 7 s; a step takes 2 s, a mask 0.3 s, a training image 0.1 s."""

    def seconds(self, row: Row, work: Work) -> float:
        return 7 + 2 * work.steps + 0.3 * work.masks + 0.1 * work.images


def row(name: str) -> Row:
    return next(one for one in ROWS if one.name == name)


@pytest.mark.parametrize("sizes", [Sizes(), QUICK])
def test_a_cost_is_a_difference_over_the_images_it_is_of(sizes: Sizes, tmp_path: Path) -> None:
    found = comparators.measure(row("psa"), sizes, Linear(tmp_path))
    assert found == pytest.approx({"training": 0.5, "masks": 0.3, "training images": 0.1})
    assert comparators.measure(row("prior"), sizes, Linear(tmp_path)) == pytest.approx(
        {"masks": 0.3}
    )


def test_cheap_masks_are_more(tmp_path: Path) -> None:
    sizes = Sizes()
    assert sizes.more("masks", row("prior")) == replace(sizes.least, masks=sizes.many)
    assert sizes.more("masks", row("seam")) == replace(sizes.least, masks=sizes.masks)


def test_a_result_has_a_value_per_round(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(comparators, "Place", Linear)
    rows = [row("base"), row("cam")]
    base, cam = comparators.results(rows, 2, QUICK)
    assert base == {"method": "base", "training": pytest.approx([0.5, 0.5])}
    assert cam["training"] == pytest.approx([0.5, 0.5]) and cam["masks"] == pytest.approx([0.3] * 2)


def test_the_table_has_the_ratios_of_a_round() -> None:
    report = {
        "machine": {"cores": 2},
        "results": [
            {"method": "clip_masks", "masks": [0.1, 0.2]},
            {"method": "base", "training": [0.5, 1.0]},
            {"method": "psa", "training": [1.0, 3.0], "masks": [0.4, 0.4], "training images": [1]},
        ],
    }
    lines = comparators.table(report).splitlines()
    assert lines[0] == "*cores 2*"
    assert "| `gen_clip_masks.py` |  |  | 0.15 [0.1-0.2] | 1 [1-1] |  |" in lines
    assert "| `train_warmup.py`, `views: base` | 0.75 [0.5-1] | 1 [1-1] |  |  |  |" in lines
    below = {"method": "cam", "training": [0.1, -0.1], "masks": [0.1, 0.2]}
    noisy = comparators.table(report | {"results": [*report["results"], below]}).splitlines()
    assert noisy[-1] == "| `cam` | below noise |  | 0.15 [0.1-0.2] | 1 [1-1] |  |"
    psa = "| `psa` | 2 [1-3] | 2.5 [2-3] | 0.4 [0.4-0.4] | 3 [2-4] | 1 |"
    assert lines[-1] == psa


def test_cpu_seconds_are_those_of_main_and_it_prints_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(argv: list[str]) -> None:
        print(argv)
        end = time.process_time() + 0.3
        while time.process_time() < end:
            pass

    monkeypatch.setitem(sys.modules, "a_method", SimpleNamespace(main=main))
    assert 0.25 < comparators.cpu_seconds("a_method", ["--out"]) < 0.6
    assert capsys.readouterr().out == ""


def test_every_baseline_has_a_row() -> None:
    shared = {"__init__", "common", "stages"}
    files = {path.stem for path in (ROOT / "baselines").glob("*.py")} - shared
    assert {one.module.removeprefix("baselines.") for one in ROWS} - files == {
        "gen_clip_masks",
        "train_warmup",
        "train_carb",
    }
    assert files <= {one.name for one in ROWS}


def commands(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> list[tuple[str, Any]]:
    """What a process of a row runs, with what it reads."""
    ran: list[tuple[str, Any]] = []
    monkeypatch.setattr(comparators, "in_new_process", lambda *given: ran.append(given) or 1.0)
    Place(folder).seconds(row(name), Work(3, 4, 12))
    return ran


def test_what_a_method_reads_is_made_before_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    ran = commands("amn", monkeypatch, tmp_path)
    modules = [module for module, _ in ran]
    assert modules == ["demo.make_scenes", "gen_clip_masks", "baselines.cam", "baselines.amn"]
    cams, argv = f"{tmp_path}/cams_12", ran[-1][1]
    assert argv[:2] == ["--cams", cams] and cams in ran[-2][1] and "steps=3" in argv


def test_carb_takes_its_steps_after_the_warm_up(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (_, before), (module, argv) = commands("carb", monkeypatch, tmp_path)[-2:]
    assert module == "train_carb" and argv[0] == "--init"
    for settings in (before, argv):
        assert settings.index("carb=true") > settings.index("carb=false")  # the last one counts
        assert {"steps=5", "warmup_steps=2"} <= {*settings}


def test_the_page_has_no_table_of_a_part(tmp_path: Path) -> None:
    for arguments in (["--quick"], ["cam"]):
        with pytest.raises(InputError, match="the table has all methods"):
            comparators.main([*arguments, "--write", "--json", str(tmp_path / "new.json")])
    assert not list(tmp_path.iterdir())


def test_unknown_methods_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        comparators.main(["dogs"])
    assert "dogs: expected one of clip_masks, " in capsys.readouterr().err


def test_the_page_holds_the_table_of_the_results() -> None:
    file = ROOT / "benchmarks" / "results" / "comparators_cpu.json"
    if not file.exists():
        pytest.skip("not measured yet: python -m benchmarks.comparators --json FILE --write")
    report = read_json(file)
    assert comparators.table(report) in PAGE.read_text(encoding="utf-8")
    measured = {one["method"]: {*one} - {"method"} for one in report["results"]}
    assert measured == {one.name: {*one.costs} for one in ROWS}


@pytest.mark.slow
def test_methods_can_be_measured(tmp_path: Path) -> None:
    """Of each kind of command and of what methods read; a step and an image have no costs."""
    file, methods = tmp_path / "new.json", ["carb", "points", "sec", "psa"]
    comparators.main([*methods, "--quick", "--rounds", "1", "--json", str(file)])
    found = {one.pop("method"): one for one in read_json(file)["results"]}
    assert {*found} == {"clip_masks", "base", *methods}
    assert {len(values) for one in found.values() for values in one.values()} == {1}


@pytest.mark.slow
def test_a_failing_method_says_why(tmp_path: Path) -> None:
    argv = ["--config", str(tmp_path / "none.yaml"), "--run-dir", "run", "--out", "out"]
    with pytest.raises(InputError, match="none.yaml"):
        comparators.in_new_process("baselines.cam", argv)
