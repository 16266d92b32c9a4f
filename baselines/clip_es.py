"""CLIP-ES: softmax Grad-CAM of CLIP's last block, spread along CLIP's own attention. Training-free.

Lin, Chen, Wang, Chen, Wu, Zhang, Huang and Liu, "CLIP is Also an Efficient Segmenter", CVPR 2023;
formulas after linyq2117/CLIP-ES @3893f817 (MIT).

Reads images and image-level labels; writes OUT/<image id>.png with meta.json, for `eval.py --masks`
and a second stage:

    python -m baselines.clip_es --config C --run-dir runs/clip_es --out masks --score

Run the same command again to resume, on any number of processes. Nothing is trained, and nothing is
written to --run-dir, which all methods have. --without crf: the highest map is the label. --score:
OUT/score.json. --save-cams: OUT/cams/<image id>.npz. Needs a CLIP with a ViT as image tower.

Memory at 512x1024 (patches of 16: n = 2048): 17 MB a matrix of n x n, two or three at once; the
dense CRF 268 MB at any size. At 1024x2048 (n = 8192): 268 MB a matrix.

Deviations:
- no background class (driving scenes): rivals in the softmax are the words of the list that name no
  class of the data set; the label is the highest map of the image's classes. A class whose map is
  zero is left out; where all are zero, the mask is 255. With one class and no rival, the gradient
  is that of the logit: the probability is 1 and has none.
- data with a class "background": its row is 1 minus the highest map, without their exponents, of
  which theirs is the better one on ground truth.
- the dense CRF is an exact mean field on a grid of at most 8192 pixels (512x1024 at 1/8), resized
  before the 95 % rule. It sees the image as it is; theirs wraps it modulo 256, dark pixels bright.
- position embeddings are not rounded to float16 (`positions`: released=True).
- class names are the prompts of the class file, without their names for VOC.
- the box of a component ends before the last row and column (--arithmetic authors, the default), as
  released: the bottom row of patches is never a source. correct: it covers them.
- a miniature CLIP reads the templates of the config, and has those rivals whose words it knows.
- M (M (B cam)) in place of (M M) (B cam), and attentions in blocks of rows: the same numbers.
"""

import utils.threads  # noqa: F401  # isort: skip
import argparse
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from baselines.common import CamMasks, load_split
from datasets.doctor.label_check import check_trainable
from datasets.ids import require
from datasets.labels import IGNORE_INDEX, ClassTable, has_background, load_classes, multi_hot
from datasets.mask_folder import check_no_inputs
from datasets.transforms import normalize
from models.attentions import join_heads, query_key_value
from models.clip_features import MaskCLIPOptions, feed_forward, grid_stride, is_resnet, layer_norm
from models.clip_loading import clip_sha256, load_clip
from models.clip_miniature import KnownTokens, can_read
from models.dense_crf import CLIP_ES, mean_field, probability_unary, resized_kernels
from models.inference import resize
from models.text import load_templates, text_embeddings
from utils.cli import add_trust, parser, path
from utils.config import load_config
from utils.distributed import cleanup, first_on_each_machine, setup
from utils.safe.errors import InputError, run_script
from utils.safe.files import check_folder

# From linyq2117/CLIP-ES, clip_text.py, generate_cams_voc12.py, eval_cam_with_crf.py.
TEMPLATE = "a clean origami {}."
BACKGROUND = (
    *("ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river"),
    *("sea", "railway", "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean"),
    *("road", "rock", "street", "valley", "bridge", "sign"),
)
BLOCKS = 8  # the last ones, whose attentions are averaged
ROUNDS = 3  # of the division by column sums and row sums
BOX_THRESHOLD = 0.4  # on COCO 0.7
CONFIDENCE = 0.95  # less after the CRF: 255
# Ours: classes that a word of BACKGROUND means, contains or is part of, beside its own name.
_SURFACES = ("road", "sidewalk", "street", "terrain", "grass")
MEANS = {"ground": _SURFACES, "land": _SURFACES, "road": ("street",), "street": ("road",)}
MEANS |= {"grass": ("terrain",), "tree": ("vegetation",), "house": ("building",)}
MEANS |= {"cloud": ("sky",), "sign": ("traffic sign", "signsymbol", "billboard")}
CRF_PIXELS = 8192  # of the grid of the CRF
ROWS = 256  # of an attention matrix, made at once
OPTIONS = MaskCLIPOptions()  # OpenAI's CLIP
EPS = OPTIONS.layer_norm_eps


