"""run_*.sh, scripts/config_key.py and what several processes of one machine do first."""

import dataclasses
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import program
import pytest
import tiny
import yaml

import utils.distributed
from scripts import config_key
from utils.config import load_config
from utils.distributed import first_on_each_machine

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    return program.copy(tmp_path_factory.mktemp("copy"))


def run(
    copy: Path, *arguments: object, script: str = "run_cityscapes.sh", **variables: object
) -> subprocess.CompletedProcess:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(
        ["bash", str(copy / script), *map(str, arguments)],
        env=environment | {key: str(value) for key, value in variables.items()},
        cwd=copy.parent,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_all_stages_then_nothing_left_to_do(copy, tmp_path) -> None:
    tiny.make_cityscapes(tmp_path / "data")
    tiny.make_clip(tmp_path / "clip.pt")
    config = tiny.make_config(tmp_path, views="local")
    stages = {"script": "run.sh", "RUN": tmp_path / "run"}
    arguments = config, "--set", "log_every=2", "seed=2", "--device", "cpu", "--set", "seed=3"
    first = run(copy, *arguments, **stages)
    assert first.returncode == 0, first.stderr
    headings = [line for line in first.stdout.splitlines() if line.startswith("==")]
    assert [heading.split()[1] for heading in headings] == ["1", "2", "3", "4", "5"]
    assert "8 masks, 8 of them new" in first.stdout
    trained = load_config(tmp_path / "run/carb/config.yaml")
    assert (trained.log_every, trained.seed) == (2, 3)
    result = tmp_path / "run/carb/eval_val/metrics.json"
    written = {path: path.stat().st_mtime_ns for path in (result, result.parent.parent / "last.pt")}

    again = run(copy, *arguments, **stages)
    assert again.returncode == 0, again.stderr
    for part in ("image_labels.json exists", "0 of them new", "metrics.json exists"):
        assert part in again.stdout
    assert written == {path: path.stat().st_mtime_ns for path in written}


@pytest.mark.slow
def test_stronger_teachers_have_a_run_folder_and_masks_of_their_own(copy, tmp_path) -> None:
    tiny.make_cityscapes(tmp_path / "data")
    tiny.make_clip(tmp_path / "clip.pt")
    small = load_config(tiny.make_config(tmp_path)).to_dict()
    strong = load_config("configs/strong/cityscapes.yaml").to_dict()
    kept = ("teacher", "views", "pseudo_masks")
    changes = {k: v for k, v in small.items() if v != strong[k] and k not in kept}
    changes |= {  # for a CLIP of 3 blocks and images of 48x64
        "teacher.stored.calibrated_blocks": [0, 1, 0, 1],
        "teacher.stored.short_side": 48,
        "teacher.stored.window": [32, 32],
        "teacher.stored.stride": [16, 16],
    }
    sets = [f"{key}={json.dumps(value)}" for key, value in changes.items()]
    done = run(copy, "--device=cpu", "--set", *sets, CONFIG="configs/strong/cityscapes.yaml")
    assert done.returncode == 0, done.stderr
    assert (
        "teacher of the masks (teacher.stored): {preset: strong, calibrated_blocks: [0, 1"
        in done.stdout
    )
    assert len(list((copy / "data/cityscapes/clip_masks_strong").rglob("*.png"))) == 8
    trained = load_config(copy / "runs/strong/cityscapes/carb/config.yaml")
    assert (trained.teacher.attention, trained.stored_teacher.attention) == ("kk", "calibrated")
    assert (trained.teacher.window, trained.stored_teacher.window) == (None, (32, 32))
    assert not (copy / "runs/cityscapes").exists()


def test_data_is_a_variable_and_else_the_config(copy, tmp_path) -> None:
    config = tiny.make_config(tmp_path)
    for variables, named in (
        ({}, tmp_path / "data"),
        ({"DATA": tmp_path / "else: where #1"}, tmp_path / "else: where #1"),
    ):
        done = run(copy, CONFIG=config, **variables)
        assert done.returncode == 2
        assert str(named) in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("script", "config"),
    [
        ("run.sh", "configs/folder.yaml"),
        ("run_cityscapes.sh", "configs/cityscapes.yaml"),
        ("run_camvid.sh", "configs/camvid.yaml"),
        ("run_wilddash2.sh", "configs/wilddash2.yaml"),
    ],
)
def test_help_names_every_option(copy, script, config) -> None:
    named = [config] if script == "run.sh" else []
    for arguments in (["--help"], ["-h"], [*named, "--set", "seed=1", "--help"]):
        done = run(copy, *arguments, script=script)
        assert done.returncode == 0 and done.stderr == ""
        for option in ("--gpus", "--data", "--out", "--split", "--set", "--device"):
            assert f"\n{option} " in done.stdout
        assert "set -euo" not in done.stdout
    text = (copy / script).read_text()
    assert config in text or script == "run.sh"  # what it runs


