"""The check of a GPU, in miniature: its order, its time budgets, its parts that fail, its files."""

import itertools
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import (
    gpu_check,
    gpu_tests,
    harness,
    loader,
    output,
    profile_step,
    shared_gpu,
    street_data,
    teachers,
    throughput,
    train_step,
)
from benchmarks.gpu_check import Part, run_parts
from benchmarks.harness import Case, Options
from benchmarks.profile_step import Kernel, idle_share, longest
from benchmarks.step_ways import GPU_QUICK, setting
from utils.batches import training_loader
from utils.config import load_config
from utils.safe.errors import InputError
from utils.safe.files import read_json

WRITE = "import json, sys; json.dump({'summary': ['seen']}, open(sys.argv[-1], 'w'));"
# A process of its own that outlives its parent, unless it is ended with the parent's group.
CHILD = "import subprocess, sys, time; child = subprocess.Popen(['sleep', '60']);"
CHILD += "open(sys.argv[1], 'w').write(str(child.pid)); time.sleep(60)"


def part(name: str, program: str, seconds: float = 20, *words: str, **more: float) -> Part:
    return Part(name, seconds, ["-c", program, *words], **more)


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Path, float]:
    """What parts of each kind gave: results, folder and seconds."""
    folder = tmp_path_factory.mktemp("check")
    (folder / "summary.json").write_text("{}")  # of an earlier check
    (folder / "log.txt").write_text("old")
    parts = [
        part("works", WRITE),
        part("fails", "print('why'); raise SystemExit(3)"),
        part("hangs", f"print('why', flush=True); {WRITE}{CHILD}", 1.5, str(folder / "pid")),
        part("later", WRITE),
        part("skipped", WRITE, least=10**6),
    ]
    start = time.perf_counter()
    found = run_parts(parts, folder, 43, {"cpu": "any"})  # 40 of them for the last two
    return found, folder, time.perf_counter() - start


def test_a_part_that_fails_or_hangs_does_not_stop_the_following_ones(checked) -> None:
    found, _, seconds = checked
    states = {one["name"]: (one["status"], one["exit_status"]) for one in found}
    assert states == {
        "works": ("done", 0),
        "fails": ("failed", 3),
        "hangs": ("stopped", None),
        "later": ("done", 0),
        "skipped": ("skipped", None),
    }
    assert list(states) == ["works", "fails", "hangs", "later", "skipped"]
    assert found[2]["seconds"] >= 1.5 and seconds < 60
    assert [one["log_end"] for one in found] == [[], ["why"], ["why"], [], []]


def test_a_stopped_part_leaves_its_file_and_no_process(checked) -> None:
    found, folder, _ = checked
    assert found[2]["result"] == {"summary": ["seen"]} and found[2]["summary"] == ["seen"]
    child = Path(f"/proc/{(folder / 'pid').read_text()}/stat")
    # Ended; the system may not have collected it yet.
    assert not child.exists() or child.read_text().rpartition(")")[2].split()[0] == "Z"


def test_two_files_hold_everything(checked) -> None:
    """Some machines give few files back."""
    found, folder, _ = checked
    assert {file.name for file in folder.iterdir()} == {"summary.json", "log.txt", "pid"}
    summary = read_json(folder / "summary.json")
    assert summary["parts"] == found and summary["machine"] == {"cpu": "any"}
    seen = {"summary": ["seen"]}
    assert [one["result"] for one in found] == [seen, None, seen, seen, None]
    assert (folder / "log.txt").read_text() == (
        "=== works\n=== fails\nwhy\n=== hangs\nwhy\n=== later\n"
    )
    text = gpu_check.in_words(found)
    assert "works: done" in text and "    seen" in text and "    | why" in text


