"""docs/extend.md: its Python runs, its diffs fit the files that they name, its presets exist."""

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_run import make_run

import datasets.cityscapes
from datasets.files import File, list_files, read_mask
from models.resnet import VARIANTS
from utils.safe.errors import InputError
from utils.teacher_settings import TEACHERS, TeacherSettings

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/extend.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, re.DOTALL)


def block(part: str) -> str:
    (found,) = (block for block in blocks("python") if part in block)
    return found


def test_every_block_of_python_is_tested_here() -> None:
    assert len(blocks("python")) == 3


def test_a_network_from_python(tmp_path, capsys) -> None:
    run, image = make_run(tmp_path), tmp_path / "data/images/train/t0.png"
    code = block("load_trained").replace("runs/demo/carb/last.pt", str(run / "warmup/warmup.pt"))
    exec(code.replace("street.jpg", str(image)), {})
    printed = capsys.readouterr().out
    assert re.fullmatch(r"street \[('(road|pole|sky)'(, )?)+\]\n", printed)


def test_a_data_set(tmp_path) -> None:
    names = vars(datasets.cityscapes) | {"list_files": list_files, "File": File}
    names |= {"Path": Path, "InputError": InputError}
    exec(block("class Kitti"), names)
    with pytest.raises(InputError, match="no KITTI in"):
        names["Kitti"](tmp_path)
    for i in range(20):
        for folder, value in (("image_2", 9), ("semantic", 7)):
            path = tmp_path / f"training/{folder}/{i:06d}_10.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (4, 3), value).save(path)
    data = names["Kitti"](tmp_path)
    assert list(data.images("val")) == ["000009_10", "000019_10"] == list(data.ground_truth("val"))
    assert len(data.images("train")) == 18
    truth = data.read_ground_truth(data.ground_truth("val")["000009_10"])
    assert (truth == 0).all()  # Cityscapes' label id 7 is its class 0, the road


def test_a_method(tmp_path) -> None:
    from datasets.labels import IGNORE_INDEX, load_classes
    from utils.cli import parser, path
    from utils.config import load_config
    from utils.visualize import save_mask

    run = make_run(tmp_path)
    first, second = np.array([[0, 1, 2]], np.uint8), np.array([[0, 2, 2]], np.uint8)
    for name, mask in (("a", first), ("b", second)):
        (tmp_path / name).mkdir()
        save_mask(tmp_path / name / "t0.png", mask, np.zeros((3, 3), np.uint8))
    names = {"__doc__": "Agreement.", "parser": parser, "path": path, "np": np, "Path": Path}
    names |= {"load_classes": load_classes, "load_config": load_config, "InputError": InputError}
    names |= {"IGNORE_INDEX": IGNORE_INDEX, "list_files": list_files, "read_mask": read_mask}
    names |= {"save_mask": save_mask}
    exec(block("agreement.py"), names)
    config = str(run / "warmup/config.yaml")
    folders = [str(tmp_path / name) for name in ("a", "b")]
    names["main"]([*folders, "--config", config, "--out", str(tmp_path / "both")])
    assert read_mask(File(str(tmp_path / "both/t0.png"))).tolist() == [[0, IGNORE_INDEX, 2]]


def test_diffs_fit_their_files() -> None:
    """What a diff removes, keeps and names behind @@ is in its file; nothing that it adds is."""
    files = 0
    for diff in blocks("diff"):
        content = ""
        for line in diff.splitlines():
            if line.startswith("+++ b/"):
                content, files = (ROOT / line[6:]).read_text(encoding="utf-8"), files + 1
            elif line.startswith("@@ "):
                assert line[3:] in content, line
            elif line.startswith(("-", " ")) and not line.startswith("---") and line.strip():
                assert line[1:] in content.splitlines(), line
            elif line.startswith("+") and line[1:].strip() and line[1:].lstrip() != "+":
                assert line[1:] not in content.splitlines(), line
    assert files >= 4


def test_presets_of_one_line() -> None:
    (variant,) = re.findall(r'`("resnet18_half": \{.*?\}),`', TEXT)
    added = eval("{" + variant + "}")
    assert added["resnet18_half"].keys() == VARIANTS["resnet18"].keys() | {"width"}
    (preset,) = re.findall(r'`("naclip_narrow": TeacherSettings\(.*?\)),`', TEXT)
    made = eval("{" + preset + "}", {"TeacherSettings": TeacherSettings})["naclip_narrow"]
    assert made not in TEACHERS.values()
