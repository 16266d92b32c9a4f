"""models/calibrated.py against the formulas with matrices and loops, at its edges, and refusals."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from largest import Largest
from tiny_clip import tiny_clip
from torch import Tensor, nn

from models import calibrated
from models.clip_features import MaskCLIPOptions, check_options, dense_features
from models.maskclip import MaskCLIP
from utils.safe.errors import InputError

BETA, EPS = 0.4, 1e-5
OPTIONS = MaskCLIPOptions(
    attention="calibrated", residual=False, mlp=False, calibrated_blocks=(0, 1, 0, 1)
)


@pytest.fixture(scope="module")
def visual() -> nn.Module:
    torch.manual_seed(0)
    return tiny_clip().visual


@pytest.fixture(scope="module")
def block(visual: nn.Module) -> nn.Module:
    return visual.transformer.resblocks[-1]


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def four_kinds(batch: int, patches: int) -> list[Tensor]:
    """Tokens of four kinds, some of whose patches resemble each other."""
    groups = random(4, 128, seed=8)[torch.arange(1 + patches) % 4]
    return [groups + 0.7 * random(batch, 1 + patches, 128, seed=seed) for seed in range(4)]


# ---- the formulas, with matrices and loops ----


def factors_by_hand(features: Tensor) -> Tensor:
    count = len(features)
    distances = torch.tensor(
        [[(a - b).square().sum().item() for b in features.double()] for a in features.double()]
    )
    neighbours = min(30, count - 1)
    order = distances.argsort(1)[:, : neighbours + 1]
    radius = distances.gather(1, order)[:, -1].clamp(min=1e-12)
    return torch.tensor(
        [sum(radius[i] / radius[j] for j in order[i][1:]) / neighbours for i in range(count)]
    )


def repaired_by_hand(features: Tensor, outliers: list[int], grid: tuple[int, int]) -> Tensor:
    repaired = features.clone()
    for index in outliers:
        row, column = index // grid[1], index % grid[1]
        around = [
            r * grid[1] + c
            for r in range(max(row - 1, 0), min(row + 2, grid[0]))
            for c in range(max(column - 1, 0), min(column + 2, grid[1]))
        ]
        if good := [place for place in around if place not in outliers]:
            repaired[index] = features[good].mean(0)
    return repaired


def means_by_hand(features: Tensor, unit: Tensor) -> Tensor:
    weights = unit @ unit.T
    weights = torch.where(weights >= BETA, weights, 0)
    return weights @ features / (weights.sum(1, keepdim=True) + 1e-6)


def attention_by_hand(block: nn.Module, features: Tensor, unit: Tensor) -> Tensor:
    similarity = unit @ unit.T
    focused = 3 * (similarity - similarity.mean())
    focused = torch.where(focused < 0, -math.inf, focused).softmax(1)
    mixer = block.attn
    _, key, value = F.linear(block.ln_1(features), mixer.in_proj_weight, mixer.in_proj_bias).chunk(
        3, 1
    )
    mixed = []
    for k, v in zip(key.split(64, 1), value.split(64, 1), strict=True):
        mixed.append((focused + (k @ k.T / 8).softmax(1)) / 2 @ v)
    return mixer.out_proj(torch.cat(mixed, 1))


def by_hand(block: nn.Module, kinds: list[Tensor], grid: tuple[int, int]) -> Tensor:
    (class_token, patches), (_, low), (_, middle), (total_class, total) = (
        (kind[0], kind[1:]) for kind in kinds
    )
    factors = factors_by_hand(patches)
    outliers = (factors > 1.00001 * factors.quantile(0.95)).nonzero().flatten().tolist()
    assert outliers or len(patches) <= 30
    unit = F.normalize(repaired_by_hand(middle, outliers, grid), dim=1)
    first = means_by_hand(repaired_by_hand(patches, outliers, grid), unit)
    low = F.normalize(low, dim=1)
    return sum(
        means_by_hand(attention_by_hand(block, features, unit) + 0.3 * token, low)
        for features, token in ((first, class_token), (total, total_class))
    )


@pytest.mark.parametrize("rows", [7, 512])
@pytest.mark.parametrize("grid", [(6, 6), (4, 11), (9, 5), (1, 40), (3, 4)])
def test_calibrated_block_is_the_formula(
    block: nn.Module, grid: tuple[int, int], rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row by row or at once; (3, 4) has fewer patches than neighbours."""
    monkeypatch.setattr(calibrated, "ROWS", rows)
    kinds = four_kinds(1, grid[0] * grid[1])
    found = calibrated.calibrated_block(block, *kinds, grid, BETA, EPS)
    expected = by_hand(block, [kind[0] for kind in kinds], grid)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=1e-4)


def test_a_batch_is_its_images_one_by_one(block: nn.Module) -> None:
    kinds = four_kinds(3, 40)
    together = calibrated.calibrated_block(block, *kinds, (5, 8), BETA, EPS)
    for index in range(3):
        one = (kind[index : index + 1] for kind in kinds)
        alone = calibrated.calibrated_block(block, *one, (5, 8), BETA, EPS)
        torch.testing.assert_close(together[index : index + 1], alone)


