"""Images/s of gen_clip_masks.py and predict.py on images of 2048x1024.

    python -m benchmarks.throughput --device cuda --json runs/throughput.json

The images, CLIP and config are those of benchmarks/street_data.py, the network has random weights.
Masks: 1 / the median seconds of an image in OUT/cost.json, without waiting for the loader.
predict.py: from the difference in time of all validation images and of one, so that the start does
not count; it decodes and saves in one process. The file is written after each measurement.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks import street_data
from benchmarks.harness import parser
from benchmarks.output import describe, machine_line, publish, run_python, save
from datasets.labels import load_classes
from datasets.mask_writer import COST
from models.build import build_model
from models.text import build_text_embeddings
from utils.checkpoint import save_checkpoint
from utils.cli import path
from utils.config import load_config
from utils.distributed import setup
from utils.safe.errors import run_script
from utils.safe.files import read_json

WAYS = {  # whether in bfloat16
    "masks without loading, bf16": True,
    "masks without loading, fp32": False,
    "predict, bf16": True,
}


def main(argv: list[str]) -> None:
    command = parser(__doc__)
    command.add_argument("--data", type=path, help="folder of benchmarks.street_data; made here")
    arguments = command.parse_args(argv)
    setup(arguments.device)  # refuses a missing device
    report: dict[str, Any] = {"machine": describe(arguments.device), "images_per_second": {}}
    rates = report["images_per_second"]
    with tempfile.TemporaryDirectory(prefix="carb-benchmark-") as scratch:
        file = street_data.write(Path(arguments.data or scratch), arguments.quick)
        for name, bf16 in WAYS.items():
            measure = predict_rate if name.startswith("predict") else mask_rate
            out = Path(scratch) / name.replace(",", "").replace(" ", "_")
            rates[name] = measure(file, out, ["--device", arguments.device, *["--bf16"] * bf16])
            report["summary"] = [in_words(key, one) for key, one in rates.items()]
            save(report, arguments)
    publish(report, "", "\n\n".join([machine_line(report), *report["summary"]]), arguments)


def in_words(name: str, rate: float | None) -> str:
    return f"{name}: " + ("too few images to tell" if rate is None else f"{rate:.2f} images/s")


def mask_rate(config: Path, out: Path, options: list[str]) -> float:
    """Images/s of gen_clip_masks.py on the validation images."""
    _run(["gen_clip_masks.py", "--config", config, "--split", "val", "--out", out, *options])
    return 1 / read_json(out / COST)["seconds_per_image"]


def predict_rate(config: Path, out: Path, options: list[str]) -> float | None:
    """Images/s of predict.py on the validation images; None where their time is not seen."""
    checkpoint = write_checkpoint(config, out.with_suffix(".pt"))
    images = sorted((config.parent / "data" / "images" / "val").iterdir())
    command = ["predict.py", "--ckpt", checkpoint, *options]
    one = _run([*command, images[0], "--out", f"{out}_one"])
    every = _run([*command, images[0].parent, "--out", out])
    return rate_of(len(images) - 1, every - one, one)


def rate_of(images: int, seconds: float, start: float) -> float | None:
    """Images/s; None where the time is lost in the variation of the start, a tenth of it."""
    return images / seconds if seconds > 0.1 * start else None


def write_checkpoint(file: Path, out: Path) -> Path:
    """A checkpoint of the config's network with random weights."""
    config = load_config(file, ["precision=fp32", "channels_last=false"])
    classes = load_classes(config.class_file)
    torch.manual_seed(0)
    text = build_text_embeddings(config, classes)
    model = build_model(config, len(classes), text, pretrained=False)
    content = {"stage": "carb", "step": 0, "config": config.to_dict(), "model": model.state_dict()}
    content |= {"class_names": list(classes.names), "palette": classes.palette.tolist()}
    save_checkpoint(out, content)
    return out


def _run(words: list[Any]) -> float:
    """Seconds of a script in a process of its own. Raises InputError when it fails."""
    start = time.perf_counter()
    run_python([*map(str, words)])
    return time.perf_counter() - start


if __name__ == "__main__":
    run_script(main)
