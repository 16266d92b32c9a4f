"""utils/safe/errors.py: what a script prints and how it ends."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.safe import errors
from utils.safe.errors import InputError, run_script
from utils.safe.signals import same_command

ROOT = Path(__file__).resolve().parent.parent.parent


def run(monkeypatch, main, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    with pytest.raises(SystemExit) as stopped:
        run_script(main)
    return stopped.value.code


def test_input_error_is_one_line_and_status_2(monkeypatch, capsys):
    def main(argv):
        raise InputError(f"found {argv}")

    assert run(monkeypatch, main, "a") == 2
    assert capsys.readouterr().err == "error: found ['a']\n"
    assert run(monkeypatch, main, "--debug", "a") == 2  # --debug is not the script's own
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and shown.endswith("error: found ['a']\n")


def test_system_errors_name_the_file_and_the_reason(monkeypatch, capsys, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()

    def below_a_file(argv):
        (tmp_path / "file" / "below").mkdir()

    def onto_a_folder(argv):
        (tmp_path / "file").replace(tmp_path / "folder")

    def full(argv):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    expected = {
        below_a_file: f"{tmp_path / 'file' / 'below'}: Not a directory; there is a file where",
        onto_a_folder: f"{tmp_path / 'folder'}: Is a directory; there is a folder where",
        full: "No space left on device; free some space or name another disk",
    }
    for main, message in expected.items():
        assert run(monkeypatch, main) == 2
        shown = capsys.readouterr().err
        assert shown.startswith(f"error: {message}") and shown.count("\n") == 1


class Failing(torch.utils.data.Dataset):
    def __init__(self, error: Exception) -> None:
        self.error = error

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        raise self.error


@pytest.mark.parametrize("error", [InputError("x.png is damaged"), OSError("x.png is damaged")])
def test_message_out_of_a_loader_worker(monkeypatch, capsys, error):
    def main(argv):
        list(torch.utils.data.DataLoader(Failing(error), num_workers=1))

    assert run(monkeypatch, main) == 2
    assert capsys.readouterr().err == "error: x.png is damaged\n"


def test_errors_of_the_program_stay_tracebacks(monkeypatch):
    def main(argv):
        raise ValueError("a bug")

    monkeypatch.setattr(sys, "argv", ["script.py"])
    with pytest.raises(ValueError, match="a bug"):
        run_script(main)


@pytest.mark.parametrize("number, status", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_with_their_status_and_the_command(monkeypatch, capsys, number, status):
    cleared = []

    def main(argv):
        try:
            os.kill(os.getpid(), number)
            time.sleep(10)
        finally:
            cleared.append(1)

    command = ["python", "train_carb.py", "--set", "a=b c", "--overwr", "--config", "x"]
    monkeypatch.setattr(sys, "orig_argv", command)
    assert run(monkeypatch, main) == status and cleared
    expected = "stopped; to run it again:\n    python train_carb.py --set 'a=b c' --config x\n"
    assert capsys.readouterr().err == expected
    monkeypatch.setenv("RANK", "1")
    assert run(monkeypatch, main) == status
    assert capsys.readouterr().err == ""


class Killed(Failing):
    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), signal.SIGKILL)


def fail(error: Exception) -> None:
    raise error


CLOSED = RuntimeError("[third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed")
SHARED = RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left")
MEANINGS = {
    "another process of this run has ended": lambda: fail(CLOSED),
    "no memory is left ([enforce fail": lambda: torch.empty(1 << 50),
    "no memory is left (CUDA out of": lambda: fail(torch.OutOfMemoryError("CUDA out of memory.")),
    "no memory is left (Unable to": lambda: np.ones(1 << 50),
    "no memory is left (CUDA error": lambda: fail(RuntimeError("CUDA error: out of memory")),
    "a loader process has failed, probably for lack of memory (DataLoader": lambda: list(
        torch.utils.data.DataLoader(Killed(CLOSED), num_workers=1)
    ),
    "a loader process has failed, probably for lack of memory (RuntimeError: unable": (
        lambda: list(torch.utils.data.DataLoader(Failing(SHARED), num_workers=1))
    ),
}


@pytest.mark.parametrize("meaning", MEANINGS)
def test_what_torch_says_is_put_into_words(monkeypatch, capsys, meaning):
    assert run(monkeypatch, lambda argv: MEANINGS[meaning]()) == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"error: {meaning}") and shown.count("\n") == 1


def test_names_in_a_message_move_no_cursor(monkeypatch, capsys):
    assert run(monkeypatch, lambda argv: fail(InputError("a\x1b[2J\nb"))) == 2
    assert capsys.readouterr().err == "error: a\\x1b[2J\nb\n"


@pytest.mark.parametrize("rank, waits", [("0", []), ("3", [errors._WAIT])])
def test_other_ranks_wait_before_they_speak(monkeypatch, capsys, rank, waits):
    def main(argv):
        raise InputError("no such split")

    slept = []

    def sleep(seconds):
        assert capsys.readouterr().err == ""
        slept.append(seconds)

    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(errors.time, "sleep", sleep)
    assert run(monkeypatch, main) == 2
    assert slept == waits
    assert capsys.readouterr().err == "error: no such split\n"


@pytest.mark.slow
def test_under_torchrun_an_error_of_all_ranks_comes_in_whole_lines():
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *launcher, "eval.py", "--ckpt", "gone.pt"],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "gone.pt" in line]
    assert lines and all(line.startswith("error: no checkpoint at gone.pt") for line in lines)
    assert all(line.count("gone.pt") == 1 for line in lines)
    assert 'eval.py", line' not in done.stderr  # no traceback of ours


# --- consoles

TALKER = """
import sys
sys.path.insert(0, sys.argv.pop(1))
from pathlib import Path
from utils.safe.errors import InputError, run_script
from utils.safe.signals import same_command
def main(argv):
    for _ in range(5000):
        print("дорога 汽车 caf\\udce9")
        print("дорога", file=sys.stderr)
    Path(argv[0]).write_text("all is done")
    if argv[1:]:
        raise InputError("дорога")
