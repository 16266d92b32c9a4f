"""models/seam.py and baselines/seam.py against SEAM's code, on every key."""

import re

import pytest
import torch
from weak_golden import Golden, cases

from baselines.seam import revised_cams
from models import seam
from models.cam import label_cams
from models.resnet38 import ResNet38
from models.seam import (
    SEAMNetwork,
    clean_cams,
    max_norm,
    min_pool_loss,
    normalize_signed,
    only_highest,
    pixel_correlation,
    seam_losses,
)

FUNCTIONS, NET, PCM = "seam_functions.npz", "seam_net.npz", "seam_pcm.npz"
LOSS, INFER = "seam_loss.npz", "seam_infer.npz"


@pytest.mark.parametrize("case", cases(FUNCTIONS, "x"))
def test_golden_functions(case):
    golden = Golden(FUNCTIONS, case)
    x = golden["x"].requires_grad_()
    loss = min_pool_loss(x)
    golden.near("min_pool_loss", loss)
    golden.near("min_pool_grad", torch.autograd.grad(loss, x)[0])
    normed = max_norm(x)
    golden.near("max_norm", normed)
    gradient = torch.autograd.grad((normed * golden["upstream"]).sum(), x)[0]
    golden.near("max_norm_grad", gradient)
    positive = x.detach().relu()
    high, low = (end((2, 3), keepdim=True) for end in (positive.amax, positive.amin))
    # their form in numpy: as at test time, but divided by the maximum
    signed = normalize_signed(x.detach())
    golden.near("max_norm_numpy", signed * (high - low + 1e-5) / (high + 1e-5))
    if "max_onehot" in golden:
        golden.near("max_onehot", only_highest(x, 1))
    assert golden.unread == set()


@pytest.mark.parametrize("block", [1000, 10**6])
@pytest.mark.parametrize("case", cases(PCM, "f9"))
def test_golden_pcm(case, block, monkeypatch):
    monkeypatch.setattr(seam, "BLOCK", block)
    golden = Golden(PCM, case)
    features, weight = (golden[key].requires_grad_() for key in ("f", "f9"))
    found = pixel_correlation(golden["cam"], features, weight)
    golden.near("out", found)
    (found * golden["upstream"]).sum().backward()
    golden.near("grad_f", features.grad)
    golden.near("grad_f9", weight.grad)
    assert golden.unread == set()


def network_of(golden: Golden, first: int) -> SEAMNetwork:
    """ResNet-38 and the head with the weights of the file."""
    state = golden.state_dict()
    own = ("fc8.", "f8_3.", "f8_4.", "f9.")
    backbone = ResNet38(len(state["conv1a.weight"]))
    backbone.load_state_dict({k: v for k, v in state.items() if not k.startswith(own)}, False)
    channels = tuple(state[f"{name}.weight"].shape[1] for name in ("f8_3", "f8_4", "fc8"))
    network = SEAMNetwork(backbone, channels, len(state["fc8.weight"]), first)
    named = {k if k.startswith(own) else f"backbone.{k}": v for k, v in state.items()}
    assert {k for k in network.state_dict() if "num_batches" not in k} == {*named}
    network.load_state_dict(named, strict=False)
    return network


@pytest.mark.parametrize("case", cases(NET, "upstream_rv"))
def test_golden_net(case):
    golden, whole = Golden(NET, case), Golden(NET)
    network, image = network_of(whole, 1).eval(), golden["x"]
    taps = network.backbone(image)
    for name, tap in zip(("conv4", "conv5", "conv6"), taps, strict=True):
        golden.near(name, tap)
    scores = network.fc8(taps[2])
    golden.near("cam_low", scores)
    golden.near("cam_normalised", clean_cams(scores, 1))
    features = network.features(image, *taps[:2])
    golden.near("f", features)
    weight = network.f9.weight
    golden.near("pcm", pixel_correlation(clean_cams(scores, 1), features, weight))
    [(cam, revised)] = network(image)
    golden.near("cam", cam)
    golden.near("cam_rv", revised)
    loss = 0.01 * ((cam * golden["upstream_cam"]).sum() + (revised * golden["upstream_rv"]).sum())
    loss.backward()
    parameters = {k.removeprefix("backbone."): v for k, v in network.named_parameters()}
    assert golden.names("grad/")
    for name in golden.names("grad/"):
        golden.near(f"grad/{name}", parameters[name].grad)
    network.first = 0
    golden.near("adapted_cam_normalised", clean_cams(scores, 0))
    golden.near("adapted_cam_rv", network(image)[0][1])
    assert golden.unread == set()


