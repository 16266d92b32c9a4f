"""Config -> the parts of a training: network, teacher, local views, losses, optimiser.

The parts themselves take plain arguments, so that they can be used without a config.
"""

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from datasets.labels import ClassTable
from models.backbone_weights import load_backbone_weights
from models.carb import CARBCriterion, RegionRules
from models.clip_features import MaskCLIPOptions
from models.clip_loading import clip_sha256, load_clip
from models.deeplabv3 import (
    ASPPV2,
    ASPPV3,
    CONV_CLASSIFIER_CHANNELS,
    ConvClassifier,
    DeepLabV3,
    TextClassifier,
)
from models.group_norm import use_group_norm
from models.maskclip import MaskCLIP
from models.region_balance import ClassCriterion
from models.resnet import named_resnet
from models.text import build_text_embeddings, load_templates, model_name
from models.training import TrainingNetwork
from models.views import LocalViewSampler
from utils.config import Config
from utils.distributed import Ranks, first_on_each_machine
from utils.safe.errors import InputError
from utils.safe.files import sha256

_ALWAYS_RECORDED = (
    *("activation", "layer_norm_eps", "residual", "mlp", "padding", "position_embedding"),
    *("key_smoothing", "key_smoothing_norm", "prompt_denoising", "label_filter"),
)


def build_model(
    config: Config, num_classes: int, text_embeddings: Tensor | None, pretrained: bool = True
) -> DeepLabV3:
    """The network that a config describes, on the CPU.

    text_embeddings: (K,D), needed with ``classifier: text``; D gives the ASPP its channels.
    pretrained: start from config.backbone_weights; False where a checkpoint fills everything.
    """
    if config.classifier == "text":
        if text_embeddings is None:
            raise InputError("classifier: text needs text embeddings (key 'clip_text')")
        if len(text_embeddings) != num_classes:
            raise InputError(
                f"expected text embeddings of {num_classes} classes, found {len(text_embeddings)}; "
                "'clip_text' and 'class_file' do not belong together"
            )
        classifier = TextClassifier(text_embeddings)
        channels = text_embeddings.shape[1]
    else:
        channels = CONV_CLASSIFIER_CHANNELS
        classifier = ConvClassifier(channels, num_classes)
    backbone = named_resnet(config.backbone, config.output_stride)
    group_norm = config.norm == "group"
    if pretrained and group_norm and config.backbone_weights is not None:
        raise InputError(
            f"norm: group trains from scratch, but backbone_weights is {config.backbone_weights}: "
            "pretrained weights belong to batch norm; set backbone_weights=null, or norm=batch"
        )
    if pretrained and config.backbone_weights is not None:
        load_backbone_weights(backbone, config.backbone_weights, config.backbone_weights_partial)
    aspp = (ASPPV3 if config.aspp == "v3" else ASPPV2)(
        backbone.out_channels, channels, config.aspp_dilations, config.dropout
    )
    if group_norm:
        use_group_norm(backbone)
        use_group_norm(aspp)
    return DeepLabV3(backbone, aspp, classifier)


def build_network(model: nn.Module, config: Config, ranks: Ranks) -> TrainingNetwork:
    """`model` for training steps over all ranks."""
    return TrainingNetwork(
        model, ranks, config.seed, config.precision, config.channels_last, config.compile
    )


def build_optimizer(config: Config, model: nn.Module) -> torch.optim.SGD:
    """SGD with momentum; the learning rate of each step is `utils.schedule.poly_lr`."""
    return torch.optim.SGD(
        model.parameters(), config.lr, config.momentum, weight_decay=config.weight_decay
    )


def build_text(config: Config, classes: ClassTable, trust: bool = False) -> Tensor | None:
    """Text embeddings (K, D) for ``classifier: text``; `trust`: see `load_clip`."""
    if config.classifier != "text":
        return None
    return build_text_embeddings(config, classes, trust=trust)


def build_teacher(
    config: Config,
    classes: ClassTable,
    device: torch.device | str,
    trust: bool = False,
    bf16: bool | None = None,
    stored: bool = False,
) -> MaskCLIP:
    """CLIP and the text embeddings that the config names, on `device`. `trust`: see `load_clip`.

    `bf16`: for use under autocast, see `MaskCLIP`; None: as the config's precision says. `stored`:
    the teacher of the masks that gen_clip_masks.py stores, not the one of the training step; for
    ``templates: experts`` see `load_experts`. All ranks must call it.
    """
    if config.teacher.templates == "experts" and not stored:
        raise InputError(
            "teacher: templates experts are chosen on a whole data set, for masks that "
            "gen_clip_masks.py stores; in the training step use templates: average"
        )
    bf16 = config.precision == "bf16" if bf16 is None else bf16
    clip_model = first_on_each_machine(lambda: load_clip(config.clip_model, trust))
    text_embeddings = build_text_embeddings(config, classes, clip_model)
    options = build_maskclip_options(config, stored)
    return MaskCLIP(clip_model.visual, text_embeddings, options, bf16).to(device)


def build_maskclip_options(config: Config, stored: bool = False) -> MaskCLIPOptions:
    """How CLIP runs and how its scores become masks; `stored`: see `build_teacher`."""
    arithmetic, teacher = config.arithmetic, config.stored_teacher if stored else config.teacher
    shared = {f.name for f in dataclasses.fields(MaskCLIPOptions)} & vars(teacher).keys()
    return MaskCLIPOptions(
        activation=arithmetic.clip_activation,
        layer_norm_eps=arithmetic.clip_layer_norm_eps,
        padding=arithmetic.clip_padding,
        position_embedding=arithmetic.clip_position_embedding,
        key_smoothing_norm=arithmetic.key_smoothing_norm,
        label_filter=arithmetic.label_filter,
        **{part: getattr(teacher, part) for part in shared},
    )


def build_mask_record(config: Config, classes: ClassTable, text: Tensor) -> dict[str, Any]:
    """All but the data that decides CLIP's masks, for meta.json; `text` (K, D) embeddings.

    Options that came later are recorded where they differ from their defaults, so that folders of
    masks from before them can still be resumed.
    """
    defaults = dataclasses.asdict(MaskCLIPOptions()) | {"templates": "average"}
    options = dataclasses.asdict(build_maskclip_options(config, stored=True))
    options["templates"] = config.stored_teacher.templates
    return {
        "clip_model": model_name(config.clip_model),
        "clip_sha256": clip_sha256(config.clip_model),
        "text_sha256": sha256(text.numpy().tobytes()),
        "prompts": classes.prompts,
        "templates": load_templates(config.prompt_templates),
        "normalization": config.arithmetic.clip_normalization,
        "options": {
            key: value
            for key, value in options.items()
            if key in _ALWAYS_RECORDED or value != defaults[key]
        },
        "resize_to": config.image_size,
    }


def build_sampler(config: Config) -> LocalViewSampler:
    """Sampler of local views."""
    rules = config.arithmetic
    return LocalViewSampler(
        config.patch_size, config.local_resize, rules.local_view_per, rules.local_view_last_position
    )


def build_region_rules(config: Config) -> RegionRules:
    """Rules for making and averaging regions."""
    rules = config.arithmetic
    return RegionRules(rules.label_filter, rules.empty_region, config.sync_region_stats)


def build_criterion(config: Config) -> CARBCriterion:
    """The loss of stage 2."""
    if config.region_balance != "global":
        return ClassCriterion(config.region_balance, config.queue_size, build_region_rules(config))
    weight = None if config.region_weight == "adaptive" else config.region_weight
    return CARBCriterion(config.queue_size, weight, build_region_rules(config))
