"""The miniature CLIP: its captioned images, its loss, the file it ships as."""

import json
import math
import re
from pathlib import Path

import clip
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from datasets.labels import load_classes
from datasets.transforms import normalize
from demo.captioned_images import CaptionedImages
from demo.make_scenes import render_object
from demo.scenes.canvas import CLASSES
from demo.train_clip import (
    build_miniature,
    contrastive_loss,
    encode,
    learning_rate,
    main,
    save,
)
from models.clip_features import grid_stride
from models.clip_loading import load_clip
from models.text import load_templates, text_embeddings
from utils.safe.errors import InputError

SHIPPED = Path("demo/weights/clip.pt")
TEMPLATES = ("a photo of a {}.", "the {} in the street.")


@pytest.fixture(scope="module")
def dataset():
    return CaptionedImages(TEMPLATES, num_scenes=6, seed=5, side=32)


def names_in(caption: str) -> list[str]:
    """The classes that a caption of TEMPLATES names, in its order."""
    said = re.fullmatch(r"a photo of a (.*)\.|the (.*) in the street\.", caption)
    return re.split(", | and ", said.group(1) or said.group(2))


def test_pairs_come_from_the_generator_alone(dataset):
    images, captions = dataset.batch(8, np.random.default_rng(3))
    again, same = dataset.batch(8, np.random.default_rng(3))
    assert images.dtype == torch.uint8 and images.shape == (8, 3, 32, 32)
    assert torch.equal(images, again) and captions == same
    assert captions != dataset.batch(8, np.random.default_rng(4))[1]


def test_captions_name_classes_once_and_few(dataset):
    rng = np.random.default_rng(0)
    lists = [names_in(dataset.draw(rng)[1]) for _ in range(200)]
    assert all(set(names) <= set(CLASSES) and len(set(names)) == len(names) for names in lists)
    assert {len(names) for names in lists} >= {1, 2, 3}
    assert max(map(len, lists)) <= 8
    assert {name for names in lists for name in names} == set(CLASSES)


def test_crops_stay_inside_and_around_their_subject():
    """The subject is a single pixel here."""
    dataset = CaptionedImages(TEMPLATES, num_scenes=6, seed=5)
    dataset.masks[:] = CLASSES.index("sky")
    rng = np.random.default_rng(0)
    for _ in range(20):
        _, top, left, side, subject = dataset._street_crop(rng)
        assert subject is None
        assert 0 <= top <= 160 - side and 0 <= left <= 320 - side and 24 <= side <= 128
    dataset.masks[:, 80, 160] = CLASSES.index("pole")
    dataset.with_class = [np.arange(6) if name == "pole" else [] for name in CLASSES]
    dataset.classes = [np.array([CLASSES.index("pole")])] * 6
    for _ in range(20):
        _, top, left, side, subject = dataset._subject_crop(rng)
        assert CLASSES[subject] == "pole"
        assert top <= 80 < top + side and left <= 160 < left + side


def test_contrastive_loss_by_hand():
    images = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    texts = torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    logits = 10 * torch.tensor([[1.0, 1.0], [0.0, 0.0]])
    rows = -(logits.log_softmax(1)[0, 0] + logits.log_softmax(1)[1, 1]) / 2
    columns = -(logits.log_softmax(0)[0, 0] + logits.log_softmax(0)[1, 1]) / 2
    loss = contrastive_loss(images, texts, torch.tensor(10.0).log())
    torch.testing.assert_close(loss, (rows + columns) / 2)


def test_a_caption_is_encoded_once():
    model = build_miniature(TEMPLATES, side=32).eval()
    captions = ["a photo of a car.", "a photo of a tree.", "a photo of a car."]
    seen = []
    model.token_embedding.register_forward_hook(lambda module, args, _: seen.append(len(args[0])))
    features = encode(model, captions)
    assert seen == [2] and features.shape == (3, 64)
    assert torch.equal(features[0], features[2]) and not torch.equal(features[0], features[1])


def test_learning_rate_rises_then_falls_to_nothing():
    rates = [learning_rate(step, 1000, 2.0) for step in range(1000)]
    assert rates[0] == pytest.approx(0.02) and max(rates) == pytest.approx(2.0, rel=0.03)
    assert rates[500] == pytest.approx(1.0) and rates[99] > rates[500] > rates[999] > 0
    assert math.isclose(rates[999], 0, abs_tol=1e-4)


def test_file_is_read_as_openais(tmp_path):
    model = build_miniature(TEMPLATES, side=32).eval()
    save(tmp_path / "clip.pt", model)
    loaded = load_clip(str(tmp_path / "clip.pt"))
    assert grid_stride(loaded.visual) == 8
    tokens = clip.tokenize(["a photo of a car.", "the road, sky and tree in the street."])
    torch.testing.assert_close(
        loaded.encode_text(tokens), model.encode_text(tokens), atol=5e-3, rtol=0
    )
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        loaded.encode_image(image), model.encode_image(image), atol=5e-3, rtol=0
    )


def test_script_writes_weights_and_log(tmp_path):
    out = tmp_path / "clip.pt"
    sizes = ["--steps", "2", "--batch-size", "4", "--scenes", "3", "--side", "32", "--seed", "7"]
    arguments = ["--out", str(out), *sizes, "--device", "cpu"]
    main(arguments)
    log = json.loads((tmp_path / "clip.json").read_text())
    assert log["seed"] == 7 and log["steps"] == 2 and log["versions"]["torch"] == torch.__version__
    assert [step for step, _ in log["losses"]] == [2] and log["losses"][0][1] > 0
    first = out.read_bytes()
    with pytest.raises(InputError, match="--overwrite"):
        main(arguments)
    main([*arguments, "--overwrite"])
    assert out.read_bytes() == first


def test_diverged_training_writes_nothing(tmp_path):
    out = tmp_path / "clip.pt"
    sizes = ["--steps", "20", "--batch-size", "4", "--scenes", "2", "--side", "32", "--lr", "1e12"]
    with pytest.raises(InputError, match="not finite.*--lr"):
        main(["--out", str(out), *sizes, "--device", "cpu"])
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "1 or more"),
        (["--batch-size", "1"], "2 or more"),
        (["--seed", "-1"], "0 or more"),
        (["--side", "30"], "multiple of 8, found 30"),
        (["--out", "clip.json"], "name a .pt file"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "clip.pt"), *arguments])
    assert message in capsys.readouterr().err


def test_shipped_file():
    """Small enough to ship, from a finished run, and it tells dataset of the classes apart."""
    assert SHIPPED.stat().st_size <= 4e6
    log = json.loads(SHIPPED.with_suffix(".json").read_text())
    assert log["losses"][-1][0] == log["steps"]
    classes = load_classes("demo/classes.yaml")
    model = load_clip(str(SHIPPED))
    text = text_embeddings(model, classes.prompts, load_templates("demo/templates.txt"))
    rng = np.random.default_rng(1)
    photos = np.stack([render_object(name, rng, (64, 64)) for name in CLASSES for _ in range(5)])
    images = normalize(torch.from_numpy(photos).permute(0, 3, 1, 2), "clip")
    found = (F.normalize(model.encode_image(images), dim=1) @ text.T).argmax(1)
    right = found == torch.arange(12).repeat_interleave(5)
    assert right.float().mean() > 0.8
