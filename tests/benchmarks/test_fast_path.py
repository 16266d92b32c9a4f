"""Twenty steps of the product against the plain, official way of taking them."""

from dataclasses import replace

import pytest
import torch
from steps import train_one_step
from tiny_clip import tiny_clip

from benchmarks.inputs import official_config, random_images, random_labels
from benchmarks.official.loss import Losses
from benchmarks.official.step import Step, plain
from datasets.transforms import normalize
from models.build import (
    build_criterion,
    build_maskclip_options,
    build_model,
    build_network,
    build_sampler,
)
from models.maskclip import MaskCLIP
from models.resnet import BasicBlock
from models.views import prepare_views
from utils.config import Config
from utils.distributed import Ranks
from utils.seed import LOCAL_VIEWS, generator

STEPS, WARMUP = 20, 8
SIZE, PATCH = (192, 256), (128, 96)
RANKS = Ranks(0, 1, torch.device("cpu"))
CONFIG = official_config(
    backbone="resnet18_v1c_quarter",
    crop_size=list(SIZE),
    patch_size=list(PATCH),
    batch_size=2,
    lr=1e-5,
)


def damped(network: torch.nn.Module) -> torch.nn.Module:
    """Random residual branches of full strength amplify rounding from step to step."""
    for block in network.modules():
        if isinstance(block, BasicBlock):
            torch.nn.init.constant_(block.bn2.weight, 0.2)
    return network


def flat(network: torch.nn.Module) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in network.aspp.parameters()])


def sgd(network: torch.nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(
        network.parameters(), CONFIG.lr, CONFIG.momentum, weight_decay=CONFIG.weight_decay
    )


def batches() -> list[dict[str, torch.Tensor]]:
    draws = torch.Generator().manual_seed(3)
    return [
        {
            "image": random_images(2, SIZE, draws),
            "valid": torch.ones(2, *SIZE, dtype=torch.bool),
            "image_labels": random_labels(2, draws),
        }
        for _ in range(4)
    ] * (STEPS // 4)


def text_embeddings() -> torch.Tensor:
    draws = torch.Generator().manual_seed(1)
    return torch.nn.functional.normalize(torch.randn(19, 64, generator=draws), dim=1)


@pytest.fixture(scope="module")
def official() -> tuple[list[float], torch.Tensor]:
    """The losses, and how far the weights of the ASPP went."""
    torch.manual_seed(0)
    network = plain(damped(build_model(CONFIG, 19, text_embeddings(), pretrained=False)))
    start = flat(network)
    step = Step(
        network,
        tiny_clip().visual,
        text_embeddings(),
        Losses(WARMUP, "cpu"),
        sgd(network),
        PATCH,
    )
    sampler = build_sampler(CONFIG)
    losses = []
    for index, batch in enumerate(batches()):
        view = sampler.draw(2, SIZE, generator(CONFIG.seed, LOCAL_VIEWS, index))[0]
        image = normalize(batch["image"], "imagenet")
        losses.append(step(image, batch["image_labels"], view.box[:2], view.size)["total"].item())
    return losses, flat(network) - start


def our_losses(config: Config) -> tuple[list[float], torch.Tensor, list[float]]:
    """The same, and w from the first step of CARB on."""
    torch.manual_seed(0)
    model = damped(build_model(config, 19, text_embeddings(), pretrained=False))
    start = flat(model)
    maskclip = MaskCLIP(tiny_clip().visual, text_embeddings(), build_maskclip_options(config))
    criterion, optimizer = build_criterion(config), sgd(model)
    sampler = build_sampler(config)
    network = build_network(model, config, RANKS)
    losses, balances = [], []
    for step, batch in enumerate(batches()):
        views = prepare_views(batch, step, config, RANKS, maskclip, sampler)
        result = train_one_step(
            network, criterion, optimizer, views, step, config.lr, step >= WARMUP
        )
        losses.append(result["loss"].item())
        if step >= WARMUP:
            balances.append(result["w"].item())
    return losses, flat(model) - start, balances


@pytest.mark.parametrize("channels_last", [False, True])
def test_twenty_steps_give_the_losses_of_the_plain_path(
    channels_last: bool, official: tuple[list[float], torch.Tensor]
) -> None:
    """At a learning rate so low that a pixel changes its region in one path alone but rarely."""
    losses, weights = official
    ours, our_weights, balances = our_losses(replace(CONFIG, channels_last=channels_last))
    assert ours == pytest.approx(losses, rel=1e-4)
    # Both phases were there, and the weights moved alike.
    assert len(balances) == STEPS - WARMUP and min(balances) > 0 and set(balances) != {1.0}
    assert weights.abs().max() > 1e-4
    assert (our_weights - weights).norm() < 1e-3 * weights.norm()
