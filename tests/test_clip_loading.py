"""models/clip_loading.py: names, archives, state dicts, and what is refused."""

import hashlib
import sys
import types
import urllib.error
from pathlib import Path

import clip
import pytest
import torch
from tiny_clip import tiny_clip

from models.clip_loading import (
    clip_from_state_dict,
    clip_sha256,
    load_clip,
    openai_clip,
)
from utils.safe.errors import InputError


@pytest.fixture(scope="module", params=["vit", "resnet"])
def model(request):
    return tiny_clip(resnet=request.param == "resnet")


def assert_same_weights(loaded, model):
    ours, theirs = loaded.state_dict(), model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    assert all(p.dtype == torch.float32 and not p.requires_grad for p in loaded.parameters())
    assert not loaded.training


def test_state_dict_keeps_every_bit(model):
    weights = model.state_dict()
    assert any((w != w.half().float()).any() for w in weights.values())  # fp16 would show
    loaded = clip_from_state_dict(weights)
    assert_same_weights(loaded, model)
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = clip.tokenize(["a photo of a car."])
    assert torch.equal(loaded.encode_image(image), model.encode_image(image))
    assert torch.equal(loaded.encode_text(tokens), model.encode_text(tokens))


def test_half_precision_weights_become_float32(model):
    half = {key: value.half() for key, value in model.state_dict().items()}
    loaded = clip_from_state_dict(half).state_dict()
    assert all(torch.equal(loaded[key], half[key].to(loaded[key].dtype)) for key in half)


@pytest.mark.parametrize("nested", [None, "state_dict", "model"])
def test_file_of_a_state_dict(tmp_path, model, nested):
    path = tmp_path / "clip.pt"
    weights = model.state_dict() | {"input_resolution": torch.tensor(32)}
    torch.save({nested: weights, "epoch": 3} if nested else weights, path)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    assert_same_weights(load_clip(str(path)), model)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.fixture
def archive(tmp_path):
    """A TorchScript archive of a miniature CLIP, as OpenAI's .pt files are."""
    model = tiny_clip()
    traced = torch.jit.trace(model, (torch.zeros(1, 3, 32, 32), clip.tokenize(["a"])))
    path = tmp_path / "ViT-tiny.pt"
    torch.jit.save(traced, str(path))
    return path, model


def test_sha256_of_a_name_and_of_a_file(tmp_path):
    path = tmp_path / "clip.pt"
    path.write_bytes(b"weights")
    assert clip_sha256(str(path)) == hashlib.sha256(b"weights").hexdigest()
    assert clip_sha256("ViT-B/16") in clip.clip._MODELS["ViT-B/16"]
    assert len(clip_sha256("ViT-B/16")) == 64
    assert clip_sha256(str(tmp_path / "nowhere.pt")) is None


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_archive_is_opened_only_if_known_or_trusted(archive, monkeypatch):
    path, model = archive
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(InputError, match=f"{path}.*{sha256}"):
        load_clip(str(path))
    assert_same_weights(load_clip(str(path), trust=True), model)
    known = {"ViT-tiny": f"https://example.org/{sha256}/ViT-tiny.pt"}
    monkeypatch.setattr(clip.clip, "_MODELS", known)
    assert_same_weights(load_clip(str(path)), model)
    path.write_bytes(path.read_bytes().replace(b"data.pkl", b"datx.pkl"))
    with pytest.raises(InputError, match="can't be read") as caught:
        load_clip(str(path), trust=True)
    assert "Torch" not in str(caught.value)


def test_by_name(monkeypatch):
    model = tiny_clip()
    asked = []
    monkeypatch.setattr(
        clip, "load", lambda *args, **kw: (asked.append((args, kw)), (model, None))[1]
    )
    assert_same_weights(load_clip("ViT-B/16"), model)
    assert asked == [(("ViT-B/16",), {"device": "cpu"})]


@pytest.mark.parametrize(
    "error", [urllib.error.URLError("no route"), RuntimeError("SHA256 does not match")]
)
def test_failed_download_says_what_to_do(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(clip, "load", fail)
    with pytest.raises(InputError) as caught:
        load_clip("ViT-B/16")
    for part in (
        "ViT-B-16.pt",
        "~/.cache/clip",
        "--set clip_model=path/to/ViT-B-16.pt",
        "https://",
    ):
        assert part in str(caught.value)
    with pytest.raises(InputError, match="point to it: --clip-model path/to/ViT-B-16.pt"):
        load_clip("ViT-B/16", option="--clip-model ")  # of prepare_data.py


def test_refused_files(tmp_path, model):
    def refuse(name, match):
        with pytest.raises(InputError, match=match) as caught:
            load_clip(str(tmp_path / name))
        assert name in str(caught.value)

    refuse("nowhere.pt", "neither a file nor one of RN50")
    (tmp_path / "text.pt").write_text("not a checkpoint")
    refuse("text.pt", "can't be read")
    torch.save(model.state_dict(), tmp_path / "whole.pt")
    cut = (tmp_path / "whole.pt").read_bytes()[:20000]
    (tmp_path / "cut.pt").write_bytes(cut)
    refuse("cut.pt", "can't be read")
    torch.save({"weights": [1, 2]}, tmp_path / "list.pt")
    refuse("list.pt", "found something else")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.pt")
    refuse("other.pt", "'ln_final.weight' is missing")
    torch.save({0: torch.zeros(1)}, tmp_path / "number.pt")
    refuse("number.pt", "found something else")
    weights = model.state_dict()
    for name, shape in (("ln_final.weight", ()), ("ln_final.weight", (8,)), ("text_projection", 1)):
        torch.save(weights | {name: torch.zeros(shape)}, tmp_path / "shape.pt")
        refuse("shape.pt", "shapes of a CLIP model")
    torch.save({k: v for k, v in weights.items() if k != "logit_scale"}, tmp_path / "less.pt")
    refuse("less.pt", "logit_scale")
    torch.save(Path("code"), tmp_path / "object.pt")
    refuse("object.pt", "can't be read")


def test_clipboard_package_is_recognised(monkeypatch):
    monkeypatch.setitem(sys.modules, "clip", types.ModuleType("clip"))
    with pytest.raises(InputError, match="not OpenAI's CLIP.*pip uninstall clip"):
        openai_clip()
    monkeypatch.setitem(sys.modules, "clip", None)
    with pytest.raises(InputError, match="can't import"):
        load_clip("ViT-B/16")
