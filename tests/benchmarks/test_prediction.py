"""benchmarks/prediction.py on tiny images: what it measures; predict.py is left as it was."""

import json
from pathlib import Path

import pytest
from tiny_run import make_run

import predict
from benchmarks import prediction
from models.trained import load_trained
from utils.safe.errors import InputError


def test_stages_and_ratios(tmp_path: Path, monkeypatch, capsys) -> None:
    trained = load_trained(make_run(tmp_path) / "warmup/warmup.pt")
    monkeypatch.setattr(prediction, "random_network", lambda *_: trained)
    before = predict.load_trained, predict.ahead, predict.writing
    prediction.main(["--quick", "--rounds", "2", "--json", str(tmp_path / "found.json")])
    assert before == (predict.load_trained, predict.ahead, predict.writing)
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["results"].keys() == {"network on 128x64", "network on 64x32"}
    for result in found["results"].values():
        assert result.keys() == {*prediction.STAGES, "in turn", "overlapped"}
        assert all(len(values) == 2 for values in result.values())
        assert min(min(result[key]) for key in ("decode", "network", "in turn", "overlapped")) > 0
    assert found["overlay"]["ours"]["bytes"] > 0
    printed = capsys.readouterr().out
    assert "| predict.py, overlapped |" in printed and "x the network; target ≤ 1.15: " in printed
    shares = [float(part.split("%")[0]) for part in printed.split("| ") if "%" in part]
    assert sum(shares) == pytest.approx(200, abs=1)


def test_small_images_are_not_published() -> None:
    with pytest.raises(InputError, match="leave out --quick"):
        prediction.main(["--quick", "--write"])
