"""A copy of the program that the shell scripts can run in."""

import shlex
import shutil
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# By name, as users may keep configs of their own in the folder.
CONFIGS = ("camvid", "camvid_small", "cityscapes", "folder", "tiny_cpu", "wilddash2")
OFFICIAL_CONFIGS = ("camvid", "cityscapes", "cityscapes_single", "wilddash2")
STRONG_CONFIGS = ("camvid", "cityscapes", "cityscapes_by_class", "wilddash2")
SHIPPED_CONFIGS = [ROOT / f"configs/{name}.yaml" for name in CONFIGS]
SHIPPED_CONFIGS += [ROOT / f"configs/official/{name}.yaml" for name in OFFICIAL_CONFIGS]
SHIPPED_CONFIGS += [ROOT / f"configs/strong/{name}.yaml" for name in STRONG_CONFIGS]


def copy(folder: Path) -> Path:
    """Everything but the tests, with this interpreter in .venv, so that nothing is installed."""
    core = ("configs", "datasets", "models", "scripts", "utils")
    for name in (*core, "baselines", "demo", "experiments"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name)
    for file in (*ROOT.glob("*.py"), *ROOT.glob("*.sh"), ROOT / "requirements.txt"):
        shutil.copy(file, folder)
    python = folder / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    python.chmod(0o755)
    requirements = (folder / "requirements.txt").read_text()
    (folder / ".venv/installed-requirements.txt").write_text(2 * requirements)
    return folder
