"""Baselines with bad input: one message, exit status 2, nothing half-written."""

import importlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from own_data import CONFIG, Break, cut, gone, swap, write
from PIL import Image
from test_bad_input import MASK, MASK_1, Case, check, check_no_gpu, name_of
from test_paths import paths_of
from tiny_clip import tiny_clip

from baselines.common import load_split
from datasets.fingerprint import data_of_masks
from datasets.labels import load_classes
from datasets.saved_maps import save_maps
from utils.config import load_config

POINTS = json.dumps({f"t{i}": [[3, 5, "road"], [40, 20, i]] for i in range(4)})
PAIRS = write("labels.json", json.dumps({f"t{i}": sorted([i, (i + 1) % 4]) for i in range(4)}))
MASKS = (*CONFIG, "--run-dir", "run", "--out", "new_masks")
COMMANDS = {
    "amn": (*MASKS, "--cams", "cams", "--set", "crop_size=[48,80]"),  # its pairs need as much
    "cam": MASKS,
    "clims": MASKS,
    "clip_es": MASKS,
    "clustering": MASKS,
    "one_stage": MASKS,
    "points": (*CONFIG, "--run-dir", "run", "--set", "points=points.json"),
    "psa": (*MASKS, "--set", "crop_size=[48,80]"),
    "prior": (*CONFIG, "--out", "new_masks"),
    "seam": MASKS,
    "sec": (*CONFIG, "--run-dir", "run", "--cams", "cams"),
    "supervised": (*CONFIG, "--run-dir", "run"),
    "support_net": MASKS,
}
MODULES = {name: importlib.import_module(f"baselines.{name}") for name in COMMANDS}
OF_CAMS = ("amn", "cam", "clims", "one_stage", "psa", "seam", "sec", "support_net")


def cams(**changes: object) -> Break:
    """The folder that baselines.cam --save-cams leaves, with changes of what it was made from."""

    def do() -> None:
        config = load_config("config.yaml")
        classes = load_classes(config.class_file)
        split = load_split(config, "train", classes)
        data = data_of_masks(config.dataset, "train", classes.names, split.images, split.labels)
        Path("cams/cams").mkdir(parents=True)
        write("cams/meta.json", json.dumps({"made_from": data | {"method": "cam"} | changes}))()
        for name, ids in split.labels.items():
            present = torch.zeros(len(classes))
            present[list(ids)] = 1
            save_maps(Path(f"cams/cams/{name}.npz"), torch.ones(len(classes), 6, 8), present, 0)

    return do


def first(method: str) -> tuple[Break, ...]:
    """What a method needs beside the data."""
    return (cams(),) if method in ("amn", "sec") else ()


def clip_of_a_resnet() -> None:
    Path("clip.pt").unlink()  # other cases have links to it
    torch.save(tiny_clip(resnet=True).state_dict(), "clip.pt")


ONE_CLASS = (write("data/classes.yaml", "classes: [road]"),
             write("labels.json", json.dumps({f"t{i}": [0] for i in range(4)})))  # fmt: skip
LACKS_ONE = write("labels.json", json.dumps({f"t{i}": [0, i] for i in range(1, 4)}))
EMPTY_ONE = write("labels.json", json.dumps({f"t{i}": [0, i] * (i > 0) for i in range(4)}))

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
    Case("prior", (gone("labels.json"),), "no image labels at labels.json", "prepare_data"),
    Case("prior", (gone(MASK_1),), "have no ground truth.*'t1'", "the prior is counted in it"),
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
    Case("clip_es", (clip_of_a_resnet,), "clip.pt is a ResNet; CLIP-ES needs the attention",
         "clip_model=ViT-B/16"),
    Case("clip_es", (gone("clip.pt"),), "clip_model .clip.pt. is neither a file", "one of .*ViT-B"),
    Case("clims", (gone("clip.pt"),), "clip_model .clip.pt. is neither a file", "one of .*ViT-B"),
    Case("psa", ("crop_size=[32,80]",), r"\[32, 80\] has no pair", "the least is"),
    Case("amn", (cams(), "crop_size=[32,80]"), r"\[32, 80\] is too small", "the least is"),
    *(Case(name, (*first(name), "--set", "backbone_weights=gone.pth"), "no file at gone.pth",
           "give a file, .*'imagenet'")
      for name in OF_CAMS),
    *(Case(name, (*first(name), LACKS_ONE), "have no labels in labels.json.*'t0'",
           "prepare_data.py makes labels")
      for name in (*OF_CAMS, "clip_es")),
    *(Case(name, (*first(name), EMPTY_ONE), "1 images have no class.*'t0'",
           "add what it shows")
      for name in (*OF_CAMS, "clip_es")),
    *(Case(name, (*first(name), *ONE_CLASS), "only one class", "add a class")
      for name in (*OF_CAMS, "clip_es")),
    *(Case(name, (how, *more), f"--cams cams.*{says}", "baselines.cam --save-cams")
      for name, more in (("amn", ()), ("psa", ("--cams", "cams")), ("sec", ()))
      for how, says in ((lambda: None, "no meta.json"),
                        (cams(dataset="voc"), "other data .dataset: voc -> folder"),
                        (cams(class_names=["cat"]), "other data .class_names"),
                        (cams(split="val"), "other data .split: val -> train"))),
    *(Case(name, (cams(), gone("cams/cams/t1.npz"), *more), "1 of 4 images have no maps.*t1.npz",
           "with --save-cams") for name, more in (("amn", ()), ("psa", ("--cams", "cams")),
                                                  ("sec", ()))),
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
        ("baselines.amn", "--config --run-dir --out --cams"),
        ("baselines.cam", "--config --run-dir --out"),
        ("baselines.clims", "--config --run-dir --out"),
        ("baselines.clip_es", "--config --run-dir --out"),
        ("baselines.points", "--config --run-dir"),
        ("baselines.prior", "--config --run-dir --out"),
        ("baselines.psa", "--config --run-dir --out --cams"),
        ("baselines.sec", "--config --run-dir --cams"),
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


@pytest.mark.parametrize("script", [*OF_CAMS, "clip_es"])
def test_pictures_smaller_than_the_crop_are_no_bad_input(case, script):
    """They lie in zeros, and their masks have their own size."""
    for step in first(script):
        step()
    quick = ("--crf", "none") if script == "clip_es" else ()
    settings = ("crop_size=[56,96]", "steps=3", "batch_size=2")
    MODULES[script].main([*COMMANDS[script], *quick, "--set", *settings])
    masks = [*Path("new_masks").glob("*.png")]
    assert len(masks) == (0 if script == "sec" else 4)
    for file in masks:
        assert np.asarray(Image.open(file)).shape == (48, 64)
    if script != "clip_es":
        assert (Path("run") / {"psa": "affinity"}.get(script, "") / "last.pt").is_file()
