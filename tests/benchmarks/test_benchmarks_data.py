"""The official pipeline and metric against the official numbers; their benchmarks on tiny work."""

import sys

import numpy as np
import pytest
import torch
from conftest import golden_cases, load_golden
from test_transforms import PIPELINE, golden_matches, replay

from benchmarks import data_pipeline, evaluation
from benchmarks.harness import Options, compare
from benchmarks.official import data as official
from benchmarks.official.evaluation import areas, iou
from datasets.transforms import IMAGENET_STD, TrainTransform

SIZE, CROP = (64, 128), (32, 64)


@pytest.mark.parametrize("key", golden_matches(PIPELINE))
def test_pipeline_equals_the_official_numbers(key: str) -> None:
    pytest.importorskip("cv2", reason="pip install -r benchmarks/requirements.txt")
    golden, case = load_golden("pipeline.npz"), key.removesuffix("_img")
    expected = golden[key].transpose(2, 0, 1)
    transform = TrainTransform(golden["seg"].shape, (0.4, 2.0), expected.shape[1:])
    _, drawn = replay(transform, golden["seg"].shape, seed=int(case.removeprefix("pipe")))
    image, label = official.transform(golden["img_bgr"], golden["seg"], drawn, expected.shape[1:])
    levels = (image.numpy() - expected) * np.reshape(IMAGENET_STD, (3, 1, 1))
    assert np.abs(levels).mean() < 0.01  # grey levels; another version of OpenCV rounds a few
    assert np.array_equal(label[0].numpy(), golden[f"{case}_seg"])


@pytest.mark.parametrize("case", golden_cases("metrics.npz") or ["none"])
def test_areas_equal_the_official_numbers(case: str) -> None:
    golden = load_golden("metrics.npz")
    num_classes, totals = int(golden[f"{case}/num_classes"]), torch.zeros(4, 1)
    names = [f"{case}/{name}_per_image" for name in ("intersect", "union", "pred_area")]
    names.append(f"{case}/label_area_per_image")
    for i, (p, g) in enumerate(zip(golden[f"{case}/pred"], golden[f"{case}/gt"], strict=True)):
        found = torch.stack(areas(p.astype(np.int64), g, num_classes))
        assert np.array_equal(found.numpy(), [golden[name][i] for name in names])
        totals = totals + found
    expected = golden[f"{case}/IoU"]
    np.testing.assert_allclose(iou(tuple(totals)), expected, rtol=3e-7)


@pytest.mark.parametrize("number", [0, 1])
def test_evaluation_benchmark_compares_and_times(number: int) -> None:
    options = Options("cpu", quick=True)
    result = compare(evaluation.cases(options, SIZE)[number], options)
    assert result["ratio"] > 0 and "equal" in result["agreement"] and not result["failed"]


def test_data_benchmark_compares_and_times() -> None:
    pytest.importorskip("cv2", reason="pip install -r benchmarks/requirements.txt")
    options = Options("cpu", quick=True)
    share, normalised, cached = data_pipeline.cases(options, SIZE, CROP)
    assert (share.target, normalised.target, cached.target) == (1.6, None, None)
    assert share.ours()[0].dtype == torch.uint8  # the training device normalises
    assert normalised.ours()[0].dtype == torch.float32
    for case in (share, normalised, cached):
        result = compare(case, options)
        assert "grey levels" in result["agreement"] and not result["failed"]


def test_the_pipelines_are_checked_on_an_image_that_is_not_timed(monkeypatch) -> None:
    pytest.importorskip("cv2", reason="pip install -r benchmarks/requirements.txt")
    read, sample = [], official.sample

    def listening(image, *rest):
        read.append(image.parent.name)
        return sample(image, *rest)

    monkeypatch.setattr(official, "sample", listening)
    case = data_pipeline.cases(Options("cpu", quick=True), SIZE, CROP)[0]
    case.check()
    case.official()
    assert read == ["checked"] * 8 + ["timed"] * 8


def test_seconds_of_the_official_program_are_for_the_cpu_alone(monkeypatch) -> None:
    pytest.importorskip("cv2", reason="pip install -r benchmarks/requirements.txt")
    monkeypatch.setattr(evaluation, "SIZE", SIZE)
    monkeypatch.setattr(data_pipeline, "SIZE", SIZE)
    for device in ("cpu", "meta"):
        cases = evaluation.cases(Options(device), SIZE)
        cases += data_pipeline.cases(Options(device), SIZE, CROP)
        assert all((case.expected_seconds is not None) == (device == "cpu") for case in cases)


def test_a_pair_that_differs_is_no_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    options = Options("cpu", quick=True)
    metric, to_map = evaluation.cases(options, SIZE)
    monkeypatch.setattr(evaluation.official, "areas", lambda p, g, k: areas(p, 0 * g, k))
    found = compare(metric, options)
    assert found["failed"] and "areas of image 1" in found["agreement"]
    monkeypatch.setattr(evaluation, "label_map", lambda scores: scores.min(1).indices)
    found = compare(to_map, options)
    assert found["failed"] and "pixels differ" in found["agreement"]


def test_without_opencv_the_data_benchmark_says_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(official.InputError, match="pip install -r benchmarks/requirements.txt"):
        data_pipeline.cases(Options("cpu", quick=True))
