"""models/region_balance.py: hand-worked cases of every variant, invariants, state, checkpoints."""

import math
from typing import get_args, get_type_hints

import pytest
import torch
from steps import losses_of

from datasets.labels import IGNORE_INDEX
from models.build import build_criterion
from models.carb import CARBCriterion, RegionRules
from models.region_balance import (
    WEIGHTS,
    ClassCriterion,
    ClassTotals,
    at_pixels,
    class_sums,
    confidence,
    inconsistent_loss,
)
from utils.checkpoint import load_checkpoint, load_training_checkpoint, save_checkpoint
from utils.config import REGION_BALANCES, Config, load_config
from utils.safe.errors import InputError

VARIANTS = [*WEIGHTS, "confidence"]
W = torch.tensor(0.25)


def totals(**changes: list[float]) -> ClassTotals:
    """Four classes: usual, without consistent, without inconsistent pixels, in no mask at all."""
    usual = {
        "consistent_loss": [2.0, 0.0, 1.0, 0.0],
        "inconsistent_loss": [6.0, 4.0, 0.0, 0.0],
        "consistent": [10.0, 0.0, 5.0, 0.0],
        "inconsistent": [6.0, 2.0, 0.0, 0.0],
        "predicted": [16.0, 0.0, 5.0, 2.0],
        "best": [1.0, 0.5, 1.0, 0.75],
    }
    return ClassTotals(**{key: torch.tensor(one) for key, one in (usual | changes).items()})


# (10/16) of the mask of class 0 is consistent; w_0 = (2/10) / (6/6) = 0.2.
@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("floor", [0.25] * 4),
        ("root", [0.5] * 4),
        ("class", [0.2, 0.25, 0.25, 0.25]),
        ("class_root", [math.sqrt(0.2 * 0.25), 0.25, 0.25, 0.25]),
        # S calls class 1 nowhere, so that it keeps w; it calls class 3 only where others are.
        ("class_agreement", [0.2 * 10 / 16, 0.25, 0.25, 0.0]),
        ("recovery", [0.25 ** (10 / 16), 1.0, 0.25, 0.25]),
        ("class_start", [0.25, 1.0, 0.25, 0.25]),
    ],
)
def test_weights_by_hand(name: str, expected: list[float]) -> None:
    assert WEIGHTS[name](W, totals()).tolist() == pytest.approx(expected)


def test_the_floor_lifts_small_weights() -> None:
    assert WEIGHTS["floor"](torch.tensor(0.03), totals()).tolist() == pytest.approx([0.1] * 4)


def test_a_class_that_was_never_consistent_does_not_recover() -> None:
    never = totals(best=[1.0, 0.0, 1.0, 0.0])
    assert WEIGHTS["recovery"](W, never)[1] == W and WEIGHTS["class_start"](W, never)[1] == 1


def test_inconsistent_pixels_without_a_loss_leave_w() -> None:
    none = totals(inconsistent_loss=[0.0] * 4)
    assert WEIGHTS["class"](W, none).tolist() == [W] * 4


def test_sums_of_a_2x3_image() -> None:
    losses = torch.tensor([[[1.0, 2.0, 4.0], [8.0, 16.0, 32.0]]])
    mask = torch.tensor([[[0, 0, 1], [1, 1, IGNORE_INDEX]]])
    prediction = torch.tensor([[[0, 1, 1], [0, 1, 1]]])
    assert class_sums(losses, mask, prediction, 3).tolist() == [
        [1, 20, 0],  # losses of consistent pixels
        [2, 8, 0],  # of inconsistent ones, by the class of the mask
        [1, 2, 0],
        [1, 1, 0],
        [2, 3, 0],  # labelled pixels of S
    ]
    weights = at_pixels(torch.tensor([0.5, 0.25, 9.0]), mask)
    assert weights[0, 0].tolist() == [0.5, 0.5, 0.25] and weights[0, 1, :2].tolist() == [0.25] * 2
    # (0.5 x 2 + 0.25 x 8) / 2 pixels
    assert inconsistent_loss(losses, weights, mask, prediction).item() == pytest.approx(1.5)


