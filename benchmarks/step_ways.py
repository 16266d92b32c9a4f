"""One training step, the official way and ours, from equal weights, batches and local views."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import Options
from benchmarks.inputs import (
    CLASSES,
    official_config,
    random_images,
    random_labels,
    random_text_embeddings,
    random_visual,
)
from benchmarks.official.loss import Losses
from benchmarks.official.step import Step, plain
from datasets.transforms import normalize
from models.build import (
    build_criterion,
    build_maskclip_options,
    build_model,
    build_network,
    build_optimizer,
    build_sampler,
)
from models.carb import warmup_losses
from models.maskclip import MaskCLIP
from models.resnet import Bottleneck
from models.training import sgd_step
from models.views import LocalView, prepare_views
from utils.config import Config
from utils.distributed import Ranks
from utils.seed import LOCAL_VIEWS, generator

NEVER = 10**9
LEARNING_RATE = 1e-4  # the last one of the schedule
DILATIONS = {"v2": (6, 12, 18, 24), "v3": (12, 24, 36)}  # of the two ASPPs


@dataclass(frozen=True)
class Way:
    """A network in training; calling it takes the setting's steps and returns their losses."""

    network: nn.Module
    steps: Callable[[], Iterator[Tensor]]

    def __call__(self) -> list[float]:
        return torch.stack(list(self.steps())).tolist()


@dataclass(frozen=True)
class Setting:
    """Sizes of a step; (height, width) in pixels."""

    batch: int
    size: tuple[int, int]
    patch: tuple[int, int]
    ratio: tuple[float, float]
    steps: int = 1  # in one call
    local_view_per: str = "batch"  # as in the official program; or "image", our default
    aspp: str = "v2"  # as in the official program; or "v3", our default

    def config(self, **changes: Any) -> Config:
        return official_config(
            batch_size=self.batch,
            crop_size=list(self.size),
            patch_size=list(self.patch),
            local_resize=list(self.ratio),
            lr=LEARNING_RATE,
            aspp=self.aspp,
            aspp_dilations=list(DILATIONS[self.aspp]),
            **{"arithmetic.local_view_per": self.local_view_per},
            **changes,
        )

    def local_views(self, config: Config, step: int) -> list[LocalView]:
        """The local views that `prepare_views` draws, one for each image of the batch."""
        draw = build_sampler(config).draw
        return draw(self.batch, self.size, generator(config.seed, LOCAL_VIEWS, step))


CPU = Setting(2, (256, 512), (256, 128), (1.5, 1.5))
CPU_QUICK = Setting(2, (128, 256), (128, 64), (1.5, 1.5))
GPU = Setting(8, (512, 1024), (512, 256), (1.0, 2.0), steps=20)  # local views of many sizes
GPU_QUICK = replace(GPU, steps=4)


def setting(options: Options) -> Setting:
    if options.device.startswith("cuda"):
        return GPU_QUICK if options.quick else GPU
    return CPU_QUICK if options.quick else CPU


def official_way(setting: Setting, balanced: bool, device: str, seed: int = 0) -> Way:
    """The official step, on images normalised by the loader; `seed` draws the batch.

    Its local view for the whole batch is the first image's.
    """
    config = setting.config()
    network = plain(_network(config, device)).train()
    step = Step(
        network,
        random_visual().to(device),
        random_text_embeddings().to(device),
        Losses(0 if balanced else NEVER, device),
        build_optimizer(config, network),
        setting.patch,
    )
    batch = _batch(setting, device, seed)
    image, image_labels = batch["image"], batch["image_labels"]
    image = _pinned(normalize(image, "imagenet"), device)

    def steps() -> Iterator[Tensor]:
        for index in range(setting.steps):
            box, local_size = setting.local_views(config, index)[0]
            on_device = (tensor.to(device, non_blocking=True) for tensor in (image, image_labels))
            yield step(*on_device, box[:2], local_size)["total"].detach()

    return Way(network, steps)


def our_way(setting: Setting, balanced: bool, device: str, seed: int = 0, **changes: Any) -> Way:
    """The loop of train_warmup.py and train_carb.py; `changes` are configuration keys."""
    config = setting.config(**changes)
    ranks = Ranks(0, 1, torch.device(device))
    model = _network(config, device)
    options, bf16 = build_maskclip_options(config), config.precision == "bf16"
    maskclip = MaskCLIP(random_visual(), random_text_embeddings(), options, bf16).to(device)
    sampler = build_sampler(config)
    criterion = build_criterion(config)
    optimizer = build_optimizer(config, model)
    losses_of = criterion if balanced else partial(warmup_losses, rules=criterion.rules)
    network = build_network(model, config, ranks)
    batch = _batch(setting, device, seed)

    def steps() -> Iterator[Tensor]:
        for index in range(setting.steps):
            views = prepare_views(batch, index, config, ranks, maskclip, sampler)
            loss = losses_of(network(views.image, index), views)["loss"]
            sgd_step(loss, optimizer, config.lr)
            yield loss.detach()

    return Way(model, steps)


def _network(config: Config, device: str) -> nn.Module:
    """The network with the same random weights every time and damped residual branches.

    Undamped, and at the initial learning rate, random weights amplify rounding so much that the
    official way differs from itself with another number of threads (by 1e-2 after one step).
    """
    torch.manual_seed(0)
    network = build_model(config, CLASSES, random_text_embeddings(), pretrained=False)
    for block in network.modules():
        if isinstance(block, Bottleneck):
            nn.init.constant_(block.bn3.weight, 0.2)
    return network.to(device)


def _batch(setting: Setting, device: str, seed: int) -> dict[str, Tensor]:
    """A batch as the loader gives it, on the host."""
    draws = torch.Generator().manual_seed(seed)
    image = random_images(setting.batch, setting.size, draws)
    batch = {
        "image": image,
        "valid": torch.ones(setting.batch, *setting.size, dtype=torch.bool),
        "image_labels": random_labels(setting.batch, draws),
    }
    return {key: _pinned(value, device) for key, value in batch.items()}


def _pinned(tensor: Tensor, device: str) -> Tensor:
    return tensor.pin_memory() if device.startswith("cuda") else tensor
