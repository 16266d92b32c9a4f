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
from demo.captioned_images import CaptionedImages, Crops
from demo.make_scenes import render_object
from demo.scenes.canvas import CLASSES
from demo.train_clip import (
    Batches,
    build_miniature,
    contrastive_loss,
    encode_image,
    encode_text,
    learning_rate,
    main,
    save,
)
from models.clip_features import grid_stride
from models.clip_loading import load_clip
from models.text import load_templates, text_embeddings
from utils.safe.errors import InputError
from utils.safe.files import sha256

TEMPLATES = ("a photo of a {}.", "the {} in the street.")
TOWERS = pytest.mark.parametrize("tower", ["resnet", "vit"])
SMALL = ["--batch-size", "4", "--scenes", "3", "--side", "32", "--device", "cpu"]
VIT = [*SMALL, "--tower", "vit"]


@pytest.fixture(scope="module")
def dataset():
    return CaptionedImages(TEMPLATES, num_scenes=6, seed=5, side=32)


def names_in(caption: str) -> list[str]:
    """The classes that a caption of TEMPLATES names, in its order."""
    said = re.fullmatch(r"a photo of a (.*)\.|the (.*) in the street\.", caption)
    return re.split(", | and ", said.group(1) or said.group(2))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_miniature(TEMPLATES, side=32, tower="vit").eval()


def test_pairs_come_from_the_generator_alone(dataset):
    crops, captions = dataset.draw(8, np.random.default_rng(3))
    again, same = dataset.draw(8, np.random.default_rng(3))
    images = dataset.images(crops)
    assert images.dtype == torch.uint8 and images.shape == (8, 3, 32, 32)
    assert torch.equal(images, dataset.images(again)) and captions == same
    assert captions != dataset.draw(8, np.random.default_rng(4))[1]


def test_scenes_do_not_depend_on_the_number_of_processes(dataset):
    other = CaptionedImages(TEMPLATES, num_scenes=6, seed=5, side=32, workers=2)
    assert torch.equal(dataset.scenes, other.scenes)
    assert torch.equal(dataset.photographs, other.photographs)


def test_a_crop_of_the_sides_size_is_the_image_itself(dataset):
    """Photographs come first; without mirroring and recolouring the pixels are the scene's."""
    boxes = torch.tensor([[2.0, 40, 30, 72, 62]])
    crops = Crops(
        photographs=torch.tensor([[1.0, 3, 5, 35, 37]]),
        scenes=boxes,
        mirrored=torch.zeros(2, 1, 1, 1, dtype=torch.bool),
        gain=torch.ones(2, 1, 1, 1),
        tint=torch.zeros(2, 3, 1, 1),
    )
    photograph, scene = dataset.images(crops)
    assert torch.equal(photograph, dataset.photographs[1, :, 5:37, 3:35])
    assert torch.equal(scene, dataset.scenes[2, :, 30:62, 40:72])
    mirrored = dataset.images(crops._replace(mirrored=torch.ones(2, 1, 1, 1, dtype=torch.bool)))
    assert torch.equal(mirrored[1], scene.flip(2))


def test_a_step_has_the_same_batch_in_every_training(dataset):
    whole, rest = Batches(dataset, 4, 1, range(5)), Batches(dataset, 4, 1, range(3, 5))
    assert len(rest) == 2 and torch.equal(whole[3][1], rest[0][1])
    assert all(map(torch.equal, whole[3][0], rest[0][0]))
    assert len(list(rest)) == 2


def test_captions_name_classes_once_and_few(dataset):
    rng = np.random.default_rng(0)
    lists = [names_in(caption) for caption in dataset.draw(200, rng)[1]]
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


@TOWERS
def test_images_are_encoded_as_by_openai(tower):
    model = build_miniature(TEMPLATES, 32, tower).eval()
    image = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(encode_image(model.visual, image), model.encode_image(image))


def test_late_class_token_sees_patches_in_the_last_block_only(model):
    """The class token that enters the last block is the same for all images."""
    entering = []
    last = model.visual.transformer.resblocks[-1]
    hook = last.register_forward_pre_hook(lambda module, args: entering.append(args[0][0]))
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    for late in (True, False):
        encode_image(model.visual, images, late=late)
    hook.remove()
    torch.testing.assert_close(entering[0][0], entering[0][1])
    assert (entering[1][0] - entering[1][1]).abs().max() > 1e-2


def test_kept_patches_are_a_share_of_all(model):
    lengths = []
    block = model.visual.transformer.resblocks[0]
    hook = block.register_forward_pre_hook(lambda module, args: lengths.append(len(args[0])))
    for keep in (1.0, 0.5, 0.01):
        encode_image(model.visual, torch.zeros(1, 3, 32, 32), keep)
    hook.remove()
    assert lengths == [1 + 16, 1 + 8, 1 + 1]


def test_a_caption_is_encoded_once(model):
    captions = clip.tokenize(["a photo of a car.", "a photo of a tree.", "a photo of a car."])
    seen = []
    hook = model.token_embedding.register_forward_hook(
        lambda _, args, __: seen.append(len(args[0]))
    )
    features = encode_text(model, captions)
    hook.remove()
    assert seen == [2] and features.shape == (3, 64)
    assert torch.equal(features[0], features[2]) and not torch.equal(features[0], features[1])


def test_learning_rate_rises_then_falls_to_nothing():
    rates = [learning_rate(step, 1000, 2.0, warmup=500) for step in range(1000)]  # of it 100
    assert rates[0] == pytest.approx(0.02) and max(rates) == pytest.approx(2.0, rel=0.03)
    assert rates[500] == pytest.approx(1.0) and rates[99] > rates[500] > rates[999] > 0
    assert math.isclose(rates[999], 0, abs_tol=1e-4)


