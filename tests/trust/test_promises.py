"""What people really bring: read right, or refused with a word that helps, never silently wrong.

One row of the table = one promise: the situation, the command, what it says, and what must be true
afterwards. The kinds are those of public bug reports; each has the reported situation and others
of its kind.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from own_data import CLASSES, Break, gone, saved, swap, write
from PIL import Image
from test_bad_input import MODULES

import prepare_data
from datasets import open_dataset
from utils.safe import errors
from utils.safe.errors import run_script

DATA = "folder --root data --workers 0"
TRAIN = "train_warmup --config config.yaml --device cpu --run-dir run"
MASKS = "gen_clip_masks --config config.yaml --device cpu --out new_masks"
EVAL = "eval --ckpt carb/last.pt --device cpu --out scores"
PREDICT = "predict pictures --ckpt carb/last.pt --device cpu --out drawn"


class Promise(NamedTuple):
    kind: str
    situation: str
    change: tuple[Break, ...]
    command: str
    status: int
    says: str = ""  # a regular expression, in what is printed
    holds: Callable[[], bool] = lambda: True  # afterwards


# ---------------------------------------------------------------- ways to make a situation


def moved(source: str, target: str) -> Break:
    def do() -> None:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        Path(source).rename(target)

    return do


def each(pattern: str, change: Callable[[Path], None]) -> Break:
    """`change` of every file that the pattern finds."""
    return lambda: [change(path) for path in sorted(Path().glob(pattern))] and None


def saved_as(ending: str, **options: object) -> Callable[[Path], None]:
    """The same picture in another format."""

    def change(path: Path) -> None:
        picture = Image.open(path)
        picture.load()
        path.unlink()
        picture.save(path.with_suffix(ending), **options)

    return change


def mapped(values: dict[int, int]) -> Callable[[Path], None]:
    """A mask with other ids."""
    table = np.arange(256, dtype=np.uint8)
    table[list(values)] = list(values.values())

    def change(path: Path) -> None:
        ids = table[np.asarray(Image.open(path))]
        path.unlink()
        Image.fromarray(ids).save(path)

    return change


def grey_png(path: str, rows: list[list[int]], bits: int) -> Break:
    """A grey PNG of 1, 2, 4 or 16 bits a pixel, as libpng writes it."""
    import struct
    import zlib

    def do() -> None:
        lines = b""
        for row in rows:
            bitstring = "".join(f"{value:0{bits}b}" for value in row)
            bitstring += "0" * (-len(bitstring) % 8)
            lines += b"\0" + int(bitstring, 2).to_bytes(len(bitstring) // 8)
        head = struct.pack(">IIBBBBB", len(rows[0]), len(rows), bits, 0, 0, 0, 0)
        data = b"\x89PNG\r\n\x1a\n"
        for kind, content in ((b"IHDR", head), (b"IDAT", zlib.compress(lines)), (b"IEND", b"")):
            data += struct.pack(">I", len(content)) + kind + content
            data += struct.pack(">I", zlib.crc32(kind + content))
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(data)

    return do


def tiff(path: str, shown: np.ndarray, **options: object) -> Break:
    """What a viewer shows; where zero is white (tag 262 is 0), Pillow stores 255 less that."""

    def do() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(shown).save(path, **options)

    return do


def labels(content: object) -> Break:
    """labels.json, which config.yaml names."""
    return write("labels.json", json.dumps(content))


def csv_labels(*lines: str, encoding: str = "utf-8") -> tuple[Break, ...]:
    text = "\n".join(lines) + "\n"
    return (write("labels.csv", text.encode(encoding)), swap("config.yaml", "s.json", "s.csv"))


def config(old: str, new: str) -> Break:
    return swap("config.yaml", old, new)


# ---------------------------------------------------------------- ways to look at the result


def names(folder: str) -> set[str]:
    return {path.name for path in Path(folder).iterdir()} if Path(folder).is_dir() else set()


def masks_are(*expected: str) -> Callable[[], bool]:
    return lambda: (
        {n for n in names("new_masks") if n.endswith(".png")}
        == {f"{name}.png" for name in expected}
    )


def mask_classes() -> set[int]:
    found = [np.unique(np.asarray(Image.open(p))) for p in Path("new_masks").rglob("*.png")]
    return {int(value) for values in found for value in values}


def written_labels(path: str = "new.json") -> dict:
    return json.loads(Path(path).read_text())


def true_labels() -> dict[str, list[int]]:
    """What the ground truth of the training images shows."""
    paths = sorted(Path("data/masks/train").glob("t?.png"))
    return {path.stem: np.unique(np.asarray(Image.open(path))).tolist() for path in paths}


def score(key: str = "num_images") -> object:
    return json.loads(Path("scores/metrics.json").read_text())[key]


def nothing_made() -> bool:
    return not any(Path(p).exists() for p in ("new.json", "new_masks", "run/last.pt", "scores"))


# fmt: off
# ---------------------------------------------------------------- the table

A = "a name that isn't understood changes what is trained on"
SPLITS = [
    Promise(A, "images/training and images/validation, as ADE20K names them",
            (moved("data/images/train", "data/images/training"),
             moved("data/images/val", "data/images/validation"),
             moved("data/masks/train", "data/masks/training"),
             moved("data/masks/val", "data/masks/validation")),
            MASKS, 0, holds=masks_are("t0", "t1", "t2", "t3")),
    Promise(A, "images/valid beside images/train, as Roboflow names it; masks/ alike",
            (moved("data/images/val", "data/images/valid"),
             moved("data/masks/val", "data/masks/valid")),
            EVAL, 0, holds=lambda: score() == 2),
    Promise(A, "images/Val with masks/validation",
            (moved("data/images/val", "data/images/Val"),
             moved("data/masks/val", "data/masks/validation")),
            EVAL, 0, holds=lambda: score() == 2),
    Promise(A, "a name that begins with a split's and isn't one: train2017",
            (moved("data/images/train", "data/images/train2017"),
             moved("data/images/val", "data/images/val2017")),
            TRAIN, 2, "train2017.*(train, val|train/)", nothing_made),
    Promise(A, "val and valid at once",
            (write("data/images/valid/v9.png", np.zeros((48, 64, 3), np.uint8)),),
            f"prepare_data {DATA} --out new.json", 2, "val.*valid", nothing_made),
    Promise(A, "splits one level deeper, as BDD100K has them",
            (moved("data/images", "data/10k"), moved("data/10k", "data/images/10k")),
            TRAIN, 2, "10k", nothing_made),
    Promise(A, "the split above images/ and masks/",
            (moved("data/images/train", "data/train/images"), gone("data/images"),
             moved("data/masks/train", "data/train/masks")),
            f"prepare_data {DATA} --out new.json", 2, "images", nothing_made),
    Promise(A, "folders of cities without a split are one split",
            (moved("data/images/train", "data/images/zurich"),
             moved("data/images/val", "data/images/valencia"),
             moved("data/masks/train", "data/masks/zurich"),
             moved("data/masks/val", "data/masks/valencia")),
            f"prepare_data {DATA} --out new.json", 0,
            holds=lambda: len(written_labels()) == 6 and "zurich/t0" in written_labels()),
    Promise(A, "a folder beside the splits is named",
            (write("data/images/unlabeled/u.png", np.zeros((48, 64, 3), np.uint8)),),
            MASKS, 0, "unlabeled.*not read", masks_are("t0", "t1", "t2", "t3")),
]

B = "well-formed under the wrong reading"


def vectors(kind: type = int) -> dict[str, list]:
    return {name: [kind(k in ids) for k in range(4)] for name, ids in true_labels().items()}


def vectors_json(kind: type = int) -> Break:
    return lambda: labels(vectors(kind))()


def right_classes() -> bool:
    return all(set(np.unique(np.asarray(Image.open(f"new_masks/{name}.png")))) <= {*ids, 255}
               for name, ids in true_labels().items())


READINGS = [
    Promise(B, "a 0/1 vector an image in JSON", (vectors_json(),), MASKS, 0, "0/1", right_classes),
    Promise(B, "the same as floats", (vectors_json(float),), MASKS, 0, "0/1", right_classes),
    Promise(B, "the same as booleans", (vectors_json(bool),), MASKS, 0, "0/1", right_classes),
    Promise(B, "one image of them with an id too large for a vector",
            (lambda: labels(vectors() | {"t0": [1, 1, 0, 3]})(),), MASKS, 2, "t0", nothing_made),
    Promise(B, "an id twice", (labels({f"t{i}": [2, 2] for i in range(4)}),), MASKS, 2, "twice|t0",
            nothing_made),
    Promise(B, "two classes, where [0, 1] is a list of ids and a vector",
            (write("data/classes.yaml", "classes: [road, car]\n"),
             labels({f"t{i}": [0, 1] if i else [1, 0] for i in range(4)}), gone("text.pt")),
            MASKS, 2, "labels.json", nothing_made),
    Promise(B, "ids counted from 1", (labels({f"t{i}": [1 + i, 4] for i in range(4)}),), MASKS, 2,
            "from 1|starts? at 1", nothing_made),
    Promise(B, "whole numbers as floats", (labels({f"t{i}": [1.0, 3.0] for i in range(4)}),),
            MASKS, 2, "t0.*1.0", nothing_made),
    Promise(B, "one number in the place of a list", (labels({f"t{i}": 2 for i in range(4)}),),
            MASKS, 2, r"t0|list", nothing_made),
    Promise(B, "a spreadsheet's semicolons between the columns",
            csv_labels("image;labels", *(f"t{i}.png;road car" for i in range(4))), MASKS, 0,
            holds=lambda: mask_classes() <= {0, 2}),
    Promise(B, "a spreadsheet's UTF-16",
            csv_labels("image\tlabels", *(f"t{i}.png\troad;car" for i in range(4)),
                       encoding="utf-16"),
            MASKS, 0, holds=lambda: mask_classes() <= {0, 2}),
    Promise(B, "an index column in front, as pandas writes it",
            csv_labels(",image,labels", *(f"{i},t{i},road;car" for i in range(4))), MASKS, 0,
            holds=lambda: mask_classes() <= {0, 2}),
    Promise(B, "class columns of True and False",
            csv_labels("image,road,building,car,person",
                       *(f"t{i},True,False,True,False" for i in range(4))), MASKS, 0,
            holds=lambda: mask_classes() <= {0, 2}),
    Promise(B, "class names that are numbers, and numbers for labels",
            (write("data/classes.yaml", "classes: ['1', '2', '3', '4']\n"), gone("text.pt"),
             gone("labels.meta.json"), labels({f"t{i}": [1, 2 + i % 2] for i in range(4)})),
            MASKS, 2, "class id 1 or the class named '1'.*not numbers", nothing_made),
    Promise(B, "class names that differ in case only",
            (write("data/classes.yaml", "classes: [Road, road, car, person]\n"),),
            MASKS, 2, "'Road' and 'road'.*rename", nothing_made),
    Promise(B, "class names that differ in a blank only",
            (write("data/classes.yaml", "classes: [road, building, car, 'car ']\n"),),
            MASKS, 2, "'car' and 'car '.*rename", nothing_made),
    Promise(B, "one 0/1 for each class without separators",
            csv_labels("image,labels", *(f"t{i},{10 - i:04b}" for i in range(4))), MASKS, 2,
            "found '0111'.*0;1;1;1|found '1010'.*1;0;1;0", nothing_made),
    Promise(B, "a class column that holds a 2",
            csv_labels("image,road,building,car,person", *(f"t{i},1,0,2,0" for i in range(4))),
            MASKS, 2, "0 or 1", nothing_made),
]

C = "two sources of one fact"
OTHER_ORDER = "classes: [road, car, building, person]\n"


def twins() -> None:
    """The numbering starts again in each split: train/0, val/0, train/1, ..."""
    for kind in ("images", "masks"):
        for split in ("train", "val"):
            for path in sorted(Path(f"data/{kind}/{split}").iterdir()):
                path.rename(path.with_name(f"{path.stem[1:]}.png"))


SOURCES = [
    Promise(C, "eval.py with the checkpoint's classes in another order",
            (write("other.yaml", OTHER_ORDER),), f"{EVAL} --set class_file=other.yaml", 2,
            "building.*car|car.*building", nothing_made),
    Promise(C, "predict.py with them",
            (write("other.yaml", OTHER_ORDER),), f"{PREDICT} --set class_file=other.yaml", 2,
            "building.*car|car.*building", lambda: not names("drawn")),
    Promise(C, "the class file edited in its place after training",
            (write("data/classes.yaml", OTHER_ORDER),), EVAL, 2, "building.*car|car.*building",
            nothing_made),
    Promise(C, "as many classes of other names",
            (write("other.yaml", "classes: [road, sky, car, person]\n"),),
            f"{EVAL} --set class_file=other.yaml", 2, "building.*sky|sky.*building", nothing_made),
    Promise(C, "names that differ in case and blanks only are the same",
            (write("other.yaml", "classes: [Road, building, car, Person]\n"),),
            f"{EVAL} --set class_file=other.yaml", 0, holds=lambda: score() == 2),
    Promise(C, "masks of another class order",
            (write("data/classes.yaml", OTHER_ORDER), gone("text.pt")), TRAIN, 2,
            "building.*car|car.*building", nothing_made),
    Promise(C, "labels made with another class order",
            (lambda: run_main(f"prepare_data {DATA} --out labels.json --overwrite"),
             write("data/classes.yaml", OTHER_ORDER), gone("text.pt")), MASKS, 2,
            "building.*car|car.*building", nothing_made),
    Promise(C, "a run goes on with other labels",
            (moved("warmup", "run"), gone("run/last.pt"), moved("run/warmup.pt", "run/last.pt"),
             labels({f"t{i}": [0] for i in range(4)})),
            f"{TRAIN} --set carb=false", 2, ""),
    Promise(C, "CARB after a warm-up on other images",
            (write("data/images/train/t9.png", np.zeros((48, 64, 3), np.uint8)),
             lambda: labels(true_labels() | {"t9": [0]})(),
             write("masks/t9.png", np.zeros((48, 64), np.uint8))),
            "train_carb --config config.yaml --init warmup/warmup.pt --device cpu --run-dir run",
            2, "4 -> 5|5 images", nothing_made),
    Promise(C, "masks of another split",
            (lambda: run_main(f"{MASKS} --split val --out val_masks"), twins,
             labels({f"train/{i}": [0] for i in range(4)}), gone("labels.meta.json"),
             moved("val_masks", "masks2")), f"{TRAIN} --set pseudo_masks=masks2", 2,
            "split 'val'.*'train'", nothing_made),
    Promise(C, "masks edited after a warm-up",
            (each("masks/t0.png", mapped({0: 1})),),
            "train_carb --config config.yaml --init warmup/warmup.pt --device cpu --run-dir run",
            2, "bytes of mask t0", nothing_made),
    Promise(C, "text embeddings that can't say whose they are",
            (saved("text.pt", torch.rand(4, 32)),), TRAIN, 0, "does not name its rows"),
    Promise(C, "one name in two splits: labels keep them apart",
            (twins, gone("labels.json")), f"prepare_data {DATA} --out labels.json", 0,
            holds=lambda: len(written_labels("labels.json")) == 6),
    Promise(C, "one name in two splits: labels of one split aren't taken for the other's",
            (twins, labels({str(i): [0, 1] for i in range(4)})), f"{MASKS} --split val", 2,
            "train and (of )?val", nothing_made),
    Promise(C, "one name in two splits: masks from labels that say which",
            (twins, labels({f"train/{i}": [0] for i in range(4)}
                           | {f"val/{i}": [2] for i in range(2)})),
            f"{MASKS} --split val", 0, holds=lambda: mask_classes() <= {2}),
]

D = "stored numbers that are not what they seem"
IDS = np.arange(4, dtype=np.uint8).repeat(16).reshape(1, 64).repeat(48, 0)
ROWS = IDS.tolist()


def t0_has(*ids: int) -> Callable[[], bool]:
    return lambda: written_labels()["t0"] == list(ids)


def grey_colours(path: Path) -> None:
    """A palette mask whose colours are shades, saved by a program that keeps the indices."""
    picture = Image.fromarray(np.asarray(Image.open(path))).copy()
    picture.putpalette(bytes(value for i in range(256) for value in (255 - i,) * 3))
    path.unlink()
    picture.save(path)


OUT = f"prepare_data {DATA} --out new.json"
NUMBERS = [
    Promise(D, "a grey PNG of 4 bits",
            (grey_png("data/masks/train/t0.png", ROWS, 4),), OUT, 0, holds=t0_has(0, 1, 2, 3)),
    Promise(D, "a grey PNG of 2 bits",
            (grey_png("data/masks/train/t0.png", ROWS, 2),), OUT, 0, holds=t0_has(0, 1, 2, 3)),
    Promise(D, "a grey PNG of 1 bit",
            (grey_png("data/masks/train/t0.png", (IDS % 2).tolist(), 1),), OUT, 0,
            holds=t0_has(0, 1)),
    Promise(D, "a grey PNG of 16 bits",
            (grey_png("data/masks/train/t0.png", ROWS, 16),), OUT, 0, holds=t0_has(0, 1, 2, 3)),
    Promise(D, "a palette whose colours run the other way",
            (each("data/masks/train/t0.png", grey_colours),), OUT, 0,
            holds=lambda: written_labels()["t0"] == true_labels()["t0"]),
    Promise(D, "a TIFF in which zero is white",
            (gone("data/masks/train/t0.png"),
             tiff("data/masks/train/t0.tif", 255 - IDS, tiffinfo={262: 0})),
            OUT, 2, "t0.tif.*0 is white", nothing_made),
    Promise(D, "ids beyond 255",
            (grey_png("data/masks/train/t0.png", [[1000] * 64] * 48, 16),), OUT, 2,
            "t0.png.*(1000|255)", nothing_made),
    Promise(D, "masks of 0 and 255, white meant as a class",
            (write("data/classes.yaml", "classes: [rest, road]\n"),
             each("data/masks/*/*.png", mapped({1: 255, 2: 0, 3: 255}))),
            OUT, 0, "255"),
    Promise(D, "pictures of 12 bits in 16",
            (each("data/images/train/*.png",
                  lambda p: grey_png(str(p), [[16 * 200] * 64] * 48, 16)()),),
            MASKS, 0, "warning: data/images/train.* 10 or 12"),
    Promise(D, "masks of 0 and 255, scored",
            (each("data/masks/val/*.png", mapped({1: 255, 2: 0, 3: 255})),), EVAL, 0,
            "255.*white|white.*255", lambda: score() == 2),
]


def camvid(change: Callable[[np.ndarray], np.ndarray] = lambda colours: colours) -> Break:
    """The release's form, two pictures, with the labels changed."""
    def do() -> None:
        colours = np.zeros((48, 64, 3), np.uint8)
        colours[:24], colours[24:, :40] = (128, 128, 128), (128, 64, 128)  # sky, road
        colours[24:, 40:] = (128, 0, 0)  # building
        for name in ("0001TP_006690", "0016E5_07959"):
            write(f"camvid/701_StillsRaw_full/{name}.png", colours)()
            write(f"camvid/LabeledApproved_full/{name}_L.png", change(colours))()
    return do


