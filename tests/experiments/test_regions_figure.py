"""Fig. 4 and experiments/region_quality.py: regions as drawn, pixels as counted."""

import json
import shlex

import numpy as np
import pytest
import tiny_run
import torch
from PIL import Image
from read_run import read_run

import experiments.figures.regions
import gen_clip_masks
from experiments import region_quality
from experiments.figures.galleries import open_split
from experiments.figures.regions import (
    INCONSISTENT,
    checkpoint_of,
    consistent_share,
    describe,
    draw,
    finding,
    panels_of,
)
from experiments.figures.runs import Run
from experiments.region_quality import Regions, count, regions, shares, table
from models.inference import predict_logits
from models.trained import load_trained
from utils.safe.errors import InputError
from utils.visualize import gallery

#         ignored, consistent and right (2), consistent and wrong, inconsistent: mask, S, none right
TRUTH = [[255, 0, 1, 2, 0, 1, 2]]
MASK = [[0, 0, 1, 1, 0, 0, 0]]
PREDICTION = [[0, 0, 1, 1, 1, 1, 1]]


@pytest.fixture
def run(tmp_path) -> Run:
    rng = np.random.default_rng(1)
    for i in range(tiny_run.COUNT):
        mask = rng.integers(0, 3, tiny_run.SIZE)
        mask[:, :2] = 255
        tiny_run.save(tmp_path / f"data/clip_masks/t{i}.png", mask)
    return read_run(tiny_run.make_run(tmp_path))


def by_hand() -> Regions:
    return Regions("x", torch.tensor(MASK), torch.tensor(PREDICTION), torch.tensor(TRUTH))


def test_counts_by_hand():
    counts = count(by_hand(), 3)
    assert counts.tolist() == [
        [[1, 1, 1], [3, 1, 1]],  # where the mask says 0: consistent, inconsistent
        [[2, 1, 1], [0, 0, 0]],
        [[0, 0, 0], [0, 0, 0]],
    ]
    assert shares(counts.sum(0)) == pytest.approx([50, 200 / 3, 50, 100 / 3, 100 / 3])
    lines = table(counts, ["road", "pole", "sky"]).splitlines()
    assert lines[2:] == [
        "| all | 50.0 | 66.7 | 50.0 | 33.3 | 33.3 |",
        "| road | 25.0 | 100.0 | 75.0 | 33.3 | 33.3 |",
        "| pole | 100.0 | 50.0 | 0.0 | - | - |",
        "| sky | - | - | - | - | - |",
    ]


def test_words_by_hand():
    # The ignored pixel has a pseudo-label, so it is in the region, but not in what is right.
    assert consistent_share(by_hand()) == 4 / 7
    assert describe(by_hand(), 3) == (
        "x: 57 % consistent; pseudo-mask right on 67 % of it and on 33 % of the rest"
    )
    assert describe(by_hand()._replace(truth=None), 3) == "x: 57 % consistent"
    nothing = torch.full((1, 7), 255)
    assert describe(by_hand()._replace(pseudo_mask=nothing), 3) == "x: no pseudo-label"
    assert describe(by_hand()._replace(truth=nothing), 3) == "x: 57 % consistent"


