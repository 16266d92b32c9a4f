"""What only a GPU can show; skipped, and said so, where there is none."""

import pytest
import torch
from random_inputs import official_config, random_images, random_labels
from steps import train_one_step
from tiny_clip import tiny_clip

from datasets.labels import IGNORE_INDEX
from models.build import (
    build_criterion,
    build_maskclip_options,
    build_model,
    build_network,
    build_sampler,
)
from models.maskclip import MaskCLIP
from models.views import Views, prepare_views
from utils.config import Config
from utils.distributed import Ranks
from utils.metrics import ConfusionMatrix

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
SIZE, PATCH = (128, 192), (80, 72)
CALIBRATED = {"attention": "calibrated", "calibrated_blocks": [0, 1, 0, 1]}  # of a ViT of 3 blocks
TEACHERS = {
    "maskclip": {"preset": "maskclip"},
    "fast": {"preset": "fast"},
    "PAMR": {"preset": "fast", "pamr_steps": 3, "pamr_dilations": [1, 4]},
    "windows": {"preset": "naclip", "short_side": 80, "window": [48, 48], "stride": [24, 24]},
    "calibrated": {"preset": "maskclip_plain"} | CALIBRATED,
}


def config(**changes: object) -> Config:
    return official_config(
        backbone="resnet18_v1c_quarter",
        crop_size=list(SIZE),
        patch_size=list(PATCH),
        batch_size=2,
        lr=1e-5,
        **{"arithmetic.local_view_per": "image"},
        **changes,
    )


def tiny_teacher(settings: Config, text: torch.Tensor, device: str) -> MaskCLIP:
    options, bf16 = build_maskclip_options(settings), settings.precision == "bf16"
    return MaskCLIP(tiny_clip().visual, text, options, bf16).to(device)


def random_batch(device: str) -> dict[str, torch.Tensor]:
    draws = torch.Generator().manual_seed(3)
    batch = {
        "image": random_images(2, SIZE, draws),
        "valid": torch.ones(2, *SIZE, dtype=torch.bool),
        "image_labels": random_labels(2, draws),
    }
    return {key: value.pin_memory() if device == "cuda" else value for key, value in batch.items()}


def first_views(settings: Config, device: str) -> Views:
    """The views of the first step, whose masks the teacher makes."""
    torch.manual_seed(0)  # of the class token, too
    text = torch.nn.functional.normalize(torch.randn(19, 64), dim=1)
    ranks, teacher = Ranks(0, 1, torch.device(device)), tiny_teacher(settings, text, device)
    return prepare_views(random_batch(device), 0, settings, ranks, teacher, build_sampler(settings))


def steps(settings: Config, device: str, num_steps: int, strict_from: int = 10**9) -> list[float]:
    """Losses of alternating warm-up and CARB steps; from `strict_from` on, waiting is an error."""
    torch.manual_seed(0)
    ranks = Ranks(0, 1, torch.device(device))
    text = torch.nn.functional.normalize(torch.randn(19, 64), dim=1)
    model = build_model(settings, 19, text, pretrained=False).to(device)
    maskclip = tiny_teacher(settings, text, device)
    sampler = build_sampler(settings)
    criterion = build_criterion(settings)
    optimizer = torch.optim.SGD(model.parameters(), settings.lr, settings.momentum)
    network = build_network(model, settings, ranks)
    batch = random_batch(device)
    losses = []
    for step in range(num_steps):
        if step >= strict_from:
            torch.cuda.set_sync_debug_mode("error")
        views = prepare_views(batch, step, settings, ranks, maskclip, sampler)
        result = train_one_step(
            network, criterion, optimizer, views, step, settings.lr, step % 2 == 1
        )
        losses.append(result["loss"])
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("default")
    return torch.stack(losses).tolist()


@pytest.mark.parametrize("teacher", ["maskclip", "fast", "PAMR", "windows"])
def test_no_step_waits_for_the_host(teacher: str) -> None:
    settings = config(precision="bf16", channels_last=True, teacher=TEACHERS[teacher])
    losses = steps(settings, "cuda", 8, strict_from=4)
    assert len(losses) == 8 and all(loss < 1e3 for loss in losses)


def test_a_step_is_that_of_the_cpu(monkeypatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    assert steps(config(), "cuda", 4) == pytest.approx(steps(config(), "cpu", 4), rel=1e-3)


@pytest.mark.parametrize("teacher", TEACHERS)
def test_masks_of_a_step_are_those_of_the_cpu(teacher: str, monkeypatch) -> None:
    """But for pixels whose two best classes nearly tie."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    settings = config(teacher=TEACHERS[teacher], **{"arithmetic.label_filter": "mask"})
    found, expected = (first_views(settings, device) for device in ("cuda", "cpu"))
    assert found.boxes == expected.boxes
    pairs = [(found.global_mask, expected.global_mask), (found.local_mask, expected.local_mask)]
    for on_gpu, on_cpu in pairs:
        assert len(on_cpu.unique()) > 1
        assert (on_gpu.cpu() != on_cpu).float().mean() < 0.01


def test_counts_are_those_of_the_cpu() -> None:
    matrices = []
    prediction, truth = torch.randint(19, (64, 96)), torch.randint(20, (64, 96))
    truth[truth == 19] = IGNORE_INDEX
    for device in ("cpu", "cuda"):
        matrices.append(ConfusionMatrix(19, device))
        matrices[-1].update(prediction.to(device), truth)
    assert torch.equal(matrices[0].counts, matrices[1].counts.cpu())
