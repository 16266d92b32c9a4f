"""ASPP in both forms against the authors' and torchvision's, the text classifier, the whole net."""

from types import SimpleNamespace

import pytest
import torch
import torchvision
from conftest import load_golden
from torch import nn

from models.build import build_model
from models.deeplabv3 import (
    ASPPV2,
    ASPPV3,
    ConvClassifier,
    DeepLabV3,
    TextClassifier,
)
from models.resnet import ResNet
from utils.safe.errors import InputError


def _our_name(name: str) -> str:
    """aspp_modules.0.conv.weight -> convs.0.0.weight."""
    return name.replace("aspp_modules", "convs").replace(".conv.", ".0.").replace(".bn.", ".1.")


def test_golden_asppv2_and_text_classifier():
    file = load_golden("asppv2_text.npz")
    data = {key: torch.from_numpy(file[key]) for key in file.files}

    def group(prefix):
        found = {
            _our_name(k.removeprefix(prefix)): v for k, v in data.items() if k.startswith(prefix)
        }
        assert found, prefix
        return found

    state = group("sd/")
    in_channels, out_channels = data["x"].shape[1], data["feat_eval"].shape[1]
    aspp = ASPPV2(in_channels, out_channels, (6, 12, 18, 24), 0.0)
    aspp.load_state_dict(state, strict=True)
    classifier = TextClassifier(data["text"])

    def close(found, expected, atol=1e-5):
        torch.testing.assert_close(found, expected, atol=atol, rtol=1e-5)

    aspp.eval()
    with torch.no_grad():
        features = aspp(data["x"])
        close(features, data["feat_eval"])
        close(classifier(features), data["logits_eval"])

    aspp.train()
    x = data["x"].clone().requires_grad_()
    features = aspp(x)
    logits = classifier(features)
    close(features.detach(), data["feat_train"])
    close(logits.detach(), data["logits_train"])
    logits.backward(data["grad_logits"])
    close(x.grad, data["grad_x"])
    parameters = dict(aspp.named_parameters())
    gradients = group("grad/")
    assert set(gradients) == set(parameters)
    for name, expected in gradients.items():
        # Sums over all positions: the tolerance is relative to their size.
        close(parameters[name].grad, expected, atol=1e-5 * expected.abs().max().item())
    for name, expected in group("after/").items():
        close(aspp.state_dict()[name], expected)
    fixed = {"x", "text", "feat_eval", "logits_eval", "feat_train", "logits_train"}
    fixed |= {"grad_logits", "grad_x"}
    assert {k for k in data if not k.startswith(("sd/", "grad/", "after/"))} == fixed


@pytest.mark.parametrize("training", [False, True])
def test_asppv3_equals_torchvision_with_weights_copied_both_ways(training):
    torch.manual_seed(0)
    ours = ASPPV3(24, 16, (2, 4, 6), dropout=0.0)
    reference = torchvision.models.segmentation.deeplabv3.ASPP(24, [2, 4, 6], 16)
    reference.project[3] = nn.Identity()  # its dropout
    x = torch.randn(2, 24, 13, 17)
    weight = torch.randn(2, 16, 13, 17)
    for source, target in ((reference, ours), (ours, reference)):
        for p in source.parameters():
            nn.init.normal_(p, std=0.3)
        target.load_state_dict(source.state_dict(), strict=True)  # one naming, in order
        results = []
        for module in (ours, reference):
            module.train(training)
            module.zero_grad()
            y = module(x)
            (y * weight).sum().backward()
            results.append((y.detach(), [p.grad for p in module.parameters()]))
        torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)
        statistics = (ours.state_dict(), reference.state_dict())
        torch.testing.assert_close(*statistics, atol=1e-6, rtol=1e-5)


def test_asppv3_dropout_is_last_and_follows_its_rate():
    torch.manual_seed(0)
    aspp = ASPPV3(4, 64, (1,), dropout=0.5)
    x = torch.randn(4, 4, 9, 9)
    aspp.eval()
    assert torch.equal(aspp(x), aspp(x))
    aspp.train()
    dropped = (aspp(x) == 0).float().mean() - (
        ASPPV3.forward(_without_dropout(aspp), x) == 0
    ).float().mean()
    assert 0.15 < dropped < 0.35  # half of the positive half


def _without_dropout(aspp):
    aspp.project[3] = nn.Identity()
    return aspp


