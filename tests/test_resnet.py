"""ResNet: the authors' backbone, torchvision's, the a-trous identity, reading of weights."""

import hashlib
from pathlib import Path

import pytest
import torch
import torchvision
from conftest import load_golden, shared_data

from models import backbone_weights
from models.backbone_weights import load_backbone_weights
from models.resnet import ResNet, named_resnet
from utils.config import load_config
from utils.safe.errors import InputError


def _randomize_batch_norms(module: torch.nn.Module) -> None:
    """Statistics and affine parameters away from 0 and 1, so that forgetting one shows."""
    for m in module.modules():
        if isinstance(m, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(m.weight, 0.5, 1.5)
            torch.nn.init.normal_(m.bias, std=0.2)
            torch.nn.init.normal_(m.running_mean, std=0.2)
            torch.nn.init.uniform_(m.running_var, 0.5, 1.5)


def _golden_backbone(file) -> ResNet:
    state = {k.removeprefix("sd/"): torch.from_numpy(file[k]) for k in file.files if k[:3] == "sd/"}
    backbone = ResNet(50, width=state["stem.7.weight"].numel(), stem="v1c", output_stride=8)
    backbone.load_state_dict(state, strict=True)
    return backbone


def test_golden_resnetv1c_eval_and_train():
    file = load_golden("resnetv1c50_d8.npz")
    backbone = _golden_backbone(file)
    x = torch.from_numpy(file["x"])
    compared = {"x", *(key for key in file.files if key.startswith("sd/"))}  # loaded strictly
    for mode, image in (("eval", x), ("train", torch.cat([x, x.flip(3)]))):
        backbone.train(mode == "train")
        with torch.no_grad():
            maps = backbone.stages(image)
        for i, found in enumerate(maps):
            name = f"{mode}_out{i}"
            expected = torch.from_numpy(file[name])
            # Sums over all channels: the tolerance is relative to their size.
            scale = max(1.0, expected.abs().max().item())
            torch.testing.assert_close(found, expected, atol=1e-5 * scale, rtol=1e-5)
            compared.add(name)
    after = backbone.state_dict()
    names = [key for key in file.files if key.startswith("after/")]
    assert names
    for name in names:
        expected = torch.from_numpy(file[name])
        torch.testing.assert_close(
            after[name.removeprefix("after/")], expected, atol=1e-5, rtol=1e-5
        )
    assert set(file.files) == compared | set(names)


@pytest.mark.parametrize("depth", [18, 34, 50, 101])
@pytest.mark.parametrize("output_stride", [4, 8, 16])
@torch.no_grad()
def test_equals_torchvision(depth, output_stride):
    """Every depth: at each stride-th position, torchvision's ordinary network of stride 32.

    That is what dilation is for (the pretrained filters see what they saw in training), and it
    holds for the basic blocks too, which torchvision cannot dilate. Bottlenecks: in addition the
    dilated torchvision network, everywhere.
    """
    torch.manual_seed(depth)
    reference = getattr(torchvision.models, f"resnet{depth}")().eval()
    _randomize_batch_norms(reference)
    state = {k: v for k, v in reference.state_dict().items() if not k.startswith("fc.")}
    ours = ResNet(depth, output_stride=output_stride).eval()
    ours.load_state_dict(state, strict=True)
    image = torch.randn(1, 3, 75, 91)

    def features(network):
        x = network.maxpool(network.relu(network.bn1(network.conv1(image))))
        return network.layer4(network.layer3(network.layer2(network.layer1(x))))

    expected = features(reference)
    found = ours(image)
    size = (-(-75 // output_stride), -(-91 // output_stride))
    assert found.shape == (1, ours.out_channels, *size)
    assert ours.out_channels == expected.shape[1]
    scale = expected.abs().max()
    every = 32 // output_stride
    torch.testing.assert_close(
        found[..., ::every, ::every] / scale, expected / scale, atol=1e-5, rtol=0
    )
    if depth >= 50:
        dilated = getattr(torchvision.models, f"resnet{depth}")(
            replace_stride_with_dilation=[output_stride == 4, output_stride <= 8, True]
        ).eval()
        dilated.load_state_dict(reference.state_dict())
        torch.testing.assert_close(found / scale, features(dilated) / scale, atol=1e-5, rtol=0)


@pytest.mark.parametrize("output_stride", [4, 8])
@torch.no_grad()
def test_stride_on_first_1x1_keeps_the_strided_network(output_stride):
    """Caffe-style blocks: dilating from 16 leaves every second or fourth position as it was."""
    torch.manual_seed(0)
    coarse = ResNet(50, width=8, output_stride=16, bottleneck_stride="1x1").eval()
    _randomize_batch_norms(coarse)
    fine = ResNet(50, width=8, output_stride=output_stride, bottleneck_stride="1x1").eval()
    fine.load_state_dict(coarse.state_dict())
    image = torch.randn(1, 3, 70, 93)
    expected = coarse(image)
    scale, every = expected.abs().max(), 16 // output_stride
    torch.testing.assert_close(
        fine(image)[..., ::every, ::every] / scale, expected / scale, atol=1e-5, rtol=0
    )
    strides = [coarse.layer2[0].conv1.stride, coarse.layer2[0].conv2.stride]
    assert strides == [(2, 2), (1, 1)]


def test_unknown_networks_are_refused():
    with pytest.raises(ValueError, match="output_stride must be 4, 8 or 16, found 32"):
        ResNet(18, output_stride=32)
    with pytest.raises(ValueError, match="no ResNet of depth 20"):
        ResNet(20)
    with pytest.raises(ValueError, match="layers=5"):
        ResNet(18, layers=5)
    with pytest.raises(
        InputError, match="'backbone' must be one of resnet18, .*; found 'resnet20'"
    ):
        named_resnet("resnet20", output_stride=8)
    with pytest.raises(ValueError, match="no ResNet with stem='conv3'"):
        ResNet(18, stem="conv3")


@pytest.mark.parametrize("output_stride", [4, 8, 16])
def test_config_allows_the_strides_of_the_network(output_stride):
    overrides = [f"output_stride={output_stride}"]
    assert load_config("configs/cityscapes.yaml", overrides).output_stride == output_stride


def test_config_names_the_strides_there_are():
    with pytest.raises(InputError, match="'output_stride' must be one of 4, 8, 16, found 2"):
        load_config("configs/cityscapes.yaml", ["output_stride=2"])


@pytest.mark.parametrize("layers", [1, 2, 3])
def test_fewer_layers_are_the_first_stages_of_the_whole(layers):
    torch.manual_seed(0)
    whole = ResNet(18, width=8).eval()
    part = ResNet(18, width=8, layers=layers).eval()
    part.load_state_dict(
        {k: v for k, v in whole.state_dict().items() if k in part.state_dict()}, strict=True
    )
    image = torch.randn(1, 3, 40, 48)
    with torch.no_grad():
        torch.testing.assert_close(part(image), whole.stages(image)[layers - 1])
    assert part(image).shape[1] == part.out_channels


def test_initialisation_is_he_normal_fan_out():
    torch.manual_seed(0)
    backbone = ResNet(18)
    weight = backbone.layer4[1].conv2.weight  # 512 x 512 x 3 x 3
    assert weight.std().item() == pytest.approx((2 / (512 * 9)) ** 0.5, rel=0.01)
    assert (backbone.bn1.weight == 1).all() and (backbone.bn1.bias == 0).all()


# --- weights from files


def _save(path: Path, content) -> str:
    torch.save(content, path)
    return str(path)


def _backbone(seed: int = 1, **options) -> ResNet:
    torch.manual_seed(seed)
    return ResNet(18, width=4, **options)


def _same(a: ResNet, b: ResNet) -> bool:
    return all(torch.equal(a.state_dict()[key], b.state_dict()[key]) for key in a.state_dict())


@pytest.mark.parametrize("form", ["plain", "nested", "prefixed", "ddp", "old", "half"])
def test_weights_from_the_usual_files(tmp_path, form):
    source, target = _backbone(1, stem="v1c"), _backbone(2, stem="v1c")
    if form == "half":
        source.half().float()
    state = dict(source.state_dict()) | {"fc.weight": torch.zeros(3, 2), "fc.bias": torch.zeros(3)}
    if form == "nested":
        state = {"meta": {"epoch": 1}, "state_dict": state}
    elif form == "prefixed":
        state = {
            "state_dict": {f"backbone.{k}": v for k, v in state.items()}
            | {"head.w": state["fc.bias"]}
        }
    elif form == "ddp":
        state = {"model": {f"module.{k}": v for k, v in state.items()}}
    elif form == "old":
        state = {k: v for k, v in state.items() if "num_batches_tracked" not in k}
    elif form == "half":
        state = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
    load_backbone_weights(target, _save(tmp_path / "w.pth", state))
    assert _same(source, target)
    assert target.layer1[0].conv1.weight.dtype == torch.float32


def test_weights_of_four_stages_fill_a_backbone_of_three(tmp_path):
    source, target = _backbone(1), _backbone(2, layers=3)
    load_backbone_weights(target, _save(tmp_path / "w.pth", source.state_dict()))
    assert torch.equal(target.layer3[1].conv2.weight, source.layer3[1].conv2.weight)


def test_partial_weights_are_refused_then_accepted_by_name(tmp_path, capsys):
    source = _backbone(1)
    state = {k: v for k, v in source.state_dict().items() if not k.startswith("layer4.1.")}
    path = _save(tmp_path / "w.pth", state | {"extra.weight": torch.zeros(1)})
    target = _backbone(2)
    before = target.layer4[1].conv1.weight.clone()
    with pytest.raises(
        InputError, match=r"layer4\.1\.conv1\.weight.*backbone_weights_partial: true"
    ):
        load_backbone_weights(target, path)
    load_backbone_weights(target, path, partial=True)
    printed = capsys.readouterr().out
    for name in source.state_dict():
        absent = name.startswith("layer4.1.") and "num_batches_tracked" not in name
        assert (f" {name}," in printed or f" {name}\n" in printed) == absent, name
    assert "extra.weight" in printed
    assert torch.equal(target.layer4[1].conv1.weight, before)
    assert torch.equal(target.layer4[0].conv1.weight, source.layer4[0].conv1.weight)


def test_wrong_files_are_input_errors(tmp_path):
    target = _backbone()
    with pytest.raises(InputError, match=r"no file at .*gone\.pth"):
        load_backbone_weights(target, str(tmp_path / "gone.pth"))
    (tmp_path / "text.pth").write_text("<html>404</html>")
    with pytest.raises(InputError, match=r"text\.pth"):
        load_backbone_weights(target, str(tmp_path / "text.pth"))
    other = _save(tmp_path / "other.pth", {"encoder.weight": torch.zeros(2)})
    with pytest.raises(InputError, match=r"no tensor belongs.*encoder\.weight"):
        load_backbone_weights(target, other, partial=True)
    wide = _save(tmp_path / "wide.pth", ResNet(18, width=8).state_dict())
    with pytest.raises(InputError, match=r"another backbone: conv1\.weight \[8, 3, 7, 7\]"):
        load_backbone_weights(target, wide, partial=True)
    with pytest.raises(InputError, match="https://"):
        load_backbone_weights(target, "http://example.org/w.pth")
    with pytest.raises(InputError, match="7x7 stem"):
        load_backbone_weights(_backbone(stem="v1c"), "imagenet")


def test_hash_is_checked_whole_or_by_its_first_characters(tmp_path):
    path = tmp_path / "w.pth"
    _save(path, _backbone(1).state_dict())
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    load_backbone_weights(_backbone(2), f"{path}#sha256={digest}")
    load_backbone_weights(_backbone(2), f"{path}#sha256={digest[:8].upper()}")
    with pytest.raises(InputError, match=f"sha256 is {digest}, expected deadbeef"):
        load_backbone_weights(_backbone(2), f"{path}#sha256=deadbeef")


def test_imagenet_takes_torchvisions_first_weights(tmp_path, monkeypatch):
    """From the cache under the name torchvision gives it, hash in the name checked; no network."""
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(
        torch.hub, "download_url_to_file", lambda url, to: _save(Path(to), ResNet(18).state_dict())
    )
    with pytest.raises(InputError, match=r"sha256 is .*, expected f37072fd"):
        load_backbone_weights(ResNet(18), "imagenet")
    cached = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    digest = hashlib.sha256(cached.read_bytes()).hexdigest()
    load_backbone_weights(ResNet(18), f"{cached}#sha256={digest}")


def test_failed_download_says_how_to_go_on(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))

    def fail(*_):
        raise OSError("no route")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    with pytest.raises(
        InputError, match=r"could not download https://.*no route.*backbone_weights=PATH"
    ):
        load_backbone_weights(_backbone(), "https://example.org/w-12345678.pth")


def test_real_partial_resnet50():
    path = str(shared_data("weights/resnet50_msra_conv1-layer3_tvinput_fp16.pth"))
    backbone = ResNet(50, layers=3, bottleneck_stride="1x1")
    load_backbone_weights(backbone, path)  # conv1 to layer3 are complete
    expected = backbone_weights.read_backbone_state(Path(path), 3)
    assert len(expected) == len(backbone.state_dict())
    with pytest.raises(InputError, match="missing layer4"):
        load_backbone_weights(ResNet(50), path)
