"""models/confidence.py: probabilities by hand; files of predict.py and gen_clip_masks.py."""

import json
from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from tiny import make_clip
from tiny_run import SIZE, make_run
from torch import nn

import gen_clip_masks
import predict
from datasets.files import File, read_mask
from datasets.mask_folder import pseudo_mask_files
from datasets.mask_writer import check_no_inputs
from datasets.prediction_folder import check_prediction_folder
from models import inference
from models.confidence import Confidence, confidence_from, mask_probability
from models.inference import predict_labels, predict_probability
from models.trained import load_trained
from utils.config import load_config
from utils.safe.errors import InputError
from utils.teacher_settings import TeacherSettings


class Known(nn.Module):
    """Logits (B,3,h,w) that are the channels of the image."""

    def forward(self, image):
        return image


def known_image() -> torch.Tensor:
    return torch.tensor([[[[0.0, 3.0]], [[1.0, 0.0]], [[2.0, -50.0]]]])  # (1, 3, 1, 2)


def test_probability_of_one_view_by_hand() -> None:
    labels, probability = predict_probability(Known(), known_image(), (1, 2))
    assert labels.tolist() == [[[2, 0]]]
    e = np.exp
    expected = [e(2) / (e(0) + e(1) + e(2)), e(3) / (e(3) + e(0))]  # e(-50) is nothing
    assert probability.dtype == torch.float32
    np.testing.assert_allclose(probability[0, 0], expected, rtol=1e-6)


def test_probability_of_several_views_is_that_of_the_mean() -> None:
    """Not the mean of the maxima, nor the softmax of mean logits: mirrored views disagree here."""
    labels, probability = predict_probability(Unlike(), known_image(), (1, 2), flip=True)
    views = [known_image().softmax(1), known_image().roll(1, 1).softmax(1)]
    mean = (views[0] + views[1]) / 2
    assert torch.equal(labels, mean.argmax(1).byte())
    torch.testing.assert_close(probability, mean.amax(1))
    assert not torch.allclose(probability, (views[0].amax(1) + views[1].amax(1)) / 2)


