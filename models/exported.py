"""A trained network as one file for use without this repository: ONNX, or torch.export's archive.

The file takes images as cameras and Pillow give them and returns scores of their size: the
normalisation, the resizing of the logits and the arg max are inside.

    image   uint8 (batch, height, width, 3), RGB
    logits  float32 (batch, classes, height, width)
    labels  uint8 (batch, height, width), the class of the highest logit

Documentation: docs.pytorch.org/docs/stable/onnx_export.html and .../export.html.
"""

import contextlib
import copy
import io
import json
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from datasets.transforms import IMAGENET_MEAN, IMAGENET_STD
from models.group_norm import standardize_once
from models.inference import resize
from utils.safe.errors import needs_package

INPUT, OUTPUTS = "image", ("logits", "labels")
OPSET = 18  # of the ONNX file; onnxruntime 1.14 and later read it
LEAST = 32  # pixels of a side that torch.export's file takes; ONNX files take any
METADATA = "metadata.json"  # name of the metadata inside torch.export's archive


def require_packages(file_format: str) -> None:
    """Raise InputError where a package is missing that writes or checks `file_format`."""
    if file_format != "onnx":
        return
    with needs_package("--format onnx", "onnx onnxscript onnxruntime"):
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401


class ExportedNetwork(nn.Module):
    """Images -> logits and labels, as the module's docstring says."""

    def __init__(self, model: nn.Module) -> None:
        """Copy `model`, in evaluation mode, so that nothing here changes it."""
        super().__init__()
        self.network = copy.deepcopy(model).cpu().to(memory_format=torch.contiguous_format)
        standardize_once(self.network)
        self.register_buffer("mean", torch.tensor(IMAGENET_MEAN).view(3, 1, 1))
        self.register_buffer("std", torch.tensor(IMAGENET_STD).view(3, 1, 1))
        self.eval().requires_grad_(False)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        normalized = (image.permute(0, 3, 1, 2).float() - self.mean) / self.std
        logits = resize(self.network(normalized), image.shape[1:3])
        return logits, logits.argmax(1).to(torch.uint8)


class _EverySecond(nn.Module):
    """Every second row and column of maps (B,C,h,w), from the first one."""

    def forward(self, maps: Tensor) -> Tensor:
        for axis in (2, 3):  # a slice, a view, would bind the file to some sizes too
            places = torch.arange(0, maps.shape[axis], 2, device=maps.device)
            maps = maps.index_select(axis, places)
        return maps


def write_onnx(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write the network as ONNX, with `metadata` as the model's metadata_props."""
    import onnx

    with quiet():
        program = torch.onnx.export(
            ExportedNetwork(model),
            (_example(),),
            dynamo=True,
            input_names=[INPUT],
            output_names=list(OUTPUTS),
            dynamic_shapes=({0: "batch", 1: "height", 2: "width"},),
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
    content = program.model_proto
    _forget_places(content)
    onnx.helper.set_model_props(content, metadata)
    path.write_bytes(content.SerializeToString())


def write_torch(model: nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write the network as torch.export's archive, with `metadata` as JSON in its METADATA."""
    network = ExportedNetwork(model)
    # A max pooling of stride 2 would bind the file to even or odd sizes, whichever it is traced
    # with (torch 2.12). Of stride 1, and every second of its values taken, it gives the same.
    network.network.backbone.maxpool = nn.Sequential(nn.MaxPool2d(3, 1, 1), _EverySecond())
    dynamic = torch.export.Dim.DYNAMIC
    shapes = {0: dynamic(min=1), 1: dynamic(min=LEAST), 2: dynamic(min=LEAST), 3: 3}
    with quiet():
        program = torch.export.export(network, (_example(),), dynamic_shapes=(shapes,))
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        content = io.BytesIO()  # as a file, it would need the suffix .pt2
        torch.export.save(program, content, extra_files={METADATA: json.dumps(metadata)})
    path.write_bytes(content.getbuffer())


def _example() -> Tensor:
    """What the network is traced with; a batch of 1 would become a constant."""
    return torch.zeros(2, 67, 90, 3, dtype=torch.uint8)


def _forget_places(content: Any) -> None:
    """Remove the exporter's notes from an ONNX model: stack traces with paths of this machine."""
    for part in (content.graph, *content.functions):
        for item in (part, *part.node, *getattr(part, "value_info", ())):
            item.ClearField("doc_string")
            item.ClearField("metadata_props")
    for item in (*content.graph.input, *content.graph.output, *content.graph.initializer):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """A context without the exporters' warnings to their own developers."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
