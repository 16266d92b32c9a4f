"""models/clip_features.py and models/maskclip.py: against the authors, OpenAI, and by hand."""

import copy
import json
import re
from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F
from conftest import golden_cases, load_golden
from largest import Largest
from tiny_clip import tiny_clip

from datasets.labels import IGNORE_INDEX
from models import maskclip as module
from models.build import build_maskclip_options
from models.clip_features import (
    MaskCLIPOptions,
    dense_features,
    last_and_middle_tokens,
    layer_norm,
    pad_to_multiple,
    position_embedding,
    project,
    resnet_features,
    token_grid,
    transformer_block,
    value_path,
)
from models.clip_loading import _visual_shape, clip_from_state_dict, openai_clip
from models.maskclip import (
    MaskCLIP,
    class_scores,
    denoise_prompts,
    smooth_keys,
    suppress_absent,
    to_pseudo_mask,
    upsample_scores,
)
from models.pamr import pamr
from utils.config import load_config
from utils.safe.errors import InputError

VIT, RESNET = "maskclip_dense.npz", "maskclip_rn_dense.npz"
DEFAULT = MaskCLIPOptions()
AUTHORS = build_maskclip_options(load_config("configs/official/cityscapes.yaml"))
QUICK = replace(AUTHORS, activation="quickgelu", layer_norm_eps=1e-5)


def assert_near(ours, theirs, **tolerance):
    tolerance = {"atol": 1e-5, "rtol": 0} | tolerance
    torch.testing.assert_close(ours, theirs, check_dtype=False, **tolerance)


def assert_masks_agree(mask, gold, margin):
    """Equal, but for pixels whose two best scores nearly tie. Exact ties go to the first class."""
    near = (margin > 0) & (margin < 1e-5)
    assert mask.dtype == torch.long and mask.shape == gold.shape
    assert ((mask == gold) | near).all()


# ---- reference cases of the authors' code ----


class Golden:
    """One case of a reference file as tensors; `keys` without the case's name."""

    def __init__(self, file, case):
        self.file, self.case = file, case
        self.keys = [key.split("/", 1)[1] for key in file.files if key.startswith(f"{case}/")]

    def __getitem__(self, key):
        return torch.from_numpy(self.file[f"{self.case}/{key}"])

    def matches(self, pattern):
        """(key, groups) of the keys that match as a whole."""
        found = [(key, re.fullmatch(pattern, key)) for key in self.keys]
        return [(key, match.groups()) for key, match in found if match]


@pytest.fixture(scope="module")
def small_clip():
    weights = load_golden("clip_small_state_dict.npz")
    return clip_from_state_dict({key: torch.from_numpy(weights[key]) for key in weights.files})


@pytest.fixture(params=golden_cases(VIT) or ["none"])
def vit_case(request):
    return Golden(load_golden(VIT), request.param)


@pytest.fixture
def text():
    return torch.from_numpy(load_golden(VIT)["text_embeddings"])


def labels_for(file, image, name="f32"):
    labels = torch.from_numpy(file["img_label"])[: len(image)]
    return {
        "f32": labels,
        "f64": labels.double(),
        "ones": torch.ones_like(labels),
        "zeros": torch.zeros_like(labels),
    }[name]


@pytest.mark.parametrize("prefix, options", [("", AUTHORS), ("quick_", QUICK)])
def test_golden_vit_maps(small_clip, vit_case, text, prefix, options):
    visual, image = small_clip.visual, vit_case["img"]
    last = visual.transformer.resblocks[-1]
    tokens, _ = last_and_middle_tokens(visual, image, options)
    grid = token_grid(visual, image)

    def as_map(x):
        x = layer_norm(visual.ln_post, x, options)
        return x[:, 1:].transpose(1, 2).unflatten(2, grid)

    features, _ = dense_features(visual, image, options)
    scores = class_scores(features, text)
    ours = {
        "x": as_map(transformer_block(last, tokens, options)),
        "v": as_map(value_path(last, tokens, options)),
        "q": project(last, tokens[:, 1:], 0, options),
        "k": dense_features(visual, image, replace(options, key_smoothing=0.5))[1],
        "feat": F.normalize(features, dim=1),
        "cos": scores,
        "maskclip_logits": scores,
    }
    compared = [key for key in ours if prefix + key in vit_case.keys]
    assert {"x", "v", "feat", "cos"} <= set(compared)
    for key in compared:
        assert_near(ours[key], vit_case[prefix + key], msg=lambda m, key=key: f"{key}: {m}")