def test_options_and_variables_choose_alike(copy, tmp_path) -> None:
    config = tiny.make_config(tmp_path)
    for options, variables in (
        (["--data", tmp_path / "else where", "--gpus=1", "--set", "seed=1", "lr=1"], {}),
        ([f"--data={tmp_path / 'else where'}"], {"DATA": "never", "NGPU": 1}),
        ([], {"DATA": tmp_path / "else where"}),
    ):
        done = run(copy, config, *options, script="run.sh", **variables)
        assert done.returncode == 2 and str(tmp_path / "else where") in done.stderr
        assert "Traceback" not in done.stderr
    for options, message in (
        ([], "expected a config as the first argument"),
        ([config, "--gpus", "two"], "--gpus (NGPU) must be a number from 1 on, found: two"),
        ([config, "--out"], "expected a value after --out"),
        ([config, "--out", "--split", "val"], "expected a value after --out"),
        ([config, "--set", "seed=1", "lrr=1"], "did you mean 'lr'"),
    ):
        done = run(copy, *options, script="run.sh")
        assert done.returncode == 2 and done.stdout == ""
        assert message in done.stderr and done.stderr.count("error:") == 1


@pytest.mark.parametrize(
    "arguments", [("--overwrite",), ("--set",), ("--device", "cpu", "seed=1"), ("--seed", "1")]
)
def test_other_arguments_are_refused(copy, arguments) -> None:
    done = run(copy, *arguments)
    assert done.returncode == 2 and done.stdout == ""
    assert f"found: {arguments[-1] if len(arguments) == 3 else ' '.join(arguments)}" in done.stderr


