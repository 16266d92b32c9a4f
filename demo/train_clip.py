"""Train a miniature CLIP of demo/weights/ with CLIP's own loss.

Draws images with captions (see demo/captioned_images.py). Writes OUT, a state dict that
`models.clip_loading.load_clip` reads like OpenAI's, and a log beside it (.json), both every
--save-every steps, with OUT.state, from which the same command continues an interrupted training.
The model is `clip.model.CLIP` with a ResNet of one block per stage, without its last two poolings,
or with a VisionTransformer, ViT-B/16 on a smaller scale; 8 pixels per cell of the grid or patch. It
knows only the tokens of its captions. Its scenes have their own seed, so that none of them is in a
data set of another seed.

    python -m demo.train_clip --out demo/weights/clip.pt --overwrite

For a VisionTransformer: --late-class-token lets the class token see the patches in the last block
alone (otherwise it reads the classes in earlier blocks, and the values of the last hardly know
them); --keep 0.5 shows half of the patches (FLIP, Li et al. 2023); --init starts from the weights
of another training. docs/demo.md has the commands of demo/weights/clip_vit.pt.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import math
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from datasets.transforms import normalize
from demo.captioned_images import CaptionedImages, Crops
from demo.make_scenes import VERSION
from demo.scenes.canvas import CLASSES
from models.clip_features import is_resnet
from models.clip_loading import openai_clip
from models.clip_miniature import KnownTokens, output_stride, set_output_stride
from models.text import load_templates
from utils.checkpoint import versions
from utils.cli import path
from utils.distributed import setup
from utils.safe.errors import InputError, run_script
from utils.safe.files import check_folder, read_json, sha256, write_json
from utils.safe.tensors import read_tensors, write_tensors
from utils.seed import derive

STRIDE = 8  # pixels per grid cell of the ResNet, per patch of the ViT
EMBED_DIM, TEXT_WIDTH, TEXT_LAYERS = 64, 64, 2
RESNET_WIDTH = 16
VIT_WIDTH, VIT_BLOCKS, HEAD = 192, 8, 64  # channels, blocks; channels of a head, as in every CLIP
LOG_EVERY = 50


class Recipe(NamedTuple):
    """AdamW for one kind of image tower."""

    weight_decay: float
    of_vectors: bool  # whether biases and norms decay too
    betas: tuple[float, float]
    warmup: int  # steps over which the learning rate rises, but at most a tenth of all
    clip_norm: float  # largest norm of the gradient


RECIPES = {
    "resnet": Recipe(0.05, True, (0.9, 0.999), 100, math.inf),
    "vit": Recipe(0.1, False, (0.9, 0.98), 500, 1.0),
}
# What may differ when a training continues: none of these changes a weight.
FREE = ("out", "overwrite", "workers", "save_every", "device")


def main(argv: list[str]) -> None:
    # --- arguments
    arguments = parse(argv)
    out, state_file = Path(arguments.out), Path(f"{arguments.out}.state")
    settings = {k: v for k, v in vars(arguments).items() if k not in FREE}
    if out.is_dir() or (out.exists() and not arguments.overwrite and not state_file.exists()):
        raise InputError(f"{out} exists; name another file with --out, or add --overwrite")
    check_folder(out.parent, "--out")

    # --- device, model, optimiser
    ranks = setup(arguments.device)
    device = ranks.device
    torch.manual_seed(arguments.seed)
    templates = load_templates(arguments.templates)
    recipe = RECIPES[arguments.tower]
    model = build_miniature(templates, arguments.side, arguments.tower).to(device)
    optimizer = build_optimizer(model, arguments.lr, recipe)
    first, losses, seconds, init = resume(state_file, settings, model, optimizer)
    if arguments.init and first == 0:
        load_init(arguments.init, model)
    if arguments.init and init is None:  # older states have none
        init = init_record(arguments.init)

    # --- data
    images = CaptionedImages(
        templates, arguments.scenes, arguments.seed, arguments.side, arguments.workers
    )
    images.to(device)
    batches = Batches(images, arguments.batch_size, arguments.seed, range(first, arguments.steps))
    loader = DataLoader(batches, batch_size=None, num_workers=arguments.workers)

    # --- loop
    start = time.monotonic() - seconds
    bar = tqdm(loader, "CLIP", arguments.steps, initial=first, disable=None)
    for step, (crops, tokens) in enumerate(bar, first):
        image, tokens = images.images(crops), tokens.to(device, non_blocking=True)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, arguments.steps, arguments.lr, recipe.warmup)
        torch.manual_seed(derive(arguments.seed, step))  # of the patches that are kept
        with torch.autocast(device.type, torch.bfloat16):
            features = encode_image(
                model.visual, normalize(image, "clip"), arguments.keep, arguments.late_class_token
            )
        loss = contrastive_loss(features.float(), encode_text(model, tokens), model.logit_scale)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), recipe.clip_norm)
        optimizer.step()
        done = step + 1
        if done % LOG_EVERY == 0 or done == arguments.steps:
            if not math.isfinite(loss.item()):
                raise InputError(f"the loss is not finite at step {done}; lower --lr")
            losses.append([done, round(loss.item(), 4)])
            bar.set_postfix(loss=f"{loss.item():.3f}")
        if done % arguments.save_every == 0 or done == arguments.steps:
            save(out, model)
            seconds = round(time.monotonic() - start)
            log = settings | {"versions": versions() | {"scenes": VERSION}, "seconds": seconds}
            log |= {"device": ranks.device_name, "step": done, "losses": losses, "init": init}
            write_json(out.with_suffix(".json"), log)
            parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            progress = {"step": done, "losses": losses, "seconds": seconds, "settings": settings}
            write_tensors(state_file, parts | progress | {"init": init})
    state_file.unlink(missing_ok=True)
    print(f"{out}: {out.stat().st_size / 1e6:.1f} MB after {arguments.steps} steps")


def parse(argv: list[str]) -> argparse.Namespace:
    result = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = result.add_argument
    add("--out", type=path, required=True, help="file of the weights; the log is beside it")
    add("--tower", choices=list(RECIPES), default="resnet", help="kind of image tower (resnet)")
    add("--steps", type=int, default=10000)
    add("--batch-size", type=int, default=32)
    add("--lr", type=float, default=1e-3)
    add("--scenes", type=int, default=4000, help="street scenes that the crops come from")
    add("--side", type=int, default=64, help=f"pixels: side of an image, a multiple of {STRIDE}")
    add(
        "--templates",
        type=path,
        default="demo/templates.txt",
        help="caption templates, one per line",
    )
    add("--seed", type=int, default=101, help="of the weights, the images and the scenes")
    add("--init", type=path, help="weights to start from; their log is kept in this one's")
    add("--late-class-token", action="store_true", help="it sees patches in the last block only")
    add("--keep", type=float, default=1.0, help="share of the patches shown, drawn for each image")
    add("--workers", type=int, default=0, help="processes that draw images; 0: this one")
    add("--save-every", type=int, default=500, help="steps between two versions of the file")
    add("--device", help="cpu or cuda (default: cuda when there is one)")
    add("--overwrite", action="store_true", help="replace OUT")
    arguments = result.parse_args(argv)
    smallest = {"steps": 1, "batch_size": 2, "scenes": 1, "save_every": 1, "seed": 0}
    smallest |= {"workers": 0}
    for name, bound in smallest.items():
        if getattr(arguments, name) < bound:
            result.error(f"--{name.replace('_', '-')}: expected {bound} or more")
    if not 0 < arguments.lr < math.inf or arguments.seed >= 2**63:
        result.error(
            f"--lr: a number above 0, --seed: below 2**63; found {arguments.lr}, {arguments.seed}"
        )
    if not 0 < arguments.keep <= 1:
        result.error(f"--keep: expected a share above 0 and at most 1, found {arguments.keep}")
    if Path(arguments.out).suffix == ".json":
        result.error("--out: the log gets the name with .json; name a .pt file")
    if arguments.side < STRIDE or arguments.side % STRIDE:
        result.error(f"--side: expected a multiple of {STRIDE}, found {arguments.side}")
    if arguments.tower != "vit" and (arguments.late_class_token or arguments.keep < 1):
        result.error("--late-class-token and --keep are for --tower vit: a ResNet has no patches")
    return arguments


class Batches(Dataset):
    """Crops and tokens (B, L) of each step's batch, drawn from (seed, step)."""

    def __init__(self, images: CaptionedImages, size: int, seed: int, steps: range) -> None:
        self.images, self.size, self.seed, self.steps = images, size, seed, steps

    def __len__(self) -> int:
        return len(self.steps)

    def __getitem__(self, index: int) -> tuple[Crops, Tensor]:
        if index >= len(self.steps):
            raise IndexError(index)
        rng = np.random.default_rng([self.seed, self.steps[index]])
        crops, captions = self.images.draw(self.size, rng)
        return crops, openai_clip().tokenize(captions)


