"""Attentions of the last block against the official code of SCLIP, ClearCLIP, NACLIP, SC-CLIP, …"""

import copy
import re
from dataclasses import replace

import pytest
import torch
from conftest import golden_names, load_golden
from torch import Tensor, nn

from models import calibrated
from models.attentions import attend, gaussian_bias, last_attention, query_key_value
from models.clip_features import (
    VALUE,
    MaskCLIPOptions,
    block_inputs,
    dense_features,
    finish_block,
    last_and_middle_tokens,
    position_embedding,
    project,
    text_space,
    token_grid,
)
from models.clip_loading import clip_from_state_dict
from models.maskclip import class_scores

ATTENTION, MIDDLE = "teachers/attention.npz", "teachers/middle.npz"
SCCLIP = "teachers/scclip.npz"
OFFICIAL = MaskCLIPOptions(position_embedding="offset")
ITACLIP_WEIGHT = 0.5  # the file holds all other numbers


class Golden:
    """A reference file as tensors; notes the keys that were read."""

    def __init__(self, file: str) -> None:
        self.file, self.read = load_golden(file), set()

    def __getitem__(self, key: str) -> Tensor:
        self.read.add(key)
        return torch.from_numpy(self.file[key])

    def item(self, key: str) -> bool | int | float | str:
        self.read.add(key)
        return self.file[key].item()

    def __contains__(self, key: str) -> bool:
        return key in self.file.files


def assert_near(found: Tensor, golden: Tensor, name: str) -> None:
    """Within 1e-5 of the largest absolute value, or of 1 where that is smaller."""
    assert found.shape == golden.shape, name
    tolerance = 1e-5 * max(1.0, golden.abs().max().item())
    torch.testing.assert_close(
        found, golden, rtol=0, atol=tolerance, msg=lambda text: f"{name}: {text}"
    )


@pytest.fixture(scope="module")
def visual() -> nn.Module:
    weights = load_golden("clip_small_state_dict.npz")
    clip = clip_from_state_dict({key: torch.from_numpy(weights[key]) for key in weights.files})
    return clip.visual.requires_grad_(False)


def of_depth(visual: nn.Module, blocks: int) -> nn.Module:
    """The tower with as many blocks: block i is the stored block i modulo their number."""
    deep = copy.deepcopy(visual)
    stored = list(deep.transformer.resblocks)
    deep.transformer.resblocks = nn.Sequential(*(stored[i % len(stored)] for i in range(blocks)))
    return deep


def as_rows(features: Tensor) -> Tensor:
    """(B, D, h, w) -> (B, h*w, D)."""
    return features.flatten(2).transpose(1, 2)


def options_of(golden: Golden, variant: str) -> MaskCLIPOptions:
    kind = golden.item(f"variant/{variant}/kind")
    return replace(
        OFFICIAL,
        attention="value" if kind == "identity" else kind,
        gaussian_std=golden.item(f"variant/{variant}/std"),
        residual=golden.item(f"variant/{variant}/residual"),
        mlp=golden.item(f"variant/{variant}/mlp"),
    )


def weights(kind: str, block: nn.Module, tokens: Tensor, bias: Tensor | None = None) -> Tensor:
    """The attention's weights: what it makes of unit vectors as values."""
    query, key, _ = query_key_value(block, tokens, OFFICIAL.layer_norm_eps)
    units = torch.eye(tokens.shape[1]).expand(*query.shape[:2], -1, -1)
    return attend(kind, query, key, units, bias)


# ---- one block ----


