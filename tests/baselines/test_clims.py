"""CLIMS against the official code; training and masks as a user makes them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import golden_cases, load_golden
from torch import Tensor, nn

from baselines import clims
from baselines.cam import both_views, full_maps, low_maps, normalized
from models.cam import label_cams
from models.clims import (
    WEIGHTS,
    area_loss,
    background_loss,
    clims_losses,
    image_features,
    object_loss,
    suppression_loss,
)
from models.clip_loading import clip_from_state_dict
from models.text import text_embeddings
from models.training import poly_sgd, poly_step

LOSSES, STEP, CAM, OPTIMISER = (
    f"weak/clims_{name}.npz" for name in ("losses", "step", "cam", "optimiser")
)


@pytest.fixture(scope="module")
def clip() -> nn.Module:
    weights = load_golden("clip_small_state_dict.npz")
    return clip_from_state_dict({key: torch.from_numpy(weights[key]) for key in weights.files})


def text_of(clip: nn.Module, texts: list[str]) -> Tensor:
    return text_embeddings(clip, [(text,) for text in texts], ("{}",))


def near(found: Tensor, golden: np.ndarray, name: str, atol: float = 1e-5, rtol: float = 0) -> None:
    limits = {"rtol": rtol, "atol": atol, "msg": lambda text: f"{name}: {text}"}
    torch.testing.assert_close(found.detach(), torch.from_numpy(golden), **limits)


# ---- equations, against the official code


def test_golden_clims_losses(clip: nn.Module) -> None:
    golden = load_golden(LOSSES)
    left = {*golden.files}
    gradients = {"atol": 1e-5, "rtol": 1e-4}

    def compare(key: str, found: Tensor, **limits: float) -> None:
        left.discard(key)
        near(found, golden[key], key, **limits)

    for key in [key for key in golden.files if key.endswith("/similarity")]:
        group = key.partition("/")[0]
        if not group.startswith("sim_"):
            continue
        left.discard(key)
        for name, loss in (("simmax", object_loss), ("simmin", background_loss)):
            similarity = torch.from_numpy(golden[key]).requires_grad_()
            value = loss(similarity)
            value.backward()
            compare(f"{group.replace('sim', name, 1)}/loss", value, **gradients)
            compare(f"{group.replace('sim', name, 1)}/grad", similarity.grad, **gradients)

    images = torch.from_numpy(golden["cbs/images"]).requires_grad_()
    prompts = text_of(clip, golden["cbs/prompts"].tolist())
    cosines = image_features(clip, images) @ prompts.T
    compare("cbs/cosine", cosines)
    left -= {"cbs/images", "cbs/prompts"}
    for key in [key for key in golden.files if key.endswith("/threshold")]:
        left.discard(key)
        value = suppression_loss(cosines, golden[key].item())
        gradient = torch.autograd.grad(value, images, retain_graph=True)[0]
        compare(key.replace("threshold", "loss"), value, **gradients)
        compare(key.replace("threshold", "grad"), gradient, **gradients)

    names, ids = golden["forward/names"].tolist(), golden["forward/class_ids"].tolist()
    texts = [clims.TEMPLATE.replace("{}", names[i]) for i in ids]
    assert texts == golden["forward/texts"].tolist()
    similarity = (image_features(clip, images) * text_of(clip, texts)).sum(1)
    compare("forward/similarity", similarity[:, None, None])
    assert left == {"forward/names", "forward/class_ids", "forward/texts"}


class Small(nn.Module):
    """The network of the reference file: one convolution of stride 16 and the classifier."""

    def __init__(self, weights: dict[str, Tensor]) -> None:
        super().__init__()
        channels, classes = len(weights["back.weight"]), len(weights["classifier.weight"])
        self.back = nn.Conv2d(3, channels, 16, 16)
        self.classifier = nn.Conv2d(channels, classes, 1, bias=False)
        self.load_state_dict(weights)

    def forward(self, image: Tensor) -> Tensor:
        return self.classifier(self.back(image).relu()).sigmoid()


@pytest.mark.parametrize("case", sorted({*golden_cases(STEP)}) or ["none"])
def test_golden_clims_training(clip: nn.Module, case: str) -> None:
    golden = load_golden(STEP)
    left = {key for key in golden.files if key.startswith(f"{case}/")}

    def take(key: str) -> np.ndarray:
        left.discard(f"{case}/{key}")
        return golden[f"{case}/{key}"]

    def start(prefix: str) -> dict[str, Tensor]:
        names = [k.partition(f"/{prefix}/")[2] for k in golden.files if f"{case}/{prefix}/" in k]
        return {name: torch.from_numpy(take(f"{prefix}/{name}")) for name in names}

    text = text_of(clip, [clims.TEMPLATE.replace("{}", n) for n in golden["names"].tolist()])
    rivals = text_of(clip, golden["background"].tolist())
    network, steps, lr = Small(start("sd0")), take("max_step").item(), take("lr").item()
    decay, threshold = take("weight_decay").item(), take("threshold").item()
    weights = dict(zip(WEIGHTS, take("weights_hyper").tolist(), strict=True))
    parts = (network.back.parameters(), lr), (network.classifier.parameters(), 10 * lr)
    groups = [{"params": values, "lr": rate} for values, rate in parts]
    optimizer = poly_sgd(groups, decay, "authors")
    images, labels = (torch.from_numpy(take(key)) for key in ("imgs", "labels"))
    size = len(images) // steps
    for step in range(steps):
        part = slice(step * size, (step + 1) * size)
        cam = network(images[part])
        cam.retain_grad()
        found = clims_losses(
            cam,
            images[part],
            labels[part],
            clip,
            text,
            rivals,
            threshold=threshold,
            weights=weights,
        )
        poly_step(found["loss"], optimizer, step, steps)
        here = f"{step:02d}"
        near(cam, take(f"{here}/cam"), "cam", 3e-5)
        for name in ("OTM", "BTM", "CBS", "REG"):
            near(found[f"loss_{name.lower()}"], take(f"{here}/L_{name}"), name)
        # Ten and more: a sum of four terms with weights of up to 24.
        near(found["loss"], take(f"{here}/loss"), "loss", 1e-5 * max(1, abs(found["loss"].item())))
        gradient = take(f"{here}/grad_cam")
        near(cam.grad, gradient, "grad_cam", 3e-5 * np.abs(gradient).max())
    for name, value in start("sd1").items():
        near(network.state_dict()[name], value.numpy(), f"sd1/{name}", 3e-5)
    assert not left


def test_golden_clims_optimiser() -> None:
    golden = load_golden(OPTIMISER)
    left = {*golden.files}

    def take(key: str) -> np.ndarray:
        left.discard(key)
        return golden[key]

    values = [nn.Parameter(torch.from_numpy(take(key))) for key in ("w0", "v0")]
    lr, decay = take("lr").item(), take("weight_decay").item()
    groups = [{"params": [v], "lr": x} for v, x in zip(values, (lr, 10 * lr), strict=True)]
    optimizer = poly_sgd(groups, decay, "authors")
    steps = take("max_step").item()
    for step in range(len({key[:2] for key in golden.files if key[:2].isdecimal()})):
        gradients = [torch.from_numpy(take(f"{step:02d}/grad_{key}")) for key in "wv"]
        loss = sum((v * g).sum() for v, g in zip(values, gradients, strict=True))
        poly_step(loss, optimizer, step, steps)
        rates = torch.tensor([group["lr"] for group in optimizer.param_groups])
        near(rates, take(f"{step:02d}/lr"), "lr")
        for value, key in zip(values, "wv", strict=True):
            near(value, take(f"{step:02d}/{key}"), f"{step} {key}")
    assert not left


def test_the_momentum_is_the_weight_decay_or_the_usual_one() -> None:
    for arithmetic, momentum in (("authors", 1e-4), ("correct", 0.9)):
        group = {"params": [nn.Parameter(torch.ones(1))], "lr": 0.1}
        (group,) = poly_sgd([group], 1e-4, arithmetic).param_groups
        assert (group["momentum"], group["weight_decay"], group["lr"]) == (momentum, 1e-4, 0.1)


def test_a_batch_without_a_class_has_the_area_loss_alone(clip: nn.Module) -> None:
    maps = torch.rand(1, 3, 4, 4, requires_grad=True)
    text = F.normalize(torch.randn(3, clip.visual.output_dim), dim=1)
    found = clims_losses(maps, torch.randn(1, 3, 64, 64), torch.zeros(1, 3), clip, text, text)
    assert found["loss"].item() == pytest.approx(WEIGHTS["reg"] * area_loss(maps).item())
    found["loss"].backward()
    assert maps.grad.isfinite().all()


@pytest.mark.parametrize("case", golden_cases(CAM) or ["none"])
def test_golden_clims_maps(case: str) -> None:
    golden = load_golden(CAM)
    left = {key for key in golden.files if key.startswith(f"{case}/")}

    def take(key: str) -> Tensor:
        left.discard(f"{case}/{key}")
        return torch.from_numpy(golden[f"{case}/{key}"])

    if f"{case}/weight" in golden.files:
        maps = F.conv2d(take("x"), take("weight")[:, :, None, None])
        near(maps.sigmoid(), take("train_out").numpy(), "train_out")
        near(both_views(maps), take("cam_out").numpy(), "cam_out")
        assert not left
        return
    size, present = tuple(take("size").tolist()), take("label")
    keys = present.nonzero().flatten()
    assert keys.tolist() == take("keys").tolist()
    maps = [take(f"out{i}") for i in range(len(clims.SCALES))]
    near(normalized(low_maps(maps, size), present)[keys], take("cam").numpy(), "cam")
    full = normalized(full_maps(maps, size), present)
    near(full[keys], take("high_res").numpy(), "high_res")
    (name,) = (key for key in left if "label_thr" in key)
    threshold = float(name.partition("label_thr")[2])
    found = label_cams(full, present, threshold)
    assert torch.equal(found, take(name.partition("/")[2]))
    assert not left
