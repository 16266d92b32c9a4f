"""The augmentations against OpenCV's results, colorsys and plain arithmetic."""

import colorsys
import re

import numpy as np
import pytest
import torch
from conftest import GOLDENS, load_golden

from datasets.photometric import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
)
from datasets.transforms import (
    CLIP_MEAN,
    CLIP_STD,
    IMAGENET_MEAN,
    IMAGENET_STD,
    Augmentation,
    TrainTransform,
    fit_into,
    normalize,
    resize_image,
)
from datasets.windows import resize_window_nearest

GREY_LEVELS = 2  # tolerance of the reference cases, in the mean


def resize_mask(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    return resize_window_nearest(mask, size, (0, 0, *size))


RESIZE = r"resize_\d+x\d+_img"
PHOTOMETRIC = r"(brightness|contrast|saturation|hue)_.*"
PIPELINE = r"pipe\d+_img"
PIPELINE_PARTS = ("img", "seg", "scale", "flip")


def golden_matches(pattern: str) -> list[str]:
    """The matching keys; ["none"] where there are none, so that the test skips by name or fails."""
    if GOLDENS is None or not (GOLDENS / "pipeline.npz").is_file():
        return ["none"]
    with np.load(GOLDENS / "pipeline.npz") as file:
        return [key for key in file.files if re.fullmatch(pattern, key)] or ["none"]


def test_golden_pipeline_no_key_is_left_out() -> None:
    keys = load_golden("pipeline.npz").files
    resized, photometric, cases = (
        [key for key in keys if re.fullmatch(pattern, key)]
        for pattern in (RESIZE, PHOTOMETRIC, PIPELINE)
    )
    compared = {"img_bgr", "seg", "normalized_rgb_hwc", *resized, *photometric}
    compared |= {key.replace("_img", "_seg") for key in resized}
    compared |= {key.replace("img", part) for key in cases for part in PIPELINE_PARTS}
    assert set(keys) == compared


def to_image(hwc: np.ndarray, bgr: bool = False) -> torch.Tensor:
    """(H,W,3) array -> (3,H,W) RGB tensor."""
    return torch.from_numpy((hwc[..., ::-1] if bgr else hwc).copy()).permute(2, 0, 1)


def random_image(height: int, width: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, height, width), dtype=torch.uint8, generator=generator)


def mean_difference(a: torch.Tensor, b: torch.Tensor) -> float:
    return (a.float() - b.float()).abs().mean().item()


@pytest.mark.parametrize("key", golden_matches(RESIZE))
def test_golden_resize(key: str) -> None:
    file = load_golden("pipeline.npz")
    image, mask = to_image(file["img_bgr"], bgr=True), torch.from_numpy(file["seg"])
    width, height = map(int, re.findall(r"\d+", key))
    expected = to_image(file[key], bgr=True)
    expected_mask = torch.from_numpy(file[key.replace("_img", "_seg")])
    size = fit_into(tuple(mask.shape), (height, width))
    assert size == tuple(expected_mask.shape)
    assert mean_difference(resize_image(image, size), expected) < GREY_LEVELS
    assert torch.equal(resize_mask(mask, size), expected_mask)


@pytest.mark.parametrize("key", golden_matches(PHOTOMETRIC))
def test_golden_photometric(key: str) -> None:
    file = load_golden("pipeline.npz")
    name, value = key.split("_")
    adjust = {
        "brightness": lambda image: adjust_brightness(image, float(value)),
        "contrast": lambda image: adjust_contrast(image, float(value)),
        "saturation": lambda image: adjust_saturation(image, float(value)),
        "hue": lambda image: adjust_hue(image, int(value)),
    }[name]
    result = adjust(to_image(file["img_bgr"], bgr=True))
    expected = to_image(file[key], bgr=True)
    assert mean_difference(result, expected) < GREY_LEVELS
    if name in ("brightness", "contrast"):
        assert torch.equal(result, expected)


def test_golden_normalized() -> None:
    file = load_golden("pipeline.npz")
    result = normalize(to_image(file["img_bgr"], bgr=True)[None], "imagenet")[0]
    torch.testing.assert_close(
        result.permute(1, 2, 0), torch.from_numpy(file["normalized_rgb_hwc"]), atol=1e-5, rtol=0
    )