@pytest.mark.parametrize("variant", golden_names(ATTENTION, "variants"))
@pytest.mark.parametrize("case", golden_names(ATTENTION, "cases"))
def test_golden_attention(visual: nn.Module, case: str, variant: str) -> None:
    golden = Golden(ATTENTION)
    options = options_of(golden, variant)
    image, text = golden[f"{case}/img"], golden["text_embeddings"]
    block = visual.transformer.resblocks[-1]
    tokens, _ = last_and_middle_tokens(visual, image, options)
    grid = token_grid(visual, image)
    kind, std, eps = options.attention, options.gaussian_std, options.layer_norm_eps
    features, _ = dense_features(visual, image, options)
    found = {f"{variant}/feat": as_rows(features), f"{variant}/cos": class_scores(features, text)}
    if kind == "value":
        found[f"{variant}/y"] = project(block, tokens, VALUE, options)[:1]
    else:
        bias = gaussian_bias(grid, std, tokens) if std else None
        found[f"{variant}/y"] = last_attention(block, tokens, grid, kind, eps, std)[:1]
        found[f"{variant}/attn"] = weights(kind, block, tokens[:1], bias)
        found |= {f"bias/{variant}": bias} if std else {}
    compared = [key for key in found if f"{case}/{key}" in golden]
    assert {f"{variant}/feat", f"{variant}/cos"} <= set(compared)
    for key in compared:
        assert_near(found[key], golden[f"{case}/{key}"], key)
    mine = rf"{re.escape(case)}/({re.escape(variant)}/.*|bias/{re.escape(variant)})"
    assert {key for key in golden.file.files if re.fullmatch(mine, key)} <= golden.read


@pytest.mark.parametrize("case", golden_names(ATTENTION, "cases"))
def test_golden_attention_tokens(visual: nn.Module, case: str) -> None:
    golden = Golden(ATTENTION)
    image = golden[f"{case}/img"]
    tokens, _ = last_and_middle_tokens(visual, image, OFFICIAL)
    positions = position_embedding(visual, token_grid(visual, image), OFFICIAL)
    assert_near(positions, golden[f"{case}/pos"], "pos")
    assert_near(tokens, golden[f"{case}/tokens"], "tokens")
    as_stored = torch.equal(positions, visual.positional_embedding)
    assert golden.item(f"{case}/pos_rule") == ("stored" if as_stored else "scale_factor")


def test_golden_attention_with_positions_resized_to_the_grid(visual: nn.Module) -> None:
    golden, group = Golden(ATTENTION), "patched_size_rule"
    image = golden[f"{golden.item(f'{group}/case')}/img"]
    options = replace(options_of(golden, "naclip"), position_embedding="grid")
    features, _ = dense_features(visual, image, options)
    tokens, _ = last_and_middle_tokens(visual, image, options)
    assert_near(tokens, golden[f"{group}/tokens"], "tokens")
    assert_near(as_rows(features), golden[f"{group}/feat"], "feat")
    assert_near(class_scores(features, golden["text_embeddings"]), golden[f"{group}/cos"], "cos")


def test_golden_attention_no_key_is_left_out() -> None:
    golden = Golden(ATTENTION)
    cases, variants = ("|".join(map(re.escape, golden.file[n])) for n in ("cases", "variants"))
    compared = (
        rf"cases|variants|text_embeddings|variant/({variants})/(kind|residual|mlp|std)"
        rf"|({cases})/(img|pos|pos_rule|tokens|bias/({variants})|({variants})/(y|attn|feat|cos))"
        r"|patched_size_rule/(case|tokens|feat|cos)"
    )
    assert [key for key in golden.file.files if not re.fullmatch(compared, key)] == []


# ---- with middle blocks ----


