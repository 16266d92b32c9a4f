"""Size of a checkpoint file without the optimizer's state.

The official program also saves the frozen CLIP tower, its projection and the text embeddings.
"""

from argparse import Namespace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from benchmarks.harness import Options, Size, main_of
from benchmarks.inputs import CLASSES, official_config, random_text_embeddings, random_visual
from benchmarks.output import ROOT
from datasets.labels import load_classes
from models.build import build_criterion, build_model
from utils.config import Config
from utils.distributed import Ranks
from utils.run import Run

TARGET = 0.42


def cases(options: Options) -> list[Size]:
    config = official_config()
    model = build_model(config, CLASSES, random_text_embeddings(), pretrained=False)
    return [compared(config, model, random_visual())]


def compared(config: Config, model: nn.Module, visual: nn.Module) -> Size:
    """Sizes of both ways' checkpoints of `model`; the official one includes the CLIP tower."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        files = write_official(folder, model, visual), write_ours(folder, config, model)
        official, ours = ([file.stat().st_size / 1e6] for file in files)
    tensors = [*model.state_dict().values(), *visual.state_dict().values()]
    note = (
        f"{sum(tensor.numel() for tensor in tensors) / 1e6:.1f} million numbers in the official one"
    )
    return Size("checkpoint without the optimizer", official, ours, "MB", TARGET, note)


def write_official(folder: Path, model: nn.Module, visual: nn.Module) -> Path:
    state = {f"network.{key}": value for key, value in model.state_dict().items()}
    # The tower includes the projection.
    state |= {f"clip.{key}": value for key, value in visual.state_dict().items()}
    file = folder / "official.pth"
    torch.save({"meta": {}, "state_dict": state | {"counter": torch.zeros(1)}}, file)
    return file


def write_ours(folder: Path, config: Config, model: nn.Module) -> Path:
    """Write the checkpoint of a run whose optimizer has no momentum yet."""
    arguments = Namespace(run_dir=folder, overwrite=False)
    optimizer = torch.optim.SGD(model.parameters(), config.lr, config.momentum)
    run = Run(
        arguments,
        config,
        Ranks(0, 1, torch.device("cpu")),
        stage="carb",
        end=0,
        classes=load_classes(ROOT / config.class_file),
        inputs=lambda: None,
        parts={"model": model, "optimizer": optimizer, "criterion": build_criterion(config)},
    )
    run.save()
    return folder / "last.pt"


if __name__ == "__main__":
    main_of(cases)
