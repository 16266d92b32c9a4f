"""gen_clip_masks.py, models/inference.py, datasets/mask_writer.py: on generated pictures."""

import dataclasses
import errno
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import yaml
from PIL import Image
from tiny_clip import tiny_clip

import gen_clip_masks
from datasets import mask_writer
from datasets.files import File, read_image, read_mask
from datasets.labels import load_classes
from datasets.mask_folder import pseudo_mask_files
from datasets.transforms import normalize
from models import template_experts
from models.build import build_teacher
from models.clip_features import MaskCLIPOptions
from models.inference import multi_view_scores
from models.maskclip import MaskCLIP
from utils.cli import check_share
from utils.config import TeacherSettings, config_from_dict, load_config, save_config
from utils.distributed import Ranks
from utils.progress import progress
from utils.safe.errors import InputError
from utils.safe.files import UNFINISHED

SIZES = {"a": (40, 56), "deep/b": (37, 53), "c": (24, 64), "d": (48, 64), "none": (16, 24)}
LABELS = {"a": [0, 2], "deep/b": [1], "c": [0, 1, 2], "d": [1, 2], "none": []}
COLORS = [[128, 64, 128], [0, 0, 142], [70, 130, 180]]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Five pictures with labels and ground truth, a miniature CLIP, and a config for them."""
    root = tmp_path_factory.mktemp("data")
    numbers = np.random.default_rng(0)
    for name, (height, width) in SIZES.items():
        for kind, shape in (("images", (height, width, 3)), ("masks", (height, width))):
            path = root / kind / "train" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            high = 256 if kind == "images" else 3
            picture = numbers.integers(0, high, shape, dtype=np.uint8)
            if kind == "masks":
                picture[:4] = 255
            Image.fromarray(picture).save(path)
    (root / "images/val").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "images/val/x.png")
    names = ["road", "car", "sky"]
    lines = [f"- {{name: {n}, color: {c}}}\n" for n, c in zip(names, COLORS, strict=True)]
    (root / "classes.yaml").write_text("classes:\n" + "".join(lines))
    (root / "labels.json").write_text(json.dumps(LABELS | {"x": [0], "elsewhere": [1]}))
    torch.save(tiny_clip().state_dict(), root / "clip.pt")
    config = load_config("configs/tiny_cpu.yaml").to_dict() | {
        "data_root": str(root),
        "class_file": str(root / "classes.yaml"),
        "image_labels": str(root / "labels.json"),
        "clip_model": str(root / "clip.pt"),
        "clip_text": str(root / "text.pt"),
        "pseudo_masks": str(root / "clip_masks"),
    }
    save_config(config_from_dict(config, "test"), root / "config.yaml")
    return root


@pytest.fixture
def generate(root, tmp_path):
    """Runs the script into tmp_path/"out"."""

    def run(*arguments):
        argv = ["--config", str(root / "config.yaml"), "--device", "cpu"]
        gen_clip_masks.main([*argv, "--out", str(tmp_path / "out"), *map(str, arguments)])
        return tmp_path / "out"

    return run


def by_hand(root, name, *overrides):
    """The mask of one picture from MaskCLIP itself."""
    config = load_config(root / "config.yaml", list(overrides))
    maskclip = build_teacher(config, load_classes(config.class_file), "cpu", stored=True)
    image = torch.from_numpy(read_image(File(str(root / f"images/train/{name}.png"))))
    image = image.permute(2, 0, 1)[None].float()
    height, width = SIZES[name]
    factor = min(48 / height, 64 / width)
    to = (round(height * factor), round(width * factor))
    # Rounded to grey levels, as the data set gives them.
    image = F.interpolate(image, to, mode="bilinear", align_corners=False).round().byte()
    labels = torch.zeros(1, 3)
    labels[0, LABELS[name]] = 1
    return maskclip(
        normalize(image, config.arithmetic.clip_normalization), labels, (height, width)
    )[0].numpy()


def test_masks(root, generate):
    out = generate()
    for name, size in SIZES.items():
        path = out / f"{name}.png"
        mask = read_mask(File(str(path)))
        assert mask.shape == size
        assert set(np.unique(mask)) <= set(LABELS[name] or [255])
        assert np.mean(mask != by_hand(root, name)) < 0.005  # grey levels may round differently
        with Image.open(path) as picture:
            assert picture.getpalette()[:9] == np.ravel(COLORS).tolist()
    assert len({*np.unique(read_mask(File(str(out / "c.png"))))}) > 1
    meta = json.loads((out / "meta.json").read_text())
    assert meta["made_from"]["clip_model"] == "clip"
    assert meta["made_from"]["num_images"] == len(SIZES)
    assert meta["made_from"]["prompts"] == [["road"], ["car"], ["sky"]]
    assert meta["made_from"]["options"]["activation"] == "quickgelu"
    assert meta["config"]["image_size"] == [48, 64]


def test_goes_on_where_it_stopped(generate, capsys, monkeypatch):
    out = generate()
    made = (out / "deep/b.png").read_bytes()
    (out / "deep/b.png").unlink()
    (out / "a.png").write_bytes(b"left alone")
    generate()
    assert (out / "deep/b.png").read_bytes() == made
    assert (out / "a.png").read_bytes() == b"left alone"
    assert "5 masks, 1 of them new" in capsys.readouterr().out
    monkeypatch.setattr(gen_clip_masks, "build_teacher", None)  # nothing left to make
    generate()
    assert "5 masks, 0 of them new" in capsys.readouterr().out
    assert [*out.rglob("*.tmp*"), *out.rglob(".*")] == []


@pytest.mark.parametrize(
    "change, key",
    [
        (("--flip",), "flip"),
        (("--ratio", 2), "ratio"),
        (("--grid", "2x1"), "grid"),
        (("--set", "arithmetic.clip_activation=gelu"), "options"),
        (("--set", "arithmetic.clip_normalization=imagenet"), "normalization"),
        (("--set", "image_size=[32, 64]"), "image_size"),
        (("--bf16",), "precision"),
    ],
)
def test_masks_of_another_making_are_kept(generate, change, key, capsys):
    out = generate()
    (out / "a.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=f"made with other {key}.*--overwrite"):
        generate(*change)
    assert (out / "a.png").read_bytes() == b"mine"
    generate(*change, "--overwrite")
    assert "--overwrite: making all masks" in capsys.readouterr().out
    assert read_mask(File(str(out / "a.png"))).shape == SIZES["a"]


def test_other_labels_are_other_masks(generate, root, tmp_path):
    generate()
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps(LABELS | {"a": [1]}))
    with pytest.raises(InputError, match="image_labels_sha256"):
        generate("--set", f"image_labels={labels}")


def test_masks_of_an_earlier_version_are_continued(generate):
    meta = generate() / "meta.json"
    content = json.loads(meta.read_text())
    assert content["made_from"]["options"].pop("label_filter") == "mask"
    content["made_from"]["options"]["absent_classes"] = "masked"
    meta.write_text(json.dumps(content))
    generate()
    with pytest.raises(InputError, match="made with other options"):
        generate("--set", "arithmetic.label_filter=multiply")


def test_masks_from_before_there_were_other_teachers(generate):
    """The options of that time are recorded always, later ones where they are used."""
    meta = json.loads((generate() / "meta.json").read_text())
    later = {f.name for f in dataclasses.fields(MaskCLIPOptions)} - meta["made_from"][
        "options"
    ].keys()
    assert later == {f.name for f in dataclasses.fields(TeacherSettings)} & later
    assert {"attention", "pamr_steps", "window"} <= later
    assert not {"residual", "mlp", "key_smoothing", "prompt_denoising", "templates"} & later
    with pytest.raises(InputError, match=r"options: {'pamr_steps': None} -> {'pamr_steps': 1}"):
        generate("--set", "teacher.pamr_steps=1")
    with pytest.raises(
        InputError, match=r"options: {'templates': None} -> {'templates': 'experts'"
    ):
        generate("--set", "teacher.stored.templates=experts")


def test_stored_masks_are_made_by_their_own_teacher(generate, tmp_path, capsys):
    generate("--set", "teacher.mlp=false", "teacher.stored=maskclip_plain")
    assert "teacher of the masks (teacher.stored): maskclip_plain\n" in capsys.readouterr().out
    plain = tmp_path / "plain"
    generate("--set", "teacher=maskclip_plain", "--out", plain)
    for name, path in masks(plain).items():
        assert path.read_bytes() == (tmp_path / "out" / name).read_bytes()
    generate("--set", "teacher=maskclip_plain")  # the same masks: nothing to make
    printed = capsys.readouterr().out
    assert "0 of them new" in printed and printed.count("teacher of the masks") == 1
    with pytest.raises(InputError, match=r"options: {'mlp': False} -> {'mlp': True}"):
        generate("--set", "teacher.residual=false")


def test_windows_of_the_command_line_replace_those_of_the_teacher(root, generate, tmp_path):
    windows, names = (
        ("--window", 16, 24, "--stride", 8, 12),
        [name for name in SIZES if LABELS[name]],
    )
    out = generate(*windows)
    for name in names:
        mask = read_mask(File(str(out / f"{name}.png")))
        expected = by_hand(
            root, name, "teacher.stored.window=[16,24]", "teacher.stored.stride=[8,12]"
        )
        assert np.mean(mask != expected) < 0.005
    options = json.loads((out / "meta.json").read_text())["made_from"]["options"]
    assert (options["window"], options["stride"]) == ([16, 24], [8, 12])
    other = ("--set", "teacher.stored.window=[24,24]", "teacher.stored.stride=[4,4]")
    generate(*windows, *other)  # resumed
    with pytest.raises(InputError, match=r"options: {'stride': \[8, 12\]} -> {'stride': None}"):
        generate("--window", 16, 24, *other)  # side by side
    generate(*other, "--out", tmp_path / "own")
    options = json.loads((tmp_path / "own/meta.json").read_text())["made_from"]["options"]
    assert (options["window"], options["stride"]) == ([24, 24], [4, 4])


def test_a_window_or_a_stride_alone(generate, tmp_path, capsys):
    naclip = ("--set", "teacher={attention: kk, short_side: 24, window: [16, 24], stride: [8, 8]}")
    for number, (arguments, windows) in enumerate(
        (
            (("--stride", 8, 12), "window: [16, 24], stride: [8, 12]}"),
            (("--window", 24, 24), "window: [24, 24], stride: [24, 24]}"),
            ((), "window: [16, 24], stride: [8, 8]}"),
        )
    ):
        out = tmp_path / str(number)
        generate(*arguments, *naclip, "--out", out)
        printed = capsys.readouterr().out
        made = re.search(r"teacher of the masks \(.*?\): (.*)", printed)[1]
        assert made.endswith(windows)
        generate("--set", f"teacher={made}", "--out", out)  # nothing to make
        assert "5 masks, 0 of them new" in capsys.readouterr().out


def test_pamr_refines_the_mean_of_the_views(root, generate, monkeypatch):
    scored, refined = [], []

    def views(*arguments, **options):
        scored.append(multi_view_scores(*arguments, **options))
        return scored[-1]

    def refine(self, scores, image, image_labels=None):
        refined.append(scores)
        return MaskCLIP.refine.original(self, scores, image, image_labels)

    refine.original = MaskCLIP.refine
    monkeypatch.setattr(gen_clip_masks, "multi_view_scores", views)
    monkeypatch.setattr(MaskCLIP, "refine", refine)
    settings = ("teacher.short_side=40", "teacher.pamr_steps=3", "teacher.pamr_dilations=[1,2]")
    generate("--flip", "--set", *settings)
    assert len(scored) == len(SIZES)
    assert all(one is other for one, other in zip(scored, refined, strict=True))
    monkeypatch.undo()
    out = generate("--overwrite", "--set", *settings)
    for name in ("a", "c", "d"):
        mask = read_mask(File(str(out / f"{name}.png")))
        assert np.mean(mask != by_hand(root, name, *settings)) < 0.01


def test_views_that_contradict_the_teacher_are_refused(generate):
    for views, settings, message in (
        (("--grid", "2x2"), ("teacher.short_side=40",), "--grid cuts .* resizes every image"),
        (("--grid", "2x2", "--window", 16, 16), (), "--grid cuts .* cuts every image into windows"),
        (("--ratio", 2), ("teacher.stored.short_side=40",), "--ratio .* short_side of 40 pixels"),
        (("--ratio", 1, 2), ("teacher.short_side=40",), "--ratio would change nothing"),
        (("--window", 48, 57), (), "window of 48x57 pixels is larger than the image a, 46x64"),
        (("--window", 8, 8, "--stride", 9, 8), (), r"stride.*\(--window sets teacher.stored.win"),
        (("--window", 0, 8), (), "at least 1.* --stride sets teacher.stored.stride"),
        (("--window", 16, 16), ("teacher.short_side=9",), "short_side.*--window sets teacher"),
        (("--stride", 8, 8), (), "--stride needs --window"),
    ):
        extra = ("--set", *settings) if settings else ()
        with pytest.raises(InputError, match=message):
            generate(*views, *extra)
    generate("--ratio", 1.5, "--window", 16, 16, "--overwrite")  # windows of a larger view


def test_an_image_below_the_window_is_found_before_anything_is_written(generate, tmp_path):
    for arguments, message in (
        (("--window", 25, 40), "25x40 pixels is larger than the image c, 24x64"),
        (("--window", 25, 40, "--ratio", 3, 1), "the image c, 24x64"),
        (("--window", 24, 60, "--set", "teacher.short_side=24"), "the image a, 24x33"),
    ):
        with pytest.raises(InputError, match=message):
            generate(*arguments)
        assert not (tmp_path / "out").exists()
    generate("--window", 25, 40, "--ratio", 1.1)


def test_headers_are_not_read_where_every_image_has_the_window(generate, monkeypatch):
    monkeypatch.setattr("models.maskclip.read_size", None)
    generate("--window", 20, 24, "--set", "teacher.short_side=24")


def test_masks_of_template_experts(root, generate, tmp_path, monkeypatch):
    def different(clip_model, prompts, templates):  # a random CLIP finds its texts all alike
        rows = torch.randn(
            len(templates), len(prompts), 64, generator=torch.Generator().manual_seed(0)
        )
        return F.normalize(rows, dim=2)

    monkeypatch.setattr(template_experts, "template_embeddings", different)
    templates = tmp_path / "templates.txt"
    templates.write_text("".join(f"a photo {i} of a {{}}.\n" for i in range(7)))
    settings = ("--set", f"prompt_templates={templates}", f"clip_text={tmp_path / 'text.pt'}")
    settings += ("teacher.stored.window=[16, 16]",)
    experts = (*settings, "teacher.stored.templates=experts")
    generate(*settings, "--out", tmp_path / "average")
    out = generate(*experts)
    assert masks(out).keys() == {f"{name}.png" for name in SIZES}
    assert (out / "c.png").read_bytes() != (tmp_path / "average/c.png").read_bytes()
    for name in SIZES:
        mask = read_mask(File(str(out / f"{name}.png")))
        assert set(np.unique(mask)) <= set(LABELS[name] or [255])
    chosen = json.loads((out / "experts.json").read_text())
    made_from = json.loads((out / "meta.json").read_text())["made_from"]
    assert chosen["experts"] == made_from["experts"]
    assert chosen["made_from"] | {"experts": chosen["experts"]} == made_from
    assert chosen["experts"].keys() == {"road", "car", "sky"}
    assert {len(templates) for templates in chosen["experts"].values()} == {4}
    assert chosen["experts"]["road"] != chosen["experts"]["sky"]

    # Resumed: not chosen again.
    made = (out / "a.png").read_bytes()
    (out / "a.png").unlink()
    with monkeypatch.context() as patch:
        patch.setattr(template_experts, "rank_templates", None)
        generate(*experts)
    assert (out / "a.png").read_bytes() == made

    # A file that was changed by hand is another teacher.
    (out / "a.png").unlink()
    chosen["experts"]["road"].reverse()
    (out / "experts.json").write_text(json.dumps(chosen))
    with pytest.raises(InputError, match="made with other experts"):
        generate(*experts)
    (out / "experts.json").unlink()  # chosen again, from all images: the same
    generate(*experts)
    assert (out / "a.png").read_bytes() == made
    with pytest.raises(InputError, match="other options"):
        generate(*experts, "--set", "teacher.stored.short_side=32")
    generate(*experts, "--overwrite")
    assert (out / "experts.json").is_file()
    generate(*settings, "--overwrite")
    assert not (out / "experts.json").exists()  # they are not of these masks


def test_experts_need_templates_to_choose_from(generate):
    with pytest.raises(InputError, match="best 4 of prompt_templates .* 'single' has 1"):
        generate("--set", "teacher.stored.templates=experts")


def test_experts_are_not_for_the_training_step(root):
    config = load_config(root / "config.yaml", ["views=base", "teacher.templates=experts"])
    with pytest.raises(InputError, match="experts are chosen on a whole data set"):
        build_teacher(config, load_classes(config.class_file), "cpu")


def test_masks_without_meta_are_kept(generate):
    out = generate()
    (out / "meta.json").unlink()
    with pytest.raises(InputError, match=r"no meta\.json"):
        generate()
    (out / "meta.json").write_text("{")
    with pytest.raises(InputError, match="can't be read"):
        generate()


def test_bf16_is_nearly_the_same(generate, tmp_path, monkeypatch):
    scores = []

    def recorded(*arguments, **options):
        scores.append(multi_view_scores(*arguments, **options))
        return scores[-1]

    monkeypatch.setattr(gen_clip_masks, "multi_view_scores", recorded)
    plain, half = generate(), tmp_path / "bf16"
    generate("--bf16", "--out", half)
    different = 0
    for name, (height, width) in SIZES.items():
        ids = [read_mask(File(str(folder / f"{name}.png"))) for folder in (plain, half)]
        different += np.sum(ids[0] != ids[1]) / (height * width)
    assert different < 0.05
    for one, other in zip(scores[: len(SIZES)], scores[len(SIZES) :], strict=True):
        assert one.dtype == other.dtype == torch.float32
        assert 1e-5 < (one - other).abs().max() < 0.05  # cosines
    with pytest.raises(InputError, match="made with other precision .*bf16 -> fp32"):
        generate("--out", half)


def test_masks_from_before_there_was_bf16(generate):
    meta = generate() / "meta.json"
    content = json.loads(meta.read_text())
    del content["made_from"]["precision"]
    meta.write_text(json.dumps(content))
    generate()
    with pytest.raises(InputError, match="precision"):
        generate("--bf16")


def test_a_full_disk_ends_the_run(generate, tmp_path, monkeypatch):
    def save(image, path, **options):
        path.write_bytes(b"half")
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))

    monkeypatch.setattr(Image.Image, "save", save)
    with pytest.raises(OSError, match="No space left on device"):
        generate()
    assert masks(tmp_path / "out") == {}
    monkeypatch.undo()
    assert len(masks(generate())) == len(SIZES)


def test_mask_writer_is_bounded_and_ends_with_the_error_of_any_mask(tmp_path, monkeypatch):
    started = []

    def save(path, *rest):
        started.append(path.stem)
        if path.stem == "8":
            raise OSError("disk full")

    monkeypatch.setattr(mask_writer, "save_mask", save)
    meta = {"made_from": {"precision": "fp32"}}
    alone = ([], None, meta, False, Ranks(0, 1, torch.device("cpu")))
    with (
        pytest.raises(OSError, match="disk full"),
        mask_writer.mask_writer(tmp_path, *alone) as write,
    ):
        for i in range(9):
            write(str(i), None)
            assert i - len(started) <= 4  # no heap of masks that wait
    assert sorted(started) == [str(i) for i in range(9)]
    with pytest.raises(ZeroDivisionError), mask_writer.mask_writer(tmp_path, *alone) as write:
        write("1", None)
        _ = 1 / 0


def test_leftovers_of_a_killed_run_are_removed(generate, root, tmp_path):
    out = tmp_path / "out"
    (out / "deep").mkdir(parents=True)
    for left in (".a.7.tmp.png", "deep/.b.8.tmp.png"):
        (out / left).write_bytes(b"half")
    others = out / "x.tmp.png", out / ".a.png"  # of somebody else
    for path in others:
        path.write_bytes(b"kept")
    generate()
    assert sorted(masks(out)) == sorted([*(f"{n}.png" for n in SIZES), *(p.name for p in others)])


def test_parts_make_the_masks_of_the_whole(generate, root, tmp_path, capsys):
    whole, parts = generate(), tmp_path / "parts"
    other = parts / ".12345678.77.tmp.png"  # that another task is writing
    parts.mkdir()
    other.touch()
    for part, count in ((2, 2), (1, 3)):
        arguments = ["--config", str(root / "config.yaml"), "--device", "cpu", "--out", str(parts)]
        gen_clip_masks.main([*arguments, "--share", f"{part}/2"])
        assert f"{count} masks, {count} of them new" in capsys.readouterr().out
    assert other.exists()
    gen_clip_masks.main(arguments)
    assert "5 masks, 0 of them new" in capsys.readouterr().out and not other.exists()
    for name in SIZES:
        assert (parts / f"{name}.png").read_bytes() == (whole / f"{name}.png").read_bytes()
    for option in ("--overwrite", "--score", "--save-vis"):
        with pytest.raises(InputError, match=f"{option} is about all of them"):
            gen_clip_masks.main([*arguments, "--share", "1/2", option])
    all_in_one = gen_clip_masks.parse_arguments([*arguments, "--share", "1/1", "--score"])
    check_share(all_in_one, "score")


def test_masks_in_shards_are_checked_and_scored_without_the_option(generate, capsys):
    """As experiments.ablation does: --masks ready checks, and adds --share 1/1."""
    generate("--shards")
    capsys.readouterr()
    out = generate("--share", "1/1", "--score", "--save-vis")
    assert "5 masks, 0 of them new" in capsys.readouterr().out
    assert json.loads((out / "score.json").read_text())["num_images"] == 5
    assert (out / "masks-000000.tar").exists() and not masks(out)
    with pytest.raises(InputError, match="made with other ratio"):
        generate("--ratio", "2")


def test_parts_are_no_shards(root, tmp_path):
    """A run with --shards takes over tars that another one is writing, also as the only part."""
    out = tmp_path / "parts"
    arguments = ["--config", str(root / "config.yaml"), "--out", str(out), "--shards"]
    for share in ("2/3", "1/1"):
        says = rf"found --share {share} with --shards: .* run it once without --share .*, or leave"
        with pytest.raises(InputError, match=says):
            gen_clip_masks.main([*arguments, "--share", share])
    assert not out.exists()
    check_share(gen_clip_masks.parse_arguments(arguments), "score")


def test_parts_of_another_number_and_of_few_images(generate, root, tmp_path, capsys):
    """Masks do not depend on the number of parts: a resumed array may have another size."""
    whole, parts = generate(), tmp_path / "parts"
    arguments = ["--config", str(root / "config.yaml"), "--device", "cpu", "--out", str(parts)]
    for share, made in (("9/9", "0 masks, 0"), ("2/2", "2 masks, 2"), ("1/4", "2 masks, 2")):
        gen_clip_masks.main([*arguments, "--share", share])
        assert f"{made} of them new" in capsys.readouterr().out
    gen_clip_masks.main([*arguments, "--share", "3/4"])
    assert "1 masks, 1 of them new" in capsys.readouterr().out
    for name in SIZES:
        assert (parts / f"{name}.png").read_bytes() == (whole / f"{name}.png").read_bytes()
    with pytest.raises(InputError, match="made with other ratio"):
        gen_clip_masks.main([*arguments, "--share", "1/4", "--ratio", "2"])


def test_two_runs_of_other_settings_that_start_at_once(generate, root, tmp_path, monkeypatch):
    """The second one finds no masks, but a meta.json when it begins to write."""
    other, out, build = generate("--ratio", "2"), tmp_path / "parts", gen_clip_masks.build_teacher

    def slowly(*arguments: object, **more: object) -> object:
        out.mkdir(exist_ok=True)
        shutil.copy(other / "meta.json", out)
        return build(*arguments, **more)

    monkeypatch.setattr(gen_clip_masks, "build_teacher", slowly)
    arguments = ["--config", str(root / "config.yaml"), "--device", "cpu", "--out", str(out)]
    with pytest.raises(InputError, match="made with other ratio"):
        gen_clip_masks.main([*arguments, "--share", "1/2"])
    assert [path.name for path in out.iterdir()] == ["meta.json"]


def test_masks_in_a_linked_folder_are_found(generate, tmp_path):
    out = generate()
    (out / "deep").rename(tmp_path / "elsewhere")
    (out / "deep").symlink_to(tmp_path / "elsewhere")
    made = (out / "deep/b.png").stat().st_mtime_ns
    generate()
    assert (out / "deep/b.png").stat().st_mtime_ns == made


def test_a_line_of_progress_where_there_is_no_terminal(capsys):
    ranks = [Ranks(rank, 2, torch.device("cpu")) for rank in (0, 1)]
    assert list(progress(range(3), "masks", ranks[0], every=0)) == [0, 1, 2]
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3 and re.match(r"masks:\s+33% 1/3 \[00:00<00:00, .*it/s\]", lines[0])
    assert list(progress(range(3), "masks", ranks[1], every=0)) == [0, 1, 2]
    assert list(progress(range(3), "masks", ranks[0])) == [0, 1, 2]
    assert capsys.readouterr().err == ""  # not yet time


def test_score(generate, root, capsys):
    out = generate("--score")
    counts = np.zeros((3, 3), np.int64)
    labelled = known = 0
    for name in SIZES:
        truth = read_mask(File(str(root / f"masks/train/{name}.png")))
        mask = read_mask(File(str(out / f"{name}.png")))
        for t, p in zip(truth.ravel(), mask.ravel(), strict=True):
            known += t != 255
            labelled += t != 255 and p != 255
            if t != 255 and p != 255:
                counts[t, p] += 1
    inter = counts.diagonal()
    miou = float(np.mean(inter / (counts.sum(0) + counts.sum(1) - inter)))
    scores = json.loads((out / "score.json").read_text())
    assert scores["miou"] == pytest.approx(miou, abs=1e-12)
    assert scores["labelled_pixels"] == pytest.approx(labelled / known) != 1
    printed = capsys.readouterr().out
    assert f"{100 * miou:.2f}" in printed and "road" in printed
    with pytest.raises(InputError, match="1 of 1 images have no ground truth, the first is 'x'"):
        generate("--split", "val", "--overwrite", "--score")


def test_another_split_has_a_folder_of_its_own(root, tmp_path):
    masks = tmp_path / "masks"
    argv = ["--config", str(root / "config.yaml"), "--device=cpu", "--set", f"pseudo_masks={masks}"]
    gen_clip_masks.main([*argv, "--split", "val"])
    gen_clip_masks.main(argv)  # not refused: the masks of val are not among those to train on
    gen_clip_masks.main([*argv, "--split", "train"])
    assert {str(path.relative_to(masks)) for path in masks.rglob("*.png")} == {
        f"{name}.png" for name in SIZES
    }
    assert [path.name for path in (tmp_path / "masks_val").glob("*.png")] == ["x.png"]


def test_overlays_to_look_at(root, generate, tmp_path, capsys):
    generate()
    out = generate("--save-vis")  # later, and the masks stay what a folder of masks is
    vis, palette = tmp_path / "out_vis", np.array(COLORS)
    assert {str(path.relative_to(out)) for path in out.rglob("*.png")} == {
        f"{name}.png" for name in SIZES
    }
    assert {str(path.relative_to(vis)) for path in vis.rglob("*.png")} == {
        "legend.png",
        *(f"{name}_overlay.png" for name in SIZES),
    }
    for name in SIZES:
        image = read_image(File(str(root / f"images/train/{name}.png"))).astype(float)
        mask = read_mask(File(str(out / f"{name}.png")))
        shown = read_image(File(str(vis / f"{name}_overlay.png")))
        labelled = mask < 3
        expected = np.rint(image[labelled] / 2 + palette[mask[labelled]] / 2)
        assert np.array_equal(shown[labelled], expected)
        assert np.array_equal(shown[~labelled], image[~labelled])
    assert f"{vis}: {len(SIZES)} overlays, colours in " in capsys.readouterr().out


def test_score_of_small_classes(generate, root, tmp_path):
    classes = yaml.safe_load((root / "classes.yaml").read_text())["classes"]
    items = [c if isinstance(c, dict) else {"name": c} for c in classes]
    items[1]["small"] = True
    (tmp_path / "small.yaml").write_text(yaml.safe_dump({"classes": items}))
    plain = generate("--score") / "score.json"
    assert "miou_small" not in plain.read_text()
    out = generate("--score", "--set", f"class_file={tmp_path / 'small.yaml'}")
    scores = json.loads((out / "score.json").read_text())
    assert scores["miou_small"] == scores["classes"][items[1]["name"]]["iou"]
    assert scores["num_images"] == len(SIZES)


def test_wrong_input(generate, root, tmp_path, capsys):
    labels = tmp_path / "labels.json"
    labels.write_text(json.dumps({"a": [1], "far/c": [0]}))
    found = r"4 of 5 images have no labels.*the first is 'c' \(there are some of 'far/c'\)"
    with pytest.raises(InputError, match=rf"{found}.*prepare_data\.py"):
        generate("--set", f"image_labels={labels}")
    with pytest.raises(InputError, match="--out"):
        gen_clip_masks.main(
            ["--config", str(root / "config.yaml"), "--device=cpu", "--set=pseudo_masks=null"]
        )
    for wrong in (("--grid", "2"), ("--grid", "0x2"), ("--ratio", 0), ("--ratio", "nan")):
        with pytest.raises(SystemExit):
            generate(*wrong)
        assert f"{wrong[0]}: expected" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_weights_or_texts_are_other_masks(generate, root, tmp_path):
    generate()
    weights, text = tmp_path / "clip.pt", tmp_path / "text.pt"  # same names as before
    torch.save(tiny_clip(seed=1).state_dict(), weights)
    changed = "--set", f"clip_model={weights}", "--set", f"clip_text={text}"
    with pytest.raises(InputError, match="made with other clip_sha256, text_sha256"):
        generate(*changed)
    torch.save(torch.ones(3, 64), text)
    with pytest.raises(InputError, match="made with other text_sha256"):
        generate("--set", f"clip_text={text}")


def test_training_takes_masks_of_its_own_classes_only(generate, tmp_path):
    out, classes = generate(), ("road", "car", "sky")
    assert pseudo_mask_files(out, SIZES, classes).keys() == SIZES.keys()
    pseudo_mask_files(out / "deep", ["b"], classes)
    for folder, names in ((out, SIZES), (out / "deep", ["b"])):
        with pytest.raises(InputError, match=f"{out} were made for other.*'sky' where.*'tree'"):
            pseudo_mask_files(folder, names, ("road", "car", "tree"))
    with pytest.raises(InputError, match="'sky' where the class file has no class"):
        pseudo_mask_files(out, SIZES, ("road", "car"))
    pseudo_mask_files(out, SIZES)
    for foreign in ("{", "[1]", '{"made_from": 3}'):
        (out / "meta.json").write_text(foreign)
        pseudo_mask_files(out, SIZES, ("tree",))
    (out / "meta.json").unlink()
    pseudo_mask_files(out, SIZES, ("tree",))


# ---- several views of an image ----


@pytest.fixture(scope="module")
def maskclip():
    text = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    return MaskCLIP(tiny_clip().visual, text)


def mean_scores(maskclip, image, size, scales, grid, flip):
    views = {"scales": scales, "grid": grid, "flip": flip}
    return multi_view_scores(maskclip.upsampled_scores, image, size, **views)


IMAGE = torch.randn(1, 3, 45, 62, generator=torch.Generator().manual_seed(2))


def test_one_view_is_maskclip(maskclip):
    scores = mean_scores(maskclip, IMAGE, (90, 124), [1.0], (1, 1), flip=False)
    assert torch.equal(scores, maskclip.upsampled_scores(IMAGE, (90, 124)))


def test_several_ratios_are_averaged(maskclip):
    scores = mean_scores(maskclip, IMAGE, (45, 62), [1.0, 2.0], (1, 1), flip=False)
    doubled = F.interpolate(IMAGE, (90, 124), mode="bilinear", align_corners=False)
    expected = sum(maskclip.upsampled_scores(view, (45, 62)) for view in (IMAGE, doubled)) / 2
    torch.testing.assert_close(scores, expected)


def test_flip_does_not_know_left_from_right(maskclip):
    args = ((45, 62), [1.0], (1, 1))
    scores = mean_scores(maskclip, IMAGE, *args, flip=True)
    mirrored = mean_scores(maskclip, IMAGE.flip(-1), *args, flip=True).flip(-1)
    torch.testing.assert_close(scores, mirrored)
    plain = mean_scores(maskclip, IMAGE, *args, flip=False)
    assert (scores - plain).abs().max() > 1e-3


def test_crops_are_seen_by_themselves(maskclip):
    # 45x62 into 2x2: rows 0..22..45, columns 0..31..62; the scores are twice as large.
    scores = mean_scores(maskclip, IMAGE, (90, 124), [1.0], (2, 2), flip=False)
    corners = [
        [maskclip.upsampled_scores(IMAGE[..., r, c], (h, 62)) for c in (slice(31), slice(31, 62))]
        for r, h in ((slice(22), 45), (slice(22, 45), 45))
    ]
    expected = torch.cat([torch.cat(row, -1) for row in corners], -2)
    torch.testing.assert_close(scores, expected)


# ---- two processes ----


def test_each_rank_makes_its_share(generate, monkeypatch):
    made = {0: [], 1: []}
    for rank in made:
        ranks = Ranks(rank, 2, torch.device("cpu"))
        monkeypatch.setattr(gen_clip_masks, "setup", lambda device, ranks=ranks: ranks)
        monkeypatch.setattr(gen_clip_masks, "open_mask_folder", lambda _, names, *rest: names)
        monkeypatch.setattr(
            mask_writer, "save_mask", lambda path, *rest, rank=rank: made[rank].append(path.stem)
        )
        generate()
    assert made == {0: ["a", "d", "none"], 1: ["c", "b"]}


PROGRAM = Path(__file__).resolve().parent.parent

# gen_clip_masks.py whose rank 1 dies, as by kill -9, in the middle of writing its second mask; with
# TORCHRUN_TOO its torchrun dies before it, as when the machine fails.
DYING = """
import os, signal, time
from PIL import Image
import gen_clip_masks
from utils.safe.errors import run_script

