"""Where the reference cases and the real data lie, and what a test without them does."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Browser, find
from own_data import copy_world, make_world

_ROOT = Path(__file__).resolve().parent.parent
_SHARED = _ROOT.parent / "shared"


def _folder(variable: str, default: Path) -> Path | None:
    """The folder an environment variable names (it must exist), else `default` if it exists."""
    if variable in os.environ:
        value = os.environ[variable]
        if not value or not Path(value).is_dir():  # Path("") would be the working folder
            raise pytest.UsageError(f"{variable}={value}: no such folder")
        return Path(value)
    return default if default.is_dir() else None


GOLDENS = _folder("CARB_GOLDENS", _SHARED / "goldens")
CAMVID = _folder("CARB_CAMVID", _SHARED / "data" / "camvid")


def golden_path(name: str) -> Path:
    """Path of a reference file; skips the test when it is not there."""
    if GOLDENS is None or not (GOLDENS / name).is_file():
        pytest.skip(f"reference cases {name} not found (set CARB_GOLDENS)")
    return GOLDENS / name


def load_golden(name: str) -> np.lib.npyio.NpzFile:
    """A reference file of the authors' code; skips the test when it is not there."""
    return np.load(golden_path(name), allow_pickle=False)


def golden_cases(name: str) -> list[str]:
    """The case names of a reference file (what stands before '/' in its keys), for parametrize."""
    if GOLDENS is None or not (GOLDENS / name).is_file():
        return []
    with np.load(GOLDENS / name, allow_pickle=False) as file:
        return sorted({key.split("/")[0] for key in file.files if "/" in key})


def golden_names(name: str, key: str) -> list[str]:
    """The names that a reference file lists under `key`, for parametrize.

    Where there is no such file, a name nobody has: `load_golden` then skips the test.
    """
    if GOLDENS is None or not (GOLDENS / name).is_file():
        return ["none"]
    with np.load(GOLDENS / name, allow_pickle=False) as file:
        return file[key].tolist()


def golden_files(pattern: str) -> list[str]:
    """Names of the reference files matching a glob pattern, for parametrize.

    Where there are none, the pattern itself: `load_golden` then skips the test and names it.
    """
    found = [] if GOLDENS is None else sorted(path.name for path in GOLDENS.glob(pattern))
    return found or [pattern]


def camvid_root() -> Path:
    """Real CamVid at half size; skips the test when it is not there."""
    if CAMVID is None:
        pytest.skip("real CamVid not found (set CARB_CAMVID)")
    return CAMVID


def shared_data(name: str) -> Path:
    """A file or folder beside the real CamVid; skips the test when it is not there."""
    path = camvid_root().parent / name
    if not path.exists():
        pytest.skip(f"{name} not found beside the real CamVid")
    return path


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `own_data.make_world` makes; made once."""
    folder = tmp_path_factory.mktemp("world")
    make_world(folder)
    return folder


@pytest.fixture
def case(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the world to break, and the working folder."""
    folder = tmp_path / "case"
    copy_world(world, folder)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def reading(tmp_path: Path) -> Path:
    """The file that a fuzzed reader is given."""
    return tmp_path / "reading"


@pytest.fixture(scope="session")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path | str]:
    """A small tmpfs without a free byte, or why there is none."""
    folder = tmp_path_factory.mktemp("full")
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        yield f"no tmpfs can be mounted here: {getattr(error, 'stderr', '') or error}"
        return
    try:
        with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
            while file.write(bytes(1024)):
                pass
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """A browser; skips the test where there is none."""
    find()
    browser = Browser(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.close()