def two_by_two() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Probabilities 0.8/0.2 in the first column and 0.3/0.7 in the second.

    S is 0 in the first column and 1 in the second, P is 0 0 / 1 1.
    """
    probabilities = torch.tensor([[[0.8, 0.3], [0.8, 0.3]], [[0.2, 0.7], [0.2, 0.7]]])[None]
    return probabilities.log(), torch.ones(1, 2), torch.tensor([[[0, 0], [1, 1]]])


def test_the_loss_of_a_2x2_image() -> None:
    """w_0 = ln 0.8 / ln 0.3, w_1 = ln 0.7 / ln 0.2; both classes agree on half of S."""
    loss_c, each = -math.log(0.8 * 0.7) / 2, [-math.log(0.8), -math.log(0.7)]
    loss_i = -math.log(0.3 * 0.2) / 2
    expected = {
        "floor": 2 * loss_c,
        "root": loss_c + math.sqrt(loss_c * loss_i),
        "class": loss_c + sum(each) / 2,
        "class_agreement": loss_c + sum(each) / 4,
        "confidence": loss_c - (0.3 * math.log(0.3) + 0.2 * math.log(0.2)) / 2,
        "recovery": 2 * loss_c,  # at their best
        "class_start": loss_c + loss_i,  # not above one half yet
    }
    ratios = [each[0] / -math.log(0.3), each[1] / -math.log(0.2)]
    of_all = [math.sqrt(ratio * loss_c / loss_i) for ratio in ratios]
    expected["class_root"] = loss_c - (of_all[0] * math.log(0.3) + of_all[1] * math.log(0.2)) / 2
    assert set(expected) == set(VARIANTS)
    for name, value in expected.items():
        result = losses_of(ClassCriterion(name), True, *two_by_two())
        assert result["loss"].item() == pytest.approx(value), name
        assert result["w"].item() == pytest.approx(loss_c / loss_i)
        assert result["class_consistent"].tolist() == [0.25, 0.25]
        assert result["class_mask"].tolist() == [0.5, 0.5]
        assert ("class_w" in result) == (name != "confidence")


def test_sums_are_pooled_over_the_last_steps() -> None:
    """Not the mean of the steps' quotients, and the oldest of three steps is forgotten."""
    criterion = ClassCriterion("class", queue_size=2)
    steps = [[[90.0], [1.0], [1.0], [1.0], [1.0]], [[2.0], [4.0], [1.0], [1.0], [1.0]]]
    steps += [[[0.0], [30.0], [0.0], [3.0], [0.0]]]
    for sums in steps:
        weights = criterion.class_weights(W, torch.tensor(sums))
    assert weights.item() == pytest.approx((2 / 1) / (34 / 4))


def test_the_best_share_is_remembered() -> None:
    """recovery: full consistency once, then 1/2 and none in the window of one step."""
    criterion = ClassCriterion("recovery", queue_size=1)
    found = []
    for consistent, inconsistent in ((8.0, 0.0), (4.0, 4.0), (0.0, 8.0), (0.0, 0.0)):
        sums = [[1.0], [1.0], [consistent], [inconsistent], [consistent]]
        found.append(criterion.class_weights(W, torch.tensor(sums)).item())
    assert found == pytest.approx([0.25, 0.5, 1.0, 0.25])


# --- invariants


def random_case(seed: int, num_classes: int = 4, dtype: torch.dtype = torch.float32) -> dict:
    draws = torch.Generator().manual_seed(seed)
    mask = torch.randint(0, num_classes, (2, 6, 8), generator=draws)
    mask[torch.rand(mask.shape, generator=draws) < 0.2] = IGNORE_INDEX
    labels = torch.randint(0, 2, (2, num_classes), generator=draws).float()
    labels[:, 0] = 1
    return {
        "logits": 3 * torch.randn(2, num_classes, 3, 4, generator=draws, dtype=dtype),
        "image_labels": labels,
        "global_mask": mask,
        "local_mask": torch.randint(0, num_classes, (2, 4, 5), generator=draws),
        "boxes": [(1, 2, 4, 5), (0, 3, 4, 5)],
    }


