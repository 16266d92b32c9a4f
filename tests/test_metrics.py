"""Confusion matrix: the authors' numbers, a brute-force count, and the Cityscapes scripts."""

import json
import math

import numpy as np
import pytest
import torch
from conftest import golden_cases, load_golden
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from utils import metrics
from utils.metrics import ConfusionMatrix


def _matrix(prediction, ground_truth, num_classes) -> ConfusionMatrix:
    matrix = ConfusionMatrix(num_classes)
    for p, g in zip(prediction, ground_truth, strict=True):
        matrix.update(torch.from_numpy(p), torch.from_numpy(g))
    return matrix


@pytest.mark.parametrize("case", golden_cases("metrics.npz") or ["none found"])
def test_golden_metrics(case):
    file = load_golden("metrics.npz")
    keys = {key.removeprefix(f"{case}/") for key in file.files if key.startswith(f"{case}/")}
    data = {key: file[f"{case}/{key}"] for key in keys}
    num_classes = int(data["num_classes"])
    matrix = _matrix(data["pred"], data["gt"], num_classes)

    areas = {key: [] for key in ("intersect", "union", "pred_area", "label_area")}
    for p, g in zip(data["pred"], data["gt"], strict=True):
        intersection, truth, predicted = _matrix([p], [g], num_classes).areas()
        union = truth + predicted - intersection
        for key, value in zip(areas, (intersection, union, predicted, truth), strict=True):
            areas[key].append(value.numpy())
    checked = {"num_classes", "pred", "gt"}
    for key, value in areas.items():
        np.testing.assert_array_equal(np.stack(value), data[f"{key}_per_image"])
        checked.add(f"{key}_per_image")

    as_dict = matrix.to_dict([str(k) for k in range(num_classes)])
    mean_accuracy = as_dict["mean_accuracy"]
    found = {
        "IoU": matrix.iou().numpy(),
        "Acc": matrix.class_accuracy().numpy(),
        "Prec": matrix.precision().numpy(),
        "aAcc": matrix.pixel_accuracy(),
        "mIoU": matrix.miou(),
        "mAcc": math.nan if mean_accuracy is None else mean_accuracy,
    }
    for key, value in found.items():
        np.testing.assert_allclose(value, data[key], rtol=1e-12, atol=0, err_msg=key)
        checked.add(key)
        # The authors' other path sums float32 areas: the same number to float32's precision.
        if f"{key}_preeval_f32" in data:
            expected = data[f"{key}_preeval_f32"]
            np.testing.assert_allclose(value, expected, rtol=3e-7, atol=0, err_msg=key)
            checked.add(f"{key}_preeval_f32")
    # What the authors' tool reports is rounded to two decimals of a percent.
    np.testing.assert_allclose(matrix.miou(), data["mIoU_reported"], atol=0.51e-4, rtol=0)
    printed = matrix.table([f"c{k}" for k in range(num_classes)]).splitlines()[-2].split()[1]
    if np.isnan(data["mIoU_reported"]):
        assert printed == "-"
    else:
        assert abs(float(printed) - 100 * float(data["mIoU_reported"])) < 0.0101
    checked.add("mIoU_reported")
    assert checked == keys


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_a_count_pixel_by_pixel(data):
    num_classes = data.draw(st.integers(1, 5))
    n = data.draw(st.integers(0, 30))
    prediction = data.draw(st.lists(st.integers(0, num_classes - 1), min_size=n, max_size=n))
    truth = data.draw(
        st.lists(
            st.sampled_from([*range(num_classes), 255, 254, num_classes]), min_size=n, max_size=n
        )
    )
    matrix = ConfusionMatrix(num_classes)
    matrix.update(
        torch.tensor(prediction, dtype=torch.int64), torch.tensor(truth, dtype=torch.uint8)
    )
    ious = []
    for k in range(num_classes):
        pairs = [(p, g) for p, g in zip(prediction, truth, strict=True) if g != 255]
        both = sum(p == k and g == k for p, g in pairs)
        either = sum(p == k or g == k for p, g in pairs)
        found = matrix.iou()[k].item()
        if either:
            ious.append(both / either)
            assert found == both / either
        else:
            assert math.isnan(found)
    if ious:
        assert matrix.miou() == pytest.approx(sum(ious) / len(ious), rel=1e-14)
    else:
        assert math.isnan(matrix.miou())
    right = [p == g for p, g in zip(prediction, truth, strict=True) if g < num_classes]
    if right:
        assert matrix.pixel_accuracy() == sum(right) / len(right)