def replay(
    transform: TrainTransform, size: tuple[int, int], seed: int
) -> tuple[float, Augmentation]:
    """The draws of the authors' pipeline from NumPy's global generator, in its order."""
    random = np.random.RandomState(seed)
    low, high = transform.scale_range
    ratio = random.random_sample() * (high - low) + low
    resized = transform.resized(size, ratio)
    top = random.randint(0, max(resized[0] - transform.crop_size[0], 0) + 1)
    left = random.randint(0, max(resized[1] - transform.crop_size[1], 0) + 1)
    flip = random.rand() < transform.flip_probability
    brightness = random.uniform(-32, 32) if random.randint(2) else 0.0
    contrast_last = random.randint(2) == 0
    contrast = 1.0
    if not contrast_last and random.randint(2):
        contrast = random.uniform(0.5, 1.5)
    saturation = random.uniform(0.5, 1.5) if random.randint(2) else 1.0
    hue = random.randint(-18, 18) if random.randint(2) else 0
    if contrast_last and random.randint(2):
        contrast = random.uniform(0.5, 1.5)
    return ratio, Augmentation(
        resized, top, left, bool(flip), brightness, contrast, contrast_last, saturation, int(hue)
    )


@pytest.mark.parametrize("key", golden_matches(PIPELINE))
def test_golden_pipeline(key: str) -> None:
    file = load_golden("pipeline.npz")
    case = key.removesuffix("_img")
    image, mask = to_image(file["img_bgr"], bgr=True), torch.from_numpy(file["seg"])
    expected = torch.from_numpy(file[key]).permute(2, 0, 1)
    size = tuple(mask.shape)
    transform = TrainTransform(size, (0.4, 2.0), tuple(expected.shape[1:]))
    ratio, augmentation = replay(transform, size, seed=int(case.removeprefix("pipe")))
    width, height = file[f"{case}_scale"]
    assert (int(size[0] * ratio), int(size[1] * ratio)) == (height, width)
    assert augmentation.flip == bool(file[f"{case}_flip"])

    result, result_mask, valid = transform.apply(image, mask, augmentation)
    assert np.array_equal(result_mask, file[f"{case}_seg"])
    normalized = normalize(result[None], "imagenet", valid[None])[0]
    std = torch.tensor(IMAGENET_STD).view(3, 1, 1)
    assert mean_difference(normalized * std, expected * std) < GREY_LEVELS
    assert torch.equal(normalized[:, ~valid], torch.zeros_like(normalized[:, ~valid]))
    assert torch.equal(expected[:, ~valid], torch.zeros_like(expected[:, ~valid]))
    assert (result_mask[~valid] == 255).all()


def test_window_of_a_resize_is_the_crop_of_the_whole() -> None:
    """The transform resizes inside the crop only; nothing may show of that."""
    image = random_image(37, 53)
    mask = image[0] % 5
    for size in ((37, 53), (80, 101), (19, 30), (36, 200)):
        crop = (16, 24)
        transform = TrainTransform(size, (1, 1), crop, photometric_distortion=False)
        for top, left in ((0, 0), (size[0] - crop[0], size[1] - crop[1]), (3, 5)):
            result, result_mask, valid = transform.apply(image, mask, Augmentation(size, top, left))
            inside = (slice(top, top + crop[0]), slice(left, left + crop[1]))
            whole = resize_image(image, size)[:, *inside].int()
            assert (result.int() - whole).abs().max() <= 1
            assert torch.equal(result_mask, resize_mask(mask, size)[inside])
            assert valid.all()


def test_resize_keeps_values() -> None:
    image = random_image(9, 12)
    transform = TrainTransform((9, 12), (1, 1), (9, 12))
    assert torch.equal(transform.apply(image, None, Augmentation((9, 12)))[0], image)
    assert torch.equal(resize_image(image, (9, 12)), image)
    constant = torch.full((3, 7, 5), 200, dtype=torch.uint8)
    assert (resize_image(constant, (13, 31)) == 200).all()
    assert (transform.apply(constant, None, Augmentation((90, 31), 40, 7))[0] == 200).all()
    # 2 pixels to 4: the inner ones lie a quarter from a pixel center, the outer ones at the edge.
    two = torch.tensor([0, 100], dtype=torch.uint8).expand(3, 1, 2)
    assert resize_image(two, (1, 4))[0, 0].tolist() == [0, 25, 75, 100]


def test_mask_gains_no_labels() -> None:
    mask = torch.tensor([[0, 18], [255, 7]], dtype=torch.uint8)
    for size in ((3, 5), (7, 2), (1, 1), (20, 21)):
        assert set(resize_mask(mask, size).unique().tolist()) <= {0, 7, 18, 255}
    assert resize_mask(mask, (4, 2)).tolist() == [[0, 18], [0, 18], [255, 7], [255, 7]]


def test_fit_into() -> None:
    assert fit_into((1080, 1920), (1024, 2048)) == (1024, 1820)  # the WildDash2 frames of the paper
    assert fit_into((64, 128), (26, 53)) == (26, 52)
    assert fit_into((720, 960), (720, 960)) == (720, 960)
    assert fit_into((1920, 1080), (1024, 2048)) == (1820, 1024)  # long side against long side
    assert fit_into((1000, 4), (10, 10)) == (10, 1)


