"""The commands of docs/use.md, "The whole way", as printed: from images to an exported network."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import program
import pytest
from conftest import CAMVID
from PIL import Image

from datasets.labels import load_classes
from demo.make_scenes import write_dataset

FRAMES = 30


def blocks() -> list[str]:
    """The blocks of commands: installation; a film of images; until labels are corrected; rest."""
    text = (program.ROOT / "docs/use.md").read_text(encoding="utf-8")
    section = text.partition("## The whole way\n")[2].partition("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", section, re.DOTALL)


def run(block: str, folder: Path) -> None:
    """Run its commands one by one, and print how long each took."""
    assignments = ""  # a shell of its own forgets them
    for command in block.splitlines():
        if re.match(r"\w+=", command):
            assignments += f"{command}; "
            continue
        start = time.monotonic()
        shell = f'PATH="$PWD/.venv/bin:$PATH"; {assignments}{command}'
        done = subprocess.run(["bash", "-c", shell], cwd=folder, capture_output=True, text=True)
        print(f"{time.monotonic() - start:5.1f} s  {command.partition('  ')[0]}")
        assert not done.returncode, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_from_images_to_an_exported_network(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    if not shutil.which("ffmpeg"):
        pytest.skip("the program ffmpeg is not installed")
    images = sorted(CAMVID.glob("img/val/*"))[:FRAMES] if CAMVID else []  # real streets
    if not images:
        write_dataset(tmp_path / "drawn", {"train": FRAMES, "val": 1}, seed=5)
        images = sorted((tmp_path / "drawn/images/train").glob("*"))
    (tmp_path / "jpegs").mkdir()
    for file in images:
        image = Image.open(file).convert("RGB")
        image.save(tmp_path / f"jpegs/{file.stem}.jpg", quality=95)
    size = image.height, image.width
    copy = program.copy(tmp_path)
    _, film, first, second = blocks()  # without the installation
    run(film, copy)
    run(first, copy)
    suggested = copy / "data/drive/suggested"
    assert (suggested / "page.html").is_file()
    shutil.copy(suggested / "suggested.csv", copy / "labels.csv")  # all suggestions were right
    run(second, copy)
    names = load_classes(copy / "data/drive/classes.yaml").names
    for number in range(FRAMES):
        labels = np.array(Image.open(copy / f"frame_labels/{number:06d}.png"))
        assert labels.shape == size and labels.max() < len(names)
    assert (copy / "for_cvat/masks.zip").is_file()
    for film in ("drive_overlay.mp4", "drive_labels.mp4"):
        assert (copy / film).stat().st_size > 1000
    assert (copy / "exported/MODEL_CARD.md").is_file()
