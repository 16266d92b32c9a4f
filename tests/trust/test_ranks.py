"""One answer on any number of processes: losses, queues, batch norm, training, evaluation."""

import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from steps import counted, losses_of, train_one_step
from torch import Tensor, nn

import eval as evaluation
from datasets import open_dataset
from datasets.image_labels import read_image_labels
from datasets.labels import load_classes
from datasets.mask_folder import pseudo_mask_files
from datasets.training import TrainingSet, build_transform
from models.build import build_criterion, build_model, build_network, build_sampler, build_teacher
from models.carb import CARBCriterion, RegionRules
from models.kernels.rank_batch_norm import RankBatchNorm2d, synchronize_batch_norms
from models.region_balance import ClassCriterion
from models.views import prepare_views
from utils.batches import training_loader
from utils.checkpoint import save_checkpoint
from utils.config import load_config
from utils.distributed import Ranks, all_reduce, cleanup, gather_objects, on_main, setup
from utils.safe import connections
from utils.safe.connections import end_silent_connections
from utils.safe.errors import InputError
from utils.schedule import poly_lr

STEPS, IMAGES, CLASSES = 4, 4, 3
ALONE = Ranks(0, 1, torch.device("cpu"))

# A process that has imported torch, of which all others are forked.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(
    ["eval", "models.kernels.rank_batch_norm", "torch", "models.training"]
)


