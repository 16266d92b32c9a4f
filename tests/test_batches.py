"""utils/batches.py: batches are a function of (seed, step), whatever the ranks or the start."""

import pytest
import torch

from utils.batches import StepSampler, collate, training_loader
from utils.config import load_config
from utils.distributed import Ranks
from utils.safe.errors import InputError


def batches(start: int = 0, end: int = 12, rank: int = 0, world: int = 1, seed: int = 0) -> list:
    return list(StepSampler(7, 4, seed, start, end, Ranks(rank, world, torch.device("cpu"))))


def test_each_epoch_takes_each_image_once() -> None:
    stream = [draw.index for batch in batches() for draw in batch]
    for epoch in range(6):
        assert sorted(stream[7 * epoch : 7 * epoch + 7]) == list(range(7))
    assert stream[:7] != stream[7:14]


def test_a_resumed_run_takes_the_batches_it_would_have_taken() -> None:
    assert batches(start=5) == batches()[5:]


def test_two_ranks_together_take_what_one_takes() -> None:
    both = zip(batches(rank=0, world=2), batches(rank=1, world=2), strict=True)
    assert [first + second for first, second in both] == batches()


def test_draws_differ_between_steps_and_seeds() -> None:
    seeds = [draw.seed for batch in batches() for draw in batch]
    assert len(set(seeds)) == len(seeds)
    assert batches(seed=1) != batches(seed=0)


def test_a_batch_that_cannot_be_shared_is_refused() -> None:
    config = load_config("configs/tiny_cpu.yaml", ["batch_size=3"])
    with pytest.raises(InputError, match="batch_size 3 can't be shared by 2 processes"):
        training_loader([0] * 5, config, Ranks(0, 2, torch.device("cpu")), 0, 2)


def test_points_are_a_list_and_the_rest_is_stacked() -> None:
    points = [torch.ones(n, 3) for n in (2, 0)]
    samples = [{"name": f"t{i}", "image": torch.zeros(3, 4, 5)} for i in range(2)]
    assert collate(samples)["image"].shape == (2, 3, 4, 5) and "points" not in collate(samples)
    batch = collate([one | {"points": own} for one, own in zip(samples, points, strict=True)])
    assert batch["name"] == ["t0", "t1"] and list(map(len, batch["points"])) == [2, 0]
