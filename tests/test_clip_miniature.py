"""models/clip_miniature.py: a CLIP with few words and a fine grid is CLIP all the same."""

import clip
import pytest
import torch
from tiny_clip import tiny_clip

from models.clip_features import MaskCLIPOptions, dense_features, grid_stride
from models.clip_loading import clip_from_state_dict, load_clip
from models.clip_miniature import KnownTokens, output_stride, set_output_stride
from utils.safe.errors import InputError

TEXTS = ["a photo of a car.", "the traffic light in the street."]


def shrunk(weights, texts):
    """The state dict with the token rows of `texts` alone."""
    ids = clip.tokenize(texts).unique(sorted=True)
    rows = weights["token_embedding.weight"][ids]
    return weights | {"token_embedding.weight": rows, "token_embedding.token_ids": ids}


def test_kept_rows_give_the_text_embeddings_of_the_whole_table():
    whole = tiny_clip(resnet=True)
    small = clip_from_state_dict(shrunk(whole.state_dict(), TEXTS))
    assert isinstance(small.token_embedding, KnownTokens)
    assert len(small.token_embedding.weight) < 20
    tokens = clip.tokenize(TEXTS)
    assert torch.equal(small.encode_text(tokens), whole.encode_text(tokens))


@pytest.mark.parametrize(
    ("text", "word"), [("a photo of a zebra.", "zebra"), ("zebra", "zebra"), ("a car?", r"\?")]
)
def test_unknown_word_is_named(text, word):
    small = clip_from_state_dict(shrunk(tiny_clip(resnet=True).state_dict(), TEXTS))
    with pytest.raises(InputError, match=f"can't read '{word}'.*knows .*'car'.*ViT-B/16"):
        small.encode_text(clip.tokenize([text]))


@pytest.mark.parametrize("stride", [4, 8, 16, 32])
def test_output_stride(stride):
    visual = tiny_clip(resnet=True).visual
    set_output_stride(visual, stride)
    assert output_stride(visual) == grid_stride(visual) == stride
    features, _ = dense_features(visual, torch.zeros(1, 3, 64, 96), MaskCLIPOptions())
    assert features.shape == (1, 64, 64 // stride, 96 // stride)


def test_other_strides_are_refused():
    with pytest.raises(ValueError, match="4, 8, 16 or 32, not 2"):
        set_output_stride(tiny_clip(resnet=True).visual, 2)


def test_stride_and_words_come_with_the_file(tmp_path):
    weights = shrunk(tiny_clip(resnet=True).state_dict(), TEXTS)
    torch.save(weights | {"output_stride": torch.tensor(8)}, tmp_path / "miniature.pt")
    model = load_clip(str(tmp_path / "miniature.pt"))
    assert grid_stride(model.visual) == 8
    assert model.encode_text(clip.tokenize(TEXTS)).shape == (2, 64)


@pytest.mark.parametrize(("resnet", "stride"), [(True, 5), (False, 8)])
def test_file_with_an_impossible_stride(tmp_path, resnet, stride):
    path = tmp_path / "clip.pt"
    torch.save(tiny_clip(resnet).state_dict() | {"output_stride": torch.tensor(stride)}, path)
    with pytest.raises(InputError, match="output_stride 4, 8, 16 or 32"):
        load_clip(str(path))