class Unlike(nn.Module):
    """As `Known` for the first view; the classes change places for the second."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, image):
        self.calls += 1
        return image.roll(1, 1) if self.calls == 2 else image


def test_labels_are_the_same_and_strips_too(monkeypatch) -> None:
    torch.manual_seed(0)
    image = torch.randn(1, 3, 16, 24)
    for options in ({}, {"scales": (0.5, 1.0), "flip": True}):
        whole = predict_probability(Known(), image, (40, 60), **options)
        assert torch.equal(whole[0], predict_labels(Known(), image, (40, 60), **options))
        with monkeypatch.context() as patch:
            patch.setattr(inference, "_WHOLE", 0)
            patch.setattr(inference, "_STRIP", 3 * 4 * 60 * 7)  # seven rows
            strips = predict_probability(Known(), image, (40, 60), **options)
        assert torch.equal(strips[0], whole[0])
        torch.testing.assert_close(strips[1], whole[1], rtol=0, atol=1e-5)


def test_keep_by_hand() -> None:
    labels = torch.tensor([[0, 1, 2, 1]], dtype=torch.uint8)
    probability = torch.tensor([[0.2, 0.5, 0.4999, 1.0]])
    kept, confidence = Confidence(write=True, least=0.5).keep(labels, probability)
    assert kept.tolist() == [[255, 1, 255, 1]]
    assert confidence.dtype == np.uint8 and confidence.tolist() == [[51, 128, 127, 255]]
    kept, confidence = Confidence(least=0.5).keep(labels, probability)
    assert kept.tolist() == [[255, 1, 255, 1]] and confidence is None
    kept, confidence = Confidence().keep(labels, None)
    assert kept.tolist() == labels.tolist() and confidence is None


@pytest.mark.parametrize("how", ["mask", "multiply"])
def test_pseudo_masks_have_the_softmax_of_100_cosines_over_present_classes(how) -> None:
    scores = torch.tensor([0.30, 0.29, 0.35]).view(1, 3, 1, 1)
    present = torch.tensor([[1.0, 1.0, 0.0]])  # the best class is absent
    e = np.exp
    expected = {"mask": e(30) / (e(30) + e(29)), "multiply": e(30) / (e(30) + e(29) + e(0))}
    found = mask_probability(scores, present, how)
    assert found.shape == (1, 1, 1) and found.item() == pytest.approx(expected[how], rel=1e-5)


def test_pseudo_masks_without_and_with_one_class() -> None:
    scores = torch.rand(2, 3, 4, 5)
    found = mask_probability(scores, torch.tensor([[0.0, 0, 0], [0, 1, 0]]), "mask")
    assert (found[0] == 0).all() and (found[1] == 1).all()


def test_scores_of_experts_are_probabilities_already() -> None:
    scores = torch.tensor([0.7, 0.3, 0.0]).view(1, 3, 1, 1)
    found = mask_probability(scores, torch.tensor([[1.0, 1, 0]]), "mask", are_probabilities=True)
    assert found.item() == pytest.approx(0.7)


def test_a_teacher_whose_scores_are_sums_is_refused() -> None:
    arguments = Namespace(confidence=True, min_confidence=0.0)
    with pytest.raises(InputError, match=r"key_smoothing: 0.5.*key_smoothing: 0$"):
        confidence_from(arguments, TeacherSettings(key_smoothing=0.5))
    off = Namespace(confidence=False, min_confidence=0.0)
    assert confidence_from(off, TeacherSettings(key_smoothing=0.5)) == Confidence()


# ---------------------------------------------------------------- predict.py


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("run"))


def array(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.array(image)


def test_files_of_predict(run, tmp_path) -> None:
    ckpt, image = run / "warmup/warmup.pt", run.parent / "data/images/train/t0.png"
    command = [str(image), "--ckpt", str(ckpt), "--device", "cpu", "--out"]
    predict.main([*command, str(tmp_path / "plain")])
    predict.main([*command, str(tmp_path / "sure"), "--confidence"])
    assert sorted(path.name for path in (tmp_path / "sure").iterdir()) == [
        "legend.png", "meta.json", "t0.png", "t0_confidence.png", "t0_overlay.png",
    ]  # fmt: skip
    for name in ("legend.png", "t0.png", "t0_overlay.png"):
        assert (tmp_path / "sure" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()
    confidence = array(tmp_path / "sure/t0_confidence.png")
    assert confidence.dtype == np.uint8 and confidence.shape == SIZE
    trained, options = load_trained(ckpt), {"scales": (1.0,)}
    sample = predict.EvaluationSet({"t0": File(str(image))}, trained.config.image_size)
    ((_, labels, probability),) = inference.predictions(
        trained.model, [sample[0]], torch.device("cpu"), options, probability=True
    )
    assert np.array_equal(confidence, np.rint(255 * probability.numpy()))
    least = float(probability.median())
    predict.main([*command, str(tmp_path / "part"), "--min-confidence", str(least)])
    unsure = probability.numpy() < least
    assert 0 < unsure.sum() < unsure.size
    found = array(tmp_path / "part/t0.png")
    assert (found[unsure] == 255).all() and (found[~unsure] == labels.numpy()[~unsure]).all()
    shown, original = array(tmp_path / "part/t0_overlay.png"), array(image)
    assert (shown[unsure] == original[unsure]).all()
    assert not (tmp_path / "part/t0_confidence.png").exists()


@pytest.mark.parametrize("wrong", ["1.5", "-0.1", "nan", "0", "half"])
def test_least_probabilities_out_of_bounds(wrong, capsys) -> None:
    with pytest.raises(SystemExit):
        predict.main(["--ckpt", "x", "y", "--out", "z", "--min-confidence", wrong])
    assert "--min-confidence: expected a number above 0 and at most 1" in capsys.readouterr().err


def test_a_confidence_map_is_not_overwritten(tmp_path) -> None:
    (tmp_path / "t0_confidence.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"1 of the 4 files.*t0_confidence\.png.*--overwrite"):
        check_prediction_folder(["t0"], tmp_path, False, True)


def test_earlier_confidence_does_not_stand_beside_new_label_maps(tmp_path) -> None:
    earlier = tmp_path / "t0_confidence.png"
    earlier.write_bytes(b"of other label maps")
    with pytest.raises(InputError, match=r"t0_confidence\.png.*--overwrite"):
        check_prediction_folder(["t0"], tmp_path, False, False)
    assert check_prediction_folder(["t0", "t1"], tmp_path, True, False) == [earlier]
    assert check_prediction_folder(["t0"], tmp_path, True, True) == []  # it is written again
    # An image of that name: its own label map is no confidence.
    assert check_prediction_folder(["t0", "t0_confidence"], tmp_path, True, False) == []


# ---------------------------------------------------------------- gen_clip_masks.py


@pytest.fixture(scope="module")
def config(run, tmp_path_factory) -> Path:
    """A config for pseudo-masks of the run's data by a miniature CLIP."""
    folder = tmp_path_factory.mktemp("clip")
    values = load_config(run / "warmup/config.yaml").to_dict()
    values |= {"clip_model": str(make_clip(folder / "clip.pt")), "num_workers": 0}
    (folder / "config.yaml").write_text(yaml.safe_dump(values | {"clip_text": str(folder / "t")}))
    return folder / "config.yaml"


