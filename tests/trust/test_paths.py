"""utils/safe/paths.py: which path a text means, and which texts mean none."""

import argparse
import importlib
import os
from pathlib import Path

import pytest

from utils.cli import parser
from utils.config import load_config, parse_overrides
from utils.safe.errors import InputError
from utils.safe.paths import expand

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture(autouse=True)
def somewhere(tmp_path, monkeypatch):
    (tmp_path / "home").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DATA", "/data")
    monkeypatch.setenv("QUOTED", "~/data")  # as `export QUOTED="~/data"` leaves it
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("UNSET", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("~", "{home}"),
        ("~/masks", "{home}/masks"),
        ("~root/x", os.path.expanduser("~root/x")),  # noqa: PTH111
        ("$HOME/x", "{home}/x"),
        ("${HOME}/x", "{home}/x"),
        ("%HOME%/x", "{home}/x"),
        ("$DATA", "/data"),
        ("a/${DATA}b", "a//datab"),
        ("$QUOTED/x", "{home}/data/x"),
    ],
)
def test_home_folders_and_variables_are_replaced(tmp_path, text, meant):
    assert expand(text) == meant.format(home=tmp_path / "home")


@pytest.mark.parametrize(
    "text",
    [
        *("data", "./data/", "../a b/c", "./~", "./~x", "a/~x", "PROGRA~1", "50%", "a%20b", "$1"),
        *("100%_of_it", "a$", "cost$", "rock'n", "Ivan's data", "it's 'x' there", "дорога/汽车"),
        *(
            "/",
            ".",
            "clip85",
            "ViT-B/16",
            "voc:x",
            "a,b;c#d e",
            "[1]",
            "{a}",
            "-",
            "a..",
            "x\udce9",
        ),
    ],
)
def test_other_texts_stand_for_themselves(text):
    assert expand(text) == text


SLIPS = {
    "$UNSET/x": "the variable UNSET is not set",
    "${UNSET}": "the variable UNSET is not set",
    "%UNSET%/x": "the variable UNSET is not set",
    "$EMPTY/x": "the variable EMPTY is not set",
    "${HOME:-x}/y": "the variable HOME:-x is not set",
    "$(pwd)/x": "commands in a path are not run",
    "`pwd`/x": "commands in a path are not run",
    "~nobody_of_that_name/x": "no user nobody_of_that_name",
    "file:///data": "addresses are not read",
    "https://host/data": "addresses are not read",
    "s3://bucket/data": "addresses are not read",
    "'data'": "there are quotes around it",
    '"data"': "there are quotes around it",
    "“data”": "there are quotes around it",
    'C:/data"': "there are quotes around it",  # of a Windows shell: "C:\data\"
    "data ": "there are blanks, a line end",
    " data": "there are blanks, a line end",
    "data\n": "there are blanks, a line end",
    "data\r": "there are blanks, a line end",
    "\u202adata": "there are blanks, a line end or invisible letters",
    "C:\temp": "it contains a tab or another control character",
    "data\\train": "drives and backslashes",
    "C:\\data": "drives and backslashes",
    "D:/data": "drives and backslashes",
    "\\\\server\\share": "drives and backslashes",
    "": "it is empty",
    "  ": "it is empty",
}


@pytest.mark.parametrize("text", SLIPS)
def test_slips_are_refused_with_the_remedy(text):
    with pytest.raises(InputError) as refused:
        expand(text)
    assert f"{text!r} is not a path: {SLIPS[text]}" in str(refused.value)


@pytest.mark.parametrize("text", [text for text in SLIPS if "/" not in text and text.strip()])
def test_a_file_of_that_very_name_is_meant(text):
    Path(text).touch()
    assert expand(text) == text


def test_the_home_folder_goes_before_a_folder_of_that_name(tmp_path):
    Path("~").mkdir()
    assert expand("~/x") == str(tmp_path / "home/x")


def test_without_a_home_folder_nothing_is_made_up(monkeypatch):
    monkeypatch.setenv("HOME", "")
    with pytest.raises(InputError, match="no home folder of yours is known"):
        expand("~/data")


def test_paths_of_a_config_and_of_set(tmp_path):
    text = (ROOT / "configs/tiny_cpu.yaml").read_text(encoding="utf-8")
    lines = ["data_root: ~/data" if s.startswith("data_root:") else s for s in text.splitlines()]
    Path("mine.yaml").write_text("\ufeff" + "\n".join(lines), encoding="utf-8")  # of Windows
    keys = ["class_file", "image_labels", "pseudo_masks", "image_cache", "clip_model", "clip_text"]
    keys += ["prompt_templates", "backbone_weights"]
    config = load_config("mine.yaml", [f"{key}=$HOME/{key}" for key in keys])
    assert config.data_root == str(tmp_path / "home/data")
    for key in keys:
        assert getattr(config, key) == str(tmp_path / "home" / key)
    address = load_config("mine.yaml", ["backbone_weights=https://host/$x"]).backbone_weights
    assert address == "https://host/$x"
    with pytest.raises(InputError, match=r"^mine.yaml: 'data_root': '\$UNSET/x' is not a path"):
        load_config("mine.yaml", ["data_root=$UNSET/x"])
    with pytest.raises(InputError, match="addresses are not read"):
        load_config("mine.yaml", ["data_root=https://host/x"])
    assert load_config("mine.yaml", ["data_root='data'"]).data_root == "data"  # quotes of YAML
    assert parse_overrides(["data_root=~/x"]) == {"data_root": "~/x"}


def test_an_option_says_what_is_wrong(capsys):
    with pytest.raises(SystemExit) as stopped:
        parser("").parse_args(["--config", "$UNSET/x"])
    assert stopped.value.code == 2
    shown = capsys.readouterr().err
    assert (
        "argument --config: '$UNSET/x' is not a path: the variable UNSET is not set; set" in shown
    )


def paths_of(monkeypatch, main) -> set[str]:
    """The options of a script that are read as paths."""
    found = []
    add = argparse._ActionsContainer.add_argument

    def note(self, *names, **options):
        if getattr(options.get("type"), "__name__", "") == "path":
            found.append(names[0])
        return add(self, *names, **options)

    monkeypatch.setattr(argparse._ActionsContainer, "add_argument", note)
    with pytest.raises(SystemExit):
        main(["--help"])
    return {*found}


@pytest.mark.parametrize(
    ("script", "options"),
    [
        ("eval", "--config --ckpt --masks --out --export-submission"),
        ("predict", "--config input --ckpt --out"),
        ("gen_clip_masks", "--config --out"),
        ("prepare_data", "--config --root --class-file --out --import-labels --labels --convert"),
        ("train_warmup", "--config --run-dir"),
        ("train_carb", "--config --run-dir --init"),
        ("scripts.config_key", "file"),
    ],
)
def test_every_option_that_is_a_path_is_read_as_one(monkeypatch, capsys, script, options):

    main = importlib.import_module(script).main
    assert {*options.split()} <= paths_of(monkeypatch, main)


def test_a_config_names_no_folder_in_another_encoding():
    with pytest.raises(InputError, match=r"'data_root': 'caf\\udce9' is a file name .* rename the"):
        load_config(ROOT / "configs/tiny_cpu.yaml", ["data_root=caf\udce9"])
