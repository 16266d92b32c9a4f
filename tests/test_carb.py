"""models/carb.py against the authors' numbers, hand-worked cases and its own invariants."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import golden_files, load_golden
from steps import counted, losses_of

from datasets.labels import IGNORE_INDEX
from models.carb import (
    CARBCriterion,
    RegionRules,
    filtered_prediction,
    region_means,
    segmentation_loss,
    split_regions,
    upsample,
)
from models.kernels.pixel_losses import pixel_losses
from models.views import LocalViewSampler, crop


def official_criterion(header: dict, empty_region: str = "nan") -> CARBCriterion:
    adaptive, scale = bool(header.get("adaptive", True)), float(header.get("coeff", 1.0))
    criterion = CARBCriterion(
        queue_size=int(header.get("queue_size", 5)),
        region_weight=None if adaptive else scale,
        rules=RegionRules("multiply", empty_region),
    )
    if adaptive and scale != 1:  # the official code can scale w; none of its configs does
        weight = criterion.weight
        criterion.weight = lambda like: scale * weight(like)
    return criterion


def as_ring(queue, counter: int) -> np.ndarray:
    """Our oldest-first queue in the authors' places: the loss of step c lies at c % size."""
    ring = np.zeros(queue.maxlen, np.float32)
    for age, value in enumerate(reversed(queue)):
        ring[(counter - age) % queue.maxlen] = float(value)
    return ring


def close(actual, expected, tolerance: float = 1e-5) -> None:
    actual = actual.detach().numpy() if isinstance(actual, torch.Tensor) else np.asarray(actual)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=tolerance, equal_nan=True)


@pytest.mark.parametrize("name", golden_files("loss_*.npz"))
def test_golden_losses(name: str) -> None:
    golden = load_golden(name)
    header = {key: golden[key] for key in golden.files if "/" not in key}
    steps = sorted({key.split("/")[0] for key in golden.files if "/" in key}, key=int)
    assert len(steps) == int(header["iters"])
    criterion = official_criterion(header)
    asserted = set(header)
    for step in steps:
        case = {k.split("/")[1]: golden[k] for k in golden.files if k.startswith(f"{step}/")}
        asserted |= {f"{step}/{key}" for key in case}
        check_loss_step(case, header, criterion)
    assert asserted == set(golden.files)


def check_loss_step(case: dict, header: dict, criterion: CARBCriterion) -> None:
    known = {"logits", "P_g", "img_label", "P_l_full", "hpos", "wpos", "rand", "multiplier"}
    known |= {"local_clip_size", "counter"}
    logits = torch.from_numpy(case["logits"]).requires_grad_()
    labels = torch.from_numpy(case["img_label"])
    global_mask = torch.from_numpy(case["P_g"]).long()
    patch = tuple(int(side) for side in header["patch_size"])
    # The drawn numbers -> box and size of the patch that CLIP sees.
    sampler = LocalViewSampler(patch, (1.0, 2.0), "batch", last_position=False)
    view = sampler.view(int(case["hpos"]), int(case["wpos"]), float(case["multiplier"]))
    assert view.size == tuple(case["local_clip_size"])
    assert float(case["multiplier"]) == pytest.approx(1 + float(case["rand"]))
    boxes = [view.box] * len(logits)
    local_mask = crop(torch.from_numpy(case["P_l_full"]).long(), boxes)

    balanced = int(case["counter"]) > int(header["warmup_iter"])
    result = losses_of(criterion, balanced, logits, labels, global_mask, local_mask, boxes)
    result["loss"].backward()
    size = global_mask.shape[-2:]
    prediction = filtered_prediction(upsample(logits, size), labels, "multiply")
    checks = {
        "total": result["loss"],
        "grad": logits.grad,
        "acc_seg": 100 * result["mask_agreement"][None],
        "w": criterion.weight(logits) if balanced else torch.tensor(float(header["coeff"])),
    }
    queues = (criterion.queue_consistent, criterion.queue_inconsistent)
    if bool(header["adaptive"]):
        for key, queue in zip(("queue_and", "queue_vit"), queues, strict=True):
            checks[key] = as_ring(queue, int(case["counter"]))
    if balanced:
        consistent, inconsistent = split_regions(global_mask, prediction)
        local = split_regions(local_mask, crop(prediction, boxes))
        masks = (global_mask, global_mask, local_mask, local_mask)
        regions = (consistent, inconsistent, *local)
        names = ("and", "vit", "partand", "partdif")
        losses = ("consistent", "inconsistent", "consistent_local", "inconsistent_local")
        for key, mask, region, loss in zip(names, masks, regions, losses, strict=True):
            label = torch.where(region, mask, IGNORE_INDEX).numpy()
            np.testing.assert_array_equal(label, case[f"label_{key}"].reshape(label.shape))
            checks[f"loss_{key}"] = result[f"loss_{loss}"]
            known.add(f"label_{key}")
        np.testing.assert_array_equal(prediction.numpy(), case["S"])
        known.add("S")
    else:
        checks |= {"loss_all": result["loss_global"], "loss_part": result["loss_local"]}
    assert set(case) == known | set(checks)
    for key, value in checks.items():
        close(value, case[key])


