"""The commands of docs/use.md, "The whole way", as printed: from a film to an exported network."""

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
    """The two blocks of commands: before and after the labels are corrected."""
    text = (program.ROOT / "docs/use.md").read_text(encoding="utf-8")
    section = text.partition("## The whole way\n")[2].partition("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", section, re.DOTALL)


def write_film(path: Path, images: list[Path]) -> tuple[int, int]:
    """A film of the images, one a second; their height and width."""
    av = pytest.importorskip("av")
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=1)
        width, height = Image.open(images[0]).size
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for file in images:
            image = np.array(Image.open(file).convert("RGB"))
            film.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        film.mux(stream.encode())
    return height, width


def run(block: str, folder: Path) -> None:
    """Run its commands one by one, and print how long each took."""
    for command in block.splitlines():
        if command.startswith("pip "):
            continue
        start = time.monotonic()
        shell = f'PATH="$PWD/.venv/bin:$PATH"; {command}'
        done = subprocess.run(["bash", "-c", shell], cwd=folder, capture_output=True, text=True)
        print(f"{time.monotonic() - start:5.1f} s  {command.partition('  ')[0]}")
        assert not done.returncode, f"{command}\n{done.stdout}\n{done.stderr}"


@pytest.mark.slow
def test_from_a_film_to_an_exported_network(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    if not shutil.which("ffmpeg"):
        pytest.skip("the program ffmpeg is not installed")
    images = sorted(CAMVID.glob("img/val/*"))[:FRAMES] if CAMVID else []  # real streets
    if not images:
        write_dataset(tmp_path / "drawn", {"train": FRAMES, "val": 1}, seed=5)
        images = sorted((tmp_path / "drawn/images/train").glob("*"))
    size = write_film(tmp_path / "drive.mp4", images)
    copy = program.copy(tmp_path)
    first, second = blocks()
    run(first, copy)
    suggested = copy / "data/drive/suggested"
    assert (suggested / "page.html").is_file()
    shutil.copy(suggested / "suggested.csv", copy / "labels.csv")  # all suggestions were right
    run(second, copy)
    names = load_classes(copy / "data/drive/classes.yaml").names
    for number in range(1, FRAMES + 1):
        labels = np.array(Image.open(copy / f"frame_labels/{number:06d}.png"))
        assert labels.shape == size and labels.max() < len(names)
    for film in ("drive_overlay.mp4", "drive_labels.mp4"):
        assert (copy / film).stat().st_size > 1000
    assert (copy / "exported/MODEL_CARD.md").is_file()
