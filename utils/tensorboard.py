"""--tensorboard: the log lines and pictures of one fixed batch, to RUN_DIR/tensorboard."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import default_collate

from datasets.labels import IGNORE_INDEX, load_classes
from datasets.training import Draw, TrainingSet
from models.carb import filtered_prediction, split_regions, upsample
from models.maskclip import MaskCLIP
from models.views import LocalViewSampler, prepare_views
from utils.config import Config
from utils.distributed import Ranks, autocast
from utils.safe.errors import InputError
from utils.seed import AUGMENTATION, derive
from utils.visualize import IGNORED_COLOR, colourize, gallery

_IMAGES = 4


def summary_writer() -> type:
    """torch's SummaryWriter. Raises InputError where the package tensorboard is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            f"--tensorboard needs a package ({error}): pip install tensorboard"
        ) from None
    return SummaryWriter


class Board:
    """The open event file of one run, which has `step` steps behind it; rank 0 alone has one."""

    def __init__(self, run_dir: Path, step: int, config: Config) -> None:
        self.config = config
        self.classes = load_classes(config.class_file)
        # What an interrupted run wrote of the steps that are taken again is not shown twice.
        self.writer = summary_writer()(run_dir / "tensorboard", purge_step=step + 1)

    def scalars(self, line: dict[str, Any]) -> None:
        """A line of metrics.jsonl, each value under its own name."""
        for key, value in line.items():
            if isinstance(value, list):
                for name, share in zip(self.classes.names, value, strict=True):
                    self.writer.add_scalar(f"{key}/{name}", share, line["step"])
            elif key != "step":
                self.writer.add_scalar(key, value, line["step"])
        self.writer.flush()

    @torch.no_grad()
    def pictures(
        self,
        step: int,
        model: nn.Module,
        dataset: TrainingSet,
        ranks: Ranks,
        maskclip: MaskCLIP | None = None,
        sampler: LocalViewSampler | None = None,
    ) -> None:
        """Image, pseudo-mask, filtered prediction and consistent region; each time the same batch.

        Training notices nothing: `model` is back in training mode, the seeds are of their own.
        """
        config = self.config
        count = min(_IMAGES, config.batch_size, len(dataset))
        places = [i * len(dataset) // count for i in range(count)]
        seeds = [derive(config.seed, AUGMENTATION, place) for place in places]
        batch = default_collate([dataset[Draw(*draw)] for draw in zip(places, seeds, strict=True)])
        if maskclip is None:  # the masks are those of the files
            config = dataclasses.replace(config, views="base")
        views = prepare_views(batch, 0, config, ranks, maskclip, sampler)
        mask, labels = views.global_mask, views.image_labels
        supervised = not labels.any()  # then every class may be predicted
        model.eval()
        with autocast(ranks.device, config.precision):
            logits = model.forward(views.image)  # a compiled call would compile anew for this size
        model.train()
        labels = torch.ones_like(labels) if supervised else labels
        full_logits = upsample(logits, mask.shape[-2:])
        prediction = filtered_prediction(full_logits, labels, config.arithmetic.label_filter)
        consistent, _ = split_regions(mask, prediction)
        maps = torch.stack([mask, prediction, mask.where(consistent, IGNORE_INDEX)], 1).cpu()
        images = batch["image"].permute(0, 2, 3, 1)
        rows = [
            [image.numpy(), *(colourize(ids.numpy(), self.classes.palette) for ids in row)]
            for image, row in zip(images, maps, strict=True)
        ]
        target = "ground truth" if supervised else "pseudo-mask"
        titles = ["image", target, "prediction", "consistent region"]
        names = [*self.classes.names, "inconsistent or ignored"]
        palette = np.vstack([self.classes.palette, np.array([IGNORED_COLOR], np.uint8)])
        picture = gallery(rows, titles, names, palette)
        self.writer.add_image("fixed batch", picture, step, dataformats="HWC")
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()
