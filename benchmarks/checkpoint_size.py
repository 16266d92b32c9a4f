"""Bytes of a checkpoint without the optimizer's state, written to a temporary folder.

The published program keeps the frozen CLIP tower, its projection and the text embeddings in the
network that it saves.
"""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from benchmarks.inputs import CLASSES, official_config, random_text_embeddings, random_visual
from benchmarks.timing import Options, Size
from datasets.labels import load_classes
from models.carb import CARBCriterion
from models.deeplabv3 import build_model
from utils.distributed import Ranks
from utils.resume import save
from utils.runlog import RunLog

TARGET = 0.42
ROOT = Path(__file__).resolve().parent.parent


def sizes(options: Options) -> list[Size]:
    config = official_config()
    model = build_model(config, CLASSES, random_text_embeddings(), pretrained=False)
    with TemporaryDirectory() as folder:
        theirs = Path(folder) / "published.pth"
        state = {f"network.{key}": value for key, value in model.state_dict().items()}
        # CLIP's tower holds the projection as well.
        state |= {f"clip.{key}": value for key, value in random_visual().state_dict().items()}
        counter = torch.zeros(1)
        torch.save({"meta": {}, "state_dict": state | {"counter": counter}}, theirs)
        published = theirs.stat().st_size / 1e6
        theirs.unlink()
        # A fresh optimizer has no momentum yet; everything else is as a run saves it.
        optimizer = torch.optim.SGD(model.parameters(), config.lr, config.momentum)
        criterion = CARBCriterion.from_config(config)
        classes = load_classes(ROOT / config.class_file)
        log = RunLog(Path(folder), config, Ranks(0, 1, torch.device("cpu")), 0, 0, "")
        log.close()
        save(Path(folder), ["last.pt"], "carb", 0, log, classes, model, optimizer, criterion)
        ours = (Path(folder) / "last.pt").stat().st_size / 1e6
    parameters = sum(value.numel() for value in state.values()) / 1e6
    note = f"{parameters:.1f} million numbers in theirs"
    return [Size("checkpoint without the optimizer", published, ours, "MB", TARGET, note)]


if __name__ == "__main__":
    from benchmarks.run import main_of

    main_of(sizes)
