"""Whole image, scales, flip and sliding window, with networks whose answers are known by hand."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from models import inference
from models.inference import (
    label_map,
    network_score,
    predict_labels,
    predict_logits,
    resize,
    window_scores,
)
from utils.safe.errors import InputError


class Pixelwise(nn.Module):
    """Per-pixel logits: no context, so that windows and flips must not change them."""

    def forward(self, image):
        return torch.stack([image[:, 0], image[:, 1] - image[:, 2], 0.3 * image[:, 2]], 1)


class Position(nn.Module):
    """Logit = the column number: not symmetric under a flip, and different in every window."""

    def forward(self, image):
        columns = torch.arange(image.shape[-1], dtype=torch.float32)
        return columns.expand(len(image), 1, *image.shape[-2:]).clone()


class Strided(nn.Module):
    """Four times smaller output, as a segmentation net gives it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, 4, 1)
        self.sizes = []

    def forward(self, image):
        self.sizes.append(tuple(image.shape[-2:]))
        return self.conv(image)


def test_single_scale_gives_raw_logits_resized_twice():
    torch.manual_seed(0)
    model, image = Strided(), torch.randn(2, 3, 21, 30)
    found = predict_logits(model, image, (40, 57))
    once = F.interpolate(model.conv(image), (21, 30), mode="bilinear", align_corners=False)
    expected = F.interpolate(once, (40, 57), mode="bilinear", align_corners=False)
    torch.testing.assert_close(found, expected)
    assert found.min() < 0 or found.max() > 1  # logits, not probabilities
    torch.testing.assert_close(predict_logits(model, image, (21, 30)), once)


def test_resize_returns_the_same_tensor_at_the_same_size():
    maps = torch.randn(1, 2, 5, 6)
    assert resize(maps, (5, 6)) is maps


def test_scales_run_the_network_at_rounded_sizes():
    model = Strided()
    predict_logits(model, torch.randn(1, 3, 21, 30), (21, 30), scales=(0.5, 1.0, 1.25), flip=True)
    assert model.sizes == [(11, 15)] * 2 + [(21, 30)] * 2 + [(26, 38)] * 2


def test_several_scales_and_flip_average_probabilities():
    torch.manual_seed(0)
    model, image = Strided(), torch.randn(1, 3, 24, 32)

    def once(scale, flipped):
        x = image.flip(3) if flipped else image
        size = (int(24 * scale), int(32 * scale))
        x = F.interpolate(x, size, mode="bilinear", align_corners=False)
        logits = F.interpolate(model.conv(x), size, mode="bilinear", align_corners=False)
        logits = logits.flip(3) if flipped else logits
        return F.interpolate(logits, (24, 32), mode="bilinear", align_corners=False).softmax(1)

    expected = (once(0.5, False) + once(0.5, True) + once(1.5, False) + once(1.5, True)) / 4
    found = predict_logits(model, image, (24, 32), scales=(0.5, 1.5), flip=True)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 24, 32))


def test_flip_is_undone():
    """Without context the mirrored pass equals the plain one, once mirrored back."""
    image = torch.randn(2, 3, 9, 14)
    plain = predict_logits(Pixelwise(), image, (9, 14)).softmax(1)
    torch.testing.assert_close(predict_logits(Pixelwise(), image, (9, 14), flip=True), plain)


@pytest.mark.parametrize(
    "window,stride", [((8, 8), (5, 3)), ((9, 14), (1, 1)), ((100, 4), (100, 4))]
)
def test_sliding_window_equals_whole_image_without_context(window, stride):
    image = torch.randn(2, 3, 9, 14)
    expected = predict_logits(Pixelwise(), image, (9, 14))
    found = predict_logits(Pixelwise(), image, (9, 14), window=window, stride=stride)
    torch.testing.assert_close(found, expected)


def test_sliding_window_averages_overlaps():
    """Width 6, windows of 4 at 0 and 2: by hand, columns 0 1 (2+0)/2 (3+1)/2 2 3."""
    image = torch.zeros(1, 3, 1, 6)
    found = predict_logits(Position(), image, (1, 6), window=(1, 4), stride=(1, 3))
    assert found.flatten().tolist() == [0.0, 1.0, 1.0, 2.0, 2.0, 3.0]


