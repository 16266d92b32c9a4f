"""What holds for every input: of the losses, the regions, w, the masks and the mean IoU.

Hypothesis draws the inputs; the cases that have a name in the paper's terms are listed.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from steps import counted, train_one_step
from steps import losses_of as losses_of_stage
from tiny_clip import tiny_clip

from datasets.labels import IGNORE_INDEX
from datasets.training import build_transform
from models.build import build_criterion, build_model, build_network, build_sampler
from models.carb import CARBCriterion, RegionRules, filtered_prediction, split_regions, upsample
from models.inference import multi_view_scores, predict_logits
from models.maskclip import MaskCLIP, to_pseudo_mask
from models.views import LocalViewSampler, crop, prepare_views
from utils.config import config_from_dict, load_config
from utils.distributed import Ranks
from utils.metrics import ConfusionMatrix

SIZE, BOX = (6, 8), (1, 2, 4, 5)  # of the image; top, left, height, width of the local view
seeds = st.integers(0, 2**32)
quick = settings(max_examples=40, deadline=None)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def batch(seed: int = 0, num_classes: int = 4, ignored: float = 0.2) -> dict[str, torch.Tensor]:
    """Logits at the size of the image, labels with a class each, masks of both views."""
    draws = generator(seed)
    labels = torch.randint(0, 2, (2, num_classes), generator=draws).float()
    labels[:, seed % num_classes] = 1
    mask = torch.randint(0, num_classes, (2, *SIZE), generator=draws)
    mask[torch.rand(mask.shape, generator=draws) < ignored] = IGNORE_INDEX
    local = torch.randint(0, num_classes, (2, *BOX[2:]), generator=draws)
    local[torch.rand(local.shape, generator=draws) < ignored] = IGNORE_INDEX
    logits = torch.randn(2, num_classes, *SIZE, generator=draws)
    return {"logits": logits, "labels": labels, "mask": mask, "local": local}


def losses_of(
    data: dict[str, torch.Tensor], balanced: bool, criterion: CARBCriterion | None = None
) -> tuple[dict[str, torch.Tensor], torch.Tensor, CARBCriterion]:
    """The losses of a batch, the gradient of the logits, and the criterion with its queues."""
    criterion = criterion or CARBCriterion()
    logits = data["logits"].clone().requires_grad_()
    boxes = [BOX] * len(logits)
    result = losses_of_stage(
        criterion, balanced, logits, data["labels"], data["mask"], data["local"], boxes
    )
    result["loss"].backward()
    return result, logits.grad, criterion


# --- the named cases


def empty_consistent(data: dict[str, torch.Tensor]) -> None:
    prediction = filtered_prediction(upsample(data["logits"], SIZE), data["labels"], "mask")
    data["mask"] = (prediction + 1) % data["logits"].shape[1]
    data["local"] = crop(data["mask"], [BOX] * 2)


def empty_inconsistent(data: dict[str, torch.Tensor]) -> None:
    data["mask"] = filtered_prediction(upsample(data["logits"], SIZE), data["labels"], "mask")
    data["local"] = crop(data["mask"], [BOX] * 2)


def empty_local(data: dict[str, torch.Tensor]) -> None:
    data["local"].fill_(IGNORE_INDEX)


def all_ignored(data: dict[str, torch.Tensor]) -> None:
    data["mask"].fill_(IGNORE_INDEX)
    data["local"].fill_(IGNORE_INDEX)


def one_class_present(data: dict[str, torch.Tensor]) -> None:
    data["labels"] = torch.eye(4)[[1, 1]]
    data["mask"].fill_(1)
    data["local"].fill_(1)


def one_class_in_all(data: dict[str, torch.Tensor]) -> None:
    data.update(batch(1, num_classes=1))


def no_label(data: dict[str, torch.Tensor]) -> None:
    data["labels"].zero_()


def huge(data: dict[str, torch.Tensor]) -> None:
    data["logits"] = 1e4 * data["logits"].sign()


def huge_and_certain(data: dict[str, torch.Tensor]) -> None:
    """L_i is exactly 0: w has no denominator."""
    data["logits"] = 1e4 * torch.eye(4)[data["mask"].clamp(max=3)].permute(0, 3, 1, 2)
    data["labels"] = torch.eye(4)[[0, 0]]  # what is certain is filtered out: inconsistent


CASES = [
    empty_consistent,
    empty_inconsistent,
    empty_local,
    all_ignored,
    one_class_present,
    one_class_in_all,
    no_label,
    huge,
    huge_and_certain,
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("absent", ["mask", "multiply"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_losses_gradients_queues_and_w_are_finite(case, absent: str, dtype: torch.dtype) -> None:
    """Three steps of warm-up and three of CARB, in which the case is the second and later ones."""
    for balanced in (False, True):
        criterion = CARBCriterion(queue_size=2, rules=RegionRules(absent))
        for step in range(3):
            data = batch(step)
            if step:
                case(data)
            data["logits"] = data["logits"].to(dtype)
            result, gradient, _ = losses_of(data, balanced, criterion)
            assert gradient.dtype == dtype and gradient.isfinite().all()
            for name, value in result.items():
                assert value.isfinite().all(), name
                assert (value >= 0).all(), name
                assert value.dtype == torch.float32
            assert result["class_share"].sum().item() == pytest.approx(1)
        queues = counted(criterion.state_dict())
        assert all(math.isfinite(v) and v >= 0 for values in queues.values() for v in values)
        # After two steps without a supervised pixel no place of the queues holds a loss.
        assert any(queues.values()) == (balanced and case is not all_ignored)


@pytest.mark.parametrize("balanced", [False, True], ids=["warm-up", "CARB"])
def test_the_named_cases_are_what_they_say(balanced: bool) -> None:
    """Which losses are exactly 0, and that an empty region adds no loss to its queue."""
    expected = {
        empty_consistent: {"loss_consistent", "loss_consistent_local"},
        empty_inconsistent: {"loss_inconsistent", "loss_inconsistent_local"},
        empty_local: {"loss_consistent_local", "loss_inconsistent_local", "loss_local"},
        all_ignored: {"loss", "loss_global", "loss_local"}
        | {f"loss_{r}{view}" for r in ("consistent", "inconsistent") for view in ("", "_local")},
    }
    for case, zeros in expected.items():
        data = batch()
        case(data)
        result, gradient, criterion = losses_of(data, balanced)
        names = {name for name in result if name.startswith("loss")}
        assert {name for name in names if result[name] == 0} == zeros & names
        assert (gradient.abs().sum() == 0) == (case is all_ignored)
        lengths = [len(values) for values in counted(criterion.state_dict()).values()]
        pushed = [bool(result[f"loss_{r}"] > 0) for r in ("consistent", "inconsistent")]
        assert lengths == [int(balanced and one) for one in pushed]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("balanced", [False, True], ids=["warm-up", "CARB"])
def test_an_image_smaller_than_the_patch_and_one_without_labels(precision, balanced) -> None:
    """Through transform, CLIP, network and descent. 5x7 pixels against a local view of 40x58, a
    CLIP patch of 8 and an output stride of 8: what is not image is padding and teaches nothing."""
    values = load_config("configs/tiny_cpu.yaml").to_dict()
    changed = {"precision": precision, "image_size": [5, 7], "patch_size": [40, 58]}
    config = config_from_dict(values | changed | {"batch_size": 2}, "test")
    text = torch.nn.functional.normalize(torch.randn(3, 64, generator=generator(0)), dim=1)
    torch.manual_seed(0)
    model = build_model(config, 3, text)
    ranks = Ranks(0, 1, torch.device("cpu"))
    network = build_network(model, config, ranks)
    maskclip = MaskCLIP(tiny_clip().visual, text)
    transform = build_transform(config)
    pixels = torch.randint(0, 256, (3, 5, 7), generator=generator(1)).byte()
    samples = [
        transform.apply(pixels, None, transform.draw((5, 7), generator(seed))) for seed in (2, 1)
    ]
    image, valid = (torch.stack([sample[part] for sample in samples]) for part in (0, 2))
    assert 0 < valid[0].sum() < 12 * 16
    labels = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    sampler, criterion = build_sampler(config), build_criterion(config)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
    padding_alone = 0
    for step in range(8):
        of_both = {"image": image, "valid": valid, "image_labels": labels}
        views = prepare_views(of_both, step, config, ranks, maskclip, sampler)
        assert (views.global_mask[~valid] == IGNORE_INDEX).all()
        assert (views.global_mask[1] == IGNORE_INDEX).all()
        padding_alone += bool((views.local_mask == IGNORE_INDEX).all())
        losses = train_one_step(network, criterion, optimizer, views, step, 0.1, balanced)
        assert all(value.isfinite().all() for value in losses.values())
    assert all(tensor.isfinite().all() for tensor in model.state_dict().values())
    assert all(
        math.isfinite(v) for values in counted(criterion.state_dict()).values() for v in values
    )
    assert 0 < padding_alone < 8  # both kinds of local views were there


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("size", [(1, 1), (3, 40), (7, 2)])
def test_pictures_smaller_than_a_patch_of_clip_have_masks_and_predictions(size, bf16) -> None:
    """CLIP's patches have 8 pixels, the network's cells too."""
    config = load_config("configs/tiny_cpu.yaml")
    text = torch.nn.functional.normalize(torch.randn(3, 64, generator=generator(0)), dim=1)
    network = build_model(config, 3, text).eval()
    maskclip = MaskCLIP(tiny_clip().visual, text)
    image = torch.randn(1, 3, *size, generator=generator(1))
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16), torch.no_grad():
        views = {"scales": [0.1, 1.0, 2.0], "grid": (1, 1), "flip": True}
        scores = multi_view_scores(maskclip.upsampled_scores, image, size, **views)
        logits = predict_logits(network, image, size, scales=(0.5, 1.0), flip=True)
    for values in (scores, logits):
        assert values.shape == (1, 3, *size) and values.isfinite().all()
    labels = torch.tensor([[0.0, 1, 1]])
    assert set(to_pseudo_mask(scores, labels).unique().tolist()) <= {1, 2}


# --- regions


@quick
@given(st.data())
def test_consistent_inconsistent_and_ignored_pixels_are_all_pixels(data) -> None:
    num_classes = data.draw(st.integers(1, 6))
    shape = data.draw(st.tuples(*[st.integers(1, 7)] * 3))
    values = st.sampled_from([*range(num_classes), IGNORE_INDEX])
    mask = torch.from_numpy(data.draw(arrays(np.int64, shape, elements=values)))
    classes = st.integers(0, num_classes - 1)
    prediction = torch.from_numpy(data.draw(arrays(np.int64, shape, elements=classes)))
    consistent, inconsistent = split_regions(mask, prediction)
    ignored = mask == IGNORE_INDEX
    times = consistent.int() + inconsistent.int() + ignored.int()
    assert (times == 1).all()
    assert (mask[consistent] == prediction[consistent]).all()
    assert (mask[inconsistent] != prediction[inconsistent]).all()


# --- w and the losses


@quick
@given(
    st.lists(st.tuples(st.floats(0, 50), st.floats(0, 50), st.booleans(), st.booleans())),
    st.integers(-40, 40),
    st.integers(1, 6),
)
def test_w_does_not_change_when_both_losses_are_scaled(steps, exponent, queue_size) -> None:
    """By a power of 2, so that nothing is rounded."""
    weights = []
    for scale in (1.0, 2.0**exponent):
        criterion = CARBCriterion(queue_size)
        for *losses, has_consistent, has_inconsistent in steps:
            # A region without pixels has the loss 0.
            losses = torch.tensor(losses) * torch.tensor([has_consistent, has_inconsistent])
            # float32 as it is in training, far from its smallest number
            losses = torch.where(losses < 1e-6, 0.0, losses) * scale
            criterion.push(losses, torch.tensor([has_consistent, has_inconsistent]).int())
        weights.append(criterion.weight(torch.zeros(())).item())
    assert math.isfinite(weights[0]) and weights[0] >= 0
    assert weights[0] == weights[1]


@quick
@given(seeds, st.integers(1, 5), st.booleans(), st.randoms(use_true_random=False))
def test_the_losses_do_not_depend_on_the_order_of_the_classes(
    seed, num_classes, balanced, random
) -> None:
    data = batch(seed, num_classes)
    order = list(range(num_classes))  # new place -> old class
    random.shuffle(order)
    new_id = torch.full((256,), IGNORE_INDEX)
    new_id[order] = torch.arange(num_classes)
    changed = {
        "logits": data["logits"][:, order],
        "labels": data["labels"][:, order],
        "mask": new_id[data["mask"]],
        "local": new_id[data["local"]],
    }
    result, gradient, _ = losses_of(data, balanced)
    other, other_gradient, _ = losses_of(changed, balanced)
    by_class = {name for name in result if name.startswith("class_")}
    for name in result.keys() - by_class:
        torch.testing.assert_close(result[name], other[name], rtol=1e-5, atol=1e-6)
    for name in by_class:
        torch.testing.assert_close(result[name][order], other[name])
    torch.testing.assert_close(gradient[:, order], other_gradient, rtol=1e-4, atol=1e-7)


@quick
@given(seeds, st.floats(0, 1), st.booleans(), st.sampled_from([1.0, 1e4]))
def test_the_gradient_is_zero_where_nothing_is_supervised(seed, ignored, balanced, scale) -> None:
    data = batch(seed, ignored=ignored)
    data["logits"] *= scale
    _, gradient, _ = losses_of(data, balanced)
    supervised = data["mask"] != IGNORE_INDEX
    top, left, height, width = BOX
    window = supervised[:, top : top + height, left : left + width]
    window |= data["local"] != IGNORE_INDEX
    assert (gradient.abs().amax(1)[~supervised] == 0).all()
    assert gradient.isfinite().all()
    # The gradient of a softmax: what one class gains the others lose.
    torch.testing.assert_close(gradient.sum(1), torch.zeros(2, *SIZE), rtol=0, atol=1e-6)


# --- local views


@quick
@given(st.data(), seeds)
def test_local_views_lie_in_the_image_and_have_pixels(data, seed) -> None:
    sides = st.tuples(st.integers(1, 9), st.integers(1, 9))
    patch, more = data.draw(sides), data.draw(st.tuples(st.integers(0, 9), st.integers(0, 9)))
    image = (patch[0] + more[0], patch[1] + more[1])
    ratio = sorted(data.draw(st.tuples(st.floats(0.01, 3), st.floats(0.01, 3))))
    last, how = data.draw(st.booleans()), data.draw(st.booleans())
    sampler = LocalViewSampler(patch, tuple(ratio), "image" if how else "batch", last)
    for (top, left, *sides), size in sampler.draw(3, image, generator(seed)):
        assert tuple(sides) == patch
        assert 0 <= top <= more[0] and 0 <= left <= more[1]
        for side, cut_out in zip(size, patch, strict=True):
            assert max(1, ratio[0] * cut_out - 1.001) <= side <= max(1, ratio[1] * cut_out * 1.001)


# --- masks


@quick
@given(st.data())
def test_masks_hold_present_classes_only_or_no_label(data) -> None:
    num_classes, (height, width) = data.draw(st.integers(1, 6)), (3, 4)
    numbers = st.floats(-1e4, 1e4, width=32)
    scores = data.draw(arrays(np.float32, (2, num_classes, height, width), elements=numbers))
    labels = data.draw(arrays(np.float32, (2, num_classes), elements=st.sampled_from([0, 1])))
    scores, labels = torch.from_numpy(scores), torch.from_numpy(labels)
    mask = to_pseudo_mask(scores, labels)
    for i in range(2):
        present = set(labels[i].nonzero()[:, 0].tolist())
        found = set(mask[i].unique().tolist())
        assert found <= present if present else found == {IGNORE_INDEX}
        for row in range(height):
            for column in range(width):
                if present:  # the best of the present, the first of equals
                    values = {k: scores[i, k, row, column].item() for k in sorted(present)}
                    assert mask[i, row, column].item() == max(values, key=values.get)


# --- mean IoU


@quick
@given(st.data())
def test_the_mean_iou_is_a_share_and_that_of_a_count_by_hand(data) -> None:
    """Of several images; in any order of images and classes."""
    num_classes = data.draw(st.integers(1, 4))
    truths = st.sampled_from([*range(num_classes), IGNORE_INDEX])
    shapes = data.draw(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), max_size=3))
    images = [
        (
            data.draw(arrays(np.uint8, shape, elements=st.integers(0, num_classes - 1))),
            data.draw(arrays(np.uint8, shape, elements=truths)),
        )
        for shape in shapes
    ]
    matrix, backwards = ConfusionMatrix(num_classes), ConfusionMatrix(num_classes)
    for prediction, truth in images:
        matrix.update(torch.from_numpy(prediction), torch.from_numpy(truth))
    flipped = np.arange(256, dtype=np.uint8)
    flipped[:num_classes] = flipped[:num_classes][::-1].copy()
    for prediction, truth in reversed(images):
        backwards.update(*(torch.from_numpy(flipped[values]) for values in (prediction, truth)))
    pairs = [
        (int(p), int(t))
        for prediction, truth in images
        for p, t in zip(prediction.flat, truth.flat, strict=True)
        if t != IGNORE_INDEX
    ]
    shares = []
    for k in range(num_classes):
        either = [p == t for p, t in pairs if k in (p, t)]
        shares += [sum(either) / len(either)] if either else []
    if not shares:
        assert math.isnan(matrix.miou()) and math.isnan(backwards.miou())
        return
    assert 0 <= matrix.miou() <= 1
    assert matrix.miou() == pytest.approx(sum(shares) / len(shares), rel=1e-14)
    assert matrix.miou() == pytest.approx(backwards.miou(), rel=1e-14)
