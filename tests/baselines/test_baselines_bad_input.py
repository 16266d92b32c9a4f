"""Baselines with bad input: one message, exit status 2, nothing half-written."""

import importlib

import pytest
import torch
from own_data import CONFIG, cut, gone, write
from test_bad_input import MASK, MASK_1, Case, check, check_no_gpu, name_of
from test_paths import paths_of

from baselines import supervised, support_net

MODULES = {
    "supervised": supervised,
    "support_net": support_net,
}
COMMANDS = {
    "supervised": (*CONFIG, "--run-dir", "run"),
    "support_net": (*CONFIG, "--run-dir", "run", "--out", "new_masks"),
}

# fmt: off
CASES = [
    Case("supervised", (gone("data/masks"),), "data has no ground truth",
         "--check shows where"),
    Case("supervised", ("--run-dir", "warmup"), "warmup/last.pt was written by train_warmup",
         "another --run-dir"),
    Case("supervised", (gone(MASK_1),), "no masks, the first is 't1'", "--check"),
    Case("supervised", (cut(MASK_1),), f"{MASK_1}.*truncated", "download it again", "run"),
    Case("supervised", (write(MASK_1, MASK[:, :40]),), "t1.png is 48x40", "again", "run"),
    Case("supervised", (write(MASK_1, MASK + 200),), r"ids \[200\]", "0 to 3 or 255", "run"),
    Case("supervised", ("--set", "train_split=trian"), "no split 'trian'", "only train, val"),
    Case("support_net", ("--run-dir", "warmup"), "warmup holds a run with other settings",
         "another --run-dir"),
    Case("support_net", (gone("labels.json"),), "no image labels at labels.json", "prepare_data"),
    Case("support_net", ("--out", "data/images/train"), "holds images", "name another folder"),
    Case("support_net", ("--without", "cls"), "invalid choice: 'cls'", "mam"),
    Case("support_net", ("--out", "masks"), "masks made with other method", "--overwrite", "run"),
    Case("support_net", ("--score", gone("data/masks")), "ground truth", "leave out --score"),
    Case("support_net", (cut("data/images/train/t1.png"),), "t1.png.*truncated", "again", "run"),
]
# fmt: on


@pytest.mark.parametrize("row", CASES, ids=name_of)
def test_one_message_and_nothing_half_written(case, full_disk, capfd, monkeypatch, row):
    main, command = MODULES[row.script].main, COMMANDS[row.script]
    check(case, full_disk, capfd, monkeypatch, row, main, command)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("script", [s for s, command in COMMANDS.items() if "--device" in command])
def test_no_gpu(case, capfd, monkeypatch, script):
    check_no_gpu(case, capfd, monkeypatch, script, MODULES[script].main, COMMANDS[script])


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("baselines.supervised", "--config --run-dir"),
        ("baselines.support_net", "--config --run-dir --out"),
    ],
)
def test_every_option_that_is_a_path_is_read_as_one(monkeypatch, capsys, script, options):
    main = importlib.import_module(script).main
    assert {*options.split()} <= paths_of(monkeypatch, main)