def test_golden_net_freezes_the_same_weights():
    golden = Golden(NET)
    network = network_of(golden, 1)
    frozen = {k for k, v in network.named_parameters() if not v.requires_grad}
    assert frozen == {f"backbone.{name}" for name in golden.array("frozen_weights").tolist()}
    of_cases = tuple(f"{case}/" for case in cases(NET, "upstream_rv"))
    assert {key for key in golden.unread if not key.startswith(of_cases)} == set()


@pytest.mark.parametrize("case", cases(LOSS, "cam_rv1"))
def test_golden_loss(case):
    golden = Golden(LOSS, case)
    inputs = ("cam1", "cam_rv1", "cam2", "cam_rv2")
    for prefix, first in (("", 1), ("adapted_", 0)):
        given = [golden[key][:, 1 - first :].clone().requires_grad_() for key in inputs]
        losses = seam_losses([tuple(given[:2]), tuple(given[2:])], golden["label"], first, 1.0)
        losses["loss_cls"] = losses["loss_cls"] + losses["loss_rvmin"]  # as the file has it
        losses["loss_ecr"] = losses["loss_ecr1"] + losses["loss_ecr2"]
        for key in [k for k in losses if prefix + k in golden]:
            golden.near(prefix + key, losses[key])
        losses["loss"].backward()
        for key, value in zip(inputs, given, strict=True):
            if f"{prefix}grad_{key}" in golden:
                golden.near(f"{prefix}grad_{key}", value.grad)
    if "img1" in golden:
        golden.near("img2", seam.reduced(golden["img1"]))
    assert golden.unread == set()


@pytest.mark.parametrize("case", cases(INFER, "norm_cam"))
def test_golden_infer(case):
    golden = Golden(INFER, case)
    label, size = golden["label"], tuple(golden["size"].tolist())
    outputs = [golden[f"out_{i}"] for i in range(len(golden.names("out_")))]
    pairs = map(torch.stack, zip(outputs[::2], outputs[1::2], strict=True))
    image = torch.zeros(3, *size, dtype=torch.uint8)
    cams = revised_cams(lambda _: [(None, next(pairs))], image, 1)
    maps = normalize_signed((cams * label[:, None, None])[None])[0]
    keys = label.nonzero().flatten()
    assert golden["keys"].tolist() == keys.tolist()
    golden.near("norm_cam", maps)
    kept = maps[keys]
    for key in golden.names("pred_bg"):
        threshold = float(key)
        scores = torch.cat([torch.full((1, *size), threshold), kept])
        golden.same_labels(f"pred_bg{key}", label_cams(maps, label, threshold), scores)
    for key in golden.names("crf_input_alpha"):
        rest = (1 - kept.amax(0, keepdim=True)) ** float(re.fullmatch(r"\d+", key)[0])
        golden.near(f"crf_input_alpha{key}", torch.cat([rest, kept]))
    golden.same_labels("adapted_pred", label_cams(maps, label, None), kept)
    assert golden.unread == set()


@pytest.mark.parametrize(
    ("name", "key"), [(FUNCTIONS, "x"), (PCM, "f9"), (LOSS, "cam_rv1"), (INFER, "norm_cam")]
)
def test_golden_every_key_belongs_to_a_case(name, key):
    read = tuple(f"{case}/" for case in [*cases(name, key), "sd"])
    assert [one for one in Golden(name).unread if not one.startswith(read)] == []
