"""baselines/cam.py against irn's code, on every key; what the reference does not show, by hand."""

import pytest
import torch
from conftest import golden_files
from torch import Tensor
from weak_golden import Golden, cases

from baselines.cam import (
    SCALES,
    Classifier,
    both_views,
    full_maps,
    low_maps,
    normalized,
    pairs,
    summed_maps,
    without_dilation,
)
from models.cam import classification_loss, label_cams
from models.resnet import ResNet
from models.training import poly_sgd, poly_step

NET, LOSS, OPTIMIZER, MAKE = (
    f"cam_{name}.npz" for name in ("net", "loss", "optimizer", "make_cam")
)


def classifier(width: int, num_classes: int) -> Classifier:
    return Classifier(without_dilation(ResNet(50, width, output_stride=16)), num_classes)


@pytest.mark.parametrize("case", cases(NET, "logits"))
def test_golden_cam_network(case):
    golden, weights = Golden(NET, case), Golden(NET).state_dict()
    network = classifier(len(weights["conv1.weight"]), len(weights["classifier.weight"])).train()
    named = {("" if "classifier" in k else "backbone.") + k: v for k, v in weights.items()}
    missing, unexpected = network.load_state_dict(named, strict=False)
    assert unexpected == [] and all(name.endswith("num_batches_tracked") for name in missing)
    x = golden["x"]
    for i, stage in enumerate(network.backbone.stages(x), 1):
        golden.near(f"stage{i}", stage)
    maps = network(x)
    golden.near("logits", maps.mean((2, 3)))
    loss = classification_loss(maps, golden["label"])
    golden.near("loss", loss)
    loss.backward()
    gradients = {
        name.removeprefix("backbone."): p.grad
        for name, p in network.named_parameters()
        if p.grad is not None
    }
    for name in golden.names("grad/"):
        golden.near(f"grad/{name}", gradients[name])
    of_backbone = gradients.keys() - {"classifier.weight"}
    assert of_backbone == {*golden.array("has_grad").tolist()}
    others = {name for name, _ in network.backbone.named_parameters()} - of_backbone
    assert others == {*golden.array("no_grad").tolist()}
    pair = torch.stack([x[0], x[0].flip(-1)])
    golden.near("cam_pair_sum", both_views(network.eval()(pair)))
    assert golden.unread == set()


@pytest.mark.parametrize("case", cases(LOSS, "logits"))
def test_golden_cam_loss(case):
    golden = Golden(LOSS, case)
    logits = golden["logits"].requires_grad_()
    loss = classification_loss(logits[..., None, None], golden["label"])
    loss.backward()
    golden.near("loss", loss)
    golden.near("grad", logits.grad)
    assert golden.unread == set()


@pytest.mark.parametrize("case", cases(OPTIMIZER, "max_step"))
def test_golden_cam_optimizer(case):
    golden = Golden(OPTIMIZER, case)
    lr, decay, steps = (golden[key].item() for key in ("lr", "weight_decay", "max_step"))
    parameters = [torch.nn.Parameter(golden[f"p{i}_0"]) for i in range(2)]
    groups = [{"params": [p], "lr": lr * 10**i} for i, p in enumerate(parameters)]
    optimizer, rates, values = poly_sgd(groups, decay, "authors"), [], [[], []]
    for key, name in (("momentum_in_effect", "momentum"), ("weight_decay_in_effect",) * 2):
        found = [group[name.removesuffix("_in_effect")] for group in optimizer.param_groups]
        golden.near(key, torch.tensor(found))
    for step, gradients in enumerate(golden["grads"]):
        loss = sum((p * g).sum() for p, g in zip(parameters, gradients, strict=True))
        poly_step(loss, optimizer, step, steps)
        rates.append([group["lr"] for group in optimizer.param_groups])
        for value, parameter in zip(values, parameters, strict=True):
            value.append(parameter.detach().clone())
    golden.near("lrs", torch.tensor(rates))
    for i in range(2):
        golden.near(f"p{i}", torch.stack(values[i]))
    assert golden.unread == set()