@TOWERS
def test_file_is_read_as_openais(tmp_path, tower):
    model = build_miniature(TEMPLATES, 32, tower).eval()
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
    arguments = ["--out", str(out), *SMALL, "--steps", "2", "--seed", "7"]
    main(arguments)
    log = json.loads((tmp_path / "clip.json").read_text())
    assert log["seed"] == 7 and log["steps"] == 2 and log["versions"]["torch"] == torch.__version__
    assert [step for step, _ in log["losses"]] == [2] and log["losses"][0][1] > 0
    first = out.read_bytes()
    with pytest.raises(InputError, match="--overwrite"):
        main(arguments)
    main([*arguments, "--overwrite"])
    assert out.read_bytes() == first
    assert not out.with_name("clip.pt.state").exists()


@TOWERS
def test_interrupted_training_continues(tmp_path, monkeypatch, tower):
    """The weights are those of an uninterrupted training, and other settings are refused."""
    arguments = [*SMALL, "--tower", tower, "--steps", "4", "--save-every", "2"]
    arguments += ["--keep", "0.5"] if tower == "vit" else []
    main(["--out", str(tmp_path / "whole.pt"), *arguments])
    out = tmp_path / "clip.pt"
    with monkeypatch.context() as patch:
        patch.setattr("demo.train_clip.learning_rate", fail_at(3, learning_rate))
        with pytest.raises(KeyboardInterrupt):
            main(["--out", str(out), *arguments])
    assert json.loads((tmp_path / "clip.json").read_text())["step"] == 2
    with pytest.raises(InputError, match="other settings: --lr was 0.001"):
        main(["--out", str(out), *arguments, "--lr", "0.1"])
    main(["--out", str(out), *arguments])
    assert out.read_bytes() == (tmp_path / "whole.pt").read_bytes()


def fail_at(step, function):
    def failing(current, *rest):
        if current == step:
            raise KeyboardInterrupt
        return function(current, *rest)

    return failing


def test_training_starts_from_other_weights(tmp_path):
    first, second = tmp_path / "first.pt", tmp_path / "second.pt"
    main(["--out", str(first), *VIT, "--steps", "1"])
    more = ["--late-class-token", "--keep", "0.5", "--lr", "1e-12"]
    main(["--out", str(second), *VIT, "--steps", "1", *more, "--init", str(first)])
    init = json.loads((tmp_path / "second.json").read_text())["init"]
    assert init["sha256"] == sha256(first) and init["log"]["steps"] == 1
    weights = [torch.load(file, weights_only=True) for file in (first, second)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    with pytest.raises(InputError, match="not the weights of this miniature"):
        main(["--out", str(tmp_path / "third.pt"), *SMALL, "--init", str(first)])


def test_the_weights_it_started_from_are_read_once(tmp_path, monkeypatch):
    """Another file in their place changes neither the training that goes on nor its log."""
    first, out = tmp_path / "first.pt", tmp_path / "clip.pt"
    main(["--out", str(first), *SMALL, "--steps", "1"])
    arguments = ["--out", str(out), *SMALL, "--steps", "3", "--save-every", "1"]
    arguments += ["--init", str(first)]
    with monkeypatch.context() as patch:
        patch.setattr("demo.train_clip.learning_rate", fail_at(2, learning_rate))
        with pytest.raises(KeyboardInterrupt):
            main(arguments)
    begun = json.loads((tmp_path / "clip.json").read_text())
    assert begun["step"] == 2 and begun["init"]["sha256"] == sha256(first)
    first.unlink()
    (tmp_path / "first.json").write_text('{"steps": 9}')
    with pytest.raises(InputError, match="other settings: --init was"):
        main([*arguments, "--init", str(tmp_path / "elsewhere.pt")])
    main(arguments)
    ended = json.loads((tmp_path / "clip.json").read_text())
    assert ended["step"] == 3 and ended["init"] == begun["init"]


def test_diverged_training_writes_nothing(tmp_path):
    out = tmp_path / "clip.pt"
    with pytest.raises(InputError, match="not finite.*--lr"):
        main(["--out", str(out), *SMALL, "--steps", "20", "--lr", "1e12"])
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--steps", "0"], "1 or more"),
        (["--batch-size", "1"], "2 or more"),
        (["--seed", "-1"], "0 or more"),
        (["--side", "30"], "multiple of 8, found 30"),
        (["--keep", "0.5"], "for --tower vit"),
        (["--keep", "0"], "above 0 and at most 1, found 0"),
        (["--out", "clip.json"], "name a .pt file"),
    ],
)
def test_bad_arguments(tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        main(["--out", str(tmp_path / "clip.pt"), *arguments])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("name", "megabytes"), [("clip", 4), ("clip_vit", 10)])
def test_shipped_file(name, megabytes):
    """Small enough to ship, from a finished run, and it tells photographs of the classes apart."""
    shipped = Path(f"demo/weights/{name}.pt")
    assert shipped.stat().st_size <= megabytes * 1e6
    log = json.loads(shipped.with_suffix(".json").read_text())
    assert log["losses"][-1][0] == log["steps"]
    classes = load_classes("demo/classes.yaml")
    model = load_clip(str(shipped))
    text = text_embeddings(model, classes.prompts, load_templates("demo/templates.txt"))
    rng = np.random.default_rng(1)
    photos = np.stack([render_object(name, rng, (64, 64)) for name in CLASSES for _ in range(5)])
    images = normalize(torch.from_numpy(photos).permute(0, 3, 1, 2), "clip")
    found = (F.normalize(model.encode_image(images), dim=1) @ text.T).argmax(1)
    right = found == torch.arange(12).repeat_interleave(5)
    assert right.float().mean() > 0.8
