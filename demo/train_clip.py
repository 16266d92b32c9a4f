"""Train the miniature CLIP in demo/weights/ with CLIP's own loss.

Draws images with captions (see demo/captioned_images.py). Writes OUT, a state dict that
`models.clip_loading.load_clip` reads like OpenAI's, and a log beside it (.json), both every
--save-every steps; an interrupted run can't be resumed. The model is `clip.model.CLIP` with the
ResNet image tower of one block per stage, without its last two poolings (8 pixels per grid cell),
and it knows only the tokens of its captions. Its scenes have their own seed, so that none of them
is in a data set of another seed.

    python -m demo.train_clip --out demo/weights/clip.pt --overwrite
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
from demo.captioned_images import CaptionedImages
from demo.make_scenes import VERSION
from demo.scenes.canvas import CLASSES
from models.clip_loading import openai_clip
from models.clip_miniature import KnownTokens, set_output_stride
from models.text import load_templates
from utils.checkpoint import versions
from utils.cli import path
from utils.distributed import setup
from utils.safe.errors import InputError, run_script
from utils.safe.files import check_folder, write_json
from utils.safe.tensors import write_tensors

STRIDE = 8  # pixels per grid cell
WIDTHS = {"embed_dim": 64, "vision_width": 16, "transformer_width": 64}
WARMUP = 100  # steps over which the learning rate rises
LOG_EVERY = 50


def main(argv: list[str]) -> None:
    # --- arguments
    arguments = parse(argv)
    out = Path(arguments.out)
    if out.is_dir() or (out.exists() and not arguments.overwrite):
        raise InputError(f"{out} exists; name another file with --out, or add --overwrite")
    check_folder(out.parent, "--out")

    # --- device, seed, data
    device = setup(arguments.device).device
    torch.manual_seed(arguments.seed)
    rng = np.random.default_rng(arguments.seed)
    templates = load_templates(arguments.templates)
    dataset = CaptionedImages(templates, arguments.scenes, arguments.seed, arguments.side)

    # --- model, optimiser
    model = build_miniature(templates, arguments.side).to(device)
    model.visual.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), arguments.lr, weight_decay=0.05)

    # --- loop
    start, losses = time.monotonic(), []
    progress = trange(arguments.steps, desc="CLIP", disable=None)
    for step in progress:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.steps, arguments.lr)
        images, captions = dataset.batch(arguments.batch_size, rng)
        with torch.autocast(device.type, torch.bfloat16):
            features = model.encode_image(normalize(images.to(device), "clip"))
        loss = contrastive_loss(features.float(), encode(model, captions), model.logit_scale)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        if not math.isfinite(loss.item()):
            raise InputError(f"the loss is not finite at step {step + 1}; lower --lr")
        if (step + 1) % LOG_EVERY == 0 or step + 1 == arguments.steps:
            losses.append([step + 1, round(loss.item(), 4)])
            progress.set_postfix(loss=f"{loss.item():.3f}")
        if (step + 1) % arguments.save_every == 0 or step + 1 == arguments.steps:
            save(out, model)
            seconds = round(time.monotonic() - start)
            log = {k: v for k, v in vars(arguments).items() if k not in ("out", "overwrite")}
            log |= {"versions": versions() | {"scenes": VERSION}, "seconds": seconds}
            log |= {"step": step + 1, "losses": losses}
            write_json(out.with_suffix(".json"), log)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB after {arguments.steps} steps")


def parse(argv: list[str]) -> argparse.Namespace:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--out", type=path, required=True, help="file of the weights; the log is beside it")
    add("--steps", type=int, default=10000)
    add("--batch-size", type=int, default=32)
    add("--lr", type=float, default=1e-3)
    add("--scenes", type=int, default=4000, help="street scenes that the crops come from")
    add("--side", type=int, default=64, help="pixels: side of an image, a multiple of 8")
    add(
        "--templates",
        type=path,
        default="demo/templates.txt",
        help="caption templates, one per line",
    )
    add("--seed", type=int, default=101, help="of the weights, the images and the scenes")
    add("--save-every", type=int, default=1000, help="steps between two versions of the file")
    add("--device", help="cpu or cuda (default: cuda when there is one)")
    add("--overwrite", action="store_true", help="replace OUT")
    arguments = result.parse_args(argv)
    smallest = {"steps": 1, "batch_size": 2, "scenes": 1, "save_every": 1, "seed": 0}
    for name, bound in smallest.items():
        if getattr(arguments, name) < bound:
            result.error(f"--{name.replace('_', '-')}: expected {bound} or more")
    if not 0 < arguments.lr < math.inf or arguments.seed >= 2**63:
        result.error(
            f"--lr: a number above 0, --seed: below 2**63; found {arguments.lr}, {arguments.seed}"
        )
    if Path(arguments.out).suffix == ".json":
        result.error("--out: the log gets the name with .json; name a .pt file")
    if arguments.side < STRIDE or arguments.side % STRIDE:
        result.error(f"--side: expected a multiple of {STRIDE}, found {arguments.side}")
    return arguments


def build_miniature(templates: tuple[str, ...], side: int) -> nn.Module:
    """A `clip.model.CLIP` with initial weights, for images of side x side pixels.

    It knows the tokens of `templates`, of the class names and of lists of them.
    """
    clip = openai_clip()
    lists = [", ".join(CLASSES) + " and " + CLASSES[0], *CLASSES]
    texts = [template.replace("{}", text) for template in templates for text in lists]
    token_ids = clip.tokenize(texts, context_length=256).unique(sorted=True)
    model = clip.model.CLIP(
        **WIDTHS,
        image_resolution=32 * side // STRIDE,  # CLIP sizes the position embedding by it
        vision_layers=(1, 1, 1, 1),
        vision_patch_size=None,
        context_length=77,
        vocab_size=len(token_ids),
        transformer_heads=1,
        transformer_layers=2,
    )
    model.token_embedding = KnownTokens(token_ids, WIDTHS["transformer_width"])
    nn.init.normal_(model.token_embedding.weight, std=0.02)  # as CLIP does
    set_output_stride(model.visual, STRIDE)
    return model


def encode(model: nn.Module, captions: list[str]) -> Tensor:
    """Text features (B, D); a repeated caption is encoded once."""
    tokens = openai_clip().tokenize(captions).to(model.logit_scale.device)
    different, places = tokens.unique(dim=0, return_inverse=True)
    return model.encode_text(different)[places]


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """CLIP's symmetric loss (Radford et al. 2021): features (B, D) of pairs -> scalar."""
    images, texts = F.normalize(images, dim=1), F.normalize(texts, dim=1)
    logits = logit_scale.exp().clamp(max=100) * images @ texts.T
    pairs = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


def learning_rate(step: int, steps: int, peak: float) -> float:
    """The learning rate of a step: a short linear rise, then half a cosine."""
    return peak * min(1, (step + 1) / WARMUP) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def save(out: Path, model: nn.Module) -> None:
    """Write the weights in fp16, and the output stride, which no tensor's shape shows."""
    weights = {
        key: value.detach().cpu().half() if value.is_floating_point() else value.cpu()
        for key, value in model.state_dict().items()
    }
    write_tensors(out, weights | {"output_stride": torch.tensor(STRIDE)})


if __name__ == "__main__":
    run_script(main)
