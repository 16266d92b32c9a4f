"""scripts/slurm.sbatch: what it runs and when it is queued again; slow: in a real Slurm cluster."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm
import tiny
import yaml
from forked import ROOT, Scripts
from test_kill import STAGES, Whole, assert_same, command

SCRIPT = ROOT / "scripts/slurm.sbatch"
STEPS = 800  # some 20 s: Slurm takes a while to see that a time limit is near
PYTHON = """#!/bin/sh
# In place of an interpreter: shows its arguments; with "wait" it runs until SIGTERM.
echo "python $*"
case "$*" in *wait*) ;; *) exit 0 ;; esac
trap 'echo saved; exit 143' TERM
touch started
while :; do sleep 0.05; done
"""


# ---- without Slurm: its commands only show how they are called


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the script and with commands of Slurm's names, in bin."""
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts/slurm.sbatch").write_text(SCRIPT.read_text())
    (tmp_path / "bin").mkdir()
    programs = {"srun": '#!/bin/sh\necho "srun $*${SRUN_CPUS_PER_TASK:+ ($SRUN_CPUS_PER_TASK)}"\n'}
    programs["scancel"] = '#!/bin/sh\necho "scancel $*"\n'
    programs["scontrol"] = '#!/bin/sh\n[ "$1" = show ] && echo node7 && echo node8 || echo "$*"\n'
    programs["squeue"] = '#!/bin/sh\necho "$STATE"\n'
    programs["sleep"] = '#!/bin/sh\n[ "$1" = 60 ] || exec /bin/sleep "$1"\n'  # until it is ended
    programs["python"] = PYTHON
    for name, text in programs.items():
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    return tmp_path


