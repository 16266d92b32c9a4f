"""models/views.py: where local views lie, what they cut out, and that boxes fit pixels."""

import pytest
import torch
import torch.nn.functional as F

from datasets.labels import IGNORE_INDEX
from models.views import LocalViewSampler, crop, ignore_padding, local_pseudo_mask, local_view
from utils.safe.errors import InputError
from utils.seed import generator


def positions(last: bool, count: int = 400) -> set[tuple[int, int]]:
    sampler = LocalViewSampler((2, 3), (1.0, 2.0), "image", last)
    views = sampler.draw(count, (4, 5), generator(0))
    return {view.box[:2] for view in views}


def test_the_last_position_is_reached_or_not() -> None:
    assert positions(True) == {(top, left) for top in range(3) for left in range(3)}
    assert positions(False) == {(top, left) for top in range(2) for left in range(2)}


def test_one_draw_per_image_or_per_batch() -> None:
    per_image = LocalViewSampler((4, 4), (1.0, 2.0), "image").draw(6, (32, 32), generator(1))
    per_batch = LocalViewSampler((4, 4), (1.0, 2.0), "batch").draw(6, (32, 32), generator(1))
    assert len(set(per_image)) > 1 and len(set(per_batch)) == 1
    assert len(per_image) == len(per_batch) == 6


def test_resized_sides_follow_the_ratio_and_are_cut() -> None:
    view = LocalViewSampler((16, 12), (1.0, 2.0)).view(3, 4, 1.4417768)
    assert view.box == (3, 4, 16, 12) and view.size == (23, 17)
    for drawn in LocalViewSampler((10, 10), (0.5, 1.5)).draw(50, (20, 20), generator(2)):
        assert all(5 <= side <= 15 for side in drawn.size)


def test_a_patch_as_large_as_the_image_is_the_image() -> None:
    (view,) = LocalViewSampler((4, 6), (1.0, 1.0)).draw(1, (4, 6), generator(0))
    image = torch.randn(1, 3, 4, 6)
    assert view.box == (0, 0, 4, 6)
    torch.testing.assert_close(local_view(image, view.box, view.size), image)


def test_a_patch_larger_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="does not fit"):
        LocalViewSampler((8, 8), (1.0, 2.0)).draw(1, (4, 16), generator(0))


def test_crop_takes_each_image_at_its_own_box() -> None:
    maps = torch.arange(2 * 5 * 6).reshape(2, 5, 6)
    boxes = [(0, 1, 2, 3), (3, 3, 2, 3)]
    cut = crop(maps, boxes)
    assert torch.equal(cut[0], maps[0, 0:2, 1:4]) and torch.equal(cut[1], maps[1, 3:5, 3:6])
    channels = maps[:, None].expand(2, 4, 5, 6)
    assert torch.equal(crop(channels, boxes)[:, 2], cut)


def test_local_masks_come_back_in_order_at_the_patch_size() -> None:
    """A stand-in for CLIP that labels a pixel with the image's value: sizes and order are what
    counts.
    """
    calls = []

    def brightness_classifier(image, image_labels, size):
        calls.append(tuple(image.shape))
        return F.interpolate(image[:, :1], size, mode="nearest")[:, 0].round().long()

    image = torch.arange(5.0).reshape(5, 1, 1, 1).expand(5, 3, 40, 40)
    sampler = LocalViewSampler((8, 6), (1.0, 1.5))
    views = sampler.draw(5, (40, 40), generator(3))
    masks = local_pseudo_mask(brightness_classifier, image, torch.ones(5, 2), views)
    assert masks.shape == (5, 8, 6)
    assert masks.flatten(1).unique(dim=1).flatten().tolist() == [0, 1, 2, 3, 4]
    assert {shape[2:] for shape in calls} == {view.size for view in views}
    calls.clear()
    views = LocalViewSampler((8, 6), (1.0, 1.5), "batch").draw(5, (40, 40), generator(3))
    local_pseudo_mask(brightness_classifier, image, torch.ones(5, 2), views)
    assert len(calls) == 1 and calls[0][0] == 5


def test_padding_is_ignored_in_the_image_and_in_its_boxes() -> None:
    valid = torch.ones(1, 4, 4, dtype=torch.bool)
    valid[:, 3:] = False
    mask = torch.zeros(1, 4, 4, dtype=torch.long)
    assert (ignore_padding(mask, valid)[0, 3] == IGNORE_INDEX).all()
    local = ignore_padding(mask[:, :2, :2], valid, [(2, 1, 2, 2)])
    assert local.tolist() == [[[0, 0], [IGNORE_INDEX, IGNORE_INDEX]]]
