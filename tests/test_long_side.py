"""datasets/long_side.py against irn's code; what is drawn."""

import numpy as np
import pytest
import torch
from PIL import Image
from weak_golden import Golden, cases

from datasets.long_side import (
    LongSideTransform,
    Placement,
    color_jitter,
    draw_jitter,
    place,
    resize_bicubic,
    with_long_side,
)
from datasets.transforms import normalize

FILE = "cam_augment.npz"


@pytest.mark.parametrize("case", cases(FILE, "target_long"))
def test_golden_cam_augment(case):
    golden = Golden(FILE, case)
    image, crop = golden["img"].permute(2, 0, 1), golden["crop"].item()
    size = with_long_side(tuple(image.shape[1:]), golden["target_long"].item())
    assert torch.equal(resize_bicubic(image, size).permute(1, 2, 0), golden["resized"])
    offsets = golden["offset_y"].item(), golden["offset_x"].item()
    placement = Placement(size, offsets, bool(golden["flip"].item()))
    placed, mask, valid = LongSideTransform((1, 1), (crop, crop)).apply(image, None, placement)
    golden.near("out", normalize(placed[None], "imagenet", valid[None])[0])
    assert mask is None and golden.unread == set()


def test_a_half_is_rounded_to_even():
    assert with_long_side((5, 10), 5) == (2, 5) and with_long_side((7, 10), 5) == (4, 5)
    assert with_long_side((1, 400), 20) == (1, 20), "at least one row"


def test_larger_maps_are_cut_and_smaller_ones_surrounded():
    maps = torch.arange(1, 13).view(1, 3, 4)
    assert place(maps, (2, 6), (1, 2))[0].tolist() == [[0, 0, 5, 6, 7, 8], [0, 0, 9, 10, 11, 12]]
    assert torch.equal(place(maps, (3, 4), (0, 0)), maps)


def test_draws_reach_all_long_sides_and_places_and_no_others():
    transform = LongSideTransform((6, 8), (5, 7))
    drawn = [transform.draw((6, 12), torch.Generator().manual_seed(i)) for i in range(400)]
    assert {one.size for one in drawn} == {(3, 6), (4, 7), (4, 8)}
    at_8 = {one.offsets for one in drawn if one.size == (4, 8)}
    assert at_8 == {(y, x) for y in range(2) for x in range(2)}
    assert 0.4 < np.mean([one.flip for one in drawn]) < 0.6
    assert all(one.jitter is None for one in drawn)
    with pytest.raises(ValueError, match="no masks"):
        transform.apply(torch.zeros(3, 6, 12), torch.zeros(6, 12), drawn[0])


def test_jitter_by_hand():
    image = torch.full((3, 4, 5), 100, dtype=torch.uint8)
    assert (color_jitter(image, (0.7, 1.0, 1.0, 0.0), (0, 1, 2, 3)) == 70).all()
    # Contrast moves away from the mean grey, saturation from the pixel's own grey.
    image[:, :2] = 200
    assert color_jitter(image, (1.0, 1.3, 1.0, 0.0), (0, 1, 2, 3)).unique().tolist() == [85, 215]
    red = torch.zeros(3, 2, 2, dtype=torch.uint8)
    red[0] = 200
    pale = color_jitter(red, (1.0, 1.0, 0.7, 0.0), (0, 1, 2, 3))
    assert pale[0].unique().item() == 158 and abs(pale[1].unique().item() - 18) <= 1  # grey 60
    # A tenth of a turn: from red towards yellow or magenta.
    turned = color_jitter(red, (1.0, 1.0, 1.0, 0.1), (3, 2, 1, 0))[:, 0, 0].tolist()
    assert turned[0] == 200 and 100 < turned[1] < 130 and turned[2] == 0
    back = color_jitter(red, (1.0, 1.0, 1.0, -0.1), (3, 2, 1, 0))[:, 0, 0].tolist()
    assert back[0] == 200 and 100 < back[2] < 130 and back[1] == 0


def test_jitter_is_within_its_range_and_in_any_order():
    drawn = [draw_jitter(torch.Generator().manual_seed(i)) for i in range(200)]
    amounts = np.array([one for one, _ in drawn])
    assert np.abs(amounts[:, :3] - 1).max() <= 0.3 and np.abs(amounts[:, 3]).max() <= 0.1
    assert (amounts[:, :3].std(0) > 0.15).all() and amounts[:, 3].std() > 0.05
    assert len({order for _, order in drawn}) == 24
    image = torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8)
    transform = LongSideTransform((8, 8), (6, 8), jitter=True)
    placement = transform.draw((6, 8), torch.Generator().manual_seed(1))
    moved, _, valid = transform.apply(image, None, placement, (6, 8))
    assert valid.all() and not torch.equal(moved, image)


def test_the_resize_is_pillows():
    image = torch.randint(0, 256, (3, 9, 13), dtype=torch.uint8)
    expected = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((20, 5), Image.BICUBIC)
    assert np.array_equal(resize_bicubic(image, (5, 20)).permute(1, 2, 0), np.asarray(expected))
    assert resize_bicubic(image, (9, 13)) is image
