"""What only Linux has: scripts start without it, on other start methods, on Apple's GPU."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny
import torch
from random_inputs import official_config, random_images, random_labels
from steps import train_one_step
from test_kill import same_value
from torch.utils._python_dispatch import TorchDispatchMode

from datasets.labels import load_classes
from models.build import build_criterion, build_model, build_network, build_sampler, build_teacher
from models.views import prepare_views
from utils.checkpoint import load_checkpoint
from utils.distributed import Ranks, setup
from utils.metrics import ConfusionMatrix
from utils.safe.errors import InputError

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPTS = ["prepare_data", "gen_clip_masks", "train_warmup", "train_carb", "eval"]
SCRIPTS += ["predict", "export_masks", "export"]

# Python as it is on Windows: torch's own part in it is done first.
WINDOWS = """
import os, signal, sys
for name in "fcntl grp pwd resource termios pty tty crypt syslog readline".split():
    sys.modules[name] = None
import torch, torchvision, tqdm, PIL.Image
for module, names in (
    (os, "fork killpg getuid geteuid setsid sched_getaffinity mkfifo statvfs uname"),
    (signal, "SIGHUP SIGALRM SIGKILL SIGUSR1 pthread_sigmask sigwaitinfo setitimer"),
):
    for name in names.split():
        delattr(module, name)
"""


def python(program: str, folder: Path = ROOT) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_every_script_starts_without_what_windows_lacks() -> None:
    folders = ("scripts", "baselines", "experiments", "demo")  # those that are there
    files = [path for folder in folders for path in (ROOT / folder).glob("*.py")]
    tools = [f"{path.parent.name}.{path.stem}" for path in files]
    # The example that export.py copies runs when it is imported.
    tools = [tool for tool in tools if tool != "scripts.onnx_segment"]
    program = f"""{WINDOWS}
import contextlib, importlib, io, runpy
for script in {SCRIPTS}:
    sys.argv = [script + ".py", "--help"]
    try:
        with contextlib.redirect_stdout(io.StringIO()) as shown:
            runpy.run_path(script + ".py", run_name="__main__")
    except SystemExit as end:
        assert not end.code and "usage" in shown.getvalue(), script
for tool in {tools}:
    importlib.import_module(tool)
print("all")
"""
    done = python(program)
    assert done.stdout == "all\n", done.stderr


def test_scripts_start_without_what_is_slow_to_import() -> None:
    """torchvision alone takes more than a second, in each of the demo's ten processes."""
    program = f"""
import importlib, sys, torch
before = {{*sys.modules}}
for script in {SCRIPTS}:
    importlib.import_module(script)
slow = {{"torchvision", "matplotlib", "tensorboard", "sympy", "torch._dynamo", "scipy"}}
slow |= {{"av", "cv2", "onnx", "onnxruntime", "onnxscript", "pycocotools", "webdataset", "globox"}}
print(sorted(slow & sys.modules.keys() - before))
"""
    done = python(program)
    assert done.stdout == "[]\n", done.stdout + done.stderr


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a CLIP, a config."""
    folder = tmp_path_factory.mktemp("portable")
    return tiny.make_world(folder, views="base")


def stages(world: Path, out: Path, prepare: str, workers: int) -> dict[str, Any]:
    """Labels, masks and a warm-up, in one process each; the warm-up's last checkpoint."""
    config = ["--config", str(world / "config.yaml"), "--device", "cpu", "--set"]
    config += [f"pseudo_masks={out / 'masks'}", f"num_workers={workers}"]
    labels = ["--root", str(world / "data"), "--out", str(out / "labels.json"), "--workers"]
    commands = [
        ["prepare_data.py", "cityscapes", *labels, str(workers), "--splits", "train"],
        ["gen_clip_masks.py", *config],
        ["train_warmup.py", *config, "--run-dir", str(out / "warmup")],
    ]
    for command in commands:
        main = f"""
if __name__ == "__main__":
    exec({prepare!r})
    import runpy, sys
    sys.argv = {command}
    runpy.run_path(sys.argv[0], run_name="__main__")
"""
        done = python(main)
        assert done.returncode == 0, done.stderr
    return load_checkpoint(out / "warmup/last.pt")


@pytest.mark.slow
def test_other_systems_train_the_same(world, tmp_path) -> None:
    """What workers get must be picklable there: Windows and macOS start them anew."""
    found = [stages(world, tmp_path / "windows", WINDOWS, 0)]
    for method in ("spawn", "forkserver"):
        prepare = f"import multiprocessing; multiprocessing.set_start_method({method!r})"
        found.append(stages(world, tmp_path / method, prepare, 1))
    whole = stages(world, tmp_path / "linux", "", 1)
    for one in found:
        for key in ("model", "optimizer", "inputs", "step"):
            assert same_value(one[key], whole[key]), key


# ---- --device mps


def test_mps_is_taken_where_torch_has_it(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert setup("mps") == Ranks(0, 1, torch.device("mps"))
    assert setup().device.type != "mps"  # only when it is asked for
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="one process, WORLD_SIZE is 2; start .* without torchrun"):
        setup("mps")


def test_no_mps_is_said_in_words(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    with pytest.raises(InputError, match="sees no Apple GPU here.*--device cpu"):
        setup("mps")


class NoDoubles(TorchDispatchMode):
    """Apple's GPUs have no double precision: an operation that makes such numbers is an error."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for one in result if isinstance(result, tuple | list) else [result]:
            assert not isinstance(one, torch.Tensor) or one.dtype != torch.float64, function
        return result


@pytest.mark.parametrize("views", ["base", "local", "dual"])
def test_nothing_on_the_device_is_in_double_precision(views, tmp_path) -> None:
    tiny.make_clip(tmp_path / "clip.pt")
    settings = official_config(
        backbone="resnet18_eighth",
        crop_size=[64, 64],
        patch_size=[32, 32],
        batch_size=2,
        views=views,
        pseudo_masks=str(tmp_path),
        clip_model=str(tmp_path / "clip.pt"),
        clip_text=str(tmp_path / "text.pt"),
    )
    ranks = Ranks(0, 1, torch.device("cpu"))
    classes = load_classes(settings.class_file)
    text = torch.nn.functional.normalize(torch.randn(len(classes), 16), dim=1)
    model = build_model(settings, len(classes), text, pretrained=False)
    maskclip = build_teacher(settings, classes, ranks.device) if views != "base" else None
    sampler = build_sampler(settings)
    criterion = build_criterion(settings)
    optimizer = torch.optim.SGD(model.parameters(), settings.lr, settings.momentum)
    network = build_network(model, settings, ranks)
    draws = torch.Generator().manual_seed(3)
    batch = {
        "image": random_images(2, (64, 64), draws),
        "valid": torch.ones(2, 64, 64, dtype=torch.bool),
        "image_labels": random_labels(2, draws),
        "pseudo_mask": torch.randint(0, len(classes), (2, 64, 64)),
    }
    matrix = ConfusionMatrix(len(classes))
    with NoDoubles():
        for balanced in (False, True):
            inputs = prepare_views(batch, 0, settings, ranks, maskclip, sampler)
            losses = train_one_step(network, criterion, optimizer, inputs, 0, 0.1, balanced)
        matrix.update(batch["pseudo_mask"], batch["pseudo_mask"])
    assert losses["loss"].isfinite()
