"""The benchmark of exported files: eval.py's mIoU of the network, and a row for each file."""

import pytest
import torch
from tiny_run import make_run

from benchmarks import exported
from datasets import open_dataset
from datasets.training import EvaluationSet
from datasets.transforms import normalize
from models.inference import predict_labels
from models.trained import load_trained
from utils.metrics import ConfusionMatrix
from utils.safe.errors import InputError


def test_rows_are_the_network_and_the_files_with_the_miou_of_eval(tmp_path, monkeypatch, capsys):
    checkpoint = make_run(tmp_path) / "warmup/warmup.pt"
    trained = load_trained(checkpoint)
    command = ["--ckpt", str(checkpoint), "--model", str(tmp_path), "--split", "train"]
    with pytest.raises(InputError, match="none of the files of export.py"):
        exported.main(command)
    (tmp_path / "model.pt2").write_bytes(bytes(1_000_000))
    run = exported.network_runner(trained.model)
    constant = {"constant": ("model.pt2", lambda path: lambda p: (run(p)[0] * 0, run(p)[1] * 0))}
    monkeypatch.setattr(exported, "FILES", constant)
    exported.main(command)
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines()[2:]]

    data = open_dataset("folder", trained.config.data_root)
    samples = EvaluationSet(data.images("train"), (48, 64), data.ground_truth("train"))
    both = ConfusionMatrix(3), ConfusionMatrix(3)
    for place in range(len(samples)):
        sample = samples[place]
        image = normalize(sample["image"][None], "imagenet")
        labels = predict_labels(trained.model, image, sample["size"])
        both[0].update(labels[0], sample["ground_truth"])
        both[1].update(torch.zeros_like(labels[0]), sample["ground_truth"])
    assert [row[0] for row in rows] == ["| network, float32", "| constant"]
    assert float(rows[1][1]) == pytest.approx(100 * both[1].miou(), abs=0.006)
    assert float(rows[0][1]) == pytest.approx(100 * both[0].miou(), abs=0.006)
    assert rows[1][2] == "1.0"
