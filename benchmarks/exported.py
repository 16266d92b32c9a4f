"""Exported files beside their network: mIoU on a split, size, and time for an image on the CPU.

    python -m benchmarks.exported --ckpt runs/demo/carb/last.pt --model exported [--split val]

Reads what export.py wrote to MODEL. Each of them predicts every image of the split, one at a time
at the size of the training; the logits or labels are resized to the ground truth as eval.py does.
The time is the median of the images' wall-clock times, decoding and scoring not counted; --threads
sets the threads of torch and of onnxruntime.
"""

import argparse
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from datasets import open_dataset
from datasets.training import EvaluationSet
from datasets.transforms import normalize
from models.export_check import Run, onnx_runner, torch_runner
from models.exported import require_packages
from models.inference import label_map, predict_logits, resize
from models.trained import load_trained
from utils.cli import add_overrides, path
from utils.metrics import ConfusionMatrix
from utils.safe.errors import InputError, run_script

# Name in the table -> file, and what opens it.
FILES: dict[str, tuple[str, Callable[[Path], Run]]] = {
    "ONNX, float32": ("model.onnx", onnx_runner),
    "ONNX, int8": ("model_int8.onnx", onnx_runner),
    "torch.export": ("model.pt2", torch_runner),
}


def main(argv: list[str]) -> None:
    arguments = parse(argv)
    torch.set_num_threads(arguments.threads)
    folder = Path(arguments.model)
    found = {name: entry for name, entry in FILES.items() if (folder / entry[0]).is_file()}
    if not found:
        raise InputError(f"none of the files of export.py is in {folder}; name its --out")
    if any(file.endswith(".onnx") for file, _ in found.values()):
        require_packages("onnx")
    trained = load_trained(arguments.ckpt, arguments.config, arguments.overrides)
    config, split = trained.config, arguments.split or trained.config.val_split
    dataset = open_dataset(config.dataset, config.data_root)
    images, truth = dataset.images(split), dataset.ground_truth(split)
    data = EvaluationSet(images, config.image_size, truth, dataset.read_ground_truth)
    subjects = {"network, float32": (Path(arguments.ckpt), network_runner(trained.model))}
    subjects |= {name: (folder / file, load(folder / file)) for name, (file, load) in found.items()}
    print(
        f"| {len(data)} images of {split}, {arguments.threads} threads | mIoU | MB | ms an image |"
    )
    print("|---|---|---|---|")
    for name, (file, run) in subjects.items():
        miou, seconds = measure(run, data, len(trained.classes))
        size = file.stat().st_size / 1e6
        print(f"| {name} | {100 * miou:.2f} | {size:.1f} | {1000 * seconds:.0f} |", flush=True)


def network_runner(model: nn.Module) -> Run:
    """The network as it is: normalisation, network, resizing and arg max in torch."""

    def run(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        network_input = normalize(torch.from_numpy(images).permute(0, 3, 1, 2), "imagenet")
        logits = predict_logits(model, network_input, images.shape[1:3])
        return logits.numpy(), label_map(logits).numpy()

    return run


def measure(run: Run, data: EvaluationSet, num_classes: int) -> tuple[float, float]:
    """(mIoU 0 to 1, median seconds of an image)."""
    matrix, seconds = ConfusionMatrix(num_classes), []
    for place in range(len(data)):
        sample = data[place]
        image = sample["image"].permute(1, 2, 0)[None].contiguous().numpy()
        start = time.perf_counter()
        logits, labels = run(image)
        seconds.append(time.perf_counter() - start)
        if labels.shape[1:] != sample["size"]:
            labels = label_map(resize(torch.from_numpy(logits), sample["size"])).numpy()
        matrix.update(torch.from_numpy(labels[0]), sample["ground_truth"])
    return matrix.miou(), statistics.median(seconds)


def parse(argv: list[str]) -> argparse.Namespace:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--ckpt", type=path, required=True, help="the checkpoint that was exported")
    add("--model", type=path, required=True, help="the folder that export.py wrote")
    add("--split", help="with ground truth (default: the config's val_split)")
    add("--threads", type=int, default=1)
    add("--config", type=path, help="for an official checkpoint")
    add("--debug", action="store_true", help="show the traceback of an error")
    add_overrides(result)
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
