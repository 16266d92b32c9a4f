"""models/resnet38.py against psa's code; shapes and freezing."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from weak_golden import Golden, cases

from models.resnet38 import ResNet38

FILE = "psa_resnet38_cls.npz"


@pytest.mark.parametrize("case", cases(FILE, "conv6"))
def test_golden_resnet38(case):
    golden = Golden(FILE, case)
    state = Golden(FILE).state_dict()
    classifier = nn.Parameter(state.pop("fc8.weight"))
    network = ResNet38(len(state["conv1a.weight"])).train()
    missing, unexpected = network.load_state_dict(state, strict=False)
    assert unexpected == [] and all(name.endswith("num_batches_tracked") for name in missing)
    for module in network.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.0  # off in the reference
    taps = network(golden["x"])
    for name, tap in taps._asdict().items():
        golden.near(name, tap)
    logits = F.conv2d(taps.conv6.mean((2, 3), keepdim=True), classifier)[..., 0, 0]
    golden.near("logits", logits)
    golden.near("cam", F.conv2d(taps.conv6, classifier).relu())
    loss = F.binary_cross_entropy_with_logits(logits, golden["label"])
    golden.near("loss", loss)
    loss.backward()
    parameters = dict(network.named_parameters()) | {"fc8.weight": classifier}
    for name in golden.names("grad/"):
        golden.near(f"grad/{name}", parameters[name].grad)
    frozen = {name for name, p in network.named_parameters() if p.grad is None}
    assert frozen == {*golden.file["frozen_weights"].tolist()}
    assert golden.unread == set()


def test_the_maps_have_stride_8_and_the_batch_norms_stay():
    network = ResNet38(2).train()
    before = {k: v.clone() for k, v in network.state_dict().items() if "bn" in k}
    conv4, conv5, conv6 = network(torch.randn(1, 3, 33, 41))
    assert [tuple(x.shape) for x in (conv4, conv5, conv6)] == [
        *((1, 16, 5, 6), (1, 32, 5, 6)),
        (1, network.out_channels, 5, 6),
    ]
    conv6.sum().backward()
    assert all(torch.equal(network.state_dict()[k], v) for k, v in before.items())
    assert sum(p.numel() for p in network.parameters() if p.grad is not None) > 0


def test_dropout_is_on_in_training_only():
    network, image = ResNet38(2), torch.randn(1, 3, 32, 32)
    network.train()
    assert not torch.equal(network(image).conv6, network(image).conv6)
    assert torch.equal(network(image).conv4, network(image).conv4)
    network.eval()
    assert torch.equal(network(image).conv6, network(image).conv6)
