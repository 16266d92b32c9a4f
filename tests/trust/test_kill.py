"""Killed or told to stop at any moment, the same command ends where an uninterrupted run does.

All four stages, bit for bit: masks, weights, momentum, queues, logs, metrics.
"""

import contextlib
import itertools
import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from forked import ROOT, Ended, Scripts
from rights import modes_bind

from utils import run_folder
from utils.checkpoint import load_checkpoint
from utils.config import load_config
from utils.distributed import Ranks
from utils.run_folder import open_run
from utils.safe.errors import InputError
from utils.safe.stop import Stop

STAGES = ("masks", "warmup", "carb", "eval")
PICTURE = "_leftImg8bit.png"  # opened four times a step


@pytest.fixture(scope="module")
def scripts() -> Iterator[Scripts]:
    forking = Scripts()
    yield forking
    forking.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a CLIP, a config: 4 steps of warm-up, 4 of CARB; 3 steps to a log line, 2 to a
    checkpoint."""
    folder = tmp_path_factory.mktemp("world")
    return tiny.make_world(folder, views="local", log_every=3, dropout=0.1)


def command(stage: str, world: Path, out: Path) -> list[str]:
    """A stage that writes to OUT/<stage>; training reads the masks of the uninterrupted run."""
    config = ["--config", world / "config.yaml", "--device", "cpu"]
    arguments = {
        "masks": ["gen_clip_masks.py", *config, "--out", out / "masks", "--score"],
        "warmup": ["train_warmup.py", *config, "--run-dir", out / "warmup"],
        "carb": ["train_carb.py", *config, "--run-dir", out / "carb", "--init"],
        "supervised": ["baselines/supervised.py", *config, "--run-dir", out / "supervised"],
        "eval": ["eval.py", "--ckpt", out / "carb/last.pt", "--out", out / "eval"],
    }[stage]
    arguments += [out / "warmup/warmup.pt"] * (stage == "carb")
    arguments += ["--save-predictions", "--device", "cpu"] * (stage == "eval")
    arguments += ["--set", f"pseudo_masks={world / 'whole_1/masks'}"] * (stage in STAGES[1:3])
    return [str(argument) for argument in arguments]


def finish(scripts: Scripts, arguments: list[str], ranks: int = 1) -> list[Ended]:
    ended = scripts.run(*arguments, ranks=ranks)
    assert [one.status for one in ended] == [0] * ranks, "\n".join(one.printed for one in ended)
    return ended


class Whole(dict):
    """Of uninterrupted runs: stage -> the events of a process; and seconds; `folder` has them."""

    def __init__(self, scripts: Scripts, world: Path, ranks: int, stages: Sequence[str]) -> None:
        self.folder = world / f"whole_{ranks}"
        self.seconds: dict[str, float] = {}
        for stage in stages:
            start = time.monotonic()
            ended = finish(scripts, command(stage, world, self.folder), ranks)
            self[stage] = min(one.events for one in ended)
            self.seconds[stage] = time.monotonic() - start


@pytest.fixture(scope="module")
def whole(scripts: Scripts, world: Path) -> Whole:
    return Whole(scripts, world, 1, STAGES)


@pytest.fixture(scope="module")
def whole_two(scripts: Scripts, world: Path, whole: Whole) -> Whole:
    return Whole(scripts, world, 2, STAGES)


def same_value(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same_value(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same_value, one, other))
    return type(one) is type(other) and one == other


def assert_same_run(one: Path, other: Path) -> None:
    """Checkpoints, logs and files of two run folders."""
    for path in sorted(one.glob("*.pt")):
        if path.name != "previous.pt":  # an interrupted run saves at other steps too
            left, right = load_checkpoint(path), load_checkpoint(other / path.name)
            left["config"]["num_workers"] = right["config"]["num_workers"]
            for key in left.keys() - {"git", "versions"}:
                assert same_value(left[key], right[key]), (path, key)
    logs = [tiny.read_metrics(run) for run in (one, other)]
    for line in (*logs[0], *logs[1]):
        del line["images_per_second"]
    assert logs[0] == logs[1]
    names = [sorted(path.name for path in run.iterdir()) for run in (one, other)]
    assert names[0] == names[1], "something half-written was left"


def assert_same_files(one: Path, other: Path) -> None:
    """Masks and scores; of JSON files what was computed, not where, by which commit or how fast."""
    files = [
        sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file() and p.name != "cost.json")
        for f in (one, other)
    ]
    assert files[0] == files[1], "something half-written was left"
    for file in files[0]:
        if file.suffix == ".json":
            contents = [json.loads((folder / file).read_text()) for folder in (one, other)]
            for content in contents:
                for key in ("checkpoint", "git", "config"):
                    content.pop(key, None)
            assert contents[0] == contents[1], file
        else:
            assert (one / file).read_bytes() == (other / file).read_bytes(), file


def assert_same(stage: str, whole: Whole, out: Path) -> None:
    check = assert_same_files if stage in ("masks", "eval") else assert_same_run
    check(whole.folder / stage, out / stage)


# ---- killed


def moment(rng: random.Random, kind: str, whole: Whole, stage: str, ranks: int) -> dict[str, Any]:
    """Before something is done to a file, in the middle of writing one, or at any time."""
    files = [path for path in (whole.folder / stage).rglob("*") if path.is_file()]
    checkpoints = [path for path in files if path.suffix == ".pt"]
    size = rng.choice(checkpoints or files).stat().st_size
    chosen = {
        "event": {"event": rng.randint(1, whole[stage])},
        # from when on: counted in what is done to files that are not whole yet
        "size": {"size": rng.randrange(size), "event": rng.randint(1, len(files)), "on": ".tmp"},
        "delay": {"delay": rng.uniform(0.02, whole.seconds[stage])},
    }[kind]
    if ranks == 1:
        return chosen
    writers = [[0], [0, 1]] if checkpoints and kind == "size" else [[0], [1], [0, 1]]
    return chosen | {"of": rng.choice(writers)}


def half_written(folder: Path) -> set[str]:
    """What a killed process was writing; the names have the process's number."""
    return {path.name for path in folder.rglob("*.tmp*")}


