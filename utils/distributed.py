"""Process ranks and devices: one process by default, `torchrun` for more."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from utils.safe.connections import end_silent_connections
from utils.safe.errors import InputError

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """This process: `rank` of `world_size`, computing on `device`."""

    rank: int
    world_size: int
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def on_cuda(self) -> bool:
        return self.device.type == "cuda"

    def all_have_bf16(self) -> bool:
        """Whether every process has an NVIDIA or AMD GPU that computes in bfloat16.

        All ranks call this together: one run has one precision.
        """
        own = self.on_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
        return all(gather_objects(own))

    @property
    def device_name(self) -> str:
        """The GPU's name, or cpu or mps."""
        return torch.cuda.get_device_name(self.device) if self.on_cuda else self.device.type


def setup(device: str | None = None) -> Ranks:
    """Join the group that torchrun started, or stay a single process.

    `device` is 'cpu', 'cuda', 'mps' (Apple's GPU, one process) or None: cuda when there is one.
    NCCL on cuda, gloo elsewhere. Raises InputError, also where the processes can't connect: a port
    in use, no address.
    """
    rank, world_size = _from_launcher("RANK", 0), _from_launcher("WORLD_SIZE", 1)
    if rank >= world_size:
        raise InputError(
            f"RANK is {rank} and WORLD_SIZE {world_size}: ranks count from 0; let torchrun set both"
        )
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if kind not in ("cpu", "cuda", "mps"):
        raise InputError(f"--device must be cpu, cuda or mps, found '{kind}'")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise InputError(
            "--device mps: torch sees no Apple GPU here (it needs a Mac with macOS 14 or later and "
            "torch's own build for it); use --device cpu"
        )
    if kind == "mps" and world_size > 1:
        raise InputError(
            f"--device mps: torch computes on it in one process, WORLD_SIZE is {world_size}; start "
            "the script without torchrun, or use --device cpu"
        )
    if kind == "cuda":
        if not torch.cuda.is_available():
            raise InputError("--device cuda: torch sees no CUDA device here; use --device cpu")
        local_rank = _from_launcher("LOCAL_RANK", 0)
        if local_rank >= torch.cuda.device_count():
            raise InputError(
                f"process {local_rank} on this machine needs its own GPU, but torch sees "
                f"{torch.cuda.device_count()}; start torchrun with "
                f"--nproc_per_node={torch.cuda.device_count()}"
            )
        torch.cuda.set_device(local_rank)
        kind = f"cuda:{local_rank}"
    if world_size > 1 and not dist.is_initialized():
        _join(kind)
    return Ranks(rank, world_size, torch.device(kind))


def _from_launcher(name: str, otherwise: int) -> int:
    """A number that torchrun sets in the environment of its processes."""
    value = os.environ.get(name, str(otherwise))
    if not (value.isdecimal() and len(value) < 10):
        raise InputError(
            f"the environment variable {name} is '{value}', not a whole number; unset it, or let "
            "torchrun set it"
        )
    return int(value)


def _join(device: str) -> None:
    # Imported after the group is made, as torchvision does, its functions would keep the group as
    # their default argument; a gloo group that outlives `cleanup` may abort the process at exit.
    import torch.distributed.nn.functional

    try:
        if device.startswith("cuda"):
            dist.init_process_group("nccl", device_id=torch.device(device))
        else:
            dist.init_process_group("gloo")
    except (ValueError, dist.DistError) as error:  # no address, a port in use, a process missing
        place = ":".join(os.environ.get(f"MASTER_{part}", "?") for part in ("ADDR", "PORT"))
        raise InputError(
            f"the processes can't connect at {place} (MASTER_ADDR:MASTER_PORT): "
            f"{str(error).splitlines()[0]}. Start them with torchrun --standalone, which finds a "
            "free port, or name another: torchrun --master-port"
        ) from None
    end_silent_connections()


def gloo_group() -> dist.ProcessGroup:
    """A further group of all processes, for messages between their CPUs; all ranks call it."""
    group = dist.new_group(backend="gloo")
    end_silent_connections()
    return group


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
    """List of one small Python object per rank, in rank order, on every rank."""
    if not dist.is_initialized():
        return [value]
    values = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def on_main(ranks: Ranks, function: Callable[[], Result]) -> Result:
    """`function()`, called on rank 0 alone; its result, a small Python object, on every rank.

    All ranks call this together. An InputError of rank 0 is raised on all of them.
    """
    outcome = (None, None)
    if ranks.is_main:
        try:
            outcome = (function(), None)
        except InputError as error:
            outcome = (None, str(error))
    result, problem = gather_objects(outcome)[0]
    if problem is not None:
        raise InputError(problem)
    return result


def first_on_each_machine(load: Callable[[], Result]) -> Result:
    """Result of `load()`, called by one process of each machine first, which may download files.

    All ranks must call it. If the first process fails, torchrun ends the others.
    """
    if not dist.is_initialized():
        return load()
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        result = load()
        barrier()
        return result
    barrier()
    return load()


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """A context that computes in bfloat16 for "bf16" and in float32 for "fp32"."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")
