"""Official checkpoints (mmseg names) as a DeepLabV3 of this program, without mmcv."""

from typing import Any

import torch
from torch import Tensor

from models.deeplabv3 import ASPPV2, DeepLabV3, TextClassifier
from models.resnet import DEPTHS, ResNet
from utils.checkpoint import load_weights
from utils.safe.errors import InputError

# Tensors do not show strides and dilations; they are the same in all official configs.
_ASPP_DILATIONS = (6, 12, 18, 24)
_OUTPUT_STRIDE = 8
# Tensors in the official head that the network does not use: CLIP and its projection, the step
# counter, and the learned classifier of the base class.
_UNUSED = (
    "decode_head.clip.",
    "decode_head.proj.",
    "decode_head._iter_counter",
    "decode_head.conv_seg.",
)


def is_official_checkpoint(checkpoint: dict[str, Any]) -> bool:
    """Whether the tensors have the names of the official code."""
    state = checkpoint.get("state_dict")
    return isinstance(state, dict) and any(
        str(name).startswith("decode_head.decode_module.") for name in state
    )


def import_official_checkpoint(
    checkpoint: dict[str, Any], source: str = "checkpoint"
) -> tuple[DeepLabV3, tuple[str, ...] | None]:
    """The network, and the class names stored with it (None when there are none).

    Depth, widths, stem, number of classes and text width are read from the tensor shapes. CLIP and
    the optimizer's state are left out; everything else must be present and fit.
    Raises InputError naming `source` and what does not fit.
    """
    if not is_official_checkpoint(checkpoint):
        raise InputError(
            f"{source} is not an official checkpoint: expected 'state_dict' with "
            "backbone.* and decode_head.decode_module.*, found keys "
            f"{', '.join(map(str, list(checkpoint)[:5]))}"
        )
    state = {
        _our_name(str(name)): value
        for name, value in checkpoint["state_dict"].items()
        if isinstance(value, Tensor) and not str(name).startswith(_UNUSED)
    }
    model = _network_of(state, source)
    load_weights(model, state, source)
    meta = checkpoint.get("meta")
    names = meta.get("CLASSES") if isinstance(meta, dict) else None
    return model, tuple(map(str, names)) if isinstance(names, list | tuple) and names else None


def _our_name(name: str) -> str:
    """decode_head.decode_module.aspp_modules.0.bn.weight -> aspp.convs.0.1.weight."""
    name = name.replace("decode_head.text_embeddings", "classifier.text_embeddings")
    if name.startswith("decode_head.decode_module.aspp_modules."):
        name = name.replace("decode_head.decode_module.aspp_modules.", "aspp.convs.")
        name = name.replace(".conv.", ".0.").replace(".bn.", ".1.")
    return name


def _network_of(state: dict[str, Tensor], source: str) -> DeepLabV3:
    """A network with the shapes in `state`, on "meta": nothing is allocated for a misfit."""
    blocks = tuple(
        sum(
            name.endswith(".conv1.weight")
            for name in state
            if name.startswith(f"backbone.{layer}.")
        )
        for layer in ("layer1", "layer2", "layer3", "layer4")
    )
    bottleneck = "backbone.layer1.0.conv3.weight" in state
    depths = [depth for depth, kind in DEPTHS.items() if kind == (blocks, bottleneck)]
    deep_stem = "backbone.stem.7.weight" in state
    first = state.get("backbone.stem.7.weight" if deep_stem else "backbone.bn1.weight")
    aspp = state.get("aspp.convs.0.0.weight")
    text = state.get("classifier.text_embeddings")
    wanted = ((first, 1), (aspp, 4), (text, 2))
    if not depths or any(tensor is None or tensor.ndim != ndim for tensor, ndim in wanted):
        raise InputError(
            f"{source}: expected the official ResNet (3, 4, 6, 3 blocks for depth 50), its ASPP "
            f"and decode_head.text_embeddings; found {blocks} blocks, "
            f"{'no ' if aspp is None else ''}ASPP, {'no ' if text is None else ''}text embeddings"
        )
    with torch.device("meta"):
        backbone = ResNet(
            depths[0],
            width=len(first),
            stem="v1c" if deep_stem else "conv7",
            output_stride=_OUTPUT_STRIDE,
        )
        head = ASPPV2(backbone.out_channels, len(aspp), _ASPP_DILATIONS, dropout=0.0)
    return DeepLabV3(backbone, head, TextClassifier(text))