def test_asppv3_one_training_image_is_a_clear_error():
    aspp = ASPPV3(4, 4, (1,), 0.0)
    with pytest.raises(InputError, match="batch_size"):
        aspp(torch.randn(1, 4, 5, 5))
    aspp.eval()
    assert aspp(torch.randn(1, 4, 5, 5)).shape == (1, 4, 5, 5)
    # Synchronised statistics see the images of all processes.
    synchronised = nn.SyncBatchNorm.convert_sync_batchnorm(ASPPV3(4, 4, (1,), 0.0))
    with pytest.raises(ValueError, match="more than 1 value"):  # torch's own, without a group
        synchronised(torch.randn(1, 4, 5, 5))


def test_asppv2_is_the_sum_of_its_branches():
    """Hand case: every branch sees the centre weight only, so dilation does not matter."""
    aspp = ASPPV2(1, 1, (6, 12), 0.0).eval()
    for conv, factor in zip(aspp.convs, (1.0, -2.0), strict=True):
        nn.init.zeros_(conv[0].weight)
        conv[0].weight.data[0, 0, 1, 1] = factor
        conv[1].eps = 1e-12
    x = torch.tensor([[[[3.0, -1.0]]]])
    assert aspp(x).tolist() == [[[[3.0, 2.0]]]]  # relu(x) + relu(-2x)


def test_text_classifier_is_frozen_and_saved():
    text = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    classifier = TextClassifier(text)
    features = torch.tensor([2.0, -5.0]).reshape(1, 2, 1, 1)
    torch.testing.assert_close(classifier(features).flatten(), torch.tensor([2.0, -5.0, -2.8]))
    assert not list(classifier.parameters())
    assert torch.equal(classifier.state_dict()["text_embeddings"], text)
    text[0] = 7.0
    assert classifier.text_embeddings[0].tolist() == [1.0, 0.0]  # a copy


def _config(**changes):
    values = {
        "backbone": "resnet18_eighth",
        "output_stride": 8,
        "backbone_weights": None,
        "norm": "batch",
        "backbone_weights_partial": False,
        "aspp": "v3",
        "aspp_dilations": (2, 4),
        "dropout": 0.1,
        "classifier": "text",
    }
    return SimpleNamespace(**(values | changes))


@pytest.mark.parametrize("aspp", ["v3", "v2"])
@pytest.mark.parametrize("classifier", ["text", "conv"])
@pytest.mark.parametrize("output_stride", [8, 16])
def test_build_model_shapes_and_gradients(aspp, classifier, output_stride):
    text = torch.nn.functional.normalize(torch.randn(5, 12), dim=1)
    cfg = _config(aspp=aspp, classifier=classifier, output_stride=output_stride)
    model = build_model(cfg, 5, text)
    image = torch.randn(2, 3, 50, 66)
    logits = model(image)
    assert logits.shape == (2, 5, -(-50 // output_stride), -(-66 // output_stride))
    logits.square().mean().backward()
    missing = [name for name, p in model.named_parameters() if p.grad is None]
    assert not missing
    learned = any(name.startswith("classifier") for name, _ in model.named_parameters())
    assert learned == (classifier == "conv")
    assert model.aspp.convs[0][0].out_channels == (12 if classifier == "text" else 512)


def test_build_model_reports_what_does_not_fit():
    with pytest.raises(InputError, match="19 classes, found 5"):
        build_model(_config(), 19, torch.randn(5, 12))
    with pytest.raises(InputError, match="text embeddings"):
        build_model(_config(), 19, None)


def test_build_model_takes_weights_unless_told_not_to(tmp_path):
    torch.manual_seed(0)
    source = ResNet(18, width=8)
    torch.save(source.state_dict(), tmp_path / "w.pth")
    cfg = _config(backbone_weights=str(tmp_path / "w.pth"))
    text = torch.randn(2, 4)
    assert torch.equal(build_model(cfg, 2, text).backbone.conv1.weight, source.conv1.weight)
    without = build_model(cfg, 2, text, pretrained=False)
    assert not torch.equal(without.backbone.conv1.weight, source.conv1.weight)


def test_channels_last_and_bfloat16_stay_close():
    torch.manual_seed(0)
    model = build_model(_config(), 5, torch.randn(5, 12)).eval()
    image = torch.randn(1, 3, 48, 64)
    with torch.no_grad():
        expected = model(image)
        model.to(memory_format=torch.channels_last)
        found = model(image.to(memory_format=torch.channels_last))
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
        with torch.autocast("cpu", torch.bfloat16):
            low = model(image)
    assert low.dtype == torch.bfloat16
    assert (low.float() - expected).abs().max() < 0.05 * expected.abs().max()


def test_any_backbone_and_head_fit_together():
    model = DeepLabV3(nn.Conv2d(3, 4, 1), ASPPV2(4, 6, (1,), 0.0), ConvClassifier(6, 2))
    assert model(torch.randn(1, 3, 7, 9)).shape == (1, 2, 7, 9)