def test_equals_cityscapesscripts(tmp_path):
    """On generated label maps, through the label ids and files that the Cityscapes tool reads."""
    tool = pytest.importorskip("cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling")
    labels = pytest.importorskip("cityscapesscripts.helpers.labels").labels
    id_of_train_id = {label.trainId: label.id for label in labels if 0 <= label.trainId < 255}
    names = [label.name for label in labels if 0 <= label.trainId < 255]
    rng = np.random.default_rng(5)
    lookup = np.zeros(256, np.uint8)  # unlabelled (id 0) where the train id is 255
    for train_id, label_id in id_of_train_id.items():
        lookup[train_id] = label_id
    args = tool.args
    args.evalInstLevelScore = False
    args.evalPixelAccuracy = False
    confusion = tool.generateMatrix(args)
    truths, predictions = [], []
    for i in range(3):
        truth = rng.integers(0, 18, (24, 37)).astype(np.uint8)  # class 18 absent
        prediction = np.where(rng.random(truth.shape) < 0.6, truth, 18 * (i == 0)).astype(np.uint8)
        truth[rng.random(truth.shape) < 0.1] = 255
        files = [str(tmp_path / f"{i}_{kind}.png") for kind in ("prediction", "labelIds")]
        Image.fromarray(lookup[prediction]).save(files[0])
        Image.fromarray(lookup[truth]).save(files[1])
        tool.evaluatePair(*files, confusion, {"classes": {}, "categories": {}}, {}, args)
        truths.append(truth)
        predictions.append(prediction)
    matrix = _matrix(predictions, truths, 19)
    expected = [tool.getIouScoreForLabel(id_of_train_id[k], confusion, args) for k in range(19)]
    np.testing.assert_allclose(matrix.iou().numpy(), expected, rtol=1e-12)
    scores = dict(zip(names, expected, strict=True))
    assert matrix.miou() == pytest.approx(tool.getScoreAverage(scores, args), rel=1e-12)


def test_counts_beyond_float32():
    """2**24 + 1 pixels of one class: float32 sums stop at 2**24."""
    matrix = ConfusionMatrix(2)
    matrix.counts[0, 0] = 2**24
    matrix.update(torch.tensor([0]), torch.tensor([0]))
    assert matrix.areas()[0].tolist() == [2**24 + 1, 0]


def test_other_ground_truth_ids_are_false_positives():
    """Hand case: prediction 1 on an unknown id 9 makes class 1's union larger, nothing else."""
    matrix = ConfusionMatrix(2)
    matrix.update(torch.tensor([[0, 1, 1, 0]]), torch.tensor([[0, 1, 9, 255]]))
    assert matrix.iou().tolist() == [1.0, 0.5]
    assert matrix.pixel_accuracy() == 1.0


def test_wrong_input_is_refused():
    matrix = ConfusionMatrix(3)
    with pytest.raises(ValueError, match="one shape"):
        matrix.update(torch.zeros(2, 3), torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"0\.\.2"):
        matrix.update(torch.tensor([3]), torch.tensor([0]))
    matrix.update(torch.tensor([3]), torch.tensor([255]))  # not looked at
    # 255 would be -1 there, and what is predicted on it a false positive
    with pytest.raises(ValueError, match=r"int8 can't hold the ignored id 255"):
        matrix.update(torch.tensor([0]), torch.tensor([-1], dtype=torch.int8))
    for index in (-1, 256):
        with pytest.raises(AssertionError, match=f"0..255: {index}"):
            matrix.update(torch.tensor([0]), torch.tensor([0]), index)
    assert matrix.counts.sum() == 0


