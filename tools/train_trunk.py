"""Pre-train the miniature's trunk: models.resnet.ResNet as an ordinary image classifier.

    python -m tools.train_trunk --out models/miniature/trunk.pt

The stand-in for ImageNet weights of the demo: every picture is one "stock photograph" of
datasets.synthetic.render_object with one of the 12 class names. No masks, no street scenes: the
photographs come from a stream of their own (seed 102 by default). They are cropped, scaled down to
as little as 20 pixels on a blurred ground, mirrored and changed in colour.

Writes the state dict in half precision, with torchvision's names and without the classifier, for
the config key backbone_weights; and beside it a .json with the arguments, versions, loss and
accuracy of training and the accuracy on photographs not trained on. The same seed and number of
threads give the same bits. About 10 minutes on one core; an interrupted run starts anew.
"""

import argparse
import math
import platform
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from tqdm import tqdm

from datasets.photometric import (
    adjust_brightness,
    adjust_contrast,
    adjust_hue,
    adjust_saturation,
)
from datasets.scenes.canvas import CLASSES
from datasets.synthetic import VERSION, render_object
from datasets.transforms import normalize
from models.resnet import DEPTHS, ResNet
from utils.errors import InputError, run_script
from utils.files import replacing, write_json
from utils.seed import derive

CANVAS = 64  # pixels: height and width of a training picture
SIZES = (20, 96)  # pixels: of a photograph on it, the larger ones cut by its edge
HELD_OUT_SIZES = (96, 48, 32, 24)
LR, WEIGHT_DECAY, WARMUP = 2e-3, 0.05, 0.05  # warm-up: share of the steps
LOG_EVERY = 100
WEIGHTS, TRAIN, HELD_OUT, DRAWS = range(4)  # what a number is drawn for, see utils.seed.derive


def main(argv: list[str]) -> None:
    # --- arguments
    arguments = parse(argv)
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    seed = arguments.seed
    torch.manual_seed(derive(seed, WEIGHTS))

    # --- data
    photographs, labels = render(arguments.photographs, seed, TRAIN, "rendering")
    rng = np.random.default_rng(derive(seed, DRAWS))

    # --- model, optimiser
    backbone = ResNet(arguments.depth, arguments.width, arguments.layers, output_stride=16)
    model = nn.Sequential(
        backbone,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(backbone.out_channels, len(CLASSES)),
    )
    optimizer = torch.optim.AdamW(model.parameters(), LR, weight_decay=WEIGHT_DECAY)

    # --- loop
    log, losses, hits = [], [], []
    bar = tqdm(range(arguments.steps), "trunk", unit="step", disable=None)
    for step in bar:
        chosen = rng.integers(len(photographs), size=(2, arguments.batch_size))
        picture = torch.stack([compose(photographs[i], photographs[j], rng) for i, j in chosen.T])
        target = labels[chosen[0]]
        logits = model(normalize(picture, "imagenet"))
        loss = F.cross_entropy(logits, target)
        optimizer.param_groups[0]["lr"] = LR * schedule(step, arguments.steps)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        hits.append((logits.argmax(1) == target).float().mean().item())
        if (step + 1) % LOG_EVERY == 0 or step + 1 == arguments.steps:
            line = {"step": step + 1, "loss": np.mean(losses), "accuracy": np.mean(hits)}
            log.append({key: round(float(value), 4) for key, value in line.items()})
            bar.set_postfix(loss=log[-1]["loss"], accuracy=log[-1]["accuracy"])
            losses, hits = [], []

    # --- what is written
    state = {
        name: value.half()
        for name, value in backbone.state_dict().items()
        if "num_batches_tracked" not in name
    }
    if not all(value.isfinite().all() for value in state.values()):
        raise InputError("the training diverged (weights are not finite); try another --seed")
    backbone.load_state_dict(state, strict=False)  # measured as shipped: the counters are left out
    accuracy, by_class = held_out_accuracy(model, seed)
    with replacing(arguments.out) as temporary:
        torch.save(state, temporary)
    write_json(
        arguments.out.with_suffix(".json"),
        {
            "arguments": vars(arguments) | {"out": arguments.out.name},
            "threads": torch.get_num_threads(),
            "versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "torchvision": str(torchvision.__version__),
                "numpy": np.__version__,
                "scenes": VERSION,
            },
            "parameters": sum(p.numel() for p in backbone.parameters()),
            "held_out_accuracy": accuracy,  # by size of the photograph in pixels
            "held_out_accuracy_by_class": by_class,  # over all sizes
            "training": log,
        },
    )
    text = ", ".join(f"{size} px {100 * value:.1f} %" for size, value in accuracy.items())
    print(f"{arguments.out}: right on held-out photographs of {text}")


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the .pt file to write")
    parser.add_argument("--steps", type=int, default=3600)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--photographs", type=int, default=12000, help="drawn before training")
    parser.add_argument("--seed", type=int, default=102)
    parser.add_argument("--depth", type=int, default=18, help="18, 34, 50 or 101")
    parser.add_argument("--width", type=int, default=16, help="channels of the stem")
    parser.add_argument("--layers", type=int, default=4, help="stages, 1 to 4")
    parser.add_argument("--threads", type=int, help="of torch (default: torch's own choice)")
    arguments = parser.parse_args(argv)
    lowest = {"steps": 1, "batch_size": 2, "photographs": 1, "seed": 0, "width": 1, "threads": 1}
    for name, low in lowest.items():
        value = getattr(arguments, name)
        if value is not None and value < low:
            option = name.replace("_", "-")
            raise InputError(f"--{option} must be at least {low}, found {value}")
    if arguments.depth not in DEPTHS:
        known = ", ".join(map(str, DEPTHS))
        raise InputError(f"--depth must be one of {known}, found {arguments.depth}")
    if not 1 <= arguments.layers <= 4:
        raise InputError(f"--layers must be 1 to 4, found {arguments.layers}")
    if arguments.out.suffix != ".pt":
        raise InputError(f"--out must end in .pt (a .json comes beside it), found {arguments.out}")
    return arguments