def test_crop_and_flip_move_image_and_mask_together() -> None:
    mask = torch.arange(8 * 10, dtype=torch.uint8).view(8, 10)
    image = mask.expand(3, 8, 10).contiguous()
    transform = TrainTransform((8, 10), (1, 1), (4, 5))
    result, result_mask, _ = transform.apply(image, mask, Augmentation((8, 10), 2, 3, flip=True))
    assert torch.equal(result[1], result_mask)
    assert torch.equal(result_mask, mask[2:6, 3:8].flip(-1))


def test_padding_is_marked() -> None:
    image = torch.full((3, 4, 6), 9, dtype=torch.uint8)
    mask = torch.zeros(4, 6, dtype=torch.uint8)
    transform = TrainTransform((4, 6), (1, 1), (5, 8))
    result, result_mask, valid = transform.apply(image, mask, Augmentation((4, 6), flip=True))
    expected = torch.zeros(5, 8, dtype=torch.bool)
    expected[:4, :6] = True
    assert torch.equal(valid, expected)
    assert torch.equal(result_mask, torch.where(expected, 0, 255).to(torch.uint8))
    assert torch.equal(result[2], torch.where(expected, 9, 0).to(torch.uint8))


def test_draws_cover_their_ranges() -> None:
    transform = TrainTransform((100, 200), (0.5, 2.0), (60, 150))
    generator = torch.Generator().manual_seed(0)
    draws = [transform.draw((100, 200), generator) for _ in range(400)]
    heights = [a.size[0] for a in draws]
    assert min(heights) in range(50, 55) and max(heights) in range(195, 201)
    assert all(0 <= a.top <= max(a.size[0] - 60, 0) for a in draws)
    assert {a.left for a in draws if a.size[1] <= 150} == {0}
    small = TrainTransform((11, 21), (1, 1), (10, 20))
    corners = {(a.top, a.left) for a in (small.draw((11, 21), generator) for _ in range(100))}
    assert corners == {(0, 0), (0, 1), (1, 0), (1, 1)}  # the last admissible place is drawn too
    assert 0.4 < np.mean([a.flip for a in draws]) < 0.6
    assert 0.4 < np.mean([a.contrast_last for a in draws]) < 0.6
    for name, neutral, low, high in (
        ("brightness", 0, -32, 32),
        ("contrast", 1, 0.5, 1.5),
        ("saturation", 1, 0.5, 1.5),
        ("hue", 0, -18, 17),
    ):
        values = np.array([getattr(a, name) for a in draws])
        assert 0.4 < np.mean(values == neutral) < 0.6
        margin = 0.05 * (high - low)
        assert low <= values.min() < low + margin and high - margin < values.max() <= high


def test_draw_switches() -> None:
    generator = torch.Generator().manual_seed(1)
    plain = TrainTransform((8, 8), (1, 1), (8, 8), 0.0, photometric_distortion=False)
    assert {plain.draw((8, 8), generator) for _ in range(20)} == {Augmentation((8, 8))}
    always = TrainTransform((8, 8), (1, 1), (8, 8), 1.0)
    assert all(always.draw((8, 8), generator).flip for _ in range(20))
    same = [always.draw((8, 8), torch.Generator().manual_seed(3)) for _ in range(2)]
    assert same[0] == same[1]


def test_brightness_and_contrast_truncate_and_clip() -> None:
    image = torch.tensor([0, 10, 101, 250], dtype=torch.uint8).expand(3, 1, 4)
    assert adjust_brightness(image, 12.3)[0, 0].tolist() == [12, 22, 113, 255]
    assert adjust_brightness(image, -31.7)[0, 0].tolist() == [0, 0, 69, 218]
    assert adjust_contrast(image, 0.55)[0, 0].tolist() == [0, 5, 55, 137]
    assert adjust_contrast(image, 1.5)[0, 0].tolist() == [0, 15, 151, 255]


def test_photometric_order() -> None:
    """Brightness, then contrast before or after the saturation: clipping tells them apart."""
    image = torch.tensor([190, 90, 0], dtype=torch.uint8).view(3, 1, 1)
    transform = TrainTransform((1, 1), (1, 1), (1, 1))
    numbers = {"brightness": 10.0, "contrast": 1.5, "saturation": 0.5}
    for last, expected in ((False, [255, 202, 135]), (True, [255, 225, 157])):
        augmentation = Augmentation((1, 1), contrast_last=last, **numbers)
        result = transform.apply(image, None, augmentation)[0].flatten()
        assert (result - torch.tensor(expected)).abs().max() <= 1, result


def through_hsv(pixel: list[int], saturation: float = 1.0, hue_steps: int = 0) -> list[float]:
    hue, s, value = colorsys.rgb_to_hsv(*(c / 255 for c in pixel))
    hue = (round(hue * 180) + hue_steps) / 180 if hue_steps else hue
    return [255 * c for c in colorsys.hsv_to_rgb(hue % 1, min(s * saturation, 1), value)]