@pytest.mark.parametrize("variant", golden_names(MIDDLE, "variants"))
@pytest.mark.parametrize("case", golden_names(MIDDLE, "cases"))
def test_golden_middle(visual: nn.Module, case: str, variant: str) -> None:
    """ResCLIP mixes plain q-k and doubles the mixture; ITACLIP mixes the last block's kind."""
    golden = Golden(MIDDLE)
    deep = of_depth(visual, golden.item("blocks"))
    resclip, group = variant.startswith("rcs"), variant.split("_")[0]
    weight = golden.item("rcs_lambda") if resclip else ITACLIP_WEIGHT
    options = options_of(golden, variant)
    options = replace(
        options, middle_blocks=tuple(golden[f"{group}_blocks"].tolist()), middle_weight=weight
    )
    image, text = golden[f"{case}/img"], golden["text_embeddings"]
    tokens, middle = last_and_middle_tokens(deep, image, options)
    assert_near(tokens, golden[f"{case}/tokens"], "tokens")
    grid = token_grid(deep, image)
    kind, block = options.attention, deep.transformer.resblocks[-1]
    middle_kind = "qk" if resclip else kind
    scale = golden.item("rcs_tau") if resclip else 1.0
    y = last_attention(
        block,
        tokens,
        grid,
        kind,
        options.layer_norm_eps,
        options.gaussian_std,
        middle,
        weight,
        middle_kind,
        scale,
    )
    assert_near(y, golden[f"{case}/{variant}/y"], "y")
    ended = finish_block(block, y[:, 1:], tokens[:, 1:], options)
    features = text_space(deep, ended, options)
    assert_near(features, golden[f"{case}/{variant}/feat"], "feat")
    scores = class_scores(features.transpose(1, 2).unflatten(2, grid), text)
    assert_near(scores, golden[f"{case}/{variant}/cos"], "cos")
    mean = sum(weights(middle_kind, other, entering[:1]) for other, entering in middle)
    mean = mean / len(middle)
    if resclip:
        assert_near(mean, golden[f"{case}/rcs_mean"], "rcs_mean")
    else:
        mixed = (1 - weight) * weights(kind, block, tokens[:1]) + weight * mean
        assert_near(mixed, golden[f"{case}/{variant}/attn"], "attn")
    assert {key for key in golden.file.files if key.startswith(f"{case}/{variant}/")} <= golden.read


@pytest.mark.parametrize("case", golden_names(MIDDLE, "cases"))
def test_golden_middle_by_options(visual: nn.Module, case: str) -> None:
    """Options reach the official code where middle blocks have plain q-k, not doubled."""
    golden = Golden(MIDDLE)
    deep = of_depth(visual, golden.item("blocks"))
    mixing = {
        "middle_blocks": tuple(golden["ita_blocks"].tolist()),
        "middle_weight": ITACLIP_WEIGHT,
    }
    reachable = [
        name
        for name in golden.file["variants"]
        if name.startswith("ita") and golden.item(f"variant/{name}/kind") == "qk"
    ]
    assert reachable
    for variant in reachable:
        options = replace(options_of(golden, variant), **mixing)
        features, _ = dense_features(deep, golden[f"{case}/img"], options)
        assert_near(as_rows(features), golden[f"{case}/{variant}/feat"], variant)


def test_golden_middle_no_key_is_left_out() -> None:
    golden = Golden(MIDDLE)
    cases, variants = ("|".join(map(re.escape, golden.file[n])) for n in ("cases", "variants"))
    compared = (
        r"cases|variants|text_embeddings|blocks|rcs_(blocks|lambda|tau)|ita_blocks|std"
        rf"|variant/({variants})/(kind|residual|mlp|std)"
        rf"|({cases})/(img|tokens|rcs_mean|({variants})/(y|attn|feat|cos))"
    )
    assert [key for key in golden.file.files if not re.fullmatch(compared, key)] == []
    spread = {golden.item(f"variant/{name}/std") for name in golden.file["variants"]}
    assert spread <= {0.0, golden.item("std")}


# ---- SC-CLIP ----