def smooth(colours: np.ndarray) -> np.ndarray:
    half = Image.fromarray(colours).resize((7, 5), Image.Resampling.BICUBIC)
    return np.asarray(half.resize((64, 48), Image.Resampling.BICUBIC))


CAMVID = "prepare_data camvid --root camvid --splits train val --workers 0 --out new.json"
COLOURS = [
    Promise(D, "CamVid's colours as they are", (camvid(),), CAMVID, 0,
            holds=lambda: len(written_labels()) == 2),
    Promise(D, "CamVid's colours after a resize with smoothing", (camvid(smooth),), CAMVID, 2,
            r"_L\.png.*%", nothing_made),
    Promise(D, "CamVid's colours with red and blue exchanged",
            (camvid(lambda colours: colours[..., ::-1]),), CAMVID, 2, "red and blue", nothing_made),
]

E = "degenerate settings that give perfect numbers"
DEGENERATE = [
    Promise(E, "one class", (write("data/classes.yaml", "classes: [road]\n"), gone("text.pt"),
                             gone("masks"), gone("labels.meta.json"),
                             labels({f"t{i}": [0] for i in range(4)})),
            TRAIN, 2, "one class", nothing_made),
    Promise(E, "one class, found by --check",
            (write("data/classes.yaml", "classes: [road]\n"), gone("data/masks"),
             labels({f"t{i}": [0] for i in range(4)})),
            f"prepare_data {DATA} --labels labels.json --check", 1, "one class"),
    Promise(E, "masks to train on that hold one class",
            (gone("masks/meta.json"), each("masks/*.png", mapped(dict.fromkeys(range(4), 0)))),
            TRAIN, 0, "what is trained on"),
    Promise(E, "masks to train on that number the classes in another way",
            (gone("masks/meta.json"), each("masks/*.png", mapped({0: 3, 1: 3, 2: 3})),
             labels({f"t{i}": [0, 1] for i in range(4)})), TRAIN, 0, "labels of their images lack"),
    Promise(E, "every image with every class",
            (write("data/classes.yaml", "classes: [road, building, car, person, tram]\n"),
             gone("text.pt"), gone("labels.meta.json"),
             labels({f"t{i}": [0, 1, 2, 3, 4] for i in range(4)})),
            MASKS, 0, "same labels .every class"),
    Promise(E, "every image with every one of a few classes",
            (labels({f"t{i}": [0, 1, 2, 3] for i in range(4)}),), MASKS, 0,
            "same labels .every class"),
    Promise(E, "ground truth without a label",
            (each("data/masks/val/*.png", mapped(dict.fromkeys(range(4), 255))),), EVAL, 0,
            "nothing to score"),
    Promise(E, "ground truth of one class",
            (each("data/masks/val/*.png", mapped(dict.fromkeys(range(4), 0))),), EVAL, 0,
            "no pixel of building"),
]

