"""Measure predict.py and gen_clip_masks.py on 2048x1024 JPEGs: wall time beside the network's own.

    python -m benchmarks.prediction --json benchmarks/results/prediction.json --write
    python -m benchmarks.prediction --quick

Both decode ahead of the network and encode behind it, in threads. Wall seconds per image of a
script as it is ("overlapped") and without threads ("in turn") are compared with those of the
network's forward pass alone, in the same round; rounds alternate. predict.py has the network of
configs/cityscapes.yaml and gen_clip_masks.py a CLIP ViT-B/16, both with random weights and on half
the size of the images: the harder case, as the rest has less time to hide behind the network.
Numbers are medians, with the lowest and the highest in brackets. --write puts the table into
RESULTS.md.
"""

import statistics
import tempfile
import time
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch

import predict
from benchmarks import mask_stages
from benchmarks.inputs import CLASSES, random_text_embeddings
from benchmarks.output import ROOT, describe, machine_line, parser, publish, spread, target, verdict
from benchmarks.wall import Clock, by_round, in_turn, write_jpegs
from datasets.files import File, read_image
from datasets.labels import load_classes
from datasets.training import EvaluationSet
from datasets.transforms import normalize
from experiments.figures.style import markdown
from models.build import build_model
from models.inference import label_map, predict_logits
from models.trained import Trained
from utils.config import load_config
from utils.distributed import setup
from utils.safe.errors import InputError, run_script
from utils.visualize import overlay, save_image, save_mask, save_overlay

SIZE, QUICK_SIZE = (1024, 2048), (64, 128)
TARGET = 1.15  # largest wall time of a script, relative to the network alone
STAGES = ("decode", "network", "resize and arg max", "overlay", "encode")
IMAGES, QUICK_IMAGES = 4, 2


