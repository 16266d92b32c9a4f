"""Two machines: the numbers of one with as many processes, and what happens when one is lost.

The machines are network namespaces (tests/hosts.py) that share the disk, started by torchrun as
docs/scaling.md has it. The same stages on one host are those of test_kill.py.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hosts
import pytest
import tiny
from forked import Scripts
from test_kill import STAGES, Whole, assert_same, command

MINUTE = 60
LOST = "another process of this run has ended or can't be reached"
pytestmark = [pytest.mark.slow]


@pytest.fixture(scope="module")
def two_hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[hosts.Hosts]:
    if reason := hosts.why_not():
        pytest.skip(reason)
    both = hosts.Hosts(tmp_path_factory.mktemp("hosts"))
    yield both
    both.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As in test_kill.py, with time to cut a cable: 12 steps of each stage, 3 to a checkpoint."""
    folder = tmp_path_factory.mktemp("world")
    changes = {"steps": 24, "warmup_steps": 12, "log_every": 6, "checkpoint_every": 3}
    return tiny.make_world(folder, views="base", **changes)


@pytest.fixture(scope="module")
def whole(world: Path, two_hosts: hosts.Hosts) -> Iterator[Whole]:
    """One host with two processes, all stages."""
    scripts = Scripts()
    Whole(scripts, world, 1, STAGES[:1])  # the masks that all trainings read
    yield Whole(scripts, world, 2, STAGES)
    scripts.close()


class Started:
    """The same torchrun command on both hosts."""

    def __init__(self, both: hosts.Hosts, script: list[str], out: Path) -> None:
        launch = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1"]
        launch += ["--rdzv_backend=c10d", "--rdzv_endpoint=carb-a:29500"]
        launch += ["--rdzv_conf=read_timeout=15", *script]
        out.mkdir(exist_ok=True)
        self.logs = [out / f"{host}.log" for host in hosts.NAMES]
        for log in self.logs:
            log.unlink(missing_ok=True)
        self.processes = [
            both.start(host, launch, log, OMP_NUM_THREADS="1")
            for host, log in zip(hosts.NAMES, self.logs, strict=True)
        ]

    def wait_for(self, file: Path) -> None:
        """Until the file is written, or written anew."""
        before, deadline = modified(file), time.monotonic() + 5 * MINUTE
        while modified(file) == before:
            assert time.monotonic() < deadline and self.processes[0].poll() is None, self.printed()
            time.sleep(0.01)

    def kill_rank(self, rank: int) -> None:
        """SIGKILL to the process of a rank, a child of torchrun on its host."""
        parents = {str(process.pid) for process in self.processes}
        for status in Path("/proc").glob("[0-9]*/environ"):
            try:
                variables = status.read_bytes().split(b"\0")
                parent = re.search(r"PPid:\s(\d+)", status.with_name("status").read_text())[1]
            except OSError:  # it has just ended, or isn't ours
                continue
            if f"RANK={rank}".encode() in variables and parent in parents:
                os.kill(int(status.parent.name), signal.SIGKILL)
                return
        raise AssertionError(f"no rank {rank}")

    def printed(self) -> str:
        return "\n".join(log.read_text() for log in self.logs)

    def end(self, within: float) -> list[int]:
        """Exit statuses, when both have ended; after that time both are killed."""
        deadline = time.monotonic() + within
        try:
            return [p.wait(max(0.1, deadline - time.monotonic())) for p in self.processes]
        except subprocess.TimeoutExpired:
            for process in self.processes:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
            raise AssertionError(f"not ended within {within} s:\n{self.printed()}") from None


def modified(file: Path) -> int | None:
    return file.stat().st_mtime_ns if file.exists() else None


def finish(both: hosts.Hosts, stage: str, world: Path, out: Path) -> str:
    started = Started(both, command(stage, world, out), out)
    assert started.end(10 * MINUTE) == [0, 0], started.printed()
    return started.printed()


def test_masks_are_those_of_one_host(two_hosts, world, whole, tmp_path) -> None:
    finish(two_hosts, "masks", world, tmp_path)
    assert_same("masks", whole, tmp_path)


def test_a_cut_cable_ends_the_run_and_the_same_command_goes_on(
    two_hosts, world, whole, tmp_path
) -> None:
    started = Started(two_hosts, command("warmup", world, tmp_path), tmp_path)
    started.wait_for(tmp_path / "warmup/last.pt")
    two_hosts.cable("down")
    try:
        statuses = started.end(MINUTE)
    finally:
        two_hosts.cable("up")
    assert 0 not in statuses
    assert f"error: {LOST}" in started.logs[0].read_text()
    # on the host without the store either our process or torchrun itself is the first to find it
    assert re.search(f"error: {LOST}|RendezvousConnectionError", started.logs[1].read_text())
    assert not (tmp_path / "warmup/warmup.pt").exists(), "cut too late"
    assert "resuming to step 12" in finish(two_hosts, "warmup", world, tmp_path)
    assert_same("warmup", whole, tmp_path)


def test_a_killed_process_ends_the_run_and_the_same_command_goes_on(
    two_hosts, world, whole, tmp_path
) -> None:
    shutil.copytree(whole.folder / "warmup", tmp_path / "warmup")
    started = Started(two_hosts, command("carb", world, tmp_path), tmp_path)
    started.wait_for(tmp_path / "carb/last.pt")
    started.kill_rank(1)
    assert 0 not in started.end(MINUTE)
    assert f"error: {LOST}" in started.logs[0].read_text()
    assert "Signal 9 (SIGKILL)" in started.logs[1].read_text()
    assert "resuming to step 24" in finish(two_hosts, "carb", world, tmp_path)
    assert_same("carb", whole, tmp_path)


def test_evaluation_is_that_of_one_host(two_hosts, world, whole, tmp_path) -> None:
    for stage in ("warmup", "carb"):
        shutil.copytree(whole.folder / stage, tmp_path / stage)
    finish(two_hosts, "eval", world, tmp_path)
    assert_same("eval", whole, tmp_path)
