"""The commands of docs/use.md, "The whole way", as printed: from a film to an exported network."""

import re
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import program
import pytest
from PIL import Image

from datasets.labels import load_classes
from demo.make_scenes import write_dataset

FRAMES = 30


def blocks() -> list[str]:
    """The two blocks of commands: before and after the labels are corrected."""
    text = (program.ROOT / "docs/use.md").read_text(encoding="utf-8")
    section = text.partition("## The whole way\n")[2].partition("\n## ")[0]
    return re.findall(r"```bash\n(.*?)```", section, re.DOTALL)


def write_film(path: Path, folder: Path) -> None:
    """A film of drawn streets, one a second."""
    av = pytest.importorskip("av")
    write_dataset(folder, {"train": FRAMES, "val": 1}, seed=5)
    with av.open(str(path), "w") as film:
        stream = film.add_stream("libx264", rate=1)
        stream.height, stream.width, stream.pix_fmt = 160, 320, "yuv420p"
        for file in sorted(folder.glob("images/train/*")):
            image = np.array(Image.open(file).convert("RGB"))
            film.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        film.mux(stream.encode())


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
    write_film(tmp_path / "drive.mp4", tmp_path / "drawn")
    copy = program.copy(tmp_path)
    first, second = blocks()
    run(first, copy)
    suggested = copy / "data/drive/suggested"
    assert (suggested / "page.html").is_file()
    shutil.copy(suggested / "suggested.csv", copy / "labels.csv")  # all suggestions were right
    run(second, copy)
    names = load_classes(copy / "data/drive/classes.yaml").names
    for number in range(1, FRAMES + 1):
        labels = np.array(Image.open(copy / f"drive_labels/{number:06d}.png"))
        assert labels.shape == (160, 320) and labels.max() < len(names)
    assert (copy / "drive_overlay.mp4").stat().st_size > 1000
    assert (copy / "exported/MODEL_CARD.md").is_file()