G = "unrecognised counts as absent"
ENDINGS = [
    Promise(G, "masks as TIFF", (each("data/masks/*/*.png", saved_as(".tif")),), EVAL, 0,
            holds=lambda: score() == 2),
    Promise(G, "masks as BMP", (each("data/masks/*/*.png", saved_as(".bmp")),), OUT, 0,
            holds=lambda: len(written_labels()) == 6),
    Promise(G, "masks as GIF", (each("data/masks/*/*.png", saved_as(".gif")),), EVAL, 2, r"\.gif",
            nothing_made),
    Promise(G, "masks as GIF, with pictures wanted all the same",
            (each("data/masks/*/*.png", saved_as(".gif")),), f"{EVAL} --save-vis", 0, r"\.gif"),
    Promise(G, "masks in labels/", (moved("data/masks", "data/labels"),), EVAL, 2, "labels",
            nothing_made),
    Promise(G, "masks in Masks/", (moved("data/masks", "data/Masks"),), EVAL, 0,
            holds=lambda: score() == 2),
    Promise(G, "masks under other names than the images'",
            (each("data/masks/val/*.png", lambda p: p.rename(p.with_name(f"{p.stem}_mask.png"))),),
            f"{EVAL} --save-vis", 2, "_mask", nothing_made),
    Promise(G, "pictures that can't be read beside those that can",
            (write("pictures/phone.heic", b"\0\0\0\x18ftypheic"),), PREDICT, 0, "phone.heic"),
]