def test_golden_refinements(small_clip, vit_case, text):
    found = vit_case.matches(r"(quick_)?maskclip_ks([\d.]+)_pd([\d.]+)")
    assert found
    for key, (quick, smoothing, denoising) in found:
        options = replace(
            QUICK if quick else AUTHORS,
            key_smoothing=float(smoothing),
            prompt_denoising=float(denoising),
        )
        scores = MaskCLIP(small_clip.visual, text, options).scores(vit_case["img"])
        # With key smoothing, sums over all tokens of softmax(100 * cosine): values of 10 to 40.
        assert_near(scores, vit_case[key], rtol=1e-5 if options.key_smoothing else 0)


def test_golden_masks(small_clip, vit_case, text):
    image = vit_case["img"]
    found = vit_case.matches(r"(quick_)?carb_mask_(f32|f64|ones|zeros|to_\d+x\d+)")
    assert found
    for key, (quick, kind) in found:
        size, gold = tuple(image.shape[-2:]), vit_case[key][:, 0].long()
        if kind.startswith("to_"):
            size, kind = tuple(map(int, kind[3:].split("x"))), "f32"
        labels = labels_for(vit_case.file, image, kind)
        maskclip = MaskCLIP(small_clip.visual, text, QUICK if quick else AUTHORS)
        filtered = suppress_absent(maskclip.upsampled_scores(image, size), labels, "multiply")
        assert filtered.dtype == labels.dtype
        best = filtered.topk(2, dim=1).values
        margin = best[:, 0] - best[:, 1]
        assert_masks_agree(maskclip(image, labels, size), gold, margin)
        if f"margin_{kind}" in vit_case.keys and not quick and size == image.shape[-2:]:
            assert_near(margin, vit_case[f"margin_{kind}"], rtol=1e-3)  # kept as float16


def test_golden_vit_single_keys(small_clip, vit_case, text):
    image = vit_case["img"]
    if "openai_encode_image" in vit_case.keys:
        assert_near(small_clip.encode_image(image), vit_case["openai_encode_image"])
    if "weakmaskclip_test" in vit_case.keys:
        gold = vit_case["weakmaskclip_test"]
        scores = MaskCLIP(small_clip.visual, text, AUTHORS).scores(image[: len(gold)])
        labels = labels_for(vit_case.file, gold)
        assert_near(suppress_absent(scores, labels, "multiply"), gold)


def test_golden_vit_no_key_is_left_out():
    compared = (
        r"text_embeddings|img_label|[^/]+/(img|margin_(f32|f64|ones)|openai_encode_image"
        r"|weakmaskclip_test|(quick_)?(x|v|q|k|feat|cos|maskclip_logits"
        r"|maskclip_ks[\d.]+_pd[\d.]+|carb_mask_(f32|f64|ones|zeros|to_\d+x\d+)))"
    )
    assert [key for key in load_golden(VIT).files if not re.fullmatch(compared, key)] == []


@pytest.mark.parametrize("case", [c for c in golden_cases(RESNET) if c != "visual"] or ["none"])
def test_golden_resnet(case):
    file = load_golden(RESNET)
    weights = {
        key.removeprefix("visual/"): torch.from_numpy(file[key])
        for key in file.files
        if key.startswith("visual/")
    }
    shape = _visual_shape(weights)
    visual = openai_clip().model.ModifiedResNet(
        shape["vision_layers"],
        output_dim=len(weights["attnpool.c_proj.weight"]),
        heads=shape["vision_width"] // 2,
        input_resolution=shape["image_resolution"],
        width=shape["vision_width"],
    )
    visual.load_state_dict(weights)
    visual.requires_grad_(False).eval()
    text, golden = torch.from_numpy(file["text_embeddings"]), Golden(file, case)
    image = golden["image"]
    ours = {
        "layer4": resnet_features(visual, image, AUTHORS),
        "cos": MaskCLIP(visual, text, AUTHORS).scores(image),
    }
    if "openai_encode_image" in golden.keys:
        ours["openai_encode_image"] = visual(image)
    assert set(golden.keys) == {"image", *ours}
    for key, value in ours.items():
        assert_near(value, golden[key])


