"""The log of training: means in metrics.jsonl, one line a log step on rank 0."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
import torch

from utils import runlog
from utils.config import load_config, save_config
from utils.distributed import Ranks
from utils.runlog import RunLog, describe
from utils.safe.errors import InputError

CPU = torch.device("cpu")


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def config(tmp_path):
    config = load_config("configs/tiny_cpu.yaml", ["log_every=2", "batch_size=4"])
    save_config(config, tmp_path / "config.yaml")
    return config


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """Seconds, moved by the test."""
    now = [100.0]
    monkeypatch.setattr(runlog.time, "perf_counter", lambda: now[0])
    return now


def open_log(tmp_path: Path, config, step: int, end: int, rank: int = 0) -> RunLog:
    return RunLog(tmp_path, config, Ranks(rank, 2, CPU), step, end, "CARB")


def values(k: int) -> dict[str, torch.Tensor]:
    numbers = {"loss": k, "loss_consistent": 0.1 * k, "loss_inconsistent": 10.0 * k}
    numbers |= {"w": 0.25, "consistent_fraction": 0.5, "class_share": [0.25, 0.75]}
    return {key: torch.tensor(value, dtype=torch.float32) for key, value in numbers.items()}


def read(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]


def test_line_shows_step_losses_w_share_speed_and_time_left(config, clock, tmp_path, capsys):
    log = open_log(tmp_path, config, 10, 20)
    for step in range(11, 15):
        clock[0] += 3.0 if step < 13 else 303.0
        log.add(step, 0.1, values(step), ["a"])
    log.close()
    lines = capsys.readouterr().out.splitlines()[-2:]
    # 2 steps in 6 s, 8 to go; then 4 in 612 s, 6 to go
    assert lines == [
        "step 12/20 loss 11.5 L_c 1.15 L_i 115 w 0.25 consistent 0.5 images/s 1.33 ETA 00:24",
        "step 14/20 loss 13.5 L_c 1.35 L_i 135 w 0.25 consistent 0.5 images/s 0.0132 ETA 15:18",
    ]


def test_the_first_step_of_each_start_is_shown_but_not_logged(config, tmp_path, capsys):
    """So that a run with a long way to its first log line is seen to move."""
    for first in (0, 3):
        log = open_log(tmp_path, config, first, 9)
        log.add(first + 1, 0.1, values(7), ["a"])
        log.add(first + 2, 0.1, values(9), ["a"])
        log.close()
    shown = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert shown[0] == "step 1/9 loss 7 L_c 0.7 L_i 70 w 0.25 consistent 0.5"
    assert shown[1].startswith("step 2/9 loss 8 ")  # the mean of both
    assert shown[2].startswith("step 4/9 loss 7 ") and "ETA" in shown[2]  # due anyhow: said once
    assert len(shown) == 3
    assert [(line["step"], line["loss"]) for line in read(tmp_path)] == [(2, 8.0), (4, 7.0)]


def test_a_run_begins_with_five_lines(config, tmp_path, capsys):
    samples = {"num_classes": 3, "masks": {}, "points": None}
    samples = type("Samples", (), samples | {"__len__": lambda _: 30})()
    about = describe(config, samples, torch.nn.Linear(1000, 100))
    RunLog(tmp_path, config, Ranks(0, 1, CPU), 0, 8, "CARB", about=about).close()
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 5
    assert lines[0].startswith(f"data: 30 images (train of {config.data_root}), 3 classes; ")
    assert f"masks {config.pseudo_masks}" in lines[0]
    assert lines[1].startswith("network: resnet") and "0.1 M parameters" in lines[1]
    assert "L_c, L_i: losses of" in lines[2]
    assert lines[3].startswith(f"{tmp_path}: steps 1 to 8, batch size 4 on cpu; a log line every 2")
    assert lines[4] == f"all settings: {tmp_path / 'config.yaml'}"


def test_a_console_that_has_gone_ends_no_training(config, tmp_path, monkeypatch):
    log = open_log(tmp_path, config, 0, 8)

    def broken(*_, **__) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", broken)
    for step in (1, 2):
        log.add(step, 0.1, values(step), ["a"])
    assert [line["step"] for line in read(tmp_path)] == [2]


def test_warmup_shows_no_weight(config, tmp_path, capsys):
    log = open_log(tmp_path, config, 0, 2)
    for step in (1, 2):
        log.add(step, 0.1, {"loss": torch.tensor(1.5)}, ["a"])
    log.close()
    line = capsys.readouterr().out.splitlines()[-1]
    assert re.fullmatch(r"step 2/2 loss 1.5 images/s \S+ ETA 00:00", line)


def test_a_terminal_has_a_bar_with_the_same_numbers(config, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    log = open_log(tmp_path, config, 10, 20)
    capsys.readouterr()
    for step in (11, 12):
        log.add(step, 0.1, values(step), ["a"])
    log.close()
    shown = sys.stderr.getvalue().split("\r")[-1]
    assert re.search(r"CARB: .*12/20 \[\d\d:\d\d<\d\d:\d\d, ", shown)  # tqdm's own time left
    for part in ("loss 11.5", "L_c 1.15", "L_i 115", "w 0.25", "consistent 0.5", "images/s"):
        assert part in shown
    assert capsys.readouterr().out == ""


def test_other_ranks_say_and_write_nothing(config, tmp_path, capsys):
    log = open_log(tmp_path, config, 0, 2, rank=1)
    for step in (1, 2):
        log.add(step, 0.1, values(step), ["a"])
    log.close()
    assert capsys.readouterr() == ("", "") and not (tmp_path / "metrics.jsonl").exists()
    assert log.board is None


def test_log_holds_the_means_between_log_steps(config, clock, tmp_path):
    log = open_log(tmp_path, config, 0, 5)
    for step in range(1, 6):
        clock[0] += 2.0
        log.add(step, 0.1 * step, values(step), ["a"])
    log.flush(5)  # a checkpoint between two log steps
    log.flush(5)  # nothing since
    lines = read(tmp_path)
    assert [line["step"] for line in lines] == [2, 4, 5]
    assert [line["loss"] for line in lines] == [1.5, 3.5, 5.0]
    assert lines[0]["class_share"] == [0.25, 0.75] and lines[0]["lr"] == 0.2
    assert [line["images_per_second"] for line in lines] == [2.0, 2.0, 2.0]


def test_a_resumed_run_forgets_the_steps_it_takes_again(config, tmp_path):
    log = open_log(tmp_path, config, 0, 8)
    for step in range(1, 7):
        log.add(step, 0.1, values(step), ["a"])
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed while it wrote
    log = open_log(tmp_path, config, 4, 8)
    for step in range(5, 9):
        log.add(step, 0.1, values(step), ["a"])
    assert [line["step"] for line in read(tmp_path)] == [2, 4, 6, 8]
    assert len((tmp_path / "command.txt").read_text().splitlines()) == 2


def test_a_run_that_stops_between_log_steps_writes_the_same_lines(config, clock, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for folder in (whole, parts):
        folder.mkdir()
        save_config(config, folder / "config.yaml")
    log = open_log(whole, config, 0, 6)
    for step in range(1, 7):
        clock[0] += 2.0
        log.add(step, 0.1 * step, values(step), ["a"])
    state = {}
    for first in range(6):  # one step a run
        clock[0] += 1000.0  # passes between them
        log = RunLog(parts, config, Ranks(0, 2, CPU), first, 6, "CARB", state=state)
        clock[0] += 2.0
        log.add(first + 1, 0.1 * (first + 1), values(first + 1), ["a"])
        state = log.state(first + 1)
        assert state == {} if first % 2 else state["num_steps"] == 1
    assert read(whole) == read(parts)  # images per second among them


def test_a_loss_that_is_not_finite_is_not_saved(config, tmp_path):
    log = open_log(tmp_path, config, 0, 8)
    log.add(1, 0.1, {"loss": torch.tensor(float("nan"))}, ["a"])
    with pytest.raises(InputError, match="not finite at step 1"):
        log.state(1)


@pytest.mark.parametrize("end", ['{"step": 4, "loss": 1}', '{"step": "x"}\n', "[[[\n", "\0\0", ""])
def test_what_is_not_a_whole_line_is_dropped(config, tmp_path, end):
    lines = ['{"step": 2, "loss": 1}', '{"step": 3, "loss": 2}']
    (tmp_path / "metrics.jsonl").write_text("\n".join(lines) + "\n" + end)
    log = open_log(tmp_path, config, 4, 8)
    for step in (5, 6):
        log.add(step, 0.1, values(step), ["a"])
    assert [line["step"] for line in read(tmp_path)] == [2, 3] + [4] * ("4" in end) + [6]


def test_a_log_that_cannot_be_written_is_named(config, tmp_path):
    log = open_log(tmp_path, config, 0, 8)
    (tmp_path / "metrics.jsonl").mkdir()
    with pytest.raises(InputError, match=r"metrics\.jsonl can't be written: Is a directory"):
        log.flush(1) or log.add(2, 0.1, values(2), ["a"])


def test_a_finished_run_is_left_alone(config, tmp_path, capsys):
    (tmp_path / "metrics.jsonl").write_text('{"step": 9}\n')
    open_log(tmp_path, config, 8, 8).close()
    assert read(tmp_path) == [{"step": 9}] and not (tmp_path / "command.txt").exists()
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_and_names_the_images(config, tmp_path, bad):
    log = open_log(tmp_path, config, 0, 8)
    log.add(1, 0.1, {"loss": torch.tensor(1.0)}, ["a", "b"])
    with pytest.raises(InputError, match=r"not finite at step 2 \(last images: c, d\)"):
        log.add(2, 0.1, {"loss": torch.tensor(bad)}, ["c", "d"])
    assert not (tmp_path / "metrics.jsonl").exists()
