"""Losses, queues and training over two gloo processes: with `sync`, the same as one process on all
images, but for batch normalisation, which each CPU process does over its own images.
"""

import os
import socket

import torch
import torch.multiprocessing
from torch import Tensor

from models.carb import CARBCriterion
from models.deeplabv3 import build_model
from utils.config import load_config
from utils.distributed import Ranks, all_reduce, cleanup, gather_objects, setup
from utils.training import descend, wrap

STEPS, IMAGES, CLASSES = 4, 4, 3


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, image-level labels, masks of a step; the region sizes of the two halves differ."""
    generator = torch.Generator().manual_seed(step)
    logits = torch.randn(IMAGES, CLASSES, 6, 6, generator=generator, dtype=torch.float64)
    mask = torch.randint(0, CLASSES, (IMAGES, 6, 6), generator=generator)
    mask[2:, :3] = 255
    return logits, torch.ones(IMAGES, CLASSES), mask


def run(criterion: CARBCriterion, images: slice) -> tuple[list[float], list[list], dict]:
    """Losses, gradients (of the mean over ranks, as data-parallel training has it) and queues."""
    losses, gradients = [], []
    for step in range(STEPS):
        logits, labels, mask = batch(step)
        logits.requires_grad_()
        own = criterion(logits[images], labels[images], mask[images])
        own["loss"].backward()
        losses.append(own["loss"].item())
        world = len(gather_objects(0))
        gradients.append((all_reduce(logits.grad) / world).tolist())
    return losses, gradients, criterion.queue_state()


def train(ranks: Ranks, images: slice) -> list[float]:
    """Weights after some steps with batch norms that use their running statistics."""
    config = load_config("configs/tiny_cpu.yaml", ["sync=true"])
    torch.manual_seed(0)
    model = build_model(config, CLASSES, torch.randn(CLASSES, 16))
    network, criterion = wrap(model, config, ranks), CARBCriterion.from_config(config)
    network.eval()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
    for step in range(STEPS):
        _, labels, mask = batch(step)
        image = torch.randn(IMAGES, 3, 32, 32, generator=torch.Generator().manual_seed(step))
        mask = mask.repeat_interleave(6, 1).repeat_interleave(6, 2)
        losses = criterion(network(image[images]), labels[images], mask[images])
        descend(losses["loss"], optimizer, 0.01)
    return torch.cat([parameter.flatten() for parameter in model.parameters()]).tolist()


def worker(rank: int, port: int, sync: bool, results) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    ranks, images = setup("cpu"), slice(2 * rank, 2 * rank + 2)
    results[rank] = (*run(CARBCriterion(sync=sync), images), train(ranks, images) if sync else None)
    cleanup()


def two_processes(sync: bool) -> list:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with torch.multiprocessing.get_context("spawn").Manager() as manager:
        results = manager.dict()
        torch.multiprocessing.spawn(worker, (port, sync, results), nprocs=2)
        return [results[0], results[1]]


def test_sync_makes_two_processes_equal_one() -> None:
    losses, gradients, queues = run(CARBCriterion(), slice(0, IMAGES))
    weights = torch.tensor(train(Ranks(0, 1, torch.device("cpu")), slice(0, IMAGES)))
    for own_losses, own_gradients, own_queues, own_weights in two_processes(sync=True):
        torch.testing.assert_close(torch.tensor(own_losses), torch.tensor(losses))
        torch.testing.assert_close(torch.tensor(own_gradients), torch.tensor(gradients))
        for name, values in queues.items():
            torch.testing.assert_close(torch.tensor(own_queues[name]), torch.tensor(values))
        torch.testing.assert_close(torch.tensor(own_weights), weights, atol=1e-5, rtol=1e-4)


def test_without_sync_each_process_keeps_its_own_queues() -> None:
    first, second = (queues for _, _, queues, _ in two_processes(sync=False))
    assert first != second
    alone = run(CARBCriterion(), slice(0, 2))[2]
    assert first == alone
