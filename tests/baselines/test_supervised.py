"""The fully supervised upper bound, as a user runs it."""

import random
import shutil

import pytest
import test_inputs
import test_kill
import test_scripts
import test_security
import test_tensorboard
import torch
from test_scripts import kept, same_content
from test_security import CONFIG, FORMS, NEW, as_program, check_refused
from test_tensorboard import arguments, check_a_missing_package, events, needs_package, pictures

from baselines import supervised
from utils.checkpoint import load_checkpoint
from utils.safe.errors import InputError

scripts = test_kill.scripts
kill_world = test_kill.world
prepared = test_scripts.prepared
tensorboard_data = test_tensorboard.prepared
security_world = test_security.world


def test_it_reads_ground_truth_and_the_others_do_not(prepared, tmp_path) -> None:
    """Training ground truth was spoilt once the labels were made: only this script notices."""
    arguments = ["--config", str(prepared / "config.yaml"), "--device", "cpu"]
    with pytest.raises(InputError, match="gtFine"):
        supervised.main([*arguments, "--run-dir", str(tmp_path / "spoilt")])
    shutil.copytree(prepared / "ground_truth", tmp_path / "data" / "gtFine")
    (tmp_path / "data" / "leftImg8bit").symlink_to(prepared / "data" / "leftImg8bit")
    whole = ["--set", f"data_root={tmp_path / 'data'}", "--run-dir", str(tmp_path / "whole")]
    supervised.main([*arguments, *whole])
    assert load_checkpoint(tmp_path / "whole" / "last.pt")["step"] == 8


def test_keep_leaves_every_checkpoint(prepared, tmp_path) -> None:
    arguments = ["--config", str(prepared / "config.yaml"), "--device", "cpu"]
    arguments += ["--set", "views=base", "--set", "checkpoint_every=3", "--keep-checkpoints"]
    data = tmp_path / "data"
    shutil.copytree(prepared / "ground_truth", data / "gtFine")
    (data / "leftImg8bit").symlink_to(prepared / "data" / "leftImg8bit")
    more = ["--set", f"data_root={data}", "--run-dir", str(tmp_path / "supervised")]
    supervised.main([*arguments, *more])
    assert kept(tmp_path / "supervised") == [f"step_{i:06d}.pt" for i in (3, 6, 8)]
    assert same_content(*(tmp_path / "supervised" / f for f in ("step_000008.pt", "last.pt")))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    test_inputs.make_data(folder)
    test_inputs.run(supervised, folder, "sup")
    return folder


@pytest.mark.parametrize(
    "change, told",
    [
        (test_inputs.add_two, "6 -> 8 images"),
        (test_inputs.rename, "'t1' -> 'u1'"),
        (test_inputs.repaint, "bytes of image t2: "),
        (test_inputs.other_mask, "bytes of mask t3: "),
        (test_inputs.other_prompt, "prompts of class 1: pole -> post"),
        (test_inputs.other_order, "class 0 is road -> sky|'road' where the class file has 'sky'"),
    ],
)
def test_a_run_does_not_go_on_with_other_data(trained, tmp_path, change, told) -> None:
    test_inputs.check_other_data(trained, tmp_path / "copy", supervised, "sup", change, told)


def test_it_reads_no_image_level_labels(trained, tmp_path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(trained, folder)
    (folder / "config.yaml").unlink()
    test_inputs.relabel(folder / "data")
    test_inputs.run(supervised, folder, "sup")


@needs_package
def test_tensorboard_shows_ground_truth(tensorboard_data, tmp_path):
    supervised.main(arguments(tensorboard_data, tmp_path, "--tensorboard", "--set", "steps=5"))
    assert list(pictures(tmp_path)) == [2, 4, 5]
    assert [event.step for event in events(tmp_path).Scalars("loss")] == [1, 2, 3, 4, 5]


def test_a_missing_package_is_said_before_anything_is_touched(
    tensorboard_data, tmp_path, monkeypatch
):
    check_a_missing_package(tensorboard_data, tmp_path, monkeypatch, supervised)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Detected pickle protocol")
@pytest.mark.parametrize("form", FORMS)
def test_a_pickle_with_code_is_refused_unread(security_world, tmp_path, monkeypatch, form):
    reader = ("run/last.pt", supervised, (*CONFIG, "--run-dir", "run"))
    check_refused(security_world, tmp_path, monkeypatch, reader, form)


def test_torchscript_is_opened_after_the_hash_or_trust_alone(
    security_world,
    monkeypatch,
    capsys,
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(torch.jit, "load", lambda path, **_: opened.append(path) or 1 / 0)
    program = security_world / "program.pt"
    program.write_bytes(as_program(None))
    more = ["--set", f"clip_model={program}", "--set", "classifier=text"]
    monkeypatch.chdir(security_world)
    with pytest.raises(InputError, match=r"is a program.*--trust-torchscript"):
        supervised.main([*NEW, *more])
    assert not opened
    with pytest.raises(InputError, match=r"program\.pt.*can't be read"):
        supervised.main([*NEW, *more, "--trust-torchscript"])
    assert opened.pop() == str(program)
    with pytest.raises(SystemExit):
        supervised.main(["--help"])
    assert "--trust-torchscript" in capsys.readouterr().out


@pytest.mark.slow
def test_killed_anywhere_the_same_command_goes_on(scripts, kill_world, tmp_path) -> None:
    whole = test_kill.Whole(scripts, kill_world, 1, ["supervised"])
    arguments = test_kill.command("supervised", kill_world, tmp_path)
    test_kill.kill(scripts, arguments, whole, "supervised", tmp_path, 10, random.Random(6))