run_script(main)
"""


def talk(
    done: Path, *more: str, redirect: str = "", **variables: str
) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", TALKER, str(ROOT), str(done), *more]
    return subprocess.run(
        ["bash", "-c", f'"$@" {redirect}', "bash", *command],
        env=os.environ | variables,
        capture_output=True,
        timeout=100,
    )


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("cp1252", rb"\u0434\u043e\u0440\u043e\u0433\u0430 \u6c7d\u8f66 caf\udce9"),
        ("ascii", rb"\u0434\u043e\u0440\u043e\u0433\u0430 \u6c7d\u8f66 caf\udce9"),
        ("latin-1:strict", rb"\u0434\u043e\u0440\u043e\u0433\u0430 \u6c7d\u8f66 caf\udce9"),
        ("utf-8:strict", "дорога 汽车 caf\\udce9".encode()),
        ("cp1251", "дорога ".encode("cp1251") + rb"\u6c7d\u8f66 caf\udce9"),
    ],
)
def test_letters_that_a_console_lacks_are_escaped(tmp_path, encoding, shown):
    found = talk(tmp_path / "done", PYTHONIOENCODING=encoding)
    assert found.returncode == 0 and (tmp_path / "done").is_file()
    assert {*found.stdout.splitlines()} == {shown}
    assert talk(tmp_path / "done", "fails", PYTHONIOENCODING=encoding).returncode == 2


@pytest.mark.parametrize(
    "redirect",
    [
        ">&-",
        "2>&-",
        ">&- 2>&-",
        "<&- >&- 2>&-",
        "> >(head -1)",
        "2> >(head -1 >&2)",
        ">/dev/full",
        ">/dev/full 2>&1",
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_console_ends_no_run(tmp_path, redirect, unbuffered):
    variables = {"redirect": redirect, "PYTHONUNBUFFERED": unbuffered}
    found = talk(tmp_path / "done", **variables)
    assert found.returncode == 0 and (tmp_path / "done").read_text() == "all is done"
    assert b"Broken" not in found.stderr and b"Traceback" not in found.stderr
    assert talk(tmp_path / "done", "fails", **variables).returncode == 2


def test_unbuffered_output_comes_at_once():
    code = TALKER.replace("range(5000)", "range(1)").replace(
        "Path(argv[0])", "input() or Path(argv[0])"
    )
    process = subprocess.Popen(
        [sys.executable, "-u", "-c", code, str(ROOT), os.devnull],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout.readline()  # it waits for us now
    process.communicate(b"\n", timeout=100)
    assert process.returncode == 0


def test_names_that_the_system_cannot_write_are_refused(tmp_path, monkeypatch, capsys):
    def main(argv):
        (tmp_path / "file").write_text("caf\udce9.png", encoding="utf-8")

    assert run(monkeypatch, main) == 2
    assert (
        "error: 'caf\\udce9.png' can't be written in utf-8: it is a file" in capsys.readouterr().err
    )
    assert run(monkeypatch, lambda argv: "\u0434".encode("latin-1")) == 2
    assert "set PYTHONUTF8=1" in capsys.readouterr().err


def test_the_printed_command_does_not_overwrite(monkeypatch):
    """It is there to resume: --overwrite, also shortened, would start anew."""
    command = ["python", "train_warmup.py", "--run-dir", "my run"]
    for form in ("--overwrite", "--over"):
        monkeypatch.setattr(sys, "orig_argv", [*command, form])
        assert same_command() == "python train_warmup.py --run-dir 'my run'"
