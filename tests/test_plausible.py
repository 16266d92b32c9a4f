"""Settings that load and can't be meant are named; shipped configs have none."""

import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from program import SHIPPED_CONFIGS

from datasets.doctor import plausible
from datasets.doctor.plausible import available_cores, crop_to_reach, implausible
from datasets.doctor.sizes import median_size
from utils.config import PRESETS, Config, load_config

ROOT = Path(__file__).resolve().parent.parent
SMALL = [
    "steps=1200",
    "warmup_steps=960",
    "checkpoint_every=50",
    "log_every=10",
    "image_size=[160, 320]",
    "crop_size=[128, 256]",
    "patch_size=[128, 64]",
    "aspp_dilations=[3, 6, 9]",
    "output_stride=4",
]  # images of 160x320


def small(*changes: str) -> Config:
    return load_config(ROOT / "configs/tiny_cpu.yaml", [*SMALL, *changes])


@pytest.mark.parametrize(
    "path",
    SHIPPED_CONFIGS,
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_nothing_is_said_of_shipped_configs(path, tmp_path) -> None:
    config = load_config(path, [f"pseudo_masks={tmp_path}"])
    assert implausible(config, 1000, [config.image_size] * 3) == []
    assert implausible(config, 1000) == []
    assert crop_to_reach(config, [config.image_size]) == config.crop_size


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["steps=60", "warmup_steps=40"], "checkpoint_every 50 is more than the 20 steps of CARB"),
        (["log_every=250"], "log_every 250 is more than the 240 steps of CARB: .* log_every: 12"),
        (["carb=false", "log_every=1300"], "log_every 1300 is more than the 1200 steps of the run"),
        (["carb=false", "warmup_steps=1300"], "warmup_steps 1300 is beyond steps 1200"),
        (["batch_size=32"], "batch_size 32 is more than the 30 images of 'train'"),
        (["num_workers=9999"], "num_workers 9999 is far more than the .* cores"),
        (
            ["views=base"],
            "views: base trains on stored masks, but the folder nowhere does not exist",
        ),
        (["aspp_dilations=[12, 32]"], r"reach beyond the map of 32x64 cells .*: \[6, 12, 18\]"),
        (["crop_size=[1024, 2048]"], "images of 160x320, .* fill 3 % of crop_size 1024x2048"),
        (
            ["image_size=[512, 1024]", "crop_size=[256, 512]"],
            r"the images \(typically 160x320\) are enlarged 3.2 times to image_size 512x1024",
        ),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_each_is_named(changes, message) -> None:
    config = small("pseudo_masks=nowhere", *changes)
    found = implausible(config, 30, [(160, 320)] * 3)
    assert any(re.search(message, text) for text in found), found
    assert all(text.isprintable() for text in found)


def test_teachers_that_have_no_effect_or_another_one(tmp_path) -> None:
    (text,) = implausible(small("views=dual", "teacher=naclip"), 30)
    assert "teacher.short_side 560: in training" in text and "local_resize" in text
    (text,) = implausible(small("views=dual", "teacher.stored=strong"), 30)
    assert "teacher.stored is strong, but views: dual trains on no stored masks" in text
    local = small("views=local", f"pseudo_masks={tmp_path}", "teacher.stored=naclip")
    step = small("views=local", f"pseudo_masks={tmp_path}", "teacher=fast")
    assert implausible(local, 30) == implausible(step, 30) == []  # masks of another program
    for options, other in (
        ({"mlp": True, "label_filter": "mask"}, "attention: value -> kk"),
        (
            {"mlp": False, "residual": False, "attention": "kk", "gaussian_std": 5.0},
            "short_side: None -> 560",
        ),
        (asdict(PRESETS["teacher"]["naclip"]), None),
    ):
        made_from = {"class_names": ["road"], "options": options}
        (tmp_path / "meta.json").write_text(json.dumps({"made_from": made_from}))
        found = implausible(local, 30)
        assert len(found) == (other is not None)
        assert all("another teacher than teacher.stored (" in one and other in one for one in found)


def test_masks_of_another_teacher_than_that_of_the_step(tmp_path) -> None:
    plain = small("views=base", f"pseudo_masks={tmp_path}")
    fast = small("views=local", f"pseudo_masks={tmp_path}", "teacher=fast")
    (tmp_path / "meta.json").write_text('{"made_from": {"images": 3}}')
    assert implausible(plain, 30) == implausible(fast, 30) == []
    # from before there were other teachers
    made_from = {"class_names": ["road"], "options": {"mlp": True, "residual": True}}
    (tmp_path / "meta.json").write_text(json.dumps({"made_from": made_from}))
    assert implausible(plain, 30) == []
    (text,) = implausible(fast, 30)
    assert "another teacher than teacher (" in text and "attention: value -> kk" in text
    assert implausible(small("views=dual", f"pseudo_masks={tmp_path}", "teacher=fast"), 30) == []


def test_without_images_of_the_split() -> None:
    (text,) = implausible(small(), 0)
    assert "train_split: train has no images" in text


def test_upright_pictures_under_a_lying_crop() -> None:
    config = small("scale_range=[0.5, 0.5]", "crop_size=[64, 160]", "patch_size=[64, 32]")
    assert implausible(config, 30, [(160, 320)]) == []
    assert "rest is padding; lower or turn" in implausible(config, 30, [(320, 80)] * 3)[0]


def test_pictures_that_clip_needs_enlarged_are_not_odd() -> None:
    config = small("image_size=[224, 224]", "crop_size=[176, 176]")
    tiny = [(32, 32)] * 5
    assert implausible(config, 30, tiny) == [] and crop_to_reach(config, tiny) is None
    assert crop_to_reach(config, [(300, 300)] * 5) == (176, 176)
    assert crop_to_reach(config, []) == (176, 176)


def test_median_size() -> None:
    assert median_size([(10, 20), (30, 15), (12, 24)]) == (12, 24)
    assert median_size([(20, 10), (30, 15), (12, 24)]) == (24, 12)


def test_available_cores(monkeypatch) -> None:
    assert available_cores() >= 1
    monkeypatch.delattr(plausible.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(plausible.os, "cpu_count", lambda: None)
    assert available_cores() == 1
