"""The network and losses of 1-Stage, and models/pamr.py, against 1-Stage's code, all keys."""

import pytest
import torch
from torch import nn
from weak_golden import Golden, cases

from models import one_stage as network
from models.cam import classification_loss, label_cams
from models.inference import resize_corners
from models.one_stage import (
    GCI,
    OneStageHead,
    mask_of_view,
    padded_view,
    stochastic_gate,
    with_constant,
)
from models.one_stage_losses import (
    class_scores,
    cleaned,
    focal_penalty,
    gate_of,
    kept_classes,
    mask_losses,
    merged,
    present_channels,
    pseudo_labels,
    refine,
)
from models.pamr import pamr

GATE, FUNCTIONS, HEAD = "onestage_gate.npz", "onestage_functions.npz", "onestage_head.npz"
PAMR, INJECTION, INFER = "onestage_pamr.npz", "onestage_gci.npz", "onestage_infer.npz"


@pytest.mark.parametrize("case", cases(PAMR, "mask"))
def test_golden_pamr(case):
    golden = Golden(PAMR, case)
    dilations, steps = golden["dilations"].tolist(), golden["iterations"].item()
    golden.near("out", pamr(golden["image"], golden["mask"], steps, dilations))
    assert golden.unread == set()


@pytest.mark.parametrize("case", cases(GATE, "deep"))
def test_golden_gate(case):
    golden = Golden(GATE, case)
    deep, shallow = (golden[key].requires_grad_() for key in ("deep", "shallow"))
    psi = golden["psi"].item()
    golden.near("eval", stochastic_gate(deep, shallow, psi, None))
    mixed = stochastic_gate(deep, shallow, psi, golden["keep_deep"])
    golden.near("train", mixed)
    (mixed * golden["upstream"]).sum().backward()
    golden.near("grad_deep", deep.grad)
    golden.near("grad_shallow", shallow.grad)
    assert golden.unread == set()


def names_of(module):
    """Names of a state dict, without those that the authors' has not."""
    ours = ("num_batches_tracked", "fc_skip.1.weight", "fc_skip.1.bias")
    return {name for name in module.state_dict() if not name.endswith(ours)}


def check_module(golden, module, inputs, output, tolerance):
    """Gradients of parameters and inputs, and the running statistics, after a backward pass."""
    (output * golden["upstream"]).sum().backward()
    for name, value in inputs.items():
        golden.near(f"grad_{name}", value.grad, tolerance)
    parameters, state = dict(module.named_parameters()), module.state_dict()
    assert golden.names("grad/")
    for name in golden.names("grad/"):
        golden.near(f"grad/{name}", parameters[name].grad, tolerance)
    for name in golden.names("after/"):
        golden.near(f"after/{name}", state[name])


@pytest.mark.parametrize("case", cases(INJECTION, "shallow"))
def test_golden_gci(case):
    golden, state = Golden(INJECTION, case), Golden(INJECTION).state_dict()
    shallow, deep = (golden[key].requires_grad_() for key in ("shallow", "deep"))
    module = GCI(shallow.shape[1], deep.shape[1])
    module.load_state_dict(state, strict=False)
    assert names_of(module) == {*state}
    golden.near("eval", module.eval()(shallow, deep))
    output = module.train()(shallow, deep)
    golden.near("train", output)
    check_module(golden, module, {"shallow": shallow, "deep": deep}, output, 3e-5)
    assert golden.unread == set()


@pytest.mark.parametrize("case", cases(FUNCTIONS, "mask"))
def test_golden_functions(case):
    golden = Golden(FUNCTIONS, case)
    mask, label = golden["mask"], golden["label"]
    targets = pseudo_labels(mask, background=True)
    assert torch.equal(targets, golden["pseudo_gt"].float())
    other = pseudo_labels(mask, True, foreground=0.5, floor=0.1)
    assert torch.equal(other, golden["pseudo_gt_0.5_0.1"].float())
    logits = golden["logits"].requires_grad_()
    losses = mask_losses(logits, targets, gate_of(targets, label, background=True))
    golden.near("mask_loss", losses)
    (losses * golden["upstream"]).sum().backward()
    golden.near("grad_logits", logits.grad)
    means = golden["mean_mask"].requires_grad_()
    penalty = focal_penalty(means)
    golden.near("focal", penalty)
    penalty.sum().backward()
    golden.near("grad_mean_mask", means.grad)
    assert golden.unread == set()


def head_of(golden: Golden, conv3: torch.Tensor, conv6: torch.Tensor, label: torch.Tensor):
    state = golden.state_dict()
    width, skip = (len(state[f"{name}.0.weight"]) for name in ("fc8_x", "fc8_skip"))
    head = OneStageHead(conv3.shape[1], conv6.shape[1], label.shape[1], width, skip)
    head.load_state_dict(state, strict=False)
    assert names_of(head) == {*state}
    return head


