"""CLIP-ES against the official code; its rules without a background; masks as a user makes them."""

import numpy as np
import pytest
import torch
from conftest import golden_cases, golden_files, load_golden
from tiny_clip import tiny_clip
from torch import Tensor, nn

from baselines.clip_es import BACKGROUND, TEMPLATE, rivals
from datasets.labels import load_classes
from models import clip_es
from models.attentions import query_key_value
from models.cam import with_background
from models.clip_es import (
    attend,
    box_mask,
    class_gradient,
    class_logits,
    class_maps,
    clip_input,
    encode,
    grad_cam,
    spread,
    stretch,
    transition,
)
from models.clip_features import layer_norm
from models.clip_loading import clip_from_state_dict
from models.inference import resize
from models.text import text_embeddings


@pytest.fixture(scope="module")
def clip() -> nn.Module:
    weights = load_golden("clip_small_state_dict.npz")
    return clip_from_state_dict({key: torch.from_numpy(weights[key]) for key in weights.files})


class Golden:
    """A case of a reference file as tensors; notes the keys that were read."""

    def __init__(self, file: str, case: str) -> None:
        self.file, self.case = load_golden(file), case
        self.left = {key for key in self.file.files if key.startswith(f"{case}/")}

    def __getitem__(self, key: str) -> Tensor:
        self.left.discard(f"{self.case}/{key}")
        return torch.from_numpy(self.file[f"{self.case}/{key}"])

    def near(self, key: str, found: Tensor, tolerance: float = 1e-5) -> None:
        golden = self[key]
        assert found.shape == golden.shape, key
        torch.testing.assert_close(
            found.detach(),
            golden,
            rtol=0,
            atol=tolerance,
            equal_nan=True,
            msg=lambda m: f"{key} {m}",
        )


# ---- equations, against the official code


def cases(pattern: str) -> list[tuple[str, str]]:
    """(file, case) of the reference files that match."""
    files = [f"weak/{file}" for file in golden_files(f"weak/{pattern}")]
    return [(file, case) for file in files for case in golden_cases(file) or ["none"]]