# ---- the defaults, against OpenAI's own forward pass ----


@pytest.fixture(scope="module")
def vit():
    return tiny_clip().visual


@pytest.fixture(scope="module")
def resnet():
    return tiny_clip(resnet=True).visual


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def text_rows(num_classes=5):
    return F.normalize(random(num_classes, 64, seed=9), dim=1)


def test_our_blocks_end_in_openai_image_embedding(vit):
    image = random(2, 3, 32, 32)
    tokens, _ = last_and_middle_tokens(vit, image, DEFAULT)
    grid = token_grid(vit, image)
    assert grid == (4, 4)
    ended = vit.transformer.resblocks[-1](tokens.transpose(0, 1))[0]  # OpenAI's last block
    assert_near(vit.ln_post(ended) @ vit.proj, vit(image))
    assert_near(transformer_block(vit.transformer.resblocks[-1], tokens, DEFAULT)[:, 0], ended)


@pytest.mark.parametrize("residual", [True, False])
@pytest.mark.parametrize("mlp", [True, False])
def test_value_path_is_attention_of_each_token_to_itself(vit, residual, mlp):
    options = replace(DEFAULT, residual=residual, mlp=mlp)
    image = random(2, 3, 24, 40)
    tokens, _ = last_and_middle_tokens(vit, image, options)
    grid = token_grid(vit, image)
    tokens = tokens.transpose(0, 1)  # OpenAI's order
    block = copy.deepcopy(vit.transformer.resblocks[-1])
    only_itself = torch.full((len(tokens), len(tokens)), float("-inf")).fill_diagonal_(0)
    block.attn_mask = only_itself
    expected = block.attention(block.ln_1(tokens)) + (tokens if residual else 0)
    expected = expected + (block.mlp(block.ln_2(expected)) if mlp else 0)
    if residual and mlp:
        assert_near(expected, block(tokens))
    expected = (vit.ln_post(expected) @ vit.proj)[1:]
    features, _ = dense_features(vit, image, options)
    assert features.shape == (2, 64, *grid) == (2, 64, 3, 5)
    assert_near(features.flatten(2), expected.permute(1, 2, 0))


def test_resnet_features_are_openai_pool_of_one_position(resnet):
    # With one position and no position embedding, OpenAI's pool sees that position alone.
    pooled = copy.deepcopy(resnet)
    pooled.attnpool.positional_embedding.zero_()
    image = random(2, 3, 32, 32)
    assert_near(dense_features(resnet, image, DEFAULT)[0][:, :, 0, 0], pooled(image))


def test_position_embedding(vit):
    stored = vit.positional_embedding
    count = replace(DEFAULT, position_embedding="count")
    assert position_embedding(vit, (4, 4), DEFAULT) is stored
    assert position_embedding(vit, (2, 8), count) is stored
    for options, grid in ((DEFAULT, (2, 8)), (DEFAULT, (5, 7)), (count, (5, 7))):
        resized = position_embedding(vit, grid, options)
        assert resized.shape == (1 + grid[0] * grid[1], 128)
        assert torch.equal(resized[0], stored[0])
        # Channel 7 of the token in row 0, column 1, by hand from the stored 4x4 plane.
        plane = stored[1:, 7].reshape(1, 1, 4, 4)
        by_hand = F.interpolate(plane, grid, mode="bicubic", align_corners=False)[0, 0, 0, 1]
        assert_near(resized[2, 7], by_hand)