def test_windows_are_those_of_the_formula():
    """n windows an axis; window i ends at min(i stride + crop, side), starts at that minus crop."""
    numbers = torch.Generator().manual_seed(0)
    for _ in range(2000):
        side, crop = torch.randint(1, 60, (2,), generator=numbers).tolist()
        stride = int(torch.randint(1, crop + 1, (), generator=numbers))
        count = max(side - crop + stride - 1, 0) // stride + 1
        ends = [min(i * stride + crop, side) for i in range(count)]
        assert inference._starts(side, crop, stride) == [max(end - crop, 0) for end in ends]


@pytest.mark.parametrize("batch", [2, 5, 100])
def test_windows_in_a_batch_give_the_same_scores(batch):
    torch.manual_seed(0)
    model, image = Strided(), torch.randn(3, 3, 40, 50)
    one_by_one = window_scores(network_score(model), image, (16, 24), (9, 13))
    assert model.sizes == [(16, 24)] * 12
    seen = []

    def score(view, size):
        seen.append(len(view))
        return network_score(model)(view, size)

    batched = window_scores(score, image, (16, 24), (9, 13), batch)
    torch.testing.assert_close(batched, one_by_one)
    assert sum(seen) == 3 * 12 and max(seen) == 3 * min(batch, 12)


def test_an_image_below_the_window_is_one_window_of_its_own_size():
    model, image = Strided(), torch.randn(1, 3, 20, 30)
    window_scores(network_score(model), image, (32, 16), (8, 8), batch=2)
    assert model.sizes == [(20, 16)] * 2  # heights of 20, three windows along the width
    whole = window_scores(network_score(model), image, (32, 32))
    assert torch.equal(whole, network_score(model)(image, (20, 30)))


def test_stride_defaults_to_the_window():
    image = torch.zeros(1, 3, 1, 4)
    found = predict_logits(Position(), image, (1, 4), window=(1, 2))
    assert found.flatten().tolist() == [0.0, 1.0, 0.0, 1.0]


@pytest.mark.parametrize(
    "options",
    [
        {"window": (8, 8), "stride": (9, 8)},
        {"window": (8, 8), "stride": (0, 8)},
        {"scales": ()},
        {"scales": (1.0, -0.5)},
    ],
)
def test_bad_options_are_input_errors(options):
    with pytest.raises(InputError, match=r"--(stride|scales)"):
        predict_logits(Pixelwise(), torch.zeros(1, 3, 9, 9), (9, 9), **options)


def test_float32_out_of_a_bfloat16_network():
    image = torch.randn(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        logits = predict_logits(Strided(), image, (8, 8))
    assert logits.dtype == torch.float32


# --- strips


class Smooth(Strided):
    """Nineteen classes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 19, 3, 4, 1)


OPTIONS = [
    {},
    {"flip": True},
    {"scales": (0.75, 1.0, 1.25), "flip": True},
    {"window": (24, 32), "stride": (16, 24)},
    {"window": (24, 32), "scales": (0.5, 1.0)},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("size", [(311, 623), (48, 64), (17, 400), (700, 29)])
def test_strips_give_the_labels_of_the_whole(monkeypatch, options, size):
    torch.manual_seed(0)
    model, image = Smooth(), torch.randn(2, 3, 48, 64)
    whole = label_map(predict_logits(model, image, size, **options))
    assert torch.equal(predict_labels(model, image, size, **options), whole)
    monkeypatch.setattr(inference, "_WHOLE", 0)
    for strip in (1, 19 * 4 * 2 * size[1] * 5, 1 << 30):  # a row, five, all
        monkeypatch.setattr(inference, "_STRIP", strip)
        found = predict_labels(model, image, size, **options)
        assert found.dtype == torch.uint8 and found.shape == whole.shape
        assert (found != whole).float().mean() <= 1e-5


@pytest.mark.parametrize(
    ("source", "size"), [((128, 256), (751, 502)), ((1, 1), (9, 5)), ((97, 33), (776, 264))]
)
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_rows_are_those_of_the_whole_up_to_rounding(source, size, layout):
    maps = torch.randn(1, 8, *source).contiguous(memory_format=layout)
    whole = resize(maps, size)
    rows = [range(top, min(top + 7, size[0])) for top in range(0, size[0], 7)]
    found = torch.cat([inference._resize_rows(maps, size, part) for part in rows], 2)
    torch.testing.assert_close(found, whole, rtol=0, atol=3e-6)


def test_scores_up_to_a_gibibyte_are_made_at_once(monkeypatch):
    monkeypatch.setattr(inference, "_resize_rows", None)
    assert predict_labels(Smooth(), torch.randn(1, 3, 48, 64), (300, 400)).shape == (1, 300, 400)