def build_miniature(templates: tuple[str, ...], side: int, tower: str) -> nn.Module:
    """A `clip.model.CLIP` with initial weights, for images of side x side pixels.

    It knows the tokens of `templates`, of the class names and of lists of them.
    """
    clip = openai_clip()
    lists = [", ".join(CLASSES) + " and " + CLASSES[0], *CLASSES]
    texts = [template.replace("{}", text) for template in templates for text in lists]
    token_ids = clip.tokenize(texts, context_length=256).unique(sorted=True)
    towers = {
        "resnet": {
            "image_resolution": 32 * side // STRIDE,  # CLIP sizes the position embedding by it
            "vision_layers": (1, 1, 1, 1),
            "vision_width": RESNET_WIDTH,
            "vision_patch_size": None,
        },
        "vit": {
            "image_resolution": side,
            "vision_layers": VIT_BLOCKS,
            "vision_width": VIT_WIDTH,
            "vision_patch_size": STRIDE,
        },
    }
    model = clip.model.CLIP(
        embed_dim=EMBED_DIM,
        **towers[tower],
        context_length=77,
        vocab_size=len(token_ids),
        transformer_width=TEXT_WIDTH,
        transformer_heads=TEXT_WIDTH // HEAD,
        transformer_layers=TEXT_LAYERS,
    )
    model.token_embedding = KnownTokens(token_ids, TEXT_WIDTH)
    nn.init.normal_(model.token_embedding.weight, std=0.02)  # as CLIP does
    if tower == "resnet":
        set_output_stride(model.visual, STRIDE)
        model.visual.to(memory_format=torch.channels_last)
    return model


