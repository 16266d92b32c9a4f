"""models/text.py: against the authors' prompt ensembles and by hand; files and what is refused."""

import pickle
from dataclasses import replace
from pathlib import Path

import clip
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import load_golden
from tiny_clip import tiny_clip

import models.text
from datasets.labels import ClassTable, load_classes
from models.build import build_teacher
from models.clip_loading import clip_from_state_dict
from models.text import (
    build_text_embeddings,
    load_templates,
    load_text_embeddings,
    model_name,
    text_embeddings,
)
from utils.config import load_config
from utils.safe.errors import InputError

GOLDEN = "text_ensemble.npz"
# Sets of other names, or parts of these, may be among the reference cases.
CLASS_FILES = {"city_carb": "cityscapes", "camvid": "camvid", "wilddash2": "wilddash2_official"}


@pytest.fixture(scope="module")
def model():
    return tiny_clip()


def named(file, prefix):
    """What follows `prefix` in the keys of a reference file."""
    names = [key.removeprefix(prefix) for key in file.files if key.startswith(prefix)]
    assert names
    return names


# ---- reference cases of the authors' code ----


def test_golden_templates():
    assert load_templates("clip85") == tuple(load_golden(GOLDEN)["templates"].tolist())


def test_golden_class_prompts():
    file = load_golden(GOLDEN)
    known = [name for name in named(file, "classes_") if name in CLASS_FILES]
    for name in known:
        classes = load_classes(f"datasets/classes/{CLASS_FILES[name]}.yaml")
        prompts = [(prompt,) for prompt in file[f"classes_{name}"].tolist()]
        assert [*classes.prompts[: len(prompts)]] == prompts


def test_golden_no_key_is_left_out():
    file = load_golden(GOLDEN)
    sets, texts = named(file, "classes_"), named(file, "tokens_")
    compared = {"templates"}
    compared |= {f"classes_{name}" for name in sets}
    compared |= {f"text_{name}{end}" for name in sets for end in ("", "_npe")}
    compared |= {f"{kind}_{text}" for text in texts for kind in ("tokens", "raw")}
    assert set(file.files) - compared == set()


def test_golden_tokens_and_raw_embeddings():
    file = load_golden(GOLDEN)
    weights = load_golden("clip_small_state_dict.npz")
    small = clip_from_state_dict({key: torch.from_numpy(weights[key]) for key in weights.files})
    for name in named(file, "tokens_"):
        prompt = name.replace("_", " ")
        tokens = clip.tokenize([t.replace("{}", prompt) for t in load_templates("clip85")])
        assert torch.equal(tokens, torch.from_numpy(file[f"tokens_{name}"]).long())
        raw = torch.from_numpy(file[f"raw_{name}"])
        torch.testing.assert_close(small.encode_text(tokens), raw, atol=1e-5, rtol=0)


def test_golden_ensembles():
    file = load_golden(GOLDEN)
    weights = load_golden("clip_small_state_dict.npz")
    small = clip_from_state_dict({key: torch.from_numpy(weights[key]) for key in weights.files})
    rows = {}  # the sets share many classes
    for name in named(file, "text_"):
        which = "single" if name.endswith("_npe") else "clip85"
        prompts = file[f"classes_{name.removesuffix('_npe')}"].tolist()
        new = [prompt for prompt in prompts if (which, prompt) not in rows]
        ours = text_embeddings(small, tuple((p,) for p in new), load_templates(which))
        rows |= {(which, prompt): row for prompt, row in zip(new, ours, strict=True)}
        ours = torch.stack([rows[which, prompt] for prompt in prompts])
        torch.testing.assert_close(ours, torch.from_numpy(file[f"text_{name}"]), atol=1e-5, rtol=0)


# ---- by hand ----


def test_ensemble_by_hand(model):
    templates = ("a photo of a {}.", "the {}.", "{} in rain")
    embeddings = text_embeddings(model, (("car",), ("tree", "big bush")), templates)

    def ensemble(name):
        total = torch.zeros(64)
        for text in (f"a photo of a {name}.", f"the {name}.", f"{name} in rain"):
            encoded = model.encode_text(clip.tokenize([text]))[0]
            total += encoded / encoded.norm()
        return total / total.norm()

    synonyms = ensemble("tree") + ensemble("big bush")
    expected = torch.stack([ensemble("car"), synonyms / synonyms.norm()])
    torch.testing.assert_close(embeddings, expected, atol=1e-6, rtol=0)
    assert (expected[1] - ensemble("tree")).abs().max() > 1e-3
    assert embeddings.dtype == torch.float32 and not embeddings.requires_grad


def test_too_long_a_prompt_is_refused(model):
    with pytest.raises(InputError, match="too long"):
        text_embeddings(model, (("car " * 90,),), ("a {}.",))


# ---- templates ----