H = "what other programs leave behind counts as data"
LEFT = np.zeros((48, 64, 3), np.uint8)
LEFTOVERS = [
    Promise(H, f"{left}", (write(f"data/images/train/{left}", LEFT),), MASKS, 0,
            holds=masks_are("t0", "t1", "t2", "t3"))
    for left in (".ipynb_checkpoints/t0-checkpoint.png", "@eaDir/t0.png/SYNOPHOTO_THUMB_M.jpg",
                 "__MACOSX/t0.png", "._t0.png", "$RECYCLE.BIN/$R1.png", "#recycle/t0.png",
                 ".thumbnails/normal/t0.png", ".Trash-1000/files/t0.png")
] + [
    Promise(H, "predict.py beside Jupyter", (write("pictures/.ipynb_checkpoints/p.png", LEFT),),
            PREDICT, 0, holds=lambda: ".ipynb_checkpoints" not in names("drawn")),
]

I = "ids normalised on one side only"  # noqa: E741
COMPOSED, DECOMPOSED = (unicodedata.normalize(form, "rué") for form in ("NFC", "NFD"))


def again() -> bool:
    """What prepare_data.py wrote, it reads back."""
    return run_main(f"prepare_data {DATA} --labels new.json --check") == 0


ID_ROWS = [
    Promise(I, "0001.png.jpg",
            (each("data/*/train/*.png", lambda p: p.rename(p.with_name(f"{p.name}.png"))),), OUT, 0,
            holds=again),
    Promise(I, "labels with the endings kept",
            (lambda: labels({f"{k}.png": v for k, v in true_labels().items()})(),), MASKS, 0,
            holds=right_classes),
    Promise(I, "labels with another system's letters",
            (moved("data/images/train/t0.png", f"data/images/train/{DECOMPOSED}.png"),
             lambda: labels({COMPOSED if k == "t0" else k: v for k, v in true_labels().items()})()),
            MASKS, 0, holds=masks_are(COMPOSED, "t1", "t2", "t3")),
    Promise(I, "labels with another system's separators",
            (moved("data/images/train/t0.png", "data/images/train/a/t0.png"),
             lambda: labels({"a\\t0.png" if k == "t0" else f"./{k}": v
                             for k, v in true_labels().items()})()),
            MASKS, 0, holds=lambda: Path("new_masks/a/t0.png").exists()),
]