def without_local_view(case: dict) -> dict:
    return case | {"local_mask": None, "boxes": None}


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize("name", ["floor", "root", "class", "class_root", "recovery"])
def test_classes_that_are_alike_have_the_papers_loss(name: str, local: bool) -> None:
    """Two classes that mirror each other have one w; the exponent or floor is taken off."""
    torch.manual_seed(0)
    half = torch.randn(1, 1, 4, 4).abs()  # class 0 leads at every pixel
    logits = torch.cat([torch.cat([half, -half], 1), torch.cat([-half, half], 1)])
    mask = (torch.rand(1, 4, 4) < 0.4).long()
    case = {"logits": logits, "image_labels": torch.ones(2, 2)}
    case |= {"global_mask": torch.cat([mask, 1 - mask])}
    case |= {"local_mask": case["global_mask"][:, 1:3, :2], "boxes": [(1, 0, 2, 2)] * 2}
    case = case if local else without_local_view(case)
    paper = losses_of(CARBCriterion(), True, **case)
    found = losses_of(ClassCriterion(name), True, **case)
    assert found["w"] == paper["w"] and paper["w"] > 0.1 and paper["loss_inconsistent"] > 0
    if name == "root":
        expected = losses_of(CARBCriterion(region_weight=float(paper["w"].sqrt())), True, **case)
        assert found["loss"].item() == pytest.approx(expected["loss"].item())
    else:
        assert found["loss"].item() == pytest.approx(paper["loss"].item())
        torch.testing.assert_close(found["class_w"], paper["w"].expand(2))


def test_constant_weights_are_the_papers_fixed_weight(monkeypatch) -> None:
    """What the variants share: the loss is that of CARB where all weights are one number."""
    monkeypatch.setitem(WEIGHTS, "class", lambda w, totals: torch.full_like(totals.best, 0.3))
    case = random_case(3)
    found = losses_of(ClassCriterion("class"), True, **case)
    expected = losses_of(CARBCriterion(region_weight=0.3), True, **case)
    torch.testing.assert_close(found["loss"], expected["loss"])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("num_classes", [1, 2, 7])
def test_weights_and_losses_are_finite_and_no_less_than_0(name: str, num_classes: int) -> None:
    criterion = ClassCriterion(name, queue_size=2)
    for seed in range(6):
        case = random_case(seed, num_classes)
        if seed == 2:
            case["logits"] *= 1e4
        if seed == 3:
            case["global_mask"][:] = IGNORE_INDEX
        if seed == 4:
            case["global_mask"][:] = num_classes - 1
        case["logits"].requires_grad_()
        result = losses_of(criterion, True, **(case if seed % 2 else without_local_view(case)))
        result["loss"].backward()
        assert all(value.isfinite().all() and (value >= 0).all() for value in result.values())
        assert case["logits"].grad.isfinite().all()
        assert result["class_consistent"].sum() <= result["class_mask"].sum() + 1e-6
        if num_classes == 1 and seed % 2 == 0:  # S and the mask agree wherever there is a mask
            assert result["loss"] == result["loss_consistent"]


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_carry_no_gradient(name: str) -> None:
    """The gradient is that of the same weights as constants."""
    logits, labels, mask = two_by_two()
    logits.requires_grad_()
    losses_of(ClassCriterion(name), True, logits, labels, mask)["loss"].backward()
    probabilities = logits.detach().softmax(1)
    at_mask = probabilities.gather(1, mask[:, None])[:, 0]
    one_hot = torch.nn.functional.one_hot(mask, 2).movedim(-1, 1)
    weights = confidence(-at_mask.log())
    if name in WEIGHTS:
        found = losses_of(ClassCriterion(name), True, logits.detach(), labels, mask)
        weights = at_pixels(found["class_w"], mask)
    consistent = torch.tensor([[[True, False], [False, True]]])
    scale = torch.where(consistent, 1.0, weights) / 2
    torch.testing.assert_close(logits.grad, scale[:, None] * (probabilities - one_hot))


@pytest.mark.parametrize("name", VARIANTS)
def test_new_names_of_the_classes_change_nothing(name: str) -> None:
    order = [2, 0, 3, 1]  # new place -> old class
    new_id = torch.full((256,), IGNORE_INDEX)
    new_id[order] = torch.arange(4)
    case = random_case(5)
    other = case | {key: new_id[case[key]] for key in ("global_mask", "local_mask")}
    other |= {key: case[key][:, order] for key in ("logits", "image_labels")}
    one, two = (losses_of(ClassCriterion(name), True, **given) for given in (case, other))
    for key, value in one.items():
        value = value[order] if key.startswith("class_") else value
        torch.testing.assert_close(value, two[key])


# --- the key, state, checkpoints


