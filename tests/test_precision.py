"""precision: auto and channels_last: auto: what they become, and what a run makes of it."""

import shutil
from argparse import Namespace
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch

import train_warmup
from experiments.table import _changed_of_run
from models.kernels import cpu_speed
from utils.config import Config, load_config, read_settings
from utils.distributed import Ranks
from utils.run import Run
from utils.run_folder import open_run
from utils.runlog import _arithmetic
from utils.safe.errors import InputError

CPU, GPU = Ranks(0, 1, torch.device("cpu")), Ranks(0, 1, torch.device("cuda:0"))
PLAIN = {"precision": "fp32", "channels_last": False}
FAST = {"precision": "bf16", "channels_last": True}
AUTO = Config(precision="auto", channels_last="auto")


def on(ranks: Ranks, **changes: object) -> dict[str, object]:
    config = replace(AUTO, **changes).resolved(ranks.all_have_bf16)
    return {key: getattr(config, key) for key in PLAIN}


@pytest.fixture
def has_bf16(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: True)


def test_no_shipped_config_leaves_the_precision_to_the_device() -> None:
    """What a config does not state is fp32; configs for small machines state bf16 themselves."""
    paths = sorted(Path("configs").rglob("*.yaml"))
    assert len(paths) > 8
    for path in paths:
        config, stated = load_config(path), read_settings(path)
        expected = {key: stated.get(key, PLAIN[key]) for key in PLAIN}
        assert {key: getattr(config, key) for key in PLAIN} == expected and not config.auto, path
        if path.parent.name in ("official", "strong") or path.name == "cityscapes.yaml":
            assert expected == PLAIN


def test_auto_is_fp32_on_a_cpu_and_on_a_gpu_without_bf16(monkeypatch) -> None:
    assert on(CPU) == PLAIN
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation
    )
    assert on(GPU) == PLAIN


def test_auto_is_bf16_and_channels_last_on_a_gpu_that_has_it(has_bf16: None) -> None:
    assert on(GPU) == on(GPU, precision="bf16") == FAST
    assert on(GPU, channels_last=False) == FAST | {"channels_last": False}
    assert on(GPU, precision="fp32") == PLAIN
    assert on(CPU, precision="bf16") == FAST | {"channels_last": False}


def test_what_a_config_states_stays_and_asks_no_device() -> None:
    def no_device() -> bool:
        raise AssertionError("asked")

    for stated in (Config(), Config(**FAST)):
        assert stated.resolved(no_device) is stated


def test_one_rank_without_bf16_decides_for_all(has_bf16: None, monkeypatch) -> None:
    monkeypatch.setattr("utils.distributed.gather_objects", lambda own: [own, False])
    assert on(GPU) == PLAIN


def test_a_run_without_a_decision_is_refused(tmp_path: Path) -> None:
    """The other trainings have no `auto`, and would compute in fp32 without a word."""
    for config, keys in (
        (AUTO, "precision and channels_last"),
        (Config(precision="auto"), "precision"),
    ):
        arguments = Namespace(run_dir=tmp_path / "run", overwrite=False)
        rest = {"stage": "cam", "end": 1, "classes": None, "inputs": lambda: None, "parts": {}}
        with pytest.raises(InputError, match=f"^{keys}: auto is for train_warmup.py and"):
            Run(arguments, config, CPU, **rest)
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_continued_in_another_precision(tmp_path: Path, has_bf16: None) -> None:
    run = AUTO.resolved(GPU.all_have_bf16)
    open_run(tmp_path, run, False, GPU)
    assert load_config(tmp_path / "config.yaml") == run
    (tmp_path / "last.pt").touch()
    with pytest.raises(InputError, match="precision: bf16 -> fp32"):
        open_run(tmp_path, AUTO.resolved(CPU.all_have_bf16), False, CPU)


def test_a_suite_takes_what_auto_became(has_bf16: None) -> None:
    for ranks in (CPU, GPU):
        run = AUTO.resolved(ranks.all_have_bf16)
        assert _changed_of_run(run, AUTO) == {}
        assert set(_changed_of_run(replace(run, lr=1.0), AUTO)) == {"lr"}
    assert set(_changed_of_run(AUTO.resolved(GPU.all_have_bf16), Config())) == set(PLAIN)


def test_the_first_lines_state_precision_and_tf32(monkeypatch) -> None:
    model = torch.nn.Linear(1, 1)
    assert _arithmetic(Config(**FAST), model) == "bf16, channels_last"
    assert _arithmetic(Config(), model) == "fp32"
    monkeypatch.setattr(torch.Tensor, "is_cuda", True)
    assert _arithmetic(Config(), model) == "fp32, TF32 in convolutions"
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert _arithmetic(Config(), model) == "fp32, without TF32"


@pytest.mark.slow  # compiles for 40 s
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs g++ on a CPU")
def test_a_compiled_network_trains_alike(tmp_path: Path, monkeypatch) -> None:
    """In bf16 and channels_last, where the backward pass gives memory back through ctypes."""
    monkeypatch.setattr(cpu_speed, "_LARGE", 1)
    world = tiny.make_world(tmp_path)
    losses = {}
    for compiled in ("false", "true"):
        run = tmp_path / f"run_{compiled}"
        train_warmup.main(
            ["--config", str(world / "config.yaml"), "--run-dir", str(run), "--device", "cpu",
             "--set", "precision=bf16", "channels_last=true", f"compile={compiled}"]
        )  # fmt: skip
        losses[compiled] = [line["loss"] for line in tiny.read_metrics(run)]
    assert len(losses["true"]) == 4
    assert losses["true"] == pytest.approx(losses["false"], rel=0.01)