def generate(config: Path, out: Path, *arguments: str) -> None:
    gen_clip_masks.main(["--config", str(config), "--device", "cpu", "--out", str(out), *arguments])


def test_files_of_gen_clip_masks(config, tmp_path, monkeypatch) -> None:
    plain, out, maps = tmp_path / "plain", tmp_path / "masks", tmp_path / "masks_confidence"
    generate(config, plain)
    generate(config, out, "--confidence")
    names = [f"t{i}" for i in range(6)]
    assert sorted(path.name for path in maps.iterdir()) == [f"{name}.png" for name in names]
    for name in names:
        assert (out / f"{name}.png").read_bytes() == (plain / f"{name}.png").read_bytes()
    assert set(pseudo_mask_files(out, names)) == {*names}
    sure = {name: array(maps / f"{name}.png") for name in names}
    assert sure["t0"].shape == SIZE and 0 < sure["t0"].min() < sure["t0"].max() <= 255
    assert sure["t1"].min() < 255 * 0.9
    metas = [json.loads((path / "meta.json").read_text())["made_from"] for path in (plain, out)]
    assert metas[1] == metas[0] | {"confidence": True}  # without the option nothing new

    # Another setting is refused, in all directions.
    for folder, arguments in (
        (plain, ["--confidence"]), (out, []), (plain, ["--min-confidence", "0.5"])
    ):  # fmt: skip
        with pytest.raises(InputError, match=r"made with other (min_)?confidence.*--overwrite"):
            generate(config, folder, *arguments)
    # What is missing is made again, confidence too.
    content = (maps / "t3.png").read_bytes()
    (maps / "t3.png").unlink()
    (out / "t3.png").unlink()
    generate(config, out, "--confidence")
    assert (maps / "t3.png").read_bytes() == content

    least = 0.8
    generate(config, out, "--min-confidence", str(least), "--overwrite")
    assert [*maps.iterdir()] == []  # of the masks of before
    for name in names:
        old, new = read_mask(File(str(plain / f"{name}.png"))), array(out / f"{name}.png")
        below = sure[name] < 255 * least - 0.5
        assert (new[below] == 255).all()
        above = sure[name] > 255 * least + 0.5
        assert (new[above] == old[above]).all()
    assert json.loads((out / "meta.json").read_text())["made_from"]["min_confidence"] == least
    with pytest.raises(InputError, match="made with other min_confidence"):
        generate(config, out)


def test_files_of_others_are_not_overwritten(config, tmp_path) -> None:
    (tmp_path / "masks_confidence").mkdir()
    (tmp_path / "masks_confidence/t0.png").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"masks_confidence.*t0\.png.*another --out"):
        generate(config, tmp_path / "masks", "--confidence")
    assert not (tmp_path / "masks").exists()


def test_a_folder_beside_the_masks_is_left_alone_without_confidence(config, tmp_path) -> None:
    """OUT_confidence of the user, with names of images: only --confidence has to do with it."""
    out, mine = tmp_path / "masks", tmp_path / "masks_confidence/t0.png"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    generate(config, out)
    generate(config, out, "--overwrite")
    assert mine.read_bytes() == b"mine"
    generate(config, out, "--overwrite", "--confidence")
    assert array(mine).shape == SIZE


def test_images_in_such_a_folder_are_refused_only_with_confidence(tmp_path) -> None:
    inputs = [File(str(tmp_path / "masks_confidence/t0.jpg"))]
    check_no_inputs(tmp_path / "masks", ["t0"], inputs)
    with pytest.raises(InputError, match="masks_confidence holds images or ground truth"):
        check_no_inputs(tmp_path / "masks", ["t0"], inputs, confidence=True)