def render(count: int, seed: int, purpose: int, title: str) -> tuple[Tensor, Tensor]:
    """`count` photographs uint8 (N,3,96,96), the classes in turn, and their ids (N,).

    Photograph i depends on (seed, purpose, i) only.
    """
    pictures = torch.empty(count, 3, 96, 96, dtype=torch.uint8)
    for i in tqdm(range(count), title, unit="image", disable=None):
        rng = np.random.default_rng(derive(seed, purpose, i))
        drawn = render_object(CLASSES[i % len(CLASSES)], rng)
        pictures[i] = torch.from_numpy(drawn).permute(2, 0, 1)
    return pictures, torch.arange(count) % len(CLASSES)


def compose(photograph: Tensor, ground: Tensor, rng: np.random.Generator) -> Tensor:
    """A training picture uint8 (3,CANVAS,CANVAS) of two photographs; `ground` is blurred."""
    extent = photograph.shape[-1]
    sides = extent * math.sqrt(rng.uniform(0.5, 1)) * np.array([1, rng.uniform(0.8, 1)])
    height, width = (int(side) for side in rng.permutation(sides))
    top, left = rng.integers(extent - height + 1), rng.integers(extent - width + 1)
    crop = photograph[:, top : top + height, left : left + width]
    crop = distort(crop.flip(-1) if rng.random() < 0.5 else crop, rng)
    size = int(math.exp(rng.uniform(*np.log(SIZES))))  # as many of 20..30 as of 60..90
    low, high = min(0, CANVAS - size), max(0, CANVAS - size)
    return place(crop, ground, size, *rng.integers(low, high + 1, size=2))


def place(photograph: Tensor, ground: Tensor, size: int, top: int, left: int) -> Tensor:
    """`photograph`, resized to `size` squared, at (top, left) on a blurred `ground`.

    Negative places cut it. Resizing averages, as the scenes' own supersampling does.
    """
    canvas = _resize(_resize(ground, 4), CANVAS)
    small = _resize(photograph, size)[:, max(0, -top) :, max(0, -left) :]
    small = small[:, : CANVAS - max(0, top), : CANVAS - max(0, left)]
    top, left = max(0, top), max(0, left)
    canvas[:, top : top + small.shape[1], left : left + small.shape[2]] = small
    return canvas


def _resize(image: Tensor, size: int) -> Tensor:
    options = {"mode": "bilinear", "align_corners": False, "antialias": True}
    return F.interpolate(image[None], (size, size), **options)[0]


def distort(image: Tensor, rng: np.random.Generator) -> Tensor:
    """Brightness, contrast, saturation and hue, each half of the time, as far as for the scenes."""
    for adjust, value in (
        (adjust_brightness, rng.uniform(-32, 32)),
        (adjust_contrast, rng.uniform(0.5, 1.5)),
        (adjust_saturation, rng.uniform(0.5, 1.5)),
        (adjust_hue, int(rng.integers(-18, 18))),
    ):
        image = adjust(image, value) if rng.random() < 0.5 else image
    return image


def schedule(step: int, steps: int) -> float:
    """The share of the learning rate: a linear rise, then half a cosine."""
    warmup = max(1, round(WARMUP * steps))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


@torch.inference_mode()
def held_out_accuracy(model: nn.Module, seed: int) -> tuple[dict[int, float], dict[str, float]]:
    """By size in pixels and by class, on 1200 photographs never trained on.

    Those of 96 pixels fill the picture, smaller ones stand in the middle of a blurred ground.
    """
    model.eval()
    photographs, labels = render(1200, seed, HELD_OUT, "held out")
    grounds = photographs.roll(len(photographs) // 2 + 5, 0)  # of another class
    hits = []
    for size in HELD_OUT_SIZES:
        pictures, place_at = photographs, (CANVAS - size) // 2
        if size != photographs.shape[-1]:
            pairs = zip(photographs, grounds, strict=True)
            pictures = torch.stack([place(p, g, size, place_at, place_at) for p, g in pairs])
        logits = torch.cat([model(normalize(x, "imagenet")) for x in pictures.split(100)])
        hits.append(logits.argmax(1) == labels)
    hit = torch.stack(hits).double()
    by_size = dict(zip(HELD_OUT_SIZES, hit.mean(1).tolist(), strict=True))
    by_class = hit.mean(0).reshape(-1, len(CLASSES)).mean(0).tolist()
    rounded = {name: round(value, 4) for name, value in zip(CLASSES, by_class, strict=True)}
    return {size: round(value, 4) for size, value in by_size.items()}, rounded


if __name__ == "__main__":
    run_script(main)
