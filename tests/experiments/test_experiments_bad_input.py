"""report.py and experiments with bad input: one message, exit status 2, nothing half-written."""

import importlib

import pytest
import torch
from own_data import gone, write
from test_bad_input import MASK, MASK_1, Case, check, check_no_gpu, name_of
from test_paths import paths_of

import report
from experiments import ablation, learning_curves, region_quality

MODULES = {
    "report": report,
    "learning_curves": learning_curves,
    "region_quality": region_quality,
    "ablation": ablation,
}
COMMANDS = {
    "report": ("carb", "--out", "page", "--only", "tables"),
    "learning_curves": ("carb", "--out", "curves", "--device", "cpu"),
    "region_quality": ("--ckpt", "carb/last.pt", "--device", "cpu"),
    "ablation": ("suite.yaml", "--out", "suite"),
}
SUITE = (
    "{config: config.yaml, split: SPLIT, seeds: [0], make_masks: false, contrasts: {}, "
    "rows: {Base: {stage: warmup}}}"
)
POINT = '{"runs": [{"points": [{"scored": [1]}]}]}'
ROW = '{"stage": "carb", "settings": {}, "seeds": {"0": 1}, "mean": {}, "std": {}, "metrics": {}}'

# fmt: off
CASES = [
    # ------------------------------------------------------------ report.py
    Case("report", (["gone"],), "gone was not written by train_", "expected config.yaml"),
    Case("report", ("--images", "v0", "v9"), "--images: no image v9", "ids look like v0"),
    Case("report", ("--images", "../../x"), "--images: no image ../../x", "ids look like v0"),
    Case("report", ("--split", "vall"), "--split: no split 'vall'", "only train, val"),
    Case("report", (write("carb/metrics.jsonl", '{"step": 1, "loss": "low"}\n'),),
         "carb/metrics.jsonl: expected 'step'", "copy the file again"),
    Case("report", (write("carb/ablation.json", f'{{"rows": {{"a": {ROW}}}}}'),),
         "carb/ablation.json: expected .settings.", "write it again: .* --table-only"),
    Case("learning_curves", ("--split", "test"), "no split 'test'", "only train, val"),
    Case("learning_curves", (gone("data/masks/val"),), "no ground truth", "name another --split"),
    Case("learning_curves", (write("curves/curves.json", POINT),), "curves/curves.json can't be",
         "delete it and run again"),
    Case("region_quality", ("--set", "pseudo_masks=null", "--set", "views=dual"),
         "carb/last.pt names no pseudo_masks", "--set pseudo_masks=FOLDER"),
    Case("region_quality", (write(MASK_1, MASK[:40]),), f"{MASK_1} is 40x64", "make the mask"),
    Case("ablation", (write("suite.yaml", SUITE.replace("SPLIT", "../../x")),),
         "suite.yaml: 'split' .* found ../../x", "must be train, val or test"),
    Case("ablation", (write("suite.yaml", SUITE.replace("SPLIT", "test")),), "no split 'test'",
         "only train, val"),
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
        ("report", "inputs --out --readme"),
        ("experiments.ablation", "suite --out"),
        ("experiments.learning_curves", "runs --out"),
        ("experiments.region_quality", "--config --ckpt"),
    ],
)
def test_every_option_that_is_a_path_is_read_as_one(monkeypatch, capsys, script, options):
    main = importlib.import_module(script).main
    assert {*options.split()} <= paths_of(monkeypatch, main)
