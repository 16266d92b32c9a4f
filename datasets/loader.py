"""Loader of whole images."""

from torch.utils.data import DataLoader, Dataset

from utils.distributed import Ranks
from utils.safe.signals import leave_signals_to_parent


def image_loader(dataset: Dataset, num_workers: int, ranks: Ranks | None = None) -> DataLoader:
    """Loader of single samples, since image sizes differ: all, or every n-th of n ranks."""
    return DataLoader(
        dataset,
        batch_size=None,
        sampler=ranks and range(ranks.rank, len(dataset), ranks.world_size),
        num_workers=num_workers,
        worker_init_fn=leave_signals_to_parent,
    )