def test_position_embedding_with_offset(vit):
    """Row i of 7 lies at (i + 0.5) * 4 / 7.1 - 0.5 of the stored 4; "grid" divides by 7."""
    offset = replace(DEFAULT, position_embedding="offset")
    assert position_embedding(vit, (2, 8), offset) is vit.positional_embedding

    def cubic_weights(place):  # of the four stored places 0 .. 3, where 1 <= place < 2
        distance = (torch.arange(4) - place).abs()
        near = 1.25 * distance**3 - 2.25 * distance**2 + 1
        far = -0.75 * (distance**3 - 5 * distance**2 + 8 * distance - 4)
        return torch.where(distance <= 1, near, far)

    resized = position_embedding(vit, (7, 9), offset)[1:].unflatten(0, (7, 9))
    rows, columns = cubic_weights(3.5 * 4 / 7.1 - 0.5), cubic_weights(4.5 * 4 / 9.1 - 0.5)
    stored = vit.positional_embedding[1:].unflatten(0, (4, 4))
    assert_near(resized[3, 4], torch.einsum("i,j,ijc->c", rows, columns, stored))


def test_clip_stays_as_it_was(vit):
    before = copy.deepcopy(vit.state_dict())
    image = random(1, 3, 32, 32)
    embedding = vit(image)
    MaskCLIP(vit, text_rows(), AUTHORS).scores(image)
    assert all(torch.equal(before[key], value) for key, value in vit.state_dict().items())
    assert torch.equal(vit(image), embedding)


def test_no_tokens_by_tokens_matrix(vit):
    image = random(1, 3, 8 * 40, 8 * 40)  # 1600 tokens
    with Largest() as largest:
        MaskCLIP(vit, text_rows(), replace(DEFAULT, key_smoothing=0.9)).scores(image)
    assert 1600 * 128 < largest.numel < 1600 * 1600 // 2


def test_eps_and_activation_matter(vit):
    image = random(1, 3, 32, 32)
    default, _ = dense_features(vit, image, DEFAULT)
    for change in ({"activation": "gelu"}, {"layer_norm_eps": 1e-2}):
        changed, _ = dense_features(vit, image, replace(DEFAULT, **change))
        assert (changed - default).abs().max() > 1e-3


# ---- padding ----


@pytest.mark.parametrize("family, stride", [("vit", 8), ("resnet", 32)])
@pytest.mark.parametrize("enlarged", [1, 2])
def test_crop_gives_the_scores_of_the_padded_image_without_its_padding(
    request, family, stride, enlarged
):
    visual = request.getfixturevalue(family)
    height, width = 2 * stride + 3, 3 * stride - 1
    image = random(1, 3, height, width)
    padded = F.pad(image, (0, 1, 0, stride - 3))
    assert torch.equal(pad_to_multiple(image, stride), padded)
    size = (enlarged * height, enlarged * width)
    whole = tuple(enlarged * side for side in padded.shape[-2:])

    def scores(options, picture, to):
        return MaskCLIP(visual, text_rows(), options).upsampled_scores(picture, to)

    expected = scores(DEFAULT, padded, whole)[..., : size[0], : size[1]]
    assert_near(scores(DEFAULT, image, size), expected)
    squeezed = scores(replace(DEFAULT, padding="stretch"), image, size)
    assert (squeezed - expected).abs().max() > 1e-3


def test_upsampled_scores_by_hand():
    # Two cells of 8 px in a row; the image has 12 of their 16 px. Output at half size: 6 px, whose
    # centres lie at 1, 3, 5, 7, 9, 11 px; the cells' centres at 4 and 12.
    scores = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2)
    upsampled = upsample_scores(scores, (1, 6), (8, 12), stride=8, padding="crop")
    expected = torch.tensor([0, 0, 1 / 8, 3 / 8, 5 / 8, 7 / 8])
    assert_near(upsampled.flatten(), expected, atol=1e-6)


# ---- resized image, windows, PAMR ----

WINDOWS = replace(DEFAULT, window=(32, 32), stride=(16, 24))
PAMR = replace(DEFAULT, pamr_steps=3, pamr_dilations=(1, 4))


def test_scores_of_windows_are_averaged(vit):
    image, text = random(2, 3, 48, 70), text_rows()
    total, count = torch.zeros(2, 5, 48, 70), torch.zeros(48, 70)
    for top in (0, 16):
        for left in (0, 24, 38):
            part = (..., slice(top, top + 32), slice(left, left + 32))
            total[part] += MaskCLIP(vit, text).upsampled_scores(image[part], (32, 32))
            count[part] += 1
    expected = F.interpolate(total / count, (96, 100), mode="bilinear", align_corners=False)
    assert_near(MaskCLIP(vit, text, WINDOWS).upsampled_scores(image, (96, 100)), expected)