@pytest.mark.parametrize("name", golden_files("loss_edge_*.npz"))
def test_default_stays_finite_where_the_authors_do_not(name: str) -> None:
    golden = load_golden(name)
    header = {key: golden[key] for key in golden.files if "/" not in key}
    criterion = official_criterion(header, empty_region="zero")
    for step in sorted({key.split("/")[0] for key in golden.files if "/" in key}, key=int):
        logits = torch.from_numpy(golden[f"{step}/logits"]).requires_grad_()
        global_mask = torch.from_numpy(golden[f"{step}/P_g"]).long()
        view = LocalViewSampler(tuple(header["patch_size"].tolist()), (1, 2)).view(
            int(golden[f"{step}/hpos"]), int(golden[f"{step}/wpos"]), 1.0
        )
        boxes = [view.box] * len(logits)
        local_mask = crop(torch.from_numpy(golden[f"{step}/P_l_full"]).long(), boxes)
        result = losses_of(
            criterion,
            int(golden[f"{step}/counter"]) > int(header["warmup_iter"]),
            logits,
            torch.from_numpy(golden[f"{step}/img_label"]),
            global_mask,
            local_mask,
            boxes,
        )
        result["loss"].backward()
        assert torch.isfinite(result["loss"]) and torch.isfinite(logits.grad).all()
    state = counted(criterion.state_dict())
    assert all(math.isfinite(value) for values in state.values() for value in values)


# --- hand-worked 2x2 cases