def test_a_wrong_config_stops_with_one_message(copy, tmp_path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("lr: [\n")
    cases = (
        ((), wrong, "not valid YAML"),
        ((), tmp_path / "none.yaml", "no config file"),
        (("--set", "lrr=1"), copy / "configs/cityscapes.yaml", "did you mean 'lr'"),
    )
    for arguments, config, message in cases:
        done = run(copy, *arguments, CONFIG=config)
        assert done.returncode == 2 and done.stdout == ""
        assert message in done.stderr and done.stderr.count("error:") == 1
        assert "Traceback" not in done.stderr


# ---------------------------------------------------------------- .venv


def set_up(folder: Path, **variables: object) -> subprocess.CompletedProcess:
    """scripts/environment.sh in `folder`, with nothing to install."""
    (folder / "requirements.txt").write_text("# nothing\n")
    script = 'set -euo pipefail; source "$0" requirements.txt; echo ready'
    return subprocess.run(
        ["bash", "-c", script, str(ROOT / "scripts/environment.sh")],
        env=os.environ | {"PYTHON": sys.executable} | {k: str(v) for k, v in variables.items()},
        cwd=folder,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_half_made_venv_is_made_anew(tmp_path) -> None:
    # What an interruption while pip is unpacked leaves behind.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / ".venv"], check=True)
    (tmp_path / ".venv/left over").touch()
    first = set_up(tmp_path)
    assert first.returncode == 0 and first.stdout.endswith("ready\n"), first.stderr
    assert "setting up .venv" in first.stdout and "PIP_INDEX_URL" in first.stdout
    assert not (tmp_path / ".venv/left over").exists()

    (tmp_path / ".venv/installed-requirements.txt").unlink()  # interrupted while installing
    (tmp_path / ".venv/mine").touch()
    second = set_up(tmp_path)
    assert second.returncode == 0 and (tmp_path / ".venv/mine").exists(), second.stderr
    assert set_up(tmp_path).stdout == "ready\n"


def test_a_python_too_old_or_missing_is_named_before_anything_is_made(tmp_path) -> None:
    old = tmp_path / "old python"
    code = "import sys; sys.version_info = (3, 9, 2); exec(sys.argv[2])"
    old.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -c "{code}" "$@"\n')
    old.chmod(0o755)
    for python, found in ((old, f"{old} 3.9"), ("no-python", "no-python (does not run)")):
        done = set_up(tmp_path, PYTHON=python)
        assert done.returncode == 2 and done.stdout == ""
        assert f"error: expected Python 3.11 or newer, found: {found}\n" in done.stderr
        assert "PYTHON=" in done.stderr and not (tmp_path / ".venv").exists()


def test_config_key(capsys) -> None:
    for key, expected in (
        ("dataset", "folder"),
        ("carb", "false"),
        ("backbone_weights", "null"),
        ("crop_size", "[48, 64]"),
    ):
        config_key.main(["configs/tiny_cpu.yaml", key, "--set", "carb=false"])
        printed = capsys.readouterr().out
        assert printed == f"{expected}\n"
        assert yaml.safe_load(printed) == yaml.safe_load(expected)
    config_key.main(["configs/strong/camvid.yaml", "teacher.stored"])
    config_key.main(["configs/strong/camvid.yaml", "teacher.window"])
    assert capsys.readouterr().out == "strong\nnull\n"
    with pytest.raises(SystemExit) as stopped:
        config_key.main(["configs/tiny_cpu.yaml", "carbs"])
    assert stopped.value.code == 2


def test_a_config_key_is_written_as_the_system_writes_file_names() -> None:
    command = [sys.executable, "-m", "scripts.config_key", "configs/tiny_cpu.yaml", "data_root"]
    done = subprocess.run(
        [*command, "--set", "data_root=дорога"],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
    )
    assert done.stdout == os.fsencode("дорога\n")


def test_official_and_default_configs_share_no_files() -> None:
    configs = {path: load_config(path) for path in program.SHIPPED_CONFIGS}
    masks = {path: config.pseudo_masks for path, config in configs.items()}
    for path, official in configs.items():
        if path.parent.name != "official":
            continue
        for config in (config for path, config in configs.items() if path.parent.name == "configs"):
            assert official.pseudo_masks != config.pseudo_masks
            assert official.clip_text != config.clip_text
    for path, config in configs.items():
        others = [other for name, other in masks.items() if name != path]
        if path.stem == "cityscapes_by_class":
            plain = load_config("configs/cityscapes.yaml")
            assert dataclasses.replace(plain, region_balance="class_agreement") == config
        elif path.parent.name == "strong":
            assert config.pseudo_masks not in others
            plain = load_config(path.parent.parent / path.name)
            same = {"teacher": plain.teacher, "views": "dual", "pseudo_masks": plain.pseudo_masks}
            assert dataclasses.replace(config, **same) == plain  # and nothing else differs


@pytest.mark.parametrize("local_rank", ["0", "1"])
def test_one_process_of_each_machine_loads_first(monkeypatch, local_rank) -> None:
    done = []
    assert first_on_each_machine(lambda: done.append("load") or 7) == 7
    assert done == ["load"]
    done.clear()
    monkeypatch.setenv("LOCAL_RANK", local_rank)
    monkeypatch.setattr(utils.distributed.dist, "is_initialized", lambda: True)
    monkeypatch.setattr(utils.distributed.dist, "barrier", lambda: done.append("barrier"))
    assert first_on_each_machine(lambda: done.append("load") or 7) == 7
    assert done == (["load", "barrier"] if local_rank == "0" else ["barrier", "load"])
