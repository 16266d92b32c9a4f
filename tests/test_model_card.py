"""Model card: read by the hub's own package; nothing invented; no text becomes markup."""

import json
from pathlib import Path

import pytest
import yaml

from utils.card_facts import find_scores, read_scores, training_record
from utils.config import load_config
from utils.licences import DATA
from utils.model_card import Facts, model_card
from utils.safe.errors import InputError, InputWarning

ROOT = Path(__file__).resolve().parent.parent
NAMES = ("road", "traffic light", "sky")
ORIGIN = {"stage": "carb", "step": 8}
SCORES = {
    **ORIGIN,
    "dataset": "camvid",
    "split": "val",
    "num_images": 20,
    "inference": {"scales": [1.0], "flip": False, "precision": "fp32"},
    "miou": 0.41,
    "miou_small": 0.05,
    "miou_large": 0.6,
    "pixel_accuracy": 0.8,
    "classes": {"road": {"iou": 0.77}, "traffic light": {"iou": 0.05}, "sky": {"iou": None}},
}


def facts(config: str = "camvid", **changes) -> Facts:
    values = {
        "name": "streets",
        "class_names": NAMES,
        "config": load_config(ROOT / f"configs/{config}.yaml").to_dict(),
        "origin": ORIGIN,
        "export": {"input": "image", "outputs": "labels", "git": "abc", "command": "export.py"},
        "files": {"model.onnx": "ONNX", "onnx_segment.py": "example"},
        "checks": ["model.onnx agrees."],
    }
    return Facts(**values | changes)


def front(card: str) -> dict:
    return yaml.safe_load(card.split("---\n")[1])


def test_the_hubs_package_reads_the_scores() -> None:
    hub = pytest.importorskip("huggingface_hub")
    card = hub.ModelCard(model_card(facts(scores=SCORES)))
    (result,) = card.data.eval_results[:1]
    assert (result.metric_type, result.metric_value, result.dataset_split) == (
        "mean_iou",
        0.41,
        "val",
    )
    assert card.data.model_name == "streets" and card.data.pipeline_tag == "image-segmentation"
    assert card.data.license == "other" and card.data.license_link == DATA["camvid"].address
    assert "onnx" in card.data.tags and card.data.datasets == ["camvid"]
    assert card.text.lstrip().startswith("# streets")
    plain = hub.ModelCard(model_card(facts("folder")))
    assert plain.data.eval_results is None and plain.data.license == "unknown"


def test_what_was_measured_is_there_and_what_was_not_is_said() -> None:
    card = model_card(facts(scores=SCORES))
    assert "mIoU **41.0**, pixel accuracy 80.0" in card and "on 20 images" in card
    assert "| road | 77.0 |" in card and "| sky | - |" in card
    assert "IoU below 10.0, so not usable: traffic light." in card
    assert "Not in the evaluated images, so unknown: sky." in card
    assert "mIoU of the small classes 5.0, of the others 60.0." in card
    without = model_card(facts())
    assert "Not evaluated" in without and "IoU **" not in without
    assert "model-index" not in front(without) and "metrics" not in front(without)
    assert "not recorded" in without


def test_the_labels_and_the_terms_are_those_of_the_config_and_the_stage() -> None:
    card = model_card(facts("cityscapes"))
    assert "image-level labels" in card and "CLIP scores each pixel" in card
    terms = "Cityscapes: read the terms at <https://www.cityscapes-dataset.com/license/>."
    assert terms in card and "openai/CLIP" in card and "ImageNet" in card
    supervised = model_card(facts("cityscapes", origin={"stage": "supervised", "step": 8}))
    assert "labels of every pixel" in supervised and "CLIP scores" not in supervised
    assert "weak labels" not in supervised
    own = model_card(facts("folder"))
    assert "**Data:** yours: fill in." in own and "datasets" not in front(own)


@pytest.mark.parametrize(
    "odd", ["a|b", "<script>", "`x`", "[x](y)", "*_~#$", "a\n---\nb", "\x1b[0m"]
)
def test_names_stay_text(odd) -> None:
    export = {"input": odd, "outputs": odd, "git": odd, "command": f"```\n{odd}"}
    training = {"command": f"a.py '{odd}'\n````", "git": odd}
    scores = SCORES | {"classes": {odd: {"iou": 0.01}}, "split": odd}
    card = model_card(
        facts(name=odd, class_names=(odd,), export=export, training=training, scores=scores)
    )
    lines = card.split("\n")
    body = lines[lines.index("---", 1) + 1 :]
    fence, text = "", []
    for line in body:
        if line.startswith("```"):
            ticks = line[: len(line) - len(line.lstrip("`"))]
            fence = "" if line == fence else fence or ticks
        elif not fence:
            text.append(line)
    assert not fence and "<script>" not in "\n".join(text) and "\x1b" not in card
    rows = [line for line in text if line.startswith("|") and "| 1.0 |" in line]
    assert len(rows) == 1 and rows[0].count("|") == 3
    assert "[x](y)" not in "\n".join(text) and "---" not in text
    assert isinstance(front(card)["model-index"][0]["name"], str)


def test_the_record_of_a_run_folder(tmp_path) -> None:
    assert training_record(tmp_path) == {}
    (tmp_path / "command.txt").write_text("train_carb.py --config a.yaml\n" * 2)
    (tmp_path / "git.txt").write_text("abc\n")
    found = training_record(tmp_path)
    assert found == {"command": "train_carb.py --config a.yaml", "git": "abc"}
    (tmp_path / "git.txt").write_bytes(b"abc\ndiff --git \xff\n")
    assert training_record(tmp_path)["git"] == "abc with local changes"


@pytest.mark.parametrize(
    "change, told",
    [
        ({"step": 9}, "not about this checkpoint .step: 9 -> 8"),
        ({"dataset": "folder"}, "dataset: folder -> camvid"),
        ({"classes": {"road": {"iou": 0.5}}}, "other classes"),
        ({"classes": [1]}, "other classes"),
        ({"miou": "0.4"}, "numbers from 0 to 1"),
        ({"miou": 41.0}, "numbers from 0 to 1"),
        ({"pixel_accuracy": None}, "numbers from 0 to 1"),
        ({"classes": dict.fromkeys(NAMES, 0.4)}, "numbers from 0 to 1"),
        ({"split": ["val"]}, "can't be used"),
    ],
    ids=str,
)
def test_scores_of_something_else_are_refused(tmp_path, change, told) -> None:
    file = tmp_path / "metrics.json"
    file.write_text(json.dumps(SCORES | change))
    with pytest.raises(InputError, match=told):
        read_scores(file, ORIGIN, NAMES, "camvid")
    with pytest.warns(InputWarning, match="the card will say 'not evaluated'"):
        assert find_scores(None, file, ORIGIN, NAMES, "camvid") is None


def test_scores_beside_the_checkpoint_are_found(tmp_path) -> None:
    file = tmp_path / "metrics.json"
    assert find_scores(None, file, ORIGIN, NAMES, "camvid") is None
    file.write_text(json.dumps(SCORES))
    assert find_scores(None, file, ORIGIN, NAMES, "camvid") == SCORES
    file.write_text("[1")
    with pytest.raises(InputError, match="can't be read"):
        find_scores(str(file), tmp_path, ORIGIN, NAMES, "camvid")
