"""What every script does with bad input: one message, exit status 2, nothing half-written.

One row of a table = one case: the script, how its input is broken, the words that say what is wrong
and where, the words that say what to do.
"""

import contextlib
import dataclasses
import io
import json
import os
import re
import socket
import subprocess
import sys
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import tiny
import torch
from own_data import (
    CONFIG,
    ROOT,
    Break,
    Harmful,
    copied,
    cut,
    edited,
    emptied,
    endless,
    gone,
    jpeg,
    link,
    png_of_16_bits,
    saved,
    swap,
    write,
)
from PIL import Image
from rights import modes_bind, ordinary_user

import eval as evaluation
import gen_clip_masks
import predict
import prepare_data
import train_carb
import train_warmup
from datasets.files import File, read_image
from utils.checkpoint import load_checkpoint
from utils.config import PRESETS, Config, config_from_dict, load_config
from utils.safe import errors
from utils.safe.errors import InputError, run_script

MODULES = {
    "prepare_data": prepare_data,
    "gen_clip_masks": gen_clip_masks,
    "train_warmup": train_warmup,
    "train_carb": train_carb,
    "eval": evaluation,
    "predict": predict,
}
COMMANDS = {
    "prepare_data": ("folder", "--root", "data", "--out", "new.json", "--workers", "0"),
    "gen_clip_masks": (*CONFIG, "--out", "new_masks"),
    "train_warmup": (*CONFIG, "--run-dir", "run"),
    "train_carb": (*CONFIG, "--init", "warmup/warmup.pt", "--run-dir", "run"),
    "eval": ("--ckpt", "carb/last.pt", "--device", "cpu", "--out", "scores"),
    "predict": ("pictures", "--ckpt", "carb/last.pt", "--device", "cpu", "--out", "drawn"),
}


# ---------------------------------------------------------------- rights, variables, ports


def mode(path: str, bits: int) -> Break:
    """Take away rights from a file or folder; a folder that isn't there is made."""

    def do() -> None:
        if not modes_bind():
            pytest.skip("nothing keeps this user from passing over file modes")
        if not Path(path).exists():
            Path(path).mkdir()
        Path(path).chmod(bits)

    return do


def environment(**values: str) -> Break:
    """Variables that torchrun or a scheduler would set."""

    def do() -> Callable[[], None]:
        os.environ.update(values)
        return lambda: [os.environ.pop(name) for name in values]

    return do


