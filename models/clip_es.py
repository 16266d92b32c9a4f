"""CLIP-ES: softmax Grad-CAM of CLIP's last block, spread along CLIP's own attention.

Lin et al., CVPR 2023; formulas after linyq2117/CLIP-ES @3893f817 (MIT), clip/model.py,
generate_cams_voc12.py, eval_cam_with_crf.py. baselines/clip_es.py makes masks of it.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from datasets.labels import IGNORE_INDEX
from datasets.transforms import normalize
from models.attentions import join_heads, query_key_value
from models.clip_features import MaskCLIPOptions, feed_forward, grid_stride, layer_norm
from models.dense_crf import CLIP_ES, mean_field, permutohedral, probability_unary, resized_kernels
from models.inference import resize

BLOCKS = 8  # the last ones, whose attentions are averaged
ROUNDS = 3  # of the division by column sums and row sums
BOX_THRESHOLD = 0.4  # on COCO 0.7
CONFIDENCE = 0.95  # less after the CRF: 255
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


def confident_labels(scores: Tensor, image: Tensor, exact: bool = True) -> Tensor:
    """Rows of the highest marginal of the CRF, 255 where it is below CONFIDENCE: (H,W) long.

    scores (K,H,W) need not sum to 1. image: (3,h,w) in levels of 0 to 255. exact: on a grid of
    CRF_PIXELS; else by pydensecrf2, at the size of the scores.
    """
    size = scores.shape[-2:]
    if not exact:
        pixels = resize(image[None].float(), size)[0]
        highest, rows = permutohedral(probability_unary(scores), pixels, CLIP_ES).max(0)
        return rows.masked_fill(highest < CONFIDENCE, IGNORE_INDEX)
    scale = min(1.0, (CRF_PIXELS / (size[0] * size[1])) ** 0.5)
    grid = tuple(max(1, int(side * scale)) for side in size)
    small = F.interpolate(image[None].float(), grid, mode="area")[0]
    unary = probability_unary(resize(scores[None], grid)[0])
    marginals = mean_field(unary, small, resized_kernels(CLIP_ES, scale))
    highest, rows = resize(marginals[None], size)[0].max(0)
    return rows.masked_fill(highest < CONFIDENCE, IGNORE_INDEX)


def spread_maps(
    visual: nn.Module, image: Tensor, text: Tensor, rivals: Tensor, scale: float, whole: bool
) -> Tensor:
    """Maps (K,gh,gw) of an image uint8 (3,H,W) on the grid of patches, after `spread`.

    text (K,E): rows of the classes of the image; rivals (J,E); whole: of `box_mask`.
    """
    pixels = clip_input(image, grid_stride(visual))
    grid = tuple(side // grid_stride(visual) for side in pixels.shape[-2:])
    tokens, attention = encode(visual, pixels)
    found = class_maps(visual, tokens, torch.cat([text, rivals]), len(text), scale)
    boxes = [box_mask(cam.unflatten(0, grid), whole=whole) for cam in found]
    refined = spread(transition(attention[1:, 1:]), found, torch.stack(boxes).flatten(1))
    return stretch(refined).unflatten(1, grid)