J = "path text taken literally"
PATHS = [
    Promise(J, "a run in ~", (), TRAIN.replace("run-dir run", "run-dir=~/run"), 0,
            holds=lambda: Path("home/run/last.pt").exists() and "~" not in names(".")),
    Promise(J, "data in ~, in the config", (moved("data", "home/data"),
            config("data_root: data", "data_root: ~/data"),
            config("class_file: data", "class_file: $HOME/data")), TRAIN, 0,
            holds=lambda: Path("run/last.pt").exists()),
    Promise(J, "a variable that isn't set",
            (config("data_root: data", "data_root: $NO_SUCH/data"),), TRAIN, 2, "NO_SUCH",
            nothing_made),
    Promise(J, "masks in ~", (), MASKS.replace("--out new_masks", "--out ~/masks"), 0,
            holds=lambda: Path("home/masks/t0.png").exists() and "~" not in names(".")),
]

K = "advice for one cause given for another"
LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
FILM = b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41" + bytes(500)
KINDS = [
    Promise(K, "a film", (write("drive.mp4", FILM),),
            PREDICT.replace("pictures", "drive.mp4"), 2, r"of a film.*--out drive_overlay\.mp4"),
    Promise(K, "a film among the pictures, named as one", (write("pictures/drive.jpg", FILM),),
            PREDICT, 2, "film.*ffmpeg"),
    Promise(K, "a phone's photo named .jpg",
            (write("pictures/a.jpg", b"\0\0\0\x18ftypheic" + FILM),), PREDICT, 2, "HEIC"),
    Promise(K, "a login page saved as a picture",
            (write("pictures/a.jpg", "<!DOCTYPE html><html><title>Sign in</title>"),), PREDICT, 2,
            "HTML"),
    Promise(K, "a file that Git LFS hasn't fetched",
            (write("data/images/train/t0.png", LFS),), MASKS, 2, "git lfs pull"),
    Promise(K, "weights that Git LFS hasn't fetched",
            (write("carb/last.pt", LFS),), PREDICT, 2, "last.pt.*git lfs pull"),
    Promise(K, "labels that are a login page",
            (write("labels.json", "<html><title>Sign in</title></html>"),), MASKS, 2, "HTML page",
            nothing_made),
    Promise(K, "a config that Git LFS hasn't fetched", (write("config.yaml", LFS),), TRAIN, 2,
            "config.yaml.*git lfs pull", nothing_made),
    Promise(K, "an empty file", (write("pictures/a.jpg", b""),), PREDICT, 2, "empty|0 bytes"),
]
# fmt: on

