"""models/attentions.py by hand: explicit matrices, bounds, the class token's part, refusals."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from largest import Largest
from tiny_clip import tiny_clip
from torch import Tensor, nn

from models.attentions import attend, gaussian_bias, join_heads, last_attention, query_key_value
from models.clip_features import (
    MaskCLIPOptions,
    check_options,
    dense_features,
    last_and_middle_tokens,
    last_block,
    token_grid,
)
from models.maskclip import MaskCLIP
from utils.safe.errors import InputError

KINDS = ("qk", "qq", "kk", "qq+kk")
DEFAULT = MaskCLIPOptions()
PLAIN = replace(DEFAULT, residual=False, mlp=False)


@pytest.fixture(scope="module")
def visual() -> nn.Module:
    torch.manual_seed(0)
    return tiny_clip().visual


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def heads(batch: int = 2, length: int = 7, width: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(random(batch, 3, length, width, seed=seed) for seed in range(3))


def softmax_matrix(kind: str, query: Tensor, key: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    """The weights as the papers write them, with matrices."""
    letters = {"q": query, "k": key}
    parts = [
        (letters[a] @ letters[b].transpose(-1, -2) / math.sqrt(query.shape[-1]) + bias).softmax(-1)
        for a, b in kind.split("+")
    ]
    return sum(parts)


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_the_softmax_with_matrices(kind: str, with_bias: bool) -> None:
    query, key, value = heads()
    bias = random(7, 7, seed=5) if with_bias else None
    expected = softmax_matrix(kind, query, key, bias if with_bias else 0.0) @ value
    torch.testing.assert_close(attend(kind, query, key, value, bias), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_weights_of_a_token_sum_to_one_and_of_qq_kk_to_two(kind: str) -> None:
    query, key, _ = heads()
    sums = attend(kind, query, key, torch.ones_like(query))
    torch.testing.assert_close(sums, torch.full_like(sums, len(kind.split("+"))))


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_in_bfloat16_is_as_exact_as_its_inputs(kind: str, with_bias: bool) -> None:
    """Also where like attends to like: the products are about 50 there."""
    low = [x.bfloat16() for x in heads(length=49, width=32)]
    low = [3 * low[0], 3 * low[1], low[2]]
    query, key, value = (x.float() for x in low)
    bias = gaussian_bias((6, 8), 2.0, query) if with_bias else None
    exact = attend(kind, query, key, value, bias)
    found = attend(kind, *low, None if bias is None else bias.bfloat16())
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.01, atol=0.01)


# ---- the neighbourhood ----


@pytest.mark.parametrize("grid", [(3, 5), (5, 3), (1, 4), (1, 1)])
def test_gaussian_by_hand(grid: tuple[int, int]) -> None:
    bias = gaussian_bias(grid, 1.5, torch.zeros(()))
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    assert bias.shape == (1 + len(places), 1 + len(places))
    for i, (r, c) in enumerate(places, start=1):
        for j, (s, d) in enumerate(places, start=1):
            expected = math.exp(-((r - s) ** 2 + (c - d) ** 2) / (2 * 1.5**2))
            assert bias[i, j].item() == pytest.approx(expected, rel=1e-6)


def test_gaussian_lies_between_zero_and_one_and_leaves_the_class_token_alone() -> None:
    bias = gaussian_bias((4, 6), 5.0, torch.zeros((), dtype=torch.float32))
    assert (bias[0] == 0).all() and (bias[:, 0] == 0).all()
    patches = bias[1:, 1:]
    assert (patches > 0).all() and (patches <= 1).all() and (patches.diagonal() == 1).all()
    assert torch.equal(bias, bias.T)
    assert gaussian_bias((4, 6), 5.0, torch.zeros((), dtype=torch.bfloat16)).dtype == torch.bfloat16


# ---- the block ----


@pytest.mark.parametrize("std", [0.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_class_token_is_a_key_and_a_value(visual: nn.Module, kind: str, std: float) -> None:
    """Patches change with the class token that enters; and it is no part of the result."""
    options = replace(PLAIN, attention=kind, gaussian_std=std)
    block = visual.transformer.resblocks[-1]
    image = random(1, 3, 24, 40)
    tokens, _ = last_and_middle_tokens(visual, image, options)
    grid = token_grid(visual, image)
    found = last_block(block, tokens, grid, options, [])
    assert found.shape == (1, 15, 128)
    query, key, value = query_key_value(block, tokens, options.layer_norm_eps)
    bias = gaussian_bias(grid, std, tokens) if std else 0.0
    expected = join_heads(block, softmax_matrix(kind, query, key, bias) @ value)[:, 1:]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    other = tokens.clone()
    other[:, 0] = random(1, 128, seed=4)
    assert (last_block(block, other, grid, options, []) - found).abs().max() > 1e-3


def test_plain_attention_is_openai_last_block(visual: nn.Module) -> None:
    image = random(2, 3, 32, 32)
    options = replace(DEFAULT, attention="qk")
    tokens, _ = last_and_middle_tokens(visual, image, options)
    grid = token_grid(visual, image)
    block = visual.transformer.resblocks[-1]
    expected = block(tokens.transpose(0, 1)).transpose(0, 1)[:, 1:]
    torch.testing.assert_close(last_block(block, tokens, grid, options, []), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_middle_blocks_share_the_last_values(visual: nn.Module, kind: str) -> None:
    blocks = visual.transformer.resblocks
    tokens = [random(1, 10, 128, seed=seed) for seed in range(3)]
    middle = [(blocks[i], tokens[i]) for i in range(2)]
    eps, weight, scale = 1e-5, 0.3, 2.0
    found = last_attention(
        blocks[2], tokens[2], (3, 3), kind, eps, 0.0, middle, weight, scale=scale
    )
    query, key, value = query_key_value(blocks[2], tokens[2], eps)
    mean = sum(softmax_matrix("qk", *query_key_value(b, x, eps)[:2]) for b, x in middle) / 2
    mixture = (1 - weight) * softmax_matrix(kind, query, key) + weight * mean
    expected = join_heads(blocks[2], scale * mixture @ value)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_middle_blocks_by_options_enter_with_their_own_input(visual: nn.Module) -> None:
    image = random(1, 3, 32, 40)
    plain = replace(PLAIN, attention="kk")
    none, _ = dense_features(visual, image, plain)
    ignored, _ = dense_features(visual, image, replace(plain, middle_blocks=(0, 1)))
    torch.testing.assert_close(ignored, none)  # their share is 0
    mixed = replace(plain, middle_blocks=(0, 1), middle_weight=0.5)
    found, _ = dense_features(visual, image, mixed)
    assert (found - none).abs().max() > 1e-3


@pytest.mark.parametrize("std", [0.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_is_its_images_one_by_one(visual: nn.Module, kind: str, std: float) -> None:
    options = replace(
        DEFAULT, attention=kind, gaussian_std=std, middle_blocks=(0,), middle_weight=0.2
    )
    images = random(3, 3, 30, 50)
    together, _ = dense_features(visual, images, options)
    alone = torch.cat([dense_features(visual, image[None], options)[0] for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("std", [0.0, 2.0])
@pytest.mark.parametrize("kind", KINDS)
def test_scores_under_autocast_are_close(visual: nn.Module, kind: str, std: float) -> None:
    options = replace(
        PLAIN, attention=kind, gaussian_std=std, middle_blocks=(1,), middle_weight=0.2
    )
    text = F.normalize(random(5, 64, seed=9), dim=1)
    maskclip, image = MaskCLIP(visual, text, options), random(2, 3, 60, 70)
    exact = maskclip.scores(image)
    with torch.autocast("cpu", torch.bfloat16):
        scores = maskclip.scores(image)
    assert scores.dtype == torch.float32
    assert 0 < (scores - exact).abs().max() < 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_key_smoothing_takes_the_same_keys_with_each_attention(
    visual: nn.Module, kind: str
) -> None:
    image = random(2, 3, 32, 40)
    smoothing = replace(DEFAULT, key_smoothing=0.9)
    _, expected = dense_features(visual, image, smoothing)
    _, keys = dense_features(visual, image, replace(smoothing, attention=kind))
    assert keys.shape == (2, 20, 128) and torch.equal(keys, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_heads_have_no_matrix(visual: nn.Module, kind: str) -> None:
    """The bias is one matrix that all heads share; nothing is larger."""

    image = random(1, 3, 8 * 40, 8 * 40)  # 1600 patches
    with torch.no_grad():
        for std, limit in ((0.0, 1600 * 1600 // 2), (5.0, 1601 * 1608)):
            with Largest() as largest:
                dense_features(visual, image, replace(PLAIN, attention=kind, gaussian_std=std))
            assert largest.numel <= limit


# ---- refusals ----


@pytest.mark.parametrize("kind", [*KINDS, "calibrated"])
def test_a_resnet_has_the_value_path_alone(kind: str) -> None:
    resnet = tiny_clip(resnet=True).visual
    check_options(resnet, DEFAULT)
    with pytest.raises(InputError, match="needs a ViT, and this CLIP is a ResNet"):
        MaskCLIP(resnet, torch.ones(5, 64), replace(PLAIN, attention=kind))


@pytest.mark.parametrize("index", [-1, 2, 12])
def test_middle_blocks_lie_before_the_last(visual: nn.Module, index: int) -> None:
    options = replace(PLAIN, attention="qk", middle_blocks=(0, index), middle_weight=0.2)
    message = rf"middle_blocks has \[{index}\]: this CLIP has 2 blocks before its last, 0 to 1"
    with pytest.raises(InputError, match=message):
        MaskCLIP(visual, torch.ones(5, 64), options)
