"""benchmarks/prediction.py on tiny images: what it measures; the scripts are left as they were."""

import json
from pathlib import Path

import pytest
from tiny_run import make_run

import gen_clip_masks
import predict
from benchmarks import mask_stages, prediction
from datasets import mask_writer, training
from models.trained import load_trained
from utils.safe.errors import InputError


def test_stages_and_ratios(tmp_path: Path, monkeypatch, capsys) -> None:
    trained = load_trained(make_run(tmp_path) / "warmup/warmup.pt")
    monkeypatch.setattr(prediction, "random_network", lambda *_: trained)
    decoded, masks = [], []
    read, save = training.read_image, mask_writer.save_mask
    monkeypatch.setattr(training, "read_image", lambda file: decoded.append(file) or read(file))
    monkeypatch.setattr(mask_writer, "save_mask", lambda *about: masks.append(1) or save(*about))
    before = parts()
    prediction.main(["--quick", "--rounds", "2", "--json", str(tmp_path / "found.json")])
    assert before == parts()
    found = json.loads((tmp_path / "found.json").read_text())
    for name, result in found["results"].items():
        steps = mask_stages.STAGES if "gen_clip_masks" in name else prediction.STAGES
        assert result.keys() == {*steps, "in turn", "overlapped"}
        assert all(len(values) == 2 for values in result.values())
        assert min(min(result[key]) for key in ("decode", "network", "in turn", "overlapped")) > 0
    assert [*found["results"]] == [
        "predict.py, network on 64x32",
        "gen_clip_masks.py, CLIP on 64x32",
    ]
    # Two images, two rounds: each image is decoded once by each way of a script and by the stages,
    # and once more by the stages that are not timed.
    assert len(decoded) == 2 * (1 + 2 * 2 * 3) and len(masks) == 2 * 2 * 2
    assert found["overlay"]["ours"]["bytes"] > 0
    printed = capsys.readouterr().out
    assert printed.count("| all, overlapped |") == 2 and "x the network; target ≤ 1.15: " in printed
    shares = [float(part.split("%")[0]) for part in printed.split("| ") if "%" in part]
    assert sum(shares) == pytest.approx(200, abs=1)


def parts() -> tuple:
    """What the benchmark replaces for a while."""
    masks = gen_clip_masks.build_teacher, gen_clip_masks.build_text_embeddings
    ways = predict.ahead, predict.writing, gen_clip_masks.ahead, mask_writer.writing
    return predict.load_trained, *masks, *ways


def test_small_images_are_not_published() -> None:
    with pytest.raises(InputError, match="leave out --quick"):
        prediction.main(["--quick", "--write"])