def environment(folder: Path, **variables: str) -> dict[str, str]:
    job = {"SLURM_JOB_ID": "10042", "SLURM_SUBMIT_DIR": str(folder), "PYTHON": "bin/python"}
    job |= {"SLURM_JOB_NODELIST": "node[7-8]"}
    paths = {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    return os.environ | job | paths | variables


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.Popen:
    """The batch script, with its errors in its output."""
    return subprocess.Popen(
        ["bash", str(SCRIPT), *arguments],
        env=environment(folder, **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def job(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit status and output of the batch script."""
    started = start(folder, *arguments, **variables)
    text = started.communicate()[0]
    return started.returncode, text


def stopped(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """The same, of a script that gets SIGTERM when its command has started."""
    started = start(folder, *arguments, **variables)
    deadline = time.monotonic() + 60
    while not (folder / "started").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    started.send_signal(signal.SIGTERM)
    text = started.communicate(timeout=60)[0]
    return started.returncode, text


AGAIN = "stopped before the time limit; the job is queued again and resumes"
ONE = "-m torch.distributed.run --nproc_per_node=4 --standalone eval.py --ckpt x"
TWO = (
    "srun bin/python -m torch.distributed.run --nproc_per_node=4 --nnodes=2 --rdzv_id=10042 "
    "--rdzv_backend=c10d --rdzv_conf=read_timeout=15 --rdzv_endpoint=node7:20042 eval.py --ckpt x"
)


@pytest.mark.parametrize(
    "arguments, variables, shown",
    [
        (["eval.py", "--ckpt", "x"], {}, "python eval.py --ckpt x"),
        (["eval.py", "--ckpt", "x"], {"SLURM_GPUS_ON_NODE": "4"}, f"python {ONE}"),
        (["eval.py", "--ckpt", "x"], {"PROCESSES": "4", "SLURM_JOB_NUM_NODES": "2"}, TWO),
        (
            ["eval.py", "--ckpt", "x"],
            {"PROCESSES": "4", "SLURM_JOB_NUM_NODES": "2", "SLURM_CPUS_PER_TASK": "36"},
            f"{TWO} (36)",
        ),
        (
            ["gen_clip_masks.py", "--share", "{task}/{tasks}"],
            {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "16"},
            "python gen_clip_masks.py --share 3/16",
        ),
        (
            ["-m", "experiments.ablation", "a b.yaml", "--seeds", "{task}"],
            {"SLURM_ARRAY_TASK_ID": "2", "SLURM_GPUS_ON_NODE": "4"},
            "python -m experiments.ablation a b.yaml --seeds 2",
        ),
        (["bin/python.sh", "x"], {"SLURM_GPUS_ON_NODE": "4"}, "script x"),
        (["bin/python.sh"], {}, "script "),
    ],
)
def test_it_runs_the_command(folder, arguments, variables, shown) -> None:
    (folder / "bin/python.sh").write_text('echo "script $*"\n')
    status, text = job(folder, *arguments, **variables)
    assert status == 0 and text.splitlines()[1:] == [shown], text


@pytest.mark.parametrize(
    "arguments, variables, message",
    [
        (["eval.py"], {"SLURM_JOB_ID": ""}, "expected a Slurm job; submit it"),
        (["eval.py"], {"SLURM_SUBMIT_DIR": "/"}, "/ is not the repository's folder"),
        ([], {}, "expected a command"),
        (["eval.py"], {"PYTHON": "none/python"}, "none/python does not exist"),
        (["gen_clip_masks.py", "--share", "{task}/4"], {}, "need sbatch --array"),
        (["gen_clip_masks.py", "--share", "1/{tasks}"], {}, "need sbatch --array"),
        (["-m", "experiments.ablation"], {"SLURM_JOB_NUM_NODES": "2"}, "runs on one node"),
    ],
)
def test_it_refuses_with_a_message(folder, arguments, variables, message) -> None:
    status, text = job(folder, *arguments, **variables)
    assert status == 2 and text.startswith("error: ") and message in text, text


@pytest.mark.parametrize(
    "variables, status, last",
    [
        ({"STATE": "RUNNING"}, 143, "requeue 10042"),
        (
            {"STATE": "RUNNING", "SLURM_ARRAY_JOB_ID": "10042", "SLURM_ARRAY_TASK_ID": "3"},
            143,
            "requeue 10042_3",  # not all tasks
        ),
        ({"STATE": "COMPLETING"}, 143, "saved"),  # by scancel
        ({"STATE": "RUNNING", "SLURM_RESTART_COUNT": "100"}, 2, "error: the job was queued again"),
    ],
)
def test_it_is_queued_again_before_the_time_limit(folder, variables, status, last) -> None:
    found, text = stopped(folder, "train_warmup.py", "wait", **variables)
    assert found == status and "saved" in text, text
    assert text.splitlines()[-1].startswith(last), text


def test_it_waits_for_what_a_shell_script_has_started(folder) -> None:
    """bash ends at once on SIGTERM; the training that it has started saves first."""
    slow = PYTHON.replace("echo saved", "/bin/sleep 1; echo saved")
    (folder / "bin/python").write_text(slow)
    (folder / "run.sh").write_text("bin/python wait\necho never\n")
    status, text = stopped(folder, "run.sh", "x", STATE="RUNNING")
    assert status == 143 and text.splitlines()[-3:] == ["saved", AGAIN, "requeue 10042"], text


# ---- in a cluster of this machine


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[slurm.Cluster]:
    if reason := slurm.why_not():
        pytest.skip(reason)
    made = slurm.Cluster(tmp_path_factory.mktemp("slurm"))
    yield made
    made.close()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    changes = {"steps": STEPS + 2, "warmup_steps": STEPS, "log_every": 50, "checkpoint_every": 6}
    return tiny.make_world(folder, **changes)


@pytest.fixture(scope="module")
def whole(world: Path, cluster: slurm.Cluster) -> Iterator[Whole]:
    scripts = Scripts()
    yield Whole(scripts, world, 1, STAGES[:2])
    scripts.close()


def wait_until(condition, what: str, seconds: float = 600) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what() if callable(what) else what
        time.sleep(0.1)


def submit(cluster: slurm.Cluster, log: Path, options: list[str], arguments: list[str]) -> str:
    variables = {"PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    return cluster.submit(*options, SCRIPT, *arguments, log=log, **variables)


@pytest.mark.slow
def test_a_job_that_reaches_its_time_limit_goes_on(cluster, world, whole, tmp_path) -> None:
    log, run = tmp_path / "log", tmp_path / "warmup"
    job = submit(cluster, log, ["--time=60"], command("warmup", world, tmp_path))
    wait_until((run / "last.pt").exists, lambda: log.read_text() if log.exists() else "not started")
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=1")
    again = "the job is queued again and resumes"
    wait_until(lambda: again in log.read_text(), log.read_text)
    cluster.run("scontrol", "update", f"JobId={job}", "TimeLimit=60")
    wait_until(lambda: not cluster.states(job), log.read_text)
    text = log.read_text()
    assert "stopping after this step" in text and "start 2 on" in text, text
    assert f"resuming to step {STEPS}" in text, text
    assert f"step {STEPS} of {STEPS} done" in text, text
    assert_same("warmup", whole, tmp_path)


@pytest.mark.slow
def test_masks_are_made_by_a_job_array(cluster, world, whole, tmp_path) -> None:
    arguments = command("masks", world, tmp_path)
    arguments.remove("--score")
    shared = [*arguments, "--share", "{task}/{tasks}"]
    job = submit(cluster, tmp_path / "log_%a", ["--array=1-2"], shared)
    wait_until(lambda: not cluster.states(job), "the array does not end")
    for task in (1, 2):
        assert "4 masks, 4 of them new" in (tmp_path / f"log_{task}").read_text()
    job = submit(cluster, tmp_path / "log", [], [*arguments, "--score"])
    wait_until(lambda: not cluster.states(job), "the job does not end")
    assert "8 masks, 0 of them new" in (tmp_path / "log").read_text()
    assert_same("masks", whole, tmp_path)


@pytest.mark.slow
def test_a_suite_is_run_by_a_job_for_its_masks_and_one_for_each_seed(
    cluster, world, tmp_path
) -> None:
    values = {"config": str(world / "config.yaml"), "split": "val", "seeds": [0, 1]}
    values |= {"make_masks": True, "rows": {"Base": {"stage": "warmup", "views": "base"}}}
    values["contrasts"] = {}
    short = {"steps": 4, "warmup_steps": 2, "pseudo_masks": str(tmp_path / "masks")}
    labels = json.loads((world / "image_labels.json").read_text())
    labels |= {f"valburg/valburg_{i:06d}_000019": [0, 1, 2] for i in range(3)}
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    short["image_labels"] = str(tmp_path / "labels.json")
    (tmp_path / "suite.yaml").write_text(yaml.safe_dump(values))
    arguments = ["-m", "experiments.ablation", str(tmp_path / "suite.yaml")]
    arguments += ["--out", str(tmp_path / "out")]
    changes = ["--set", *(f"{key}={value}" for key, value in short.items())]
    masks = [*arguments, "--masks", "only", *changes]
    first = submit(cluster, tmp_path / "log", [], masks)
    after = ["--array=0-1", "--kill-on-invalid-dep=yes", f"--dependency=afterok:{first}"]
    seeds = [*arguments, "--masks", "ready", "--seeds", "{task}", *changes]
    job = submit(cluster, tmp_path / "log_%a", after, seeds)
    wait_until(lambda: not cluster.states(job), "the jobs do not end", 900)
    logs = {path.name: path.read_text() for path in tmp_path.glob("log*")}
    assert logs.keys() == {"log", "log_0", "log_1"}, logs
    assert "0 runs, in 0 rounds" in logs["log"]
    for seed in (0, 1):
        assert f"finished base_{seed}" in logs[f"log_{seed}"], logs
    # the runner that ends last has seen both; --table-only makes it certain
    cluster.run(sys.executable, *arguments, "--table-only", *changes)
    content = json.loads((tmp_path / "out/ablation.json").read_text())
    assert content["rows"]["Base"]["metrics"].keys() == {"0", "1"}


def waiting(folder: Path) -> dict[str, str]:
    """The variable PYTHON for a command that waits for SIGTERM."""
    (folder / "python").write_text(PYTHON.replace("touch started", "echo started"))
    (folder / "python").chmod(0o755)
    return {"PYTHON": str(folder / "python")}


@pytest.mark.slow
def test_a_task_of_an_array_queues_only_itself_again(cluster, tmp_path) -> None:
    logs = {task: tmp_path / f"log_{task}" for task in (1, 2)}
    options = ["--array=1-2", SCRIPT, "train_warmup.py", "wait"]
    job = cluster.submit(*options, log=tmp_path / "log_%a", **waiting(tmp_path))

    def started(task: int, often: int = 1) -> bool:
        return logs[task].exists() and logs[task].read_text().count("started") == often

    wait_until(lambda: started(1) and started(2), "not started")
    for task, other in ((1, 2), (2, 1)):  # one of them has the number of the array
        before = logs[other].read_text()
        cluster.run("scancel", "--batch", "--signal=TERM", f"{job}_{task}")
        wait_until(lambda task=task: started(task, 2), logs[task].read_text)
        assert "queued again" in logs[task].read_text() and logs[other].read_text() == before
    cluster.run("scancel", job)
    wait_until(lambda: not cluster.states(job), "the array does not end")


@pytest.mark.slow
def test_a_cancelled_job_stays_cancelled(cluster, tmp_path) -> None:
    log, python = tmp_path / "log", waiting(tmp_path)
    job = cluster.submit(SCRIPT, "train_warmup.py", "wait", log=log, **python)
    wait_until(lambda: log.exists() and "started" in log.read_text(), "not started")
    cluster.run("scancel", job)
    wait_until(lambda: not cluster.states(job), log.read_text)
    assert "saved" in log.read_text() and "queued again" not in log.read_text()