def kill(
    scripts: Scripts,
    arguments: list[str],
    whole: Whole,
    stage: str,
    out: Path,
    kills: int,
    rng: random.Random,
    ranks: int = 1,
) -> Counter[str]:
    """Run into random moments until a run was killed `kills` times, then to the end; in which
    places it was. What ends before it is the uninterrupted run too, and starts anew."""
    places: Counter[str] = Counter()
    kinds = itertools.cycle(["event", "size", "delay"])
    while places.total() < kills:
        before = half_written(out / stage)
        each = moment(rng, next(kinds), whole, stage, ranks)
        # A limit on the size of files holds for the memory that workers share, too.
        workers = 0 if "size" in each else rng.choice([0, 0, 1])
        ended = scripts.run(*arguments, "--set", f"num_workers={workers}", ranks=ranks, **each)
        killed = any(one.status in (-signal.SIGKILL, -signal.SIGXFSZ) for one in ended)
        for one in ended:  # those that were left over ended by themselves
            assert one.status in (0, 2, 143, -signal.SIGKILL, -signal.SIGXFSZ), one.printed
            assert killed or one.status == 0, one.printed
            assert "Traceback" not in one.printed, one.printed
        if killed:
            new = half_written(out / stage) - before
            kind = "checkpoint" if any(".pt." in name for name in new) else "file"
            places[f"{stage}, inside writing a {kind}" if new else stage] += 1
        else:
            assert_same(stage, whole, out)
            shutil.rmtree(out / stage)
    finish(scripts, arguments, ranks)
    assert_same(stage, whole, out)
    return places


def kill_all_stages(
    scripts: Scripts, world: Path, whole: Whole, out: Path, kills: int, seed: int, ranks: int = 1
) -> Counter[str]:
    rng, places = random.Random(seed), Counter()
    for stage in STAGES:
        arguments = command(stage, world, out)
        places += kill(scripts, arguments, whole, stage, out, kills, rng, ranks)
    print(*(f"{place}: {count}" for place, count in sorted(places.items())), sep="\n")
    return places


