"""The authors' checkpoints: the same logits, and nothing skipped silently."""

import pytest
import torch
from conftest import golden_path, load_golden

from models.inference import predict_logits
from models.official import import_official_checkpoint, is_official_checkpoint
from utils.checkpoint import load_checkpoint
from utils.safe.errors import InputError


@pytest.fixture(scope="module")
def checkpoint():
    return load_checkpoint(golden_path("official_checkpoint.pth"))


def _with(checkpoint, drop="", **tensors):
    """A copy with one tensor changed, added or dropped."""
    state = dict(checkpoint["state_dict"]) | tensors
    return checkpoint | {"state_dict": {k: v for k, v in state.items() if k != drop}}


def test_golden_official_checkpoint(checkpoint):
    file = load_golden("official_checkpoint.npz")
    data = {key: torch.from_numpy(file[key]) for key in file.files}
    model, names = import_official_checkpoint(checkpoint)
    model.eval()
    with torch.no_grad():
        features = model.backbone(data["image"])
    logits = predict_logits(model, data["image"], data["logits"].shape[-2:])
    torch.testing.assert_close(features, data["feat4"], atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(logits, data["logits"], atol=1e-4, rtol=1e-5)
    top = data["logits"].topk(2, dim=1).values
    clear = top[:, 0] - top[:, 1] > 2e-4  # elsewhere two classes tie within the tolerance
    prediction = logits.argmax(1)
    assert clear.float().mean() > 0.5
    assert torch.equal(prediction[clear], data["prediction"][clear].long())
    assert torch.equal(model.classifier.text_embeddings, data["text_embeddings"])
    assert names == tuple(checkpoint["meta"]["CLASSES"])
    assert len(names) == logits.shape[1]
    # The published dilations: the last ones see nothing but padding at the size of the image here.
    assert [conv[0].dilation[0] for conv in model.aspp.convs] == [6, 12, 18, 24]
    assert set(file.files) == {"image", "feat4", "logits", "prediction", "text_embeddings"}


def test_frozen_clip_and_counter_are_left_out(checkpoint):
    model, _ = import_official_checkpoint(checkpoint)
    used = {name for name in checkpoint["state_dict"] if name.startswith("backbone.")}
    used |= {name for name in checkpoint["state_dict"] if ".aspp_modules." in name}
    assert len(model.state_dict()) == len(used) + 1
    counts = sum(v.numel() for v in checkpoint["state_dict"].values())
    assert sum(v.numel() for v in model.state_dict().values()) < counts


def test_learned_classifier_of_the_base_class_is_ignored(checkpoint):
    state = {"decode_head.conv_seg.weight": torch.zeros(20, 4, 1, 1)}
    model, _ = import_official_checkpoint(_with(checkpoint, **state))
    assert "classifier.text_embeddings" in model.state_dict()


def test_checkpoint_without_meta_has_no_class_names(checkpoint):
    _, names = import_official_checkpoint({"state_dict": checkpoint["state_dict"]})
    assert names is None


@pytest.mark.parametrize(
    "drop,tensors,message",
    [
        ("backbone.layer4.2.bn3.bias", {}, r"backbone\.layer4\.2\.bn3\.bias \(missing\)"),
        ("", {"backbone.extra": torch.zeros(1)}, r"backbone\.extra \(not in this network\)"),
        ("", {"backbone.layer1.0.conv2.weight": torch.zeros(1, 2)}, r"\(1, 2\) in the file"),
        ("backbone.layer3.5.conv1.weight", {}, r"found \(3, 4, 5, 3\) blocks"),
        ("decode_head.text_embeddings", {}, "no text embeddings"),
        ("decode_head.decode_module.aspp_modules.0.conv.weight", {}, "no ASPP"),
    ],
)
def test_what_does_not_fit_is_named(checkpoint, drop, tensors, message):
    with pytest.raises(InputError, match=rf"their\.pth.*{message}"):
        import_official_checkpoint(_with(checkpoint, drop, **tensors), "their.pth")


def test_other_checkpoints_are_not_taken_for_official():
    assert not is_official_checkpoint({"model": {}, "format": 1})
    assert not is_official_checkpoint({"state_dict": {"backbone.conv1.weight": torch.zeros(1)}})
    with pytest.raises(InputError, match="found keys model, format"):
        import_official_checkpoint({"model": {}, "format": 1})