def test_a_batch_of_windows_is_bounded(vit, monkeypatch):
    image, seen = random(2, 3, 96, 96), []
    maskclip = MaskCLIP(vit, text_rows(), WINDOWS)
    scores = maskclip.scores

    def count(view):
        seen.append(len(view))
        return scores(view)

    monkeypatch.setattr(maskclip, "scores", count)
    together = maskclip.upsampled_scores(image, (96, 96))
    assert seen == [2 * 5 * 4]
    for most in (1, 6 * 32 * 32):
        seen.clear()
        monkeypatch.setattr(module, "_PIXELS_AT_ONCE", most)
        assert_near(maskclip.upsampled_scores(image, (96, 96)), together)
        assert max(seen) == (2 if most == 1 else 6) and sum(seen) == 40


def test_short_side_resizes_the_image_for_clip_and_for_pamr(vit):
    image, text = random(1, 3, 50, 75), text_rows()
    resized = F.interpolate(image, (32, 48), mode="bilinear", align_corners=False)
    for options in (DEFAULT, WINDOWS, PAMR):
        for size in ((50, 75), (10, 12)):
            here = MaskCLIP(vit, text, replace(options, short_side=32))
            before = MaskCLIP(vit, text, options)
            scores = here.upsampled_scores(image, size)
            assert torch.equal(scores, before.upsampled_scores(resized, size))
            assert torch.equal(here.refine(scores, image), before.refine(scores, resized))
    assert here._resized(random(1, 3, 33, 100)).shape[-2:] == (32, 97)
    assert here._resized(random(1, 3, 100, 33)).shape[-2:] == (97, 32)


def test_pamr_refines_at_the_size_of_the_scores(vit):
    image, maskclip = random(2, 3, 40, 56), MaskCLIP(vit, text_rows(), PAMR)
    scores = maskclip.upsampled_scores(image, (30, 30))
    assert torch.equal(scores, MaskCLIP(vit, text_rows()).upsampled_scores(image, (30, 30)))
    guide = F.interpolate(image, (30, 30), mode="bilinear", align_corners=False)
    assert torch.equal(maskclip.refine(scores, image), pamr(guide, scores, 3, (1, 4)))
    assert MaskCLIP(vit, text_rows()).refine(scores, image) is scores


def test_options_that_exclude_each_other_are_refused_without_a_config(vit):
    with pytest.raises(InputError, match="gaussian_std: 5 with attention: value"):
        MaskCLIP(vit, text_rows(), MaskCLIPOptions(gaussian_std=5.0))
    with pytest.raises(InputError, match="calibrated.*no residual"):
        MaskCLIP(vit, text_rows(), MaskCLIPOptions(attention="calibrated"))


def test_labels_filter_windows_and_pamr_before_as_after(vit):
    """Both are linear in the scores of a class, so that other classes may be left out before."""
    image, maskclip = random(2, 3, 48, 64), MaskCLIP(vit, text_rows(), WINDOWS)
    maskclip.options = replace(WINDOWS, pamr_steps=3)
    labels = torch.tensor([[1.0, 0, 1, 0, 0], [0, 0, 1, 1, 0]])
    scores = maskclip.upsampled_scores(image, (48, 64))
    all_refined = maskclip.refine(scores, image)
    refined = maskclip.refine(scores, image, labels)
    some = [0, 2, 3]
    assert torch.equal(refined[:, some], all_refined[:, some])
    assert torch.equal(refined[:, [1, 4]], scores[:, [1, 4]])
    few = MaskCLIP(vit, text_rows()[some], maskclip.options)
    assert_near(few.refine(few.upsampled_scores(image, (48, 64)), image), all_refined[:, some])
    mask = maskclip(image, labels, (48, 64))
    assert torch.equal(mask, to_pseudo_mask(all_refined, labels))
    assert set(mask[0].unique().tolist()) <= {0, 2}
    unlabelled = maskclip(image, torch.zeros(2, 5), (48, 64))
    assert (unlabelled == IGNORE_INDEX).all()