def check_outputs(golden, prefix, logits, image, label, background, **tolerance):
    """All that follows from the logits with labels; returns scores and mask losses."""
    scores, masks, size = class_scores(logits, background), logits.softmax(1), image.shape[-2:]
    golden.near(f"{prefix}cls", scores, **tolerance)
    golden.near(f"{prefix}logits", logits, **tolerance)
    means = masks.mean((2, 3))[:, int(background) :]
    golden.near(f"{prefix}cls_fg", (means * label).sum(1) / label.sum(1), **tolerance)
    refined = refine(image, masks.detach(), label, background)
    targets = pseudo_labels(refined, background)
    assert torch.equal(targets, golden[f"{prefix}pseudo_gt"].float())
    losses = mask_losses(logits, targets, gate_of(targets, label, background))
    golden.near(f"{prefix}mask_loss", losses, **tolerance)
    if prefix != "train_":
        golden.near(f"{prefix}cam", cleaned(masks, size, label, background))
        golden.near(f"{prefix}dec", refined)
    return scores, losses


@pytest.mark.parametrize("case", cases(HEAD, "conv3"))
def test_golden_head(case, monkeypatch):
    golden = Golden(HEAD, case)
    conv3, conv6 = (golden[key].requires_grad_() for key in ("conv3", "conv6"))
    image, label = golden["image_raw"], golden["label"]
    head = head_of(Golden(HEAD), conv3, conv6, label).eval()
    with torch.no_grad():
        for prefix, background in (("", True), ("adapted_", False)):
            logits = with_constant(head(conv3, conv6), background)
            golden.near(f"{prefix}test_cls", class_scores(logits, background))
            upsampled = resize_corners(logits.softmax(1), image.shape[-2:])
            golden.near(f"{prefix}test_masks", upsampled)
            check_outputs(golden, f"{prefix}eval_", logits, image, label, background)
    for module in head.train().modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    monkeypatch.setattr(network, "draw_gate", lambda maps, psi: golden["keep_deep"].float())
    logits = with_constant(head(conv3, conv6), True)
    scores, losses = check_outputs(golden, "train_", logits, image, label, True)
    loss_cls = classification_loss(scores[..., None, None], label)
    golden.near("train_loss_cls", loss_cls)
    loss = loss_cls + losses.mean()
    golden.near("train_loss", loss)
    loss.backward()
    golden.near("train_grad_conv3", conv3.grad)
    golden.near("train_grad_conv6", conv6.grad)
    parameters, state = dict(head.named_parameters()), head.state_dict()
    assert golden.names("grad/") and golden.names("after/")
    for name in golden.names("grad/"):
        golden.near(f"grad/{name}", parameters[name].grad, 3e-5)
    for name in golden.names("after/"):
        golden.near(f"after/{name}", state[name])
    assert golden.unread == set()


def test_golden_head_layers():
    """Batch norms that always are in evaluation mode; all of the head learns ten times faster."""
    golden = Golden(HEAD)
    case = cases(HEAD, "conv3")[0]
    of_case = Golden(HEAD, case)
    head = head_of(golden, of_case["conv3"], of_case["conv6"], of_case["label"]).train()
    norms = {n for n, m in head.named_modules() if isinstance(m, nn.BatchNorm2d) and not m.training}
    assert norms == {*golden.array("kept_in_eval").tolist()}
    own = {n for n, m in head.named_modules() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)}
    assert own == {*golden.array("from_scratch").tolist()}
    of_cases = {f"{c}/" for c in cases(HEAD, "conv3")}
    assert {key for key in golden.unread if not key.startswith(tuple(of_cases))} == set()
    assert present_channels(torch.tensor([[0.0, 1.0]]), True).tolist() == [[1, 0, 1]]


@pytest.mark.parametrize("case", cases(INFER, "masks"))
def test_golden_infer(case):
    golden = Golden(INFER, case)
    image, label = golden["img"].permute(2, 0, 1), golden["label"]
    container = tuple(golden["pad_size"].tolist())
    views = [(scale, flip) for scale in golden["scales"].tolist() for flip in (False, True)]
    total, size = 0, tuple(image.shape[1:])
    for i, (scale, flip) in enumerate(views):
        view, pixels = padded_view(image, scale, flip, container)
        rows, columns = view.place
        place = rows.start, columns.start, rows.stop - rows.start, columns.stop - columns.start
        assert golden["pads_top_left_h_w"][i].tolist() == [*place]
        if f"input_{i}" in golden:
            golden.near(f"input_{i}", pixels[0])
        total = total + mask_of_view(golden["masks"][i][None], view, container, size)
    mean = total / len(views)
    found = merged(mean, label, True, golden["bg_pow"].item())
    golden.near("merged", found)
    golden.same_labels("pred", label_cams(found, torch.ones(len(found)), None), found)
    adapted = merged(mean[1:], label, False, 1)
    golden.same_labels("adapted_pred", label_cams(adapted, label, None), adapted)
    assert torch.equal(kept_classes(golden["cls"], 0.3), golden["kept_at_0.3"].float())
    assert golden.unread == set()


@pytest.mark.parametrize(
    ("name", "key"),
    [(PAMR, "mask"), (GATE, "deep"), (FUNCTIONS, "mask"), (INJECTION, "deep"), (INFER, "masks")],
)
def test_golden_every_key_belongs_to_a_case(name, key):
    read = tuple(f"{case}/" for case in [*cases(name, key), "sd"])
    assert [one for one in Golden(name).unread if not one.startswith(read)] == []