def test_the_key_names_every_variant() -> None:
    assert get_args(get_type_hints(Config)["region_balance"]) == REGION_BALANCES
    assert {*REGION_BALANCES} == {"global", *VARIANTS}
    for name in REGION_BALANCES:
        overrides = [f"region_balance={name}", "queue_size=3"]
        criterion = build_criterion(load_config("configs/cityscapes.yaml", overrides))
        assert type(criterion) is (CARBCriterion if name == "global" else ClassCriterion)
        assert criterion.queue_consistent.maxlen == 3
        assert getattr(criterion, "balance", "global") == name
    assert CARBCriterion().state_dict().keys() == {"queue_consistent", "queue_inconsistent"}


def test_a_fixed_weight_has_no_balance() -> None:
    with pytest.raises(InputError, match="region_balance.*class .*adaptive w, found.*: 0.5"):
        load_config("configs/cityscapes.yaml", ["region_balance=class", "region_weight=0.5"])


@pytest.mark.parametrize("name", VARIANTS)
@pytest.mark.parametrize("after", [0, 1, 3, 7])
def test_state_survives_a_checkpoint_bit_by_bit(name: str, after: int, tmp_path) -> None:
    criterion = ClassCriterion(name, queue_size=3)
    for seed in range(after):
        losses_of(criterion, True, **random_case(seed))
    save_checkpoint(tmp_path / "c.pt", {"criterion": [criterion.state_dict()]})
    other = ClassCriterion(name, queue_size=3)
    other.load_state_dict(load_checkpoint(tmp_path / "c.pt")["criterion"][0])
    assert other.state_dict() == criterion.state_dict()
    for seed in range(20, 25):
        one, two = (losses_of(c, True, **random_case(seed)) for c in (criterion, other))
        assert all(torch.equal(one[key], two[key]) for key in one)
    assert other.state_dict() == criterion.state_dict()


def test_a_warm_up_leaves_nothing_to_restore() -> None:
    criterion = ClassCriterion("class")
    criterion.load_state_dict({})
    losses_of(criterion, True, **random_case(0))


@pytest.mark.parametrize(
    "wrong",
    [
        {"best_classes": [0.5]},
        {"best_classes": []},
        {"queue_classes": []},
        {"queue_classes": [[[1.0] * 4] * 4]},
    ],
)
def test_the_state_of_other_classes_is_refused(wrong: dict) -> None:
    criterion = ClassCriterion("class")
    losses_of(criterion, True, **random_case(0))
    with pytest.raises(InputError, match="sums of other classes; start over"):
        ClassCriterion("class").load_state_dict(criterion.state_dict() | wrong)


@pytest.mark.parametrize(
    "wrong",
    [{"queue_classes": [[1.0]]}, {"best_classes": [None]}, {"queue_classes": [[[1.0], []]]}],
)
def test_a_damaged_state_is_named(wrong: dict, tmp_path) -> None:
    criterion = ClassCriterion("class")
    losses_of(criterion, True, **random_case(0))
    content = {"stage": "carb", "step": 3, "model": {}, "optimizer": {}, "world_size": 1}
    content |= {"config": {}, "class_names": ["a"], "palette": [[0, 0, 0]], "inputs": {}}
    path = tmp_path / "last.pt"
    save_checkpoint(path, content | {"criterion": [criterion.state_dict()]})
    assert load_training_checkpoint(path)["criterion"] == [criterion.state_dict()]
    save_checkpoint(path, content | {"criterion": [criterion.state_dict() | wrong]})
    with pytest.raises(InputError, match="'criterion' in the checkpoint must be"):
        load_training_checkpoint(path)


@pytest.mark.parametrize("without", ["neither", "inconsistent"])
def test_the_official_rules_hold_here_too(without: str, monkeypatch) -> None:
    """With the paper's w for every class the loss is the paper's, NaN where a region is empty."""
    monkeypatch.setitem(WEIGHTS, "same", lambda w, totals: w.expand_as(totals.consistent))
    case, rules = random_case(1), RegionRules("multiply", "nan")
    if without == "inconsistent":
        case["global_mask"] = torch.zeros_like(case["global_mask"])
        case["logits"][:, 0] += 50
    expected = losses_of(CARBCriterion(rules=rules), True, **case)["loss"]
    found = losses_of(ClassCriterion("same", rules=rules), True, **case)["loss"]
    torch.testing.assert_close(found, expected, equal_nan=True)
    assert found.isnan() == (without == "inconsistent")