TABLE = [*SPLITS, *READINGS, *SOURCES, *NUMBERS, *COLOURS, *DEGENERATE, *ENDINGS]
TABLE += [*LEFTOVERS, *ID_ROWS, *PATHS, *KINDS]


# ---------------------------------------------------------------- the tests


def run_main(command: str) -> int:
    """Exit status of a script, in this process."""
    script, *arguments = shlex.split(command, comments=True)
    sys.argv = [f"{script}.py", *arguments]
    try:
        run_script(MODULES[script].main)
    except SystemExit as stopped:
        return int(stopped.code or 0)
    return 0


@pytest.fixture(autouse=True)
def _process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", sys.argv)
    monkeypatch.setattr(errors, "_WAIT", 0)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.situation.replace("/", "|"))
@pytest.mark.filterwarnings("always::utils.safe.errors.InputWarning")
def test_promise(case, capfd, monkeypatch, row):
    Path("home").mkdir()
    monkeypatch.setenv("HOME", str(case / "home"))
    monkeypatch.setenv("USERPROFILE", str(case / "home"))
    for change in row.change:
        change()
    capfd.readouterr()
    status = run_main(row.command)
    shown = "".join(capfd.readouterr())
    assert status == row.status, shown
    assert re.search(row.says, shown), shown
    assert "Traceback" not in shown
    assert row.holds(), shown