def test_the_summary_has_all_targets(tmp_path: Path) -> None:
    target = output.target("GB", 39.0, most=40.0)
    result = {"summary": ["seen"], "targets": [target]}
    program = f"import json, sys; json.dump({result!r}, open(sys.argv[-1], 'w'))"
    found = run_parts([part("a", program), part("b", program)], tmp_path, 60, {})
    assert read_json(tmp_path / "summary.json")["targets"] == [target, target]
    assert gpu_check.in_words(found).endswith("target: GB 39 ≤ 40 met")


def test_the_whole_time_is_limited(tmp_path: Path, monkeypatch) -> None:
    """Each part gets what its budget and the time that is left allow, less the time to end it."""
    given = []

    def run(part: Part, log: Path, seconds: float) -> dict[str, Any]:
        given.append((part.name, seconds))
        assert [one["name"] for one in written(log.parent)] == [name for name, _ in given[:-1]]
        return {"status": "done", "seconds": 0.0, "targets": []}

    def written(folder: Path) -> list[dict[str, Any]]:
        file = folder / "summary.json"
        return read_json(file)["parts"] if file.is_file() else []

    now = itertools.count(0, 10)  # each reading is 10 s later
    monkeypatch.setattr(gpu_check, "run_part", run)
    parts = [Part("a", 30, []), Part("b", 30, []), Part("c", 30, []), Part("d", 1, [], 11)]
    found = run_parts(parts, tmp_path, 80, {}, clock=lambda: float(next(now)))
    assert given == [("a", 30), ("b", 30), ("c", 80 - 50 - gpu_check.GRACE)]
    assert [one["status"] for one in found] == ["done", "done", "done", "skipped"]
    # What is left over goes to the next ones.
    given.clear()
    now = itertools.count(0, 10)
    found = run_parts(parts[1:], tmp_path, 180, {}, clock=lambda: float(next(now)))
    assert given == [("b", 180 - 10 - 31), ("c", 150 - gpu_check.GRACE), ("d", 125)]
    assert [one["limit"] for one in found] == [139, 145, 125]


@pytest.mark.parametrize("quick", [False, True])
def test_the_parts_are_modules_with_a_json_file(quick: bool) -> None:
    parts = gpu_check.parts_of(Path("data"), "cpu" if quick else "cuda", quick)
    names = [one.name for one in parts]
    assert names[:4] == ["tests", "steps", "profile", "teachers"]
    compiled = [] if quick else ["compiled"]
    assert names[4:] == ["data", "throughput", "loader", *compiled, "two_processes"]
    assert sum(one.seconds for one in parts) + gpu_check.START <= gpu_check.LIMIT
    for one in parts:
        assert one.words[0] == "-m" and one.words[1].startswith("benchmarks.")
        assert Path(*one.words[1].split(".")).with_suffix(".py").is_file()
        assert ("cuda" in one.words) == (not quick and one.name != "data")
    assert set(gpu_check.teachers(False)[:-1]) < set(teachers.TEACHERS)


def test_only_a_gpu_is_checked_in_full(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="on a CPU only --quick"):
        gpu_check.main([str(tmp_path / "out")])
    if not torch.cuda.is_available():
        with pytest.raises(InputError, match="torch sees no CUDA device"):
            gpu_check.main([str(tmp_path / "out"), "--device", "cuda"])
    assert not list(tmp_path.iterdir())


def test_missing_packages_are_named_at_once(tmp_path: Path) -> None:
    """In an interpreter without any (-S), and one that lacks what CLIP imports."""
    command = [sys.executable, "-S", "-m", "benchmarks.gpu_check", str(tmp_path / "out"), "--quick"]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 2 and done.stderr.startswith("error: missing: torch (No module")
    assert all(f"{name} (" in done.stderr for name in gpu_check.NEEDED)
    assert gpu_check.DOWNLOAD in done.stderr and not list(tmp_path.iterdir())
    page = (output.ROOT / "docs" / "performance.md").read_text(encoding="utf-8")
    assert gpu_check.DOWNLOAD in " ".join(page.replace("\\\n", "").split())