whole, places = Image.Image.save, []

def save(image, path, **options):
    whole(image, path, **options)
    places.append(path)
    if os.environ["RANK"] == "1" and len(places) == 2:
        time.sleep(0.5)  # the other thread ends its mask
        path.write_bytes(path.read_bytes()[:50])
        if "TORCHRUN_TOO" in os.environ:
            os.kill(os.getppid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)

Image.Image.save = save
run_script(gen_clip_masks.main)
"""


def start(root, out, *arguments, script="gen_clip_masks.py", launch=(), **environment):
    """torchrun of a script with the arguments of gen_clip_masks.py."""
    command = [sys.executable, "-m", "torch.distributed.run"]
    command += launch or ["--standalone", "--nproc_per_node=2"]
    command += [script, "--config", root / "config.yaml", "--device", "cpu", "--out", out]
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(PROGRAM)} | environment
    return subprocess.Popen(
        [str(part) for part in (*command, *arguments)],
        cwd=PROGRAM,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def start_two_machines(root, out, script="gen_clip_masks.py", **environment):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    launches = [
        ["--nnodes=2", f"--node_rank={i}", "--master_addr=127.0.0.1", f"--master_port={port}"]
        for i in range(2)
    ]
    return [start(root, out, script=script, launch=each, **environment) for each in launches]


def finish(process):
    """Exit status and what was printed."""
    out, error = process.communicate(timeout=120)
    return process.returncode, out, error


def masks(folder):
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*.png")}


def same_files(one, other):
    """All but the measured cost.json, which a call that makes one mask does not write."""
    files, others = (
        sorted(p.relative_to(folder) for p in folder.rglob("*.*") if p.name != "cost.json")
        for folder in (one, other)
    )
    assert files == others
    for file in files:
        if file.name != "meta.json":
            assert (one / file).read_bytes() == (other / file).read_bytes(), file


@pytest.mark.slow
def test_two_processes_make_the_same_files(root, generate, tmp_path):
    alone, together = generate("--score"), tmp_path / "together"
    status, printed, error = finish(start(root, together, "--score"))
    assert status == 0, error
    assert "5 masks, 5 of them new" in printed
    same_files(alone, together)
    metas = [json.loads((folder / "meta.json").read_text()) for folder in (alone, together)]
    assert metas[0] == metas[1]


@pytest.mark.slow
def test_killed_while_writing_then_another_number_of_processes(root, tmp_path, generate):
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    status, _, error = finish(start(root, tmp_path / "out", script=script))
    assert status != 0 and "SIGKILL" in error
    there = masks(tmp_path / "out")
    half_written = [name for name in there if UNFINISHED.search(name)]
    assert any(name.startswith("deep/") for name in half_written)
    made = {name: path.stat() for name, path in there.items() if name not in half_written}
    assert "c.png" in made and "deep/b.png" not in made
    out = generate()  # one process
    for name, before in made.items():
        after = (out / name).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns), name
    other = tmp_path / "other"
    generate("--out", other)
    same_files(out, other)


@pytest.mark.slow
def test_two_machines_of_which_one_dies(root, tmp_path, generate):
    out, script = tmp_path / "shared", tmp_path / "dying.py"
    script.write_text(DYING)
    first, second = start_two_machines(root, out, script=script, TORCHRUN_TOO="1")
    assert finish(second)[0] == -9
    assert finish(first)[0] not in (0, None)  # it has noticed, and does not wait for ever
    there = {name for name in masks(out) if not UNFINISHED.search(name)}
    assert there == {"a.png", "d.png", "none.png", "c.png"}  # rank 0 made its share
    ended = [finish(process) for process in start_two_machines(root, out)]
    assert [status for status, *_ in ended] == [0, 0], ended
    assert "5 masks, 1 of them new" in ended[0][1]
    same_files(out, generate())


def test_a_replaced_picture_is_noticed(root, generate):
    """By the size of its file; masks from before that was kept are taken as they are."""
    out = generate()
    path = root / "images/train/a.png"
    whole = path.read_bytes()
    path.write_bytes(whole + b"\0")
    try:
        with pytest.raises(InputError, match="holds masks of other images: .* other sizes"):
            generate()
        content = json.loads((out / "meta.json").read_text())
        del content["made_from"]["images_sha256"]
        (out / "meta.json").write_text(json.dumps(content))
        generate()
    finally:
        path.write_bytes(whole)


def test_time_and_memory_are_those_of_the_masks_that_are_there(generate):
    """Not of masks that were replaced; resuming without work keeps what was measured."""
    file = generate() / "cost.json"
    measured = file.read_text()
    assert json.loads(measured)["images"] == len(SIZES) - 1  # without the first
    generate("--score")
    assert file.read_text() == measured
    file.write_text("of other masks")
    for name in ("a", "c", "d"):
        (file.parent / f"{name}.png").unlink()
    generate()
    assert json.loads(file.read_text())["images"] == 2
    generate("--overwrite")
    assert json.loads(file.read_text())["images"] == len(SIZES) - 1
