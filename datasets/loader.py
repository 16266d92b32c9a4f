"""Whole images one by one."""

from collections.abc import Sequence

from torch.utils.data import DataLoader, Dataset

from utils.config import Config
from utils.safe.signals import leave_signals_to_parent


def image_loader(
    dataset: Dataset, config: Config, indices: Sequence[int] | None = None
) -> DataLoader:
    """One sample at a time, as the sizes of images differ: all, or those of `indices`."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=indices,
        num_workers=config.num_workers,
        worker_init_fn=leave_signals_to_parent,
    )