def test_regions_are_those_of_a_plain_loop(run):
    """S by one forward pass and NumPy; image t0 is said to have no class 1."""
    trained = load_trained(run.last.folder / "warmup.pt")
    split_data = open_split(trained.config, "train")
    names = list(split_data.images)
    folder = trained.config.pseudo_masks
    found = list(regions(trained, region_quality.pseudo_mask_files(folder, names)))
    assert [image.name for image in found] == names
    assert 1 not in found[0].prediction and 1 in found[1].prediction
    for image in found:
        pixels = np.array(Image.open(split_data.images[image.name].path), np.float32) / 255
        pixels = (pixels - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        tensor = torch.tensor(pixels, dtype=torch.float32).permute(2, 0, 1)[None]
        # resize_to doubles these images before the network sees them
        larger = torch.nn.functional.interpolate(tensor, scale_factor=2, mode="bilinear")
        logits = predict_logits(trained.model, larger, tiny_run.SIZE)[0].numpy()
        if image.name == "t0":
            logits[1] = -np.inf
        agreement = (logits.argmax(0) == image.prediction.numpy()).mean()
        assert agreement > 0.97  # the images are resized in 8 bit
        np.testing.assert_array_equal(image.truth, split_data.truth(image.name))


def test_tool_counts_all_training_images(run, capsys):
    """The printed table, from label maps and nothing else."""
    trained = load_trained(run.last.folder / "warmup.pt")
    files = region_quality.pseudo_mask_files(trained.config.pseudo_masks, ["t0", "t1"])
    maps = next(iter(regions(trained, files)))
    known = (maps.truth != 255) & (maps.pseudo_mask != 255)
    agree = (maps.pseudo_mask == maps.prediction) & known
    expected = 100 * agree.sum() / known.sum()
    assert shares(count(maps, 3).sum(0))[0] == pytest.approx(expected.item())
    region_quality.main(["--ckpt", str(run.last.folder / "warmup.pt"), "--device", "cpu"])
    printed = capsys.readouterr().out
    total = sum(count(image, 3) for image in _all(trained))
    assert printed == table(total, trained.classes.names) + "\n"


def _all(trained) -> list[Regions]:
    names = [f"t{i}" for i in range(tiny_run.COUNT)]
    folder = trained.config.pseudo_masks
    return list(regions(trained, region_quality.pseudo_mask_files(folder, names)))


def test_tool_wants_ground_truth(run, tmp_path):
    (tmp_path / "data/masks/train/t3.png").unlink()
    with pytest.raises(InputError, match=r"1 of 6 images have no ground truth.*'t3'"):
        region_quality.main(["--ckpt", str(run.last.folder / "warmup.pt"), "--device", "cpu"])


def test_figure_holds_the_numbers_of_the_tool(run, tmp_path):
    figure = draw(run, 3, tmp_path / "out", device="cpu")[0]
    trained = load_trained(run.last.folder / "warmup.pt")
    images = {image.name: image for image in _all(trained)}
    counts = sum(count(image, 3) for image in images.values())
    assert figure.missing == () and figure.tables[0].endswith(table(counts, trained.classes.names))
    _, _, area, mask, network = (round(share) for share in shares(counts.sum(0)))
    assert figure.tables[0].startswith(f"{finding(counts)}\n\n| class of the pseudo-mask |")
    assert f"({area} % of the pixels), the mask is right on {mask} %" in finding(counts)
    assert f"the network on {network} %" in finding(counts) and finding(0 * counts) == ""
    content = json.loads(figure.data.read_text())
    assert content["consistent"] == {n: consistent_share(images[n]) for n in ("t0", "t2", "t4")}
    assert content["counted_images"] == 6 and content["step"] == 4
    assert content["pixels"]["pole"]["inconsistent"]["mask_right"] == counts[1, 1, 1].item()
    assert "warmup.pt (step 4)" in figure.caption and "6 training images" in figure.caption
    few = draw(run, ["t5"], tmp_path / "few", device="cpu", counted=2)[0]
    expected = count(images["t0"], 3) + count(images["t3"], 3)
    assert few.tables[0].endswith(table(expected, trained.classes.names))
    assert list(json.loads(few.data.read_text())["consistent"]) == ["t5"]


def test_on_a_cpu_as_few_are_counted_as_are_quick(run, tmp_path, monkeypatch):
    monkeypatch.setattr(experiments.figures.regions, "_CPU_PIXELS", 4 * 24 * 32)
    for shown, counted in ((1, 4), (5, 5)):  # those that are shown cost nothing more
        figure = draw(run, shown, tmp_path / "out", device="cpu")[0]
        assert json.loads(figure.data.read_text())["counted_images"] == counted


def test_panels_show_the_maps(run):
    trained = load_trained(run.last.folder / "warmup.pt")
    split_data = open_split(trained.config, "train")
    image = _all(trained)[1]
    whole = gallery(*panels_of([image], split_data))
    factor = (whole.shape[1] - 6) // 5 // tiny_run.SIZE[1]
    width = factor * tiny_run.SIZE[1]
    mask, prediction = image.pseudo_mask.numpy(), image.prediction.numpy()
    colours = np.vstack([split_data.classes.palette, np.zeros((253, 3), np.uint8)])
    consistent = colours[mask]
    consistent[(mask != prediction) & (mask != 255)] = INCONSISTENT
    expected = [None, colours[mask], colours[prediction], consistent, colours[image.truth]]
    top = _first_row(whole, 6 + width + 6, colours[mask], factor)
    for column, panel in enumerate(expected):
        if panel is not None:
            left = 6 + column * (width + 6)
            shown = whole[top : top + factor * 24 : factor, left : left + width : factor]
            np.testing.assert_array_equal(shown, panel)


def _first_row(whole: np.ndarray, left: int, panel: np.ndarray, factor: int) -> int:
    """Where the panels begin below heading and note."""
    for top in range(whole.shape[0] - factor * panel.shape[0]):
        column = whole[top : top + factor * panel.shape[0] : factor, left]
        if (column == panel[:, 0]).all() and (whole[top - 1, left] == 255).all():
            return top
    raise AssertionError("the pseudo-mask is not in the image")


def test_without_ground_truth_no_table(run, tmp_path):
    for path in (tmp_path / "data/masks/train").iterdir():
        path.unlink()
    figure = draw(run, 2, tmp_path / "out", device="cpu")[0]
    assert figure.tables == () and len(figure.images) == 1
    assert "pixels" not in json.loads(figure.data.read_text())


def test_the_network_is_the_one_that_carb_starts_from(run):
    stage = run.stages["warmup"]
    last = stage.folder / "last.pt"
    last.write_bytes(b"")
    assert checkpoint_of(run) == stage.folder / "warmup.pt"
    (stage.folder / "warmup.pt").unlink()
    assert checkpoint_of(run) == last
    assert checkpoint_of(run._replace(stages={"carb": stage})) == last
    assert checkpoint_of(run._replace(stages={"supervised": stage})) is None


@pytest.mark.parametrize("stored", [True, False])
def test_missing_masks_are_named_with_their_command(tmp_path, stored):
    folder = tmp_path / "data/clip_masks" if stored else tmp_path / "run/masks_train"
    run = read_run(tiny_run.make_run(tmp_path, **({} if stored else {"pseudo_masks": None})))
    figure = draw(run, 2, tmp_path / "out", device="cpu")[0]
    (missing,) = figure.missing
    python, script, *arguments = shlex.split(missing.command)
    given = gen_clip_masks.parse_arguments(arguments)
    assert (python, script) == ("python", "gen_clip_masks.py") and given.out == str(folder)
    assert given.config == str(run.last.folder / "config.yaml") and given.split is None
    assert figure.images == () and not (tmp_path / "out").exists()


def test_other_things_that_are_missing(run, tmp_path):
    (tmp_path / "data/image_labels.json").unlink()
    assert "prepare_data.py" in draw(run, 2, tmp_path / "out")[0].missing[0].command
    nothing = draw(run._replace(stages={}), 2, tmp_path / "out")[0]
    assert nothing.missing[0].what == "a warm-up or CARB network of run"
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    assert "no folder" in draw(run, 2, tmp_path / "out")[0].missing[0].what
