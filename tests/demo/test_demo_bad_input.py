"""The demo's programs with bad input: one message, exit status 2, nothing half-written."""

import importlib

import pytest
from test_bad_input import Case, check, name_of
from test_paths import paths_of

from demo import make_scenes, train_backbone, train_clip

MODULES = {
    "make_scenes": make_scenes,
    "train_clip": train_clip,
    "train_backbone": train_backbone,
}
COMMANDS = {
    "make_scenes": (),
    "train_clip": ("--out", "new.pt", "--steps", "1", "--scenes", "1"),
    "train_backbone": ("--out", "new.pt", "--steps", "1", "--photographs", "1"),
}

# fmt: off
CASES = [
    Case("make_scenes", (["--root", "data"],), "data holds something else", "a new folder"),
    Case("make_scenes", (["--root", "new", "--count", "train"],),
         "--count.*found train", "expected split=number like train=200"),
    Case("make_scenes", (["--root", "new", "--count", "val=1", "val=2"],),
         "is repeated in val=1 val=2", "give each split once"),
    Case("make_scenes",
         (["--root", "full/scenes", "--count", "train=1", "--workers", "0"],),
         "full/scenes/classes.yaml: No space left", "free some space", "full/scenes"),
    Case("train_clip", ("--lr", "nan"), "--lr.*nan", "a number above 0"),
    Case("train_clip", ("--seed", str(2**64)), f"--seed.*{2**64}", r"below 2\*\*63"),
    Case("train_clip", ("--out", "data", "--overwrite"), "data exists", "name another file"),
    Case("train_clip", ("--out", "config.yaml/new.pt"), "--out config.yaml: Not a dir",
         "name a folder"),
    Case("train_backbone", ("--out", "config.yaml/new.pt"), "--out config.yaml: Not a dir",
         "name a folder"),
]
# fmt: on


@pytest.mark.parametrize("row", CASES, ids=name_of)
def test_one_message_and_nothing_half_written(case, full_disk, capfd, monkeypatch, row):
    main, command = MODULES[row.script].main, COMMANDS[row.script]
    check(case, full_disk, capfd, monkeypatch, row, main, command)


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("demo.report", "run"),
        ("demo.make_scenes", "--root"),
        ("demo.train_clip", "--out --templates"),
        ("demo.train_backbone", "--out"),
    ],
)
def test_every_option_that_is_a_path_is_read_as_one(monkeypatch, capsys, script, options):
    main = importlib.import_module(script).main
    assert {*options.split()} <= paths_of(monkeypatch, main)