def test_the_compiled_step_is_measured_apart() -> None:
    """Its compilation takes minutes."""
    names = [case.name for case in train_step.cases(Options("cuda", quick=True))]
    assert len(names) == 3 and not any("compiled" in name for name in names)
    [compiled] = train_step.cases(Options("cuda", quick=True), compiled=True)
    assert compiled.name == "training step, CARB, bf16, compiled" and compiled.target == 3
    assert len(train_step.cases(Options("cuda"))) == 8


def test_the_script_uses_the_wheels_beside_what_is_installed(tmp_path: Path) -> None:
    python, wheels, out = tmp_path / "python", tmp_path / "wheels", tmp_path / "out folder"
    python.write_text('#!/usr/bin/env bash\necho "path:${PYTHONPATH:-}" "$@"\n')
    python.chmod(0o755)
    wheels.mkdir()
    (wheels / "clip-1-py3-none-any.whl").touch()
    environment = os.environ | {"PYTHON": str(python), "OUT": str(out), "PYTHONPATH": "own"}

    def lines(*words: str, **more: str) -> list[str]:
        command = ["bash", "scripts/gpu_check.sh", *words]
        done = subprocess.run(command, env=environment | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.splitlines()

    install, check = lines(WHEELS=str(wheels))
    assert "--no-index --no-deps --target" in install and "clip-1-py3-none-any.whl" in install
    folder = install.split("--target ")[1].split()[0]
    assert check.startswith(
        f"path:{folder}:own -m benchmarks.gpu_check {out} --device cuda --limit"
    )
    assert not Path(folder).exists()
    [check] = lines("here", "--device", "cpu", "--quick")
    assert check.startswith("path:own -m benchmarks.gpu_check here --limit ")
    assert check.endswith(" --device cpu --quick") and int(check.split()[5]) > 500


# --- its parts


def test_results_are_written_one_by_one(tmp_path: Path, monkeypatch) -> None:
    """So that a part that is stopped leaves what it has measured."""
    file, seen = tmp_path / "steps.json", []

    def check() -> str:
        seen.append(len(read_json(file)["results"]) if file.is_file() else 0)
        return "equal"

    cases = [Case(name, check, lambda: None, lambda: sum(range(1000))) for name in "abc"]
    parsed = harness.parser("").parse_args(["--json", str(file), "--quick"])
    harness.run({"one": lambda options: cases}, parsed)
    assert seen == [0, 1, 2]
    lines = gpu_check.sentences(read_json(file))
    assert len(lines) == 3 and lines[0].startswith("a: official ")

    found, counts = iter(range(1, 9)), []
    monkeypatch.setattr(
        teachers, "_in_new_process", lambda *_: {"seconds": 1.0 * next(found), "peak": 1.0}
    )
    write = teachers.write_json

    def spy(path: Path, content: dict[str, Any]) -> None:
        counts.append([one["preset"] for one in content["results"]])
        write(path, content)

    monkeypatch.setattr(teachers, "write_json", spy)
    file = tmp_path / "teachers.json"
    teachers.main(["fast", "strong", "--quick", "--part", "--rounds", "1", "--json", str(file)])
    assert counts == [["maskclip"], ["maskclip", "fast"], ["maskclip", "fast", "strong"]]
    assert gpu_check.sentences(read_json(file))[1].startswith("fast, fp32: 2.0000 s, 2.00 of")


def test_part_of_the_teachers_is_one_size_in_the_precision_of_the_device() -> None:
    assert teachers.cases_of(Options("cuda"), part=True) == [((512, 1024), "bf16")]
    assert teachers.cases_of(Options("cpu"), part=True) == [((512, 1024), "fp32")]
    assert len(teachers.cases_of(Options("cuda"))) == 4
    assert setting(Options("cuda", quick=True)) == GPU_QUICK


def test_idle_is_the_time_without_any_kernel() -> None:
    two_streams = [Kernel("a", 0, 10), Kernel("b", 5, 20), Kernel("a", 30, 40), Kernel("c", 32, 34)]
    assert idle_share(two_streams) == pytest.approx(10 / 40)
    assert idle_share(reversed(two_streams)) == pytest.approx(10 / 40)
    assert idle_share([]) is None and idle_share([Kernel("a", 3, 3)]) == 0
    rows = longest(two_streams, steps=2)
    assert [row["name"] for row in rows] == ["a", "b", "c"]
    assert rows[0] == {"name": "a", "ms": 0.01, "calls": 1.0, "share": pytest.approx(20 / 37)}
    many = [Kernel(str(i), 0, i) for i in range(99)]
    assert [row["name"] for row in longest(many, 1)][:2] == ["98", "97"]
    assert len(longest(many, 1)) == 25


def test_a_rate_leaves_out_the_start() -> None:
    def work():
        time.sleep(0.3)
        for _ in range(3):
            yield 2
        while True:
            time.sleep(0.01)
            yield 2

    assert 100 < loader.rate(work(), 0.2) <= 200
    lines = [{"images_per_second": rate} for rate in (1.0, 1.0, 10.0, 30.0)]
    assert loader.logged_rate(lines) == pytest.approx(15)  # each line has as many images
    with pytest.raises(InputError, match="only 2 log lines"):
        loader.logged_rate(lines[:2])


def test_the_loader_is_measured_number_by_number(tmp_path, monkeypatch) -> None:
    file = street_data.write(tmp_path, quick=True)
    assert load_config(file).auto == ["precision", "channels_last"]
    rates = iter([500.0, 100.0])
    monkeypatch.setattr(loader, "rate", lambda work, *_: next(iter(work)) and next(rates))
    from_disk = {"warmup": 90.0, "carb": 96.0}
    monkeypatch.setattr(loader, "from_disk", lambda *_: from_disk.items())
    monkeypatch.setattr(loader, "training_loader", loaded_here)
    written = saved(monkeypatch, loader)
    command = ["--data", str(tmp_path), "--seconds", "1", "--quick", "--json", "any.json"]
    loader.main(command)
    *parts, last = [one["summary"] for one in written]
    assert [len(one) for one in parts] == [1, 2, 3, 5]
    assert last == parts[-1] and last[-1] == "the loader is not the limit"
    assert last[1] == "CARB from JPEGs with 1 workers: 96.0 images/s"
    assert len(list((tmp_path / "data/images/train").iterdir())) == 4
    # The network that predict.py gets.
    checkpoint = throughput.write_checkpoint(file, tmp_path / "network.pt")
    content = torch.load(checkpoint, weights_only=True)
    assert content["config"]["precision"] == "fp32" and content["model"]


def saved(monkeypatch, module: Any) -> list[dict[str, Any]]:
    """What `module` writes from now on: copies of its reports, instead of its file."""
    reports: list[dict[str, Any]] = []

    def save(report: dict[str, Any], arguments: Any) -> None:
        reports.append(dict(report))

    monkeypatch.setattr(module, "save", save)
    monkeypatch.setattr(output, "save", save)
    return reports


@pytest.mark.parametrize(
    ("carb", "alone", "words"),
    [
        (96.0, 50.0, "the loader is not the limit"),
        (94.0, 95.0, "the loader is the limit"),
        (94.0, 104.0, "the loader is the limit"),
        (86.5, 1543.0, "is 14% slower than from memory: the time is lost elsewhere"),
    ],
)
def test_the_loader_is_the_limit_where_it_is_slow_itself(carb, alone, words) -> None:
    found = {"warmup": 90.0, "carb": carb, "loader": alone, "memory": 100.0, "workers": 8}
    found["is_limit"] = loader.is_limit(found)
    assert words in loader.in_words(found)[-1]
    assert found["is_limit"] == (words == "the loader is the limit")


def test_shared_gpu_and_profile_are_written_number_by_number(monkeypatch) -> None:
    monkeypatch.setattr(shared_gpu.street_data, "write", lambda *_: None)
    monkeypatch.setattr(shared_gpu, "together", lambda n, *_: [10.0] if n == 1 else [6.0, 7.0])
    written = saved(monkeypatch, shared_gpu)
    shared_gpu.main(["--json", "any.json"])
    assert [one["summary"] for one in written[:2]] == [
        ["images/s: 10.0 alone"],
        ["images/s: 10.0 alone, 13.0 of two processes at once (+30%)"],
    ]
    assert "two" not in written[0]

    monkeypatch.setattr(profile_step, "our_way", lambda *_, **__: lambda: torch.ones(9).sum())
    written = saved(monkeypatch, profile_step)
    profile_step.main(["--quick", "--json", "any.json"])
    assert [len(one["summary"]) for one in written[:2]] == [1, 2]
    assert "kernels" not in written[0] and written[1]["kernels"]


def loaded_here(dataset, config, ranks, start, end):
    """`training_loader` without worker processes."""
    return training_loader(dataset, replace(config, num_workers=0), ranks, start, end)


def test_a_time_that_is_lost_in_the_start_gives_no_rate() -> None:
    assert throughput.rate_of(10, seconds=2.0, start=8.0) == 5
    for seconds in (0.7, 0.0, -1.0):
        assert throughput.rate_of(10, seconds, start=8.0) is None
    assert throughput.in_words("predict", None) == "predict: too few images to tell"
    assert throughput.in_words("predict", 2.5) == "predict: 2.50 images/s"


def test_what_fails_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no_script.py --out x failed:(.|\n)*No such file"):
        throughput._run(["no_script.py", "--out", "x"])


def test_outcomes_of_tests_become_json(tmp_path: Path) -> None:
    """A skip is in the setup of its test, and the setup and the end of one that passed is none."""
    file = tmp_path / "new" / "tests.json"
    results = gpu_tests.Results(str(file), {"gpu": "any"})
    for name, when, outcome in (
        ("a", "setup", "passed"),
        ("a", "call", "passed"),
        ("a", "teardown", "passed"),
        ("b", "call", "failed"),
        ("c", "setup", "skipped"),
    ):
        text = "def test():\nE  assert 1 == 2\n"
        results.pytest_runtest_logreport(
            pytest.TestReport(name, ("", 0, ""), {}, outcome, text, when)
        )
    found = read_json(file)
    assert (found["passed"], found["failed"], found["skipped"]) == (1, 1, 1)
    assert found["summary"] == ["1 passed, 1 failed, 1 skipped"]
    assert found["failures"] == [{"name": "b", "error": "E  assert 1 == 2"}]
    files = [f for f in Path("tests").rglob("*.py") if gpu_tests.MARK in f.read_text("utf-8")]
    assert Path("tests/test_gpu.py") in files


@pytest.mark.slow
def test_the_whole_check_in_miniature(tmp_path: Path) -> None:
    """Every part is done on a CPU; each writes its file, and the summary says what it found."""
    out = tmp_path / "out"
    # Budgets are those of a GPU machine: here the parts may take longer.
    program = (
        "import benchmarks.gpu_check as g, sys; of = g.parts_of;"
        "g.parts_of = lambda *a: [g.Part(p.name, 900, p.words) for p in of(*a)];"
        f"g.main([{str(out)!r}, '--quick', '--limit', '3000'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    summary = read_json(out / "summary.json")
    assert {one["status"] for one in summary["parts"]} == {"done"}
    found = {one["name"]: one for one in summary["parts"]}
    assert all(one["summary"] for name, one in found.items() if name != "data")
    profile = found["profile"]["result"]
    assert len(profile["kernels"]) == profile_step.TOP and profile["idle"] is None
    assert set(found["throughput"]["result"]["images_per_second"]) == set(throughput.WAYS)
    assert min(found["two_processes"]["result"]["two"]) > 0
    assert summary["targets"] and {file.name for file in out.iterdir()} == {
        "summary.json",
        "log.txt",
    }
