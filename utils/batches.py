"""Training batches by step number."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch.utils.data import DataLoader, Dataset, default_collate

from utils.config import Config
from utils.distributed import Ranks
from utils.safe.errors import InputError
from utils.safe.signals import leave_signals_to_parent
from utils.seed import AUGMENTATION, ORDER, derive, generator


class Draw(NamedTuple):
    """Which image, and the seed of its augmentation; the sampler yields these."""

    index: int
    seed: int


@dataclass(frozen=True)
class StepSampler:
    """The batch of each step from `start` to `end`, for one rank.

    The images come in one endless stream of shuffled epochs; step s of a run takes places
    s*batch_size .. (s+1)*batch_size-1, of which each rank takes its equal part. So a batch is a
    function of (seed, step) alone: resuming needs no state, and the ranks together see what one
    process would.
    """

    num_images: int
    batch_size: int
    seed: int
    start: int
    end: int
    ranks: Ranks

    def __len__(self) -> int:
        return self.end - self.start

    def __iter__(self) -> Iterator[list[Draw]]:
        share = self.batch_size // self.ranks.world_size
        epoch, order = -1, []
        for step in range(self.start, self.end):
            first = step * self.batch_size + self.ranks.rank * share
            draws = []
            for place in range(first, first + share):
                if place // self.num_images != epoch:
                    epoch = place // self.num_images
                    shuffle = generator(self.seed, ORDER, epoch)
                    order = torch.randperm(self.num_images, generator=shuffle).tolist()
                draws.append(
                    Draw(order[place % self.num_images], derive(self.seed, AUGMENTATION, place))
                )
            yield draws


def collate(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples -> batch: everything stacked but "points", of which each image has its own number."""
    points = [sample.pop("points") for sample in samples if "points" in sample]
    return default_collate(samples) | ({"points": points} if points else {})


def training_loader(
    dataset: Dataset, config: Config, ranks: Ranks, start: int, end: int
) -> DataLoader:
    """Batches of steps `start` .. `end`-1 for this rank. `config.batch_size` is over all ranks."""
    if config.batch_size % ranks.world_size:
        raise InputError(
            f"batch_size {config.batch_size} can't be shared by {ranks.world_size} processes; "
            "use a multiple, e.g. --set "
            f"batch_size={ranks.world_size * max(1, config.batch_size // ranks.world_size)}"
        )
    sampler = StepSampler(len(dataset), config.batch_size, config.seed, start, end, ranks)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=config.num_workers,
        collate_fn=collate,
        pin_memory=ranks.on_cuda,
        worker_init_fn=leave_signals_to_parent,
    )
