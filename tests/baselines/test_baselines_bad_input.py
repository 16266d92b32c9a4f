"""Baselines with bad input: one message, exit status 2, nothing half-written."""

import importlib
import json

import pytest
import torch
from own_data import CONFIG, cut, gone, swap, write
from test_bad_input import MASK, MASK_1, Case, check, check_no_gpu, name_of
from test_paths import paths_of

from baselines import clustering, one_stage, points, seam, supervised, support_net

MODULES = {
    "clustering": clustering,
    "one_stage": one_stage,
    "points": points,
    "seam": seam,
    "supervised": supervised,
    "support_net": support_net,
}
POINTS = json.dumps({f"t{i}": [[3, 5, "road"], [40, 20, i]] for i in range(4)})
PAIRS = write("labels.json", json.dumps({f"t{i}": sorted([i, (i + 1) % 4]) for i in range(4)}))
COMMANDS = {
    "clustering": (*CONFIG, "--run-dir", "run", "--out", "new_masks"),
    "one_stage": (*CONFIG, "--run-dir", "run", "--out", "new_masks"),
    "seam": (*CONFIG, "--run-dir", "run", "--out", "new_masks"),
    "points": (*CONFIG, "--run-dir", "run", "--set", "points=points.json"),
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
    Case("clustering", (), "no region gets a label.*tags", "maps of a classifier may: --cams"),
    Case("clustering", (PAIRS, "--run-dir", "warmup"), "warmup holds a run with other settings",
         "another --run-dir"),
    Case("clustering", (gone("labels.json"),), "no image labels at labels.json", "prepare_data"),
    Case("clustering", ("--out", "data/images/train"), "holds images", "name another folder"),
    Case("clustering", ("--cams", "masks"), "masks: its maps were made from other data|no maps",
         "--save-cams"),
    Case("clustering", ("--score", gone("data/masks")), "ground truth", "leave out --score"),
    Case("clustering", (PAIRS, cut("data/images/train/t1.png")), "t1.png.*truncated", "again",
         "run"),
    Case("seam", (gone("labels.json"),), "no image labels at labels.json", "prepare_data"),
    Case("seam", ("--out", "data/images/train"), "holds images", "name another folder"),
    Case("seam", ("--min-pool", "-1"), "--min-pool.*found -1", "from 0 to"),
    Case("seam", ("--set", "crop_size=[6,64]", "patch_size=[4,8]"), "less than 2 pixels",
         "raise crop_size"),
    Case("seam", ("--run-dir", "warmup"), "warmup holds a run with other settings",
         "another --run-dir"),
    Case("seam", (cut("data/images/train/t1.png"),), "t1.png.*truncated", "again", "run"),
    Case("one_stage", (gone("labels.json"),), "no image labels at labels.json", "prepare_data"),
    Case("one_stage", ("--out", "data/images/val", "--split", "val"), "holds images",
         "name another folder"),
    Case("one_stage", ("--gate", "some"), "--gate: .*'some'", "choose from 'all'"),
    Case("one_stage", ("--score", gone("data/masks")), "ground truth", "leave out --score"),
    Case("one_stage", (cut("data/images/train/t1.png"),), "t1.png.*truncated", "again", "run"),
    Case("points", ([*CONFIG, "--run-dir", "run"],), "config.yaml has points: null",
         "--set points=FILE .prepare_data"),
    Case("points", (), "no points at points.json", "points"),
    Case("points", (write("points.json", POINTS), "norm=group", "backbone_weights=imagenet"),
         "norm: group .*backbone_weights is imagenet", "set backbone_weights=null"),
    Case("points", (write("points.json", POINTS), "--discs", "3", "--without", "distance"),
         "--discs puts discs in place", "leave out --without distance"),
    Case("points", ("--without", "masks", "refinement"), "makes no pseudo-masks at all",
         "leave out its other parts"),
    Case("points", ("--discs", "0"), "--discs.*found 0", "a number above 0"),
    Case("points", ("--without", "mask"), "--without: .*'mask'", "choose from 'masks'"),
    Case("points", (write("points.json", POINTS.replace("road", "rood")),),
         "points.json: image 't0', point 1.*'rood'", "'road'"),
    Case("points", (write("points.json", POINTS.replace("40", "64")),),
         r"points.json: image 't0', point 2: .64, 20. lies outside", "another size"),
    Case("points", (write("points.json", POINTS.replace("t2", "x")),), "points.json.*'t2'",
         "--allow-unpointed"),
    Case("points", (write("points.json", POINTS), swap("data/classes.yaml", "person", "[road]")),
         "data/classes.yaml: class 3", "expected a name"),
    Case("points", (write("points.json", "{}"), "--allow-unpointed"), "points.json", "point"),
    Case("points", (write("points.json", POINTS), "lr=1e30"), "not finite at step", "Lower lr",
         "run"),
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
        ("baselines.points", "--config --run-dir"),
        ("baselines.one_stage", "--config --run-dir --out"),
        ("baselines.clustering", "--config --run-dir --out --cams"),
        ("baselines.seam", "--config --run-dir --out"),
        ("baselines.supervised", "--config --run-dir"),
        ("baselines.support_net", "--config --run-dir --out"),
    ],
)
def test_every_option_that_is_a_path_is_read_as_one(monkeypatch, capsys, script, options):
    main = importlib.import_module(script).main
    assert {*options.split()} <= paths_of(monkeypatch, main)