@pytest.mark.parametrize("case", golden_names(SCCLIP, "cases"))
def test_golden_scclip(visual: nn.Module, case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step from the steps before it, as `_calibrated_image` has them; then the whole."""
    golden = Golden(SCCLIP)
    monkeypatch.setattr(calibrated, "CLASS_WEIGHT", golden.item(f"{case}/class_weight"))
    deep = of_depth(visual, golden.item(f"{case}/blocks"))
    eps, beta = OFFICIAL.layer_norm_eps, golden.item(f"{case}/beta")
    first, stop = golden[f"{case}/multi"].tolist()
    low_at, middle_at = golden.item(f"{case}/post_index"), golden.item(f"{case}/pre_index")
    options = replace(
        OFFICIAL,
        attention="calibrated",
        calibrated_blocks=(low_at, middle_at, first, stop - 1),
        calibrated_beta=beta,
        residual=False,
        mlp=False,
    )
    image, block = golden[f"{case}/img"], deep.transformer.resblocks[-1]
    grid = token_grid(deep, image)
    *outputs, last = (tokens[0] for tokens in block_inputs(deep, image, options))
    outputs = [*outputs[1:], last]  # the first enters block 0
    total = sum(outputs[first:stop])
    factors = calibrated.local_outlier_factors(last[1:])
    outliers = calibrated.find_outliers(factors)
    repaired = calibrated.repair(last[1:], outliers, grid)
    alike = calibrated.unit_rows(calibrated.repair(outputs[middle_at][1:], outliers, grid))
    aggregated = calibrated.aggregate(repaired, alike, beta)
    passes = torch.stack([aggregated, total[1:]])
    attended = calibrated.calibrated_attention(block, passes, alike, eps)
    class_tokens = torch.stack([last[:1], total[:1]])
    with_class = attended + calibrated.CLASS_WEIGHT * class_tokens
    below = calibrated.unit_rows(outputs[low_at][1:])
    posts = [calibrated.aggregate(one, below, beta) for one in with_class]
    features, _ = dense_features(deep, image, options)
    found = {
        "lof_in": last[1:],
        "lof": factors,
        "repaired": repaired[None],
        "similarity": torch.cat(
            [calibrated.similarities(alike, rows) for rows in calibrated.row_blocks(len(alike))]
        ),
        "aggregated": aggregated[None],
        "y1": attended[:1],
        "y2": attended[1:],
        "y1_class": with_class[:1],
        "y2_class": with_class[1:],
        "post1": posts[0][None],
        "post2": posts[1][None],
        "feat": as_rows(features),
        "cos": class_scores(features, golden["text_embeddings"]),
    }
    assert outliers.nonzero().flatten().tolist() == golden[f"{case}/outliers"].tolist()
    for key, value in found.items():
        assert_near(value, golden[f"{case}/{key}"], key)
    assert {key for key in golden.file.files if key.startswith(f"{case}/")} <= golden.read


@pytest.mark.parametrize("case", [*golden_names(SCCLIP, "repair/cases"), "all"])
def test_golden_scclip_repair(case: str) -> None:
    golden = Golden(SCCLIP)
    given = golden["repair/in"][0]
    grid = tuple(given.shape[1:])
    outliers = torch.ones(grid, dtype=torch.bool)
    if case != "all":
        rows, columns = golden[f"repair/{case}/places"].T
        outliers = torch.zeros(grid, dtype=torch.bool).index_put_(
            (rows, columns), torch.tensor(True)
        )
    found = calibrated.repair(given.flatten(1).T, outliers.flatten(), grid)
    assert_near(found.T.view_as(given)[None], golden[f"repair/{case}/out"], case)


def test_golden_scclip_outliers() -> None:
    golden = Golden(SCCLIP)
    factors = calibrated.local_outlier_factors(golden["lof/points"])
    assert_near(factors, golden["lof/scores"], "scores")
    found = calibrated.find_outliers(factors).nonzero().flatten()
    assert found.tolist() == golden["lof/outliers"].tolist()


def test_golden_scclip_weighted_means() -> None:
    golden = Golden(SCCLIP)
    found = calibrated.weighted_means(golden["aggregate/weights"][0], golden["aggregate/values"][0])
    assert_near(found[None], golden["aggregate/out"], "out")


def test_golden_scclip_no_key_is_left_out() -> None:
    golden = Golden(SCCLIP)
    cases, repairs = ("|".join(map(re.escape, golden.file[n])) for n in ("cases", "repair/cases"))
    steps = (
        "lof_in|lof|outliers|repaired|similarity|aggregated|y1|y1_class|post1|y2|y2_class|post2"
        "|feat|cos"
    )
    compared = (
        r"cases|text_embeddings|lof/(points|scores|outliers)|aggregate/(values|weights|out)"
        rf"|repair/(in|cases|all/out|({repairs})/(places|out))"
        rf"|({cases})/(img|blocks|beta|pre_index|post_index|multi|class_weight|{steps})"
    )
    assert [key for key in golden.file.files if not re.fullmatch(compared, key)] == []