@pytest.mark.slow
def test_killed_anywhere_the_same_command_goes_on(scripts, world, whole, tmp_path) -> None:
    kill_all_stages(scripts, world, whole, tmp_path, kills=2, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("ranks, seed", [(1, 1), (1, 2), (2, 3)])
def test_killed_12_times_in_every_stage(scripts, world, request, tmp_path, ranks, seed) -> None:
    whole = request.getfixturevalue({1: "whole", 2: "whole_two"}[ranks])
    places = kill_all_stages(scripts, world, whole, tmp_path, 12, seed, ranks)
    assert places.total() == 48  # 24 of them in training
    for stage in ("warmup", "carb"):
        assert places[f"{stage}, inside writing a checkpoint"] >= 2
    for stage in ("masks", "eval"):
        assert places[f"{stage}, inside writing a file"] >= 2


@pytest.mark.slow
@pytest.mark.parametrize("file", ["last.pt", "warmup.pt", "metrics.jsonl", "config.yaml"])
def test_killed_at_each_step_of_writing_a_file(scripts, world, whole, tmp_path, file) -> None:
    arguments, kills = command("warmup", world, tmp_path), 0
    for n in range(1, 40):
        if scripts.run(*arguments, event=n, on=file)[0].status == 0:
            break
        kills += 1
    assert kills >= 3
    assert_same("warmup", whole, tmp_path)


# ---- told to stop


def saved_step(ended: Ended, run: Path, status: int) -> int:
    """Of a training that was told to stop."""
    assert ended.status == status, ended.printed
    assert "Traceback" not in ended.printed, ended.printed
    assert "stopping after this step" in ended.printed
    return load_checkpoint(run / "last.pt")["step"]


@pytest.mark.parametrize(
    "stage, picture, step",
    [
        ("warmup", 2, 1),
        pytest.param("warmup", 14, 4, marks=pytest.mark.slow),
        pytest.param("carb", 6, 6, marks=pytest.mark.slow),
    ],
)
def test_sigterm_saves_after_the_step(
    scripts, world, whole, tmp_path, stage, picture, step
) -> None:
    """Between two log lines and two checkpoints; in the last step; where both are due."""
    if stage == "carb":
        shutil.copytree(whole.folder / "warmup", tmp_path / "warmup")
    arguments = command(stage, world, tmp_path)
    (ended,) = scripts.run(*arguments, event=picture, on=PICTURE, signal=signal.SIGTERM)
    assert saved_step(ended, tmp_path / stage, 143) == step
    shown = ended.printed.splitlines()[-2:]
    assert shown == ["stopped; to resume:", f"    {shlex.join([sys.executable, *arguments])}"]
    if step == 1:
        assert load_checkpoint(tmp_path / stage / "last.pt")["log"]["num_steps"] == 1
    finish(scripts, arguments)
    assert_same(stage, whole, tmp_path)


def test_ctrl_c_reaches_loader_workers_too(scripts, world, whole, tmp_path) -> None:
    arguments = [*command("warmup", world, tmp_path), "--set", "num_workers=2"]
    keys = {"event": 2, "on": "metrics.jsonl", "signal": signal.SIGINT, "group": True}
    (ended,) = scripts.run(*arguments, **keys)
    assert saved_step(ended, tmp_path / "warmup", 130) == 3
    finish(scripts, arguments)
    assert_same("warmup", whole, tmp_path)


@pytest.mark.slow
def test_a_second_ctrl_c_stops_without_saving(scripts, world, whole, tmp_path) -> None:
    arguments = command("warmup", world, tmp_path)
    (ended,) = scripts.run(*arguments, event=2, on=PICTURE, times=2, signal=signal.SIGINT)
    assert ended.status == 130 and "Traceback" not in ended.printed, ended.printed
    assert not list((tmp_path / "warmup").glob("*.pt*"))
    finish(scripts, arguments)
    assert_same("warmup", whole, tmp_path)


@pytest.mark.parametrize(
    "stage, number, workers",
    [
        ("masks", signal.SIGINT, 2),
        ("eval", signal.SIGTERM, 0),
        pytest.param("masks", signal.SIGTERM, 0, marks=pytest.mark.slow),
        pytest.param("masks", signal.SIGTERM, 2, marks=pytest.mark.slow),
        pytest.param("eval", signal.SIGTERM, 2, marks=pytest.mark.slow),
        pytest.param("eval", signal.SIGINT, 2, marks=pytest.mark.slow),
    ],
)
def test_other_stages_stop_at_once(scripts, world, whole, tmp_path, stage, number, workers) -> None:
    for name in ("warmup", "carb") if stage == "eval" else ():
        shutil.copytree(whole.folder / name, tmp_path / name)
    arguments = [*command(stage, world, tmp_path), "--set", f"num_workers={workers}"]
    (ended,) = scripts.run(*arguments, event=3, on=".tmp.png", signal=number, group=True)
    assert ended.status == 128 + number and "Traceback" not in ended.printed, ended.printed
    command_line = shlex.join([sys.executable, *arguments])
    assert ended.printed.endswith(f"stopped; to run it again:\n    {command_line}\n")
    assert not list((tmp_path / stage).rglob("*.tmp*")), "something half-written was left"
    assert not (tmp_path / stage / "metrics.json").exists()
    finish(scripts, arguments)
    assert_same(stage, whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("of", [[0], [1], [0, 1]])
def test_two_processes_stop_after_the_same_step(scripts, world, whole_two, tmp_path, of) -> None:
    arguments = command("warmup", world, tmp_path)
    moment = {"event": 2, "on": PICTURE, "signal": signal.SIGTERM, "of": of}
    ended = scripts.run(*arguments, ranks=2, **moment)
    assert [one.status for one in ended] == [143, 143], ended
    assert "Traceback" not in ended[0].printed + ended[1].printed
    assert load_checkpoint(tmp_path / "warmup/last.pt")["step"] == 1
    assert ended[0].printed.count("stopped; to resume") == 1 and "stopped" not in ended[1].printed
    finish(scripts, arguments, ranks=2)
    assert_same("warmup", whole_two, tmp_path)


def test_a_worker_says_nothing_when_its_parent_is_stopped() -> None:
    """While it takes a sample over: it has asked for the memory that they share, and goes."""
    program = """
from multiprocessing import connection, process, resource_sharer
from utils.safe.signals import leave_signals_to_parent
leave_signals_to_parent()
shared = resource_sharer.DupFd(0)
connection.Client(shared._id[0], authkey=process.current_process().authkey).close()
shared.detach()  # is answered, so the one before was too
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


# ---- damaged checkpoints, full disks, folders that may not be written


def damage(path: Path, how: str) -> None:
    content = bytearray(path.read_bytes())
    if how == "cut":
        del content[len(content) // 2 :]
    elif how == "one bit":
        content[len(content) // 2] ^= 1
    path.unlink()  # it may be a hard link
    if how != "gone":
        path.write_bytes(content)


@pytest.mark.parametrize(
    "how", ["one bit", *(pytest.param(how, marks=pytest.mark.slow) for how in ("cut", "gone"))]
)
def test_a_damaged_last_checkpoint_is_replaced_by_the_one_before(
    scripts, world, whole, tmp_path, how
) -> None:
    for stage in ("warmup", "carb"):
        shutil.copytree(whole.folder / stage, tmp_path / stage)
    run = tmp_path / "carb"
    damage(run / "last.pt", how)
    (ended,) = finish(scripts, command("carb", world, tmp_path))
    assert f"{run / 'previous.pt'}: step 6, resuming to step 8" in ended.printed
    if how != "gone":
        assert f"{run / 'last.pt'}: the checkpoint can't be read" in ended.printed
        assert "renamed to last.pt.damaged" in ended.printed
        (run / "last.pt.damaged").unlink()
    assert_same("carb", whole, tmp_path)


def test_where_no_whole_checkpoint_is_left(scripts, world, whole, tmp_path) -> None:
    shutil.copytree(whole.folder / "warmup", tmp_path / "warmup")
    for name in ("last.pt", "previous.pt", "warmup.pt"):
        damage(tmp_path / "warmup" / name, "cut")
    before = sorted(path.name for path in (tmp_path / "warmup").iterdir())
    (ended,) = scripts.run(*command("warmup", world, tmp_path))
    assert ended.status == 2 and "--overwrite" in ended.printed
    for name in ("last.pt", "previous.pt"):
        assert f"{tmp_path / 'warmup' / name}: the checkpoint can't be read" in ended.printed
    assert sorted(path.name for path in (tmp_path / "warmup").iterdir()) == before
    (ended,) = scripts.run(*command("carb", world, tmp_path))
    assert ended.status == 2 and "--init" in ended.printed
    assert "warmup.pt: the checkpoint can't be read" in ended.printed
    assert "same train_warmup.py command again restores" in ended.printed
    finish(scripts, [*command("warmup", world, tmp_path), "--overwrite"])
    assert_same("warmup", whole, tmp_path)


def test_a_full_disk_leaves_the_checkpoint_before(scripts, world, whole, tmp_path) -> None:
    """A limit on the size of files stands for the disk."""
    arguments = command("warmup", world, tmp_path)
    (ended,) = scripts.run(*arguments, disk=1_500_000)
    assert ended.status == 2 and "Traceback" not in ended.printed, ended.printed
    assert "last.pt: the checkpoint of step 2 can't be written: File too large" in ended.printed
    assert "free space" in ended.printed and "run the same command again" in ended.printed
    scripts.run(*arguments, event=14, on=PICTURE)  # killed in step 4
    before = (tmp_path / "warmup/last.pt").read_bytes()
    (ended,) = scripts.run(*arguments, disk=1_500_000)
    assert ended.status == 2 and "it resumes from last.pt, which is intact" in ended.printed
    assert (tmp_path / "warmup/last.pt").read_bytes() == before
    (ended,) = scripts.run(*arguments, disk=1)
    assert ended.status == 2 and "Traceback" not in ended.printed, ended.printed
    finish(scripts, arguments)
    assert_same("warmup", whole, tmp_path)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Callable[[], object]]:
    """A tmpfs in the place of `folder`; what is yielded makes it larger."""
    folder.mkdir(parents=True)
    mount = ["mount", "-t", "tmpfs", "-o"]
    if subprocess.run([*mount, f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("no tmpfs can be mounted here")
    try:
        larger = [*mount, "remount,size=20m", "tmpfs", folder]
        yield lambda: subprocess.run(larger, check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_full_tmpfs_leaves_the_checkpoint_before(scripts, world, whole, tmp_path) -> None:
    """Room for one checkpoint of 2 MB and a part of the next; then it is made larger."""
    arguments, run = command("warmup", world, tmp_path), tmp_path / "warmup"
    with small_disk(run, "3500k") as enlarge:
        (ended,) = scripts.run(*arguments)
        assert ended.status == 2 and "No space left on device" in ended.printed, ended.printed
        assert "step 4" in ended.printed and "from last.pt, which is intact" in ended.printed
        assert load_checkpoint(run / "last.pt")["step"] == 2
        assert not half_written(run)
        enlarge()
        finish(scripts, arguments)
        assert_same("warmup", whole, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["masks", "eval"])
def test_a_full_tmpfs_leaves_whole_masks(scripts, world, whole, tmp_path, stage) -> None:
    """Room for two of them, and for the meta.json of masks."""
    for name in ("warmup", "carb") if stage == "eval" else ():
        shutil.copytree(whole.folder / name, tmp_path / name)
    arguments = command(stage, world, tmp_path)
    disk, pages = tmp_path / "eval/predictions", 2
    if stage == "masks":
        disk = tmp_path / "masks"
        pages += -(-(whole.folder / "masks/meta.json").stat().st_size // 4096)
    with small_disk(disk, f"{4 * pages}k") as enlarge:
        (ended,) = scripts.run(*arguments)
        assert ended.status == 2 and "No space left on device" in ended.printed, ended.printed
        assert "Traceback" not in ended.printed, ended.printed
        assert len(list(disk.rglob("*.png"))) == 2 and not half_written(disk)
        enlarge()
        finish(scripts, arguments)
        assert_same(stage, whole, tmp_path)


def test_a_folder_that_may_no_longer_be_written(scripts, world, whole, tmp_path) -> None:
    """From the second checkpoint on, and still when the same command is given."""
    if not modes_bind():
        pytest.skip("nothing keeps this user from passing over file modes")
    arguments, run = command("warmup", world, tmp_path), tmp_path / "warmup"
    second = {"event": 14, "on": PICTURE, "locks": str(run)}  # in step 4
    (ended,) = scripts.run(*arguments, **second)
    assert ended.status == 2 and "Traceback" not in ended.printed, ended.printed
    expected = "warmup.pt: the checkpoint of step 4 can't be written: Permission denied"
    assert expected in ended.printed and "from last.pt, which is intact" in ended.printed
    assert load_checkpoint(run / "last.pt")["step"] == 2
    (ended,) = scripts.run(*arguments, event=1, locks=str(run))
    assert ended.status == 2 and "Traceback" not in ended.printed, ended.printed
    assert f"can't write the run folder {run}: Permission denied" in ended.printed
    run.chmod(0o755)
    finish(scripts, arguments)
    assert_same("warmup", whole, tmp_path)


# ---- one run folder, one writer


def test_a_run_that_is_being_trained_is_left_alone(tmp_path, monkeypatch) -> None:
    holder = "import filelock, time; lock = filelock.FileLock('lock'); lock.acquire()\n"
    holder += "print('held', flush=True); time.sleep(60)"
    command = [sys.executable, "-c", holder]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE)
    monkeypatch.setattr(run_folder, "_WAIT", 0)
    config, ranks = load_config("configs/tiny_cpu.yaml"), Ranks(0, 1, torch.device("cpu"))
    try:
        assert process.stdout.readline()
        with pytest.raises(InputError, match=rf"another process is training in {tmp_path}"):
            open_run(tmp_path, config, False, ranks)
        assert [path.name for path in tmp_path.iterdir()] == ["lock"]
    finally:
        process.kill()
        process.communicate()
    open_run(tmp_path, config, False, ranks)
    assert (tmp_path / "config.yaml").is_file()


# ---- torchrun


def test_a_process_whose_torchrun_was_killed_stops(monkeypatch) -> None:
    with Stop(Ranks(0, 1, torch.device("cpu"))) as stop:
        monkeypatch.setattr(os, "getppid", lambda: 1)
        assert stop.agree() == 0  # a program started by a shell that has gone
        monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
        assert stop.agree() == signal.SIGTERM


def start(arguments: list[str]) -> subprocess.Popen:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return subprocess.Popen(
        [*launcher, *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for(process: subprocess.Popen, text: str) -> str:
    printed = ""
    while text not in printed:
        line = process.stdout.readline()
        assert line, f"ended without {text!r}: {printed}"
        printed += line
    return printed


def children(process: subprocess.Popen) -> list[int]:
    path = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(pid) for pid in path.read_text().split()]


def gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


@pytest.mark.slow
@pytest.mark.parametrize("what", ["SIGTERM", "SIGINT", "kill a rank", "kill torchrun"])
def test_torchrun(scripts, world, whole_two, tmp_path, what) -> None:
    """The signals as torchrun passes them on, and the command that is printed."""
    arguments = [*command("warmup", world, tmp_path), "--set", "num_workers=1"]
    process = start(arguments)
    printed = wait_for(process, "step 3/4")
    ranks = children(process)
    if what == "kill a rank":
        os.kill(ranks[1], signal.SIGKILL)
    else:
        number = {"SIGTERM": signal.SIGTERM, "SIGINT": signal.SIGINT}.get(what, signal.SIGKILL)
        process.send_signal(number)
    printed += process.communicate(timeout=120)[0]
    deadline = time.monotonic() + 60
    while not all(map(gone, ranks)):  # nobody trains on for ever
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert 'train_warmup.py", line' not in printed, printed
    again = start(arguments)
    if "SIG" in what:
        assert "stopped; to resume:" in printed
        shown = re.search(r"to resume:\n    (.*)\n", printed)[1]
        assert shlex.split(shown) == again.args
    printed = again.communicate(timeout=120)[0]
    assert again.returncode == 0, printed
    assert_same("warmup", whole_two, tmp_path)
