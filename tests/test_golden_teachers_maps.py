"""models/pamr.py, windows and template experts against the authors' code, on every key."""

import re
from dataclasses import replace

import pytest
import torch
from conftest import GOLDENS, load_golden

from models import template_experts
from models.clip_features import MaskCLIPOptions, grid_stride
from models.clip_loading import clip_from_state_dict
from models.inference import resize, window_scores
from models.maskclip import MaskCLIP, to_pseudo_mask
from models.pamr import affinities, local_std, pamr
from models.template_experts import (
    TemplateExperts,
    choose_templates,
    fuse,
    mean_entropies,
    template_entropies,
)
from utils.safe.errors import InputError

PAMR, SLIDE, FLOSS = "teachers/pamr.npz", "teachers/slide.npz", "teachers/floss.npz"


def cases(name):
    """The case names that a file lists, for parametrize; "none" where there is no such file."""
    if GOLDENS is None or not (GOLDENS / name).is_file():
        return ["none"]
    return load_golden(name)["cases"].tolist()


class Golden:
    """A case of a file, or the whole of a file without cases; remembers which keys were read."""

    def __init__(self, name, case=None):
        self.file = load_golden(name)
        self.prefix = f"{case}/" if case else ""
        self.unread = {key for key in self.file.files if key.startswith(self.prefix)}

    def __contains__(self, key):
        return self.prefix + key in self.file.files

    def __getitem__(self, key):
        self.unread.discard(self.prefix + key)
        return torch.from_numpy(self.file[self.prefix + key])

    def number(self, key):
        return self[key].item()


def assert_near(ours, theirs, name):
    """Within 1e-5 of the largest absolute value, or 1e-5 where that is below 1."""
    tolerance = 1e-5 * max(1.0, theirs.abs().max().item())
    assert ours.shape == theirs.shape, name
    difference = (ours.double() - theirs.double()).abs().max().item()
    assert difference <= tolerance, f"{name}: {difference} > {tolerance}"


@pytest.mark.parametrize("case", cases(PAMR))
def test_golden_pamr(case):
    golden = Golden(PAMR, case)
    image, scores = golden["img"], golden["scores"]
    steps, dilations = golden.number("steps"), golden["dilations"].tolist()
    assert_near(pamr(image, scores, steps, dilations), golden["out"], "out")
    assert_near(pamr(image, scores, 1, dilations), golden["after_one_step"], "after_one_step")
    for key, function in (("std", local_std), ("weights", affinities)):
        if key in golden:
            assert_near(function(image, dilations), golden[key], key)
    assert golden.unread == set()


def test_golden_pamr_no_key_is_left_out():
    names = "|".join(map(re.escape, cases(PAMR)))
    left = [key for key in load_golden(PAMR).files if not re.match(rf"cases$|({names})/", key)]
    assert left == []


# ---- windows ----


@pytest.fixture(scope="module")
def small_clip():
    weights = load_golden("clip_small_state_dict.npz")
    return clip_from_state_dict({key: torch.from_numpy(weights[key]) for key in weights.files})


NACLIP = MaskCLIPOptions(
    attention="kk", residual=False, mlp=False, position_embedding="offset", padding="stretch"
)