@pytest.mark.parametrize("case", cases(MAKE, "cam_high_res"))
def test_golden_make_cam(case):
    golden = Golden(MAKE, case)
    image, label = golden["img"].permute(2, 0, 1), golden["label"]
    scales = [float(f"{scale:.6g}") for scale in golden["scales"].tolist()]
    views = list(pairs(image, scales))
    for i, view in enumerate(views):
        assert list(view.shape[-2:]) == golden[f"size_{i}"].tolist()
        if f"input_{i}" in golden:
            golden.near(f"input_{i}", view)
    outputs = [golden[f"out_{i}"] for i in range(len(scales))]
    size, keys = tuple(image.shape[1:]), label.nonzero().flatten()
    assert torch.equal(keys, golden["keys"].long())
    golden.near("cam_strided", normalized(low_maps(outputs, size), label)[keys])
    full = normalized(full_maps(outputs, size), label)
    golden.near("cam_high_res", full[keys])
    for name in golden.names("pred_bg"):
        threshold = float(name)
        found, margin = label_cams(full, label, threshold), golden[f"margin_bg{name}"]
        stack = torch.cat([torch.full_like(full[:1], threshold), full[keys]])
        golden.same_labels(f"pred_bg{name}", found, stack)
        best = stack.topk(2, 0).values
        assert torch.allclose((best[0] - best[1]).half(), margin, atol=2e-3)
    if "adapted_pred" in golden:
        found = label_cams(full, label, None)
        if full.any():
            golden.same_labels("adapted_pred", found, full[keys])
        else:  # the first of equals
            assert torch.equal(found, golden["adapted_pred"])
    assert golden.unread == set()


@pytest.mark.parametrize("file", golden_files("weak/cam_*.npz"))
def test_golden_cam_has_a_test_for_each_file(file):
    irn = ("cam_irn_paths", "cam_irn_walk", "cam_irn_label")  # tests/test_random_walk.py
    of_image = ("cam_augment",)  # tests/test_long_side.py
    tested = {NET, LOSS, OPTIMIZER, MAKE, *(f"{name}.npz" for name in irn + of_image)}
    if "*" in file:
        pytest.skip("no reference cases (set CARB_GOLDENS)")
    assert file in tested


def by_hand(outputs: list[Tensor], size: tuple[int, int]) -> Tensor:
    """full_maps with torch's own resizing at the multiple of 16."""
    up = (-(-size[0] // 16) * 16, -(-size[1] // 16) * 16)
    total = sum(torch.nn.functional.interpolate(o[None], up, mode="bilinear") for o in outputs)
    return total[0, :, : size[0], : size[1]]


def test_maps_are_summed_over_scales_and_mirror_images():
    torch.manual_seed(0)
    network = Classifier(without_dilation(ResNet(18, 8, output_stride=16)), 3).eval()
    image = torch.randint(0, 256, (3, 37, 50), dtype=torch.uint8)
    with torch.no_grad():
        outputs = [network(pair) for pair in pairs(image)]
    outputs = [o[0].relu() + o[1].relu().flip(-1) for o in outputs]
    assert [tuple(o.shape[1:]) for o in outputs] == [(3, 4), (2, 2), (4, 5), (5, 7)]
    found = summed_maps(network, image)
    assert torch.allclose(found, by_hand(outputs, (37, 50)), atol=1e-5) and len(SCALES) == 4


def test_only_the_last_two_stages_train():
    network = classifier(4, 3).train()
    before = {k: v.clone() for k, v in network.state_dict().items()}
    optimizer = poly_sgd(network.groups(), 1e-4, "authors")
    loss = classification_loss(network(torch.randn(2, 3, 33, 48)), torch.eye(3)[:2])
    poly_step(loss, optimizer, 0, 5)
    changed = {k for k, v in network.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all(
        k.startswith(("backbone.layer3", "backbone.layer4", "cl")) for k in changed
    )
    assert not any("running" in k for k in changed) and "backbone.layer3.0.bn1.weight" in changed


def test_the_momentum_of_both_arithmetics():
    for arithmetic, momentum in (("authors", 1e-4), ("correct", 0.9)):
        groups = poly_sgd(classifier(4, 3).groups(), 1e-4, arithmetic).param_groups
        assert [g["momentum"] for g in groups] == [momentum, momentum]
        assert [g["lr"] for g in groups] == [0.1, 1.0]