def test_saturation_and_hue_against_colorsys() -> None:
    image = random_image(8, 16, seed=5)
    image[:, 0, 0] = 77  # grey: no hue, no saturation
    image[:, 0, 1] = 0
    pixels = image.flatten(1).T.tolist()
    for factor in (0.5, 1.3):
        expected = torch.tensor([through_hsv(pixel, saturation=factor) for pixel in pixels])
        result = adjust_saturation(image, factor).flatten(1).T
        assert (result - expected).abs().max() <= 0.51
    for steps in (-18, 5, 17):
        expected = torch.tensor([through_hsv(pixel, hue_steps=steps) for pixel in pixels])
        result = adjust_hue(image, steps).flatten(1).T
        assert (result - expected).abs().max() <= 0.51
    assert adjust_hue(image, 9)[:, 0, 0].tolist() == [77, 77, 77]
    assert adjust_saturation(image, 1.5)[:, 0, :2].tolist() == [[77, 0]] * 3
    red = torch.tensor([200, 0, 0], dtype=torch.uint8).view(3, 1, 1)
    assert adjust_hue(red, 60).flatten().tolist() == [0, 200, 0]  # a third of the circle


def test_normalize() -> None:
    image = random_image(2, 3)[None].expand(2, 3, 2, 3)
    valid = torch.ones(2, 2, 3, dtype=torch.bool)
    valid[1, :, 2] = False
    for name, mean, std in (
        ("imagenet", IMAGENET_MEAN, IMAGENET_STD),
        ("clip", CLIP_MEAN, CLIP_STD),
    ):
        result = normalize(image, name, valid)
        for channel in range(3):
            expected = (image[0, channel].double() - mean[channel]) / std[channel]
            torch.testing.assert_close(result[0, channel].double(), expected, atol=1e-5, rtol=0)
        assert (result[1, :, :, 2] == 0).all()
        assert torch.equal(result[1, :, :, :2], result[0, :, :, :2])
    assert CLIP_MEAN[0] == pytest.approx(122.771, abs=1e-3)
    assert CLIP_STD[2] == pytest.approx(70.323, abs=1e-3)


@pytest.mark.parametrize("seed", range(12))
def test_points_land_on_the_class_of_the_equally_transformed_mask(seed: int) -> None:
    """Wherever they lie a pixel or more inside their region, in the crop; none is lost."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(30, 70)), int(rng.integers(30, 70))
    blocks = rng.integers(0, 9, (-(-size[0] // 10), -(-size[1] // 10)))
    mask = np.kron(blocks, np.ones((10, 10), int))[: size[0], : size[1]]
    x, y = rng.integers(0, size[1], 300), rng.integers(0, size[0], 300)
    inside = [(a % 10 > 1) & (a % 10 < 8) for a in (x, y)]
    x, y = x[inside[0] & inside[1]], y[inside[0] & inside[1]]
    points = torch.from_numpy(np.stack([x, y, mask[y, x]], 1))
    transform = TrainTransform((48, 56), (0.6, 2.0), (40, 44))
    augmentation = transform.draw(size, torch.Generator().manual_seed(seed))
    image = torch.zeros(3, *size, dtype=torch.uint8)
    _, target, valid = transform.apply(image, torch.from_numpy(mask), augmentation)
    found = transform.apply_points(points, augmentation, size)
    assert found.dtype == torch.float32 and torch.equal(found[:, 2].long(), points[:, 2])
    column, row = (found[:, i].add(0.5).floor().long() for i in (0, 1))
    seen = (column >= 0) & (column < 44) & (row >= 0) & (row < 40)
    column, row = column[seen], row[seen]
    assert len(column) > 10 and valid[row, column].all()
    assert torch.equal(target[row, column], found[seen, 2].long())


def test_points_move_as_pixels_do() -> None:
    transform = TrainTransform((8, 16), (1.0, 1.0), (4, 5))
    points = torch.tensor([[0, 0, 3], [7, 3, 1]])
    moved = transform.apply_points(points, Augmentation((8, 16), top=1, left=2), (4, 8))
    assert moved.tolist() == [[-1.5, -0.5, 3], [12.5, 5.5, 1]]
    flipped = transform.apply_points(points, Augmentation((8, 16), 1, 2, flip=True), (4, 8))
    assert flipped.tolist() == [[5.5, -0.5, 3], [-8.5, 5.5, 1]]
    narrow = transform.apply_points(points, Augmentation((4, 3), flip=True), (4, 8))  # padded
    assert narrow[0, 0] == pytest.approx(3 - 1 - (0.5 * 3 / 8 - 0.5))
    nothing = transform.apply_points(points[:0], Augmentation((4, 3)), (4, 8))
    assert nothing.shape == (0, 3)
