"""Dense features of CLIP's image tower, with another attention in its last block.

CLIP itself is unchanged: the forward pass is written out with the parameters of OpenAI's modules,
so that the last attention can be replaced and the official variations can be switched on. By
default it is MaskCLIP's value path; for the others see models/attentions.py.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import calibrated
from models.attentions import join_heads, last_attention, query_key_value
from models.clip_miniature import output_stride
from models.kernels.cpu_speed import attention, linear
from utils.safe.errors import InputError
from utils.teacher_settings import check_teacher

KEY, VALUE = 1, 2  # parts of a block's projection


@dataclass(frozen=True)
class MaskCLIPOptions:
    """Options; the defaults run CLIP as OpenAI does, comments name the other (official) choice."""

    activation: str = "quickgelu"  # "gelu" (erf)
    layer_norm_eps: float = 1e-5  # 1e-6
    residual: bool = True  # keep the last block's skip connection around the attention
    mlp: bool = True  # keep the last block's MLP
    padding: str = "crop"  # "stretch": the scores of the padded image, squeezed onto the mask
    position_embedding: str = "grid"  # "count", "offset": see `position_embedding`
    key_smoothing: float = 0.0  # threshold, 0 = off
    key_smoothing_norm: str = "channels"  # "tokens"
    prompt_denoising: float = 0.0  # threshold, 0 = off
    label_filter: str = "mask"  # "multiply": scores times labels, so 0 beats a negative score
    # The paper's teacher uses none of these.
    attention: str = "value"  # of the last block: "qk", "qq", "kk", "qq+kk", "calibrated"
    gaussian_std: float = 0.0  # of the neighbourhood bias, in patches; 0 = off
    middle_blocks: tuple[int, ...] = ()  # 0-based; their attention is mixed in
    middle_weight: float = 0.0
    calibrated_blocks: tuple[int, ...] = ()  # low, middle, first and last of the sum
    calibrated_beta: float = 0.4
    pamr_steps: int = 0
    pamr_dilations: tuple[int, ...] = (8, 16)
    short_side: int | None = None  # pixels: the image is resized first
    window: tuple[int, int] | None = None  # pixels of the resized image
    stride: tuple[int, int] | None = None  # None: the window's size


def dense_features(
    visual: nn.Module, image: Tensor, options: MaskCLIPOptions
) -> tuple[Tensor, Tensor | None]:
    """Features in the space of the text embeddings, not normalised: (B, 3, H, W) -> (B, D, gh, gw).

    Also returns the last attention's keys (B, gh*gw, C) if key smoothing is on. `visual` is the
    image tower of OpenAI's CLIP, of the ViT or the ResNet family; `image` is normalised.
    """
    keys = None
    if is_resnet(visual):
        pool = visual.attnpool
        features = resnet_features(visual, image, options).permute(0, 2, 3, 1)
        if options.key_smoothing > 0:
            keys = pool.k_proj(features).flatten(1, 2)
        return pool.c_proj(pool.v_proj(features)).permute(0, 3, 1, 2), keys
    grid = token_grid(visual, image)
    last = visual.transformer.resblocks[-1]
    if options.attention == "calibrated":
        tokens, mixed = calibrated_tokens(visual, image, options)
    else:
        tokens, middle = last_and_middle_tokens(visual, image, options)
        if options.attention == "value":
            mixed = value_path(last, tokens[:, 1:], options)  # nothing after this mixes tokens
        else:
            mixed = last_block(last, tokens, grid, options, middle)
    if options.key_smoothing > 0:
        keys = project(last, tokens[:, 1:], KEY, options)
    return text_space(visual, mixed, options).transpose(1, 2).unflatten(2, grid), keys


def check_options(visual: nn.Module, options: MaskCLIPOptions) -> None:
    """Raise InputError where options exclude each other, or this image tower can't have them."""
    check_teacher(options, "MaskCLIPOptions", "teacher")
    if is_resnet(visual):
        if options.attention != "value":
            raise InputError(
                f"teacher: attention {options.attention} needs a ViT, and this CLIP is a ResNet: "
                "its image tower has no blocks of attention. Use attention: value or a ViT, "
                "e.g. clip_model: ViT-B/16"
            )
        return
    before = len(visual.transformer.resblocks) - 1  # blocks before the last
    if wrong := [index for index in options.middle_blocks if not 0 <= index < before]:
        raise InputError(
            f"teacher: middle_blocks has {wrong}: this CLIP has {before} blocks before its last, "
            f"0 to {before - 1}"
        )
    if options.attention == "calibrated":
        calibrated.check_blocks(options.calibrated_blocks, before)