def clip_input(image: Tensor, patch: int) -> Tensor:
    """uint8 (3,H,W) -> normalised (1,3,h,w): bicubic (PIL), each side rounded up to whole patches.

    So the proportions change by up to one patch.
    """
    height, width = (-(-side // patch) * patch for side in image.shape[-2:])
    pixels = Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
    resized = torch.from_numpy(np.array(pixels.resize((width, height), Image.Resampling.BICUBIC)))
    return normalize(resized.permute(2, 0, 1)[None].to(image.device), "clip")


def positions(visual: nn.Module, grid: tuple[int, int], released: bool = False) -> Tensor:
    """CLIP's position embedding, resized (bilinear) to the grid: (1 + gh*gw, D).

    released: rounded to float16, as there even in a float32 network.
    """
    stored = visual.positional_embedding
    side = math.isqrt(len(stored) - 1)
    square = stored[1:].T.unflatten(1, (side, side))[None]
    resized = torch.cat([stored[:1], resize(square, grid)[0].flatten(1).T])
    return resized.half().to(stored.dtype) if released else resized


def attend(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """softmax(q k^T / sqrt(d)) v of (1,heads,L,d), and the softmax averaged over heads (L,L)."""
    mixed, mean = [], []
    for rows in (query * query.shape[-1] ** -0.5).split(ROWS, dim=2):
        weights = (rows @ key.transpose(2, 3)).softmax(-1)
        mixed.append(weights @ value)
        mean.append(weights.mean((0, 1)))
    return torch.cat(mixed, dim=2), torch.cat(mean)


@torch.no_grad()
def encode(visual: nn.Module, image: Tensor, released: bool = False) -> tuple[Tensor, Tensor]:
    """Tokens that enter the last block (1,1+n,D); mean attention of the last BLOCKS (1+n,1+n).

    image: normalised (1,3,h,w), whole patches. The last block is one of them.
    """
    patches = visual.conv1(image)
    flat = patches.flatten(2).transpose(1, 2)
    tokens = torch.cat([visual.class_embedding.expand(1, 1, -1), flat], dim=1)
    tokens = tokens + positions(visual, tuple(patches.shape[-2:]), released)
    tokens = layer_norm(visual.ln_pre, tokens, OPTIONS)
    blocks, total = list(visual.transformer.resblocks), 0
    used = min(BLOCKS, len(blocks))
    for index, block in enumerate(blocks):
        mixed, mean = attend(*query_key_value(block, tokens, EPS))
        if index >= len(blocks) - used:
            total = mean.div_(used) + total
        if index < len(blocks) - 1:
            tokens = tokens + join_heads(block, mixed)
            tokens = tokens + feed_forward(block, tokens, OPTIONS)
    return tokens, total


def class_logits(
    visual: nn.Module, tokens: Tensor, normed: Tensor, text: Tensor, scale: float
) -> Tensor:
    """exp(logit_scale) T v (R): v is the mean of the patch tokens after the last block.

    tokens (1,1+n,D) enter it, normed = ln_1(tokens) gets the gradient; the skip connection is no
    part of it. text: rows T (R,E).
    """
    block = visual.transformer.resblocks[-1]
    mixer = block.attn
    projected = F.linear(normed, mixer.in_proj_weight, mixer.in_proj_bias)
    query, key, value = projected.unflatten(2, (3, mixer.num_heads, -1)).permute(2, 0, 3, 1, 4)
    tokens = tokens + join_heads(block, F.scaled_dot_product_attention(query, key, value))
    tokens = tokens + feed_forward(block, tokens, OPTIONS)
    mean = layer_norm(visual.ln_post, tokens, OPTIONS)[:, 1:].mean(1) @ visual.proj
    return scale * F.normalize(text, dim=1) @ F.normalize(mean, dim=1)[0]


def class_gradient(score: Tensor, normed: Tensor) -> Tensor:
    """d score / d normed at the patches: (n,D)."""
    return torch.autograd.grad(score, normed, retain_graph=True)[0][0, 1:]


def grad_cam(gradient: Tensor, normed: Tensor) -> Tensor:
    """relu(sum over channels of w_c a_c) (n), w_c the mean gradient; both (n,D)."""
    return (normed @ gradient.mean(0)).relu()


def stretch(maps: Tensor) -> Tensor:
    """N(m) = (m - min) / (1e-7 + max(m - min)) of each map (K,...)."""
    shape = (-1, *[1] * (maps.ndim - 1))
    maps = maps - maps.flatten(1).amin(1).view(shape)
    return maps / (1e-7 + maps.flatten(1).amax(1).view(shape))


def class_maps(visual: nn.Module, tokens: Tensor, text: Tensor, count: int, scale: float) -> Tensor:
    """Grad-CAMs (count,n) of the first `count` rows of text (R,E), from their probabilities."""
    block = visual.transformer.resblocks[-1]
    with torch.enable_grad():
        normed = layer_norm(block.ln_1, tokens, OPTIONS).detach().requires_grad_()
        logits = class_logits(visual, tokens, normed, text, scale)
        scores = logits if len(text) == 1 else logits.softmax(0)
        gradients = [class_gradient(scores[k], normed) for k in range(count)]
    maps = torch.stack([grad_cam(gradient, normed.detach()[0, 1:]) for gradient in gradients])
    return stretch(stretch(maps).relu())


def transition(attention: Tensor) -> Tensor:
    """M (n,n) of the mean attention without the class token: ROUNDS of column and row sums, made
    symmetric."""
    matrix = attention.clone()
    for _ in range(ROUNDS):
        matrix /= matrix.sum(0, keepdim=True)
        matrix /= matrix.sum(1, keepdim=True)
    return matrix.add_(matrix.T.clone()).mul_(0.5)


def box_mask(cam: Tensor, threshold: float = BOX_THRESHOLD, whole: bool = False) -> Tensor:
    """B (h,w) bool: the bounding boxes of the components (8 neighbours) of a map (h,w).

    A component's cells have floor(255 m) above int(threshold * its maximum). Boxes end before the
    last row and column, as released; `whole`: they do not.
    """
    levels = (255 * cam).floor()
    on = levels > int(threshold * int(levels.max()))
    number = torch.arange(1, cam.numel() + 1, device=cam.device).view(cam.shape).double() * on
    while True:  # the highest number of a component reaches all of its cells
        spread = F.max_pool2d(number[None], 3, 1, 1)[0] * on
        if torch.equal(spread, number):
            break
        number = spread
    mask = torch.zeros_like(on)
    last = [side if whole else side - 1 for side in cam.shape]
    for component in number[on].unique():
        cells = (number == component).nonzero()
        (top, left), (bottom, right) = cells.amin(0).tolist(), (cells.amax(0) + 1).tolist()
        mask[top : min(bottom, last[0]), left : min(right, last[1])] = True
    return mask


def spread(matrix: Tensor, cams: Tensor, masks: Tensor) -> Tensor:
    """r_k = M M (B_k cam_k): (n,n), (K,n), (K,n) -> (K,n). Masks are on the sources alone."""
    return (matrix @ (matrix @ (cams * masks).T)).T


def with_background(maps: Tensor, exponent: int = 1) -> Tensor:
    """[(1 - max_k c_k)^exponent ; c_k]: (K,H,W) -> (1+K,H,W)."""
    return torch.cat([(1 - maps.amax(0, keepdim=True)) ** exponent, maps])


def confident_labels(scores: Tensor, image: Tensor) -> Tensor:
    """Rows of the highest marginal of the CRF, 255 where it is below CONFIDENCE: (H,W) long.

    scores (K,H,W) need not sum to 1. image: (3,h,w) in levels of 0 to 255.
    """
    size = scores.shape[-2:]
    scale = min(1.0, (CRF_PIXELS / (size[0] * size[1])) ** 0.5)
    grid = tuple(max(1, int(side * scale)) for side in size)
    small = F.interpolate(image[None].float(), grid, mode="area")[0]
    unary = probability_unary(resize(scores[None], grid)[0])
    marginals = mean_field(unary, small, resized_kernels(CLIP_ES, scale))
    highest, rows = resize(marginals[None], size)[0].max(0)
    return rows.masked_fill(highest < CONFIDENCE, IGNORE_INDEX)


def rivals(classes: ClassTable) -> tuple[str, ...]:
    """The words of BACKGROUND that mean no class of the data set."""
    names = {*classes.names, *(prompt for prompts in classes.prompts for prompt in prompts)}
    return tuple(word for word in BACKGROUND if names.isdisjoint((word, *MEANS.get(word, ()))))


class Masks(CamMasks):
    """Masks of the maps of CLIP-ES."""

    def __init__(
        self,
        clip_model: nn.Module,
        text: Tensor,
        more: Tensor,
        whole: bool,
        crf: bool,
        *of_masks: Any,
    ) -> None:
        """text: rows of the classes with a map (C,E); more: of the rivals; whole: of `box_mask`."""
        super().__init__(None, *of_masks)
        self.visual, self.scale = clip_model.visual, clip_model.logit_scale.exp().item()
        self.text, self.more, self.whole, self.crf = text, more, whole, crf

    def maps(self, sample: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Maps (C,H,W) at the image's own size; classes (C) with a map that is not zero."""
        labels = self.split.labels[sample["name"]]
        present = multi_hot(labels, len(self.classes))[self.first :].to(self.text.device)
        cams = present.new_zeros(len(present), *sample["size"])
        ids = present.nonzero().flatten()
        if len(ids):
            image = clip_input(sample["image"].to(self.text.device), grid_stride(self.visual))
            grid = tuple(side // grid_stride(self.visual) for side in image.shape[-2:])
            tokens, attention = encode(self.visual, image)
            rows = torch.cat([self.text[ids], self.more])
            found = class_maps(self.visual, tokens, rows, len(ids), self.scale)
            boxes = [box_mask(cam.unflatten(0, grid), whole=self.whole) for cam in found]
            refined = spread(transition(attention[1:, 1:]), found, torch.stack(boxes).flatten(1))
            refined = stretch(refined).unflatten(1, grid)
            cams[ids] = resize(refined[None], sample["size"])[0]
            present = present * (cams.amax((1, 2)) > 0)
        return cams, present

    def labels(self, sample: dict[str, Any], cams: Tensor, present: Tensor) -> Tensor:
        """Label map uint8 (H,W)."""
        if not self.crf or not present.any():
            return super().labels(sample, cams, present)
        ids = present.nonzero().flatten() + self.first
        scores = cams[ids - self.first]
        if self.first:
            ids, scores = torch.cat([ids.new_zeros(1), ids]), with_background(scores)
        rows = confident_labels(scores, sample["image"].to(cams.device))
        ids = torch.cat([ids, ids.new_full((IGNORE_INDEX + 1 - len(ids),), IGNORE_INDEX)])
        return ids[rows].byte()

    def curve(self) -> list[dict[str, float | None]]:
        """Scores at thresholds, of which the CRF has none: its background is a row."""
        return [] if self.crf else super().curve()


def main(argv: list[str]) -> None:
    # --- arguments, configuration, ranks
    arguments = parse_arguments(argv)
    config = load_config(arguments.config, arguments.overrides)
    out, ranks = Path(arguments.out), setup(arguments.device)

    # --- data
    classes = load_classes(config.class_file)
    check_trainable(classes)
    split = load_split(config, arguments.split or config.train_split, classes)
    truths = split.data.ground_truth(split.name)
    check_no_inputs(out, split.images, [*split.images.values(), *truths.values()])
    check_folder(out, "--out")
    if arguments.score:
        require(split.images, truths, "ground truth", "leave out --score")

    # --- CLIP and its texts
    load = partial(load_clip, config.clip_model, arguments.trust_torchscript)
    clip_model = first_on_each_machine(load).to(ranks.device)
    if is_resnet(clip_model.visual):
        raise InputError(
            f"clip_model: {config.clip_model} is a ResNet; CLIP-ES needs the attention of a ViT: "
            "set clip_model=ViT-B/16, or the file of another ViT"
        )
    is_miniature = isinstance(clip_model.token_embedding, KnownTokens)
    templates = load_templates(config.prompt_templates) if is_miniature else (TEMPLATE,)
    words = [word for word in rivals(classes) if can_read(clip_model, word)]
    prompts = classes.prompts[int(has_background(classes)) :]
    rows = text_embeddings(clip_model, (*prompts, *((word,) for word in words)), templates)
    text, more = rows.split([len(prompts), len(words)])

    # --- masks
    whole, crf = arguments.arithmetic == "correct", "crf" not in arguments.without
    # With exponent 1 the background wins where the highest map is below a half.
    masks = Masks(clip_model, text, more, whole, crf, split, classes, 0.5, config, ranks)
    made_from = {"method": "clip_es", "arithmetic": arguments.arithmetic, "crf": crf}
    made_from |= {"clip_sha256": clip_sha256(config.clip_model), "prompts": prompts}
    made_from |= {"templates": templates, "rivals": words}
    masks.write(out, made_from, arguments.overwrite, arguments.save_cams)
    if arguments.score:
        masks.score(out)
    cleanup()


def parse_arguments(argv: list[str]) -> argparse.Namespace:
    result = parser(__doc__)
    add = result.add_argument
    add("--run-dir", type=path, help="of no effect: nothing is trained")
    add("--out", type=path, required=True, help="folder of the masks")
    add("--split", help="split of the masks (default: train_split of the config)")
    add("--score", action="store_true", help="mIoU against ground truth, also to OUT/score.json")
    add("--save-cams", action="store_true", help="the maps too, to OUT/cams/<image id>.npz")
    add("--without", nargs="+", choices=("crf",), default=[], help="parts to leave out")
    add("--arithmetic", choices=("authors", "correct"), default="authors", help="of the boxes")
    add("--overwrite", action="store_true", help="make all masks again")
    add_trust(result)
    return result.parse_args(argv)


if __name__ == "__main__":
    run_script(main)