def build_optimizer(model: nn.Module, lr: float, recipe: Recipe) -> torch.optim.AdamW:
    """AdamW; the recipe says what decays."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    decays = recipe.weight_decay, recipe.weight_decay if recipe.of_vectors else 0.0
    groups = [
        {"params": group, "weight_decay": decay}
        for group, decay in zip((matrices, vectors), decays, strict=True)
    ]
    return torch.optim.AdamW(groups, lr, recipe.betas, fused=True)


def resume(
    file: Path, settings: dict[str, Any], model: nn.Module, optimizer: torch.optim.AdamW
) -> tuple[int, list[Any], float, dict[str, Any] | None]:
    """Load the state of an interrupted training: its step, losses, seconds and `init_record`.

    The last is kept, as the file may be another one by now. Without a state (0, [], 0, None).
    Raises InputError where the state belongs to other settings.
    """
    if not file.exists():
        return 0, [], 0.0, None
    state = read_tensors(file, "the state of an interrupted training")
    if other := [k for k, v in settings.items() if state["settings"].get(k) != v]:
        named = ", ".join(f"--{k} was {state['settings'].get(k)}" for k in other)
        raise InputError(f"{file} belongs to other settings: {named}; use these, or delete it")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["losses"], state["seconds"], state.get("init")


def load_init(file: str, model: nn.Module) -> None:
    """Fill `model` from `file`. Raises InputError."""
    content = read_tensors(file, "--init, weights of a miniature CLIP")
    try:
        content.pop("output_stride", None)
        model.load_state_dict(content)  # copies into float32 parameters
    except (RuntimeError, AttributeError, TypeError) as error:
        raise InputError(f"--init {file}: not the weights of this miniature: {error}") from None


def init_record(file: str) -> dict[str, Any]:
    """The file's sha256, and its log if there is one."""
    log = Path(file).with_suffix(".json")
    return {"sha256": sha256(Path(file)), "log": read_json(log) if log.exists() else None}