class Official(MaskCLIP):
    """Drops the pixels beyond the last whole patch, and stretches the scores over them."""

    def scores(self, image):
        patch = grid_stride(self.visual)
        height, width = (side // patch * patch for side in image.shape[-2:])
        return super().scores(image[..., :height, :width])


@pytest.mark.parametrize("case", cases(SLIDE))
def test_golden_windows(small_clip, case):
    whole, golden = Golden(SLIDE), Golden(SLIDE, case)
    text, present, std = whole["text_embeddings"], whole["present"], whole.number("std")
    image, size = golden["img"], tuple(golden["final_size"].tolist())
    window, stride = (golden.number("crop"),) * 2, (golden.number("stride"),) * 2
    steps = golden.number("pamr_steps")
    options = replace(NACLIP, gaussian_std=std, window=window, stride=stride, pamr_steps=steps)
    teacher = Official(small_clip.visual, text, options)

    made = []

    def score(view, to):
        made.append(teacher._scores_at(view, to))
        return made[-1]

    fused = window_scores(score, image, window, stride)
    assert len(made) == golden.number("num_windows")
    assert_near(made[0], golden["first_window"], "first_window")
    if "last_window" in golden:
        assert_near(made[-1], golden["last_window"], "last_window")
    assert_near(fused, golden["fused"], "fused")
    result = teacher.refine(resize(fused, size), image)
    assert_near(result, golden["result"], "result")

    mask = golden["derived_mask"].long()
    decided = golden["derived_margin"] > 1e-5
    labels = present[None].float()
    assert torch.equal(to_pseudo_mask(result, labels)[decided], mask[decided])
    if all(side >= crop for side, crop in zip(image.shape[-2:], window, strict=True)):
        whole_way = teacher(image, labels, size)
        assert torch.equal(whole_way[decided], mask[decided])
    else:
        with pytest.raises(InputError, match="larger than the image"):
            teacher(image, labels, size)
    assert golden.unread == set()


def test_golden_windows_no_key_is_left_out():
    whole = r"cases|text_embeddings|std|present|logit_scale"  # the last one: nothing is scaled
    names = "|".join(map(re.escape, cases(SLIDE)))
    left = [key for key in load_golden(SLIDE).files if not re.match(rf"({whole})$|({names})/", key)]
    assert left == []


# ---- template experts ----


def test_golden_template_ranking():
    golden = Golden(FLOSS)
    assert golden.number("logit_scale") == template_experts.LOGIT_SCALE
    shape = golden.number("num_templates"), golden.number("num_classes")
    sums, counts = torch.zeros(shape, dtype=torch.float64), torch.zeros(shape, dtype=torch.long)
    for i in range(golden.number("images")):
        for total, part in zip(
            (sums, counts), template_entropies(golden[f"image{i}/logits"]), strict=True
        ):
            total += part
    assert_near(sums, golden["entropy_sum_f64"], "entropy_sum_f64")
    assert torch.equal(counts, golden["entropy_count"])
    assert_near(mean_entropies(sums, counts), golden["mean_entropy_f64"], "mean_entropy_f64")
    chosen = choose_templates(sums, counts, golden.number("top_n"))
    assert torch.equal(chosen, golden["chosen"])
    assert all(key.startswith(("fusion/", "slide/")) for key in golden.unread)


def test_golden_fusion_of_experts():
    golden = Golden(FLOSS, "fusion")
    experts, default = golden["experts"], golden["default"]
    possible = torch.ones(1, len(experts), dtype=torch.bool)
    of_experts = [(c, probabilities[None]) for c, probabilities in enumerate(experts)]
    assert torch.equal(fuse(default[None], of_experts, possible)[0], golden["out"])
    own = experts.argmax(1) == torch.arange(len(experts))[:, None, None]
    assert torch.equal(own.sum(0), golden["experts_agreeing"].long())
    # As many as agree change nothing but who wins: none, the average; one, that expert.
    agreeing = own.sum(0)
    assert torch.equal(golden["out"][:, agreeing == 0], default[:, agreeing == 0])
    alone = own.long().argmax(0)[agreeing == 1]
    places = (agreeing == 1).nonzero().unbind(1)
    assert torch.equal(golden["out"][:, *places].T, experts[alone, :, *places])
    assert golden.unread == set()


def test_golden_windows_of_experts(small_clip):
    golden = Golden(FLOSS, "slide")
    *experts, average = golden["embeddings"]
    image = golden["img"]
    window, stride = (golden.number("crop"),) * 2, (golden.number("stride"),) * 2
    options = replace(NACLIP, gaussian_std=golden.number("std"), window=window, stride=stride)
    teacher = TemplateExperts(small_clip.visual, average, torch.stack(experts), options)
    first = image[..., : window[0], : window[1]]
    assert_near(teacher._scores_at(first, window), golden["first_window"], "first_window")
    size = tuple(image.shape[-2:])
    assert_near(teacher.upsampled_scores(image, size), golden["fused"], "fused")
    assert golden.unread == set()