def test_template_file(tmp_path):
    path = tmp_path / "templates.txt"
    path.write_text("a {}.\n\n  the {} at night \n", encoding="utf-8")
    assert load_templates(str(path)) == ("a {}.", "the {} at night")
    assert load_templates("single") == ("a photo of a {}.",)
    for text in ("a photo\n", "{} and {}\n", "\n"):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(InputError, match="one {} each"):
            load_templates(str(path))
    with pytest.raises(InputError, match="clip85, single"):
        load_templates("clip80")


# ---- files ----


@pytest.fixture
def config(tmp_path, model):
    torch.save(model.state_dict(), tmp_path / "clip.pt")
    return replace(
        load_config("configs/tiny_cpu.yaml"),
        clip_model=str(tmp_path / "clip.pt"),
        clip_text=str(tmp_path / "made" / "text.pt"),
    )


def table(*prompts):
    return ClassTable(tuple(p[0] for p in prompts), prompts, np.zeros((len(prompts), 3), np.uint8))


def test_made_once_then_read(config, model, monkeypatch):
    classes = table(("car",), ("tree", "bush"))
    made = build_text_embeddings(config, classes)
    assert torch.equal(
        made, text_embeddings(model, classes.prompts, load_templates(config.prompt_templates))
    )
    monkeypatch.setattr(models.text, "load_clip", None)  # no CLIP from here on
    assert torch.equal(build_text_embeddings(config, classes), made)
    moved = replace(config, clip_model="/elsewhere/clip.pt")
    assert torch.equal(build_text_embeddings(moved, classes), made)
    for other, key in (
        (replace(config, prompt_templates="clip85"), "templates"),
        (replace(config, clip_model="RN50"), "clip_sha256"),
        (replace(config, clip_model="/elsewhere/other.pt"), "clip"),
    ):
        with pytest.raises(InputError, match=f"text.pt was made with other {key}"):
            build_text_embeddings(other, classes)
    with pytest.raises(InputError, match="other prompts.*bush"):
        build_text_embeddings(config, table(("car",), ("tree",)))
    torch.save(tiny_clip(seed=1).state_dict(), config.clip_model)  # another CLIP of that name
    with pytest.raises(InputError, match="text.pt was made with other clip_sha256"):
        build_text_embeddings(config, classes)


def test_build_teacher(config, model):
    classes = table(("car",), ("tree",), ("road",))
    maskclip = build_teacher(config, classes, "cpu")
    assert torch.equal(maskclip.text_embeddings, build_text_embeddings(config, classes))
    assert maskclip.visual.state_dict().keys() == model.visual.state_dict().keys()
    mask = maskclip(torch.zeros(1, 3, 32, 32), torch.tensor([[0.0, 1.0, 0.0]]), (8, 8))
    assert (mask == 1).all()


def test_model_name():
    names = ("ViT-B/16", "clip/ViT-B-16.pt", "ViT-L/14@336px", "RN50")
    assert [*map(model_name, names)] == ["ViT-B-16", "ViT-B-16", "ViT-L-14-336px", "RN50"]


def test_bare_tensor_files(tmp_path):
    rows = F.normalize(torch.rand(3, 8), dim=1)
    torch.save(rows.half(), tmp_path / "text.pth")
    np.save(tmp_path / "text.npy", rows.numpy())
    assert torch.equal(load_text_embeddings(tmp_path / "text.pth", 3), rows.half().float())
    loaded = load_text_embeddings(tmp_path / "text.npy", 3, width=8, source={"clip": "RN50"})
    assert torch.equal(loaded, rows) and loaded.dtype == torch.float32


def spoiled(value):
    rows = torch.ones(3, 8)
    rows[1] = value
    return rows


@pytest.mark.parametrize(
    "content, message",
    [
        (spoiled(float("nan")), "row 1"),
        (spoiled(float("inf")), "row 1"),
        (spoiled(0.0), "row 1"),
        (torch.ones(4, 8), "3 classes.*found .4, 8."),
        (torch.ones(3, 9), "3 classes x 8, found .3, 9."),
        (torch.ones(8), "expected a .classes, width. tensor"),
        ({"rows": torch.ones(3, 8)}, "expected a .classes, width. tensor"),
        ([1, 2], "expected a .classes, width. tensor"),
    ],
)
def test_wrong_content_is_refused(tmp_path, content, message):
    path = tmp_path / "text.pt"
    torch.save(content, path)
    with pytest.raises(InputError, match=f"{path}.*{message}"):
        load_text_embeddings(path, 3, width=8)


@pytest.mark.parametrize("name", ["text.pt", "text.npy"])
def test_unreadable_files_are_refused(tmp_path, name):
    path = tmp_path / name
    with pytest.raises(InputError, match=f"no text embeddings at {path}"):
        load_text_embeddings(path, 3)
    for content in (b"nothing of the kind", pickle.dumps(Path("an object"), protocol=2)):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"{path}.*can't be read"):
            load_text_embeddings(path, 3)