RUSSIAN = "classes: [дорога, здание, машина, 人]\n"


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1:strict"])
def test_no_console_ends_a_run(case, encoding):
    """A report that can fail stands before the result is safe: here it can't fail."""
    write("data/classes.yaml", RUSSIAN)()
    command = [*shlex.split(f"{DATA} --out new.json --stats"), "--debug"]
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    script = Path(prepare_data.__file__)
    done = subprocess.run([sys.executable, script, *command], capture_output=True, env=environment)
    assert done.returncode == 0 and len(written_labels()) == 6, done.stderr
    assert rb"\u0434" in done.stdout


def test_every_kind_has_three_instances():
    kinds = [row.kind for row in TABLE]
    assert not {kind for kind in kinds if kinds.count(kind) < 3}


# ---------------------------------------------------------------- no false alarm

FORMS = {  # a release's layout, and what docs/data.md says to link where
    "ADE20K": (["images/{training,validation}/ADE_{n}.jpg"], {}),
    "VOC": (
        ["JPEGImages/2007_{n}.jpg", "SegmentationClass/2007_{n}.png"],
        {"JPEGImages": "images/train", "SegmentationClass": "masks/train"},
    ),
    "Mapillary Vistas": (
        [
            "{training,validation}/images/{n}.jpg",
            "{training,validation}/v2.0/labels/{n}.png",
            "{training,validation}/v2.0/polygons/{n}.json",
        ],
        {
            "training/images": "images/train",
            "validation/images": "images/val",
            "training/v2.0/labels": "masks/train",
            "validation/v2.0/labels": "masks/val",
        },
    ),
    "BDD100K": (
        ["images/10k/{train,val}/b1-{n}.jpg", "labels/sem_seg/masks/{train,val}/b1-{n}.png"],
        {
            "images/10k/train": "images/train",
            "images/10k/val": "images/val",
            "labels/sem_seg/masks/train": "masks/train",
            "labels/sem_seg/masks/val": "masks/val",
        },
    ),
    "IDD": (
        ["leftImg8bit/{train,val}/9/frame{n}_leftImg8bit.png"],
        {"leftImg8bit/train": "images/train", "leftImg8bit/val": "images/val"},
    ),
}