@pytest.mark.parametrize(
    "options, size, message",
    [
        (WINDOWS, (31, 90), r"window of 32x32 pixels is larger than .* 31x90"),
        (
            replace(WINDOWS, short_side=40, window=(32, 48)),
            (64, 64),
            r"window of 32x48 pixels is larger than .* 40x40",
        ),
    ],
)
def test_a_window_larger_than_the_image_is_refused(vit, options, size, message):
    with pytest.raises(InputError, match=message):
        MaskCLIP(vit, text_rows(), options).upsampled_scores(random(1, 3, *size), size)


def test_a_resnet_has_windows_and_pamr_too(resnet):
    options = replace(PAMR, window=(64, 64), stride=(32, 32))
    mask = MaskCLIP(resnet, text_rows(), options)(
        random(1, 3, 96, 128), torch.ones(1, 5), (96, 128)
    )
    assert mask.shape == (1, 96, 128) and mask.max() < 5


# ---- scores, label filtering, refinements ----


def test_class_scores_are_cosines():
    features = torch.tensor([[3.0, 4.0], [0.0, 0.0]]).reshape(2, 2, 1, 1)
    text = torch.tensor([[2.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    scores = class_scores(features, text)
    assert_near(scores[0].flatten(), torch.tensor([0.6, 0.8, -0.6]))
    assert torch.equal(scores[1].flatten(), torch.zeros(3))  # no NaN for a zero vector


def test_absent_classes_never_win_unless_multiplied():
    scores = torch.tensor([-0.3, -0.1, 0.9, 0.2]).reshape(1, 4, 1, 1).expand(1, 4, 2, 3)
    labels = torch.tensor([[1.0, 1.0, 0.0, 0.0]])
    assert (to_pseudo_mask(scores, labels) == 1).all()
    assert (to_pseudo_mask(scores, labels, "multiply") == 2).all()  # 0 beats -0.1
    masked = suppress_absent(scores, labels)
    assert torch.equal(masked[:, :2], scores[:, :2])
    assert (masked[:, 2:] == float("-inf")).all()


def test_masks_hold_present_classes_only(vit):
    labels = (random(3, 5, seed=3) > 0).float()
    labels[2] = 0
    mask = MaskCLIP(vit, text_rows())(random(3, 3, 30, 45), labels, (31, 47))
    assert mask.shape == (3, 31, 47) and mask.dtype == torch.long
    for i in range(2):
        assert set(mask[i].unique().tolist()) <= set(labels[i].nonzero().flatten().tolist())
    assert (mask[2] == IGNORE_INDEX).all()
    multiplied = MaskCLIP(vit, text_rows(), replace(DEFAULT, label_filter="multiply"))
    assert (multiplied(random(1, 3, 32, 32), torch.zeros(1, 5), (8, 8)) == 0).all()


def test_key_smoothing_by_hand():
    scores, keys = 0.05 * random(2, 3, 2, 3), random(2, 6, 4, seed=1)
    smoothed = smooth_keys(scores, keys, threshold=0.9, norm="channels")
    for image in range(2):
        p = (100 * scores[image]).softmax(0).flatten(1)
        assert 0 < (p.amax(0) < 0.9).sum() < 6
        for position in range(6):
            expected = p[:, position]
            if expected.max() < 0.9:
                weights = F.cosine_similarity(keys[image, position], keys[image], dim=-1)
                expected = sum(w * p[:, j] for j, w in enumerate(weights))
            assert_near(smoothed[image].flatten(1)[:, position], expected)


def test_prompt_denoising_by_hand():
    scores = torch.zeros(2, 3, 1, 2)
    scores[0, 1, 0, 0] = 0.05  # class 1 takes 0.987 there; 1/3 each elsewhere
    scores[1, 2] = 0.05
    denoised = denoise_prompts(scores, threshold=0.5)
    given_up = torch.tensor([[True, False, True], [True, True, False]])
    assert ((denoised == -100) == given_up[:, :, None, None]).all()
    assert torch.equal(denoised[0, 1], scores[0, 1]) and torch.equal(denoised[1, 2], scores[1, 2])


# ---- the module ----


def test_masks_serve_as_targets_and_clip_gets_no_gradient(vit):
    maskclip = MaskCLIP(vit, text_rows()).train()
    assert not maskclip.training and not maskclip.visual.training
    logits = torch.zeros(1, 5, 32, 32, requires_grad=True)
    image = random(1, 3, 32, 32).requires_grad_()
    loss = F.cross_entropy(logits, maskclip(image, torch.ones(1, 5), (32, 32)))
    loss.backward()
    assert logits.grad.abs().sum() > 0 and image.grad is None
    assert not any(p.requires_grad for p in maskclip.parameters())


@pytest.mark.parametrize("family", ["vit", "resnet"])
def test_scores_stay_float32_under_autocast(request, family):
    visual, image = request.getfixturevalue(family), random(1, 3, 60, 70)
    refined = replace(DEFAULT, key_smoothing=0.9, prompt_denoising=0.1)
    for options in (DEFAULT, refined):
        maskclip = MaskCLIP(visual, text_rows(), options)
        exact = maskclip.upsampled_scores(image, (60, 70))
        with torch.autocast("cpu", torch.bfloat16):
            scores = maskclip.upsampled_scores(image, (60, 70))
        assert scores.dtype == torch.float32 and scores.isfinite().all()
        if options == DEFAULT:
            assert 0 < (scores - exact).abs().max() < 0.05


def test_text_of_another_width_is_refused(vit):
    with pytest.raises(InputError, match="width 64, found 32"):
        MaskCLIP(vit, torch.ones(5, 32))


def test_options_follow_the_config():
    """Each part of `teacher` and each choice of `arithmetic` is an option of that name or value."""
    config = load_config("configs/tiny_cpu.yaml")
    assert build_maskclip_options(config) == DEFAULT
    parts_of_its_own = {"key_smoothing": 0.5, "prompt_denoising": 0.25}  # not with windows, PAMR
    other_parts = {
        **{"residual": False, "mlp": False, "attention": "kk", "gaussian_std": 5.0},
        **{"middle_blocks": [1], "middle_weight": 0.2, "calibrated_blocks": [0, 1, 0, 1]},
        **{"calibrated_beta": 0.3, "pamr_steps": 1, "pamr_dilations": [1], "short_side": 32},
        **{"window": [32, 16], "stride": [16, 8]},
    }
    changed_options = set()
    for parts in (parts_of_its_own, other_parts):
        changed = load_config(
            "configs/tiny_cpu.yaml", [f"teacher={json.dumps(parts)}", "arithmetic=official"]
        )
        options = build_maskclip_options(changed)
        assert all(getattr(options, part) == getattr(changed.teacher, part) for part in parts)
        changed_options |= {
            f.name for f in fields(options) if getattr(options, f.name) != getattr(DEFAULT, f.name)
        }
    assert changed_options == {f.name for f in fields(DEFAULT)}
    every_part = changed.to_dict()["teacher"].keys() - {"templates", "stored"}
    assert every_part == parts_of_its_own.keys() | other_parts.keys()


def test_stored_masks_have_a_teacher_of_their_own():
    both = load_config("configs/tiny_cpu.yaml", ["teacher={preset: fast, stored: strong}"])
    for stored, preset in ((False, "fast"), (True, "strong")):
        one = load_config("configs/tiny_cpu.yaml", [f"teacher={preset}"])
        assert build_maskclip_options(both, stored) == build_maskclip_options(one)


@pytest.mark.parametrize("resnet", [False, True])
def test_rounded_matrices_change_nothing_under_autocast(resnet: bool) -> None:
    torch.manual_seed(0)
    image, labels = torch.randn(2, 3, 64, 96), torch.ones(2, 5)
    text = F.normalize(torch.randn(5, 64), dim=1)
    scores = []
    for bf16 in (False, True):
        maskclip = MaskCLIP(tiny_clip(resnet).visual, text, bf16=bf16)
        with torch.autocast("cpu", torch.bfloat16):
            scores.append(maskclip.upsampled_scores(image, (64, 96)))
            maskclip(image, labels, (64, 96))
    assert torch.equal(*scores)
