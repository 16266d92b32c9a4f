"""models/pamr.py: by hand, its properties, its memory."""

import pytest
import torch
import torch.nn.functional as F
from largest import Largest

from models import pamr as module
from models.pamr import affinities, local_std, neighbours, pamr, propagate
from utils.safe.errors import InputError

DILATIONS = (1, 3)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def by_hand(image, dilations, row, column):
    """Neighbours' places, sigma (3,) and weights (taps,) of one pixel of an image (3,H,W)."""
    height, width = image.shape[-2:]
    places, values = [], []
    for d in dilations:
        for y in (row - d, row, row + d):
            for x in (column - d, column, column + d):
                place = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
                values.append(image[(..., *place)])
                if (y, x) != (row, column):
                    places.append(place)
    sigma = torch.stack(values).std(0, unbiased=True)
    centre = image[:, row, column]
    logits = [
        -((image[(..., *place)] - centre).abs() / (1e-8 + 0.1 * sigma)).mean() for place in places
    ]
    return places, sigma, torch.stack(logits).softmax(0)


def test_a_step_by_hand():
    image, scores = random(1, 3, 5, 7), random(1, 2, 5, 7, seed=1)
    sigma, weights = local_std(image, DILATIONS), affinities(image, DILATIONS)
    step = propagate(scores, weights, DILATIONS)
    for row, column in ((0, 0), (2, 3), (4, 6), (0, 4)):
        places, one_sigma, one_weights = by_hand(image[0], DILATIONS, row, column)
        torch.testing.assert_close(sigma[0, :, row, column], one_sigma)
        torch.testing.assert_close(weights[0, :, row, column], one_weights, rtol=1e-4, atol=1e-6)
        expected = sum(
            w * scores[(0, slice(None), *place)]
            for w, place in zip(one_weights, places, strict=True)
        )
        torch.testing.assert_close(step[0, :, row, column], expected, rtol=1e-4, atol=1e-6)


def test_neighbours_come_row_by_row_without_the_centre():
    maps = torch.arange(25.0).reshape(1, 1, 5, 5)
    centre = [int(tap[0, 0, 2, 2]) for tap in neighbours(maps, (1, 2))]
    assert centre == [6, 7, 8, 11, 13, 16, 17, 18, 0, 2, 4, 10, 14, 20, 22, 24]
    corner = [int(tap[0, 0, 0, 0]) for tap in neighbours(maps, (1,))]
    assert corner == [0, 0, 1, 0, 1, 5, 5, 6]


@pytest.mark.parametrize("size", [(12, 17), (3, 2), (1, 1)])
def test_the_result_is_a_convex_combination(size):
    image, scores = random(2, 3, *size), random(2, 4, *size, seed=1).softmax(1)
    refined = pamr(image, scores, 10, (8, 16))
    assert refined.shape == scores.shape
    torch.testing.assert_close(refined.sum(1), torch.ones(2, *size))
    lowest, highest = scores.amin((2, 3)), scores.amax((2, 3))
    assert (refined.amin((2, 3)) >= lowest - 1e-6).all()
    assert (refined.amax((2, 3)) <= highest + 1e-6).all()


def test_constant_surroundings_have_uniform_weights():
    image = torch.full((1, 3, 9, 20), 0.7)
    image[..., 14:] = random(1, 3, 9, 6)
    weights = affinities(image, DILATIONS)
    torch.testing.assert_close(weights[..., :11], torch.full_like(weights[..., :11], 1 / 16))
    assert pamr(image, random(1, 2, 9, 20), 5, DILATIONS).isfinite().all()


def test_scores_follow_the_colours_of_the_image():
    """Two colours: wrong scores inside one of them give way, the border stays sharp."""
    image = torch.zeros(1, 3, 16, 24)
    image[..., 12:] = 1
    scores = torch.stack([image[:, 0], 1 - image[:, 0]], 1)
    noisy = (scores + 0.8 * random(1, 2, 16, 24)).argmax(1) != scores.argmax(1)
    assert noisy.sum() > 20
    scores = torch.where(noisy[:, None], 1 - scores, scores)
    refined = pamr(image, scores, 10, (1, 2)).argmax(1)
    assert (refined != (image[:, 0] == 0).long()).sum() < noisy.sum() / 4


def test_the_scale_of_a_channel_does_not_matter_and_classes_do_not_mix():
    image, scores = random(1, 3, 14, 11), random(1, 4, 14, 11, seed=1)
    refined = pamr(image, scores, 3, DILATIONS)
    shifted = image * torch.tensor([2.0, 0.3, 50.0]).view(3, 1, 1) + 4
    torch.testing.assert_close(pamr(shifted, scores, 3, DILATIONS), refined, atol=1e-4, rtol=0)
    some = [3, 1]
    assert torch.equal(pamr(image, scores[:, some], 3, DILATIONS), refined[:, some])


def test_smaller_scores_are_resized_to_the_corners():
    image, scores = random(1, 3, 12, 10), random(1, 2, 3, 4, seed=1)
    resized = F.interpolate(scores, (12, 10), mode="bilinear", align_corners=True)
    assert torch.equal(pamr(image, scores, 2, DILATIONS), pamr(image, resized, 2, DILATIONS))
    assert torch.equal(pamr(image, scores, 0, DILATIONS), resized)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_scores_of_any_precision_and_layout_give_float32(dtype):
    image, scores = random(2, 3, 9, 8), random(2, 3, 9, 8, seed=1).to(dtype)
    expected = pamr(image, scores.float(), 2, DILATIONS)
    scores = scores.contiguous(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        found = pamr(image, scores, 2, DILATIONS)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


def test_nothing_as_large_as_classes_times_taps_is_stored():
    """Counted in float32 values: the result and the weights are the largest tensors."""

    classes, taps, pixels = 19, 16, 64 * 80
    with Largest(stored=True) as largest:
        pamr(random(1, 3, 64, 80), random(1, classes, 8, 10), 2, (8, 16))
    assert largest.numel == max(classes, taps) * pixels


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.55 GiB\nmore"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
    ],
)
def test_too_little_memory_is_an_error_with_advice(monkeypatch, error):
    def fail(*arguments):
        raise error

    monkeypatch.setattr(module, "propagate", fail)
    expected = r"for PAMR of 5 classes at 6x7 pixels with 2 dilations .*memory.*pamr_steps: 0"
    with pytest.raises(InputError, match=expected) as caught:
        pamr(random(1, 3, 6, 7), random(1, 5, 6, 7), 1, DILATIONS)
    assert "\n" not in str(caught.value)


def test_other_errors_pass_through(monkeypatch):
    def fail(*arguments):
        raise RuntimeError("a bug")

    monkeypatch.setattr(module, "propagate", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        pamr(random(1, 3, 6, 7), random(1, 5, 6, 7), 1, DILATIONS)
