"""Process ranks and devices: one process by default, `torchrun` for more."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from utils.errors import InputError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """Where this process stands: `rank` of `world_size`, computing on `device`."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"


def setup(device: str | None = None) -> Ranks:
    """Join the group that torchrun started, or stay a single process.

    `device` is 'cpu', 'cuda' or None: cuda when there is one. NCCL on cuda, gloo elsewhere.
    """
    rank = int(os.environ.get("RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in ("cpu", "cuda"):
        raise InputError(f"--device must be cpu or cuda, found '{kind}'")
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise InputError("--device cuda: torch sees no CUDA device here; use --device cpu")
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"process {local_rank} on this machine needs a GPU of its own, but torch sees "
                f"{torch.cuda.device_count()}; start torchrun with "
                f"--nproc_per_node={torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local_rank)
        kind = f"cuda:{local_rank}"
    if world_size > 1 and not dist.is_initialized():
        if kind.startswith("cuda"):
            dist.init_process_group("nccl", device_id=torch.device(kind))
        else:
            dist.init_process_group("gloo")
    return Ranks(rank, world_size, torch.device(kind))


def cleanup() -> None:
    """Leave the process group, if there is one."""
    if dist.is_initialized():
        dist.destroy_process_group()


def barrier() -> None:
    """Wait for all ranks."""
    if dist.is_initialized():
        dist.barrier()


def all_reduce(tensor: torch.Tensor) -> torch.Tensor:
    """Sum `tensor` over all ranks in place; the same tensor at world size 1."""
    if dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def gather_objects(value: object) -> list:
    """One small Python object per rank, in rank order, known to every rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def first_on_each_machine(load: Callable[[], Result]) -> Result:
    """`load()`, on one process of each machine first: what it downloads or makes, others find.

    All ranks must call it. An error of the first process is left to end the others (torchrun).
    """
    if not dist.is_initialized():
        return load()
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        result = load()
        barrier()
        return result
    barrier()
    return load()
