"""models/group_norm.py: norm: group against the equations, and its place in the network."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models.build import build_model
from models.group_norm import (
    StandardizedConv2d,
    StandardizedDilatedConv2d,
    num_groups,
    standardized,
    use_group_norm,
)
from models.kernels.cpu_speed import DilatedConv2d
from utils.config import load_config
from utils.safe.errors import InputError


def config(*more: str):
    return load_config("configs/tiny_cpu.yaml", ["norm=group", "classifier=conv", *more])


@pytest.mark.parametrize(
    "channels, groups", [(512, 32), (64, 32), (48, 24), (96, 32), (16, 8), (8, 4), (7, 1), (1, 1)]
)
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    assert num_groups(channels) == groups


def test_weights_are_standardised_by_output_channel() -> None:
    weight = torch.randn(5, 4, 3, 3, generator=torch.Generator().manual_seed(0)) * 7 + 2
    found = standardized(weight).numpy()
    for one, theirs in zip(weight.numpy(), found, strict=True):
        expected = (one - one.mean()) / (one.std(ddof=1) + 1e-5)
        assert abs(theirs - expected).max() < 1e-5


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("kind", [nn.Conv2d, DilatedConv2d])
def test_convolution_and_its_gradient(kind, memory_format) -> None:
    """Also where DilatedConv2d has a forward of its own: channels_last, in training."""
    torch.manual_seed(0)
    ours = kind(4, 6, 2) if kind is DilatedConv2d else nn.Conv2d(4, 6, 3, padding=2, dilation=2)
    ours, before = ours.double(), ours.weight.detach().double()
    use_group_norm(ours)
    assert type(ours) in (StandardizedConv2d, StandardizedDilatedConv2d)
    assert torch.equal(ours.weight, before) and "weight" in ours.state_dict()
    image = torch.randn(2, 4, 7, 9, dtype=torch.float64).to(memory_format=memory_format)
    weight = before.clone().requires_grad_()
    expected = F.conv2d(image, standardized(weight), ours.bias, padding=2, dilation=2)
    found = ours(image)
    torch.testing.assert_close(found, expected)
    factor = torch.randn_like(found)
    (found * factor).sum().backward()
    (expected * factor).sum().backward()
    torch.testing.assert_close(ours.weight.grad, weight.grad)


@pytest.mark.parametrize("aspp", ["v3", "v2"])
@pytest.mark.parametrize("classifier", ["conv", "text"])
def test_all_but_the_classifier_is_changed(aspp: str, classifier: str) -> None:
    text = F.normalize(torch.randn(3, 16), dim=1)
    model = build_model(config(f"aspp={aspp}", f"classifier={classifier}"), 3, text)
    kinds = {type(module) for module in model.modules()}
    assert nn.BatchNorm2d not in kinds and DilatedConv2d not in kinds and nn.GroupNorm in kinds
    for part in (model.backbone, model.aspp):
        assert not [m for m in part.modules() if type(m) is nn.Conv2d]
    assert not isinstance(model.classifier, StandardizedConv2d)


def test_an_image_has_the_same_logits_in_any_batch_and_in_evaluation() -> None:
    torch.manual_seed(0)
    model = build_model(config(), 3, None)
    images = torch.randn(3, 3, 33, 48)
    whole, alone = model.train()(images), model(images[:1])  # v3 pools one image: no variance
    torch.testing.assert_close(alone, whole[:1], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(model.eval()(images), whole)


def test_image_level_pooling_is_not_constant() -> None:
    """Groups of one channel would make it so."""
    torch.manual_seed(0)
    text = F.normalize(torch.randn(3, 16), dim=1)  # 16 channels
    model = build_model(config("classifier=text"), 3, text)
    pooled = [model.aspp.convs[-1](torch.randn(1, 64, 5, 5)) for _ in range(2)]
    assert (pooled[0] - pooled[1]).abs().max() > 0.01


def test_with_batch_norm_nothing_is_changed() -> None:
    model = build_model(config("norm=batch"), 3, None)
    kinds = {type(module) for module in model.modules()}
    assert nn.BatchNorm2d in kinds and not kinds & {nn.GroupNorm, StandardizedConv2d}


def test_pretrained_weights_are_refused() -> None:
    with pytest.raises(InputError, match="norm: group .* imagenet.* set backbone_weights=null"):
        build_model(config("backbone_weights=imagenet"), 3, None)
    build_model(config("backbone_weights=imagenet"), 3, None, pretrained=False)  # eval.py
