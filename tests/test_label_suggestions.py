"""prepare_data.py --suggest: scores and thresholds by hand, the files, bad input."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from own_data import CLASSES
from test_shards import pack
from tiny_clip import tiny_clip

import prepare_data
from datasets.doctor.label_quality import (
    THRESHOLD,
    best_threshold,
    best_thresholds,
    quality,
    thresholds_text,
)
from datasets.image_labels import read_image_labels
from models import label_suggestions
from models.clip_features import MaskCLIPOptions, dense_features
from models.label_scores import image_scores, logit_scale, pooled
from models.maskclip import MaskCLIP, class_scores
from utils.config import load_config
from utils.safe.errors import InputError

NAMES = ("a", "b")
CONFIG = "--config config.yaml"
MINIATURE = Path(__file__).parent.parent / "demo/weights/clip.pt"

# ---------------------------------------------------------------- equations


def test_the_score_is_the_mean_of_the_surest_hundredth() -> None:
    row = torch.full((150,), 0.1)
    row[[3, 70, 149]] = torch.tensor([0.9, 0.5, 0.4])  # two of 150 count: 1 % is 1.5, rounded up
    assert pooled(row[None]).tolist() == pytest.approx([0.7])
    assert pooled(torch.tensor([[0.2, 0.8, 0.3]])).tolist() == pytest.approx([0.8])


@pytest.mark.parametrize("windows", [None, (16, 16)])
def test_an_image_is_scored_over_all_cells_of_all_windows(windows) -> None:
    model = tiny_clip()
    text = torch.randn(4, 64, generator=torch.Generator().manual_seed(1))
    options = MaskCLIPOptions(window=windows, stride=windows and (8, 16))
    teacher = MaskCLIP(model.visual, text, options)
    image = torch.randn(1, 3, 24, 32, generator=torch.Generator().manual_seed(2))
    views = [image] if windows is None else [image[..., t : t + 16, s : s + 16]
                                             for t in (0, 8) for s in (0, 16)]  # fmt: skip
    cells = []
    for view in views:
        features, _ = dense_features(teacher.visual, view, options)
        cells += class_scores(features, text)[0].flatten(1).T.tolist()
    exponentials = np.exp(5.0 * np.array(cells))
    best = (exponentials / exponentials.sum(1, keepdims=True)).max(0)  # 1 % of at most 16 is one
    assert len(cells) == (12 if windows is None else 16)
    np.testing.assert_allclose(image_scores(teacher, image, 5.0).numpy(), best, rtol=1e-4)


@pytest.mark.parametrize(("stored", "scale"), [(1.0, np.e), (9.0, 100.0)])
def test_the_scale_is_clips_own_up_to_the_limit_of_its_training(stored, scale) -> None:
    model = tiny_clip()
    model.logit_scale.data.fill_(stored)
    assert logit_scale(model) == pytest.approx(scale)


@pytest.mark.parametrize(
    ("scores", "present", "expected"),
    [
        # F1 by threshold: 0.5 and 0.4 give 2*2/(3+2), 0.1 gives 2*2/(4+2), 0.65 2/4, 0.8 2/3
        ([0.2, 0.6, 0.7, 0.9], [0, 1, 0, 1], 0.5),
        # 0.75 gives 1, 0.5 gives 2*1/(2+1)
        ([0.2, 0.6, 0.9], [0, 0, 1], 0.75),
        # 0.25 gives 1: 0.2 is absent, 0.3 present
        ([0.2, 0.3, 0.9], [0, 1, 1], 0.25),
        # all are present: half the lowest suggests all of them
        ([0.1, 0.3, 0.9], [1, 1, 1], 0.05),
        # ... and 0.5 does so here
        ([0.6, 0.7, 0.9], [1, 1, 1], 0.5),
        # present nowhere: nothing to learn
        ([0.6, 0.7, 0.9], [0, 0, 0], 0.5),
        # a score on the threshold itself is not above it
        ([0.5, 0.8], [1, 1], 0.25),
    ],
)
def test_the_threshold_of_a_class_has_the_best_f1(scores, present, expected) -> None:
    found = best_threshold(np.array(scores), np.array(present, bool))
    assert found == pytest.approx(expected)


def test_every_class_has_its_own_threshold() -> None:
    scores = np.array([[0.2, 0.6], [0.3, 0.9], [0.9, 0.2]], np.float32)
    present = np.array([[0, 0], [1, 1], [1, 0]], bool)
    np.testing.assert_allclose(best_thresholds(scores, present), [0.25, 0.75], rtol=1e-6)


def test_precision_and_recall_by_hand() -> None:
    said = np.array([[1, 1], [1, 0], [0, 0], [1, 0]], bool)
    true = np.array([[1, 0], [1, 0], [1, 0], [0, 0]], bool)
    lines = quality(said, true, NAMES).splitlines()
    assert [line.split() for line in lines[1:3]] == [
        ["a", "3", "3", "66.7", "66.7"],
        ["b", "0", "1", "0.0", "-"],
    ]
    assert lines[3].split() == ["all", "labels", "3", "4", "50.0", "66.7"]
    assert lines[4] == (  # 3 wrong labels in 4 images; 5 of 8 are absent
        "  wrong labels: 0.75 an image; with every class in every image 1.25, at a precision of "
        "37.5"
    )


# ---------------------------------------------------------------- the command


def suggest(options: str = CONFIG, out: str = "new") -> None:
    words = f"folder --root data --workers 0 --suggest {out} {options}".split()
    prepare_data.main(words)


def test_the_files_and_what_is_printed(case, capsys) -> None:
    suggest(f"{CONFIG} --labels labels.json")
    labels = read_image_labels("new/suggested.csv", len(CLASSES), CLASSES)
    scores = [line.split(",") for line in Path("new/scores.csv").read_text().splitlines()]
    assert scores[0] == ["image", *CLASSES] and list(labels) == ["t0", "t1", "t2", "t3"]
    for key, *row in scores[1:]:
        assert labels[key] == tuple(k for k, score in enumerate(row) if float(score) > THRESHOLD)
    meta = json.loads(Path("new/meta.json").read_text())
    assert meta["thresholds"] == dict.fromkeys(CLASSES, THRESHOLD) and meta["calibrated_on"] == 0
    assert {"clip_sha256", "templates", "logit_scale", "options"} <= meta["clip"].keys()
    printed = capsys.readouterr().out
    assert "threshold of every class: 0.5" in printed and "browser: new/page.html" in printed
    assert "against labels.json, 4 images" in printed and "all labels" in printed
    page = Path("new/page.html").read_text()
    labels_too = "--workers 0 --labels labels.csv --out data/image_labels.json</code>"
    assert f"python prepare_data.py folder --root data {labels_too}" in page
    same = "--labels labels.json --suggest new --config config.yaml --workers 0"
    assert f"{same} --calibrate checked.csv --overwrite</code>" in page
    prepare_data.main(["folder", "--root", "data", *["--labels", "new/suggested.csv"],
                       *["--out", "given.json", "--workers", "0"]])  # fmt: skip
    assert read_image_labels("given.json", len(CLASSES)) == labels


def test_thresholds_fit_the_labelled_images_which_keep_their_labels(case, capsys) -> None:
    Path("some.csv").write_text("image,labels\nt1.png,car\nv0.png,road\nt3,building;person\n")
    suggest(f"{CONFIG} --calibrate some.csv --labels labels.json")
    labels = read_image_labels("new/suggested.csv", len(CLASSES), CLASSES)
    assert labels["t1"] == (2,) and labels["t3"] == (1, 3) and len(labels) == 4
    meta = json.loads(Path("new/meta.json").read_text())
    assert meta["calibrated_on"] == 2 and meta["thresholds"]["road"] == THRESHOLD
    printed = capsys.readouterr().out
    assert "best F1 on the 2 labelled images:\n  fitted: " in printed
    assert "0.5, as no labelled image has the class: road\n" in printed
    assert "2 images that did not set the thresholds" in printed
    page = Path("new/page.html").read_text()
    assert page.count('"checked": true') == 2 == page.count('"checked": false')


def test_thresholds_are_said_with_their_reasons() -> None:
    thresholds, present = np.array([0.5, 0.25, 0.5]), np.array([[1, 1, 0], [0, 1, 0]], bool)
    assert thresholds_text(thresholds, present, ("a", "b", "c")).splitlines() == [
        "thresholds with the best F1 on the 2 labelled images:",
        "  fitted: b 0.250",
        "  0.5, as none is better: a",
        "  0.5, as no labelled image has the class: c",
    ]
    every = thresholds_text(np.full(3, 0.5), present[:0], ("a", "b", "c"))
    assert every == "threshold of every class: 0.5 (--calibrate FILE fits them to some labels)"


def test_labels_that_are_the_suggestion_are_no_measure_of_it(case, capsys) -> None:
    suggest()
    capsys.readouterr()
    suggest(f"{CONFIG} --labels new/suggested.csv --overwrite")
    printed = capsys.readouterr().out
    assert "against new/suggested.csv, 4 images" in printed and "all labels" not in printed
    assert "these labels are CLIP's suggestion, unchanged" in printed
    Path("one.csv").write_text("image,labels\nt1,car\n")  # other thresholds suggest other labels
    suggest(f"{CONFIG} --labels new/suggested.csv --calibrate one.csv", "calibrated")
    printed = capsys.readouterr().out
    assert "against new/suggested.csv, 3 images" in printed and "unchanged: precision" in printed


def test_the_miniature_has_its_own_config_and_says_what_it_reads(case, capsys, monkeypatch) -> None:
    monkeypatch.setattr(label_suggestions, "MINIATURE_CONFIG", "config.yaml")
    Path("words.yaml").write_text("classes: [road, building, car, {name: person, prompt: rider}]\n")
    suggest("--miniature --class-file words.yaml")
    assert json.loads(Path("new/meta.json").read_text())["clip"]["clip_model"] == "clip"
    assert "--miniature --workers 0 --calibrate" in Path("new/page.html").read_text()


def test_ground_truth_is_not_read_and_no_labels_are_needed(case, capsys) -> None:
    for mask in Path("data/masks").rglob("*.png"):
        mask.write_bytes(b"nothing")
    suggest(f"{CONFIG} --splits val train", "new/deep")
    assert "against" not in capsys.readouterr().out
    labels = read_image_labels("new/deep/suggested.csv", len(CLASSES), CLASSES)
    assert list(labels) == ["v0", "v1", "t0", "t1", "t2", "t3"]


def test_images_in_shards(case) -> None:
    """The same scores; the page holds the images themselves."""
    suggest()
    pack(Path("shards/train-0.tar"), {p.name: p.read_bytes() for p in images_of("t[01]")})
    pack(Path("shards/train-1.tar"), {p.name: p.read_bytes() for p in images_of("t[23]")})
    words = f"folder --root shards --class-file data/classes.yaml --workers 0 {CONFIG}".split()
    prepare_data.main([*words, "--suggest", "shards/suggested"])
    for file in ("suggested.csv", "scores.csv"):
        assert Path("shards/suggested", file).read_text() == Path("new", file).read_text()
    pictures = [
        re.findall(r"data:image/jpeg;base64,[^\"]+", Path(folder, "page.html").read_text())
        for folder in ("new", "shards/suggested")
    ]
    assert pictures[0] == pictures[1] and len(pictures[0]) == 4
    with pytest.raises(InputError, match="shards holds images or ground truth"):
        prepare_data.main([*words, "--suggest", "shards"])


def test_another_clip_and_files_of_before(case) -> None:
    tiny.make_clip(Path("other.pt"))
    suggest(f"{CONFIG} --clip-model other.pt")
    assert json.loads(Path("new/meta.json").read_text())["clip"]["clip_model"] == "other"
    with pytest.raises(InputError, match="new has files in it; give .* or --overwrite"):
        suggest()
    Path("new/mine.txt").write_text("kept")
    suggest(f"{CONFIG} --overwrite")
    assert json.loads(Path("new/meta.json").read_text())["clip"]["clip_model"] == "clip"
    assert Path("new/mine.txt").is_file()


def test_without_a_config_clip_sees_windows_of_its_training() -> None:
    config = load_config(label_suggestions._CONFIG, label_suggestions._SETTINGS)
    teacher = config.stored_teacher
    assert config.clip_model == "ViT-B/16"
    assert (teacher.short_side, teacher.window, teacher.stride) == (560, (224, 224), (112, 112))


def images_of(pattern: str) -> list[Path]:
    return sorted(Path("data/images/train").glob(f"{pattern}.*"))


def files() -> set[str]:
    return {str(path) for path in Path().rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (f"{CONFIG} --clip-model none.pt", "clip_model 'none.pt' is neither a file nor one of"),
        (f"{CONFIG} --clip-model data/classes.yaml", "data/classes.yaml"),
        (f"{CONFIG} --calibrate none.csv", "no image labels at none.csv"),
        (f"{CONFIG} --calibrate wrong.csv", "wrong.csv: first line: expected .* found 'tram'"),
        (f"{CONFIG} --calibrate others.csv", "others.csv labels no image of train; --calibrate"),
        (f"{CONFIG} --labels none.csv", "no image labels at none.csv"),
        (f"{CONFIG} --class-file one.yaml", "compares classes with each other, .* has 1; add"),
        (f"{CONFIG} --splits test", "no split 'test', only train, val"),
        (f"{CONFIG} --out given.json", "--suggest is a command of its own; leave out --out"),
        (f"{CONFIG} --check", "--suggest is a command of its own; leave out --check"),
        ("--config none.yaml", "none.yaml"),
        (f"{CONFIG} --miniature", "--miniature has a CLIP and a config; leave out --config"),
        ("--miniature", "miniature CLIP can't read 1 of the 4 classes: person .unknown: 'person'"),
        (
            f"--clip-model {MINIATURE}",
            "miniature CLIP, which can't read 'j', .*demo/config.yaml do",
        ),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(case, options, message) -> None:
    Path("wrong.csv").write_text("image,road,building,car,tram\nt0,1,0,0,1\n")
    Path("others.csv").write_text("image,labels\nv0,road\n")
    Path("one.yaml").write_text("classes: [road]\n")
    before = files()
    with pytest.raises(InputError, match=message):
        suggest(options)
    assert files() == before


def test_odd_folders_and_damaged_images_are_refused(case) -> None:
    with pytest.raises(InputError, match="data/images/train holds images"):
        suggest(out="data/images/train")
    Path("file").write_text("")
    with pytest.raises(InputError, match="--suggest file: Not a directory"):
        suggest(out="file")
    Path("data/images/train/t2.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    with pytest.raises(InputError, match="t2.png"):
        suggest()
    assert not [name for name in files() if re.search(r"page|suggested|scores\.csv", name)]
    for path in Path("data/images/train").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="no images in data/images/train"):
        suggest()


@pytest.mark.parametrize(
    "option", ["--calibrate labels.json", "--clip-model ViT-B/16", "--miniature"]
)
def test_options_of_suggest_alone_are_refused(case, option) -> None:
    with pytest.raises(InputError, match=f"{option.split()[0]} is for .*--suggest FOLDER"):
        prepare_data.main(["folder", "--root", "data", "--stats", *option.split()])
