"""Pre-train the demo's backbone: models.resnet.ResNet as an ordinary image classifier.

    python -m demo.train_backbone --out demo/weights/backbone.pt --overwrite

It replaces ImageNet weights in the demo. Each training image is one "stock photograph" of
demo.make_scenes.render_object, and its label one of the 12 class names. No masks and no street
scenes are used. The photographs have their own seed (102 by default); they are cropped, scaled down
to as little as 20 pixels on a blurred background, mirrored and changed in colour.

Writes the state dict in half precision, with torchvision's names and without the classifier, for
the config key backbone_weights. The .json beside it has the arguments, versions, loss and accuracy
of training, and the accuracy on held-out photographs. The same seed and number of threads give the
same bits. Takes about 10 minutes on one core (--threads 1); it can't be resumed.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import math
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import trange

from datasets.transforms import normalize
from demo.make_scenes import VERSION
from demo.object_images import CANVAS, PHOTOGRAPH, compose, photographs, place
from demo.scenes.canvas import CLASSES
from models.backbone_weights import load_backbone_weights
from models.resnet import DEPTHS, ResNet
from utils.checkpoint import versions
from utils.cli import path
from utils.safe.errors import InputError, run_script
from utils.safe.files import check_folder, sha256, write_json
from utils.safe.tensors import write_tensors
from utils.seed import derive

HELD_OUT_SIZES = (PHOTOGRAPH, 48, 32, 24)  # pixels: side of a photograph
NUM_HELD_OUT = 1200
LR, WEIGHT_DECAY, WARMUP = 2e-3, 0.05, 0.05  # warm-up: share of the steps
LOG_EVERY = 100
WEIGHTS, TRAIN, HELD_OUT, DRAWS = range(4)  # purposes of random numbers, see utils.seed.derive


def main(argv: list[str]) -> None:
    # --- arguments
    arguments = parse(argv)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    seed, start = arguments.seed, time.monotonic()
    torch.manual_seed(derive(seed, WEIGHTS))

    # --- data
    photos, labels = photographs(arguments.photographs, seed, TRAIN, "rendering")
    rng = np.random.default_rng(derive(seed, DRAWS))

    # --- model, optimiser
    backbone = ResNet(arguments.depth, arguments.width, arguments.layers, output_stride=16)
    head = nn.Linear(backbone.out_channels, len(CLASSES))
    model = nn.Sequential(backbone, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=WEIGHT_DECAY)

    # --- loop
    log, losses, hits = [], [], []
    bar = trange(arguments.steps, desc="backbone", unit="step", disable=None)
    for step in bar:
        chosen = rng.integers(len(photos), size=(2, arguments.batch_size))
        image = torch.stack([compose(photos[i], photos[j], rng) for i, j in chosen.T])
        target = labels[chosen[0]]
        logits = model(normalize(image, "imagenet"))
        loss = F.cross_entropy(logits, target)
        optimizer.param_groups[0]["lr"] = LR * schedule(step, arguments.steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        hits.append((logits.argmax(1) == target).float().mean().item())
        if (step + 1) % LOG_EVERY == 0 or step + 1 == arguments.steps:
            line = {"loss": float(np.mean(losses)), "accuracy": float(np.mean(hits))}
            log.append({"step": step + 1} | {key: round(value, 4) for key, value in line.items()})
            bar.set_postfix(log[-1])
            losses, hits = [], []

    # --- weights and log
    state = {
        name: value.half()
        for name, value in backbone.state_dict().items()
        if "num_batches_tracked" not in name
    }
    if not all(value.isfinite().all() for value in state.values()):
        raise InputError("the training diverged (weights are not finite); try another --seed")
    write_tensors(arguments.out, state)
    load_backbone_weights(backbone, str(arguments.out))  # measure the weights as saved
    accuracy, by_class = held_out_accuracy(model, seed)
    content = vars(arguments) | {
        "out": arguments.out.name,
        "sha256": sha256(arguments.out),
        "seconds": round(time.monotonic() - start),
        "threads": torch.get_num_threads(),
        "versions": versions() | {"numpy": np.__version__, "scenes": VERSION},
        "held_out_accuracy": accuracy,  # by size of the photograph in pixels
        "held_out_accuracy_by_class": by_class,  # over all sizes
        "training": log,
    }
    write_json(arguments.out.with_suffix(".json"), content)
    text = ", ".join(f"{size} px {100 * value:.1f} %" for size, value in accuracy.items())
    print(f"{arguments.out}: accuracy on held-out photographs: {text}")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=path, required=True, help="the .pt file to write")
    add("--steps", type=int, default=6000)
    add("--batch-size", type=int, default=64)
    add("--photographs", type=int, default=12000, help="drawn before training")
    add("--seed", type=int, default=102)
    add("--depth", type=int, default=18, help="18, 34, 50 or 101")
    add("--width", type=int, default=16, help="channels of the stem")
    add("--layers", type=int, default=4, help="stages, 1 to 4")
    add("--threads", type=int, help="of torch (default: torch's own choice)")
    add("--overwrite", action="store_true", help="replace OUT")
    arguments = parser.parse_args(argv)
    arguments.out = Path(arguments.out)
    lowest = {"steps": 1, "batch_size": 2, "photographs": 1, "seed": 0, "width": 1, "threads": 1}
    for name, low in lowest.items():
        value = getattr(arguments, name)
        if value is not None and value < low:
            raise InputError(f"--{name.replace('_', '-')} must be at least {low}, found {value}")
    if arguments.depth not in DEPTHS:
        raise InputError(f"--depth must be one of {[*DEPTHS]}, found {arguments.depth}")
    if not 1 <= arguments.layers <= 4:
        raise InputError(f"--layers must be 1 to 4, found {arguments.layers}")
    if arguments.out.suffix != ".pt":
        raise InputError(f"--out must end in .pt (the log gets .json), found {arguments.out}")
    if arguments.out.is_dir() or (arguments.out.exists() and not arguments.overwrite):
        raise InputError(f"{arguments.out} exists; name another file, or add --overwrite")
    check_folder(arguments.out.parent, "--out")
    return arguments


def schedule(step: int, steps: int) -> float:
    """Factor of the learning rate (0..1): a linear rise, then half a cosine."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.inference_mode()
def held_out_accuracy(model: nn.Module, seed: int) -> tuple[dict, dict]:
    """Accuracy (0..1) on held-out photographs, by size in pixels and by class.

    Photographs smaller than 96 pixels are in the middle of a blurred background.
    """
    model.eval()
    photos, labels = photographs(NUM_HELD_OUT, seed, HELD_OUT, "held out")
    grounds = photos.roll(len(photos) // 2 + 5, 0)  # of another class
    hits = []
    for size in HELD_OUT_SIZES:
        images, place_at = photos, (CANVAS - size) // 2
        if size != PHOTOGRAPH:
            pairs = zip(photos, grounds, strict=True)
            images = torch.stack([place(p, g, size, place_at, place_at) for p, g in pairs])
        logits = torch.cat([model(normalize(x, "imagenet")) for x in images.split(100)])
        hits.append(logits.argmax(1) == labels)
    hit = torch.stack(hits).double()  # (sizes, photographs)
    by_class = hit.mean(0).reshape(-1, len(CLASSES)).mean(0)
    return _named(HELD_OUT_SIZES, hit.mean(1)), _named(CLASSES, by_class)


def _named(names: tuple, values: Tensor) -> dict:
    return {name: round(value, 4) for name, value in zip(names, values.tolist(), strict=True)}


if __name__ == "__main__":
    run_script(main)