def two_by_two() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Two classes, probabilities 0.8/0.2 in the first column and 0.3/0.7 in the second."""
    probabilities = torch.tensor([[[0.8, 0.3], [0.8, 0.3]], [[0.2, 0.7], [0.2, 0.7]]])[None]
    pseudo_mask = torch.tensor([[[0, 0], [1, IGNORE_INDEX]]])
    return probabilities.log(), pseudo_mask, torch.ones(1, 2)


def test_regions_and_losses_of_a_2x2_image() -> None:
    log_probabilities, pseudo_mask, labels = two_by_two()
    prediction = filtered_prediction(log_probabilities, labels, "mask")
    assert prediction.tolist() == [[[0, 1], [0, 1]]]
    consistent, inconsistent = split_regions(pseudo_mask, prediction)
    assert consistent.tolist() == [[[True, False], [False, False]]]
    assert inconsistent.tolist() == [[[False, True], [True, False]]]
    result = losses_of(CARBCriterion(), True, log_probabilities, labels, pseudo_mask)
    loss_c, loss_i = -math.log(0.8), -(math.log(0.3) + math.log(0.2)) / 2
    assert result["loss_consistent"].item() == pytest.approx(loss_c)
    assert result["loss_inconsistent"].item() == pytest.approx(loss_i)
    assert result["w"].item() == pytest.approx(loss_c / loss_i)
    assert result["loss"].item() == pytest.approx(2 * loss_c)
    assert result["consistent_fraction"].item() == pytest.approx(1 / 3)
    assert result["class_share"].tolist() == [0.5, 0.5]
    assert result["class_mask"].tolist() == [0.5, 0.25]  # the rest has no label
    assert result["class_consistent"].tolist() == [0.25, 0.0]


def test_warmup_loss_is_cross_entropy_over_labelled_pixels() -> None:
    log_probabilities, pseudo_mask, _ = two_by_two()
    expected = F.cross_entropy(log_probabilities, pseudo_mask, ignore_index=IGNORE_INDEX)
    losses, _ = pixel_losses(log_probabilities, pseudo_mask)
    assert segmentation_loss(losses, pseudo_mask).item() == pytest.approx(expected.item())


def test_an_absent_class_is_never_predicted() -> None:
    logits = torch.full((1, 3, 2, 2), -5.0)
    logits[:, 2] = -6.0
    labels = torch.tensor([[0.0, 0.0, 1.0]])
    assert (filtered_prediction(logits, labels, "mask") == 2).all()
    # The authors' product lifts absent classes to 0, above every negative logit.
    assert (filtered_prediction(logits, labels, "multiply") == 0).all()


# --- queues


def criterion_fed(pairs: list[tuple[float, float]], **options) -> CARBCriterion:
    criterion = CARBCriterion(**options)
    for loss_c, loss_i in pairs:
        count_c, count_i = (0 if math.isnan(x) else 1 for x in (loss_c, loss_i))
        losses = torch.nan_to_num(torch.tensor([loss_c, loss_i]))
        criterion.push(losses, torch.tensor([count_c, count_i]))
    return criterion


def test_weight_is_the_ratio_of_the_means_of_the_last_losses() -> None:
    criterion = criterion_fed([(9, 9), (1, 2), (2, 4), (3, 9)], queue_size=3)
    assert criterion.weight(torch.zeros(())).item() == pytest.approx(6 / 15)
    assert criterion.state_dict() == {
        "queue_consistent": [1, 2, 3],
        "queue_inconsistent": [2, 4, 9],
    }


def test_an_empty_region_takes_a_place_that_does_not_count() -> None:
    criterion = criterion_fed([(1, 2), (3, 4), (math.nan, math.nan)], queue_size=2)
    assert counted(criterion.state_dict()) == {"queue_consistent": [3], "queue_inconsistent": [4]}
    assert criterion.weight(torch.zeros(())).item() == pytest.approx(3 / 4)


@pytest.mark.parametrize("pairs", [[], [(1, math.nan)], [(math.nan, 1)], [(1, 0)]])
def test_weight_is_one_while_undefined(pairs: list) -> None:
    assert criterion_fed(pairs).weight(torch.zeros(())).item() == 1


def test_weight_does_not_depend_on_the_scale_of_the_losses() -> None:
    one = criterion_fed([(1, 3), (2, 5)]).weight(torch.zeros(()))
    ten = criterion_fed([(10, 30), (20, 50)]).weight(torch.zeros(()))
    assert one.item() == pytest.approx(ten.item())


def test_fixed_weight() -> None:
    weight = criterion_fed([(1, 4)], region_weight=0.1).weight(torch.zeros(()))
    assert weight.item() == pytest.approx(0.1)


def test_queues_survive_a_checkpoint(tmp_path) -> None:
    from utils.checkpoint import load_checkpoint, save_checkpoint

    criterion = criterion_fed([(1, 2), (3, math.nan)], queue_size=4)
    save_checkpoint(tmp_path / "c.pt", {"criterion": [criterion.state_dict()]})
    other = CARBCriterion(queue_size=4)
    other.load_state_dict(load_checkpoint(tmp_path / "c.pt")["criterion"][0])
    assert other.state_dict() == criterion.state_dict()
    like = torch.zeros(())
    assert other.weight(like) == criterion.weight(like)
    for c in (criterion, other):
        c.push(torch.tensor([5.0, 6.0]), torch.tensor([1, 1]))
    assert other.weight(like) == criterion.weight(like)


def test_the_weight_carries_no_gradient() -> None:
    log_probabilities, pseudo_mask, labels = two_by_two()
    logits = log_probabilities.requires_grad_()
    result = losses_of(CARBCriterion(), True, logits, labels, pseudo_mask)
    result["loss"].backward()
    gradient = logits.grad.clone()
    weight = result["w"].item()
    logits.grad = None
    fixed = losses_of(CARBCriterion(region_weight=weight), True, logits, labels, pseudo_mask)
    fixed["loss"].backward()
    torch.testing.assert_close(gradient, logits.grad)


# --- invariants


@pytest.mark.parametrize("seed", range(5))
def test_regions_cover_every_labelled_pixel_once(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, 4, (2, 9, 7), generator=generator)
    mask[torch.rand(mask.shape, generator=generator) < 0.3] = IGNORE_INDEX
    prediction = torch.randint(0, 4, mask.shape, generator=generator)
    consistent, inconsistent = split_regions(mask, prediction)
    assert not (consistent & inconsistent).any()
    assert torch.equal(consistent | inconsistent, mask != IGNORE_INDEX)


def test_no_gradient_reaches_ignored_pixels_or_an_empty_batch() -> None:
    logits = torch.randn(2, 3, 4, 4, requires_grad=True)
    mask = torch.randint(0, 3, (2, 4, 4))
    mask[:, :2] = IGNORE_INDEX
    losses_of(CARBCriterion(), True, logits, torch.ones(2, 3), mask)["loss"].backward()
    assert logits.grad[:, :, :2].abs().max() == 0 and logits.grad[:, :, 2:].abs().max() > 0
    logits.grad = None
    everything_ignored = torch.full_like(mask, IGNORE_INDEX)
    for balanced in (False, True):
        result = losses_of(CARBCriterion(), balanced, logits, torch.ones(2, 3), everything_ignored)
        result["loss"].backward()
        assert result["loss"].item() == 0 and logits.grad.abs().max() == 0


@pytest.mark.parametrize("scale", [1e4, -1e4])
def test_extreme_and_half_precision_logits_stay_finite(scale: float) -> None:
    logits = (scale * torch.rand(2, 3, 4, 4)).bfloat16().requires_grad_()
    mask = torch.randint(0, 3, (2, 8, 8))
    result = losses_of(CARBCriterion(), True, logits, torch.ones(2, 3), mask)
    result["loss"].backward()
    assert torch.isfinite(result["loss"]) and torch.isfinite(logits.grad).all()
    assert result["loss"].dtype == torch.float32


def test_region_means_equal_cross_entropy_of_the_region() -> None:
    logits = torch.randn(2, 3, 6, 5)
    mask = torch.randint(0, 3, (2, 6, 5))
    region = torch.rand(2, 6, 5) < 0.4
    losses = F.cross_entropy(logits, mask, reduction="none")
    means, counts = region_means(losses, [region, ~region])
    expected = F.cross_entropy(
        logits, torch.where(region, mask, IGNORE_INDEX), ignore_index=IGNORE_INDEX
    )
    assert means[0].item() == pytest.approx(expected.item())
    assert counts.tolist() == [region.sum().item(), (~region).sum().item()]
