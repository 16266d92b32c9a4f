"""Readers of checkpoints, weights and text embeddings."""

import functools
import io
import shutil
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from datasets.labels import ClassTable, default_palette, load_classes
from models.backbone_weights import load_backbone_weights
from models.build import build_model
from models.carb import CARBCriterion
from models.clip_loading import load_clip, openai_clip
from models.deeplabv3 import ASPPV2, DeepLabV3, TextClassifier
from models.resnet import ResNet
from models.text import load_text_embeddings
from models.trained import load_trained
from tests.fuzz.reading import NAMES, ROOT, Target, allowed
from utils.checkpoint import FORMAT
from utils.config import config_from_dict, load_config
from utils.distributed import Ranks
from utils.run import Run, load_warmup

_RANKS = Ranks(0, 1, torch.device("cpu"))
_OFFICIAL = str(ROOT / "configs/official/cityscapes.yaml")
# What torch.save writes beside tensors: names that a pickle looks up, and its operations.
_PICKLED = (b"cbuiltins\neval\n", b"ctorch._utils\n_rebuild_tensor_v2\n", b"\x80\x02", b"R", b"b.")
_PICKLED += (b"ccollections\nOrderedDict\n", b"q\x01", b"h\x01", b"PK\x03\x04", b"PK\x05\x06", b"}")


def dump_tensors(value: Any) -> bytes:
    content = io.BytesIO()
    torch.save(value, content)
    return content.getvalue()


def _of_tensors(read: Callable[[Path], object], *values: Any) -> Target:
    old = io.BytesIO()
    torch.save(values[0], old, _use_new_zipfile_serialization=False)
    files = [*map(dump_tensors, values), old.getvalue()]
    return Target(".pt", read, files, _PICKLED, values, dump_tensors)


def checkpoint_targets() -> dict[str, Target]:
    """Our checkpoints, the authors', CLIP's weights, a backbone's, text embeddings."""
    torch.manual_seed(0)
    text = torch.nn.functional.normalize(torch.randn(3, 8), dim=1)
    changed = {
        "backbone": "resnet18_eighth",
        "aspp": "v2",
        "class_file": "none.yaml",
        "views": "base",
    }
    config = config_from_dict(
        load_config(ROOT / "configs/tiny_cpu.yaml").to_dict() | changed, "tiny"
    )
    table = ClassTable(NAMES, tuple((n,) for n in NAMES), default_palette(3))

    def parts() -> dict[str, Any]:
        model = build_model(config, 3, text, pretrained=False)
        optimizer = torch.optim.SGD(model.parameters(), 0.1, 0.9)
        return {"model": model, "optimizer": optimizer, "criterion": CARBCriterion(queue_size=2)}

    model, optimizer, criterion = parts().values()
    model(torch.randn(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    criterion.push(torch.tensor([1.0, 2.0]), torch.tensor([1, 1]))
    ours = {
        "format": FORMAT,
        "stage": "warmup",
        "step": config.warmup_steps,
        "model": dict(model.state_dict()),
        "optimizer": optimizer.state_dict(),
        "criterion": [criterion.state_dict()],
        "world_size": 1,
        "config": config.to_dict(),
        "class_names": list(NAMES),
        "palette": table.palette.tolist(),
    }
    theirs = DeepLabV3(
        ResNet(18, width=4, stem="v1c"),
        ASPPV2(32, 8, (6, 12, 18, 24), 0.0),
        TextClassifier(torch.randn(19, 8)),
    ).state_dict()
    state = {
        name.replace("classifier.", "decode_head.")
        .replace("aspp.convs.", "decode_head.decode_module.aspp_modules.")
        .replace(".0.weight", ".conv.weight" if name.startswith("aspp") else ".0.weight")
        .replace(".1.", ".bn." if name.startswith("aspp") else ".1."): value
        for name, value in theirs.items()
    }
    names = list(load_classes(ROOT / "datasets/classes/cityscapes.yaml").names)
    authors = {"state_dict": state, "meta": {"CLASSES": names, "epoch": 1}}
    clips = [_miniature((1, 1, 1, 1), None), _miniature(1, 8)]

    def resume(folder: Path) -> None:
        arguments = Namespace(run_dir=folder, overwrite=False)
        options = {"classes": table, "inputs": lambda: None, "parts": parts()}
        Run(arguments, config, _RANKS, stage="warmup", end=8, **options)

    def as_ours(path: Path) -> None:
        run = path.parent / "run"
        run.mkdir(exist_ok=True)
        shutil.copyfile(path, run / "last.pt")
        allowed(
            lambda: load_trained(path).model(torch.zeros(1, 3, 32, 32)),
            lambda: load_warmup(str(path), config, table, path.parent),
            lambda: resume(run),
        )

    def as_backbone(path: Path) -> None:
        load = functools.partial(load_backbone_weights, ResNet(18, 4), str(path))
        allowed(load, functools.partial(load, partial=True))

    embeddings = {"embeddings": text, "clip": "ViT-B-16", "templates": ["a {}"]}
    source = {"clip": "ViT-B-16", "templates": ["a {}"]}
    rows = io.BytesIO()
    np.save(rows, text.numpy())
    return {
        "checkpoint-ours": _of_tensors(as_ours, ours),
        "checkpoint-authors": _of_tensors(lambda p: load_trained(p, _OFFICIAL), authors),
        "checkpoint-clip": _of_tensors(lambda p: load_clip(str(p)), *clips),
        "checkpoint-backbone": _of_tensors(as_backbone, dict(ResNet(18, 4).state_dict())),
        "checkpoint-text": _of_tensors(
            lambda p: load_text_embeddings(p, 3, source=source), embeddings
        ),
        "checkpoint-rows": Target(
            ".npy", lambda p: load_text_embeddings(p, 3), [rows.getvalue()], _PICKLED
        ),
    }


def _miniature(layers: int | tuple[int, ...], patch: int | None) -> dict[str, torch.Tensor]:
    """The weights of a CLIP of 64 channels that knows ten words."""
    sizes = {"embed_dim": 16, "image_resolution": 32, "vision_width": 64 if patch else 8}
    model = openai_clip().model.CLIP(
        **sizes,
        vision_layers=layers,
        vision_patch_size=patch,
        context_length=77,
        vocab_size=10,
        transformer_width=64,
        transformer_heads=1,
        transformer_layers=1,
    )
    words = {} if patch else {"token_embedding.token_ids": torch.arange(10)}
    stride = {} if patch else {"output_stride": torch.tensor(8)}
    return dict(model.state_dict()) | words | stride