def test_class_token_is_added_and_no_key(block: nn.Module) -> None:
    """Another class token shifts all patches by the same vector: after `aggregate`, nearly."""
    kinds = four_kinds(1, 40)
    shift = random(128, seed=20)
    moved = [kind.clone() for kind in kinds]
    moved[0][:, 0] += shift
    before, after = (
        calibrated.calibrated_block(block, *tokens, (5, 8), BETA, EPS) for tokens in (kinds, moved)
    )
    torch.testing.assert_close(after - before, (0.3 * shift).expand_as(after), rtol=0, atol=1e-5)


# ---- outliers ----


def test_a_lone_point_is_an_outlier() -> None:
    points = torch.cat([random(60, 5), torch.full((1, 5), 40.0)])
    factors = calibrated.local_outlier_factors(points)
    assert factors.argmax() == 60
    torch.testing.assert_close(factors, factors_by_hand(points).float(), rtol=1e-4, atol=0)
    assert calibrated.find_outliers(factors)[60]
    assert calibrated.find_outliers(factors).sum() == 3  # of 61: those above the 58th


def test_factors_do_not_suffer_from_a_large_common_part() -> None:
    points = random(60, 16, seed=3)
    exact = factors_by_hand(points).float()
    shifted = calibrated.local_outlier_factors(points + 1000)
    torch.testing.assert_close(shifted, exact, rtol=1e-3, atol=0)


@pytest.mark.parametrize("count", [1, 2])
def test_one_or_two_patches_have_no_outlier(count: int) -> None:
    factors = calibrated.local_outlier_factors(random(count, 4))
    assert factors.shape == (count,) and not calibrated.find_outliers(factors).any()


@pytest.mark.parametrize("seed", range(10))
def test_the_two_patches_furthest_apart_tie(seed: int) -> None:
    """Each is a neighbour of all, so both have the same factor, the largest."""
    factors = calibrated.local_outlier_factors(random(12, 128, seed=seed))
    assert not calibrated.find_outliers(factors).any()


def test_equal_patches_have_no_outlier() -> None:
    factors = calibrated.local_outlier_factors(random(1, 4).expand(50, 4))
    assert torch.equal(factors, torch.ones(50)) and not calibrated.find_outliers(factors).any()


def test_duplicates_stay_finite_and_the_others_are_the_outliers() -> None:
    points = torch.cat([random(1, 4).expand(60, 4), 3 + random(2, 4, seed=1)])
    factors = calibrated.local_outlier_factors(points)
    assert factors.isfinite().all()
    assert calibrated.find_outliers(factors).nonzero().flatten().tolist() == [60, 61]


def test_repair_without_outliers_changes_nothing() -> None:
    features = random(20, 6)
    none = torch.zeros(20, dtype=torch.bool)
    assert torch.equal(calibrated.repair(features, none, (4, 5)), features)


@pytest.mark.parametrize("grid", [(4, 6), (6, 4)])
def test_repair_ignores_the_values_of_outliers(grid: tuple[int, int]) -> None:
    features = random(24, 3)
    outliers = torch.zeros(24, dtype=torch.bool)
    outliers[[3, 4, 9, 23]] = True
    features[outliers] = math.inf
    repaired = calibrated.repair(features, outliers, grid)
    expected = repaired_by_hand(features, [3, 4, 9, 23], grid)
    torch.testing.assert_close(repaired, expected)
    assert repaired.isfinite().all()


# ---- similarity ----


def test_mean_of_similarities_is_the_length_of_the_mean_row() -> None:
    unit = calibrated.unit_rows(random(30, 8))
    torch.testing.assert_close(unit.mean(0).square().sum(), (unit @ unit.T).mean())


@pytest.mark.parametrize("seed", range(8))
def test_equal_patches_attend_to_all_alike(block: nn.Module, seed: int) -> None:
    """Rounding must not push a whole row below the mean, which would make it NaN."""
    unit = calibrated.unit_rows(random(1, 128, seed=seed).expand(50, 128))
    mean = unit.mean(0).square().sum()
    for bar in (mean, mean + 1e-6, mean - 1e-6):
        weights = calibrated.focused_weights(unit @ unit.T, bar)
        torch.testing.assert_close(weights.sum(1), torch.ones(50))
    same = [kind[:, :2].repeat_interleave(50, 1)[:, 49:] for kind in four_kinds(1, 1)]
    assert calibrated.calibrated_block(block, *same, (5, 10), BETA, EPS).isfinite().all()


def test_a_similarity_of_beta_counts() -> None:
    """The cosine of the two rows is 1/2 exactly."""
    unit = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0.5, 0.5]])
    features = torch.tensor([[6.0], [3.0]])
    means = calibrated.aggregate(features, unit, beta=0.5)
    torch.testing.assert_close(means, torch.tensor([[5.0], [4.0]]), rtol=1e-5, atol=0)