def port_in_use() -> Callable[[], None]:
    """Rank 0 of two is to listen where somebody else does."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(listener.getsockname()[1])}
    undo = environment(RANK="0", WORLD_SIZE="2", **address)()
    return lambda: (undo(), listener.close())


PICTURE = np.random.default_rng(1).integers(0, 256, (48, 64, 3), dtype=np.uint8)
MASK = np.zeros((48, 64), np.uint8)
TEXT = torch.rand(4, 32)
THEIRS = {"state_dict": {"decode_head.decode_module.a": torch.ones(1)}}
MASK_1, IMAGE_1 = "data/masks/train/t1.png", "data/images/train/t1.png"

READ = ("--points", "p.json", "--stats")  # reads the file, and POINTS writes it
POINTS = ("--points", "p.json")
LAUGHS = """<!DOCTYPE l [<!ENTITY l0 "ha">"""
LAUGHS += "".join(f'<!ENTITY l{i + 1} "{f"&l{i};" * 10}">' for i in range(9))
LAUGHS += "]><annotations><version>&l9;</version></annotations>"


class Case(NamedTuple):
    script: str
    how: tuple[Break | str | list[str], ...]  # breaks; arguments to add; a list: all arguments
    says: str  # regular expressions
    advises: str
    leaves: str = ""  # whole files may be there afterwards, below this


# fmt: off
CASES = [
    # ------------------------------------------------------------ prepare_data.py
    Case("prepare_data", (["folder", "--root", "daat", "--stats"],), "no folder at daat", "--root"),
    Case("prepare_data", (gone("data/images"),), "no folder data/images", "images/<name>.jpg"),
    Case("prepare_data", (emptied("data/images/val"),), "no images in data/images/val", "expected"),
    Case("prepare_data", (["camvid", "--root", "data", "--stats"],), "no CamVid in data", "img/"),
    Case("prepare_data",
         (mode("img", 0o755), mode("img/train", 0o755), ["camvid", "--root", ".", "--stats"]),
         r"\. has no images of 'train'", "expected one of"),
    Case("prepare_data", (["cityscape", "--root", "data"],), "'cityscape'",
         "choose from 'cityscapes'"),
    Case("prepare_data", (["folder", "--root", "data"],), "nothing to do", "--out, --points"),
    Case("prepare_data", (gone("data/classes.yaml"),), "data/classes.yaml", "--class-file"),
    Case("prepare_data", (write("data/classes.yaml", "classes: [a, a]"),), "repeated: a", "rename"),
    Case("prepare_data", (write("data/classes.yaml", "classes: [road, {nam: car}]"),),
         "classes.yaml: class 1", "expected a name or {name"),
    Case("prepare_data", (write("data/classes.yaml", "classes: [a]\ncolors: [[1, 2, 3]]"),),
         "data/classes.yaml: expected 'classes:'", "nothing else"),
    Case("prepare_data", (write("data/classes.yaml", 'classes: ["\\e[2J"]'),),
         r"classes.yaml: class 0.*x1b\[2J", "expected a name"),
    Case("prepare_data", (link("data/images/train/loop", ".."),), "train/loop is a link to a fold",
         "remove the link"),
    Case("prepare_data",
         (write("b/x", ""), link("b/a", "../data"), link("data/images/train/b", "../../../b")),
         "train/b/a is a link to a folder that contains it", "remove the link"),
    Case("prepare_data", ("--out", ""), "empty argument after --out", "give a value"),
    Case("prepare_data", ("--out=",), "empty argument after --out=", "give a value"),
    Case("prepare_data", (cut(MASK_1),), f"{MASK_1}: .*truncated", "copy or download it again"),
    Case("prepare_data", (write(MASK_1, b""),), f"{MASK_1}: 0 bytes", "copy or download it again"),
    Case("prepare_data", (write(MASK_1, MASK + 4),), rf"{MASK_1} holds the ids \[4\]", "0 to 3 or"),
    Case("prepare_data", (write(MASK_1, PICTURE),), f"{MASK_1}.*found RGB", "turn colours into"),
    Case("prepare_data", (write(MASK_1, jpeg(MASK)),), f"{MASK_1}: JPEG", "must be PNG"),
    Case("prepare_data", (write(MASK_1, MASK.astype(np.uint16) + 300),), f"{MASK_1}.*up to 300",
         "run from 0 to 255"),
    Case("prepare_data", (gone(MASK_1),), "'t1' of 'train' has no mask",
         "add it or remove the image"),
    Case("prepare_data", (copied("data/images/train/t0.png", "data/images/train/t0.jpg"),),
         "t0.jpg and .*t0.png differ in the ending only", "keep one"),
    Case("prepare_data", (copied("data/images/train/t0.png", "data/images/val/t0.png"),),
         "'t0' of 'val' has no mask", "add it or remove the image"),
    Case("prepare_data", (cut("labels.json"), "--labels", "labels.json"), "labels.json", "line 4"),
    Case("prepare_data", (write("l.json", '{"t0": [9]}'), "--labels", "l.json"),
         "l.json: image 't0'.*found 9", r"expected a class id 0\.\.3"),
    Case("prepare_data", (write("l.json", '{"t0": ["rood"]}'), "--labels", "l.json"),
         "l.json: image 't0'.*found 'rood'", "did you mean 'road'"),
    Case("prepare_data", (write("l.json", '{"t0": [0], "t0.png": [1]}'), "--labels", "l.json"),
         "l.json: .* both mean the image 't0'", "keep one"),
    Case("prepare_data", (write("l.csv", "picture;labels\n"), "--labels", "l.csv"),
         "l.csv: the first line.*'picture;labels'", "must be 'image,labels'"),
    Case("prepare_data", (write("l.json", b"\x93NUMPY\xff"), "--labels", "l.json"),
         "l.json is not a text file", "of labels"),
    Case("prepare_data", ("--labels", "gone.json"), "no image labels at gone.json",
         "makes labels: "),
    Case("prepare_data", (saved("labels.npy", Harmful()), "--import-labels", "labels.npy"),
         "labels.npy is not the official", "names .*touch, which a table of labels does not need"),
    Case("prepare_data",
         (saved("labels.npy", {"t0": np.ones(19)}), "--import-labels", "labels.npy"),
         "labels.npy has 19 classes, folder 4", "import the file of the same data set"),
    Case("prepare_data", ("--points", "gone/p.json", "--stats"), "no points at gone/p.json",
         "--points gone/p.json; or import"),
    Case("prepare_data", (write("p.json", '{"t0": [[1, 1, "rood"]]}'), *READ),
         "p.json: image 't0', point 1: .*found 'rood'", "did you mean 'road'"),
    Case("prepare_data", (write("p.json", '{"t0": [[1, NaN, 0]]}'), *READ),
         "p.json: image 't0', point 1", "finite and not negative"),
    Case("prepare_data", (write("p.json", "[" * 100_000), *READ), "p.json is not valid JSON",
         "--import-points"),
    Case("prepare_data", (write("p.json", b"\x93NUMPY\xff"), *READ), "p.json is not valid JSON",
         "--import-points"),
    Case("prepare_data", (*POINTS, gone(MASK_1)), "'t1' of 'train' has no mask", "--import-points"),
    Case("prepare_data", (*POINTS, write(MASK_1, MASK + 4)), rf"{MASK_1} holds the ids", "0 to 3"),
    Case("prepare_data", (*POINTS, write("p.json", "{}")), "p.json already holds something else",
         "--overwrite"),
    Case("prepare_data", (["folder", "--root", "data", "--points", "data"],),
         "--points data is a folder", "data/points.json"),
    Case("prepare_data", (*POINTS, "--min-area", "0"), "--min-area", "at least 1"),
    Case("prepare_data", (*POINTS, "--check", "--points-per", "class"), "--points-per",
         "simulated points"),
    Case("prepare_data", ("--points-seed", "1"), "--points-seed", "simulated points"),
    Case("prepare_data", (*POINTS, "--points-per", "pixel"), "--points-per", "component"),
    Case("prepare_data", ("--import-points", "a.xml"), "--import-points", "needs --points FILE"),
    Case("prepare_data", ("--skip-unknown",), "--skip-unknown", "for --import-points"),
    Case("prepare_data", ("--import-points", "a.xml", *READ), "--check and --stats",
         "import first"),
    Case("prepare_data", (*POINTS, "--import-points", "gone.xml"), "no gone.xml",
         "annotation tool"),
    Case("prepare_data", (write("a.xml", LAUGHS), *POINTS, "--import-points", "a.xml"),
         "a.xml.*document type", "export it again"),
    Case("prepare_data", (write("a.json", "[" * 100_000), *POINTS, "--import-points", "a.json"),
         "a.json is not valid JSON.*nested too deeply", "export it again"),
    Case("prepare_data", (write("a.xml", LAUGHS), "--stats", "--import-tags", "a.xml"),
         "a.xml.*document type", "export it again"),
    Case("prepare_data", (write("a.json", "[" * 100_000), "--stats", "--import-tags", "a.json"),
         "a.json is not valid JSON.*nested too deeply", "export it again"),
    Case("prepare_data", ("--stats", "--import-tags", "gone.xml"), "no gone.xml",
         "annotation tool"),
    Case("prepare_data", ("--rename", "a=b"), "--rename", "for --import-tags"),
    Case("prepare_data", ("--min-pixels", "0"), "--min-pixels", "at least 1"),
    Case("prepare_data", ("--min-pixels", "many"), "--min-pixels", "invalid int value: 'many'"),
    Case("prepare_data", ("--workers", "-1"), "--workers", "at least 0"),
    Case("prepare_data", ("--splits", "trian"), "no split 'trian'", "only train, val"),
    Case("prepare_data", ("--config", "config.yaml"), "--config", "--check; add that"),
    Case("prepare_data", ("--out", "data"), "--out data is a folder", "data/image_labels.json"),
    Case("prepare_data", ("--out", "config.yaml/l.json"), "--out config.yaml", "name a folder"),
    Case("prepare_data", ("--out", "new/l.json", cut(MASK_1)), MASK_1, "download it again"),
    Case("prepare_data", ("--out", "labels.json", "--min-pixels", "1000"),
         "labels.json already holds different labels", "--overwrite to replace it"),
    Case("prepare_data", (mode("locked", 0o555), "--out", "locked/l.json"),
         "--out locked: Permission denied", "name a folder to write to"),
    Case("prepare_data", ("--out", "full/l.json"), "--out full: No space left", "name a folder"),
    Case("prepare_data", (mode(MASK_1, 0),), f"{MASK_1}: Permission denied", "chmod"),
    Case("prepare_data", (mode("data/masks/train", 0),), "list data/masks/train: Perm", "chmod"),
    Case("prepare_data", ("--convert", "new"), "folder is read as it is",
         "for camvid and wilddash2"),
    Case("prepare_data", (["synthetic", "--root", "new"],), "scenes are drawn by",
         "python -m demo.make_scenes --root"),
    # ------------------------------------------------------------ gen_clip_masks.py
    Case("gen_clip_masks", (gone("config.yaml"),), "no config file at config.yaml", "configs/"),
    Case("gen_clip_masks", (write("config.yaml", "seed: [0"),), "(?s)config.yaml is not.*YAML",
         "line 1"),
    Case("gen_clip_masks", (write("config.yaml", "words"),), "config.yaml.*found str",
         "'key: value'"),
    Case("gen_clip_masks", (write("config.yaml", b"\xff\xfe\0"),), "config.yaml is not", "YAML"),
    Case("gen_clip_masks", (swap("config.yaml", "key_smoothing:", "key_smooting:"),),
         "unknown key 'teacher.key_smooting'", "did you mean 'teacher.key_smoothing'"),
    Case("gen_clip_masks", (swap("config.yaml", "clip_text: text.pt\n", ""),),
         "config.yaml: missing key clip_text", "would use files of Cityscapes"),
    Case("gen_clip_masks", (swap("config.yaml", "image_size:", "resize_to:"),),
         "config.yaml: 'resize_to' is now 'image_size'", r"write image_size: \[48, 64\]"),
    Case("gen_clip_masks", ("--set", "balance=fixed"), "'balance' is now region_weight: adaptive",
         "is region_weight: 0.5"),
    Case("gen_clip_masks", (swap("config.yaml", "seed: 0", "seed: 0\nseed: 1"),), "config.yaml",
         "the key 'seed' is given twice"),
    Case("gen_clip_masks", ("--set", "LR=1"), "unknown key 'LR'", "did you mean 'lr'"),
    Case("gen_clip_masks", ("--set", "zzz=1"), "unknown key 'zzz'", "cityscapes.yaml has every"),
    Case("gen_clip_masks", ("--out", "data/images/train", "--overwrite"),
         "data/images/train holds images or", "name another folder"),
    Case("gen_clip_masks", ("--out", "data/images/train/masks"),
         "data/images/train/masks holds images or", "name another folder"),
    Case("gen_clip_masks", ("--out", "masks/../data/masks/train", "--overwrite"),
         "data/masks/train holds .*ground truth", "name another folder"),
    Case("gen_clip_masks", ("--set", "arithmetic.clip_activation=gellu"),
         "'arithmetic.clip_activation'.*found 'gellu'", "must be one of quickgelu, gelu"),
    Case("gen_clip_masks", ("--set", "arithmetic=theirs"), "'arithmetic'.*found 'theirs'",
         "must be correct, official, or a mapping"),
    Case("gen_clip_masks", ("--set", "image_size=[48]"), "'image_size'",
         "a list of 2 whole numbers"),
    Case("gen_clip_masks", ("--set", "teacher.key_smoothing=2"), "'teacher.key_smoothing'.*2",
         "between 0 and 1"),
    Case("gen_clip_masks", ("--set", "teacher.mlp=maybe"), "'teacher.mlp'.*'maybe'",
         "true or false"),
    Case("gen_clip_masks", ("--set", "pseudo_masks"), "--set pseudo_masks", "expected key=value"),
    Case("gen_clip_masks", (write("labels.json", '{"t0": [0]}'),),
         "3 of 4 images have no labels in labels.json, the first is 't1'",
         "prepare_data.py makes labels"),
    Case("gen_clip_masks", (gone("labels.json"),), "labels at labels.json",
         "python prepare_data.py"),
    Case("gen_clip_masks", (write("labels.json", "{}"),), "labels.json has no image",
         "prepare_data.py"),
    Case("gen_clip_masks", (cut(IMAGE_1),), f"{IMAGE_1}.*truncated", "download it", "new_masks"),
    Case("gen_clip_masks", (write(IMAGE_1, b""),), f"{IMAGE_1}: 0 bytes", "download it",
         "new_masks"),
    Case("gen_clip_masks", (write(IMAGE_1, "text"),), "t1.png: 4 bytes", "download", "new_masks"),
    Case("gen_clip_masks", (write(IMAGE_1, jpeg(PICTURE)[:700]),), f"{IMAGE_1}: (?i:.*truncated)",
         "download it again", "new_masks"),
    Case("gen_clip_masks", (gone("clip.pt"),), "clip_model 'clip.pt'", "ViT-B/16"),
    Case("gen_clip_masks", (cut("clip.pt"), gone("text.pt")), "clip.pt: clip_model", "cut short"),
    Case("gen_clip_masks", (saved("clip.pt", {"model": Harmful()}), gone("text.pt")),
         "clip.pt: clip_model", "more than tensors"),
    Case("gen_clip_masks", (saved("clip.pt", {"a": torch.ones(2)}), gone("text.pt")),
         "clip.pt.*ln_final.weight' is missing", "expected CLIP weights"),
    Case("gen_clip_masks", (saved("text.pt", TEXT * torch.nan),), "text.pt.*see row 0", "finite"),
    Case("gen_clip_masks", (saved("text.pt", TEXT * torch.inf),), "text.pt.*see row 0", "finite"),
    Case("gen_clip_masks", (saved("text.pt", TEXT * 0),), "text.pt.*see row 0", "not zero"),
    Case("gen_clip_masks", (saved("text.pt", TEXT[:3]),), r"text.pt.*\(3, 32\)", "of 4 classes"),
    Case("gen_clip_masks", (saved("text.pt", TEXT[:, :31]),), "embeddings of width 32, found 31",
         "clip_text and clip_model must belong together"),
    Case("gen_clip_masks", (saved("text.pt", [1]),), "text.pt", r"expected a \(classes, width\)"),
    Case("gen_clip_masks", (saved("text.pt", Harmful()),), "text.pt", "more than tensors"),
    Case("gen_clip_masks", ("--set", "prompt_templates=gone.txt"), "gone.txt", "clip85, single or"),
    Case("gen_clip_masks", (write("t.txt", "a photo"), "--set", "prompt_templates=t.txt"),
         "t.txt.*found 'a photo'", "lines with one {} each"),
    Case("gen_clip_masks", (write("t.txt", b"\xff{}"), "--set", "prompt_templates=t.txt"), "t.txt",
         "lines with one {} each"),
    Case("gen_clip_masks",
         (swap("data/classes.yaml", "road", "road " * 90), gone("text.pt"),
          gone("labels.meta.json")),
         "class prompt 'road road", "too long for CLIP"),
    Case("gen_clip_masks", (swap("data/classes.yaml", "car", "van"),),
         "labels in labels.json were made for other classes: 'car'", "prepare_data.py --out"),
    Case("gen_clip_masks", ("--out", "config.yaml"), "config.yaml: File exists",
         "there is a file where a folder is needed"),
    Case("gen_clip_masks", ("--out", "masks", "--flip"), "masks made with other flip",
         "--overwrite"),
    Case("gen_clip_masks", ("--out", "masks", write("masks/meta.json", "{")), "meta.json",
         "--overwr"),
    Case("gen_clip_masks", ("--out", "masks", "--overwrite", gone("clip.pt")),
         "clip_model 'clip.pt'", "neither a file nor one of"),
    Case("gen_clip_masks", ("--share", "3/2"), "--share.*found 3/2", "expected I/N"),
    Case("gen_clip_masks", ("--grid", "0x2"), "--grid.*found 0x2", "expected rows x columns"),
    Case("gen_clip_masks", ("--ratio", "0"), "--ratio", "expected a number above 0"),
    Case("gen_clip_masks", ("--ratio", "big"), "--ratio.*found big",
         "above 0 and at most 16"),
    Case("gen_clip_masks", ("--score", gone("data/masks")), "no ground truth.*'t0'",
         "leave out --score"),
    Case("gen_clip_masks", ("--score", write("data/masks/train/t0.png", MASK[:40])),
         "t0.png is 48x64.*its image 40x64", "make the mask again", "new_masks"),
    Case("gen_clip_masks", ("--device", "tpu"), "found 'tpu'", "must be cpu, cuda or mps"),
    Case("gen_clip_masks", (mode("locked", 0o555), "--out", "locked/masks"),
         "locked/masks: Permission denied", "name another place"),
    Case("gen_clip_masks", ("--out", "full/masks"), "No space left", "free some space",
         "full/masks"),
    Case("gen_clip_masks", (gone("text.pt"), "--set", "clip_text=full/text.pt"),
         "full/text.pt: No space left", "free some space"),
    Case("gen_clip_masks", ("--set", "clip_text=data"), "no text embeddings at data", "clip_text"),
    # ------------------------------------------------------------ train_warmup.py
    Case("train_warmup", (gone("masks"),), "4 of 4 pseudo-masks.*masks/t0.png",
         "python gen_clip_masks"),
    Case("train_warmup", (gone("masks/t2.png"),), "1 of 4 .*masks/t2.png",
         "python gen_clip_masks.py"),
    Case("train_warmup", (write("masks/t2.png", MASK[:40]),), "t2.png is 40x64", "make the mask",
         "run"),
    Case("train_warmup", (write("masks/t2.png", MASK + 4),), r"t2.png.*ids \[4\]", "0 to 3", "run"),
    Case("train_warmup", (cut("masks/t2.png", 0.9),), "masks/t2.png.*trunc", "copy", "run"),
    Case("train_warmup", (cut(IMAGE_1), "--set", "num_workers=1"),
         f"error: cannot decode {IMAGE_1}: .*truncated", "download it again", "run"),
    Case("train_warmup", (mode(IMAGE_1, 0),), f"{IMAGE_1}: Permission denied", "chmod", "run"),
    Case("train_warmup", (swap("masks/meta.json", '"car"', '"truck"'),),
         "masks in masks were made for other classes: 'truck'", "gen_clip_masks.py --overwrite"),
    Case("train_warmup", ("--set", "lr=abc"), "'lr'.*found 'abc'", "must be a number"),
    Case("train_warmup", ("--set", "lr=.nan"), "'lr'.*found nan", "must be a number"),
    Case("train_warmup", ("--set", "lr=-1"), "'lr'.*found -1", "at least 0"),
    Case("train_warmup", ("--set", "lr=1e30"), "not finite at step.*t3", "Lower lr", "run"),
    Case("train_warmup", ("--set", "batchsize=4"), "unknown key 'batchsize'", "'batch_size'"),
    Case("train_warmup", ("--set", "batch_size=0"), "'batch_size'.*found 0", "at least 1"),
    Case("train_warmup", ("--set", "batch_size=2.5"), "'batch_size'.*2.5", "a whole number"),
    Case("train_warmup", ("--set", "steps=2"), r"'warmup_steps' \(2\)", r"below 'steps' \(2\)"),
    Case("train_warmup", ("--set", "scale_range=[2,1]"), r"'scale_range'.*\[2.0, 1.0\]",
         "low, high"),
    Case("train_warmup", ("--set", "backbone=resnet20"), "'backbone'.*resnet20", "one of resnet18"),
    Case("train_warmup", ("--set", "views=local", "--set", "patch_size=[64,64]"),
         r"'patch_size' \[64, 64\]", "must fit into 'crop_size'"),
    Case("train_warmup", ("--set", "pseudo_masks=null"), "'pseudo_masks'", "gen_clip_masks.py"),
    Case("train_warmup", ("--set", "data_root=gone"), "no folder gone", "set data_root"),
    Case("train_warmup", ("--set", "class_file=gone.yaml"), "gone.yaml", "datasets/classes/"),
    Case("train_warmup", ("--set", "train_split=test"), "no split 'test'", "only train, val"),
    Case("train_warmup", ("--set", "backbone_weights=gone.pth"), "no file at gone.pth", "https://"),
    Case("train_warmup", ("--set", "backbone_weights=clip.pt"),
         "clip.pt: no tensor belongs to the backbone", "which needs conv1.weight"),
    Case("train_warmup", ("--set", "backbone_weights=clip.pt#sha256=00000000"),
         "clip.pt: sha256", "download it again, or correct 'backbone_weights'"),
    Case("train_warmup", ("--set", "backbone_weights=http://example.com/a.pth"),
         "http://example.com/a.pth", "https://"),
    Case("train_warmup", ("--set", "image_cache=config.yaml"), "cache config.yaml can't be written",
         "name another folder", "run"),
    Case("train_warmup", (["--config", "config.yaml"],), "--run-dir", "required"),
    Case("train_warmup", ("--run-dir", "config.yaml"), "can't write.* config.yaml", "File exists"),
    Case("train_warmup", ("--run-dir", "warmup", "--set", "lr=0.5"),
         r"warmup holds a run with other settings \(lr: 0.01 -> 0.5\)",
         "another --run-dir, or --overwrite"),
    Case("train_warmup", ("--run-dir", "pictures", "--overwrite"), "pictures",
         "nothing was removed"),
    Case("train_warmup", ("--run-dir", ".", "--overwrite"),
         r"\. has files but is not a run folder .*nothing was removed", "another --run-dir"),
    Case("train_warmup", ("--run-dir", "."), r"\. has files but is not a run", "another --run-dir"),
    Case("train_warmup", ("--run-dir", "carb"), "carb/last.pt was written by train_carb.py",
         "another --run-dir"),
    Case("train_warmup", (mode("no", 0o555), "--run-dir", "no/run"), "no/run", "Permission denied"),
    Case("train_warmup", ("--run-dir", "full/run"), "folder full/run: No space left", "--run-dir",
         "full/run"),
    Case("train_warmup", (mode("config.yaml", 0),), "config.yaml: Permission denied", "chmod"),
    Case("train_warmup", (mode("labels.json", 0),), "labels.json: Permission denied", "chmod"),
    Case("train_warmup", (environment(RANK="zero"),), "RANK is 'zero'", "let torchrun set it"),
    Case("train_warmup", (environment(RANK="2", WORLD_SIZE="2"),), "RANK is 2", "let torchrun set"),
    Case("train_warmup", (environment(RANK="0", WORLD_SIZE="2"),), "MASTER_ADDR", "with torchrun"),
    Case("train_warmup", (port_in_use,), "MASTER_PORT.*in use", "torchrun --master-port"),
    Case("train_warmup", (write("warmup/config.yaml", "lr: ["), "--run-dir", "warmup"),
         "(?s)warmup/config.yaml", "YAML"),
    # ------------------------------------------------------------ train_carb.py
    Case("train_carb", ("--init", "gone.pt"), "no checkpoint at --init gone.pt",
         "run train_warmup.py first"),
    Case("train_carb", ("--init", "data"), "no checkpoint at data: it is a folder", "e.g. last.pt"),
    Case("train_carb", (cut("warmup/warmup.pt"),), "warmup/warmup.pt", "cut short"),
    Case("train_carb", (saved("warmup/warmup.pt", Harmful()),), "warmup/warmup.pt",
         "more than tens"),
    Case("train_carb", ("--init", "config.yaml"), "config.yaml is not a checkpoint", "last.pt"),
    Case("train_carb", ("--init", "text.pt"), "text.pt was not written by", "eval.py"),
    Case("train_carb", ("--init", "carb/last.pt"), "expected stage warmup, found carb",
         "warmup.pt"),
    Case("train_carb", ("--run-dir", "warmup"), "warmup/last.pt was written by train_warmup.py",
         "another --run-dir"),
    Case("train_carb", ("--set", "carb=false"), "carb: false has no second stage",
         "train_warmup.py"),
    Case("train_carb", ("--set", "backbone=resnet18"), "backbone: resnet18_eighth -> resnet18",
         "train the warm-up"),
    Case("train_carb", (write("data/classes.yaml", "classes: [a, b]"),),
         r"warmup.pt was trained for other classes: 'road' where .* 'a'", "class file of the warm"),
    Case("train_carb", (edited("warmup/warmup.pt", lambda c: c.pop("optimizer")),),
         "warmup/warmup.pt.*optimizer", "copy the file again"),
    Case("train_carb", (edited("warmup/warmup.pt", lambda c: c.update(criterion=[])),),
         "warmup/warmup.pt.*criterion", "copy the file again"),
    # ------------------------------------------------------------ eval.py
    Case("eval", ("--out", "data/images/val", "--save-predictions"),
         "data/images/val/predictions holds images or", "name another folder"),
    Case("eval", ("--ckpt", "gone.pt"), "no checkpoint at gone.pt", "last.pt in the run folder"),
    Case("eval", (cut("carb/last.pt"),), "carb/last.pt", "cut short"),
    Case("eval", (saved("carb/last.pt", {"model": Harmful()}),), "carb/last.pt",
         "more than tensors"),
    Case("eval", (saved("carb/last.pt", [1]),), "carb/last.pt", "expected a dict, found list"),
    Case("eval", ("--ckpt", "clip.pt"), "clip.pt is neither a checkpoint", "found keys"),
    Case("eval", ("--set", "backbone=resnet18"), "last.pt holds another network", "Use the config"),
    Case("eval", ("--set", "class_file=c.yaml", write("c.yaml", "classes: [a, b]")),
         "carb/last.pt has 4 classes, c.yaml has 2",
         "config of the data set that it was trained on"),
    Case("eval", (edited("carb/last.pt", lambda c: c["config"].update(lrr=1)),),
         "carb/last.pt.*unknown key 'lrr'", "did you mean 'lr'"),
    Case("eval", (edited("carb/last.pt", lambda c: c.update(config=None)),), "last.pt.*config",
         "a dict"),
    Case("eval", (edited("carb/last.pt", lambda c: c.update(model=[])),), "last.pt.*model",
         "a dict"),
    Case("eval", (edited("carb/last.pt", lambda c: c["model"].pop("backbone.bn1.weight")),),
         r"carb/last.pt holds another network .*bn1.weight \(missing\)",
         "Use the config it was trained with"),
    Case("eval", (saved("o.pth", THEIRS), "--ckpt", "o.pth"), "o.pth.*official", "add --config"),
    Case("eval", (saved("o.pth", THEIRS), "--ckpt", "o.pth", "--config", "config.yaml"),
         "o.pth: .*found .* no text embeddings", "expected the official ResNet"),
    Case("eval", (gone("data"),), "no folder data", "set data_root"),
    Case("eval", ("--split", "../val"), r"no split '\.\./val'", "only train, val"),
    Case("eval", (gone("data/masks/val"),), "split 'val' of data has no ground truth",
         "--save-vis"),
    Case("eval", (gone("data/masks/val/v1.png"),), "no ground truth, the first is 'v1'", "--check"),
    Case("eval", (write("data/masks/val/v1.png", MASK[:40]),), "v1.png is 40x64",
         "make the mask again"),
    Case("eval", (write("data/images/val/v1.png", b""),), "val/v1.png: 0 bytes",
         "download it again"),
    Case("eval", (write("data/images/val/v1.png", "<html>"),), "v1.png: 6 bytes",
         "download it again"),
    Case("eval",
         (edited("carb/last.pt", lambda c: c["model"]["backbone.bn1.weight"].fill_(torch.nan)),),
         "carb/last.pt: backbone.bn1.weight .* hold NaN", "use an earlier checkpoint"),
    Case("eval", (edited("carb/last.pt", lambda c: c["model"].pop("classifier.text_embeddings")),),
         "carb/last.pt lacks its text embeddings", "copy the file again"),
    Case("eval", (edited("carb/last.pt", lambda c: c.update(palette=[[1, 2, 3]])),),
         "carb/last.pt: 'palette' .* 1 colours for 4 classes", "copy the file again"),
    Case("eval", (edited("carb/last.pt", lambda c: c.update(class_names=["\x1b[2J", *"abc"])),),
         "carb/last.pt: 'class_names' .* printable", "copy the file again"),
    Case("eval", ("--scales", "0"), "--scales.*found 0", "above 0 and at most 8"),
    Case("eval", ("--scales", "big"), "--scales.*found big", "above 0 and at most 8"),
    Case("eval", ("--stride", "8", "8"), "--stride", "needs --window"),
    Case("eval", ("--window", "8", "8", "--stride", "9", "9"), r"--stride \[9, 9\]", "within 1"),
    Case("eval", ("--out", "config.yaml"), "--out config.yaml", "name a folder to write to"),
    Case("eval", ("--out", "other", write("other/metrics.json", '{"checkpoint": "x"}')),
         "other/metrics.json holds the scores of another", "name another --out"),
    Case("eval", ("--out", "other", write("other/metrics.json", "{")), "metrics.json",
         "--overwrite"),
    Case("eval", (mode("no", 0o555), "--out", "no/scores"), "--out no/scores: Perm",
         "name a folder"),
    Case("eval", (mode("no", 0o555), "--out", "no"), "--out no: Permission denied",
         "name a folder"),
    Case("eval", ("--out", "full/scores"), "--out full/scores: No space left", "name a folder"),
    Case("eval", ("--export-submission", "new"), "--export-submission", "Cityscapes"),
    Case("eval", ("--device", "cuda:7"), "found 'cuda:7'", "must be cpu, cuda or mps"),
    # ------------------------------------------------------------ predict.py
    Case("predict", (gone("pictures"),), "no image, folder or film at pictures", "one that exists"),
    Case("predict", (emptied("pictures"),), "in pictures or its folders",
         "no images .*.jpg, .png"),
    Case("predict", (["config.yaml", *COMMANDS["predict"][1:]],), "config.yaml: .*not an image",
         "PNG, JPEG", "drawn"),
    Case("predict", (write("pictures/p1.png", "text"),), "p1.png: 4 bytes", "download", "drawn"),
    Case("predict", (cut("pictures/p1.png"),), "p1.png: .*truncated", "download", "drawn"),
    Case("predict", (endless("pictures/p1.png"),), "p1.png: more than .* pixels", "smaller",
         "drawn"),
    Case("predict", (lambda: os.mkfifo("pictures/p4.png"),), "p4.png: not a regular file",
         "remove it", "drawn"),
    Case("predict", (link("pictures/loop", "."),), "pictures/loop is a link", "remove the link"),
    Case("predict", (mode("pictures/p1.png", 0),), "p1.png: Permission denied", "chmod", "drawn"),
    Case("predict", (copied("pictures/p1.png", "pictures/p1.jpg"),),
         "p1.jpg and pictures/p1.png differ in the ending", "keep one"),
    Case("predict", (copied("pictures/p1.png", "pictures/p0_overlay.png"),),
         "'p0' and the image 'p0_overlay'", "rename the image"),
    Case("predict", (copied("pictures/p1.png", f"pictures/{'n' * 250}.png"),),
         "nnn_overlay.png: File name too long", "shorten the name", "drawn"),
    Case("predict", ("--out", "pictures/new"), "pictures/new is inside pictures",
         "read as input"),
    Case("predict", ("--out", "other", write("other/p1.png", "mine")), "is p1.png", "--overwrite"),
    Case("predict", ("--out", "config.yaml"), "--out config.yaml", "name a folder to write to"),
    Case("predict", ("--alpha", "7"), "--alpha.*found 7", "from 0 to 1"),
    Case("predict", ("--alpha", "half"), "--alpha.*found half", "from 0 to 1"),
    Case("predict", (saved("carb/last.pt", Harmful()),), "carb/last.pt", "more than tensors"),
    Case("predict", ("--out", "full/new"), "--out full/new: No space left", "name a folder"),
    Case("predict", (mode("no", 0o555), "--out", "no"), "--out no: Permission denied",
         "name a folder"),
]
# fmt: on


# ---------------------------------------------------------------- running a row


def tree(*folders: Path) -> dict[Path, bytes | None]:
    """Everything below the folders: relative path -> content, None of a folder."""
    found = {}
    for folder in folders:
        for path in folder.rglob("*"):
            try:
                content = path.read_bytes() if path.is_file() else None
            except PermissionError:
                content = b"not for us"
            found[path.relative_to(folder)] = content
    return found


def check_whole(path: Path) -> None:
    """What is left behind must be of use."""
    assert "tmp" not in path.name
    if path.suffix == ".png":
        Image.open(path).load()
    elif path.suffix == ".pt":
        load_checkpoint(path)
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".jsonl":
        tiny.read_metrics(path.parent)
    elif path.name == "config.yaml":
        load_config(path)


def run(
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    script: str,
    main: Callable[[list[str]], None],
    arguments: Sequence[str],
) -> tuple[object, str]:
    """Exit status and standard error, as a user sees them."""
    monkeypatch.setattr(sys, "argv", [f"{script}.py", *arguments])
    monkeypatch.setattr(errors, "_WAIT", 0)
    capfd.readouterr()
    with pytest.raises(SystemExit) as stopped, ordinary_user():
        run_script(main)
    return stopped.value.code, capfd.readouterr().err


def name_of(row: Case) -> str:
    return f"{row.script}: {row.says}".replace("/", "|")


@pytest.mark.parametrize("row", CASES, ids=name_of)
def test_one_message_and_nothing_half_written(case, full_disk, capfd, monkeypatch, row):
    command = COMMANDS[row.script]
    check(case, full_disk, capfd, monkeypatch, row, MODULES[row.script].main, command)


def check(case, full_disk, capfd, monkeypatch, row, main, arguments):
    """One message, exit status 2, nothing half-written."""
    disks = [case]
    with contextlib.ExitStack() as undo:
        for step in row.how:
            if isinstance(step, list):
                arguments = step
            elif isinstance(step, str):
                arguments = (*arguments, step)
            elif callable(undoing := step()):
                undo.callback(undoing)
        if any("full/" in argument for argument in arguments):
            if isinstance(full_disk, str):
                pytest.skip(full_disk)
            Path("full").symlink_to(full_disk)
            disks.append(full_disk)
        before = tree(*disks)
        code, shown = run(monkeypatch, capfd, row.script, main, arguments)
    after = tree(*disks)
    assert code == 2
    assert re.search(row.says, shown) and re.search(row.advises, shown), shown
    assert shown.count("error: ") == 1 and "Traceback" not in shown
    assert shown.startswith(("error: ", "warning: ", "note: ", f"usage: {row.script}.py"))
    leaves = Path(row.leaves.removeprefix("full/")) if row.leaves else None
    for path in {*before, *after}:
        if before.get(path) != after.get(path) or (path in before) != (path in after):
            assert leaves and path.is_relative_to(leaves) and path in after, f"{path} changed"
            if after[path] is not None:
                check_whole(next(disk / path for disk in disks if (disk / path).exists()))


def test_the_table_is_large_enough():
    assert len(CASES) >= 130 and {row.script for row in CASES} == {*MODULES}


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("script", [s for s, command in COMMANDS.items() if "--device" in command])
def test_no_gpu(case, capfd, monkeypatch, script):
    check_no_gpu(case, capfd, monkeypatch, script, MODULES[script].main, COMMANDS[script])


def check_no_gpu(case, capfd, monkeypatch, script, main, command):
    before = tree(case)
    code, shown = run(monkeypatch, capfd, script, main, [*command, "--device", "cuda"])
    expected = "error: --device cuda: torch sees no CUDA device here; use --device cpu\n"
    assert (code, shown) == (2, expected)
    assert tree(case) == before


# ---------------------------------------------------------------- every key of a config


GOOD = load_config(ROOT / "configs/tiny_cpu.yaml").to_dict()
FIELDS = dataclasses.fields(Config)
TYPES = typing.get_type_hints(Config)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_every_config_key(field):
    """A value of another type, one out of bounds, a slip of the keyboard: the key is named."""
    key = field.name

    def refused(values: dict[str, object], message: str) -> None:
        with pytest.raises(InputError, match=rf"^mine\.yaml: {message}"):
            config_from_dict(values, "mine.yaml")

    if key in PRESETS:
        refused(GOOD | {key: {"a": 1}}, f"unknown key '{key}.a'")
        refused(GOOD | {key: [1]}, f"'{key}' must be .*; found \\[1\\]")
    else:
        refused(GOOD | {key: {"a": 1}}, f"'{key}' must be .*, found {{'a': 1}}")
    for bound, step in (("low", -1), ("high", 1)):
        if field.metadata.get(bound) is not None:
            value = field.metadata[bound] + step
            wrong = [value] * len(GOOD[key]) if isinstance(GOOD[key], list) else value
            refused(GOOD | {key: wrong}, f"'{key}' must be (at least|between)")
    if typing.get_origin(TYPES[key]) is typing.Literal:
        wrong = 7 if isinstance(GOOD[key], int) else "neither"
        refused(GOOD | {key: wrong}, f"'{key}' must be one of .*, found '?{wrong}")
    slip = key[:-1]
    values = {slip if k == key else k: value for k, value in GOOD.items()}
    refused(values, f"unknown key '{slip}'; did you mean '{key}'")


# ---------------------------------------------------------------- unusual, but good


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


RGB = Image.fromarray(PICTURE)
GREY = PICTURE[..., 0]
ALPHA = np.random.default_rng(2).integers(0, 256, GREY.shape, dtype=np.uint8)
SMOOTH = np.broadcast_to(np.arange(64, dtype=np.uint8)[:, None] * 3 + 20, (48, 64, 3)).copy()
PALETTED = RGB.quantize(200)
TURNED = {  # by the EXIF standard: where the first row and the first column of the pixels belong
    2: PICTURE[:, ::-1],
    3: PICTURE[::-1, ::-1],
    4: PICTURE[::-1],
    5: PICTURE.swapaxes(0, 1),
    6: np.rot90(PICTURE, -1),
    7: PICTURE[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(PICTURE),
}
FORMS = {
    "rgb.png": (encoded(RGB, "PNG"), PICTURE),
    "rgba.png": (encoded(Image.fromarray(np.dstack([PICTURE, ALPHA])), "PNG"), PICTURE),
    "grey.png": (encoded(Image.fromarray(GREY), "PNG"), GREY),
    "grey_alpha.png": (encoded(Image.merge("LA", [Image.fromarray(GREY)] * 2), "PNG"), GREY),
    "bits.png": (encoded(Image.fromarray(GREY > 99), "PNG"), (GREY > 99) * np.uint8(255)),
    "grey_16.png": (encoded(Image.fromarray(GREY * np.uint16(256) + 7), "PNG"), GREY),
    "rgb_16.png": (png_of_16_bits(PICTURE * np.uint16(256) + 7), PICTURE),
    "palette.png": (encoded(PALETTED, "PNG"), np.array(PALETTED.convert("RGB"))),
    "palette_alpha.png": (
        encoded(PALETTED, "PNG", transparency=bytes(range(200))),
        np.array(PALETTED.convert("RGB")),
    ),
    "one_transparent.png": (encoded(RGB, "PNG", transparency=(1, 2, 3)), PICTURE),
    "bitmap.bmp": (encoded(RGB, "BMP"), PICTURE),
    "lossless.webp": (encoded(RGB, "WEBP", lossless=True), PICTURE),
    "packed.tif": (encoded(RGB, "TIFF", compression="tiff_lzw"), PICTURE),
    "cmyk.tif": (encoded(RGB.convert("CMYK"), "TIFF"), PICTURE),
    "cmyk.jpg": (encoded(Image.fromarray(SMOOTH).convert("CMYK"), "JPEG", quality=98), SMOOTH),
    "progressive.jpg": (
        encoded(Image.fromarray(SMOOTH), "JPEG", quality=98, progressive=True),
        SMOOTH,
    ),
    "CAPITALS.JPG": (encoded(Image.fromarray(SMOOTH), "JPEG", quality=98), SMOOTH),
    **{
        f"exif_{k}.png": (encoded(RGB, "PNG", exif=exif(k)), pixels) for k, pixels in TURNED.items()
    },
    "exif_6.jpg": (
        encoded(Image.fromarray(SMOOTH), "JPEG", quality=98, exif=exif(6)),
        np.rot90(SMOOTH, -1),
    ),
}


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.filterwarnings("error")
def test_unusual_pictures_give_the_right_pixels(tmp_path, name):
    data, expected = FORMS[name]
    if expected.ndim == 2:
        expected = np.repeat(expected[..., None], 3, axis=2)
    (tmp_path / name).write_bytes(data)
    pixels = read_image(File(str(tmp_path / name)))
    assert pixels.shape == expected.shape and pixels.dtype == np.uint8
    tolerance = 3 if name.lower().endswith(".jpg") else 0
    assert np.abs(pixels.astype(int) - expected).max() <= tolerance


def test_unusual_pictures_go_through_the_scripts(case):
    """They are labelled, masked, learned from and segmented as their plain twins are."""
    for name, (data, expected) in FORMS.items():
        stem = name.replace(".", "_")
        write(f"data/images/train/{stem}{Path(name).suffix}", data)()
        write(f"data/masks/train/{stem}.png", np.zeros(expected.shape[:2], np.uint8))()
        write(f"pictures/{stem}{Path(name).suffix}", data)()
    arguments = ["--root", "data", "--out", "new.json", "--workers", "0"]
    prepare_data.main(["folder", *arguments])
    config = [*CONFIG, "--set", "image_labels=new.json", "--set", "pseudo_masks=new_masks"]
    gen_clip_masks.main(config)
    train_warmup.main([*config, "--set", f"batch_size={len(FORMS) + 4}", "--run-dir", "run"])
    predict.main(list(COMMANDS["predict"]))
    for name, (_, expected) in FORMS.items():
        with Image.open(f"drawn/{name.replace('.', '_')}.png") as drawn:
            assert drawn.size == expected.shape[1::-1]
            if np.array_equal(expected, PICTURE):
                assert drawn.tobytes() == Image.open("drawn/rgb_png.png").tobytes()


NAMES = (
    "straße 街道 🚗",
    "100 % 'good' \"name\" #1",
    "-rf",
    "a" * 100 + "é" * 65,
    "x.y.z",
    "Ä\udcff",
)


def test_unusual_names_go_through_the_scripts(case, capfd, monkeypatch):
    """Unicode, quotes, blanks, very long, bytes that are no text."""
    for split in ("train", "val"):
        for kind in ("images", "masks"):
            emptied(f"data/{kind}/{split}")()
    for i, name in enumerate(NAMES):
        for split in ("train", "val"):
            picture = np.roll(PICTURE, i + 10 * (split == "val"), 0)
            write(f"data/images/{split}/{split}{name}.png", picture)()
            write(f"data/masks/{split}/{split}{name}.png", (picture[..., 0] // 64))()
    emptied("pictures")()
    for name in NAMES:
        write(f"pictures/sub {name}/{name}.png", PICTURE)()
    config = [*CONFIG, "--set", "image_labels=new.json", "--set", "pseudo_masks=new_masks"]
    arguments = ["--root", "data", "--out", "new.json", "--check", "--workers", "0"]
    prepare_data.main(["folder", *arguments])
    gen_clip_masks.main([*config, "--score"])
    train_warmup.main([*config, "--run-dir", "run"])
    arguments = ["--ckpt", "run/last.pt", "--device", "cpu", "--out", "scores", "--save-vis"]
    evaluation.main([*arguments, "--save-predictions"])
    predict.main(["pictures", "--ckpt", "run/last.pt", "--device", "cpu", "--out", "drawn"])
    for name in NAMES:
        assert Path(f"new_masks/train{name}.png").is_file()
        assert Path(f"scores/predictions/val{name}.png").is_file()
        assert Path(f"drawn/sub {name}/{name}_overlay.png").is_file()
    cut(f"data/images/val/val{NAMES[-1]}.png")()
    code, shown = run(monkeypatch, capfd, "eval", evaluation.main, [*arguments, "--overwrite"])
    assert code == 2 and "val/valÄ" in shown  # the rest as standard error can show it


# ---------------------------------------------------------------- as true processes


@pytest.mark.parametrize("debug", [False, True])
def test_exit_status_and_standard_error_of_a_process(tmp_path, debug):
    command = [sys.executable, "eval.py", "--ckpt", str(tmp_path / "gone.pt"), "--device", "cpu"]
    command += ["--debug"] * debug
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    message = f"error: no checkpoint at {tmp_path / 'gone.pt'}; name an existing file: last.pt "
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1].startswith(message)
    assert ("Traceback" in done.stderr) == debug == (done.stderr.count("\n") > 1)


@pytest.mark.slow
@pytest.mark.parametrize("script", [script for script in MODULES if script != "eval"])
def test_every_script_reports_as_a_process(case, script):
    """The way in is the same in all: run_script."""
    missing = {"prepare_data": "data", "predict": "pictures"}
    gone(missing.get(script, "config.yaml"))()
    command = [sys.executable, ROOT / f"{script}.py", *COMMANDS[script]]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: no") and done.stderr.count("\n") == 1