def make_form(root: Path, patterns: list[str]) -> None:
    """Files of a layout, every image with pixels of its own, every mask with all four classes."""
    rng = np.random.default_rng(0)
    for pattern in patterns:
        splits = re.findall(r"\{([a-z,]+,[a-z]+)\}", pattern)
        for split in splits[0].split(",") if splits else [""]:
            for n in range(3):
                name = re.sub(r"\{[a-z,]+,[a-z]+\}", split, pattern).replace(
                    "{n}", f"{split}{n:05}"
                )
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                if name.endswith(".json"):
                    (root / name).write_text("{}")
                elif "mages" in name or "Img" in name:
                    pixels = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
                    Image.fromarray(pixels).save(root / name)
                else:
                    Image.fromarray(IDS).save(root / name)


@pytest.mark.parametrize("name", FORMS)
def test_no_false_alarm_for_public_data_sets(tmp_path, monkeypatch, capfd, name):
    patterns, links = FORMS[name]
    monkeypatch.chdir(tmp_path)
    make_form(Path("release"), patterns)
    root = "release"
    if links:
        assert run_main("prepare_data folder --root release --class-file c.yaml --check") == 2
        root = "mine"
    Path("c.yaml").write_text(f"classes: [{', '.join(CLASSES)}]\n")
    for source, target in links.items():
        (Path(root) / target).parent.mkdir(parents=True, exist_ok=True)
        (Path(root) / target).symlink_to((Path("release") / source).resolve())
    capfd.readouterr()
    command = f"prepare_data folder --root {root} --class-file c.yaml --check --workers 0"
    if not any("masks/" in target for target in links.values()):  # no masks to take labels from
        ids = {f: [n % 4, 3] for n, f in enumerate(open_dataset("folder", root).images("train"))}
        Path(root, "image_labels.json").write_text(json.dumps(ids))
    assert run_main(command) == 0
    shown = capfd.readouterr()
    assert "warning" not in shown.out + shown.err, shown