@pytest.mark.parametrize("ignored", [0, 2, 3, 100])
def test_every_type_of_integer_and_every_ignored_id(ignored: int) -> None:
    """A class, the first id that is none, another one; ids that are no class stay."""
    prediction, truth = torch.tensor([0, 1, 2, 1, 0, 2]), torch.tensor([0, 1, 2, 3, 100, 0])
    expected = torch.zeros(4, 3, dtype=torch.int64)
    for p, g in zip(prediction.tolist(), truth.tolist(), strict=True):
        expected[min(g, 3), p] += g != ignored
    for name in ("uint8", "int8", "int16", "uint16", "int32", "int64"):
        matrix = ConfusionMatrix(3)
        matrix.update(prediction, truth.to(getattr(torch, name)), ignored)
        assert torch.equal(matrix.counts, expected), name
    matrix.update(prediction[:1], torch.tensor([2**32 + 1]), ignored)  # no class, not class 1
    expected[3, 0] += 1
    assert torch.equal(matrix.counts, expected)


def test_dict_is_json_and_table_has_every_class():
    matrix = ConfusionMatrix(3)
    matrix.update(torch.tensor([0, 0, 1]), torch.tensor([0, 1, 1]))
    names = ("road", "traffic light", "sky")
    content = json.loads(json.dumps(matrix.to_dict(names), allow_nan=False))
    assert content["classes"]["sky"]["iou"] is None
    assert content["classes"]["traffic light"] == {
        "iou": 0.5,
        "accuracy": 0.5,
        "precision": 1.0,
        "intersection": 1,
        "ground_truth": 2,
        "predicted": 1,
    }
    assert content["miou"] == 0.5
    lines = matrix.table(names).splitlines()
    assert lines[2].split() == ["traffic", "light", "50.00", "50.00", "100.00"]
    assert lines[3].split() == ["sky", "-", "-", "-"]
    assert lines[-2].split() == ["mean", "50.00", "75.00"]
    assert lines[-1].split() == ["pixel", "accuracy", "66.67"]


def test_means_of_the_small_and_the_large_classes():
    matrix = ConfusionMatrix(4)  # IoU 1/2, 1/2, none, 1
    matrix.update(torch.tensor([0, 0, 1, 3]), torch.tensor([0, 1, 1, 3]))
    names = ("road", "pole", "sign", "sky")
    for small, expected in (
        ((False, True, True, False), {"miou_small": 0.5, "miou_large": 0.75}),
        ((False, False, True, False), {"miou_small": None, "miou_large": 2 / 3}),
        ((True, True, True, True), {"miou_small": 2 / 3, "miou_large": None}),
    ):
        content = matrix.to_dict(names, small)
        assert {k: v for k, v in content.items() if k.startswith("miou_")} == expected
    assert matrix.table(names, (False, True, True, False)).splitlines()[-3:-1] == [
        "mean small      50.00",
        "mean large      75.00",
    ]
    # without a small class nothing is added
    for small in ((), (False,) * 4):
        assert matrix.to_dict(names, small) == matrix.to_dict(names)
        assert "miou_small" not in matrix.to_dict(names, small)
        assert matrix.table(names, small) == matrix.table(names)


def test_a_large_picture_is_counted_in_parts(monkeypatch):
    rng = np.random.default_rng(0)
    prediction = torch.from_numpy(rng.integers(0, 5, (31, 17)).astype(np.uint8))
    truth = torch.from_numpy(rng.integers(0, 8, (31, 17)).astype(np.uint8))
    whole, parts = ConfusionMatrix(5), ConfusionMatrix(5)
    whole.update(prediction, truth, ignore_index=7)
    monkeypatch.setattr(metrics, "_AT_A_TIME", 100)
    parts.update(prediction, truth, ignore_index=7)
    assert whole.counts.sum() > 400 and torch.equal(parts.counts, whole.counts)


def test_pixels_without_a_prediction_are_counted_by_their_class():
    matrix = ConfusionMatrix(2)
    mask = torch.tensor([[0, 255, 255, 1, 255, 0]], dtype=torch.uint8)
    truth = torch.tensor([[0, 0, 7, 0, 255, 255]], dtype=torch.uint8)
    matrix.update_labelled(mask, truth)
    assert matrix.counts.tolist() == [[1, 1], [0, 0], [0, 0]]
    assert matrix.unlabelled.tolist() == [1, 0, 1] and matrix.ignored == 2
    assert matrix.labelled_share() == 2 / 4
    assert ConfusionMatrix(2).labelled_share() == 0