def grid_stride(visual: nn.Module) -> int:
    """Pixels per grid cell along each axis."""
    return output_stride(visual) if is_resnet(visual) else visual.conv1.stride[0]


def is_resnet(visual: nn.Module) -> bool:
    """True for OpenAI's ModifiedResNet, False for its VisionTransformer."""
    return hasattr(visual, "attnpool")


def round_to_bf16(visual: nn.Module) -> None:
    """Round matrices to bfloat16 in place; autocast would do it again at every use."""
    for module in visual.modules():
        if isinstance(module, nn.Conv2d | nn.Linear | nn.MultiheadAttention):
            for parameter in module.parameters(recurse=False):
                parameter.data = parameter.data.bfloat16()
    if not is_resnet(visual):
        visual.proj.data = visual.proj.data.bfloat16()


def pad_to_multiple(image: Tensor, stride: int) -> Tensor:
    """Zeros (the mean colour) below and to the right, up to whole grid cells."""
    height, width = image.shape[-2:]
    return F.pad(image, (0, -width % stride, 0, -height % stride))


# ---- ViT family ----


def token_grid(visual: nn.Module, image: Tensor) -> tuple[int, int]:
    """Rows and columns of patches that cover the image."""
    return tuple(-(-side // grid_stride(visual)) for side in image.shape[-2:])


def block_inputs(visual: nn.Module, image: Tensor, options: MaskCLIPOptions) -> Iterator[Tensor]:
    """The tokens that enter each block in turn, class token first: (B, 1 + gh*gw, C).

    The input of block i + 1 is the output of block i.
    """
    patches = visual.conv1(pad_to_multiple(image, grid_stride(visual)))
    grid = tuple(patches.shape[-2:])
    patches = patches.flatten(2).transpose(1, 2)
    class_token = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    tokens = torch.cat([class_token, patches], dim=1) + position_embedding(visual, grid, options)
    tokens = layer_norm(visual.ln_pre, tokens, options)
    yield tokens
    for block in list(visual.transformer.resblocks)[:-1]:
        tokens = transformer_block(block, tokens, options)
        yield tokens


def last_and_middle_tokens(
    visual: nn.Module, image: Tensor, options: MaskCLIPOptions
) -> tuple[Tensor, list[tuple[nn.Module, Tensor]]]:
    """The tokens that enter the last block; the middle blocks, each with the tokens that enter."""
    blocks, middle = visual.transformer.resblocks, []
    for index, tokens in enumerate(block_inputs(visual, image, options)):
        if index in options.middle_blocks:
            middle.append((blocks[index], tokens))
    return tokens, middle


def calibrated_tokens(
    visual: nn.Module, image: Tensor, options: MaskCLIPOptions
) -> tuple[Tensor, Tensor]:
    """The tokens that enter the last block (B, 1 + N, C); what SC-CLIP makes of them (B, N, C)."""
    low_at, middle_at, first, final = options.calibrated_blocks or calibrated.BLOCKS
    total = 0
    for entered, tokens in enumerate(block_inputs(visual, image, options)):
        index = entered - 1  # of the block whose output these are
        if index == low_at:
            low = tokens
        if index == middle_at:
            middle = tokens
        if first <= index <= final:
            total = total + tokens
    mixed = calibrated.calibrated_block(
        visual.transformer.resblocks[-1],
        tokens,
        low,
        middle,
        total,
        token_grid(visual, image),
        options.calibrated_beta,
        options.layer_norm_eps,
    )
    return tokens, mixed


def position_embedding(
    visual: nn.Module, grid: tuple[int, int], options: MaskCLIPOptions
) -> Tensor:
    """CLIP's position embedding, resized (bicubic) to the token grid: (1 + gh*gw, C).

    "count" (official code): not resized for any grid with as many tokens as CLIP's square.
    "offset" (official code of NACLIP, SC-CLIP and others): as "count", but other grids are resized
    by the factors (gh + 0.1) / side and (gw + 0.1) / side, which shifts the sampled positions.
    """
    stored = visual.positional_embedding
    side = round((len(stored) - 1) ** 0.5)
    as_stored = grid[0] * grid[1] == side * side
    if as_stored and (options.position_embedding != "grid" or grid == (side, side)):
        return stored
    square = stored[1:].float().T.unflatten(1, (side, side))[None]
    by = {"size": grid}
    if options.position_embedding == "offset":
        by = {"scale_factor": tuple((cells + 0.1) / side for cells in grid)}
    resized = F.interpolate(square, **by, mode="bicubic", align_corners=False)[0]
    return torch.cat([stored[:1], resized.flatten(1).T.to(stored.dtype)])


def transformer_block(block: nn.Module, tokens: Tensor, options: MaskCLIPOptions) -> Tensor:
    """An ordinary block of CLIP's transformer: (B, L, C) -> (B, L, C)."""
    query, key, value = query_key_value(block, tokens, options.layer_norm_eps)
    tokens = tokens + join_heads(block, attention(query, key, value))
    return tokens + feed_forward(block, tokens, options)


def value_path(block: nn.Module, tokens: Tensor, options: MaskCLIPOptions) -> Tensor:
    """The block with every token attending to itself alone: (B, L, C) -> (B, L, C).

    # paper (MaskCLIP): value projection and last linear layer / official code: the block's skip
    # connection and MLP too / here: both are switches, on by default.
    """
    return finish_block(block, project(block, tokens, VALUE, options), tokens, options)


def last_block(
    block: nn.Module,
    tokens: Tensor,
    grid: tuple[int, int],
    options: MaskCLIPOptions,
    middle: list[tuple[nn.Module, Tensor]],
) -> Tensor:
    """The block with another attention, without the class token: (B, 1 + N, C) -> (B, N, C).

    The class token is a query, a key and a value. middle: as `last_attention` takes it.
    """
    mixed = last_attention(
        block,
        tokens,
        grid,
        options.attention,
        options.layer_norm_eps,
        options.gaussian_std,
        middle,
        options.middle_weight,
    )
    return finish_block(block, mixed[:, 1:], tokens[:, 1:], options)


def finish_block(
    block: nn.Module, mixed: Tensor, tokens: Tensor, options: MaskCLIPOptions
) -> Tensor:
    """What follows the attention: skip connection and MLP, where on. All (B, L, C)."""
    if options.residual:
        mixed = mixed + tokens
    if options.mlp:
        mixed = mixed + feed_forward(block, mixed, options)
    return mixed


def text_space(visual: nn.Module, tokens: Tensor, options: MaskCLIPOptions) -> Tensor:
    """The last norm and the projection onto the text embeddings: (B, L, C) -> (B, L, D)."""
    return layer_norm(visual.ln_post, tokens, options) @ visual.proj


def project(block: nn.Module, tokens: Tensor, part: int, options: MaskCLIPOptions) -> Tensor:
    """KEY or VALUE (`part`) after the output projection: (B, L, C) -> (B, L, C)."""
    weight = block.attn.in_proj_weight.chunk(3)[part]
    bias = block.attn.in_proj_bias.chunk(3)[part]
    values = linear(layer_norm(block.ln_1, tokens, options), weight, bias)
    return apply_linear(block.attn.out_proj, values)


def feed_forward(block: nn.Module, tokens: Tensor, options: MaskCLIPOptions) -> Tensor:
    """The block's MLP on normalised tokens, without the skip connection."""
    hidden = apply_linear(block.mlp.c_fc, layer_norm(block.ln_2, tokens, options))
    if options.activation == "gelu":
        hidden = F.gelu(hidden)
    else:
        hidden = hidden * torch.sigmoid(1.702 * hidden)
    return apply_linear(block.mlp.c_proj, hidden)


def apply_linear(layer: nn.Linear, tokens: Tensor) -> Tensor:
    """`layer(tokens)`, computed by `linear`."""
    return linear(tokens, layer.weight, layer.bias)


def layer_norm(norm: nn.LayerNorm, tokens: Tensor, options: MaskCLIPOptions) -> Tensor:
    """`norm` with the eps of the options."""
    return F.layer_norm(
        tokens, norm.normalized_shape, norm.weight, norm.bias, options.layer_norm_eps
    )


# ---- ResNet family ----


def resnet_features(visual: nn.Module, image: Tensor, options: MaskCLIPOptions) -> Tensor:
    """The map that enters the attention pool: (B, 3, H, W) -> (B, C, gh, gw).

    Official code: rows and columns beyond the last whole cell are cut off, and the mask is
    stretched over them. Here ("crop"): the image is padded to whole cells first.
    """
    if options.padding == "crop":
        image = pad_to_multiple(image, grid_stride(visual))
    stem = ((visual.conv1, visual.bn1), (visual.conv2, visual.bn2), (visual.conv3, visual.bn3))
    for convolution, norm in stem:
        image = F.relu(norm(convolution(image)))
    features = visual.avgpool(image)
    for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
        features = stage(features)
    return features