def encode_image(visual: nn.Module, image: Tensor, keep: float = 1.0, late: bool = False) -> Tensor:
    """`visual(image)`, as OpenAI's image towers compute it: (B, 3, S, S) -> (B, D).

    Of a ViT alone, keep: the share of the patches, drawn for each image. late: the class token sees
    patches in the last block only; patches see it in each.
    """
    if is_resnet(visual):
        return visual(image)
    patches = visual.conv1(image).flatten(2).transpose(1, 2)
    position = visual.positional_embedding.to(patches.dtype)
    patches = patches + position[1:]
    if keep < 1:
        count = max(1, round(keep * patches.shape[1]))
        shown = torch.rand(patches.shape[:2], device=patches.device).argsort(1)[:, :count, None]
        patches = patches.gather(1, shown.expand(-1, -1, patches.shape[2]))
    class_token = (visual.class_embedding.to(patches.dtype) + position[0]).expand(len(image), 1, -1)
    tokens = visual.ln_pre(torch.cat([class_token, patches], dim=1)).transpose(0, 1)
    blind = torch.zeros(len(tokens), len(tokens), device=tokens.device)
    blind[0, 1:] = -torch.inf
    *early, last = visual.transformer.resblocks
    for block in early:
        block.attn_mask = blind if late else None
        tokens = block(tokens)
        block.attn_mask = None
    return visual.ln_post(last(tokens)[0]) @ visual.proj


def encode_text(model: nn.Module, tokens: Tensor) -> Tensor:
    """Text features (B, D) of tokens (B, L); a repeated caption is encoded once."""
    different, places = tokens.unique(dim=0, return_inverse=True)
    return model.encode_text(different)[places]


def contrastive_loss(images: Tensor, texts: Tensor, logit_scale: Tensor) -> Tensor:
    """CLIP's symmetric loss (Radford et al. 2021): features (B, D) of pairs -> scalar."""
    images, texts = F.normalize(images, dim=1), F.normalize(texts, dim=1)
    logits = logit_scale.exp().clamp(max=100) * images @ texts.T
    pairs = torch.arange(len(images), device=images.device)
    return (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2


def learning_rate(step: int, steps: int, peak: float, warmup: int) -> float:
    """The learning rate of a step: a linear rise over at most `warmup` steps, half a cosine."""
    warmup = max(1, min(warmup, steps // 10))
    return peak * min(1, (step + 1) / warmup) * (0.5 + 0.5 * math.cos(math.pi * step / steps))


def save(out: Path, model: nn.Module) -> None:
    """Write the weights in fp16; of a ResNet its output stride too, which no shape shows."""
    weights = {
        key: value.detach().cpu().half() if value.is_floating_point() else value.cpu()
        for key, value in model.state_dict().items()
    }
    if is_resnet(model.visual):
        weights["output_stride"] = torch.tensor(output_stride(model.visual))
    write_tensors(out, weights)


if __name__ == "__main__":
    run_script(main)