def test_similarities_stay_float32_under_autocast(block: nn.Module) -> None:
    kinds = four_kinds(1, 40)
    unit = calibrated.unit_rows(kinds[2][0, 1:])
    factors = calibrated.local_outlier_factors(kinds[0][0, 1:])
    cosines = calibrated.similarities(unit, slice(0, 9))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(calibrated.similarities(unit, slice(0, 9)), cosines)
        assert torch.equal(calibrated.local_outlier_factors(kinds[0][0, 1:]), factors)
        low = calibrated.calibrated_block(block, *kinds, (5, 8), BETA, EPS)
    exact = calibrated.calibrated_block(block, *kinds, (5, 8), BETA, EPS)
    assert low.dtype == torch.float32
    assert 0 < (low - exact).abs().max() < 0.02 * exact.abs().max()


# ---- in the tower ----


@pytest.mark.parametrize("size", [(32, 32), (30, 50), (64, 24)])
def test_options_name_the_blocks(visual: nn.Module, size: tuple[int, int]) -> None:
    """The output of block i enters block i + 1; the sum is inclusive of its last block."""
    image = random(2, 3, *size)
    seen: list[Tensor] = []
    watched = copy.deepcopy(visual)
    for each in watched.transformer.resblocks:
        each.register_forward_hook(lambda *call: seen.append(call[-1].transpose(0, 1)))
    height, width = (-(-side // 8) for side in size)
    if size == (32, 32):  # OpenAI's own forward pass takes no other
        watched(image)
        expected = calibrated.calibrated_block(
            visual.transformer.resblocks[-1], seen[1], seen[0], seen[1], seen[0] + seen[1],
            (height, width), BETA, EPS,
        )  # fmt: skip
        expected = (visual.ln_post(expected) @ visual.proj).transpose(1, 2).unflatten(2, (4, 4))
        found, _ = dense_features(visual, image, OPTIONS)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
    found, keys = dense_features(visual, image, replace(OPTIONS, key_smoothing=0.5))
    assert found.shape == (2, 64, height, width) and found.isfinite().all()
    value = replace(OPTIONS, attention="value", key_smoothing=0.5)
    assert torch.equal(keys, dense_features(visual, image, value)[1])


def test_the_blocks_of_vit_b16_are_the_default(visual: nn.Module) -> None:
    deep = copy.deepcopy(visual)
    stored = list(deep.transformer.resblocks)
    deep.transformer.resblocks = nn.Sequential(*(stored[i % 3] for i in range(12)))
    image = random(1, 3, 48, 56)
    default, _ = dense_features(deep, image, replace(OPTIONS, calibrated_blocks=()))
    named, _ = dense_features(deep, image, replace(OPTIONS, calibrated_blocks=(3, 8, 3, 9)))
    other, _ = dense_features(deep, image, replace(OPTIONS, calibrated_blocks=(3, 8, 3, 10)))
    assert torch.equal(default, named) and not torch.equal(default, other)


def test_scores_under_autocast_are_close(visual: nn.Module) -> None:
    maskclip = MaskCLIP(visual, F.normalize(random(5, 64, seed=9), dim=1), OPTIONS)
    image = random(2, 3, 60, 70)
    exact = maskclip.scores(image)
    with torch.autocast("cpu", torch.bfloat16):
        scores = maskclip.scores(image)
    assert scores.dtype == torch.float32 and 0 < (scores - exact).abs().max() < 0.1


def test_no_patches_by_patches_matrix(block: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibrated, "ROWS", 64)
    kinds = four_kinds(1, 1600)
    with torch.no_grad(), Largest() as largest:
        calibrated.calibrated_block(block, *kinds, (40, 40), BETA, EPS)
    assert largest.numel <= 2 * 2 * 1600 * 128  # keys and values of both passes


# ---- refusals ----


def test_few_blocks_need_their_indices(visual: nn.Module) -> None:
    message = "calibrated is made for 12 blocks, and this CLIP has 3. Give calibrated_blocks"
    with pytest.raises(InputError, match=message):
        MaskCLIP(visual, torch.ones(5, 64), replace(OPTIONS, calibrated_blocks=()))
    check_options(visual, OPTIONS)
    calibrated.check_blocks((), before=11)  # ViT-B/16's own
    with pytest.raises(InputError, match="this CLIP has 11"):
        calibrated.check_blocks((), before=10)


@pytest.mark.parametrize(
    "blocks", [(2, 1, 0, 1), (0, 2, 0, 1), (0, 1, 0, 2), (-1, 1, 0, 1), (0, 1, -1, 1), (0, 1, 1, 0)]
)
def test_blocks_lie_before_the_last(visual: nn.Module, blocks: tuple[int, ...]) -> None:
    message = "expected low, middle, first and last block, first <= last, of the 2 blocks before"
    with pytest.raises(InputError, match=message):
        MaskCLIP(visual, torch.ones(5, 64), replace(OPTIONS, calibrated_blocks=blocks))