def painted(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    mask = torch.zeros(size, dtype=torch.uint8)
    for left, top, right, bottom in boxes.tolist():
        mask[top:bottom, left:right] = 1
    return mask


@pytest.mark.parametrize(("file", "case"), cases("clipes_cam_*.npz"))
def test_golden_clip_es_of_an_image(clip: nn.Module, file: str, case: str) -> None:
    golden = Golden(file, case)
    visual, scale = clip.visual, clip.logit_scale.exp().item()
    image = clip_input(golden["image"].permute(2, 0, 1), visual.conv1.stride[0])
    golden.near("input", image)
    grid = tuple(golden["grid"].tolist())
    ids = golden["label_ids"].long()
    assert golden["keys"].tolist() == ids.tolist()
    text = torch.cat([golden["text_fg"][ids], golden["text_bg"]])
    size = tuple(golden["image"].shape[:2])
    with_rounding, plain = (encode(visual, image, released=released) for released in (True, False))

    tokens, attention = with_rounding
    golden.near("tokens", tokens[0])
    last = visual.transformer.resblocks[-1]
    golden.near("attn_last", attend(*query_key_value(last, tokens, clip_es.EPS))[1])
    golden.near("attn_mean", attention[1:, 1:])

    normed = layer_norm(last.ln_1, tokens, clip_es.OPTIONS).requires_grad_()
    golden.near("act", normed[0, 1:].T.unflatten(1, grid))
    probabilities = class_logits(visual, tokens, normed, text, scale).softmax(0)
    golden.near("probs", probabilities)
    gradients = torch.stack([class_gradient(p, normed) for p in probabilities[: len(ids)]])
    golden.near("weights", gradients.mean(1))
    if f"{case}/grad" in golden.file.files:
        golden.near("grad", gradients.transpose(1, 2).unflatten(2, grid))
    maps = torch.stack([grad_cam(gradient, normed[0, 1:]) for gradient in gradients])
    cams = stretch(stretch(maps).relu()).detach()
    golden.near("cam", cams.unflatten(1, grid))
    if len(text) > 1:
        found = class_maps(visual, tokens, text, len(ids), scale)
        assert torch.allclose(found, cams, atol=1e-6), "class_maps is these steps"

    masks = torch.stack([box_mask(cam.unflatten(0, grid)) for cam in golden["cam"].flatten(1)])
    assert torch.equal(masks.byte(), golden["aff_mask"])
    for k, mask in enumerate(masks):
        assert torch.equal(painted(golden[f"boxes{k}"], grid), mask.byte()), f"boxes{k}"
    matrix = transition(attention[1:, 1:])
    golden.near("trans", matrix)
    units = torch.eye(len(matrix))
    golden.near("trans2", spread(matrix, units, torch.ones_like(units)).T)
    refined = spread(matrix, cams, masks.flatten(1))
    golden.near("refined", refined.unflatten(1, grid))
    full = resize(stretch(refined).unflatten(1, grid)[None], size)[0]
    golden.near("refined_full", full, 2e-5)
    for exponent in (1, 2):
        maps = golden["refined_full"].half()
        rows = with_background(maps, exponent).max(0).indices
        labels = torch.cat([torch.zeros(1, dtype=torch.long), ids + 1])[rows]
        assert torch.equal(labels.byte(), golden[f"label_bg{exponent}"])

    tokens, attention = plain
    golden.near("fp32pos/tokens", tokens[0])
    if len(text) > 1:
        cams = class_maps(visual, tokens, text, len(ids), scale)
    else:  # the probability is 1: ours differentiates the logit
        cams = torch.zeros(1, len(matrix))
    golden.near("fp32pos/cam", cams.unflatten(1, grid))
    boxes = torch.stack([box_mask(cam.unflatten(0, grid)) for cam in cams]).flatten(1)
    refined = spread(transition(attention[1:, 1:]), cams, boxes)
    golden.near("fp32pos/refined", refined.unflatten(1, grid))
    assert not golden.left, "every key is compared"


@pytest.mark.parametrize(("file", "case"), cases("clipes_boxes.npz"))
def test_golden_clip_es_boxes(file: str, case: str) -> None:
    golden = Golden(file, case)
    cam = golden["map"]
    assert torch.equal(painted(golden["boxes"], tuple(cam.shape)), golden["mask"])
    assert torch.equal(box_mask(cam).byte(), golden["mask"])
    for key in sorted(golden.left):
        threshold = float(key.partition("mask_thr")[2])
        name = key.partition("/")[2]
        assert torch.equal(box_mask(cam, threshold).byte(), golden[name]), key
    assert not golden.left


def test_golden_clip_es_text(clip: nn.Module) -> None:
    file = load_golden("weak/clipes_text.npz")
    names = [(name,) for name in file["names"].tolist()]
    assert file["template"].item() == TEMPLATE
    assert tuple(file["background_voc"].tolist()) == BACKGROUND
    for templates, key in (((file["template"].item(),), "text"), (file["templates2"], "text2")):
        found = text_embeddings(clip, names, tuple(map(str, templates)))
        np.testing.assert_allclose(found, file[key], rtol=0, atol=1e-5)
    assert {*file.files} == {
        *("names", "template", "text", "templates2", "text2", "background_voc"),
    }


# ---- its rules without a background


def test_rivals_name_no_class_of_the_data_set() -> None:
    """The lists of the specification."""
    common = {"lake", "water", "river", "sea", "railway", "railroad", "keyboard", "helmet"}
    common |= {"mountain", "ocean", "rock", "valley", "bridge"}
    for name, more in (("cityscapes", set()), ("wilddash2", set()), ("camvid", {"wall", "grass"})):
        found = rivals(load_classes(f"datasets/classes/{name}.yaml"))
        assert len(found) == len({*found}) and {*found} == common | more, name


def test_boxes_may_cover_the_last_row_and_column() -> None:
    cam = torch.zeros(5, 6)
    cam[4, 1:3] = cam[1, 1] = 1
    released, whole = (box_mask(cam, whole=whole) for whole in (False, True))
    assert released.nonzero().tolist() == [[1, 1]]
    assert whole.nonzero().tolist() == [[1, 1], [4, 1], [4, 2]]
    cam[3, 3] = 1  # touches the row below by a corner: one component of eight neighbours
    assert box_mask(cam, whole=True)[3:, 1:4].all()


def test_one_class_without_rivals_has_a_map() -> None:
    clip = tiny_clip()
    image = torch.randn(1, 3, 32, 48)
    tokens, attention = encode(clip.visual, image)
    assert tokens.shape == (1, 25, 128) and attention.shape == (25, 25)
    assert torch.allclose(attention.sum(1), torch.ones(25), atol=1e-5)
    text = torch.randn(1, 64)
    cam = class_maps(clip.visual, tokens, text, 1, 100.0)
    assert cam.shape == (1, 24) and 0.99 < cam.max() < 1
    assert not any(p.grad is not None for p in clip.parameters())


def test_attention_in_blocks_of_rows_is_the_same(monkeypatch) -> None:
    parts = torch.randn(3, 1, 2, 11, 4).unbind()
    whole = attend(*parts)
    monkeypatch.setattr(clip_es, "ROWS", 3)
    for one, other in zip(attend(*parts), whole, strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_unsure_pixels_have_no_label() -> None:
    scores = torch.full((2, 16, 24), 1e-3)
    scores[0, :, :12] = scores[1, :, 12:] = 1
    image = torch.zeros(3, 16, 24)
    image[:, :, 12:] = 255
    rows = clip_es.confident_labels(scores, image)
    assert (rows[:, :10] == 0).all() and (rows[:, 14:] == 1).all()
    assert (clip_es.confident_labels(torch.ones_like(scores), image) == 255).all()


def blobs() -> tuple[Tensor, Tensor]:
    """Smooth scores (3,24,40) and an image (3,24,40) of three stripes."""
    scores = resize(torch.rand(1, 3, 3, 5, generator=torch.manual_seed(0)), (24, 40))[0]
    return scores, torch.arange(24)[:, None].div(8, rounding_mode="floor").mul(90).expand(3, 24, 40)


def test_the_package_sees_the_image_at_the_size_of_the_scores(monkeypatch) -> None:
    """A small image needs no coarser grid, so that the exact mean field in its place is equal."""
    scores, image = blobs()
    monkeypatch.setattr(clip_es, "permutohedral", clip_es.mean_field)
    exact, other = (clip_es.confident_labels(scores, image, exact) for exact in (True, False))
    assert torch.equal(exact, other) and (exact != 255).any()


def test_the_package_gives_about_the_same_labels() -> None:
    pytest.importorskip("pydensecrf", reason="pydensecrf2 is not installed")
    scores, image = blobs()
    exact, other = (clip_es.confident_labels(scores, image, exact) for exact in (True, False))
    assert (exact == other).float().mean() > 0.95
