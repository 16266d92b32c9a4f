"""Measure predict.py on 2048x1024 JPEGs: wall time beside the network's own, and each stage alone.

    python -m benchmarks.prediction --json benchmarks/results/prediction.json --write
    python -m benchmarks.prediction --quick

predict.py decodes ahead of the network and draws and encodes behind it, in threads. Wall seconds
per image of predict.py as it is ("overlapped") and without threads ("in turn") are compared with
those of the network's forward pass alone, in the same round; rounds alternate. The network is that
of configs/cityscapes.yaml with random weights, on the whole image and on half its size. Numbers are
medians, with the lowest and the highest in brackets. --write puts the table into RESULTS.md.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import predict
from benchmarks.data_pipeline import write_images
from benchmarks.harness import wait
from benchmarks.inputs import CLASSES, random_text_embeddings
from benchmarks.output import ROOT, describe, machine_line, parser, publish, spread
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
TARGET = 1.15  # largest wall time of predict.py, relative to the network alone
STAGES = ("decode", "network", "resize and arg max", "overlay", "encode")
IMAGES, QUICK_IMAGES = 4, 2


def main(argv: list[str]) -> None:
    command = parser(__doc__, rounds=3)
    command.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    command.add_argument("--quick", action="store_true", help="small images, a small network")
    arguments = command.parse_args(argv)
    if arguments.write and arguments.quick:
        raise InputError("--write needs the images of full size; leave out --quick")
    setup(arguments.device)
    size = QUICK_SIZE if arguments.quick else SIZE
    report: dict[str, Any] = {"machine": describe(arguments.device), "results": {}}
    for scale in (1, 2):
        network = tuple(side // scale for side in size)
        name = f"network on {network[1]}x{network[0]}"
        trained = random_network(network, arguments.quick)
        count = QUICK_IMAGES if arguments.quick else IMAGES
        report["results"][name] = measure(trained, size, count, arguments.rounds, arguments.device)
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
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory(prefix="carb-benchmark-") as name:
        folder = Path(name)
        write_jpegs(folder / "images", size, count)
        trained.model.to(device)
        stages(trained, folder, device)  # not timed: allocates, tunes
        for _ in range(rounds):
            one = stages(trained, folder, device)
            with in_turn():
                one["in turn"] = timed(lambda: run_predict(trained, folder, device), device) / count
            one["overlapped"] = timed(lambda: run_predict(trained, folder, device), device) / count
            for key, value in one.items():
                found.setdefault(key, []).append(value)
    return found


def stages(trained: Trained, folder: Path, device: str) -> dict[str, float]:
    """Wall seconds per image of each stage alone."""
    files = {path.stem: File(str(path)) for path in sorted((folder / "images").iterdir())}
    data = EvaluationSet(files, trained.config.image_size, keep_original=True)
    seconds, palette = dict.fromkeys(STAGES, 0.0), trained.classes.palette
    for index in range(len(data)):
        results: list[Any] = []

        def stage(name: str, work: Callable[[], Any], results: list[Any] = results) -> Any:
            seconds[name] += timed(lambda: results.append(work()), device) / len(data)
            return results.pop()

        sample = stage("decode", lambda i=index: data[i])
        with torch.inference_mode():
            image = normalize(sample["image"][None].to(device), "imagenet")
            logits = stage("network", lambda x=image: trained.model(x))
            back = lambda x=logits, i=image, s=sample["size"]: label_map(  # noqa: E731
                predict_logits(lambda _: x, i, s)
            )
            mask = stage("resize and arg max", back)[0].cpu().numpy()
        original = sample["original"].numpy()
        stage("overlay", lambda o=original, m=mask: overlay(o, m, palette))

        def encode(original: np.ndarray = original, mask: np.ndarray = mask) -> None:
            save_mask(folder / "stage.png", mask, palette)
            save_overlay(folder / "stage_overlay.png", original, mask, palette)

        stage("encode", encode)
    seconds["encode"] -= seconds["overlay"]  # `save_overlay` draws too
    return seconds


def run_predict(trained: Trained, folder: Path, device: str) -> None:
    """predict.py on the images, with a network that needs no loading."""
    original, predict.load_trained = predict.load_trained, lambda *_: trained
    command = [str(folder / "images"), "--ckpt", "none", "--device", device, "--overwrite"]
    try:
        with redirect_stdout(StringIO()):
            predict.main([*command, "--out", str(folder / "out")])
    finally:
        predict.load_trained = original


@contextmanager
def in_turn() -> Iterator[None]:
    """predict.py without its threads."""

    @contextmanager
    def at_once() -> Iterator[Callable[..., None]]:
        yield lambda function, *arguments: function(*arguments)

    ways = predict.ahead, predict.writing
    predict.ahead, predict.writing = iter, at_once
    try:
        yield
    finally:
        predict.ahead, predict.writing = ways


def timed(work: Callable[[], Any], device: str) -> float:
    wait(device)
    start = time.perf_counter()
    work()
    wait(device)
    return time.perf_counter() - start


def write_jpegs(folder: Path, size: tuple[int, int], count: int) -> None:
    folder.mkdir()
    for seed in range(count):
        with tempfile.TemporaryDirectory() as name:
            write_images(Path(name) / "one", size, seed)
            with Image.open(Path(name) / "one/image.png") as image:
                image.save(folder / f"{seed}.jpg", quality=90)


def table(report: dict[str, Any]) -> str:
    """Markdown: seconds per image, share of the stages' sum, and the ratios with the target."""
    parts = [machine_line(report)]
    for name, found in report["results"].items():
        medians = {key: statistics.median(values) for key, values in found.items()}
        total = sum(medians[stage] for stage in STAGES)
        rows = [[stage, spread(found[stage]), f"{medians[stage] / total:.1%}"] for stage in STAGES]
        for way in ("in turn", "overlapped"):
            pairs = zip(found[way], found["network"], strict=True)
            ratios = [wall / network for wall, network in pairs]
            text = f"{spread(ratios)} x the network"
            if way == "overlapped":
                text += f"; target ≤ {TARGET}: "
                text += "met" if statistics.median(ratios) <= TARGET else "MISSED"
            rows.append([f"predict.py, {way}", spread(found[way]), text])
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