def together(world: int, function: Callable, *arguments: object) -> list[Any]:
    """``function(ranks, *arguments)`` of each of `world` processes; no tensors in the results."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    queue = processes.Queue()
    started = [
        processes.Process(target=worker, args=(rank, world, port, queue, function, arguments))
        for rank in range(world)
    ]
    for process in started:
        process.start()
    results = dict(queue.get(timeout=120) for _ in started)
    for process in started:
        process.join()
        assert process.exitcode == 0
    return [results[rank] for rank in range(world)]


def worker(rank: int, world: int, port: int, queue, function: Callable, arguments: tuple) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    queue.put((rank, function(setup("cpu"), *arguments)))
    cleanup()


LEAVING = """
from pathlib import Path
from utils.distributed import barrier, cleanup, setup
setup("cpu")
import torchvision  # as clip does, once the ranks have met
barrier()
cleanup()
names = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
assert not [name for name in names if "gloo" in name], names
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="threads are listed as Linux lists them")
def test_no_thread_of_the_group_is_left_to_abort_the_process_at_exit(tmp_path):
    (tmp_path / "leaving.py").write_text(LEAVING)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run(
        [sys.executable, *launch, tmp_path / "leaving.py"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr


def connected(own: str) -> tuple[socket.socket, socket.socket]:
    """Both ends of a connection from the address `own` of this machine to 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname(), source_address=(own, 0))
        return one, server.accept()[0]


@pytest.mark.skipif(not Path("/dev/fd").is_dir(), reason="no list of open files here")
def test_connections_end_when_the_other_machine_is_silent() -> None:
    try:
        one, other = connected("127.0.0.2")  # looks like another machine
    except OSError as error:
        pytest.skip(f"127.0.0.2 is no address of this machine ({error})")
    with one, other:
        before = len([*Path("/dev/fd").iterdir()])
        end_silent_connections()
        assert len([*Path("/dev/fd").iterdir()]) == before
        for end in (one, other):
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            first = getattr(socket, "TCP_KEEPIDLE", getattr(socket, "TCP_KEEPALIVE", None))
            probes = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT)
            between = end.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL)
            assert end.getsockopt(socket.IPPROTO_TCP, first) + probes * between <= 20
        one.sendall(b"still open")
        assert other.recv(10) == b"still open"


def test_connections_within_this_machine_stay_as_they_are() -> None:
    one, other = connected("127.0.0.1")
    with one, other:
        end_silent_connections()
        for end in (one, other):
            assert end.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 0


def test_a_refused_option_of_a_connection_ends_nothing(monkeypatch) -> None:
    monkeypatch.setattr(connections, "_OPTIONS", {"IPPROTO_TCP": 1 << 20})  # no such option
    with socket.socket() as alone:  # nor is every socket connected
        one, other = connected("127.0.0.2" if sys.platform == "linux" else "127.0.0.1")
        with one, other:
            end_silent_connections()
            one.sendall(b"still open")
            assert other.recv(10) == b"still open" and alone.fileno() >= 0


# ---- losses and queues


def batch(step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, image-level labels, masks of a step; the region sizes of the two halves differ.

    Of step 2 the second half, of step 3 all of it has no supervised pixel.
    """
    generator = torch.Generator().manual_seed(step)
    logits = torch.randn(IMAGES, CLASSES, 6, 6, generator=generator, dtype=torch.float64)
    mask = torch.randint(0, CLASSES, (IMAGES, 6, 6), generator=generator)
    mask[2:, :3] = 255
    mask[4 - 2 * max(0, step - 1) :] = 255
    return logits, torch.ones(IMAGES, CLASSES), mask


def criterion_run(
    ranks: Ranks, sync: bool, images: slice | None = None, balance: str = "global"
) -> tuple:
    """Losses, gradients (of the mean over ranks, as data-parallel training has it) and queues."""
    rules, losses, gradients = RegionRules(sync=sync), [], []
    criterion = CARBCriterion(rules=rules)
    if balance != "global":
        criterion = ClassCriterion(balance, rules=rules)
    share = IMAGES // ranks.world_size
    images = images or slice(share * ranks.rank, share * (ranks.rank + 1))
    for step in range(STEPS):
        logits, labels, mask = batch(step)
        logits.requires_grad_()
        own = losses_of(criterion, True, logits[images], labels[images], mask[images])
        own["loss"].backward()
        losses.append(own["loss"].item())
        gradients.append((all_reduce(logits.grad) / len(gather_objects(0))).tolist())
    return losses, gradients, counted(criterion.state_dict())


@pytest.mark.parametrize("balance", ["global", "class_agreement", "recovery"])
def test_sync_makes_the_losses_of_two_processes_those_of_one(balance: str) -> None:
    losses, gradients, queues = criterion_run(ALONE, False, None, balance)
    for own_losses, own_gradients, own_queues in together(2, criterion_run, True, None, balance):
        torch.testing.assert_close(torch.tensor(own_losses), torch.tensor(losses))
        torch.testing.assert_close(torch.tensor(own_gradients), torch.tensor(gradients))
        for name, values in queues.items():
            torch.testing.assert_close(torch.tensor(own_queues[name]), torch.tensor(values))


def test_without_sync_each_process_keeps_its_own_queues() -> None:
    first, second = (queues for _, _, queues in together(2, criterion_run, False))
    assert first != second
    assert first == criterion_run(ALONE, False, slice(0, 2))[2]


# ---- what rank 0 does alone


def once(ranks: Ranks) -> tuple[int, str]:
    """The result, and the message, that this rank gets."""
    called = []

    def refuse() -> None:
        called.append(ranks.rank)
        raise InputError("no such folder")

    with pytest.raises(InputError) as error:
        on_main(ranks, refuse)
    assert called == [0] * ranks.is_main
    return on_main(ranks, lambda: ranks.rank + 7), str(error.value)


def test_all_ranks_get_the_result_and_the_error_of_rank_0() -> None:
    assert together(2, once) == [(7, "no such folder")] * 2 and once(ALONE) == (7, "no such folder")


# ---- batch normalisation


def normalize(ranks: Ranks, shards: list[int], dtype: str, last: bool, over_ranks: bool) -> dict:
    """Three training steps of a batch norm on this rank's shard, then evaluation."""
    generator = torch.Generator().manual_seed(0)
    norm = nn.BatchNorm2d(7)
    nn.init.uniform_(norm.weight, generator=generator)
    nn.init.uniform_(norm.bias, generator=generator)
    norm.to(getattr(torch, dtype))
    if over_ranks:
        synchronize_batch_norms(norm)
        assert type(norm) is RankBatchNorm2d
    start = sum(shards[: ranks.rank])
    own = slice(start, start + shards[ranks.rank]) if over_ranks else slice(None)
    result = {"output": [], "image gradient": [], "weight gradient": [], "bias gradient": []}
    for _ in range(3):
        image = torch.randn(sum(shards), 7, 6, 5, generator=generator) * 3 + 10
        factor = torch.randn(image.shape, generator=generator).to(norm.weight.dtype)
        image = image.to(norm.weight.dtype)[own]
        if last:
            image = image.to(memory_format=torch.channels_last)
        image.requires_grad_()
        norm.zero_grad()
        output = norm(image)
        (output * factor[own] + output**3).mean((1, 2, 3)).sum().backward()
        gradients = (image.grad, norm.weight.grad, norm.bias.grad)
        for values, value in zip(result.values(), (output, *gradients), strict=True):
            values.append(value.tolist())
    evaluated = norm.eval()(image).tolist()
    return result | {"buffers": [b.tolist() for b in norm.buffers()], "evaluated": evaluated}


@pytest.mark.parametrize("shards", [[2, 2], [1, 4], [1, 2, 1]])
@pytest.mark.parametrize("dtype, last", [("float64", False), ("float32", True)])
def test_batch_norm_over_ranks_is_that_of_the_joined_batch(shards, dtype, last) -> None:
    whole = normalize(ALONE, [sum(shards)], dtype, last, False)
    parts = together(len(shards), normalize, shards, dtype, last, True)
    tolerance = {"atol": 1e-12 if dtype == "float64" else 3e-5, "rtol": 0}

    def same(found: np.ndarray, expected: list) -> None:
        np.testing.assert_allclose(found, expected, **tolerance)

    for step in range(3):
        for key in ("output", "image gradient"):
            same(np.concatenate([part[key][step] for part in parts]), whole[key][step])
        for key in ("weight gradient", "bias gradient"):  # DDP makes the mean of it, as of all
            same(np.sum([part[key][step] for part in parts], 0), whole[key][step])
    for part in parts:
        for buffer, expected in zip(part["buffers"], whole["buffers"], strict=True):
            same(np.array(buffer), expected)
    same(np.concatenate([part["evaluated"] for part in parts]), whole["evaluated"])


def low_precision(ranks: Ranks) -> list[float]:
    """How far what autocast gives is from float32: output and image gradient, of the largest."""
    norm = nn.BatchNorm2d(7)
    synchronize_batch_norms(norm)
    image = torch.randn(2, 7, 6, 5, generator=torch.Generator().manual_seed(ranks.rank))
    results = []
    for dtype in (torch.bfloat16, torch.float32):
        own = image.to(dtype).clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            output = norm(own)
        assert output.dtype == dtype
        output.float().square().mul(image).sum().backward()
        results.append(torch.stack([output.detach().float(), own.grad.float()]))
    difference, size = ((r.abs().amax((1, 2, 3, 4))) for r in (results[0] - results[1], results[1]))
    return (difference / size).tolist()


def test_batch_norm_over_ranks_in_bf16() -> None:
    for differences in together(2, low_precision):
        assert max(differences) < 0.02


def test_one_image_on_each_of_two_processes_has_a_variance() -> None:
    assert together(2, normalize, [1, 1], "float64", False, True)


# ---- training


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny data set with 7 pictures to evaluate, a CLIP, masks, a checkpoint."""
    folder = tmp_path_factory.mktemp("ranks")
    tiny.make_cityscapes(folder / "data", num_val=7)
    tiny.make_clip(folder / "clip.pt")
    config = load_config(
        tiny.make_config(folder, sync_region_stats=True, steps=40, warmup_steps=10)
    )
    classes = load_classes(config.class_file)
    generator = torch.Generator().manual_seed(0)
    labels = {}
    for i in range(8):
        name = f"trainburg/trainburg_{i:06d}_000019"
        labels[name] = [i, i + 4, i + 8]
        blocks = torch.tensor(labels[name])[torch.randint(0, 3, (6, 8), generator=generator)]
        mask = blocks.repeat_interleave(8, 0).repeat_interleave(8, 1)
        mask[:, : 4 * i] = 255  # regions of unlike sizes
        tiny.save(folder / f"clip_masks/{name}.png", mask.to(torch.uint8).numpy())
    (folder / "image_labels.json").write_text(json.dumps(labels))
    torch.manual_seed(0)
    text = nn.functional.normalize(torch.randn(len(classes), 16), dim=1)
    content = {"stage": "carb", "step": 40, "config": config.to_dict()}
    content |= {"class_names": list(classes.names), "palette": classes.palette.tolist()}
    model = build_model(config, len(classes), text)
    save_checkpoint(folder / "last.pt", content | {"model": model.state_dict()})
    return folder


def training(ranks: Ranks, folder: Path, views: str, dtype: torch.dtype) -> dict[str, list[float]]:
    """20 steps of the real loop, the warm-up's 10 and CARB's, in double precision: all losses."""
    config = load_config(folder / "config.yaml", [f"views={views}"])
    classes = load_classes(config.class_file)
    images = open_dataset(config.dataset, config.data_root).images("train")
    labels = read_image_labels(config.image_labels, len(classes), classes.names)
    masks = pseudo_mask_files(config.pseudo_masks, images) if views != "dual" else None
    transform = build_transform(config)
    dataset = TrainingSet(images, labels, len(classes), transform, masks)
    maskclip = build_teacher(config, classes, ranks.device) if views != "base" else None
    torch.manual_seed(0)
    text = nn.functional.normalize(torch.randn(len(classes), 16), dim=1)
    model = build_model(config, len(classes), text).to(dtype)
    criterion, sampler = build_criterion(config), build_sampler(config)
    optimizer = torch.optim.SGD(model.parameters(), config.lr, config.momentum)
    network = build_network(model, config, ranks)
    found: dict[str, list[float]] = {}
    for step, one in enumerate(training_loader(dataset, config, ranks, 0, 20)):
        lr = poly_lr(step, config.steps, config.lr, config.min_lr, config.poly_power)
        inputs = prepare_views(one, step, config, ranks, maskclip, sampler)
        inputs = inputs._replace(image=inputs.image.to(dtype))
        losses = train_one_step(network, criterion, optimizer, inputs, step, lr, step >= 10)
        for key, value in losses.items():
            if not key.startswith("class_") and key != "mask_agreement":  # of the own images
                found.setdefault(key, []).append(float(value))
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return found | {"weights": [float(weights.sum()), float(weights.square().sum())]}


@pytest.mark.parametrize(
    "views", ["base", *(pytest.param(v, marks=pytest.mark.slow) for v in ("local", "dual"))]
)
def test_batch_4_on_one_process_is_batch_2_on_two(world, views) -> None:
    alone = training(ALONE, world, views, torch.float64)
    assert len(alone["loss"]) == 20 and len(alone["w"]) == 10
    assert min(alone["consistent_fraction"]) > 0 and max(alone["consistent_fraction"]) < 1
    for each in together(2, training, world, views, torch.float64):
        assert each.keys() == alone.keys()
        for key, values in alone.items():
            assert each[key] == pytest.approx(values, rel=1e-8, abs=1e-8), key


# ---- evaluation


def evaluate(_: Ranks, world: Path, out: Path) -> None:
    """eval.py on this process; it stays in the group for the test's own cleanup."""
    arguments = ["--ckpt", str(world / "last.pt"), "--out", str(out), "--device", "cpu"]
    evaluation.main([*arguments, "--save-predictions"])


def test_evaluation_is_the_same_on_one_two_and_three_processes(world, tmp_path) -> None:
    evaluate(ALONE, world, tmp_path / "1")
    for count in (2, 3):  # of 7 images
        together(count, evaluate, world, tmp_path / str(count))
    one, two, three = (
        {p.relative_to(out): p.read_bytes() for p in out.rglob("*") if p.is_file()}
        for out in (tmp_path / "1", tmp_path / "2", tmp_path / "3")
    )
    assert one == two == three and len(one) == 8
    assert json.loads(one[Path("metrics.json")])["num_images"] == 7
