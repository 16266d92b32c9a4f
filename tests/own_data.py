"""A small data set of one's own with both stages trained, and ways to change or break it."""

import contextlib
import io
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import tiny
import torch
import yaml
from PIL import Image

import gen_clip_masks
import prepare_data
import train_carb
import train_warmup
from utils.checkpoint import load_checkpoint, save_checkpoint
from utils.config import load_config

ROOT = Path(__file__).resolve().parent.parent
CLASSES = ("road", "building", "car", "person")
CONFIG = ("--config", "config.yaml", "--device", "cpu")


def make_world(folder: Path) -> None:
    """A data set of one's own, labels, masks, both stages trained: every script could run here."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for i in range(count):
            ids = np.kron(rng.integers(0, 4, (3, 4)), np.ones((16, 16), int)).astype(np.uint8)
            image = (ids[..., None] * 60 + rng.integers(0, 60, (*ids.shape, 3))).astype(np.uint8)
            tiny.save(folder / f"data/images/{split}/{split[0]}{i}.png", image)
            tiny.save(folder / f"data/masks/{split}/{split[0]}{i}.png", ids)
            tiny.save(folder / f"pictures/p{i}.png", image)
    (folder / "data/classes.yaml").write_text(f"classes: [{', '.join(CLASSES)}]\n")
    tiny.make_clip(folder / "clip.pt")
    values = load_config(ROOT / "configs/tiny_cpu.yaml").to_dict() | {
        "dataset": "folder",
        "data_root": "data",
        "class_file": "data/classes.yaml",
        "image_labels": "labels.json",
        "pseudo_masks": "masks",
        "clip_model": "clip.pt",
        "clip_text": "text.pt",
        "views": "base",
        "steps": 4,
        "warmup_steps": 2,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    with contextlib.chdir(folder):
        prepare_data.main(["folder", "--root", "data", "--out", "labels.json", "--workers", "0"])
        gen_clip_masks.main([*CONFIG, "--out", "masks"])
        train_warmup.main([*CONFIG, "--run-dir", "warmup"])
        train_carb.main(
            [*CONFIG, "--init", "warmup/warmup.pt", "--run-dir", "carb", "--keep-checkpoints"]
        )


def copy_world(world: Path, folder: Path) -> None:
    """A copy to break. Weights are hard links: see `write`."""
    copy = {True: os.link, False: shutil.copy2}
    shutil.copytree(world, folder, copy_function=lambda a, b: copy[a.endswith(".pt")](a, b))


Break = Callable[[], object]  # may return what undoes it


def write(path: str, content: bytes | str | np.ndarray) -> Break:
    """Replace or make a file; an array becomes a picture."""

    def do() -> None:
        file = Path(path)
        file.unlink(missing_ok=True)  # other cases have links to it
        file.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, np.ndarray):
            Image.fromarray(content).save(file)
        else:
            file.write_bytes(content.encode() if isinstance(content, str) else content)

    return do


def cut(path: str, share: float = 0.5) -> Break:
    """Leave the first part of a file."""

    def do() -> None:
        data = Path(path).read_bytes()
        write(path, data[: int(len(data) * share)])()

    return do


def swap(path: str, old: str, new: str) -> Break:
    """Replace text in a file, which must have it."""

    def do() -> None:
        text = Path(path).read_text()
        assert old in text
        write(path, text.replace(old, new, 1))()

    return do


def gone(path: str) -> Break:
    return lambda: shutil.rmtree(path) if Path(path).is_dir() else Path(path).unlink()


def link(path: str, target: str) -> Break:
    return lambda: Path(path).symlink_to(target)


def endless(path: str) -> Break:
    """A PNG says that it is larger than all memory."""

    def do() -> None:
        data = bytearray(Path(path).read_bytes())
        data[16:24] = struct.pack(">II", 60000, 60000)
        data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
        write(path, bytes(data))()

    return do


def emptied(path: str) -> Break:
    def do() -> None:
        shutil.rmtree(path)
        Path(path).mkdir()

    return do


def copied(source: str, target: str) -> Break:
    return lambda: write(target, Path(source).read_bytes())()


class Harmful:
    """Makes a file when it is unpickled."""

    def __reduce__(self) -> tuple:
        return Path.touch, (Path("executed"),)


def saved(path: str, content: object) -> Break:
    """By torch.save, or for .npy by numpy.save: with a pickle in it."""

    def do() -> None:
        buffer = io.BytesIO()
        if path.endswith(".npy"):
            np.save(buffer, np.array(content, dtype=object), allow_pickle=True)
        else:
            torch.save(content, buffer)
        write(path, buffer.getvalue())()

    return do


def edited(path: str, change: Callable[[dict], object]) -> Break:
    """Load a checkpoint, change it, write it again."""

    def do() -> None:
        content = load_checkpoint(path)
        change(content)
        Path(path).unlink()
        save_checkpoint(path, content)

    return do


def jpeg(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "JPEG")
    return buffer.getvalue()


def png_of_16_bits(array: np.ndarray) -> bytes:
    """RGB, which Pillow can't write. array: uint16 (H,W,3)."""
    height, width, _ = array.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0),
        b"IDAT": zlib.compress(rows),
        b"IEND": b"",
    }
    parts = [
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in chunks.items()
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)