def main(argv: list[str]) -> None:
    command = parser(__doc__, rounds=2)
    command.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    command.add_argument("--quick", action="store_true", help="small images, a small network")
    arguments = command.parse_args(argv)
    if arguments.write and arguments.quick:
        raise InputError("--write needs the images of full size; leave out --quick")
    setup(arguments.device)
    size = QUICK_SIZE if arguments.quick else SIZE
    count = QUICK_IMAGES if arguments.quick else IMAGES
    network = tuple(side // 2 for side in size)
    trained = random_network(network, arguments.quick)
    about = size, count, arguments.rounds, arguments.device
    where = f"on {network[1]}x{network[0]}"
    report: dict[str, Any] = {"machine": describe(arguments.device)}
    report["results"] = {
        f"predict.py, network {where}": measure(trained, *about),
        f"gen_clip_masks.py, CLIP {where}": mask_stages.measure_masks(*about, arguments.quick),
    }
    report["overlay"] = encoders(size)
    publish(report, "prediction", table(report), arguments)


def encoders(size: tuple[int, int]) -> dict[str, dict[str, float]]:
    """Bytes and CPU-seconds of an overlay's PNG: ours, with drawing, and Pillow's default."""
    generator, found = np.random.default_rng(0), {}
    with tempfile.TemporaryDirectory() as name:
        write_jpegs(Path(name) / "images", size, 1)
        image = read_image(File(f"{name}/images/0.jpg"))
        cells = generator.integers(0, CLASSES, (8, 16), dtype=np.uint8)
        mask = np.kron(cells, np.ones((size[0] // 8, size[1] // 16), np.uint8))
        palette = generator.integers(0, 256, (CLASSES, 3), dtype=np.uint8)
        shown, file = overlay(image, mask, palette), Path(name) / "overlay.png"
        ways = {
            "ours": lambda: save_overlay(file, image, mask, palette),
            "default": lambda: save_image(file, shown),
        }
        for way, write in ways.items():
            start = time.process_time()
            write()
            found[way] = {"cpu": time.process_time() - start, "bytes": file.stat().st_size}
    return found


def random_network(image_size: tuple[int, ...], quick: bool) -> Trained:
    """The network of the config with random weights, at test time."""
    overrides = [f"image_size={list(image_size)}", "backbone_weights=null"]
    config = load_config(
        ROOT / "configs/cityscapes.yaml", overrides + ["backbone=resnet18"] * quick
    )
    torch.manual_seed(0)
    model = build_model(config, CLASSES, random_text_embeddings(), pretrained=False)
    return Trained(model.eval(), config, load_classes(config.class_file), {})


def measure(
    trained: Trained, size: tuple[int, int], count: int, rounds: int, device: str
) -> dict[str, list[float]]:
    """Wall seconds per image of the stages, and of predict.py in turn and overlapped, by round."""
    with tempfile.TemporaryDirectory(prefix="carb-benchmark-") as name:
        folder = Path(name)
        write_jpegs(folder / "images", size, count)
        trained.model.to(device)
        return by_round(
            lambda number: stages(trained, folder, device, number),
            lambda: run_predict(trained, folder, device),
            lambda: in_turn(predict, predict),
            count,
            rounds,
            device,
        )


def stages(trained: Trained, folder: Path, device: str, number: int) -> dict[str, float]:
    """Wall seconds per image of each stage alone, of the first `number` images."""
    paths = sorted((folder / "images").iterdir())[:number]
    files = {path.stem: File(str(path)) for path in paths}
    data = EvaluationSet(files, trained.config.image_size, keep_original=True)
    clock, palette = Clock(STAGES, number, device), trained.classes.palette
    for index in range(number):
        sample = clock("decode", data.__getitem__, index)
        with torch.inference_mode():
            image = normalize(sample["image"][None].to(device), "imagenet")
            logits = clock("network", trained.model, image)
            resized = partial(predict_logits, lambda _, known=logits: known, image, sample["size"])
            labels = clock("resize and arg max", lambda logits=resized: label_map(logits()))
            mask = labels[0].cpu().numpy()
        original = sample["original"].numpy()
        clock("overlay", overlay, original, mask, palette)
        clock("encode", save_mask, folder / "stage.png", mask, palette)
        clock("encode", save_overlay, folder / "stage_overlay.png", original, mask, palette)
    clock.seconds["encode"] -= clock.seconds["overlay"]  # `save_overlay` draws too
    return clock.seconds


def run_predict(trained: Trained, folder: Path, device: str) -> None:
    """predict.py on the images, with a network that needs no loading."""
    original, predict.load_trained = predict.load_trained, lambda *_: trained
    command = [str(folder / "images"), "--ckpt", "none", "--device", device, "--overwrite"]
    try:
        with redirect_stdout(StringIO()):
            predict.main([*command, "--out", str(folder / "out")])
    finally:
        predict.load_trained = original


def table(report: dict[str, Any]) -> str:
    """Markdown: seconds per image, share of the stages' sum, and the ratios with the target."""
    parts = [machine_line(report)]
    for name, found in report["results"].items():
        medians = {key: statistics.median(values) for key, values in found.items()}
        steps = [key for key in found if key not in ("in turn", "overlapped")]
        total = sum(medians[step] for step in steps)
        rows = [[step, spread(found[step]), f"{medians[step] / total:.1%}"] for step in steps]
        for way in ("in turn", "overlapped"):
            pairs = zip(found[way], found["network"], strict=True)
            ratios = [wall / network for wall, network in pairs]
            text = f"{spread(ratios)} x the network"
            if way == "overlapped":
                overlapped = target(way, statistics.median(ratios), most=TARGET)
                text += f"; target ≤ {TARGET}: {verdict(overlapped)}"
            rows.append([f"all, {way}", spread(found[way]), text])
        parts.append(markdown([name, "seconds per image", "share of the stages"], rows))
    ours, default = report["overlay"]["ours"], report["overlay"]["default"]
    parts.append(
        f"PNG of an overlay, with drawing: {ours['bytes'] / default['bytes']:.3f} of the bytes and "
        f"{ours['cpu'] / default['cpu']:.2f} of the CPU-seconds of Pillow's default, which only "
        "encodes."
    )
    return "\n\n".join(parts)


if __name__ == "__main__":
    run_script(main)
